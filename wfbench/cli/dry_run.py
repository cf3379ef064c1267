"""What ``wfbench train --dry-run`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from wfbench.tasks.dry_run import DryRun


def show(run: DryRun) -> None:
    """Print the recipe as YAML, then what follows from it."""
    batch, own, part = run.batch
    typer.echo(run.recipe)
    lines = {
        **run.data,
        "steps": f"{run.steps:,}: {run.steps_per_epoch:,} for each epoch",
        "batch": f"{batch:,} images a step, {own:,} in each process, {part:,} in each forward pass",
        "learning rate": ", ".join(f"{rate:.3g} at step {step:,}" for step, rate in run.rates.items()),
        **{f"group {i}": _group(group) for i, group in enumerate(run.groups)},
        "model": f"{run.parameters:,} parameters, {_macs(run)}",
        "memory of a step": f"{run.step_bytes / 1e9:.2f} GB in each process: weights, gradients, moments and activations in "
        "float32, by the shapes; what kernels allocate for themselves comes on top",
        "disk": f"{run.disk_bytes / 1e9:.2f} GB at the most; a checkpoint has {run.checkpoint_bytes / 1e9:.3f} GB",
        "run directory": str(run.out),
    }
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        typer.echo(f"{name + ':':<{width}}{text}")
    typer.echo("nothing was trained and nothing written (--dry-run)")


def _macs(run: DryRun) -> str:
    return f"{run.gmacs:.4g} GMACs an image" if run.gmacs is not None else f"no MACs: {run.why_no_macs}"


def _group(group: object) -> str:
    assert isinstance(group, dict)
    scale = f", rate × {group['lr_scale']:.3g}" if "lr_scale" in group else ""
    return f"weight decay {group['weight_decay']:g}{scale}: {group['tensors']} tensors, {group['parameters']:,} parameters"
