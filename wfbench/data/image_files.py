"""Sources of encoded images, read when asked for: image folders, tar archives, WebDataset shards, Hugging Face data sets.

What counts as data is said in `wfbench.data.what_counts`. A class is known by its name: where two splits have the same classes
in another order, the training split's order counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfbench.data.listing import Entry, hash_entries, image_entries, numbers_entry
from wfbench.data.splits import Dataset, Encoded, Files, Member, Members, Split, Subset, in_order_of
from wfbench.data.what_counts import READ, check_passed_over, in_few_words, is_hidden, is_picture, looks_like_a_picture
from wfbench.errors import InputError


@dataclass(frozen=True)
class _Found:
    """A split, the names of its classes in the order of its targets, and what was passed over."""

    split: Split
    classes: tuple[str, ...]
    passed_over: tuple[str, ...] = ()


def folder(root: Path, pass_over: bool = False) -> Dataset:
    """train/ and val/, each with a folder of images for each class."""
    return _two("folder", root, lambda part: _image_folder(root / part, part), pass_over)


def held_out_folder(root: Path, pass_over: bool = False) -> Dataset:
    """Images to evaluate on alone: val/, or the folder itself, with a folder of images for each class."""
    part = root / "val" if (root / "val").is_dir() else root
    found = _image_folder(part, "held-out")
    passed_over = check_passed_over(found.passed_over, pass_over)
    name = f"folder {root.name} ({len(found.split):,} held out)"
    return Dataset(name, found.classes, Subset(found.split, ()), found.split, passed_over)


def _image_folder(where: Path, part: str) -> _Found:
    """Images in folders of their classes, at any depth, in the order of torchvision's `ImageFolder`."""
    expected = f"{part}/<class>/<image>.png (or jpeg, ...) for every class"
    remedy = "check --data; every class folder needs an image"
    try:
        with os.scandir(where) as entries:
            inside = sorted((entry.name, entry.is_dir()) for entry in entries if not is_hidden(entry.name))
    except OSError as e:
        got = f"{where}: {e.strerror}"
        raise InputError(f"no images for the {part} split", got=got, expected=expected, remedy=remedy) from e
    classes = [name for name, is_folder in inside if is_folder]
    over = [str(where / name) for name, is_folder in inside if not is_folder and looks_like_a_picture(name)]
    names: list[str] = []
    targets: list[int] = []
    for c, name in enumerate(classes):
        before = len(names)
        for files in _files_below(where, name):
            images = [file for file in files if is_picture(file)]
            if len(images) < len(files):
                over += [str(where / file) for file in files if not is_picture(file) and looks_like_a_picture(file)]
            names += images
        targets += [c] * (len(names) - before)
    empty = sorted(set(range(len(classes))) - set(targets))
    if empty or not classes:
        lacking = f"no image in {', '.join(classes[c] for c in empty[:6])}" if empty else "no folder of a class"
        raise InputError(
            f"no images for the {part} split",
            got=f"{where}: {lacking}{f' ({len(empty)} of {len(classes)} classes)' if empty else ''}",
            expected=expected,
            remedy=remedy,
        )
    return _Found(Files(names, targets, where), tuple(classes), tuple(over))


def _files_below(root: Path, folder: str) -> Iterator[list[str]]:
    """Names from ``root`` of all files below a folder that count, in a list for each folder, in order.

    As `os.walk` has it, links to folders are followed, and a folder that cannot be read has no files.
    """
    found: dict[str, list[str]] = {}
    to_do = [folder]
    while to_do:
        below = to_do.pop()
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(os.path.join(root, below)) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
        except OSError:
            continue
        files.sort()
        found[below] = [f"{below}/{name}" for name in files if not is_hidden(name)]
        to_do += [f"{below}/{name}" for name in folders if not is_hidden(name)]
    yield from (found[below] for below in sorted(found))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link into itself
        return False


def tar(root: Path, pass_over: bool = False) -> Dataset:
    """train.tar and val.tar, each with a folder (or an inner tar) of images for each class.

    timm's reader makes the index, by reading through the archive once at each start. What is kept is where each image's bytes
    are: its own handles would be shared by worker processes, and its cache on disk is a pickle.
    """
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    def split(part: str) -> _Found:
        archive = root / f"{part}.tar"
        expected = f"{part}.tar with <class>/<image>.jpg (or jpeg, png) for every class"
        if not archive.is_file():
            raise InputError(f"no archive for the {part} split", got=f"no {archive}", expected=expected, remedy="check --data")
        _check_whole(archive)
        try:
            reader = ReaderImageInTar(str(archive), cache_tarfiles=False, cache_tarinfo=False)
        except (tarfile.TarError, ValueError) as e:  # ValueError: no image at all
            raise InputError(
                "cannot read the archive",
                got=f"{archive}: {e}",
                expected=expected,
                remedy=f"make it again from the folders of the classes: cd {part} && tar -cf ../{part}.tar *",
            ) from e
        labels = list(reader.class_name_to_idx)
        kept = [
            (Member(str(archive), info.path, info.offset_data + (inner.offset_data if inner else 0), info.size), labels[c])
            for (info, _, inner), c in zip(reader.samples, reader.targets, strict=True)
            if not is_hidden(info.path)
        ]
        if not {"", "."}.isdisjoint(label for _, label in kept):
            raise InputError(
                "images without a class",
                got=f"{archive}: images outside any folder",
                expected=expected,
                remedy="put each image into the folder of its class, and make the archive again",
            )
        used = {label for _, label in kept}
        classes = [label for label in labels if label in used]
        index = {label: c for c, label in enumerate(classes)}
        members = Members([member for member, _ in kept], [index[label] for _, label in kept])
        return _Found(members, tuple(classes), tuple(_not_taken(archive, {member.name for member, _ in kept})))

    return _two("tar", root, split, pass_over)


def _not_taken(archive: Path, taken: set[str]) -> Iterator[str]:
    """Pictures of a tar, and of archives inside it, that are not among its images."""
    with tarfile.open(archive, "r:") as outer:
        for info in outer:
            if info.isfile() and info.name.endswith(".tar"):
                with tarfile.open(fileobj=outer.extractfile(info)) as inner:
                    found = [below.name for below in inner if below.isfile()]
            else:
                found = [info.name] if info.isfile() else []
            yield from (
                f"{archive.name}: {name}"
                for name in found
                if looks_like_a_picture(name) and not is_hidden(name) and name not in taken
            )


def webdataset(root: Path, pass_over: bool = False) -> Dataset:
    """Shards train-*.tar and val-*.tar of KEY.jpg (or png, ...) and KEY.cls, an integer; classes.txt may name the classes.

    timm's reader of shards is an iterator over a shuffle buffer: it cannot give the i-th image, so neither an order that
    follows from (seed, epoch) nor a resume inside an epoch. Here every shard is indexed once at the start, by its headers, and
    then read at any place.
    """
    names = root / "classes.txt"
    listed = tuple(names.read_text().split("\n")) if names.is_file() else ()
    listed = tuple(name.strip() for name in listed if name.strip())
    found = {part: _shards(root, part) for part in ("train", "val")}
    number = len(listed) or max(max(targets) for _, targets, _ in found.values()) + 1
    classes = listed or tuple(str(c) for c in range(number))

    def split(part: str) -> _Found:
        members, targets, over = found[part]
        return _Found(Members(members, targets), classes, tuple(over))

    return _two("webdataset", root, split, pass_over)


def huggingface(root: Path, pass_over: bool = False) -> Dataset:
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

    def split(part: str) -> _Found:
        wanted = {"train": ("train",), "val": ("validation", "test")}[part]
        name = next((name for name in wanted if name in names), None)
        if name is None:
            raise InputError(
                f"no {part} split",
                got=f"{root} with {', '.join(names)}",
                expected=f"a split named {' or '.join(wanted)}",
                remedy="name its files train-*.parquet, and validation-*.parquet or test-*.parquet",
            )
        try:
            reader = ReaderHfds(str(root), split=name)
        except AttributeError:  # of timm up to 1.0.30, for a column of another type
            reader = None
        if reader is None or not reader.class_to_idx:
            raise KeyError("the column 'label' does not name its classes (it is no ClassLabel)")
        stored = _stored_classes([str(file) for file in builder.config.data_files.get(name, ())], "label")
        return _Found(_Rows(reader, f"{root}: {name} row", root), stored or tuple(reader.class_to_idx))

    try:
        with _offline():
            names = datasets.get_dataset_split_names(str(root))
            builder = datasets.load_dataset_builder(str(root))
            return _two("huggingface", root, split, pass_over)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as e:
        raise InputError(
            "cannot read the Hugging Face data set",
            got=f"{root}: {' '.join(str(e).split())[:300]}",
            expected="a directory that datasets.load_dataset reads, with the columns 'image' and 'label' (of classes)",
            remedy="for one written by save_to_disk: load it with load_from_disk and write each split with to_parquet",
        ) from e


def _stored_classes(files: Sequence[str], column: str) -> tuple[str, ...] | None:
    """The names of a column's classes as a split's own Parquet files have them; None where they do not say.

    `datasets` gives the names of the first split to all, and leaves the numbers as they are.
    """
    import pyarrow.parquet as parquet

    found: dict[tuple[str, ...], str] = {}
    for file in files:
        if not file.endswith(".parquet"):
            return None
        about = (parquet.read_schema(file).metadata or {}).get(b"huggingface")
        names = json.loads(about)["info"]["features"][column].get("names") if about else None
        if names is None:
            return None
        found[tuple(names)] = file
    if len(found) > 1:
        raise InputError(
            "the files of a split number the classes differently",
            got="; ".join(f"{Path(file).name}: {in_few_words(names)}" for names, file in found.items()),
            expected="one ClassLabel, with its names in one order, in all files of a split",
            remedy="write the split again by datasets.Dataset.to_parquet",
        )
    return next(iter(found), None)


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
        found = [file for file, name in relative.items() if not is_hidden(name.as_posix())]
        images = [file for file in found if is_picture(file.name)]
        tables = sorted(set(found) - set(images))
        labels = numbers_entry("(labels)", self.targets)
        return (
            labels,
            *hash_entries(tables, self.root),
            *image_entries((file.relative_to(self.root) for file in images), self.root),
        )


def _two(source: str, root: Path, split: Callable[[str], _Found], pass_over: bool) -> Dataset:
    """A data set of train and val, once it is sure that both have the same classes."""
    train, val = split("train"), split("val")
    classes, others = train.classes, val.classes
    if set(classes) != set(others):
        only = sorted(set(classes) ^ set(others))
        raise InputError(
            "the splits have different classes",
            got=f"{len(classes)} in train, {len(others)} in val; in one only: {', '.join(only[:6])}",
            expected="the same classes in train and val",
            remedy="add images of these classes to the other split, or take the classes out of both",
        )
    passed_over = check_passed_over(train.passed_over + val.passed_over, pass_over)
    name = f"{source} {root.name} ({len(train.split):,} train, {len(val.split):,} held out)"
    return Dataset(name, classes, train.split, in_order_of(classes, others, val.split), passed_over)


def _shards(root: Path, part: str) -> tuple[list[Member], list[int], list[str]]:
    """Every image of a split and its class, in the order of the shards; and what is passed over."""
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
    over: list[str] = []
    for path in paths:
        pictures, labels, others = _index(path)
        over += others
        if pictures.keys() != labels.keys() or not pictures:
            odd = sorted(pictures.keys() ^ labels.keys())
            raise InputError(
                "images and labels do not fit together",
                got=f"{path}: {len(pictures):,} images and {len(labels):,} labels; unpaired: {', '.join(odd[:6]) or 'none'}",
                expected=f"KEY.cls for each KEY.jpg (or {', '.join(sorted(READ - {'jpg'}))})",
                remedy="add the missing files, or make the shard again without the others",
            )
        images += pictures.values()
        targets += [_class(labels[key]) for key in pictures]
    return images, targets, over


def _index(path: Path) -> tuple[dict[str, Member], dict[str, Member], Sequence[str]]:
    """The images and the labels of a shard, by key; and what looks like one of them and is none."""
    _check_whole(path)
    images: dict[str, Member] = {}
    labels: dict[str, Member] = {}
    over: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                directory, slash, base = info.name.rpartition("/")
                stem, _, ending = base.partition(".")  # as WebDataset reads names: the key ends at the first point
                if not info.isfile() or is_hidden(info.name):
                    continue
                kind = labels if ending == "cls" else images if ending.lower() in READ else None
                key = directory + slash + stem
                if kind is None:
                    over += [f"{path.name}: {info.name}"] if looks_like_a_picture(base) or base.endswith(".cls") else []
                elif key in kind:
                    raise InputError(
                        f"two {'labels' if kind is labels else 'images'} of one sample",
                        got=f"{path}: {kind[key].name} and {info.name}",
                        expected="one of each for each key, which ends at the first point of the name",
                        remedy="rename one of them",
                    )
                else:
                    kind[key] = Member(str(path), info.name, info.offset_data, info.size)
    except tarfile.TarError as e:
        raise InputError(
            "cannot read the shard",
            got=f"{path}: {e}",
            expected="an intact tar, not compressed",
            remedy="copy it again, or make it again by tar -cf, without compression",
        ) from e
    return images, labels, over


def _class(label: Member) -> int:
    try:
        return int(label.read())
    except ValueError as e:
        raise InputError(
            "a label is no number",
            got=f"{label.archive}: {label.name}: {label.read()[:40]!r}",
            expected="an integer as text",
            remedy="write the number of the class, from 0, into the .cls file; names stand in classes.txt",
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
