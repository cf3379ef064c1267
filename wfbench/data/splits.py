"""What a source is made of: splits of (image, class) pairs with random access, which travel to worker processes."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from wfbench.data.listing import Entry, Listing, array_entry, hash_entries, image_entries, list_data, numbers_entry
from wfbench.errors import InputError

#: Bytes of decoded images that a folder may keep in memory: CIFAR-10's training images take 154 million.
DECODED = 2**28
#: What reading a damaged image raises.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class Split(Protocol):
    """One split. It travels to worker processes, so it must pickle, and it holds no open file."""

    targets: tuple[int, ...]

    def __len__(self) -> int: ...

    def load(self, i: int) -> Image.Image:
        """The i-th image, decoded, whose class is ``targets[i]``."""
        ...

    def label(self, i: int) -> str:
        """What to call the i-th image in an error."""
        ...

    def entries(self) -> tuple[Entry, ...]:
        """What it consists of, for a `Listing`."""
        ...


@dataclass(frozen=True)
class Dataset:
    """A named data set in two splits."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split

    @functools.cached_property
    def listing(self) -> Listing:
        """What it consists of; its ``digest`` tells data from other data, whatever they are called and wherever they lie.

        Raises:
            InputError: if a file is gone or cannot be read.
        """
        return list_data(self.classes, self.train, self.val)


@dataclass(frozen=True)
class Fitted:
    """Images (n, H, W, C) of an `Arrays` made ready for a model: how, and which of them are there."""

    name: tuple[object, ...]
    images: np.ndarray
    there: np.ndarray


class Arrays:
    """A split in memory: uint8 images (n, H, W) or (n, H, W, 3)."""

    def __init__(self, noun: str, images: np.ndarray, classes: np.ndarray) -> None:
        self.noun, self.images = noun, images
        self.targets = tuple(int(c) for c in classes)
        #: What was last asked for, so that every image is resized once.
        self.fitted: Fitted | None = None

    @property
    def channels(self) -> int:
        """1 (grey) or 3."""
        return 1 if self.images.ndim == 3 else self.images.shape[3]

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, i: int) -> Image.Image:
        """The i-th image, decoded."""
        return Image.fromarray(self.images[i])

    def label(self, i: int) -> str:
        """What to call the i-th image."""
        return f"{self.noun} {i}"

    def entries(self) -> tuple[Entry, ...]:
        """The bytes of images and classes."""
        return array_entry("images", self.images), numbers_entry("classes", self.targets)


class Encoded(ABC):
    """A split of encoded images (JPEG, PNG, ...)."""

    def __init__(self, targets: Sequence[int]) -> None:
        self.targets = tuple(int(c) for c in targets)

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def read(self, i: int) -> bytes:
        """The i-th image as it is stored."""

    @abstractmethod
    def label(self, i: int) -> str:
        """What to call the i-th image."""

    @abstractmethod
    def entries(self) -> tuple[Entry, ...]:
        """What it consists of, for a `Listing`."""

    def load(self, i: int) -> Image.Image:
        """The i-th image, decoded."""
        image = Image.open(io.BytesIO(self.read(i)))
        image.load()
        return image


class Files(Encoded):
    """A split of image files under a folder, which names in a `Listing` are relative to."""

    def __init__(self, paths: Sequence[str], targets: Sequence[int], folder: Path) -> None:
        super().__init__(targets)
        self.paths, self.folder = list(paths), folder
        self._decoded: Arrays | None = None
        self._there = np.zeros(len(self), dtype=bool)
        self._alike = True

    def decoded(self, places: np.ndarray) -> Arrays | None:
        """The same images in memory, of which those at ``places`` are there, and stay for whoever asks next.

        None where together they would take more than `DECODED` bytes, one cannot be read, or they are not all grey or all RGB
        and of one size.
        """
        for i in places[~self._there[places]]:
            if not (self._alike and self._keep(i)):
                self._alike, self._decoded = False, None
                return None
        return self._decoded if self._alike else None

    def _keep(self, i: int) -> bool:
        try:
            image = self.load(i)
        except UNREADABLE:
            return False
        pixels = np.asarray(image)
        if image.mode not in ("L", "RGB") or len(self) * pixels.size > DECODED:
            return False
        if self._decoded is None:
            self._decoded = Arrays("image", np.empty((len(self), *pixels.shape), np.uint8), np.array(self.targets))
        if pixels.shape != self._decoded.images.shape[1:]:
            return False
        self._decoded.images[i], self._there[i] = pixels, True
        return True

    def read(self, i: int) -> bytes:
        """The i-th image as it is stored."""
        return Path(self.paths[i]).read_bytes()

    def label(self, i: int) -> str:
        """What to call the i-th image."""
        return self.paths[i]

    def entries(self) -> tuple[Entry, ...]:
        """Every file's name, which begins with its class, and size; of some also a hash."""
        return image_entries(self.paths, self.folder)


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an archive: where its bytes are."""

    archive: str
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes; the archive is opened for this read alone, so processes share no position in it."""
        with open(self.archive, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Members(Encoded):
    """A split of images inside tar archives."""

    def __init__(self, members: Sequence[Member], targets: Sequence[int]) -> None:
        super().__init__(targets)
        self.members = list(members)

    def read(self, i: int) -> bytes:
        """The i-th image as it is stored."""
        return self.members[i].read()

    def label(self, i: int) -> str:
        """What to call the i-th image."""
        return f"{self.members[i].archive}: {self.members[i].name}"

    def entries(self) -> tuple[Entry, ...]:
        """Every archive's hash."""
        archives = sorted({Path(member.archive) for member in self.members})
        return hash_entries(archives, archives[0].parent)


class Subset:
    """Some images of a split."""

    def __init__(self, whole: Split, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, tuple(int(i) for i in indices)
        self.targets = tuple(whole.targets[i] for i in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, i: int) -> Image.Image:
        """The i-th image, decoded."""
        return self.whole.load(self.indices[i])

    def label(self, i: int) -> str:
        """What to call the i-th image."""
        return self.whole.label(self.indices[i])

    def entries(self) -> tuple[Entry, ...]:
        """Those of the whole split, and which images of it are taken."""
        return *self.whole.entries(), numbers_entry("(images taken)", self.indices)


def whole_of(split: Split) -> tuple[Split, np.ndarray]:
    """The split that a split is of, and which of its images it has."""
    places = np.arange(len(split))
    while isinstance(split, Subset):
        places, split = np.array(split.indices, dtype=np.int64)[places], split.whole
    return split, places


def take_subset(split: Split, limit: int, seed: int) -> Subset:
    """So many images of a split, as many of each class while they last, drawn by ``seed``; a smaller draw is part of a larger.

    Raises:
        InputError: for more images than there are, or fewer than classes.
    """
    targets = np.array(split.targets)
    classes = np.unique(targets)
    if not len(classes) <= limit <= len(targets):
        raise InputError(
            "so many training images cannot be taken",
            got=f"data.limit = {limit:,}",
            expected=f"{len(classes):,} (the classes) to {len(targets):,} (the training images)",
            remedy="change data.limit, or leave it out to take all",
        )
    order = np.random.default_rng(seed).permutation(len(targets))
    turn = np.empty(len(targets), dtype=np.int64)  # of each image within its class
    for c in classes:
        members = targets[order] == c
        turn[members] = np.arange(members.sum())
    return Subset(split, np.sort(order[np.argsort(turn, kind="stable")[:limit]]).tolist())


def hold_out(split: Split, share: float, seed: int) -> tuple[Subset, Subset]:
    """A split in two, the second with ``share`` of each class, drawn by ``seed``.

    Raises:
        InputError: if a class would be missing on one side.
    """
    from sklearn.model_selection import train_test_split

    try:
        rest, part = train_test_split(range(len(split)), test_size=share, random_state=seed, stratify=split.targets)
    except ValueError as e:
        raise InputError(
            "so few training images cannot be held out",
            got=f"data.validation = {share:g} of {len(split):,} images in {len(set(split.targets)):,} classes",
            expected="images of each class on both sides",
            remedy="change data.validation (of a sweep: tune.validation)",
        ) from e
    return Subset(split, sorted(rest)), Subset(split, sorted(part))
