"""What a data set consists of, file by file, so that two with one name can be told from each other.

An image in a folder counts by its name and size; of each split `SAMPLE` images, chosen by their names, count by their content
too, so that a small folder is known exactly and a large one is not read through. Archives, shards and tables are hashed, large
ones by some blocks, and so are images that are held in memory. Names are relative to the data set's folder: a folder that was
moved is the same data.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wfbench import files
from wfbench.errors import InputError

#: Hexadecimal digits of a digest in a row.
DIGITS = 12
#: Images of a split that are hashed.
SAMPLE = 1000
#: A file of more bytes than these is hashed by `BLOCKS` blocks of so many bytes, evenly spaced from its first to its last.
LARGE, BLOCK, BLOCKS = 2**26, 2**20, 16
#: Differences that are named one by one.
_NAMED = 6

_WITH_HASH = ", SHA-256 "

#: (name, what it holds): a size in bytes, or a hash.
Entry = tuple[str, str]


@dataclass(frozen=True)
class Listing:
    """The contents of a data set.

    Attributes:
        classes: their names, in order.
        parts: for "train" and "val" what they hold, with the choice of a subset last.
    """

    classes: tuple[str, ...]
    parts: Mapping[str, tuple[Entry, ...]]

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of a SHA-256 of it all."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()[:DIGITS]

    def part(self, *names: str) -> Listing:
        """The classes and some of the parts alone."""
        return Listing(self.classes, {name: self.parts[name] for name in names if name in self.parts})

    def dumps(self) -> str:
        """As JSON, in ASCII; equal listings give equal text."""
        return json.dumps({"classes": self.classes, "parts": {part: self.parts[part] for part in sorted(self.parts)}})

    @classmethod
    def loads(cls, text: str) -> Listing:
        """Read what `dumps` wrote.

        Raises:
            ValueError: for another text.
        """
        try:
            content = json.loads(text)
            parts = {part: tuple((str(name), str(holds)) for name, holds in rows) for part, rows in content["parts"].items()}
            return cls(tuple(map(str, content["classes"])), parts)
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"not a listing of data: {e}") from e

    def differences(self, here: Listing) -> list[str]:
        """What is other in ``here`` than in this listing, in words; a few files by name, the others counted."""
        found = []
        if self.classes != here.classes:
            names = [name for name in (*self.classes, *here.classes) if (name in self.classes) != (name in here.classes)]
            other = f": {', '.join(names[:_NAMED])} in one only" if names else ", in another order"
            found.append(f"{len(self.classes)} classes then, {len(here.classes)} now{other}")
        for part in sorted({*self.parts, *here.parts}):
            found += _compare(part, dict(self.parts.get(part, ())), dict(here.parts.get(part, ())))
        return found


def _compare(part: str, then: dict[str, str], now: dict[str, str]) -> list[str]:
    gone = [name for name in then if name not in now]
    new = [name for name in now if name not in then]
    both = [(name, *_comparable(then[name], now[name])) for name in then if name in now]
    changed = [f"{name} (then {a}, now {b})" for name, a, b in both if a != b]
    if not (gone or new or changed):
        return []
    words = [f"{part}: {len(then):,} entries then, {len(now):,} now"]
    for what, names in (("missing", gone), ("new", new), ("changed", changed)):
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        words += [f"{what} {', '.join(names[:_NAMED])}{more}"] if names else []
    return ["; ".join(words)]


class Listed(Protocol):
    """A split that can say what it consists of."""

    def entries(self) -> tuple[Entry, ...]:
        """Names, and what they hold."""
        ...


def list_data(classes: tuple[str, ...], train: Listed, val: Listed) -> Listing:
    """The contents of a data set in two splits.

    Raises:
        InputError: if a file is gone or cannot be read.
    """
    try:
        return Listing(classes, {"train": train.entries(), "val": val.entries()})
    except OSError as e:
        raise InputError(
            "a file of the data cannot be read",
            got=f"{e.filename}: {e.strerror}",
            expected="files that stay as they are",
            remedy="put it back, or allow it to be read; then give the same command again",
        ) from e


def array_entry(name: str, array: np.ndarray) -> Entry:
    """An array, by its shape, type and bytes."""
    content = np.ascontiguousarray(array)
    shape = "x".join(map(str, content.shape))
    return name, f"{shape} {content.dtype}, SHA-256 {hashlib.sha256(content.tobytes()).hexdigest()[:DIGITS]}"


def numbers_entry(name: str, numbers: Sequence[int]) -> Entry:
    """Whole numbers, such as labels or indices, by how many there are and their hash."""
    return array_entry(name, np.asarray(numbers, dtype="<i8"))


def json_entry(name: str, content: Any) -> Entry:
    """Plain data, by the hash of its JSON."""
    return name, f"SHA-256 {hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]}"


def image_entries(names: Iterable[str | Path], root: Path) -> tuple[Entry, ...]:
    """Images by their names from ``root`` and their sizes, some of them also by their hashes."""
    found = {str(name): f"{os.stat(os.path.join(root, name)).st_size} bytes" for name in names}
    for name in heapq.nsmallest(SAMPLE, found, key=lambda name: (zlib.crc32(name.encode(errors="surrogatepass")), name)):
        found[name] += f"{_WITH_HASH}{_hash_image(root / name)}"
    return tuple(sorted(found.items()))


def hash_entries(paths: Iterable[str | Path], root: Path) -> tuple[Entry, ...]:
    """Files by their names from ``root``, their sizes and hashes; each is read once in a process while it stays as it is."""
    named = {Path(path).relative_to(root).as_posix(): Path(path) for path in paths}
    return tuple(
        (name, f"{named[name].stat().st_size} bytes{_WITH_HASH}{_hash(named[name])[:DIGITS]}") for name in sorted(named)
    )


def _hash_image(path: Path) -> str:
    """What can be read of an image; training says what it thinks of one that cannot."""
    try:
        return _hash(path)[:DIGITS] if path.is_file() else "no file"
    except OSError:
        return "unreadable"


def _comparable(then: str, now: str) -> tuple[str, str]:
    """Two entries of one name; where one alone was hashed, their sizes."""
    if (_WITH_HASH in then) != (_WITH_HASH in now):
        return then.partition(_WITH_HASH)[0], now.partition(_WITH_HASH)[0]
    return then, now


def _hash(path: Path) -> str:
    status = path.stat()
    return _hash_of_state(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _hash_of_state(path: Path, size: int, modified: int) -> str:
    if size <= LARGE:
        return files.sha256(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for k in range(BLOCKS):
            file.seek(k * (size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
