"""Data: sources, and batches whose draws are a function of (seed, epoch, sample index)."""

from wfbench.data.arrays import digits_arrays
from wfbench.data.dense import DenseDataset, DenseSplit, dense_eval_batches, dense_train_batches, open_dense
from wfbench.data.latents import Latents, LatentSplit, open_latents
from wfbench.data.listing import Listing
from wfbench.data.loading import eval_batches, held_out_latents, latent_batches, steps_per_epoch, train_batches
from wfbench.data.mixing import Mixer, mixer_of
from wfbench.data.probes import ProbeDataset, open_probe, probe_canvases, probe_train_batches
from wfbench.data.reading import Batch, OnReplaced, positions
from wfbench.data.sources import open_dataset
from wfbench.data.splits import Dataset, Split, Subset

__all__ = [
    "Batch",
    "Dataset",
    "DenseDataset",
    "DenseSplit",
    "LatentSplit",
    "Latents",
    "Listing",
    "Mixer",
    "ProbeDataset",
    "Split",
    "Subset",
    "OnReplaced",
    "dense_eval_batches",
    "dense_train_batches",
    "digits_arrays",
    "eval_batches",
    "held_out_latents",
    "latent_batches",
    "mixer_of",
    "open_dataset",
    "open_dense",
    "open_latents",
    "open_probe",
    "positions",
    "probe_canvases",
    "probe_train_batches",
    "steps_per_epoch",
    "train_batches",
]
