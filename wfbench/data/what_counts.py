"""Which files are data: one rule for folders and archives alike.

Hidden files and folders, and what operating systems and archivers leave behind, are no data, wherever they lie. Of the others,
what looks like a sample and is not read is *passed over*: it is counted and named, and a recipe must allow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfbench.errors import InputError

#: Endings of pictures that are read, from folders and shards.
READ = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm"})
#: Endings of pictures that are not.
_NOT_READ = frozenset({"gif", "jfif", "jp2", "j2k", "avif", "heic", "heif", "jxl", "tga", "exr", "hdr", "pbm", "pnm", "ico"})
#: Left behind by systems and archivers, beside all that begins with a point.
_LEFT_BEHIND = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data; of a path, whether one of its parts is so."""
    if "/" in name:
        return any(map(is_hidden, name.split("/")))
    return (name.startswith(".") and name not in (".", "..")) or name in _LEFT_BEHIND


def is_picture(name: str) -> bool:
    """Whether a name ends as pictures do that are read."""
    return name.rpartition(".")[2].lower() in READ  # `_ending`, without a call for each of a million files


def looks_like_a_picture(name: str) -> bool:
    """Whether a name ends as pictures do, read or not."""
    return _ending(name) in READ | _NOT_READ


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def in_few_words(names: Sequence[str]) -> str:
    """How many, and the first of them."""
    some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    return f"{len(names):,} ({some})" if names else "none"


def check_passed_over(names: Iterable[str], allowed: bool) -> tuple[str, ...]:
    """What looks like a sample and is not read, in order.

    Raises:
        InputError: if there is any and it is not allowed.
    """
    found = tuple(sorted(names))
    if found and not allowed:
        raise InputError(
            "files that look like samples would not be read",
            got=in_few_words(found),
            expected=f"{', '.join(sorted(READ))} in a folder of their class; in a shard, KEY.png (or ...) and KEY.cls",
            remedy="rename, convert or remove them, or set data.pass_over=true: then they are counted in the record",
        )
    return found
