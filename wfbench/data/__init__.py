"""Data: sources, and batches whose draws are a function of (seed, epoch, sample index)."""

from wfbench.data.arrays import digits_arrays
from wfbench.data.loading import Batch, Told, eval_batches, steps_per_epoch, train_batches
from wfbench.data.mixing import Mixer, mixer_of
from wfbench.data.sources import open_dataset
from wfbench.data.splits import Dataset, Split

__all__ = [
    "Batch",
    "Dataset",
    "Mixer",
    "Split",
    "Told",
    "digits_arrays",
    "eval_batches",
    "mixer_of",
    "open_dataset",
    "steps_per_epoch",
    "train_batches",
]
