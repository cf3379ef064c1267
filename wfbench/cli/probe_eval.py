"""What ``wfbench eval`` says of a run on a probe."""

from __future__ import annotations

from pathlib import Path

import typer

from wfbench.cli.dense import say_recorded


def show_probe(run: Path, overrides: tuple[str, ...], device: str, out: Path | None) -> None:
    """Evaluate a run on its probe and print the accuracy at each level and grid.

    The exit code is 1 if the trainer recorded another though the machine is the same.
    """
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.evaluate_probe import evaluate_probe_run

    result = evaluate_probe_run(run, overrides, device=choose_device(device), out=out)
    for cell in result.row.cells:
        found = "not evaluated: the mixer is built for one grid" if cell.accuracy is None else f"{100 * cell.accuracy:.2f} %"
        typer.echo(
            f"{result.row.mixer} on {result.row.probe}, level {cell.level:g} at {cell.grid[0]}x{cell.grid[1]} tokens: {found} "
            f"(chance {100 * cell.chance:.2f} %), {result.row.canvases} canvases"
        )
    if result.recorded is not None:
        figures = ", ".join(f"{cell.level:g}: {100 * (cell.accuracy or 0):.2f} %" for cell in result.recorded.cells)
        say_recorded(result.is_same is True, figures, result.elsewhere)
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    if result.is_same is False and not result.elsewhere:
        raise typer.Exit(1)
