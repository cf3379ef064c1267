"""``wfbench sample``: pictures from a trained denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.data import counting
from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def sample(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory of a denoiser, or hf:ORG/NAME.", autocompletion=complete.runs),
    ],
    num: Annotated[int, typer.Option(help="How many samples; sample i shows class i modulo the classes.")] = 100,
    sampler: Annotated[
        str | None, typer.Option(help="ddpm, or for previews ddim or dpm-solver. Without it: as in the recipe.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the 1000 steps. Without it: as in the recipe.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Scale of guidance; 1 is none. Without it: as in the recipe.")] = None,
    cfg_channels: Annotated[
        str | None,
        typer.Option(help="What is guided: released (three channels) or all. Without it: as in the recipe."),
    ] = None,
    weights: Annotated[str, typer.Option(help="ema for the averaged ones, or raw.")] = "ema",
    seed: Annotated[int, typer.Option(help="Of the noise.", min=0)] = 0,
    batch: Annotated[int, typer.Option(help="Samples that are drawn at once.")] = 64,
    vae: Annotated[Path | None, typer.Option(help="The autoencoder's directory, of a run on latents.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where they go; of a call that was stopped, to go on. Default: in RUN/samples.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    rank: Annotated[int, typer.Option(envvar="RANK", help="Which of --processes this is, from 0.")] = 0,
    processes: Annotated[int, typer.Option(envvar="WORLD_SIZE", help="How many calls share the work; torchrun sets both.")] = 1,
) -> None:
    """Draw samples: samples.npz (NHWC, uint8), a grid with a row for each class, and the protocol that scores will carry.

    The same call again goes on where it stopped. The call that finishes the last part puts the set together.
    """
    from wfbench.tasks.common import choose_device, own_gpu
    from wfbench.tasks.draw_samples import PART, SampleRequest, draw, sampler_of
    from wfbench.tasks.hub import located
    from wfbench.tasks.run_directory import read_recipe

    run = located(run)
    how = sampler_of(read_recipe(run), name=sampler, steps=steps, cfg=cfg, cfg_channels=cfg_channels)
    request = SampleRequest(run, num, how, weights, seed, batch, vae, out, rank, processes)
    own = own_gpu(choose_device(device))
    with counting(min(num, len(range(rank, -(-num // PART), max(processes, 1))) * PART), "samples") as done:
        found = draw(request, device=own, done=done)
    typer.echo(f"{found}: {num:,} samples" if found else "parts of other processes are still missing")
