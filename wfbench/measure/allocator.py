"""Memory that is kept: a call's time without the page faults of memory that the call before gave back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The numbers of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 2**20


def _glibc() -> Any:
    """The C library, if it is one whose allocator can be told to keep memory."""
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except (OSError, TypeError):
        return None


@contextmanager
def kept_memory() -> Iterator[bool]:
    """Let the allocator keep what is freed, for a while; says whether it can.

    glibc maps every large block afresh and gives it back when it is freed, so that a call whose temporaries are large pays
    for a page fault with every 4 KiB, again and again, and one whose temporaries are small never does. Its time then seems
    to grow with a step that is the allocator's, not the mixer's. Within this context, large blocks come from the heap and
    stay there: after a call to warm up, no call asks the system for memory.

    Elsewhere than with glibc nothing is changed. Afterwards the thresholds are those which glibc arrives at by itself in a
    process that has freed a block of 32 MiB or more, and what is free goes back to the system.
    """
    library = _glibc()
    if library is None:
        yield False
        return
    able = bool(library.mallopt(_MMAP_MAX, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, -1))
    try:
        yield able
    finally:
        library.mallopt(_MMAP_MAX, 65536)
        library.mallopt(_MMAP_THRESHOLD, 32 * _MIB)
        library.mallopt(_TRIM_THRESHOLD, 64 * _MIB)
        library.malloc_trim(0)
