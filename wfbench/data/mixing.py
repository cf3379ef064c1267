"""Mixup and CutMix through timm, with parameters that are a function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from timm.data import Mixup
from torch import Tensor

from wfbench.errors import InputError
from wfbench.recipe import MixSection


class Mixer(Protocol):
    """Mixes a batch with its mirror image: (images (B, C, H, W), classes (B)) to (images, soft targets (B, classes))."""

    def __call__(self, images: Tensor, classes: Tensor, *, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """The mixed batch; ``key`` is (seed, epoch, step)."""
        ...


def mixer_of(mix: MixSection, label_smoothing: float, num_classes: int, *, batch_size: int, world: int = 1) -> Mixer:
    """The recipe's mixing. ``key`` is (seed, epoch, step); the images are changed in place.

    `train_batches` gives each of ``world`` processes whole pairs of the batch, and all of them draw the same parameters; so
    they mix exactly as one process does.

    Raises:
        InputError: if the batch cannot be shared out in pairs, or each image has parameters of its own in several processes.
    """
    if batch_size % (2 * world):
        raise InputError(
            "the batch cannot be shared out in pairs",
            got=f"batch_size {batch_size} for {world} processes, and mix",
            expected=f"a multiple of {2 * world}",
            remedy="change batch_size or the number of processes, or set mix=null",
        )
    if mix.mode != "batch" and world > 1:
        raise InputError(
            "several processes mix whole batches only",
            got=f"mix.mode = {mix.mode} for {world} processes",
            expected="mix.mode = batch, or one process",
            remedy="set mix.mode=batch",
        )
    mixup = Mixup(
        mix.mixup,
        mix.cutmix,
        prob=mix.prob,
        switch_prob=mix.switch_prob,
        mode=mix.mode,
        label_smoothing=label_smoothing,
        num_classes=num_classes,
    )

    def mixed(images: Tensor, classes: Tensor, *, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        with _drawing_from(key):
            return mixup(images, classes)

    return mixed


@contextmanager
def _drawing_from(key: tuple[int, int, int]) -> Iterator[None]:
    """numpy's global state, from which timm draws, as it follows from ``key`` (and as no sample's augmentation has it)."""
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence((*key, 1)).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)
