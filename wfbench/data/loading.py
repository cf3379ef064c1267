"""Batches whose every random draw is a function of (seed, epoch, sample index).

So a run that resumes inside an epoch sees exactly what the uninterrupted run saw, with any number of worker processes; and
several training processes see together exactly what one would.
"""

from __future__ import annotations

import atexit
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision import transforms

from wfbench.data.latents import LatentSplit
from wfbench.data.splits import UNREADABLE, Split
from wfbench.data.transforms import eval_transform, to_channels, train_transform
from wfbench.errors import InputError
from wfbench.recipe import DataSection

Batch = tuple[Tensor, Tensor]
#: Called with (file, reason) of a training image that was replaced, once for each file.
OnReplaced = Callable[[str, str], None]
#: Ctrl-C and pre-emption are for the training process, which finishes its step and saves.
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_Key = tuple[int, int]  # (epoch, sample index)
_Bad = tuple[str, str]  # what cannot be read, and why
_Sample = tuple[Tensor | None, int, list[_Bad]]  # no image: neither it nor, where that is allowed, any other of its class


class _Samples(TorchDataset):
    """Transformed samples by (epoch, index), a batch at a time."""

    def __init__(
        self, split: Split, transform: transforms.Compose, in_channels: int, seed: int, *, drawn: bool, replace: bool
    ) -> None:
        self.split, self.transform, self.in_channels, self.seed = split, transform, in_channels, seed
        self.drawn, self.replace = drawn, replace

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[_Key]) -> list[_Sample]:
        with _random_states_kept():  # once for each batch: keeping them costs more than seeding
            return [self._sample(*key) for key in keys]

    def _sample(self, epoch: int, index: int) -> _Sample:
        bad: list[_Bad] = []
        for i in self._candidates(index):
            try:
                image = to_channels(self.split.load(i), self.in_channels)
            except UNREADABLE as e:
                bad.append((self.split.label(i), f"{type(e).__name__}: {e}"))
                continue
            if self.drawn:
                _seed((self.seed, epoch, index))
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

    def __init__(self, split: LatentSplit, seed: int, hflip: float) -> None:
        self.split, self.seed, self.hflip = split, seed, hflip

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[_Key]) -> list[_Sample]:
        return [
            (self.split.draw(i, seed=self.seed, epoch=epoch, hflip=self.hflip), self.split.targets[i], []) for epoch, i in keys
        ]


def _seed(key: tuple[int, int, int]) -> None:
    """Put all that a transform draws from, of Python, numpy and torch, into states that follow from ``key`` alone."""
    draw = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(draw[0]))
    np.random.seed(int(draw[1]))
    torch.default_generator.manual_seed(int(draw[2]))


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """The process's own random states are afterwards as they were: the model draws from them."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _collate(samples: list[_Sample]) -> tuple[Batch | None, list[_Bad]]:
    """The batch, and all that could not be read; if there is no image for a sample, no batch, and what stands for it last."""
    images = []
    bad: list[_Bad] = []
    for image, _, unreadable in samples:
        bad += unreadable
        if image is None:
            return None, bad
        images.append(image)
    return (torch.stack(images), torch.tensor([y for _, y, _ in samples])), bad


class _TrainBatches:
    """Keys of every batch from (epoch, step) to the end of training; each epoch is a permutation of its own.

    Of each batch it gives the positions of this process.
    """

    def __init__(self, samples: int, batch: int, seed: int, epochs: int, start: tuple[int, int], positions: list[int]) -> None:
        self.samples, self.batch, self.seed, self.epochs, self.start = samples, batch, seed, epochs, start
        self.positions = positions

    def __iter__(self) -> Iterator[list[_Key]]:
        first_epoch, first_step = self.start
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            for step in range(first_step if epoch == first_epoch else 0, self.samples // self.batch):
                yield [(epoch, int(order[step * self.batch + p])) for p in self.positions]


def positions(batch: int, rank: int, world: int) -> list[int]:
    """The positions of a batch that process ``rank`` holds.

    Mixing pairs position i with B - 1 - i. A process holds a run of positions from the first half and their mirror images, in
    order, so that mirroring its own part makes the same pairs. An odd part has one image of the middle too.
    """
    part = batch // world
    low, high, middle = rank * (part // 2), (rank + 1) * (part // 2), world * (part // 2) + rank
    return [*range(low, high), *range(middle, middle + part % 2), *range(batch - high, batch - low)]


def steps_per_epoch(split: Split | LatentSplit, batch_size: int) -> int:
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
    _check_shares(batch_size, world)
    transform, drawn = train_transform(data, image_size, in_channels)
    samples = _Samples(split, transform, in_channels, seed, drawn=drawn, replace=data.on_bad_image == "skip")
    keys = _TrainBatches(len(split), batch_size, seed, epochs, start, positions(batch_size, rank, world))
    return _read(samples, keys, data.workers, on_replaced or _warn)


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
    transform = eval_transform(data, image_size, in_channels)
    samples = _Samples(split, transform, in_channels, 0, drawn=False, replace=False)
    return _read(samples, _in_order(range(len(split)), batch_size, rank, world), data.workers, _warn)


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
    _check_shares(batch_size, world)
    keys = _TrainBatches(len(split), batch_size, seed, epochs, start, positions(batch_size, rank, world))
    return _read(_LatentDraws(split, seed, data.hflip), keys, data.workers, _warn)


def held_out_latents(
    split: LatentSplit, data: DataSection, indices: Sequence[int], *, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """The latents ``indices`` once, in order, as `eval_batches`; drawn by seed 0, whatever the run's, and never flipped."""
    return _read(_LatentDraws(split, 0, 0.0), _in_order(indices, batch_size, rank, world), data.workers, _warn)


def _check_shares(batch_size: int, world: int) -> None:
    if batch_size % world:
        raise InputError(
            "the batch cannot be shared out",
            got=f"batch_size {batch_size} for {world} processes",
            expected=f"a multiple of {world}",
            remedy="change batch_size or the number of processes",
        )


def _in_order(indices: Sequence[int], batch_size: int, rank: int, world: int) -> list[list[_Key]]:
    """Keys of every world-th batch of the samples ``indices``."""
    batches = [[(0, i) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size)]
    return batches[rank::world]


def _read(
    samples: _Samples | _LatentDraws, keys: Iterable[list[_Key]], workers: int, on_replaced: OnReplaced
) -> Iterator[Batch]:
    """The batches of ``keys``, by one loader, whose workers live as long as this iterator."""
    loader: DataLoader = DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # else the loader would draw from the model's random state
    )
    with _signals_held():  # a worker inherits that, and so lives until it ignores them
        batches = iter(loader)
    end = partial(_end_workers, batches)
    atexit.register(end)
    known: set[str] = set()
    try:
        for batch, bad in batches:
            if batch is None:
                raise _unreadable(bad, isinstance(samples, _Samples) and samples.replace)
            for name, reason in bad:
                if name not in known:
                    known.add(name)
                    on_replaced(name, reason)
            yield batch[0], batch[1]
    finally:
        end()
        atexit.unregister(end)


def _end_workers(batches: object) -> None:
    """End them now, though a traceback may hold the iterator: at its exit Python would send SIGTERM and wait for ever."""
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()


def _unreadable(bad: list[_Bad], replace: bool) -> InputError:
    name, reason = bad[-1]
    return InputError(
        "no image of a class can be read" if replace else "an image cannot be read",
        got=f"{name} ({reason})",
        expected="an intact image file",
        remedy="repair or remove the file",
    )


def _warn(name: str, reason: str) -> None:
    warnings.warn(f"{name} cannot be read and is replaced by another image of its class ({reason})", stacklevel=3)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals for the training process wait until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_signals(worker: int) -> None:
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
