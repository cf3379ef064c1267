"""``wfbench profile``: cost against resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly


@speaks_plainly
def profile(
    mixer: Annotated[list[str] | None, typer.Option(help="A mixer; repeat it. Default: softmax linear weightformer.")] = None,
    model: Annotated[str, typer.Option(help="The model the mixers go into.")] = "vit-tiny",
    resolution: Annotated[list[int] | None, typer.Option(help="A side in pixels; repeat it. Default: 224 448 672 896.")] = None,
    local_conv: Annotated[
        str | None, typer.Option(help="none or dwc: a depthwise convolution beside every mixer. Without it: as in the model.")
    ] = None,
    pos: Annotated[
        str | None, typer.Option(help="Position of every mixer: none, learned, sincos or rope2d. Without it: as in the model.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a forward pass.")] = 1,
    rounds: Annotated[int, typer.Option(help="Timing samples for each cell.")] = 10,
    order_seed: Annotated[int, typer.Option(help="Seed of the order of cells within a round.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Where records, tables and plots go.")] = Path("results/profile"),
) -> None:
    """Measure parameters, MACs and inference latency by resolution; exponents; crossovers against softmax."""
    from wfbench import records
    from wfbench.cli.progress import Told
    from wfbench.cli.report import write_and_show
    from wfbench.tasks.common import choose_device, writable_dir
    from wfbench.tasks.profile import ProfileRequest
    from wfbench.tasks.profile import profile as measure

    given = {key: tuple(value) for key, value in (("mixers", mixer), ("resolutions", resolution)) if value}
    chosen = choose_device(device).type
    factors = {"local_conv": local_conv, "pos_embed": pos}
    request = ProfileRequest(model, batch=batch, rounds=rounds, order_seed=order_seed, device=chosen, **factors, **given)  # type: ignore[arg-type]
    writable_dir(out)
    told = Told()
    rows = measure(request, told)
    told.end()
    records.append(out / "records.jsonl", rows)
    write_and_show([out], out)
