"""Batches of keyed samples, in one process or by workers: what every kind of sample shares.

A sample is made from a key (epoch, index), and every random draw in it follows from (seed, epoch, index).
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from wfbench import signals
from wfbench.errors import InputError

Batch = tuple[Tensor, Tensor]
#: Called with (file, reason) of a training image that was replaced, once for each file.
OnReplaced = Callable[[str, str], None]
#: (epoch, sample index).
Key = tuple[int, int]
#: What cannot be read, and why.
Bad = tuple[str, str]
#: Input and target. No input: neither it nor, where that is allowed, any other in its place could be read. An InputError
#: instead: what was read is not what it should be.
Sample = tuple[Tensor | None, int | Tensor, list[Bad]] | InputError
#: Ctrl-C and pre-emption are for the training process, which finishes its step and saves.
_NOT_FOR_WORKERS = signals.STOP


class Whole(NamedTuple):
    """A batch that was made at once, of samples that can always be made."""

    inputs: Tensor
    targets: Tensor


class Samples(Protocol):
    """Makes samples, a batch at a time. It travels to worker processes."""

    #: Whether another sample takes the place of one that cannot be read.
    replace: bool

    def __getitems__(self, keys: list[Key]) -> list[Sample] | Whole:
        """The samples of these keys."""
        ...


def seed_draws(key: tuple[int, int, int]) -> None:
    """Put all that a transform draws from, of Python, numpy and torch, into states that follow from ``key`` alone."""
    draw = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(draw[0]))
    np.random.seed(int(draw[1]))
    torch.default_generator.manual_seed(int(draw[2]))


@contextmanager
def random_states_kept() -> Iterator[None]:
    """The process's own random states are afterwards as they were: the model draws from them."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _collate(samples: list[Sample] | Whole) -> tuple[Batch | InputError | None, list[Bad]]:
    """The batch, and all that could not be read; if there is no image for a sample, no batch, and what stands for it last."""
    if isinstance(samples, Whole):
        return (samples.inputs, samples.targets), []
    images, targets = [], []
    bad: list[Bad] = []
    for sample in samples:
        if isinstance(sample, InputError):
            return sample, bad
        image, target, unreadable = sample
        bad += unreadable
        if image is None:
            return None, bad
        images.append(image)
        targets.append(torch.as_tensor(target))
    return (torch.stack(images), torch.stack(targets)), bad


class TrainKeys:
    """Keys of every batch from (epoch, step) to the end of training; each epoch is a permutation of its own.

    Of each batch it gives the positions of this process.
    """

    def __init__(self, samples: int, batch: int, seed: int, epochs: int, start: tuple[int, int], positions: list[int]) -> None:
        self.samples, self.batch, self.seed, self.epochs, self.start = samples, batch, seed, epochs, start
        self.positions = positions

    def __iter__(self) -> Iterator[list[Key]]:
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


def check_shares(batch_size: int, world: int) -> None:
    """Fail unless the processes can share a batch equally."""
    if batch_size % world:
        raise InputError(
            "the batch cannot be shared out",
            got=f"batch_size {batch_size} for {world} processes",
            expected=f"a multiple of {world}",
            remedy="change batch_size or the number of processes",
        )


def in_order(indices: Sequence[int], batch_size: int, rank: int, world: int) -> list[list[Key]]:
    """Keys of every world-th batch of the samples ``indices``."""
    batches = [[(0, i) for i in indices[k : k + batch_size]] for k in range(0, len(indices), batch_size)]
    return batches[rank::world]


def read(samples: Samples, keys: Iterable[list[Key]], workers: int, on_replaced: OnReplaced) -> Iterator[Batch]:
    """The batches of ``keys``, by one loader, whose workers live as long as this iterator."""
    loader: DataLoader = DataLoader(
        samples,  # type: ignore[arg-type]  # it has what batches are fetched by
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_become_worker,
        generator=torch.Generator(),  # else the loader would draw from the model's random state
    )
    with _signals_held():  # a worker inherits that, and so lives until it ignores them
        batches = iter(loader)
    end = partial(_end_workers, batches)
    atexit.register(end)
    known: set[str] = set()
    try:
        for batch, bad in batches:
            if isinstance(batch, InputError):
                raise batch
            if batch is None:
                raise _unreadable(bad, samples.replace)
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


def _unreadable(bad: list[Bad], replace: bool) -> InputError:
    name, reason = bad[-1]
    return InputError(
        "no image of a class can be read" if replace else "an image cannot be read",
        got=f"{name} ({reason})",
        expected="an intact image file",
        remedy="repair or remove the file",
    )


def warn_replaced(name: str, reason: str, by: str = "another image of its class") -> None:
    """Say that an image was replaced, and by what, where nobody else takes note of it."""
    warnings.warn(f"{name} cannot be read and is replaced by {by} ({reason})", stacklevel=3)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals for the training process wait until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become_worker(worker: int) -> None:
    """Ignore signals for the training process, and end with it, however it ends.

    A PyTorch worker looks whether its parent has changed since it began to look: one whose parent was killed before that
    would wait for work for ever.
    """
    for number in _NOT_FOR_WORKERS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "not in a worker"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(process: BaseProcess) -> None:
    process.join()
    os._exit(1)
