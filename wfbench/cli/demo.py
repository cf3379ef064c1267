"""``wfbench demo``: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers

#: The columns of the overview that a terminal shows, by how their headings begin.
_SHOWN = ("mixer", "recall", "accuracy", "faster than")


@speaks_plainly
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Where everything goes; by default runs/demo, or the next free name.")
    ] = None,
    mixer: Annotated[list[str] | None, several_mixers("A mixer; repeat it. By default softmax, linear, weightformer.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every registered mixer: about an hour on 2 cores.")] = False,
) -> None:
    """Train softmax, linear and WeightFormer, profile them, and say what came out; under 5 minutes on 2 cores."""
    import mixers
    from wfbench.cli.progress import Told, run_table
    from wfbench.errors import InputError
    from wfbench.tasks.demo import DemoRequest
    from wfbench.tasks.demo import demo as run

    if every and mixer:
        raise InputError(
            "--all and --mixer exclude each other",
            got=f"--all --mixer {mixer[0]}",
            expected="one of the two",
            remedy="drop one of the two",
        )
    chosen = tuple(dict.fromkeys(mixers.names() if every else mixer or DemoRequest().mixers))
    out, told = out or _free(Path("runs/demo")), Told()
    with run_table() as watch:
        ended = run(out, watch, told, DemoRequest.of(chosen))
    told.end()
    bad = {name: status for name, status in ended.items() if status.state != "finished"}
    _show(out)
    for name, status in bad.items():
        typer.echo(f"{status.state}: {name}: {status.message or 'the same command goes on'}", err=True)
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


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, … that does not exist: an earlier demo is never touched."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
