"""``wfbench erf``: effective receptive fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers


@speaks_plainly
def erf(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Run directories of `wfbench train`, or hf:ORG/NAME: before and after.", autocompletion=complete.runs
        ),
    ] = None,
    mixer: Annotated[
        list[str] | None,
        several_mixers("A mixer in a fresh model; repeat it. Default, without runs: softmax, static, every strategy."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="The fresh model that the mixers go into.", autocompletion=complete.models)
    ] = "vit-tiny",
    resolution: Annotated[int | None, typer.Option(help="Side in pixels of the fresh model. Default: the model's own.")] = None,
    images: Annotated[int, typer.Option(help="Images that the maps are averaged over.")] = 32,
    draws: Annotated[int, typer.Option(help="Random projections of the features per image.")] = 2,
    seed: Annotated[
        int, typer.Option(help="Seed of the choice of images, of projections, of noise images, and of fresh weights.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Where records, tables and the figure go.")] = Path("runs/erf"),
) -> None:
    """Map where the central token gets its gradient from, and record the share of it beyond some radii.

    Runs are mapped on their held-out images, as initialised and as trained; fresh models on noise. Without runs and mixers:
    softmax, static, and all strategies of WeightFormer, as in figure 3 of its paper.
    """
    import torch

    import mixers as registry
    from wfbench import models, records
    from wfbench.cli.report import write_and_show
    from wfbench.tasks import erf as task
    from wfbench.tasks.common import choose_device, writable_dir
    from wfbench.tasks.hub import located

    request, where = task.ErfRequest(images=images, draws=draws, seed=seed), choose_device(device)
    names = mixer or ([] if runs else ["softmax", "static", *(name for name in registry.names() if name.startswith("wf-"))])
    with torch.device("meta"):
        for name in names:
            models.create(model, name, resolution)  # bad input is refused before anything is written
    writable_dir(out)
    for run in map(located, runs or []):
        records.append(out / "records.jsonl", task.of_run(run, request, where))
    for name in names:
        records.append(out / "records.jsonl", [task.of_mixer(name, model, resolution, request, where)])
        typer.echo(f"mapped {name}", err=True)
    write_and_show([out], out)
