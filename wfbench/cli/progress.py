"""What a person sees of long work: a Rich progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


class Lines:
    """Plain lines: one at every tenth of the epochs, and the last."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs = title, epochs

    def step(self, epoch: int, step: int, loss: float | None) -> None:
        """Silent."""

    def epoch(self, row: dict[str, Any]) -> None:
        """One line for the epoch, if it is one of the tenths."""
        number = row["epoch"]
        if number == self.epochs or number % max(1, self.epochs // 10) == 0:
            typer.echo(
                f"{self.title}: epoch {number}/{self.epochs}  train loss {row['train_loss']:.4f}  "
                f"held-out accuracy {100 * row['accuracy']:.2f} % of {row['samples']}  {row['train_seconds']:.1f} s"
            )


class Bar:
    """A Rich progress bar over all steps."""

    def __init__(self, title: str, epochs: int, progress: Any) -> None:
        self.title, self.epochs, self.progress = title, epochs, progress
        self.task = progress.add_task(title, total=None, words="")
        self.words = ""

    def step(self, epoch: int, step: int, loss: float | None) -> None:
        """Move on; the share of the present epoch is known once one epoch is over."""
        self.progress.update(self.task, total=self.epochs, completed=epoch, words=f"step {step} {self.words}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the epoch's figures."""
        self.words = f"held-out {100 * row['accuracy']:.2f} %  loss {row['train_loss']:.4f}"
        self.progress.update(self.task, total=self.epochs, completed=row["epoch"], words=self.words)


@contextmanager
def watching(title: str, epochs: int) -> Iterator[Lines | Bar]:
    """A watcher of one training run."""
    if not sys.stdout.isatty():
        yield Lines(title, epochs)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[words]}")) as progress:
        yield Bar(title, epochs, progress)


class Told:
    """Short news of long work: a status line that changes on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, line: str) -> None:
        """Pass the news on."""
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\x1b[K{line[:100]}")
            sys.stdout.flush()
        elif time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            typer.echo(line)

    def end(self) -> None:
        """Clear the status line."""
        if sys.stdout.isatty():
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()
