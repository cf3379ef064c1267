"""Does a row agree with its own raw data? One that does not is wrong, whatever comes out here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

import pandas as pd

from wfbench.errors import InputError
from wfbench.records import MeasurementRow, ProfileRow, TrainRow
from wfbench.records.run_directory import Run
from wfbench.tasks.reproduce.cells import Cell, ProfileCell, TrainingCell
from wfbench.tasks.run_directory import RunRow, read_result

_CLOSE = 1e-9
#: Fields that say how and where a row was written; others that are no text are figures.
_OF_WRITING = ("schema_version", "environment")


def contradictions(cell: Cell) -> list[str]:
    """What a cell's row says otherwise than its own raw data do, in words; empty if they agree, or there are none."""
    return list(_of_profile(cell) if isinstance(cell, ProfileCell) else _of_training(cell))


def result_of(row: RunRow) -> float:
    """The final metric of a training, by which it is compared."""
    return float(getattr(row, "result", row.loss))


def quantity_of(row: RunRow) -> str:
    """What that metric is."""
    return {"train": "accuracy", "dense": "mIoU", "probe": "mean accuracy over levels", "dit": "loss"}[row.kind]


def predictions_of(cell: TrainingCell) -> pd.DataFrame | None:
    """The recorded prediction of every held-out image; None where they were not kept.

    Raises:
        InputError: where they are not those of the row.
    """
    if cell.place is None or not isinstance(cell.row, TrainRow):
        return None
    return Run(cell.place, cell.row).predictions()


def in_short(error: Exception) -> str:
    """What was wrong and what was got, in one line."""
    lines = str(error).splitlines()
    got = next((line.strip().removeprefix("got:").strip() for line in lines if line.startswith("  got:")), None)
    return lines[0] if got is None else f"{lines[0]} ({got})"


def _of_profile(cell: ProfileCell) -> Iterator[str]:
    for row, measured in ((cell.row, cell.measurements), (cell.baseline, cell.baseline_measurements)):
        whose = "" if row is cell.row else "the baseline's "
        raw = row.round_medians or row.samples
        if row.median is not None and raw and not _same(row.median, statistics.median(raw)):
            yield f"{whose}median {row.median:.6g} s, and {statistics.median(raw):.6g} s by its own rounds"
        for wrong in _of_measurements(row, measured):
            yield f"{whose}{wrong}"


def _of_measurements(row: ProfileRow, measured: tuple[MeasurementRow, ...]) -> Iterator[str]:
    """By the raw measurements of its session; of two of one round the later counts."""
    rounds = {m.round: m for m in measured if m.stage == "latency" and m.status == "ok" and m.samples}
    if rounds and row.round_medians:
        raw = [statistics.median(rounds[k].samples) for k in sorted(rounds)]
        if len(raw) != len(row.round_medians):
            yield f"{len(row.round_medians)} rounds, and {len(raw)} measurements"
        yield from (
            f"round {k}: {ours:.6g} s, and {theirs:.6g} s by its measurement"
            for k, ours, theirs in zip(sorted(rounds), row.round_medians, raw, strict=False)
            if not _same(ours, theirs)
        )
    peaks = [m.bytes["peak"] for m in measured if m.stage == "memory" and m.status == "ok" and "peak" in m.bytes]
    if peaks and row.memory_bytes is not None and not _same(peaks[-1], row.memory_bytes):
        yield f"peak memory {row.memory_bytes:,.0f} bytes, and {peaks[-1]:,.0f} by its measurement"


def _of_training(cell: TrainingCell) -> Iterator[str]:
    for other in cell.others:
        yield from _other_fields(cell.row, other, "another record of the run")
    if cell.place is None:
        return
    if cell.row.weights == "raw" and (cell.place / "result.json").is_file():
        result = read_result(cell.place)
        if result.weights == "raw":
            yield from _other_fields(cell.row, result, "the run's result.json")
    if isinstance(cell.row, TrainRow):
        yield from _of_curve(cell.row, Run(cell.place, cell.row))
        try:
            predictions_of(cell)
        except InputError as e:
            yield in_short(e)


def _of_curve(row: TrainRow, run: Run) -> Iterator[str]:
    """By the last line of its curve."""
    last = next((point for point in run.curve()[::-1] if point["epoch"] == row.epochs), None)
    for what, own in (("accuracy", row.accuracy), ("loss", row.loss)):
        name = what if row.weights == "raw" else f"ema_{what}"
        if last is not None and name in last and not _same(own, last[name], 1e-6):
            yield f"{what} {own:.6g}, and {last[name]:.6g} after the last epoch in the run's metrics.jsonl"


def _other_fields(row: RunRow, other: RunRow, where: str) -> Iterator[str]:
    """Every figure of a row that another row of the same run has otherwise."""
    for name in type(row).model_fields:
        ours, theirs = getattr(row, name), getattr(other, name, None)
        if name in _OF_WRITING or isinstance(ours, str) or isinstance(theirs, str):
            continue
        if isinstance(ours, int | float) and isinstance(theirs, int | float):
            if not _same(ours, theirs):
                yield f"{name} {ours:.6g}, and {theirs:.6g} in {where}"
        elif ours != theirs:
            yield f"{name} is other in {where}"


def _same(a: float, b: float, tolerance: float = _CLOSE) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
