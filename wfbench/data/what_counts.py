"""Which files are data: one rule for folders and archives alike.

Hidden files and folders, and what operating systems and archivers leave behind, are no data, wherever they lie. Of the others,
what looks like a sample and is not read is *passed over*: it is counted and named, and a recipe must allow it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from wfbench.errors import InputError
from wfbench.files import is_hidden

__all__ = ["READ", "check_passed_over", "in_few_words", "is_hidden", "is_picture", "looks_like_a_picture"]

#: Endings of pictures that are read, from folders and shards.
READ = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm"})
#: Endings of pictures that are not read, whatever Pillow knows: it can be built without a format, and then does not name it.
_NOT_READ = frozenset(
    {"gif", "jfif", "jp2", "j2k", "avif", "heic", "heif", "jxl", "tga", "exr", "hdr", "pbm", "pnm", "ico"}
    | {"svg", "psd", "raw", "dng", "nef", "cr2", "arw"}
)
#: What Pillow knows and is no picture: documents, films, tables of numbers.
_NO_PICTURES = frozenset({"pdf", "ps", "eps", "mpg", "mpeg", "h5", "hdf", "grib", "bufr", "emf", "wmf"})


def is_picture(name: str) -> bool:
    """Whether a name ends as pictures do that are read."""
    return name.rpartition(".")[2].lower() in READ  # `_ending`, without a call for each of a million files


def looks_like_a_picture(name: str) -> bool:
    """Whether a name ends as pictures do, read or not."""
    return _ending(name) in _pictures()


@functools.cache
def _pictures() -> frozenset[str]:
    """Endings of pictures of any kind."""
    from PIL import Image

    known = {ending.removeprefix(".") for ending in Image.registered_extensions()}
    return READ | _NOT_READ | (known - _NO_PICTURES)


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
