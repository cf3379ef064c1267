"""``wfbench recipes``: the recipes and sweeps that come with the package, what each needs and costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli.errors import speaks_plainly

if TYPE_CHECKING:
    from wfbench.tasks.catalogue import RecipeEntry


@speaks_plainly
def recipes(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """List the recipes with task, data, length, cost and source, and the sweeps with their runs."""
    from dataclasses import asdict

    from wfbench import shipped
    from wfbench.tasks.catalogue import PASSES, describe_recipe, describe_sweep

    found = [describe_recipe(name) for name in shipped.names("recipes")]
    sweeps = [describe_sweep(name) for name in shipped.names("sweeps")]
    if as_json:
        both = {"recipes": [asdict(entry) for entry in found], "sweeps": [asdict(entry) for entry in sweeps]}
        typer.echo(json.dumps(both, indent=2, ensure_ascii=False, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 200)
    first = ("recipe", "task", "model", "data", "epochs", "batch", "steps")
    table = Table(*first, "images seen", "GMACs", "TMACs", "time", "source")
    for entry in found:
        table.add_row(*_row(entry))
    console.print(table)
    typer.echo("data: a star is before what you supply (docs/DATA.md); the rest comes with the bench.")
    typer.echo(f"GMACs: of one image's forward pass. TMACs: of the whole training, each step as {PASSES} forward passes.")
    typer.echo("time: as the recipe's head says it; n.a. is what only the data say. One of them: wfbench show NAME\n")
    table = Table("sweep", "recipes", "lines", "seeds", "runs", "claims", "about")
    for sweep in sweeps:
        numbers = (sweep.lines, sweep.seeds, sweep.runs, sweep.claims or "none")
        table.add_row(sweep.name, ", ".join(sweep.recipes), *map(str, numbers), sweep.about)
    console.print(table)
    typer.echo("A sweep is run by its name: wfbench sweep NAME --dry-run")


def in_tmacs(work: int) -> str:
    """MACs in units of 10^12: three digits, or all of a large number."""
    return f"{work / 1e12:.3g}" if work < 1e14 else f"{work / 1e12:,.0f}"


def _row(entry: RecipeEntry) -> list[str]:
    """The cells of a recipe."""
    n_a = "n.a."
    supply = "".join(f"\n* {what}" for what in entry.supply)
    seen = n_a if entry.images is None else f"{entry.epochs * entry.images:,}"
    return [
        entry.name,
        entry.task,
        entry.model,
        supply.strip() or entry.data,
        str(entry.epochs),
        f"{entry.batch:,}",
        n_a if entry.steps is None else f"{entry.steps:,}",
        seen,
        n_a if entry.macs is None else f"{entry.macs / 1e9:.4g}",
        n_a if entry.work is None else in_tmacs(entry.work),
        entry.time or "–",
        ", ".join(f"arXiv {paper}" for paper in entry.papers) or "–",
    ]
