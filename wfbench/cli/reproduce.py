"""``wfbench reproduce``: recorded cells, run again here."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.locks import locked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfbench.records import AnyRow, ReproductionRow
    from wfbench.tasks.reproduce import Cells, Plan

#: Tables that a report writes beside its records.
_TABLES = (".csv", ".md", ".tex")


@speaks_plainly
def reproduce(
    source: Annotated[Path, typer.Argument(help="Records, a directory with records, or a table of a report beside them.")],
    cells: Annotated[int, typer.Option(help="How many cells are drawn.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    data: Annotated[str | None, typer.Option(help="Where trainings find their images, as in `wfbench train`.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda. Default: the device kind of each record.")] = None,
    out: Annotated[Path, typer.Option(help="Where new measurements, runs and the answers go.")] = Path("runs/reproduce"),
) -> None:
    """Draw recorded cells at random, run them again here, and say of each whether the record and the new run agree.

    A cell is a mixer at one size of a profile, compared by its speed-up over the baseline, or one training, compared by its
    final metric. Where nothing has changed, any cell disagrees in at most 5 % of calls. A cell that cannot be repeated is
    listed with what is missing. Of a table every cell is first held against what its records give. Exit code 1 if any
    disagrees, 2 if none can be compared. The same call goes on where it was stopped; another --out begins anew.
    docs/REPRODUCE.md has the rule.
    """
    from wfbench.errors import InputError
    from wfbench.report import collect
    from wfbench.tasks import reproduce as task
    from wfbench.tasks.common import choose_device, writable_dir
    from wfbench.tasks.reproduce.cells import subject_of
    from wfbench.tasks.reproduce.run import nothing_compared

    place = _records_of(source)
    rows, torn = collect([place])
    root = place if place.is_dir() else place.parent
    wrong = _wrong_cells(source, rows, place) if source.suffix in _TABLES else []
    try:
        found = task.find_cells(rows, root, subject_of(source) if source.suffix in _TABLES else None)
        if source.suffix in _TABLES:
            found = _of_table(source, rows, place, found)
        chosen = None if device is None else choose_device(device).type
        made = task.plan(task.ReproduceRequest(str(source), cells, seed, data, chosen), found)
        writable_dir(out)
        with locked(out):
            for message in torn:
                typer.echo(f"warning: {message}", err=True)
            _show_plan(made)
            answers = task.reproduce(made, out, _Told())
        _show(answers, made, out)
        if all(row.answer == "cannot be compared" for row in answers):
            raise nothing_compared([(row.cell, row.reason) for row in answers])
    except InputError as e:
        if not wrong:
            raise
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(1) from e
    if wrong or any(row.answer == "disagree" for row in answers):
        raise typer.Exit(1)


class _Told:
    """Says each answer as it comes, and lends what watches profiles and trainings."""

    def answered(self, row: ReproductionRow) -> None:
        """A line."""
        typer.echo(f"{row.answer}: {row.cell}")

    def profile(self) -> AbstractContextManager[Any]:
        """As in `wfbench profile`."""
        from wfbench.cli.progress import cell_table

        return cell_table()

    def training(self, name: str, epochs: int) -> AbstractContextManager[Any]:
        """As in `wfbench train`."""
        from wfbench.cli.progress import watching

        return watching(name, epochs)


def _wrong_cells(table: Path, rows: Sequence[AnyRow], place: Path) -> list[str]:
    """What the table says otherwise than its records give, cell by cell, which is also printed."""
    from wfbench.errors import InputError
    from wfbench.report import find_runs, made_by
    from wfbench.report.checked import unlike

    try:
        wrong = unlike(table, rows, find_runs([place]))
    except InputError as e:
        typer.echo(f"{table.name} is not checked: {e}", err=True)
        return []
    if wrong is None:
        typer.echo(f"{table.name} is not checked: the records beside it give no table of this name without options", err=True)
        return []
    if wrong and (command := made_by(table.with_name("tables.md"))) is not None:
        why = f"it was made by `{command}`, and the records beside it alone give another"
        typer.echo(f"{table.name} is not checked: {why}", err=True)
        return []
    for line in wrong:
        typer.echo(f"disagree: {table.name}, {line}")
    if not wrong:
        typer.echo(f"agree: every cell of {table.name} is what its records give")
    return wrong


def _of_table(table: Path, rows: Sequence[AnyRow], place: Path, found: Cells) -> Cells:
    """The cells that the table shows; all of them where it does not say which, which is then printed."""
    from wfbench.report import find_runs
    from wfbench.report.checked import lines_of
    from wfbench.tasks.reproduce.cells import of_table

    shown = of_table(found, lines_of(table, rows, find_runs([place])))
    if shown is None:
        typer.echo(f"{table.name} does not say which cells it shows: any of the records beside it may be drawn", err=True)
    return shown or found


def _records_of(source: Path) -> Path:
    """The records that a table was made from: those beside it and below; else the path itself.

    Raises:
        InputError: for a table that is not there, or one with no records beside it.
    """
    from wfbench.errors import InputError
    from wfbench.files import walk

    if source.suffix not in _TABLES:
        return source
    if not source.is_file():
        raise InputError("no such table", got=source, expected="a table that `wfbench report` wrote", remedy="check the path")
    if not any("records.jsonl" in names for _, names in walk(source.parent)):
        raise InputError(
            "a table without records",
            got=f"{source}, and no records.jsonl beside it or below",
            expected="the records that it was made from, in its directory",
            remedy="name the records themselves",
        )
    return source.parent


def _show_plan(plan: Plan) -> None:
    drawn, among = len(plan.drawn), len(plan.found.cells)
    typer.echo(f"{drawn} of {among} cells, drawn by seed {plan.request.seed}:")
    for cell in plan.drawn:
        typer.echo(f"  {cell.subject}: {cell.name}")
    for what, count in sorted(plan.found.left_out.items()):
        typer.echo(f"not drawn from: {count} {what}")


def _show(answers: Sequence[ReproductionRow], plan: Plan, out: Path) -> None:
    """A table, then the reason of each answer and what is other here, then one line with the totals."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if Console().is_terminal else 160)
    table = Table("cell", "quantity", "recorded", "new", "difference", "found from", "answer")
    colours = {"agree": "green", "disagree": "bold red", "cannot be compared": "dim"}
    for row in answers:
        answer = f"[{colours[row.answer]}]{row.answer}[/]"
        table.add_row(*map(escape, (row.cell, row.quantity, *_figures(row))), answer)
    console.print(table)
    for row in answers:
        console.print(escape(f"{row.cell}: {row.answer}: {row.reason}"))
        if row.same_predictions is not None:
            console.print(f"  the same class is predicted for {100 * row.same_predictions:.2f} % of the held-out images")
        for other in row.differs:
            console.print(escape(f"  other in the record: {other}"))
    counts = {answer: sum(row.answer == answer for row in answers) for answer in colours}
    words = ", ".join(f"{count} {answer}" for answer, count in counts.items())
    console.print(f"{words}; where nothing has changed, any of the cells disagrees in at most 5 % of calls")
    console.print(escape(f"answers, new measurements and runs: {out}"))


def _figures(row: ReproductionRow) -> tuple[str, str, str, str]:
    """Recorded, new, difference with its interval, and the smallest change that is likely to be found."""
    is_ratio, percent = row.subject == "profile", row.quantity in ("accuracy", "mIoU", "mean accuracy over levels")
    scale, unit = (100.0, " points") if percent else (1.0, "")

    def figure(value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:.3g}×" if is_ratio else f"{100 * value:.2f} %" if percent else f"{value:.4f}"

    def difference(value: float) -> str:
        return f"{value:.3g}" if is_ratio else f"{scale * value:+.2f}"

    if row.difference is None:
        return figure(row.recorded), figure(row.new), "–", "–"
    known = row.low is not None and row.high is not None
    interval = f" [{difference(row.low or 0)}, {difference(row.high or 0)}]" if known else ""
    said = f"× {difference(row.difference)}{interval}" if is_ratio else f"{difference(row.difference)}{interval}{unit}"
    if row.found_from is None:
        return figure(row.recorded), figure(row.new), said, "–"
    least = f"× {row.found_from:.3g}" if is_ratio else f"{scale * row.found_from:.2f}{unit}"
    return figure(row.recorded), figure(row.new), said, least
