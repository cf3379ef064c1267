"""Data: sources, and batches whose draws are a function of (seed, epoch, sample index)."""

from wfbench.data.loading import Batch, eval_batches, steps_per_epoch, train_batches
from wfbench.data.sources import Dataset, Split, digits_arrays, open_dataset

__all__ = ["Batch", "Dataset", "Split", "digits_arrays", "eval_batches", "open_dataset", "steps_per_epoch", "train_batches"]
