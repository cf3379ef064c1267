"""``wfbench eval``: a run's accuracy again, by the trainer's own evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory of `wfbench train`.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Evaluate a finished run's final weights, and compare with what the trainer recorded."""
    from wfbench.tasks import classify
    from wfbench.tasks.common import choose_device

    again, row = classify.evaluate_run(run, device=choose_device(device))
    typer.echo(f"{row.mixer}: {100 * again.accuracy:.2f} % of {again.samples} held-out samples, loss {again.loss:.6f}")
    same = again.accuracy == row.accuracy and again.samples == row.samples
    typer.echo(f"the trainer recorded {100 * row.accuracy:.2f} % of {row.samples}: {'the same' if same else 'NOT the same'}")
    if not same:
        raise typer.Exit(1)
