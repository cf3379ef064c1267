"""``wfbench ablate``: what in a trained network does the work?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def ablate(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Directories of finished runs, or hf:ORG/NAME.", autocompletion=complete.runs),
    ],
    weights: Annotated[str, typer.Option(help="raw, or ema for the averaged ones.")] = "raw",
    batch_size: Annotated[
        int | None, typer.Option(help="Samples at once; it changes no result. Default: as in the trainer's evaluations.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go, by run. Default: ablation/ of each run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Evaluate finished runs with parts taken away, layer by layer and all together, on the same held-out samples.

    Taken away are the token mixer's branch and, of layers with a predicted part, the prediction: set to zero, replaced by its
    mean over the images, or taken from another image. Differences have paired intervals over the images, and over seeds where
    several runs of one line are given. Beside them stands how strong each prediction is, before and after training.
    """
    from functools import partial

    from rich.console import Console

    from wfbench.cli.progress import Told
    from wfbench.report import tables
    from wfbench.tasks.ablate import ablate as take_apart
    from wfbench.tasks.ablate import requests_of
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.hub import located

    where, rows, told = choose_device(device), [], Told()
    for request in requests_of(list(map(located, runs)), weights, batch_size, out):
        rows += take_apart(request, device=where, progress=partial(_say, told, request.run))
        told.end()
        typer.echo(f"{request.run}: rows and what every sample gave are in {request.place}", err=True)
    console = Console(width=None if Console().is_terminal else 160)
    for table in tables(rows):
        console.print(table.to_rich())


def _say(told: Callable[[str], None], run: Path, done: int) -> None:
    told(f"{run}: {done:,} held-out samples")
