"""Where images come from: a train and a held-out split of (image, class) pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from wfbench.errors import InputError
from wfbench.recipe import DataSection


class Split(Protocol):
    """One split. It travels to worker processes, so it must pickle."""

    targets: tuple[int, ...]

    def __len__(self) -> int: ...

    def load(self, i: int) -> Image.Image:
        """The i-th image, whose class is ``targets[i]``."""
        ...

    def label(self, i: int) -> str:
        """What to call the i-th image in an error."""
        ...


class _Pictures:
    """A split in memory."""

    def __init__(self, images: np.ndarray, classes: np.ndarray) -> None:
        self.pictures = [Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)) for image in images]
        self.targets = tuple(int(c) for c in classes)

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, i: int) -> Image.Image:
        return self.pictures[i]

    def label(self, i: int) -> str:
        return f"digit {i}"


class _Files:
    """A split of image files."""

    def __init__(self, samples: list[tuple[str, int]]) -> None:
        self.paths = [path for path, _ in samples]
        self.targets = tuple(target for _, target in samples)

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, i: int) -> Image.Image:
        with Image.open(self.paths[i]) as image:
            image.load()
            return image.copy()

    def label(self, i: int) -> str:
        return self.paths[i]


@dataclass(frozen=True)
class Dataset:
    """A named data set in two splits."""

    name: str
    classes: tuple[str, ...]
    train: Split
    val: Split


def open_dataset(data: DataSection) -> Dataset:
    """The data set of a recipe.

    Raises:
        InputError: for a path that does not exist, holds no train/ and val/, or holds no images.
    """
    if data.source == "digits":
        return _digits(data.holdout, data.split_seed)
    assert data.path is not None
    return _folder(Path(data.path))


def digits_arrays(holdout: float, split_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's digits as (train images, val images, train classes, val classes); images (n, 8, 8) in 0..16."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    try:
        parts = train_test_split(
            digits.images, digits.target, test_size=holdout, stratify=digits.target, random_state=split_seed
        )
    except ValueError as e:
        raise InputError(
            "the digits cannot be split so",
            got=f"data.holdout = {holdout}: {e}",
            expected="some of each class on both sides",
            remedy="use 0.2",
        ) from e
    return tuple(parts)


def _digits(holdout: float, split_seed: int) -> Dataset:
    train_images, val_images, train_classes, val_classes = digits_arrays(holdout, split_seed)
    name = f"digits ({holdout:.0%} held out by split seed {split_seed})"
    return Dataset(name, tuple("0123456789"), _Pictures(train_images, train_classes), _Pictures(val_images, val_classes))


def _folder(root: Path) -> Dataset:
    from torchvision.datasets import ImageFolder

    if not root.is_dir():
        raise InputError(
            "the dataset path is not a folder", got=str(root), expected="a folder with train/ and val/", remedy="check --data"
        )
    splits = {}
    for part in ("train", "val"):
        try:
            splits[part] = ImageFolder(str(root / part))
        except FileNotFoundError as e:
            raise InputError(
                f"no images for the {part} split",
                got=f"{root / part}: {' '.join(str(e).split())[:300]}",
                expected=f"{part}/<class>/<image>.png (or jpeg, ...) for every class",
                remedy="check --data; every class folder needs an image",
            ) from e
    if splits["train"].classes != splits["val"].classes:
        only = sorted(set(splits["train"].classes) ^ set(splits["val"].classes))
        raise InputError(
            "the splits have different classes",
            got=f"in one split only: {', '.join(only[:6])}",
            expected="the same class folders in train/ and val/",
        )
    train, val = (_Files(splits[part].samples) for part in ("train", "val"))
    return Dataset(f"folder {root.name}", tuple(splits["train"].classes), train, val)


#: What reading a damaged image raises.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
