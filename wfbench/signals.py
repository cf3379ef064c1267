"""Signals that ask a process to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def noted(numbers: Sequence[signal.Signals], then: Callable[[], object]) -> Iterator[list[int]]:
    """A list of the signals that came, each followed by ``then``; the handlers from before are put back at the end.

    Outside the main thread, which alone is sent signals, the list stays empty.
    """
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        seen.append(number)
        then()

    before = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
