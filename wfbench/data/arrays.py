"""Small sources, held in memory: scikit-learn's digits, Fashion-MNIST, CIFAR-10."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from wfbench.data.splits import Arrays, Dataset
from wfbench.errors import InputError

_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_AGAIN = "take the file from its public home again"
_RECORD = 1 + 3 * 32 * 32  # the class, then red, green and blue planes


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


def digits(holdout: float, split_seed: int) -> Dataset:
    """scikit-learn's 8x8 digits; the held-out ones are drawn by ``split_seed``."""
    train_images, val_images, train_classes, val_classes = digits_arrays(holdout, split_seed)
    train, val = (
        Arrays("digit", np.round(images * (255 / 16)).astype(np.uint8), classes)
        for images, classes in ((train_images, train_classes), (val_images, val_classes))
    )
    return Dataset(f"digits ({holdout:.0%} held out by split seed {split_seed})", tuple("0123456789"), train, val)


def fashion(root: Path) -> Dataset:
    """Fashion-MNIST: the four idx files, plain or gzipped."""
    train, val = (
        Arrays(f"Fashion-MNIST {part} image", *_idx_pair(root, stem)) for part, stem in (("train", "train"), ("val", "t10k"))
    )
    return Dataset(_name("Fashion-MNIST", train, val, (60_000, 10_000)), _CLOTHES, train, val)


def cifar10(root: Path) -> Dataset:
    """CIFAR-10: the six files of its binary version, which hold no pickle."""
    files = [root / name for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt")]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(
            "files of CIFAR-10 are missing",
            got=f"{root} without {', '.join(missing)}",
            expected="data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt of the binary version, "
            "or train/ and val/ with a folder for each class",
            remedy="check --data",
        )
    *batches, test, meta = files
    check_cifar10_classes(tuple(meta.read_text(errors="replace").split()), str(meta))
    images, classes = (np.concatenate(parts) for parts in zip(*(_cifar_batch(file) for file in batches), strict=True))
    train, val = Arrays("CIFAR-10 train image", images, classes), Arrays("CIFAR-10 val image", *_cifar_batch(test))
    return Dataset(_name("CIFAR-10", train, val, (50_000, 10_000)), _CIFAR10, train, val)


def as_cifar10(folder: Dataset, where: str) -> Dataset:
    """An image folder of CIFAR-10 under that name."""
    check_cifar10_classes(folder.classes, where)
    return replace(folder, name=_name("CIFAR-10", folder.train, folder.val, (50_000, 10_000)))


def check_cifar10_classes(classes: tuple[str, ...], where: str) -> None:
    """Fail unless these are the ten classes in their order."""
    if classes != _CIFAR10:
        raise InputError(
            "not the classes of CIFAR-10",
            got=f"{where}: {', '.join(classes)[:200]}",
            expected=", ".join(_CIFAR10),
            remedy="give the class folders, or the lines of batches.meta.txt, these names; for other data data.source=folder",
        )


def _name(name: str, train: object, val: object, whole: tuple[int, int]) -> str:
    """The name; where images are missing, it says how many there are."""
    found = len(train), len(val)  # type: ignore[arg-type]
    return name if found == whole else f"{name} ({found[0]:,} train, {found[1]:,} held out)"


def _idx_pair(root: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) and classes (n) of a split."""
    images = _idx(root, f"{stem}-images-idx3-ubyte", 2051, (28, 28))
    classes = _idx(root, f"{stem}-labels-idx1-ubyte", 2049, ())
    if len(images) != len(classes):
        raise InputError(
            "images and labels do not fit together",
            got=f"{len(images):,} images and {len(classes):,} labels of {stem!r} in {root}",
            expected="one label for each image",
            remedy="take all four files from one place",
        )
    return images, classes


def _idx(root: Path, name: str, magic: int, shape: tuple[int, ...]) -> np.ndarray:
    """An idx file: a magic number and the sizes as big-endian 32-bit integers, then the bytes."""
    path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise InputError(
            "a file of Fashion-MNIST is missing",
            got=f"{root} without {name} or {name}.gz",
            expected="train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte",
            remedy="check --data",
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as e:
        raise InputError(
            "cannot read a file of Fashion-MNIST", got=f"{path}: {e}", expected="an intact file", remedy=_AGAIN
        ) from e
    head = 4 * (2 + len(shape))
    found, *sizes = struct.unpack(f">{2 + len(shape)}I", content[:head]) if len(content) >= head else (None,)
    if found != magic or tuple(sizes[1:]) != shape:
        raise InputError(
            "not the idx file it should be",
            got=f"{path}: magic number {found}, sizes {sizes}",
            expected=f"magic number {magic}, sizes {['n', *shape]}",
            remedy=_AGAIN,
        )
    if len(content) - head != np.prod(sizes):
        raise InputError(
            "the idx file has another length than it says",
            got=f"{path}: {len(content) - head:,} bytes of data",
            expected=f"{np.prod(sizes):,} for sizes {sizes}",
            remedy=_AGAIN,
        )
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


def _cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and classes (n) of a file."""
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % _RECORD:
        raise InputError(
            "not a whole file of CIFAR-10",
            got=f"{path}: {len(content):,} bytes",
            expected=f"a multiple of {_RECORD:,}, the size of one image with its class",
            remedy="take the binary version from its public home again",
        )
    records = content.reshape(-1, _RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (n, H, W, 3)
    return np.ascontiguousarray(images), records[:, 0]
