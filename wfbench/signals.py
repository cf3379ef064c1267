"""Signals that ask a process to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

#: What asks a training to stop: Ctrl-C, a scheduler, a terminal that closes.
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked to stop, and what was done is saved: exit code 130 for Ctrl-C, 75 for any other."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 130 if signal_number == signal.SIGINT else 75


@contextmanager
def stopping(message: str) -> Iterator[None]:
    """Work that a signal stops at once, by `Interrupted`; work inside may handle signals in its own way."""

    def stop(number: int) -> None:
        raise Interrupted(message, number)

    with noted(STOP, stop):
        yield


@contextmanager
def noted(numbers: Sequence[signal.Signals], then: Callable[[int], object]) -> Iterator[list[int]]:
    """A list of the signals that came, each followed by ``then``; the handlers from before are put back at the end.

    A process that was told to live on when its terminal closes (nohup) goes on ignoring SIGHUP. Outside the main thread, which
    alone is sent signals, the list stays empty.
    """
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        seen.append(number)
        then(number)

    before = {}
    try:
        for number in numbers:
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            before[number] = signal.signal(number, note)
    except ValueError:  # not in the main thread
        yield seen
        return
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
