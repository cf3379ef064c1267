"""A data set with a class for each pixel, and how the recipe's is opened."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from wfbench.data.dense.folder import open_folder
from wfbench.data.dense.scenes import Crops, SceneSplit
from wfbench.data.listing import Entry, Listing, list_data, numbers_entry
from wfbench.data.sources import dataset_directory, open_dataset
from wfbench.data.splits import Split
from wfbench.errors import InputError
from wfbench.recipe import DataSection, DenseDataSection


class DenseSplit(Protocol):
    """One split. It travels to worker processes, so it must pickle, and it holds no open file."""

    def __len__(self) -> int: ...

    def load(self, i: int, size: tuple[int, int], *, seed: int, epoch: int) -> tuple[Image.Image, np.ndarray]:
        """The ``i``-th image and its mask (H, W) of classes, or of `DenseDataset.ignore_index` where there is no label.

        Args:
            i: the index.
            size: what the batch is to have (H, W); sources with images of their own size give these.
            seed: of the run.
            epoch: of training; what is drawn follows from (seed, epoch, index).
        """
        ...

    def label(self, i: int) -> str:
        """What to call the ``i``-th image in an error."""
        ...

    def entries(self) -> tuple[Entry, ...]:
        """What it consists of, for a `Listing`."""
        ...


@dataclass(frozen=True)
class DenseDataset:
    """A named data set with a class for each pixel, in two splits.

    Attributes:
        name: for the records.
        classes: their names; the number of a class is its place.
        ignore_index: the number of a pixel without a label.
        passed_over: files that look like samples and are not read (see `wfbench.data.what_counts`).
    """

    name: str
    classes: tuple[str, ...]
    train: DenseSplit
    val: DenseSplit
    ignore_index: int
    passed_over: tuple[str, ...] = ()

    @functools.cached_property
    def listing(self) -> Listing:
        """What it consists of, masks included; its ``digest`` tells data from other data.

        Raises:
            InputError: if a file is gone or cannot be read.
        """
        return list_data(self.classes, self.train, self.val)


class DenseSubset:
    """Some images of a split."""

    def __init__(self, whole: DenseSplit, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, tuple(int(i) for i in indices)

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, i: int, size: tuple[int, int], *, seed: int, epoch: int) -> tuple[Image.Image, np.ndarray]:
        """The ``i``-th image and its mask."""
        return self.whole.load(self.indices[i], size, seed=seed, epoch=epoch)

    def label(self, i: int) -> str:
        """What to call the ``i``-th image."""
        return self.whole.label(self.indices[i])

    def entries(self) -> tuple[Entry, ...]:
        """Those of the whole split, and which images of it are taken."""
        return *self.whole.entries(), numbers_entry("(images taken)", self.indices)


def open_dense(data: DataSection) -> DenseDataset:
    """The data set of a recipe whose source has a class for each pixel. Images and masks in files are not read yet.

    ``data.limit`` and ``data.validation`` take and hold out images; of scenes, the crops that they are composed of.

    Raises:
        InputError: for another source, a missing folder, list of classes, image or mask, a limit beyond the data, or an
            ``ignore_index`` that is a class.
    """
    if data.dense is None:
        raise InputError(
            "the source has no class for each pixel",
            got=f"data.source = {data.source}",
            expected="scenes or folder-seg",
            remedy="set data.source",
        )
    found = _scenes(data, data.dense) if data.source == "scenes" else _folder(data, data.dense)
    if data.dense.ignore_index < len(found.classes):
        raise InputError(
            "ignore_index is a class",
            got=f"data.dense.ignore_index = {data.dense.ignore_index}, {len(found.classes)} classes",
            expected=f"{len(found.classes)} to 255",
            remedy="set data.dense.ignore_index; of more than 255 classes, none can be ignored",
        )
    return found


def _scenes(data: DataSection, dense: DenseDataSection) -> DenseDataset:
    if dense.crops == "fashion" and data.path is None:
        raise InputError(
            "the recipe does not say where the crops are",
            got="data.dense.crops = fashion, data.path = null",
            expected="a folder with the four idx files of Fashion-MNIST",
            remedy="--data scenes:PATH; nothing is downloaded",
        )
    plain = {"source": dense.crops, "dense": None}
    of = open_dataset(data.model_copy(update=plain))
    train, val = (SceneSplit(_crops(part), part.entries(), dense, held_out=part is of.val) for part in (of.train, of.val))
    name = f"scenes of {of.name} ({len(train):,} an epoch, {len(val):,} held out)"
    return DenseDataset(name, ("background", *of.classes), train, val, dense.ignore_index)


def _crops(split: Split) -> Crops:
    return Crops(np.stack([np.asarray(split.load(i)) for i in range(len(split))]), np.array(split.targets))


def _folder(data: DataSection, dense: DenseDataSection) -> DenseDataset:
    root = dataset_directory(data)
    classes, train, val, over = open_folder(root, dense, pass_over=data.pass_over, value_range=data.range)
    name = f"folder-seg {root.name} ({len(train):,} train, {len(val):,} held out)"
    if data.limit is None and data.validation is None:
        return DenseDataset(name, classes, train, val, dense.ignore_index, over)
    if data.limit is not None and data.limit > len(train):
        raise InputError(
            "so many training images cannot be taken",
            got=f"data.limit = {data.limit:,}",
            expected=f"at most {len(train):,}",
            remedy="change data.limit, or leave it out to take all",
        )
    order = np.random.default_rng(data.split_seed).permutation(len(train))
    if data.limit is not None:
        name += f", {data.limit:,} of {len(train):,} for training"
        order = order[: data.limit]
    if data.validation is None:
        return DenseDataset(name, classes, DenseSubset(train, np.sort(order).tolist()), val, dense.ignore_index, over)
    held = round(data.validation * len(order))
    if not 0 < held < len(order):
        raise InputError(
            "so few training images cannot be held out",
            got=f"data.validation = {data.validation:g} of {len(order):,} images",
            expected="an image on either side",
            remedy="change data.validation (of a sweep: tune.validation)",
        )
    rest, part = (DenseSubset(train, np.sort(some).tolist()) for some in (order[held:], order[:held]))
    return DenseDataset(name, classes, rest, part, dense.ignore_index, over)
