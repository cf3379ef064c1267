"""``wfbench train``: one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wfbench.cli.errors import speaks_plainly

if TYPE_CHECKING:
    from wfbench.recipe import ModelSection


@speaks_plainly
def train(
    mixer: Annotated[str | None, typer.Option(help="A registered mixer, or path/to/file.py:Class.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe's name, or a YAML file. Default: digits.")] = None,
    data: Annotated[str | None, typer.Option(help="'digits', or a folder with train/ and val/.")] = None,
    local_conv: Annotated[
        str | None, typer.Option(help="none or dwc: a depthwise convolution beside the mixer. Without it: as in the recipe.")
    ] = None,
    pos: Annotated[
        str | None, typer.Option(help="Position: none, learned, sincos or rope2d. Without it: as in the recipe.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Override a recipe key: optim.lr=1e-3")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory. Default: runs/RECIPE-MIXER-sSEED.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out exactly where it was saved.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train one mixer; without more, softmax attention on the embedded digits."""
    import json

    from wfbench import recipe as recipes
    from wfbench.cli.progress import watching
    from wfbench.tasks import classify
    from wfbench.tasks.common import choose_device, slug

    overrides = list(settings or [])
    short = {"mixer": mixer, "local_conv": local_conv, "pos_embed": pos}
    overrides += [f"model.{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    overrides += [] if seed is None else [f"seed={seed}"]
    if data is not None:
        overrides += ["data.source=digits"] if data == "digits" else ["data.source=folder", f"data.path={json.dumps(data)}"]
    if resume and out is not None and recipe is None and not overrides:
        resolved = classify.read_recipe(out)
    else:
        resolved = recipes.load(recipe or "digits", overrides)
    name = resolved.model.mixer or resolved.model.name
    out = out or Path("runs") / f"{resolved.name}-{slug(name)}{_factors(resolved.model)}-s{resolved.seed}"
    with watching(name, resolved.epochs) as watch:
        row = classify.train(resolved, out, watch, device=choose_device(device), resume=resume)
    typer.echo(
        f"{row.mixer}: {100 * row.accuracy:.2f} % of {row.samples} held-out samples after {row.epochs} epochs; "
        f"{row.train_seconds:.1f} s, {row.images_per_second:.0f} images/s, {100 * row.data_wait_share:.0f} % waiting for data"
    )
    typer.echo(f"run directory: {out}")


def _factors(section: ModelSection) -> str:
    """The factors that the recipe chooses, for the name of the run directory."""
    chosen = {"local": section.local_conv, "pos": section.pos_embed}
    return "".join(f"-{key}-{value}" for key, value in chosen.items() if value is not None)
