"""What a person sees of long work: a Rich progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer


class Lines:
    """Plain lines: one at every tenth of the epochs, and the last."""

    def __init__(self, title: str, epochs: int) -> None:
        self.title, self.epochs = title, epochs

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """Silent."""

    def epoch(self, row: dict[str, Any]) -> None:
        """One line for the epoch, if it is one of the tenths."""
        number = row["epoch"]
        if number == self.epochs or number % max(1, self.epochs // 10) == 0:
            typer.echo(
                f"{self.title}: epoch {number}/{self.epochs}  train loss {row['train_loss']:.4f}  {_held_out(row)}  "
                f"{row['train_seconds']:.1f} s"
            )


class Bar:
    """A Rich progress bar over all steps."""

    def __init__(self, title: str, epochs: int, progress: Any) -> None:
        self.title, self.epochs, self.progress = title, epochs, progress
        self.task = progress.add_task(title, total=epochs, words="")
        self.loss, self.held_out = "", ""

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """Move on by a step."""
        if loss is not None:
            self.loss = f"loss {loss:.4f}"
        words = f"epoch {epoch + 1}/{self.epochs} step {step}/{steps}  {self.loss}  {self.held_out}"
        self.progress.update(self.task, completed=epoch + step / steps, words=words)

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the epoch's figures."""
        self.held_out = _held_out(row) or self.held_out


def _held_out(row: dict[str, Any]) -> str:
    """The epoch's held-out figures, whatever the task measures."""
    if "loss" not in row:
        return ""
    if "accuracy" not in row:
        averaged = f", averaged weights {row['ema_loss']:.4f}" if "ema_loss" in row else ""
        return f"held-out loss {row['loss']:.4f}{averaged}"
    averaged = f", averaged weights {100 * row['ema_accuracy']:.2f} %" if "ema_accuracy" in row else ""
    return f"held-out accuracy {100 * row['accuracy']:.2f} % of {row['samples']}{averaged}"


class Silent:
    """Says nothing: the first process speaks for all."""

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """Silent."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Silent."""


@contextmanager
def quiet() -> Iterator[Silent]:
    """A watcher that says nothing."""
    yield Silent()


@contextmanager
def watching(title: str, epochs: int) -> Iterator[Lines | Bar]:
    """A watcher of one training run."""
    if not sys.stdout.isatty():
        yield Lines(title, epochs)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[words]}")) as progress:
        yield Bar(title, epochs, progress)


class Told:
    """Short news of long work: a status line that changes on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.last = 0.0

    def __call__(self, line: str) -> None:
        """Pass the news on."""
        if sys.stdout.isatty():
            room = shutil.get_terminal_size().columns - 1  # a line that wraps could not be cleared
            sys.stdout.write(f"\r\x1b[K{line[:room]}")
            sys.stdout.flush()
        elif time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            typer.echo(line)

    def end(self) -> None:
        """Clear the status line."""
        if sys.stdout.isatty():
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()


class PlainCells:
    """News of a profile as plain lines: one at most every ten seconds."""

    def __init__(self) -> None:
        self.told = Told()

    def begin(self, cells: Sequence[Any]) -> None:
        """Say how many there are."""
        typer.echo(f"{len(cells)} cells")

    def line(self, text: str) -> None:
        """Pass it on."""
        self.told(text)

    def cell(self, cell: Any, figures: dict[str, str]) -> None:
        """Pass on what is known of a cell."""
        self.told(f"{cell.name}: {', '.join(f'{key} {value}' for key, value in figures.items())}")


class LiveCells:
    """A Rich table of all cells, which fills in as they are measured."""

    COLUMNS = ("GMACs", "rounds", "latency", "memory")

    def __init__(self, live: Any) -> None:
        self.live, self.rows, self.text = live, {}, ""  # type: ignore[var-annotated]

    def begin(self, cells: Sequence[Any]) -> None:
        """Show all cells, empty."""
        self.rows = {cell.name: {} for cell in cells}
        self._show()

    def line(self, text: str) -> None:
        """Show under the table what is being done."""
        self.text = text
        self._show()

    def cell(self, cell: Any, figures: dict[str, str]) -> None:
        """Fill in."""
        self.rows[cell.name] = figures
        self._show()

    def _show(self) -> None:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("cell", *self.COLUMNS, box=box.SIMPLE_HEAD)
        for name, figures in self.rows.items():
            table.add_row(Text(name), *(figures.get(column, "") for column in self.COLUMNS))
        self.live.update(Group(table, Text(self.text, style="dim")), refresh=True)


@contextmanager
def cell_table() -> Iterator[PlainCells | LiveCells]:
    """A watcher of a profile."""
    if not sys.stdout.isatty():
        yield PlainCells()
        return
    from rich.live import Live

    # Drawn between measurements alone: a thread that draws would take time from what is measured.
    with Live(auto_refresh=False, transient=True, vertical_overflow="visible") as live:
        yield LiveCells(live)


class PlainRuns:
    """News of a sweep as plain lines: one for each run that begins, ends or fails."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}

    def say(self, line: str) -> None:
        """Pass it on."""
        typer.echo(line)

    def begin(self, runs: Sequence[Any], stands: Sequence[Any]) -> None:
        """Say how many there are, and how they stand."""
        self.states = {run.name: status.state for run, status in zip(runs, stands, strict=True)}
        typer.echo(f"{len(runs)} runs: {_counted(self.states.values())}")

    def changed(self, run: Any, status: Any) -> None:
        """A line, if the state is another one."""
        if self.states.get(run.name) != status.state:
            self.states[run.name] = status.state
            done = sum(state == "finished" for state in self.states.values())
            typer.echo(f"[{done}/{len(self.states)}] {status.state}: {run.name}  {status.message or status.figure}".rstrip())


class LiveRuns:
    """A Rich table of a sweep's runs, which refreshes; those that run or failed stand first."""

    ORDER = ("failed", "running", "queued", "elsewhere", "stopped", "broken", "new", "finished")

    def __init__(self, live: Any) -> None:
        self.live, self.rows, self.said = live, {}, []  # type: ignore[var-annotated]

    def say(self, line: str) -> None:
        """Print it above the table."""
        self.live.console.print(line, highlight=False, markup=False)

    def begin(self, runs: Sequence[Any], stands: Sequence[Any]) -> None:
        """Show all runs."""
        self.rows = {run.name: (run, status) for run, status in zip(runs, stands, strict=True)}
        self._show()

    def changed(self, run: Any, status: Any) -> None:
        """Fill in."""
        self.rows[run.name] = (run, status)
        self._show()

    def _show(self) -> None:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table("run", "state", "epochs", "held out", "message", box=box.SIMPLE_HEAD)
        for run, status in sorted(self.rows.values(), key=lambda row: self.ORDER.index(row[1].state)):
            epochs = f"{status.epoch}/{run.recipe.epochs}"
            table.add_row(Text(run.name), status.state, epochs, status.figure, Text(status.message[:80]))
        words = _counted(status.state for _, status in self.rows.values())
        self.live.update(Group(Text(words, style="dim"), table), refresh=True)


def _counted(states: Iterable[str]) -> str:
    """So many in each state, in words."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in LiveRuns.ORDER if counts[state])


@contextmanager
def run_table() -> Iterator[PlainRuns | LiveRuns]:
    """A watcher of a sweep."""
    if not sys.stdout.isatty():
        yield PlainRuns()
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        yield LiveRuns(live)
