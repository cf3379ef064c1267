"""Where images come from: the data set of a recipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wfbench.data import arrays, image_files
from wfbench.data.splits import Dataset, Encoded, Split, hold_out, in_order_of, take_subset
from wfbench.data.what_counts import in_few_words
from wfbench.errors import InputError
from wfbench.recipe import DataSection

_LAYOUT = {
    "fashion": "a folder with the four idx files",
    "cifar10": "a folder with the binary batches, or with train/ and val/",
    "folder": "a folder with train/ and val/",
    "tar": "a folder with train.tar and val.tar",
    "webdataset": "a folder with train-*.tar and val-*.tar",
    "huggingface": "a folder that datasets.load_dataset reads",
    "folder-seg": "a folder with images/, masks/ (or annotations/) and a list of classes",
}


def open_dataset(data: DataSection, *, train: bool = True, classes: Sequence[str] | None = None) -> Dataset:
    """The data set of a recipe. Labels and places are read; images are not, unless they are held in memory.

    Args:
        data: the recipe's section.
        train: without, an image folder may hold images to evaluate on alone; it then has no training images.
        classes: names in the order of a model's outputs. Targets are then places in it, whatever order the source has.

    Raises:
        InputError: for a path that does not exist, a missing split, class or file, a file that is not what it should be, a
            label out of range, splits that do not fit together, a limit beyond the data, a class that is none of ``classes``,
            or files that look like samples and are not read (see `wfbench.data.what_counts`).
    """
    if data.source == "latents":
        raise InputError(
            "latents are no images",
            got="data.source = latents",
            expected="the images that they are of",
            remedy="set data.source=folder, and data.path to the images that were encoded",
        )
    if data.dense is not None:
        raise InputError(
            "the images have a class for each pixel, and none of their own",
            got=f"data.source = {data.source}",
            expected="images with a class each",
            remedy="set task: dense, or another data.source",
        )
    if not train and data.source == "folder" and data.path and not (Path(data.path) / "train").is_dir():
        held_out = image_files.held_out_folder(dataset_directory(data), data.pass_over)
        return _prepared(held_out, data, classes, both=False)
    whole = found = _prepared(_open(data), data, classes)
    if data.limit is not None:
        some = take_subset(whole.train, data.limit, data.split_seed)
        name = f"{whole.name}, {len(some):,} of {len(whole.train):,} for training"
        found = replace(whole, name=name, train=some)
    if data.validation is not None:
        rest, part = hold_out(found.train, data.validation, data.split_seed)
        found = replace(found, train=rest, val=part)
    return found


def _prepared(dataset: Dataset, data: DataSection, classes: Sequence[str] | None, *, both: bool = True) -> Dataset:
    """A data set just opened, with its labels checked and in the order of ``classes``."""
    dataset = replace(dataset, classes=_distinct(dataset))
    parts = {"train": dataset.train, "val": dataset.val} if both else {"val": dataset.val}
    for part, split in parts.items():
        if isinstance(split, Encoded):
            split.value_range = data.range
        _check_labels(split, part, dataset)
    if classes is None or tuple(classes) == dataset.classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in set(classes)]
    if unknown:
        raise InputError(
            "the data have other classes than the weights",
            got=f"{dataset.name}: {in_few_words(dataset.classes)}; of these, unknown to the weights {in_few_words(unknown)}",
            expected=f"classes of these names, in any order: {in_few_words(classes)}",
            remedy="give data with such classes (folders, ClassLabels, or names in classes.txt), or a --mapping from these "
            "classes to the model's",
        )
    for split in parts.values():
        in_order_of(classes, dataset.classes, split)
    return replace(dataset, classes=tuple(classes))


def _distinct(dataset: Dataset) -> tuple[str, ...]:
    """The names of the classes in Unicode's composed form, so that one name has one spelling whatever system wrote it.

    Raises:
        InputError: for two that are then one.
    """
    names = tuple(unicodedata.normalize("NFC", name) for name in dataset.classes)
    if len(set(names)) == len(names):
        return names
    twice = [own for own, name in zip(dataset.classes, names, strict=True) if names.count(name) > 1]
    raise InputError(
        "classes with one name",
        got=f"{dataset.name}: {', '.join(ascii(name) for name in twice[:6])}",
        expected="names that differ, also where Unicode has two spellings for one",
        remedy="merge or rename them",
    )


def _open(data: DataSection) -> Dataset:
    if data.source == "digits":
        return arrays.digits(data.holdout, data.split_seed)
    root = dataset_directory(data)
    match data.source:
        case "fashion":
            return arrays.fashion(root)
        case "cifar10":
            if (root / "train").is_dir():
                return arrays.as_cifar10(image_files.folder(root, data.pass_over), str(root))
            return arrays.cifar10(root)
        case "folder":
            return image_files.folder(root, data.pass_over)
        case "tar":
            return image_files.tar(root, data.pass_over)
        case "webdataset":
            return image_files.webdataset(root, data.pass_over)
        case _:
            return image_files.huggingface(root, data.pass_over)


def dataset_directory(data: DataSection) -> Path:
    """The folder that the recipe names.

    Raises:
        InputError: if it names none, or there is no such folder.
    """
    if data.path is None:
        raise InputError(
            "the recipe does not say where the images are",
            got=f"data.source = {data.source}, data.path = null",
            expected=_LAYOUT[data.source],
            remedy="--data PATH; nothing is downloaded",
        )
    root = Path(data.path)
    if not root.is_dir():
        raise InputError(
            "the dataset path is not a folder", got=data.path, expected=_LAYOUT[data.source], remedy="check --data"
        )
    return root


def _check_labels(images: Split, part: str, dataset: Dataset) -> None:
    """Fail unless a split holds images of every class, and of no other."""
    classes, targets = dataset.classes, np.array(images.targets, dtype=np.int64)
    wrong = np.flatnonzero((targets < 0) | (targets >= len(classes)))
    if len(wrong):
        raise InputError(
            "a label is out of range",
            got=f"{targets[wrong[0]]} of {images.label(int(wrong[0]))} (and {len(wrong) - 1} more)",
            expected=f"0 to {len(classes) - 1}, for {len(classes)} classes",
            remedy="correct the label, or name all classes (of shards in classes.txt, a line for each)",
        )
    empty = np.flatnonzero(np.bincount(targets, minlength=len(classes)) == 0)
    if len(empty):
        raise InputError(
            f"a class has no images in the {part} split",
            got=f"{dataset.name}: {', '.join(classes[c] for c in empty[:6])} ({len(empty)} of {len(classes)} classes)",
            expected="images of every class in both splits",
            remedy="add images of it, or take the class out of both splits",
        )
