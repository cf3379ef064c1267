"""What ``wfbench eval`` says of a run of dense prediction."""

from __future__ import annotations

from pathlib import Path

import typer


def show_dense(
    run: Path, weights: str, resolutions: tuple[int, ...], overrides: tuple[str, ...], device: str, out: Path | None
) -> None:
    """Evaluate the weights of a run and print mIoU at each size; exit with 1 if the trainer recorded another."""
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.evaluate_dense import evaluate_dense_run

    results = evaluate_dense_run(run, weights, resolutions, overrides, device=choose_device(device), out=out)
    for result in results:
        row, (height, width) = result.row, result.row.image_size
        cut = "" if row.window is None else f", in windows of {row.window[0]} px every {row.window[1]} px"
        typer.echo(
            f"{row.mixer} ({row.weights} weights) at {height}x{width}: mIoU {100 * row.miou:.2f} %, pixel accuracy "
            f"{100 * row.pixel_accuracy:.2f} %, loss {row.loss:.6f}, over {row.pixels:,} labelled pixels of {row.samples:,} "
            f"held-out images{cut}"
        )
        if result.recorded is not None:
            same = "the same" if result.is_same else f"NOT the same: mIoU {100 * result.recorded.miou:.2f} %"
            typer.echo(f"what the trainer recorded: {same}")
    for note in results[0].notes:
        typer.echo(f"note: {note}", err=True)
    if any(result.is_same is False for result in results):
        raise typer.Exit(1)
