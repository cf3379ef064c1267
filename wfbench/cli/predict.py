"""``wfbench predict``: cells that were never run, from the records of a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wfbench.cli.errors import speaks_plainly
from wfbench.cli.mixer_option import several_mixers
from wfbench.locks import locked


@speaks_plainly
def predict(
    paths: Annotated[list[Path], typer.Argument(help="Records of `wfbench profile`, of one machine.")],
    mixer: Annotated[list[str] | None, several_mixers("A mixer; repeat it. Default: those of the records.")] = None,
    resolution: Annotated[
        list[int] | None, typer.Option(help="Side in pixels; repeat it. Default: twice the largest side of the records.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A preset. Default: that of the records.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images of a call. Default: that of the records, if they have one alone.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The mixer that crossovers are found against; measured. Default: softmax.")
    ] = None,
    measured_to: Annotated[
        int | None,
        typer.Option(help="Use cells up to this side alone; cells beyond it then show how right the crossovers are."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option(help="First time every kind of operator alone, on this machine (about a minute).")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where records and tables go.")] = Path("runs/predict"),
) -> None:
    """Predict time, memory and crossovers of cells that were never run, each with an interval from held-out error.

    The records' cells calibrate it, with microbenchmarks of operators where there are some. Cells are left out as the question
    would have it, and predicted, to see how far off it is. Out of the calibrated range the answer is that it is out of it.
    """
    from wfbench import records
    from wfbench.cli.report import write_and_show
    from wfbench.errors import InputError
    from wfbench.report import collect
    from wfbench.tasks import predict as task
    from wfbench.tasks.common import writable_dir

    request = task.PredictRequest(tuple(mixer or ()), tuple(resolution or ()), model, batch, baseline, measured_to)
    journal = out / "records.jsonl"
    rows, torn = collect(paths)
    earlier, torn_earlier = collect([journal]) if journal.exists() else ([], [])
    if torn := [*torn, *torn_earlier]:
        raise InputError(
            "torn records", got=torn[0], expected="whole rows", remedy="measure the cells again, or remove the line"
        )
    profiles = task.profile_in(rows)
    works = task.check(profiles, request, calibrating=calibrate)  # bad input is refused before anything is written
    for line in task.left_out(profiles):
        typer.echo(line, err=True)
    writable_dir(out)
    with locked(out):
        micro = task.micro_of([*rows, *earlier], profiles)
        if calibrate:
            micro = task.calibrate(profiles[0], say=lambda line: typer.echo(line, err=True))
            records.append(journal, micro)
        made = task.predict(profiles, micro, request, works=works, say=lambda line: typer.echo(line, err=True))
        records.append(journal, made)
    write_and_show([out], out)
