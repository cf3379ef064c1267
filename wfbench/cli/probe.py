"""``wfbench probe``: what a mixer can do, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli import complete
from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers

_QUICK = (
    "Quick: {what}, and one seed unless --seeds says more. It shows how fast a mixer learns, and neither what it can do after "
    "the whole training nor how it does with another seed."
)


@speaks_plainly
def probe(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Probes: majority, recall, needle, shift, hop, flood. Default: the first four.", autocompletion=complete.probes
        ),
    ] = None,
    mixer: Annotated[
        list[str] | None, several_mixers("A mixer; repeat it. By default softmax, linear, weightformer, static.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds of each. Default: 3; with --quick, 1.", min=1)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A short training: of recall for 800 steps, unless probes are named.")
    ] = False,
    tune: Annotated[bool, typer.Option("--tune", help="Try three learning rates for every mixer first.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where everything goes. Default: runs/probe, or runs/probe-quick.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at once. Default: 1.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train mixers on small tasks that each ask for one ability, and print what they can do; docs/PROBES.md explains it.

    The same command again goes on where it was stopped, and trains nothing twice.
    """
    from wfbench.cli.progress import run_table
    from wfbench.cli.report import write_and_show
    from wfbench.tasks.common import choose_device
    from wfbench.tasks.probe import ProbeRequest, steps_of
    from wfbench.tasks.probe import probe as task
    from wfbench.tasks.sweep import Dispatch

    request = ProbeRequest.of(names or [], mixer or [], seeds, quick=quick, tune=tune)
    choose_device(device)
    out = out or Path("runs/probe-quick" if quick else "runs/probe")
    with run_table() as watch:
        ended = task(request, out, Dispatch(jobs, device=device), watch)
    bad = {name: status for name, status in ended.items() if status.state != "finished"}
    if len(bad) < len(ended):
        write_and_show([out], out, kinds=("capability",))
        typer.echo(f"figures: {', '.join(map(str, sorted(out.glob('probe-*.png'))))}")
        typer.echo(f"accuracy at every level: {out / 'tables.md'}; all of it on one page: {out / 'page.html'}")
    if quick:
        both = [(name, steps_of(name, quick=True), steps_of(name, quick=False)) for name in request.names]
        parts = [f"{name} after {few:,} of {all_of_them:,} steps" for name, few, all_of_them in both]
        typer.echo(_QUICK.format(what=", ".join(parts)))
    for name, status in bad.items():
        typer.echo(f"{status.state}: {name}: {status.message or 'the same command goes on'}", err=True)
    if bad:
        raise typer.Exit(1)
