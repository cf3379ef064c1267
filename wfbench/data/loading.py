"""Batches whose every random draw is a function of (seed, epoch, sample index).

So a run that resumes inside an epoch sees exactly what the uninterrupted run saw, with any number of worker processes; and
several training processes see together exactly what one would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import numpy as np
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from wfbench.data.in_memory import eval_in_memory, train_in_memory
from wfbench.data.latents import LatentSplit
from wfbench.data.reading import (
    Bad,
    Batch,
    Key,
    OnReplaced,
    Sample,
    Samples,
    TrainKeys,
    check_shares,
    in_order,
    positions,
    random_states_kept,
    read,
    seed_draws,
    warn_replaced,
)
from wfbench.data.splits import UNREADABLE, Split
from wfbench.data.transforms import eval_transform, lean, to_channels, train_transform
from wfbench.errors import InputError
from wfbench.recipe import DataSection


class _Samples(TorchDataset):
    """Transformed samples by (epoch, index), a batch at a time, each on its own: `in_memory` has the same ones at once."""

    def __init__(
        self, split: Split, transform: transforms.Compose, in_channels: int, seed: int, *, drawn: bool, replace: bool
    ) -> None:
        self.split, self.transform, self.in_channels, self.seed = split, lean(transform), in_channels, seed
        self.drawn, self.replace = drawn, replace

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[Key]) -> list[Sample]:
        with random_states_kept():  # once for each batch: keeping them costs more than seeding
            return [self._sample(*key) for key in keys]

    def _sample(self, epoch: int, index: int) -> Sample:
        bad: list[Bad] = []
        for i in self._candidates(index):
            try:
                image = to_channels(self.split.load(i), self.in_channels)
            except InputError as e:  # a ValueError, but no damage: a picture without an agreed meaning
                return e
            except UNREADABLE as e:
                bad.append((self.split.label(i), f"{type(e).__name__}: {e}"))
                continue
            if self.drawn:
                seed_draws((self.seed, epoch, index))
            return self.transform(image), self.split.targets[index], bad
        return None, self.split.targets[index], bad

    def _candidates(self, index: int) -> Iterator[int]:
        """The image itself; then, where that is allowed, the next ones of its class, around to those before it."""
        yield index
        if self.replace:
            same = np.flatnonzero(np.array(self.split.targets) == self.split.targets[index])
            yield from (int(i) for i in (*same[same > index], *same[same < index]))


class _LatentDraws(TorchDataset):
    """Latents by (epoch, index), drawn from their posteriors, a batch at a time."""

    replace = False

    def __init__(self, split: LatentSplit, seed: int, hflip: float) -> None:
        self.split, self.seed, self.hflip = split, seed, hflip

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[Key]) -> list[Sample]:
        return [
            (self.split.draw(i, seed=self.seed, epoch=epoch, hflip=self.hflip), self.split.targets[i], []) for epoch, i in keys
        ]


def steps_per_epoch(split: Sized, batch_size: int) -> int:
    """Whole batches in an epoch; the rest of a permutation is dropped, another rest each epoch.

    Raises:
        InputError: if there is not even one.
    """
    steps = len(split) // batch_size
    if not steps:
        raise InputError(
            "the batch is larger than the data",
            got=f"batch_size {batch_size} for {len(split)} images",
            expected=f"at most {len(split)}",
            remedy="set batch_size lower",
        )
    return steps


def train_batches(
    split: Split,
    data: DataSection,
    image_size: tuple[int, int],
    in_channels: int,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start: tuple[int, int] = (0, 0),
    rank: int = 0,
    world: int = 1,
    on_replaced: OnReplaced | None = None,
) -> Iterator[Batch]:
    """Batches (images (B, C, H, W), classes (B)) from epoch and step ``start`` to the end of training.

    Args:
        batch_size: of all ``world`` processes together; process ``rank`` gets its part of every batch.
        on_replaced: what to call, once for each file, with a file that could not be read and was replaced, and why; without it,
            there is a warning.

    Raises:
        InputError: for settings that do not fit; and when it comes to an image that cannot be read, naming it, unless
            ``data.on_bad_image`` is "skip".
    """
    check_shares(batch_size, world)
    transform, drawn = train_transform(data, image_size, in_channels)
    samples: Samples | None = train_in_memory(split, data, image_size, in_channels, seed)
    if samples is None:
        samples = _Samples(split, transform, in_channels, seed, drawn=drawn, replace=data.on_bad_image == "skip")
    keys = TrainKeys(len(split), batch_size, seed, epochs, start, positions(batch_size, rank, world))
    return read(samples, keys, data.workers, on_replaced or warn_replaced)


def eval_batches(
    split: Split,
    data: DataSection,
    image_size: tuple[int, int],
    in_channels: int,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Every sample once, in order; the last batch may be smaller. Of ``world`` processes, ``rank`` gets every world-th batch.

    Raises:
        InputError: for settings that do not fit, and when it comes to an image that cannot be read, naming it.
    """
    samples: Samples | None = eval_in_memory(split, data, image_size, in_channels)
    if samples is None:
        samples = _Samples(split, eval_transform(data, image_size, in_channels), in_channels, 0, drawn=False, replace=False)
    return read(samples, in_order(range(len(split)), batch_size, rank, world), data.workers, warn_replaced)


def latent_batches(
    split: LatentSplit,
    data: DataSection,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start: tuple[int, int] = (0, 0),
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Batches (latents (B, c, h, w), classes (B)) from epoch and step ``start`` to the end of training, as `train_batches`.

    The draw from the posterior, and with probability ``data.hflip`` the mirror image, follow from (seed, epoch, index).

    Raises:
        InputError: as `train_batches`, and when it comes to a shard that cannot be read.
    """
    check_shares(batch_size, world)
    keys = TrainKeys(len(split), batch_size, seed, epochs, start, positions(batch_size, rank, world))
    return read(_LatentDraws(split, seed, data.hflip), keys, data.workers, warn_replaced)


def held_out_latents(
    split: LatentSplit, data: DataSection, indices: Sequence[int], *, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The latents ``indices`` once, in order, as `eval_batches`; drawn by seed 0, whatever the run's, and never flipped."""
    return read(_LatentDraws(split, 0, 0.0), in_order(indices, batch_size, rank, world), data.workers, warn_replaced)
