"""``wfbench demo``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers
from wfbench.locks import is_locked, locked

#: The columns of the overview that a terminal shows, by how their headings begin.
_SHOWN = ("mixer", "recall", "accuracy", "faster than")


@speaks_plainly
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Where everything goes. Default: in runs/, the same demo if it is unfinished, else a new one."),
    ] = None,
    mixer: Annotated[list[str] | None, several_mixers("A mixer; repeat it. By default softmax, linear, weightformer.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every registered mixer: about an hour on 2 cores.")] = False,
) -> None:
    """Train softmax, linear and WeightFormer, profile them, and say what came out; under 5 minutes on 2 cores."""
    import mixers
    from wfbench.cli.progress import Told, run_table
    from wfbench.errors import InputError
    from wfbench.tasks.demo import UNFINISHED, DemoRequest
    from wfbench.tasks.demo import demo as run

    if every and mixer:
        raise InputError(
            "--all and --mixer exclude each other",
            got=f"--all --mixer {mixer[0]}",
            expected="one of the two",
            remedy="drop one of the two",
        )
    chosen = tuple(dict.fromkeys(mixers.names() if every else mixer or DemoRequest().mixers))
    request, told = DemoRequest.of(chosen), Told()
    out = out or _place(Path("runs/demo"), UNFINISHED, request.identity)
    with locked(out):
        with run_table() as watch:
            ended, error = run(out, watch, told, request)
        told.end()
        bad = {name: status for name, status in ended.items() if status.state != "finished"}
        _show(out)
        if not bad and error is None:
            (out / UNFINISHED).unlink(missing_ok=True)
    for name, status in bad.items():
        typer.echo(f"{status.state}: {name}: {status.message or 'the same command goes on'}", err=True)
    if error is not None:
        raise error
    if bad:
        raise typer.Exit(1)


def _show(out: Path) -> None:
    """Write the report, and print the findings, one table and the plots."""
    from rich.console import Console
    from rich.text import Text

    from wfbench.report import collect, find_runs, make, write_made
    from wfbench.report.findings import findings
    from wfbench.report.terminal import plots

    rows, torn = collect([out])
    made = make(rows, runs=find_runs([out]))
    write_made(made, out, torn)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    for message in torn:
        typer.echo(f"warning: {message}", err=True)
    for finding in findings(made.results):
        console.print()
        console.print(Text(finding.question, style="bold"))
        for sentence in finding.sentences:
            console.print(Text(sentence))
    console.print()
    for table in (table for table in made.tables if table.kind == "overview"):
        console.print(table.only([name for name in table.frame.columns if str(name).startswith(_SHOWN)]).to_rich())
    if console.is_terminal:
        for plot in plots(made.results, console.width):
            typer.echo(plot)
    console.print(Text(f"All tables: {out / 'tables.md'}"))
    console.print(Text(f"The page with charts and a chooser: {out / 'page.html'}"), soft_wrap=True)


def _place(path: Path, note: str, identity: str) -> Path:
    """The first of path, path-2, path-3, … that does not exist, or has the note of an unfinished demo with this identity.

    Another demo is never touched, nor one that another process works on.
    """
    number, candidate = 1, path
    while candidate.exists() and not _goes_on(candidate, note, identity):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _goes_on(place: Path, note: str, identity: str) -> bool:
    try:
        return (place / note).read_text() == identity and not is_locked(place)
    except (OSError, UnicodeDecodeError):
        return False
