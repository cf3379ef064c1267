"""Archives and folders as people make them: links, versions, joined files, archives in archives, names of classes."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wfbench.data import Dataset, open_dataset, what_counts
from wfbench.data.pixels import decode
from wfbench.errors import InputError
from wfbench.recipe import DataSection

Fill = Callable[[tarfile.TarFile], None]


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


def put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.LNKTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    archive.addfile(info)


def tar_of(fill: Fill) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        fill(archive)
    return file.getvalue()


def two_classes(archive: tarfile.TarFile, before: str = "") -> None:
    for c, name in enumerate("ab"):
        put(archive, f"{before}{name}/1.png", png(c))


def opened(source: str, root: Path, **settings: object) -> Dataset:
    return open_dataset(DataSection(source=source, path=str(root), **settings))


def tars(root: Path, train: Fill | bytes, val: Fill = two_classes) -> Path:
    (root / "train.tar").write_bytes(train if isinstance(train, bytes) else tar_of(train))
    (root / "val.tar").write_bytes(tar_of(val))
    return root


def shards(root: Path, train: Fill | bytes) -> Path:
    def plain(archive: tarfile.TarFile) -> None:
        for c in range(2):
            put(archive, f"{c}.png", png(c))
            put(archive, f"{c}.cls", b"%d" % c)

    (root / "train-0.tar").write_bytes(train if isinstance(train, bytes) else tar_of(train))
    (root / "val-0.tar").write_bytes(tar_of(plain))
    return root


def values(dataset: Dataset) -> list[tuple[str, int]]:
    """Of each training image its class and its grey."""
    split = dataset.train
    return sorted((dataset.classes[c], int(np.asarray(split.load(i))[0, 0])) for i, c in enumerate(split.targets))


# Tars


def test_a_class_is_the_first_folder_as_in_a_folder_of_images(tmp_path: Path) -> None:
    def deep(archive: tarfile.TarFile) -> None:
        for c, name in enumerate("ab"):
            for k, time in enumerate(("day", "night")):
                put(archive, f"{name}/{time}/1.png", png(10 * c + k))

    found = opened("tar", tars(tmp_path, deep, deep))
    assert found.classes == ("a", "b")
    assert values(found) == [("a", 0), ("a", 1), ("b", 10), ("b", 11)]


def test_an_archive_of_the_folder_itself_is_one_of_its_classes(tmp_path: Path) -> None:
    train, val = (lambda archive, part=part: two_classes(archive, f"{part}/") for part in ("./train", "val"))
    assert values(opened("tar", tars(tmp_path, train, val))) == [("a", 0), ("b", 1)]


def test_images_below_one_folder_of_another_name_have_no_clear_class(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images without a class\n.*all images are in images/, in several folders"):
        opened("tar", tars(tmp_path, lambda archive: two_classes(archive, "images/")))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_is_the_image_that_it_leads_to(kind: bytes, tmp_path: Path) -> None:
    def linked(archive: tarfile.TarFile) -> None:
        link(archive, "a/0.png", "a/1.png" if kind == tarfile.LNKTYPE else "1.png", kind)  # before its target
        two_classes(archive)
        link(archive, "b/2.png", "a/0.png" if kind == tarfile.LNKTYPE else "../a/0.png", kind)  # over another link

    assert values(opened("tar", tars(tmp_path, linked))) == [("a", 0), ("a", 0), ("b", 0), ("b", 1)]


def test_a_link_to_nothing_is_passed_over(tmp_path: Path) -> None:
    def dangling(archive: tarfile.TarFile) -> None:
        two_classes(archive)
        link(archive, "a/2.png", "a/gone.png")
        link(archive, "a/3.png", "3.png", tarfile.SYMTYPE)  # to itself

    with pytest.raises(InputError, match=r"would not be read\n.*2 \(train.tar: a/2.png, train.tar: a/3.png\)"):
        opened("tar", tars(tmp_path, dangling))
    assert len(opened("tar", tmp_path, pass_over=True).passed_over) == 2


def test_an_image_that_stands_twice_is_refused(tmp_path: Path) -> None:
    def again(archive: tarfile.TarFile) -> None:
        two_classes(archive)
        put(archive, "./a/1.png", png(9))

    with pytest.raises(InputError, match=r"stands twice in an archive\n.*train.tar: a/1.png"):
        opened("tar", tars(tmp_path, again))


def test_joined_archives_are_refused(tmp_path: Path) -> None:
    one = tar_of(two_classes)
    with pytest.raises(InputError, match=r"goes on behind its end\n.*train.tar"):
        opened("tar", tars(tmp_path, one + one))
    assert len(opened("tar", tars(tmp_path, one + bytes(100_000))).train) == 2, "zeros are padding"


def test_a_damaged_header_does_not_end_an_archive_unseen(tmp_path: Path) -> None:
    content = bytearray(tar_of(two_classes))
    second = content.index(b"b/1.png")
    content[second : second + 100] = b"\xff" * 100
    with pytest.raises(InputError, match="goes on behind its end"):
        opened("tar", tars(tmp_path, bytes(content)))


def inner(*names: str) -> Fill:
    def fill(archive: tarfile.TarFile) -> None:
        for k, name in enumerate(names):
            put(archive, name, tar_of(lambda each, k=k: put(each, "1.png", png(k))))

    return fill


def test_a_class_may_be_an_archive_and_hidden_ones_are_none(tmp_path: Path) -> None:
    names = ("a.tar", "b.TAR", ".old.tar", "__MACOSX/c.tar")

    def fill(archive: tarfile.TarFile) -> None:
        inner(*names)(archive)
        put(archive, "._a.tar", b"\0\5\x16\7" + bytes(200))  # as macOS leaves behind

    found = opened("tar", tars(tmp_path, fill))
    assert values(found) == [("a", 0), ("b", 1)]
    assert found.passed_over == ()


def test_an_archive_in_an_archive_in_an_archive_is_passed_over(tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        two_classes(archive)
        put(archive, "a.tar", tar_of(inner("more.tar")))

    with pytest.raises(InputError, match=r"would not be read\n.*more.tar"):
        opened("tar", tars(tmp_path, fill))


def test_an_archive_of_a_class_in_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"an archive of a class in a folder\n.*x/a.tar"):
        opened("tar", tars(tmp_path, inner("x/a.tar", "b.tar")))


# Shards


def test_links_in_shards_are_samples(tmp_path: Path) -> None:
    def linked(archive: tarfile.TarFile) -> None:
        for c in range(2):
            put(archive, f"{c}.png", png(c))
            put(archive, f"{c}.cls", b"%d" % c)
        for k in range(2, 6):
            link(archive, f"{k}.png", f"{k % 2}.png")
            link(archive, f"{k}.cls", f"{k % 2}.cls")

    assert values(opened("webdataset", shards(tmp_path, linked))) == [("0", 0)] * 3 + [("1", 1)] * 3


def test_joined_shards_are_refused(tmp_path: Path) -> None:
    def one(archive: tarfile.TarFile) -> None:
        put(archive, "0.png", png(0))
        put(archive, "0.cls", b"0")

    with pytest.raises(InputError, match="goes on behind its end"):
        opened("webdataset", shards(tmp_path, tar_of(one) * 3))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"cat\ndog\n", ("cat", "dog")),
        (b"\xef\xbb\xbfcat\r\ndog", ("cat", "dog")),  # as Windows writes it
        (b"cat\ndog\n\n\n", ("cat", "dog")),
        ("caf\u00e9\nb\n".encode(), ("caf\u00e9", "b")),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"cat\ncat\n", r"twice: 1 \(cat\)"),
        (b"", "it is empty"),
        ("caf\u00e9\nb\n".encode("latin1"), "cannot read the names of the classes"),
        ("a\nb\n".encode("utf-16"), "cannot read the names of the classes"),
    ],
)
def test_the_names_of_classes_are_clear_or_refused(content: bytes, expected: tuple[str, ...] | str, tmp_path: Path) -> None:
    def fill(archive: tarfile.TarFile) -> None:
        for c in range(2):
            put(archive, f"{c}.png", png(c))
            put(archive, f"{c}.cls", b"%d" % c)

    shards(tmp_path, fill)
    (tmp_path / "classes.txt").write_bytes(content)
    if isinstance(expected, tuple):
        assert opened("webdataset", tmp_path).classes == expected
    else:
        with pytest.raises(InputError, match=expected):
            opened("webdataset", tmp_path)


def test_a_folder_in_the_place_of_the_names_is_refused(tmp_path: Path) -> None:
    shards(tmp_path, b"")
    (tmp_path / "classes.txt").mkdir()
    with pytest.raises(InputError, match="cannot read the names of the classes"):
        opened("webdataset", tmp_path)


# Folders


def images(root: Path) -> Path:
    for part in ("train", "val"):
        for c, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / "1.png").write_bytes(png(c))
    return root


@pytest.mark.parametrize("name", ["2.jpe", "3.apng", "4.dib", "5.pcx", "6.gif", "7.HEIC", "8.jfif"])
def test_a_picture_of_any_kind_that_is_not_read_is_named(name: str, tmp_path: Path) -> None:
    (images(tmp_path) / "train/a" / name).write_bytes(png(1))
    with pytest.raises(InputError, match=rf"would not be read\n.*{name}"):
        opened("folder", tmp_path)


def test_a_picture_of_a_format_that_pillow_was_built_without_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "registered_extensions", dict)
    what_counts._pictures.cache_clear()
    try:
        assert all(map(what_counts.looks_like_a_picture, ["a.avif", "a.gif", "a.jp2", "a.heic", "a.png"]))
    finally:
        what_counts._pictures.cache_clear()


@pytest.mark.parametrize("name", ["notes.txt", "about.pdf", "film.mpg", "labels.csv"])
def test_what_is_no_picture_may_lie_there(name: str, tmp_path: Path) -> None:
    (images(tmp_path) / "train/a" / name).write_bytes(b"x")
    assert len(opened("folder", tmp_path).train) == 2


def test_a_link_to_a_folder_above_it_is_refused_and_one_to_another_is_followed(tmp_path: Path) -> None:
    images(tmp_path / "data")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/2.png").write_bytes(png(7))
    os.symlink(tmp_path / "more", tmp_path / "data/train/a/more")
    os.symlink(tmp_path / "more", tmp_path / "data/train/b/more")
    assert values(opened("folder", tmp_path / "data")) == [("a", 0), ("a", 7), ("b", 1), ("b", 7)]
    os.symlink("..", tmp_path / "data/train/a/again")
    with pytest.raises(InputError, match=r"a link to a folder above it\n.*train/a/again"):
        opened("folder", tmp_path / "data")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = images(tmp_path) / "train/a/night"
    closed.mkdir()
    plain = os.scandir

    def scandir(path: str) -> object:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"a folder cannot be read\n.*train/a/night: Permission denied"):
        opened("folder", tmp_path)


# Pixels


def tiff(bits: int, zero_is_black: bool, content: bytes) -> bytes:
    """A grey TIFF of two pixels beside each other."""
    tags = [(256, 4, 2), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, int(zero_is_black)), (273, 4, None)]
    tags += [(277, 3, 1), (278, 4, 1), (279, 4, len(content)), (339, 3, 1)]
    start = 8 + 2 + 12 * len(tags) + 4
    found = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, value in tags:
        found += struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", start if value is None else value)
    return found + struct.pack("<I", 0) + content


@pytest.mark.parametrize(
    ("bits", "content"),
    [(8, bytes([0, 255])), (12, bytes([0x00, 0x0F, 0xFF])), (16, struct.pack("<HH", 0, 65535))],
    ids=["8 bits", "12 bits", "16 bits"],
)
def test_a_grey_tiff_goes_from_black_to_white(bits: int, content: bytes) -> None:
    assert np.asarray(decode(tiff(bits, True, content), "x")).ravel().tolist() == [0, 255]
    if bits != 12:  # which Pillow does not read
        assert np.asarray(decode(tiff(bits, False, content), "x")).ravel().tolist() == [255, 0]
