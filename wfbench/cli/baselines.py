"""``wfbench baselines``: how far simple classifiers come on a recipe's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def baselines(
    recipe: Annotated[str, typer.Option(help="The recipe whose data are taken.", autocompletion=complete.recipes)] = "digits",
    data: Annotated[str | None, typer.Option(help="Where the images are, as of `wfbench train`.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: data.limit=1000")] = None,
    out: Annotated[Path | None, typer.Option(help="Where records.jsonl is added to. Default: runs/RECIPE-baselines.")] = None,
) -> None:
    """Logistic regression and nearest neighbour on raw pixels: the floor under every accuracy of a small data set."""
    from wfbench import recipe as recipes
    from wfbench import records
    from wfbench.tasks.baselines import baselines as task
    from wfbench.tasks.run_directory import try_directory

    resolved = recipes.load(recipe, settings or [])
    if data is not None:
        resolved = recipes.override(resolved, recipes.data_settings(data, resolved.data.source, settings or []))
    out = out or Path("runs") / f"{resolved.name}-baselines"
    try_directory(out)
    rows = task(resolved)
    records.append(out / "records.jsonl", rows)
    for row in rows:
        typer.echo(f"{row.name}: {100 * row.accuracy:.2f} % of {row.samples} held-out samples of {row.dataset}")
