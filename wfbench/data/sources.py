"""Where images come from: the data set of a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from wfbench.data import arrays, image_files
from wfbench.data.splits import Dataset, hold_out, take_subset
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


def open_dataset(data: DataSection, *, train: bool = True) -> Dataset:
    """The data set of a recipe. Labels and places are read; images are not, unless they are held in memory.

    Without ``train``, an image folder may hold images to evaluate on alone; it then has no training images.

    Raises:
        InputError: for a path that does not exist, a missing split, class or file, a file that is not what it should be, a
            label out of range, splits that do not fit together, or a limit beyond the data.
    """
    if data.source == "latents":
        raise InputError("latents are no images", got="data.source = latents", expected="the images that they are of")
    if data.dense is not None:
        raise InputError(
            "the images have a class for each pixel, and none of their own",
            got=f"data.source = {data.source}",
            expected="images with a class each",
            remedy="set task: dense, or another data.source",
        )
    if not train and data.source == "folder" and data.path and not (Path(data.path) / "train").is_dir():
        return image_files.held_out_folder(dataset_directory(data))
    whole = _open(data)
    _check_labels(whole)
    found = whole
    if data.limit is not None:
        some = take_subset(whole.train, data.limit, data.split_seed)
        name = f"{whole.name}, {len(some):,} of {len(whole.train):,} for training"
        found = replace(whole, name=name, train=some)
    if data.validation is not None:
        rest, part = hold_out(found.train, data.validation, data.split_seed)
        found = replace(found, train=rest, val=part)
    return found


def _open(data: DataSection) -> Dataset:
    if data.source == "digits":
        return arrays.digits(data.holdout, data.split_seed)
    root = dataset_directory(data)
    match data.source:
        case "fashion":
            return arrays.fashion(root)
        case "cifar10":
            return arrays.as_cifar10(image_files.folder(root), str(root)) if (root / "train").is_dir() else arrays.cifar10(root)
        case "folder":
            return image_files.folder(root)
        case "tar":
            return image_files.tar(root)
        case "webdataset":
            return image_files.webdataset(root)
        case _:
            return image_files.huggingface(root)


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


def _check_labels(dataset: Dataset) -> None:
    """Fail unless both splits hold images of every class, and of no other."""
    classes = dataset.classes
    for part, images in (("train", dataset.train), ("val", dataset.val)):
        targets = np.array(images.targets)
        wrong = np.flatnonzero((targets < 0) | (targets >= len(classes)))
        if len(wrong):
            raise InputError(
                "a label is out of range",
                got=f"{targets[wrong[0]]} of {images.label(int(wrong[0]))} (and {len(wrong) - 1} more)",
                expected=f"0 to {len(classes) - 1}, for {len(classes)} classes",
            )
        empty = np.flatnonzero(np.bincount(targets, minlength=len(classes)) == 0)
        if len(empty):
            raise InputError(
                f"a class has no images in the {part} split",
                got=f"{dataset.name}: {', '.join(classes[c] for c in empty[:6])} ({len(empty)} of {len(classes)} classes)",
                expected="images of every class in both splits",
            )
