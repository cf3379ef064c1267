"""``wfbench models``: the presets, and what each costs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def models(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List the presets with task, mixer, sizes, parameters and MACs; any other mixer goes into each of them."""
    from dataclasses import asdict

    from wfbench.tasks.catalogue import describe_model, model_names

    found = [describe_model(name) for name in model_names()]
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    heads = ("model", "task", "mixer", "image (px)", "patch", "blocks", "width", "heads", "params (M)", "GMACs")
    table = Table(*heads)
    for entry in found:
        size = "x".join(map(str, entry.image_size)) + (f" of {entry.channels} channels" if entry.tasks == ("dit",) else "")
        numbers = (
            entry.patch_size,
            entry.blocks,
            entry.width,
            entry.heads,
            f"{entry.params / 1e6:.4g}",
            f"{entry.macs / 1e9:.4g}",
        )
        table.add_row(entry.name, ", ".join(entry.tasks), entry.mixer, size, *map(str, numbers))
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    typer.echo("MACs: multiply-adds of one image's forward pass at that size, with the head of 1,000 classes.")
    typer.echo("dit-*: of latents of 32x32, which are images of 256 px. One of them: wfbench show NAME")
