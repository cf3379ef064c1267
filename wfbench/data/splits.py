"""What a source is made of: splits of (image, class) pairs with random access, which travel to worker processes."""

from __future__ import annotations

import functools
import operator
import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, overload

import numpy as np
from PIL import Image

from wfbench.data.listing import Entry, Listing, array_entry, hash_entries, image_entries, list_data, numbers_entry
from wfbench.data.pixels import decode
from wfbench.errors import InputError
from wfbench.files import read_file

#: Bytes of decoded images that a folder may keep in memory: CIFAR-10's training images take 154 million.
DECODED = 2**28
#: What reading a damaged image raises.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class Split(Protocol):
    """One split. It travels to worker processes, so it must pickle, and it holds no open file."""

    targets: tuple[int, ...]

    def __len__(self) -> int: ...

    def load(self, i: int) -> Image.Image:
        """The i-th image, decoded, of mode "L" or "RGB", whose class is ``targets[i]``."""
        ...

    def label(self, i: int) -> str:
        """What to call the i-th image in an error."""
        ...

    def entries(self) -> tuple[Entry, ...]:
        """What it consists of, for a `Listing`."""
        ...


@dataclass(frozen=True)
class Dataset:
    """A named data set in two splits.

    ``passed_over`` names the files that look like samples and are not read (see `wfbench.data.what_counts`).
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    passed_over: tuple[str, ...] = ()

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

    #: Of pictures of more than 8 bits, the values that become black and white (see `wfbench.data.pixels`).
    value_range: tuple[float, float] | None = None

    def __init__(self, targets: Sequence[int]) -> None:
        numbers = [*range(max(targets, default=-1) + 1)]  # one object for each class, not for each image
        self.targets = tuple(numbers[c] if c >= 0 else c for c in targets)

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
        """The i-th image, decoded: 8 bits, grey or RGB."""
        return decode(self.read(i), self.label(i), self.value_range)


class Names(Sequence[str]):
    """Many names in one array of bytes: a list of them would be copied into every worker process, object by object."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        text = "".join(names)
        self._bytes = os.fsencode(text)
        # A character takes a byte or more: as many bytes as characters are one each.
        of_each = names if len(self._bytes) == len(text) else map(os.fsencode, names)
        self._ends = np.cumsum([0, *map(len, of_each)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Names: ...
    def __getitem__(self, i: int | slice) -> str | Names:
        """The i-th name, or some of them."""
        if isinstance(i, slice):
            return Names(self[k] for k in range(*i.indices(len(self))))
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        start, end = self._ends[i % len(self)], self._ends[i % len(self) + 1]
        return os.fsdecode(self._bytes[start:end])


class Files(Encoded):
    """A split of image files, named from a folder, as a `Listing` names them."""

    def __init__(self, names: Iterable[str], targets: Sequence[int], folder: Path) -> None:
        super().__init__(targets)
        self.names, self.folder = Names(names), folder
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
        if len(self) * pixels.size > DECODED:
            return False
        if self._decoded is None:
            self._decoded = Arrays("image", np.empty((len(self), *pixels.shape), np.uint8), np.array(self.targets))
        if pixels.shape != self._decoded.images.shape[1:]:
            return False
        self._decoded.images[i], self._there[i] = pixels, True
        return True

    def read(self, i: int) -> bytes:
        """The i-th image as it is stored."""
        return read_file(self.label(i))

    def label(self, i: int) -> str:
        """What to call the i-th image: its path."""
        return os.path.join(self.folder, self.names[i])

    def entries(self) -> tuple[Entry, ...]:
        """Every file's name, which begins with its class, and size; of some also a hash."""
        return image_entries(self.names, self.folder)


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


S = TypeVar("S", bound=Split)


def in_order_of(classes: Sequence[str], own: Sequence[str], split: S) -> S:
    """The split with its targets as places in ``classes``, whose names it has in the order ``own``; it is changed itself.

    ``own`` may lack some of them, and have no other.
    """
    if tuple(own) != tuple(classes):
        place = [classes.index(name) for name in own]
        split.targets = tuple(place[c] if 0 <= c < len(place) else c for c in split.targets)
    return split


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
