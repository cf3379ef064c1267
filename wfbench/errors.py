"""The one error that means "your input was wrong", as opposed to "the bench is broken"."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from safetensors import SafetensorError


def in_full(what: str, got: object = None, expected: object = None, remedy: object = None) -> str:
    """The one form of a message about bad input: what was wrong, and a line for each of the others that there is."""
    lines = [what]
    for word, value in (("got", got), ("expected", expected), ("remedy", remedy)):
        if value is not None:
            lines.append(f"  {word + ':':<9} {value}")
    return "\n".join(lines)


class InputError(ValueError):
    """Bad input, said once and in full: what was wrong, what was got, what was expected, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> None:
        super().__init__(in_full(what, got, expected, remedy))


class NotFiniteError(ArithmeticError):
    """A number or a picture would have come from NaN or infinity. The command line prints it and exits with code 1."""


class _Values(Protocol):
    def isfinite(self) -> Any: ...


class ExportError(RuntimeError):
    """A model that cannot leave the bench with the same outputs; said as `InputError` is, with exit code 1.

    Attributes:
        reason: what was wrong and what was got, in a line.
    """

    def __init__(self, what: str, *, got: object, expected: object = None, remedy: str | None = None) -> None:
        super().__init__(in_full(what, got, expected, remedy))
        self.reason = f"{what}: {got}"


def check_finite(values: float | _Values, what: str, where: object) -> None:
    """Refuse values that are not finite: a number, or a tensor.

    Args:
        values: where a tensor becomes a number or a picture.
        what: they are, for the message.
        where: they are from: images, weights, a step.

    Raises:
        NotFiniteError: naming both.
    """
    if isinstance(values, (int, float)):
        bad = 0 if math.isfinite(values) else 1
        number = 1
    else:
        is_finite = values.isfinite()
        number, bad = is_finite.numel(), int((~is_finite).sum())
    if bad:
        raise NotFiniteError(
            f"{what} not finite\n  got:      {bad:,} of {number:,} values NaN or infinite: {where}\n"
            "  expected: finite numbers\n"
            "  remedy:   look at the weights; in 16 bits, activations may have left the range: evaluate in float32"
        )


class UndeclaredError(InputError):
    """Something declares no MACs: where a number is counted instead, this is no error."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: the nearest known ones, or to choose among them; ``expected`` of the error lists them."""
    near = difflib.get_close_matches(name, sorted(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else "choose one of these"


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
