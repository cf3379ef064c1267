"""What ``wfbench eval`` says of a run of dense prediction."""

from __future__ import annotations

from pathlib import Path

import typer


def show_dense(
    run: Path, weights: str, resolutions: tuple[int, ...], overrides: tuple[str, ...], device: str, out: Path | None
) -> None:
    """Evaluate the weights of a run and print mIoU at each size.

    The exit code is 1 if the trainer recorded another though the machine is the same.
    """
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.evaluate_dense import evaluate_dense_run

    results = evaluate_dense_run(run, weights, resolutions, overrides, device=choose_device(device), out=out)
    for result in results:
        row, (height, width) = result.row, result.row.image_size
        cut = "" if row.window is None or row.stride is None else f", {windows(row.window, row.stride)}"
        typer.echo(
            f"{row.mixer} ({row.weights} weights) at {height}x{width}: mIoU {100 * row.miou:.2f} %, pixel accuracy "
            f"{100 * row.pixel_accuracy:.2f} %, loss {row.loss:.6f}, over {row.pixels:,} labelled pixels of {row.samples:,} "
            f"held-out images{cut}"
        )
        if result.recorded is not None:
            there = result.recorded
            say_recorded(result.is_same is True, f"mIoU {100 * there.miou:.2f} %, loss {there.loss:.6f}", result.elsewhere)
    for note in results[0].notes:
        typer.echo(f"note: {note}", err=True)
    if any(result.is_same is False and not result.elsewhere for result in results):
        raise typer.Exit(1)


def windows(window: tuple[int, int], stride: tuple[int, int]) -> str:
    """How images were cut, in words."""
    (height, width), (down, across) = window, stride
    return f"in windows of {height}x{width} px, every {down} px down and {across} px across"


def say_recorded(is_same: bool, figures: str, elsewhere: str) -> None:
    """Say whether an evaluation gave what the trainer recorded, which were these figures; and how its machine differed."""
    where = f", where the trainer had {elsewhere}" if elsewhere else ""
    typer.echo(f"what the trainer recorded: {'the same' if is_same else f'NOT the same: {figures}{where}'}")
