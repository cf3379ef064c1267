"""Where images come from: a train and a held-out split of (image, class) pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wfbench.errors import InputError
from wfbench.recipe import DataSection


@dataclass(frozen=True)
class Split:
    """One split: ``load(i)`` gives the i-th PIL image, ``targets[i]`` its class, ``label(i)`` a name for errors."""

    targets: tuple[int, ...]
    load: Callable[[int], Image.Image]
    label: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.targets)


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
    parts = train_test_split(digits.images, digits.target, test_size=holdout, stratify=digits.target, random_state=split_seed)
    return tuple(parts)


def _digits(holdout: float, split_seed: int) -> Dataset:
    train_images, val_images, train_classes, val_classes = digits_arrays(holdout, split_seed)
    name = f"digits ({holdout:.0%} held out by split seed {split_seed})"
    return Dataset(name, tuple("0123456789"), _arrays(train_images, train_classes), _arrays(val_images, val_classes))


def _arrays(images: np.ndarray, classes: np.ndarray) -> Split:
    pictures = [Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8)) for image in images]
    return Split(tuple(int(c) for c in classes), pictures.__getitem__, lambda i: f"digit {i}")


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
    train, val = (_samples(splits[part].samples) for part in ("train", "val"))
    return Dataset(f"folder {root.name}", tuple(splits["train"].classes), train, val)


def _samples(samples: list[tuple[str, int]]) -> Split:
    paths = [path for path, _ in samples]

    def load(i: int) -> Image.Image:
        with Image.open(paths[i]) as image:
            image.load()
            return image.copy()

    return Split(tuple(target for _, target in samples), load, paths.__getitem__)


#: What reading a damaged image raises.
UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError)
