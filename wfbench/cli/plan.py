"""What ``wfbench train --dry-run`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from wfbench.tasks.plan import Plan


def show(plan: Plan) -> None:
    """Print a plan: the recipe as YAML, then what follows from it."""
    batch, own, part = plan.batch
    typer.echo(plan.recipe)
    lines = {
        **plan.data,
        "steps": f"{plan.steps:,}: {plan.steps_per_epoch:,} for each epoch",
        "batch": f"{batch:,} images a step, {own:,} in each process, {part:,} in each forward pass",
        "learning rate": ", ".join(f"{rate:.3g} at step {step:,}" for step, rate in plan.rates.items()),
        **{f"group {i}": _group(group) for i, group in enumerate(plan.groups)},
        "model": f"{plan.parameters:,} parameters, {_macs(plan)}",
        "memory of a step": f"{plan.step_bytes / 1e9:.2f} GB in each process: weights, gradients, moments and activations in "
        "float32, by the shapes; what kernels allocate for themselves comes on top",
        "disk": f"{plan.disk_bytes / 1e9:.2f} GB at the most; a checkpoint has {plan.checkpoint_bytes / 1e9:.3f} GB",
        "run directory": str(plan.out),
    }
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        typer.echo(f"{name + ':':<{width}}{text}")
    typer.echo("nothing was trained and nothing written (--dry-run)")


def _macs(plan: Plan) -> str:
    return f"{plan.gmacs:.4g} GMACs an image" if plan.gmacs is not None else f"no MACs: {plan.why_no_macs}"


def _group(group: object) -> str:
    assert isinstance(group, dict)
    scale = f", rate × {group['lr_scale']:.3g}" if "lr_scale" in group else ""
    return f"weight decay {group['weight_decay']:g}{scale}: {group['tensors']} tensors, {group['parameters']:,} parameters"
