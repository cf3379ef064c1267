"""Sources of encoded images, read when asked for: image folders, tar archives, WebDataset shards, Hugging Face data sets."""

from __future__ import annotations

import importlib.util
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wfbench.data.listing import Entry, hash_entries, image_entries, numbers_entry
from wfbench.data.splits import Dataset, Encoded, Files, Member, Members, Split, Subset
from wfbench.errors import InputError

#: Endings of images inside shards.
_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm"}


def folder(root: Path) -> Dataset:
    """train/ and val/, each with a folder of images for each class."""
    return _two("folder", root, lambda part: _image_folder(root / part, part))


def held_out_folder(root: Path) -> Dataset:
    """Images to evaluate on alone: val/, or the folder itself, with a folder of images for each class."""
    part = root / "val" if (root / "val").is_dir() else root
    val, classes = _image_folder(part, "held-out")
    return Dataset(f"folder {root.name} ({len(val):,} held out)", classes, Subset(val, ()), val)


def _image_folder(where: Path, part: str) -> tuple[Split, tuple[str, ...]]:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(where))
    except FileNotFoundError as e:
        raise InputError(
            f"no images for the {part} split",
            got=f"{where}: {' '.join(str(e).split())[:300]}",
            expected=f"{part}/<class>/<image>.png (or jpeg, ...) for every class",
            remedy="check --data; every class folder needs an image",
        ) from e
    paths, targets = zip(*found.samples, strict=True)
    return Files(paths, targets, where), tuple(found.classes)


def tar(root: Path) -> Dataset:
    """train.tar and val.tar, each with a folder (or an inner tar) of images for each class.

    timm's reader makes the index, by reading through the archive once at each start. What is kept is where each image's bytes
    are: its own handles would be shared by worker processes, and its cache on disk is a pickle.
    """
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    def split(part: str) -> tuple[Split, tuple[str, ...]]:
        archive = root / f"{part}.tar"
        expected = f"{part}.tar with <class>/<image>.jpg (or jpeg, png) for every class"
        if not archive.is_file():
            raise InputError(f"no archive for the {part} split", got=f"no {archive}", expected=expected, remedy="check --data")
        _check_whole(archive)
        try:
            reader = ReaderImageInTar(str(archive), cache_tarfiles=False, cache_tarinfo=False)
        except (tarfile.TarError, ValueError) as e:  # ValueError: no image at all
            raise InputError("cannot read the archive", got=f"{archive}: {e}", expected=expected) from e
        classes = tuple(reader.class_name_to_idx)
        if not {"", "."}.isdisjoint(classes):
            raise InputError("images without a class", got=f"{archive}: images outside any folder", expected=expected)
        members = [
            Member(str(archive), info.path, info.offset_data + (inner.offset_data if inner else 0), info.size)
            for info, _, inner in reader.samples
        ]
        return Members(members, reader.targets), classes

    return _two("tar", root, split)


def webdataset(root: Path) -> Dataset:
    """Shards train-*.tar and val-*.tar of KEY.jpg (or png, ...) and KEY.cls, an integer; classes.txt may name the classes.

    timm's reader of shards is an iterator over a shuffle buffer: it cannot give the i-th image, so neither an order that
    follows from (seed, epoch) nor a resume inside an epoch. Here every shard is indexed once at the start, by its headers, and
    then read at any place.
    """
    names = root / "classes.txt"
    listed = tuple(names.read_text().split("\n")) if names.is_file() else ()
    listed = tuple(name.strip() for name in listed if name.strip())
    found = {part: _shards(root, part) for part in ("train", "val")}
    number = len(listed) or max(max(targets) for _, targets in found.values()) + 1
    classes = listed or tuple(str(c) for c in range(number))
    return _two("webdataset", root, lambda part: (Members(*found[part]), classes))


def huggingface(root: Path) -> Dataset:
    """A directory that `datasets.load_dataset` reads, with a column "image" and a column "label" of classes.

    The held-out split is "validation" or, where there is none, "test". It is read through timm's reader with the hub's
    offline mode on, so that nothing is ever downloaded.
    """
    if importlib.util.find_spec("datasets") is None:
        raise InputError(
            "the package datasets is not installed",
            got="data.source = huggingface",
            expected="the Hugging Face package `datasets`",
            remedy="pip install 'wfbench[hf]'",
        )
    import datasets
    from timm.data.readers.reader_hfds import ReaderHfds

    def split(part: str) -> tuple[Split, tuple[str, ...]]:
        wanted = {"train": ("train",), "val": ("validation", "test")}[part]
        name = next((name for name in wanted if name in names), None)
        if name is None:
            raise InputError(
                f"no {part} split", got=f"{root} with {', '.join(names)}", expected=f"a split named {' or '.join(wanted)}"
            )
        reader = ReaderHfds(str(root), split=name)
        if not reader.class_to_idx:
            raise KeyError("the column 'label' does not name its classes (it is no ClassLabel)")
        return _Rows(reader, f"{root}: {name} row", root), tuple(reader.class_to_idx)

    try:
        with _offline():
            names = datasets.get_dataset_split_names(str(root))
            return _two("huggingface", root, split)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as e:
        raise InputError(
            "cannot read the Hugging Face data set",
            got=f"{root}: {' '.join(str(e).split())[:300]}",
            expected="a directory that datasets.load_dataset reads, with the columns 'image' and 'label' (of classes)",
            remedy="for one written by save_to_disk: load it with load_from_disk and write each split with to_parquet",
        ) from e


class _Rows(Encoded):
    """A split of a Hugging Face data set; its reader maps files into memory and pickles as their paths."""

    def __init__(self, reader: Any, noun: str, root: Path) -> None:
        super().__init__([-1 if c is None else c for c in reader.dataset["label"][:]])
        self.reader, self.noun, self.root = reader, noun, root

    def read(self, i: int) -> bytes:
        try:
            image, _ = self.reader[i]
        except (TypeError, AssertionError) as e:
            raise ValueError("the row holds no image") from e
        with image:
            return image.read()

    def label(self, i: int) -> str:
        return f"{self.noun} {i}"

    def entries(self) -> tuple[Entry, ...]:
        """The labels, and all files of the data set: tables and archives by their hashes, images as in a folder."""
        relative = {file: file.relative_to(self.root) for file in self.root.rglob("*") if file.is_file()}
        found = [file for file, name in relative.items() if not any(part.startswith(".") for part in name.parts)]
        images = [file for file in found if file.suffix.lower().removeprefix(".") in _IMAGES]
        tables = sorted(set(found) - set(images))
        labels = numbers_entry("(labels)", self.targets)
        return labels, *hash_entries(tables, self.root), *image_entries(images, self.root)


def _two(source: str, root: Path, split: Callable[[str], tuple[Split, tuple[str, ...]]]) -> Dataset:
    """A data set of train and val, once it is sure that both have the same classes."""
    (train, classes), (val, others) = split("train"), split("val")
    if classes != others:
        only = sorted(set(classes) ^ set(others))
        raise InputError(
            "the splits have different classes",
            got=f"{len(classes)} in train, {len(others)} in val; in one only: {', '.join(only[:6]) or 'none (another order)'}",
            expected="the same classes in train and val",
        )
    return Dataset(f"{source} {root.name} ({len(train):,} train, {len(val):,} held out)", classes, train, val)


def _shards(root: Path, part: str) -> tuple[list[Member], list[int]]:
    """Every image of a split and its class, in the order of the shards."""
    paths = sorted(root.glob(f"{part}-*.tar"))
    if not paths:
        raise InputError(
            f"no shards for the {part} split",
            got=f"no {root / part}-*.tar",
            expected="train-*.tar and val-*.tar",
            remedy="check --data",
        )
    images: list[Member] = []
    targets: list[int] = []
    for path in paths:
        pictures, labels = _index(path)
        if pictures.keys() != labels.keys() or not pictures:
            odd = sorted(pictures.keys() ^ labels.keys())
            raise InputError(
                "images and labels do not fit together",
                got=f"{path}: {len(pictures):,} images and {len(labels):,} labels; unpaired: {', '.join(odd[:6]) or 'none'}",
                expected=f"KEY.cls for each KEY.jpg (or {', '.join(sorted(_IMAGES - {'jpg'}))})",
            )
        images += pictures.values()
        targets += [_class(labels[key]) for key in pictures]
    return images, targets


def _index(path: Path) -> tuple[dict[str, Member], dict[str, Member]]:
    """The images and the labels of a shard, by key."""
    _check_whole(path)
    images: dict[str, Member] = {}
    labels: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                directory, slash, base = info.name.rpartition("/")
                stem, _, ending = base.partition(".")  # as WebDataset reads names: the key ends at the first point
                kind = labels if ending == "cls" else images if ending.lower() in _IMAGES else None
                if info.isfile() and kind is not None:
                    kind[directory + slash + stem] = Member(str(path), info.name, info.offset_data, info.size)
    except tarfile.TarError as e:
        raise InputError("cannot read the shard", got=f"{path}: {e}", expected="an intact tar, not compressed") from e
    return images, labels


def _class(label: Member) -> int:
    try:
        return int(label.read())
    except ValueError as e:
        raise InputError(
            "a label is no number", got=f"{label.archive}: {label.name}: {label.read()[:40]!r}", expected="an integer as text"
        ) from e


def _check_whole(archive: Path) -> None:
    """Fail unless the archive ends as a tar does, in 1,024 zeros: tarfile takes one cut between two files for whole."""
    with archive.open("rb") as file:
        file.seek(-min(1024, archive.stat().st_size), 2)
        if file.read() != bytes(1024):
            raise InputError(
                "the archive is cut short, or is none",
                got=f"{archive}: no end marker",
                expected="an intact tar, not compressed",
                remedy="copy or make it again",
            )


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's offline mode, whatever the environment says."""
    import datasets
    import huggingface_hub

    places = [(huggingface_hub.constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_HUB_OFFLINE")]
    before = [getattr(place, name) for place, name in places]
    for place, name in places:
        setattr(place, name, True)
    try:
        yield
    finally:
        for (place, name), value in zip(places, before, strict=True):
            setattr(place, name, value)
