"""``wfbench report``: tables and plots from records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def report(
    paths: Annotated[list[Path] | None, typer.Argument(help="Records, or directories with records. Default: results.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where tables and plots go. Default: the first directory given.")] = None,
) -> None:
    """Write tables (md, csv) and plots (png) from records, and print the tables."""
    sources = paths or [Path("results")]
    write_and_show(sources, out or (sources[0] if sources[0].is_dir() else sources[0].parent))


def write_and_show(paths: Sequence[Path], out: Path) -> None:
    """Report on the records in ``paths`` into ``out``, and print the tables."""
    from rich.console import Console

    from wfbench.report import collect, tables, write

    rows, torn = collect(paths)
    written = write(rows, out, torn)
    console = Console(width=None if Console().is_terminal else 160)
    for table in tables(rows):
        console.print(table.to_rich())
    for message in torn:
        typer.echo(f"warning: {message}", err=True)
    typer.echo(f"{len(written)} files in {out}: " + ", ".join(path.name for path in written))
