"""The one error that means "your input was wrong", as opposed to "the bench is broken"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


class InputError(ValueError):
    """Bad input, said once and in full: what was wrong, what was got, what was expected, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> None:
        lines = [what]
        for word, value in (("got", got), ("expected", expected), ("remedy", remedy)):
            if value is not None:
                lines.append(f"  {word + ':':<9} {value}")
        super().__init__("\n".join(lines))


class UndeclaredError(InputError):
    """Something declares no MACs: where a number is counted instead, this is no error."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known ones, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


@contextmanager
def writing(what: str, where: object, *, expected: str, remedy: str) -> Iterator[None]:
    """Work that writes to disk: its failure becomes one message.

    Raises:
        InputError: "cannot write ``what``", for a full disk, a missing permission, or whatever the system says.
    """
    try:
        yield
    except (OSError, SafetensorError) as e:
        raise InputError(
            f"cannot write {what}", got=f"{where}: {getattr(e, 'strerror', None) or e}", expected=expected, remedy=remedy
        ) from e
