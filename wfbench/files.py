"""Files that are whole or absent, and what they hash to."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wfbench.errors import InputError


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file; a pipe or a device, from which reading would never end, is an OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


#: Left behind by systems and archivers, beside all that begins with a point.
_LEFT_BEHIND = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is neither data nor a result; of a path, whether one of its parts is so."""
    if "/" in name:
        return any(map(is_hidden, name.split("/")))
    return (name.startswith(".") and name not in (".", "..")) or name in _LEFT_BEHIND


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """A directory and those below it that are not hidden, with the names of their files, in order.

    Links to directories are not followed.

    Raises:
        InputError: for one that may not be searched: what is in it would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # nothing is there, or nothing any more
            return
        raise InputError(
            "cannot search a directory",
            got=f"{error.filename}: {error.strerror}",
            expected="a readable one",
            remedy="allow it to be searched, or name the directories beside it one by one",
        ) from error

    for place, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield Path(place), names


def in_bytes(size: int) -> str:
    """A size for people: three digits and a unit."""
    for unit, value in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= value:
            return f"{size / value:.3g} {unit}"
    return f"{size} bytes"


@contextmanager
def whole(path: Path, suffix: str = "") -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` once it is written.

    Whoever is killed when, a reader finds the old file or the new one; if writing fails, the old one and nothing else.

    Args:
        path: the file.
        suffix: tells the unfinished file from that of another process that may write the same one.
    """
    part = path.with_name(f".{path.name}{suffix}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str, suffix: str = "") -> None:
    """Write a text file, whole."""
    with whole(path, suffix) as part:
        part.write_text(text)


@contextmanager
def part_directory(place: Path, name: str) -> Iterator[Path]:
    """A hidden directory ``.NAME-…`` in ``place`` for files until all of them are whole; it is removed at the end.

    Those that killed processes left there are removed too: a process holds a lock on its own while it lives. On a file system
    without locks they stay.
    """
    for left in place.glob(f".{name}-*"):
        with suppress(OSError):
            file = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(file)
    with tempfile.TemporaryDirectory(dir=place, prefix=f".{name}-") as made:
        file = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(made)
        finally:
            os.close(file)
