"""``wfbench report``: tables, plots and a page from records."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly
from wfbench.files import walk
from wfbench.locks import locked

if TYPE_CHECKING:
    from wfbench.records import AnyRow
    from wfbench.report import Asked, Run
    from wfbench.report.timm_csv import TimmResults

#: Under this `train`, `profile`, `sweep`, `demo`, `erf` and `baselines` write, unless they are told another place.
DEFAULT = Path("runs")


@speaks_plainly
def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Records, or directories with records. Default: the newest in runs/.", autocompletion=complete.results
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where tables and plots go. Default: the first directory given.")] = None,
    baseline: Annotated[
        str, typer.Option(help="The line that accuracies are held against, by its name in the table.")
    ] = "softmax",
    margin: Annotated[
        float | None,
        typer.Option(help="Points of accuracy within which a mixer is as good as the baseline; set it before the runs."),
    ] = None,
    claims: Annotated[
        Path | None, typer.Option(help="A file of claims to answer. Default: those that the sweeps recorded.")
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Also tables of published numbers, marked as such.")] = False,
    timm: Annotated[
        list[Path] | None,
        typer.Option(
            help="A CSV that timm publishes (benchmark-infer-*, results-imagenet): also its numbers at the records' image "
            "sizes, marked as published; repeat it."
        ),
    ] = None,
) -> None:
    """Write tables (md, csv, tex), plots (png) and a page (html) from records, and print the tables."""
    from wfbench.analysis.claims import read_claims
    from wfbench.analysis.lines import BASELINE
    from wfbench.records.row import command_line
    from wfbench.report import Asked, collect, find_runs
    from wfbench.report.timm_csv import read_timm

    theirs = [read_timm(path) for path in timm or []]
    sources = paths or [_newest(DEFAULT)]
    rows, torn = collect(sources)
    if baseline != BASELINE:
        _check_baseline(baseline, rows)
    stated = None if claims is None else read_claims(claims)
    asked = Asked(baseline=baseline, margin=None if margin is None else margin / 100, claims=stated)
    place = out or (sources[0] if sources[0].is_dir() else sources[0].parent)
    is_usual = asked == Asked() and [path.resolve() for path in sources] == [place.resolve()]
    command = "" if is_usual else command_line()
    with locked(place):
        _write_and_show(rows, torn, find_runs(sources), place, asked, published=published, timm=theirs, command=command)


def _newest(place: Path) -> Path:
    """The directory below a place whose records were written last; which one, and why that one, is said.

    Raises:
        InputError: if no directory below it has records.
    """
    from wfbench.errors import InputError

    written = sorted(_written(place).items(), key=lambda item: (-item[1], item[0]))
    if not written:
        raise InputError(
            "nothing to report on",
            got=f"no path, and no records in {place.absolute()}",
            expected=f"what train, profile, sweep or demo wrote into {place}/",
            remedy="run one of them first, here; or name records or a directory that holds some",
        )
    newest, when = written[0]
    others = f", the last of {len(written)} directories in {place}/; all of them: wfbench report {place}" if written[1:] else ""
    typer.echo(f"reporting on {newest}: its records are of {datetime.fromtimestamp(when):%Y-%m-%d %H:%M}{others}", err=True)
    return newest


def _written(place: Path) -> dict[Path, float]:
    """The directories in a place that have records, in them or below, each with when the newest was written."""
    found: dict[Path, float] = {}
    for directory, names in walk(place):
        file = directory / "records.jsonl"
        if file.name in names and file.stat().st_size:
            inside = file.parent.relative_to(place).parts
            top = place / inside[0] if inside else place
            found[top] = max(found.get(top, 0.0), file.stat().st_mtime)
    return found


def _check_baseline(baseline: str, rows: Sequence[AnyRow]) -> None:
    """Refuse a baseline that no table of accuracy has a line of: nothing would be compared."""
    from wfbench.analysis.seeds import accuracies
    from wfbench.errors import InputError, did_you_mean
    from wfbench.report import Asked

    names = {line.label for result in accuracies(rows, Asked()) for line in result.lines}
    if baseline not in names:
        raise InputError(
            "no such baseline",
            got=baseline,
            expected=f"a line of the accuracy tables: {', '.join(sorted(names)) or 'there is none'}",
            remedy=did_you_mean(baseline, names) if names else "train first",
        )


def write_and_show(
    paths: Sequence[Path], out: Path, asked: Asked | None = None, *, published: bool = False, kinds: Sequence[str] = ()
) -> None:
    """Report on the records in ``paths`` into ``out``, and print the tables, or those of some kinds alone."""
    from wfbench.report import collect, find_runs

    _write_and_show(*collect(paths), find_runs(paths), out, asked, published=published, kinds=kinds)


def _write_and_show(
    rows: Sequence[AnyRow],
    torn: Sequence[str],
    runs: Sequence[Run],
    out: Path,
    asked: Asked | None,
    *,
    published: bool,
    timm: Sequence[TimmResults] = (),
    kinds: Sequence[str] = (),
    command: str = "",
) -> None:
    from rich.console import Console

    from wfbench.report import make, unfinished, write_made

    made = make(rows, asked=asked, published=published, timm=timm, runs=runs)
    gc.freeze()  # for each figure Matplotlib has Python look for garbage, and it would search all rows and results
    written = write_made(made, out, torn, command)
    console = Console(width=None if Console().is_terminal else 160)
    for table in made.tables:
        if not kinds or table.kind in kinds:
            console.print(table.to_rich())
    for message in [*torn, *unfinished(made.rows)]:
        typer.echo(f"warning: {message}", err=True)
    typer.echo(f"{len(written)} files in {out}: " + ", ".join(path.name for path in written))
