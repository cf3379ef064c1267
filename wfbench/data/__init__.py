"""Data: sources, and batches whose draws are a function of (seed, epoch, sample index)."""

from wfbench.data.arrays import digits_arrays
from wfbench.data.latents import Latents, LatentSplit, open_latents
from wfbench.data.listing import Listing
from wfbench.data.loading import (
    Batch,
    OnReplaced,
    eval_batches,
    held_out_latents,
    latent_batches,
    positions,
    steps_per_epoch,
    train_batches,
)
from wfbench.data.mixing import Mixer, mixer_of
from wfbench.data.sources import open_dataset
from wfbench.data.splits import Dataset, Split, Subset

__all__ = [
    "Batch",
    "Dataset",
    "LatentSplit",
    "Latents",
    "Listing",
    "Mixer",
    "Split",
    "Subset",
    "OnReplaced",
    "digits_arrays",
    "eval_batches",
    "held_out_latents",
    "latent_batches",
    "mixer_of",
    "open_dataset",
    "open_latents",
    "positions",
    "steps_per_epoch",
    "train_batches",
]
