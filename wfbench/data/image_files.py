"""Sources of encoded images, read when asked for: image folders, tar archives, WebDataset shards, Hugging Face data sets.

What counts as data is said in `wfbench.data.what_counts`. A class is known by its name: where two splits have the same classes
in another order, the training split's order counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import posixpath
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
from wfbench.strict import read_text


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
        for files in files_below(where, name):
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


def files_below(root: Path, folder: str) -> Iterator[list[str]]:
    """Names from ``root`` of all files below a folder that count, in a list for each folder, in order.

    Links to folders are followed.

    Raises:
        InputError: for a folder that cannot be read, and for a link to a folder above it, which would count files again.
    """
    found: dict[str, list[str]] = {}
    to_do: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while to_do:
        below, above = to_do.pop()
        folders: list[str] = []
        files: list[str] = []
        path = os.path.join(root, below)
        try:
            status = os.stat(path)
            with os.scandir(path) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as e:
            raise InputError(
                "a folder cannot be read",
                got=f"{path}: {e.strerror}",
                expected="folders that this user may read",
                remedy="change its permissions, or move it away",
            ) from e
        here = status.st_dev, status.st_ino
        if here in above:
            raise InputError(
                "a folder holds a link to a folder above it",
                got=path,
                expected="each image once",
                remedy="remove the link",
            )
        files.sort()
        found[below] = [f"{below}/{name}" for name in files if not is_hidden(name)]
        to_do += [(f"{below}/{name}", above | {here}) for name in folders if not is_hidden(name)]
    yield from (found[below] for below in sorted(found))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link into itself
        return False


def tar(root: Path, pass_over: bool = False) -> Dataset:
    """train.tar and val.tar, each with a folder (or an inner tar) of images for each class, in the order of timm's reader.

    A class is the first folder of an image's path, as in `folder`, or the name of the inner tar. An archive of the folder
    itself, with train/CLASS/IMAGE in train.tar, is one of CLASS/IMAGE. The index is made by reading the headers at each start;
    what is kept is where each image's bytes are.
    """
    from timm.utils.misc import natural_key

    def split(part: str) -> _Found:
        archive = root / f"{part}.tar"
        expected = f"{part}.tar with <class>/<image>.jpg (or png, ...) for every class"
        if not archive.is_file():
            raise InputError(f"no archive for the {part} split", got=f"no {archive}", expected=expected, remedy="check --data")
        again = f"make it again from the folders of the classes: cd {part} && tar -cf ../{part}.tar *"
        try:
            images, over = _images_of(archive)
        except tarfile.TarError as e:
            raise InputError("cannot read the archive", got=f"{archive}: {e}", expected=expected, remedy=again) from e
        if not images:
            raise InputError("cannot read the archive", got=f"{archive}: no image", expected=expected, remedy=again)
        paths = [path for path, _ in images]
        if all(path[0] == part and len(path) > 2 for path in paths):  # of the folder itself
            paths = [path[1:] for path in paths]
        first = {path[0] for path in paths}
        wrong = ""
        if any(len(path) < 2 for path in paths):
            wrong = "images outside any folder"
        elif len(first) == 1 and len({path[:-1] for path in paths}) > 1:
            wrong = f"all images are in {next(iter(first))}/, in several folders of it, so it is not clear what the classes are"
        if wrong:
            raise InputError("images without a class", got=f"{archive}: {wrong}", expected=expected, remedy=again)
        classes = sorted(first, key=natural_key)
        index = {label: c for c, label in enumerate(classes)}
        kept = [(member, index[path[0]]) for path, (_, member) in zip(paths, images, strict=True)]
        kept.sort(key=lambda each: natural_key(each[0].name))
        members = Members([member for member, _ in kept], [c for _, c in kept])
        return _Found(members, tuple(classes), tuple(over))

    return _two("tar", root, split, pass_over)


def _images_of(archive: Path) -> tuple[list[tuple[tuple[str, ...], Member]], list[str]]:
    """The images of a tar with the folders and the name of each, those of archives inside it first; and what is passed over.

    An archive inside it is a folder by its name without the ending.
    """
    inside: list[tuple[tuple[str, ...], Member]] = []
    own: list[tuple[tuple[str, ...], Member]] = []
    over: list[str] = []

    def take(name: str, at: tarfile.TarInfo | None, start: int, folders: tuple[str, ...]) -> None:
        if at is not None and is_picture(name):
            parts = tuple(part for part in name.split("/") if part not in ("", "."))
            member = Member(str(archive), name, start + at.offset_data, at.size)
            (inside if folders else own).append(((*folders, *parts), member))
        elif looks_like_a_picture(name) or _is_tar(name):
            over.append(f"{archive.name}: {name}")

    with _open_tar(archive) as outer:
        for name, at in _files_of(outer, archive):
            if at is None or not _is_tar(name):
                take(name, at, 0, ())
                continue
            folder, slash, base = name.rpartition("/")
            if folder not in ("", "."):
                raise InputError(
                    "an archive of a class in a folder",
                    got=f"{archive}: {name}",
                    expected="CLASS.tar, or CLASS/IMAGE",
                    remedy="put the archives of the classes at the top of the outer one",
                )
            with tarfile.open(fileobj=outer.extractfile(at), mode="r:") as inner:
                for below, where in _files_of(inner, f"{archive}: {name}"):
                    take(below, where, at.offset_data, (base[: -len(".tar")],))
    return inside + own, over


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """An archive that is not compressed, and ends as a tar does, in 1,024 zeros: tarfile takes one that is cut for whole."""
    with path.open("rb") as file:
        file.seek(-min(1024, path.stat().st_size), 2)
        if file.read() != bytes(1024):
            raise InputError(
                "the archive is cut short, or is none",
                got=f"{path}: no end marker",
                expected="an intact tar, not compressed",
                remedy="copy or make it again",
            )
    with tarfile.open(path, "r:") as archive:
        yield archive


def _files_of(archive: tarfile.TarFile, where: Path | str) -> Iterator[tuple[str, tarfile.TarInfo | None]]:
    """The files of an archive that are not hidden, and where the bytes of each are: of a link, those of its target.

    None stands for one without bytes of its own: a link to nothing, a device, a file with holes.

    Raises:
        InputError: for what looks like a sample and stands twice, and for an archive that has others behind it.
    """
    names: set[str] = set()
    links: list[tarfile.TarInfo] = []
    for info in archive:
        if info.isdir() or is_hidden(info.name):
            continue
        if looks_like_a_picture(info.name) or info.name.endswith((".cls", ".tar")):
            name = posixpath.normpath(info.name)
            if name in names:
                raise InputError(
                    "a file stands twice in an archive",
                    got=f"{where}: {name}",
                    expected="each file once (tar -r appends another version, and does not replace the first)",
                    remedy="make the archive again from the files",
                )
            names.add(name)
        if info.islnk() or info.issym():
            links.append(info)
        else:
            yield info.name, info if info.isreg() and not info.issparse() else None
    if links:
        targets = {posixpath.normpath(info.name): info for info in archive.getmembers()}
        yield from ((link.name, _target(link, targets)) for link in links)
    _check_end(archive, where)


def _target(link: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The file that a link leads to, over other links too; None where there is none in the archive."""
    found: tarfile.TarInfo | None = link
    for _ in range(40):  # as many as Linux follows
        if found is None or not (found.islnk() or found.issym()):
            break
        folder = posixpath.dirname(found.name) if found.issym() else ""
        found = members.get(posixpath.normpath(posixpath.join(folder, found.linkname)))
    return found if found is not None and found.isreg() and not found.issparse() else None


def _check_end(archive: tarfile.TarFile, where: Path | str) -> None:
    """Fail if anything but zeros is behind the last file that was read: of archives that were joined, the others."""
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    while content := file.read(1 << 20):
        if content.strip(b"\0"):
            raise InputError(
                "an archive goes on behind its end",
                got=f"{where}: more after {archive.offset:,} bytes",
                expected="one intact archive in a file",
                remedy="join archives by tar --concatenate, not by cat; or copy or make it again",
            )


def webdataset(root: Path, pass_over: bool = False) -> Dataset:
    """Shards train-*.tar and val-*.tar of KEY.jpg (or png, ...) and KEY.cls, an integer; classes.txt may name the classes.

    timm's reader of shards is an iterator over a shuffle buffer: it cannot give the i-th image, so neither an order that
    follows from (seed, epoch) nor a resume inside an epoch. Here every shard is indexed once at the start, by its headers, and
    then read at any place.
    """
    listed = _listed_classes(root / "classes.txt")
    found = {part: _shards(root, part) for part in ("train", "val")}
    number = len(listed) or max(max(targets) for _, targets, _ in found.values()) + 1
    classes = listed or tuple(str(c) for c in range(number))

    def split(part: str) -> _Found:
        members, targets, over = found[part]
        return _Found(Members(members, targets), classes, tuple(over))

    return _two("webdataset", root, split, pass_over)


def _listed_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes, one in each line; none where there is no such file."""
    if not path.exists():
        return ()
    expected, remedy = "the name of a class in each line, in the order of their numbers", "correct it, or remove it"
    listed = tuple(name.strip() for name in read_text(path, "names of the classes", expected, remedy).splitlines())
    while listed and not listed[-1]:
        listed = listed[:-1]
    twice = sorted({name for name in listed if listed.count(name) > 1})
    wrong = "it is empty" if not listed else f"line {listed.index('') + 1} is empty" if "" in listed else ""
    if wrong or twice:
        got = f"{path}: {wrong or f'twice: {in_few_words(twice)}'}"
        raise InputError("the names of the classes are not clear", got=got, expected=expected, remedy=remedy)
    return listed


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
    images: dict[str, Member] = {}
    labels: dict[str, Member] = {}
    over: list[str] = []
    try:
        with _open_tar(path) as archive:
            for name, at in _files_of(archive, path):
                directory, slash, base = name.rpartition("/")
                stem, _, ending = base.partition(".")  # as WebDataset reads names: the key ends at the first point
                kind = labels if ending == "cls" else images if ending.lower() in READ else None
                key = directory + slash + stem
                if kind is None or at is None:
                    over += [f"{path.name}: {name}"] if looks_like_a_picture(base) or base.endswith(".cls") else []
                elif key in kind:
                    raise InputError(
                        f"two {'labels' if kind is labels else 'images'} of one sample",
                        got=f"{path}: {kind[key].name} and {name}",
                        expected="one of each for each key, which ends at the first point of the name",
                        remedy="rename one of them",
                    )
                else:
                    kind[key] = Member(str(path), name, at.offset_data, at.size)
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
