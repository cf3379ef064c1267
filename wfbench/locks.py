"""A directory that one process writes at a time."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wfbench.errors import InputError, writing

LOCK = ".lock"
#: Names a directory whose lock this process has from the one that started it, which keeps the file open in it.
INHERITED = "WFBENCH_LOCKED"
#: Of a run on several nodes, which share one lock: how many there are, the number of this one, and the first one's host and
#: port, as JSON.
NODES = "WFBENCH_NODES"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory, which is made if it is not there, and goes again if it stays empty.

    The lock ends with the process, however that ends.

    Raises:
        InputError: if another process has it, saying which; or on a file system without locks.
    """
    if os.environ.get(INHERITED) == str(directory.resolve()):
        yield
        return
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    file = acquire(directory)
    if file is None:
        raise InputError(
            "another process works in the directory",
            got=f"{directory}, held by {_holder(directory)}",
            expected="one process at a time",
            remedy="wait until it ends, or choose another --out",
        )
    try:
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}: {shlex.join(sys.argv)[:500]}\n".encode())
        yield
    finally:
        (directory / LOCK).unlink(missing_ok=True)  # still held: whoever waits for this file finds that it is gone
        os.close(file)
        for path in made:  # work that was refused leaves nothing behind
            with suppress(OSError):
                path.rmdir()


def acquire(directory: Path) -> int | None:
    """Take a directory's lock: an open file that holds it; None if another process does.

    Raises:
        InputError: if the directory cannot be written, or its file system has no locks.
    """
    path = directory / LOCK
    while True:
        with writing("the lock", path, expected="a writable directory", remedy="choose another --out"):
            directory.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError as e:
            os.close(file)
            raise InputError(
                "the file system has no locks",
                got=f"{path}: {e.strerror}",
                expected="a place where one process can keep others out",
                remedy="choose an --out on a local disk, or have the file system mounted with locks",
            ) from e
        if _is_at(file, path):
            return file
        os.close(file)  # whoever held it has ended and removed it meanwhile


def is_locked(directory: Path) -> bool:
    """Whether a process holds the directory."""
    if not (directory / LOCK).exists():
        return False
    file = acquire(directory)
    if file is not None:
        os.close(file)
    return file is None


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _holder(directory: Path) -> str:
    try:
        return (directory / LOCK).read_text(errors="replace").strip() or "a process that does not say which"
    except OSError:
        return "a process that has just ended"
