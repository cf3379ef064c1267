"""Batches whose every random draw is a function of (seed, epoch, sample index).

So a run that resumes inside an epoch sees exactly what the uninterrupted run saw, with any number of worker processes.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from wfbench.data.sources import UNREADABLE, Split
from wfbench.errors import InputError
from wfbench.recipe import DataSection

Batch = tuple[Tensor, Tensor]
_Key = tuple[int, int]  # (epoch, sample index)


@dataclass(frozen=True)
class _Unreadable:
    label: str
    reason: str


class _Samples(TorchDataset):
    """Transformed samples by (epoch, index)."""

    def __init__(self, split: Split, transform: transforms.Compose, in_channels: int, seed: int, drawn: bool) -> None:
        self.split, self.transform, self.seed, self.drawn = split, transform, seed, drawn
        self.mode = "L" if in_channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: _Key) -> tuple[Tensor, int] | _Unreadable:
        epoch, index = key
        try:
            image = self.split.load(index).convert(self.mode)
        except UNREADABLE as e:
            return _Unreadable(self.split.label(index), f"{type(e).__name__}: {e}")
        x = _drawn(self.transform, image, (self.seed, epoch, index)) if self.drawn else self.transform(image)
        return x, self.split.targets[index]


def _drawn(transform: transforms.Compose, image: Image.Image, key: tuple[int, int, int]) -> Tensor:
    """The transform under random states that follow from ``key`` alone; the process's own are left as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    draw = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(draw[0]))
    np.random.seed(int(draw[1]))
    torch.default_generator.manual_seed(int(draw[2]))
    try:
        return transform(image)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _collate(samples: list[tuple[Tensor, int] | _Unreadable]) -> Batch | _Unreadable:
    good = []
    for sample in samples:
        if isinstance(sample, _Unreadable):
            return sample
        good.append(sample)
    return torch.stack([x for x, _ in good]), torch.tensor([y for _, y in good])


class _TrainBatches:
    """Keys of every batch from (epoch, step) to the end of training; each epoch is a permutation of its own."""

    def __init__(self, samples: int, batch: int, seed: int, epochs: int, start: tuple[int, int]) -> None:
        self.samples, self.batch, self.seed, self.epochs, self.start = samples, batch, seed, epochs, start

    def __iter__(self) -> Iterator[list[_Key]]:
        first_epoch, first_step = self.start
        for epoch in range(first_epoch, self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
            for step in range(first_step if epoch == first_epoch else 0, self.samples // self.batch):
                yield [(epoch, int(i)) for i in order[step * self.batch : (step + 1) * self.batch]]


def steps_per_epoch(split: Split, batch_size: int) -> int:
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
) -> Iterator[Batch]:
    """Batches (images (B, C, H, W), classes (B)) from epoch and step ``start`` to the end of training.

    Raises:
        InputError: when it comes to an image that cannot be read, naming it.
    """
    steps = [transforms.Resize(image_size, transforms.InterpolationMode.BICUBIC)]
    if data.crop_padding:
        steps.append(transforms.RandomCrop(image_size, padding=data.crop_padding))
    if data.hflip:
        steps.append(transforms.RandomHorizontalFlip(data.hflip))
    samples = _Samples(split, _normalised(steps, data, in_channels), in_channels, seed, drawn=len(steps) > 1)
    keys = _TrainBatches(len(split), batch_size, seed, epochs, start)
    return _read(samples, keys, data.workers)


def eval_batches(
    split: Split, data: DataSection, image_size: tuple[int, int], in_channels: int, *, batch_size: int
) -> Iterator[Batch]:
    """Every sample once, in order; the last batch may be smaller.

    Raises:
        InputError: when it comes to an image that cannot be read, naming it.
    """
    resize = [transforms.Resize(image_size, transforms.InterpolationMode.BICUBIC)]
    samples = _Samples(split, _normalised(resize, data, in_channels), in_channels, 0, drawn=False)
    keys = [[(0, i) for i in range(k, min(k + batch_size, len(split)))] for k in range(0, len(split), batch_size)]
    return _read(samples, keys, data.workers)


def _normalised(steps: list, data: DataSection, in_channels: int) -> transforms.Compose:
    if len(data.mean) not in (1, in_channels):
        raise InputError(
            "mean and std do not fit the images",
            got=f"{len(data.mean)} values for {in_channels} channels",
            expected=f"1 or {in_channels}",
            remedy="set data.mean and data.std",
        )
    mean, std = (list(v) * (in_channels if len(v) == 1 else 1) for v in (data.mean, data.std))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])


def _read(samples: _Samples, keys: object, workers: int) -> Iterator[Batch]:
    loader: DataLoader = DataLoader(
        samples,
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupt,
        generator=torch.Generator(),  # else the loader would draw from the model's random state
    )
    for batch in loader:
        if isinstance(batch, _Unreadable):
            raise InputError(
                "an image cannot be read",
                got=f"{batch.label} ({batch.reason})",
                expected="an intact image file",
                remedy="repair or remove the file",
            )
        yield batch


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C is for the training process, which finishes its step and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
