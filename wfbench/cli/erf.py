"""``wfbench erf``: effective receptive fields."""

from __future__ import annotations

import functools
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
        str | None,
        typer.Option(help="The fresh model that the mixers go into. Default: vit-tiny.", autocompletion=complete.models),
    ] = None,
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
    import mixers as registry
    from wfbench import models, records
    from wfbench.cli.report import write_and_show
    from wfbench.errors import InputError
    from wfbench.tasks import erf as task
    from wfbench.tasks.common import check_carried, choose_device, error_in_short, try_on_meta, writable_dir
    from wfbench.tasks.hub import located

    request, where = task.ErfRequest(images=images, draws=draws, seed=seed), choose_device(device)
    names = mixer or ([] if runs else ["softmax", "static", *(name for name in registry.names() if name.startswith("wf-"))])
    fresh = {"--model": model, "--resolution": resolution}
    if not names and (given := [name for name, value in fresh.items() if value is not None]):
        raise InputError(
            "an option of fresh models, and there is none",
            got=", ".join(given),
            expected="--mixer beside it: a run is mapped as it was trained",
            remedy="leave it out, or add --mixer NAME",
        )
    model = model or "vit-tiny"
    for name in names:  # bad input is refused before anything is written
        check_carried(models.configure(model, name, resolution))
        try_on_meta(functools.partial(models.create, model, name, resolution))
    writable_dir(out)
    for run in map(located, runs or []):
        records.append(out / "records.jsonl", task.of_run(run, request, where))
    failed: list[str] = []
    for name in names:
        try:
            row = task.of_mixer(name, model, resolution, request, where)
        except Exception as e:  # whatever a mixer does that this model, or its size, does not suit
            failed.append(f"{name}: {error_in_short(e)}")
            typer.echo(f"not mapped: {failed[-1]}", err=True)
            continue
        records.append(out / "records.jsonl", [row])
        typer.echo(f"mapped {name}", err=True)
    if runs or len(failed) < len(names):
        write_and_show([out], out)
    if failed:
        raise InputError(
            "not every mixer was mapped",
            got="; ".join(failed),
            expected="mixers that can be made and run in this model, at this size",
            remedy="leave them out, or see what `wfbench verify MIXER` says",
        )
