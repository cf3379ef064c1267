"""The tables of predictions: how far off held-out cells were, what was predicted, and predicted crossovers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, label
from wfbench.analysis.prediction import Predictions, Trial
from wfbench.records import PredictedCrossoverRow, PredictionRow
from wfbench.report.columns import Column, Table, make_table, schedule_columns
from wfbench.report.words import DASH, number, pixels, plural, with_interval

_LEFT_OUT = {
    "resolution": "a resolution between measured ones",
    "beyond": "the largest resolutions",
    "mixer": "a mixer",
    "size": "a size of model or batch",
}
_HELD_OUT_NOTES = (
    "Each measured cell was left out with all cells of the same group and predicted from the others. Error is "
    "|predicted / measured − 1|. The interval's factor is the one that 95 % of new cells lie within, in either direction: the "
    "quantile of the held-out cells, and no less than what so few mixers (for a size, sizes) allow by Student's t. Beyond the "
    "measured resolutions it is that of all steps; a prediction uses the cells of its own step or a larger one.",
    "Coverage is how often such an interval held the measured value when its width came from the other mixers' cells (for a "
    "size, from the other sizes'): 95 % is what it should be. Cells of one mixer resemble one another, so it varies by more "
    "than their number suggests.",
)
_PREDICTED_NOTES = (
    "None of these cells was measured. Each value has a 95 % interval from the error of cells that were left out in the same "
    "way; where that is not known, or the cell is out of the calibrated range, there is no number and the reason stands there.",
)
_CROSSOVER_NOTES = (
    "From how many tokens on a mixer takes less time than the baseline by predicted times. The interval begins at the last "
    "place where the mixer is slower, and ends at the place from which it is faster at every later one, by more than the "
    "held-out error of such ratios; ∞: beyond the places looked at. Measured: by all measured cells, where some lie beyond "
    "those that were predicted from.",
)
#: Why a share of held-out cells has no interval.
_OF_THESE = "it describes these held-out cells"


def prediction_tables(results: Sequence[Predictions]) -> list[Table]:
    """For the newest call of the command: held-out error, predictions, crossovers."""
    if not results:
        return []
    found = results[-1]
    place = _place(found)
    title = f"Held-out error of predictions{place}"
    tables = [make_table("held_out", "held_out", title, _trial_columns(), found.trials, _HELD_OUT_NOTES)]
    if found.cells:
        cells = _cells(found.cells)
        title = f"Predicted cells{place}"
        tables.append(make_table("predictions", "predictions", title, _cell_columns(), cells, _PREDICTED_NOTES))
    if found.crossovers:
        rows_ = sorted(found.crossovers, key=label)
        title = f"Predicted crossovers{place}"
        tables.append(
            make_table("predicted_crossover", "predicted_crossover", title, _crossover_columns(), rows_, _CROSSOVER_NOTES)
        )
    return tables


def _place(found: Predictions) -> str:
    """The machine that the profile is of, for the titles; empty where the rows are older than that they say so."""
    return "" if found.device is None else f": {found.device}, {plural(found.threads or 0, 'thread')}, {found.protocol}"


def _trial_columns() -> list[Column[Trial]]:
    return [
        Column("quantity", lambda trial: trial.quantity, "predicted", words=True),
        Column("question", lambda trial: trial.accuracy.question),
        Column("", lambda trial: _LEFT_OUT[trial.accuracy.question], "left out", words=True),
        Column("cells", lambda trial: trial.accuracy.cells, "cells"),
        Column("groups", lambda trial: trial.accuracy.groups, "of mixers or sizes"),
        Column("median_error", lambda trial: trial.accuracy.median_error, "median error (%)", _percent, why_none=_OF_THESE),
        Column("coverage", lambda trial: trial.accuracy.coverage, "coverage (%)", _percent, why_none=_OF_THESE),
        Column("half_width", lambda trial: trial.accuracy.half_width, "interval", _factor, why_none=_OF_THESE),
        Column(
            "farthest", lambda trial: trial.accuracy.farthest, "tokens, times the most measured", number, why_none=_OF_THESE
        ),
        Column("worst", _worst, "farthest off", words=True),
    ]


def _worst(trial: Trial) -> str:
    cell = trial.worst
    return f"{cell.mixer}, {cell.tokens:,} tokens: {cell.predicted / cell.measured:.2f} times the measured value"


@dataclass(frozen=True)
class _Cell:
    """A cell's predictions, side by side."""

    row: PredictionRow
    latency: PredictionRow | None
    memory: PredictionRow | None

    @property
    def why_none(self) -> str | None:
        """Why a number is missing."""
        found = [f"{row.quantity}: {row.why_none}" for row in (self.latency, self.memory) if row is not None and row.why_none]
        return "; ".join(found) or None


def _cells(rows: Sequence[PredictionRow]) -> list[_Cell]:
    ordered = sorted(rows, key=lambda row: (row.model, label(row), row.batch, row.tokens))
    found = group(ordered, lambda row: (row.model, label(row), row.batch, row.resolution, row.dtype))
    by_quantity = [{row.quantity: row for row in own} for own in found.values()]
    return [_Cell(next(iter(own.values())), own.get("latency"), own.get("memory")) for own in by_quantity]


def _cell_columns() -> list[Column[_Cell]]:
    return [
        Column("model", lambda cell: cell.row.model, "model", words=True),
        Column("", lambda cell: label(cell.row), "mixer", words=True),
        Column("mixer", lambda cell: cell.row.mixer),
        *schedule_columns(lambda cell: cell.row),
        Column("variant", lambda cell: cell.row.variant),
        Column("sdpa_backend", lambda cell: cell.row.sdpa_backend),
        Column("height", lambda cell: cell.row.resolution[0]),
        Column("width", lambda cell: cell.row.resolution[1]),
        Column("", lambda cell: pixels(cell.row.resolution), "image (px)", words=True),
        Column("tokens", lambda cell: cell.row.tokens, "tokens"),
        Column("batch", lambda cell: cell.row.batch, "batch"),
        Column("dtype", lambda cell: cell.row.dtype),
        *_machine_columns(lambda cell: cell.row),
        Column("question", lambda cell: cell.row.question),
        Column("", lambda cell: _LEFT_OUT[cell.row.question], "not measured", words=True),
        Column("latency", lambda cell: _value(cell.latency), ends=("latency_low", "latency_high")),
        Column("", lambda cell: _value(cell.latency), "latency (ms)", lambda value: _shown(value, 1e3)),
        Column("memory", lambda cell: _value(cell.memory), ends=("memory_low", "memory_high")),
        Column("", lambda cell: _value(cell.memory), "memory (MB)", lambda value: _shown(value, 1e-6)),
        Column("why_none", lambda cell: cell.why_none, "why there is no number", words=True, optional=True),
    ]


def _machine_columns(of: Callable[[Any], Any]) -> list[Column[Any]]:
    """The columns of the CSV that say of which machine the profile is, and how it was timed."""

    def column(field: str) -> Column[Any]:
        return Column(field, lambda line: getattr(of(line), field), sparse=True)

    return [column(field) for field in ("device", "threads", "protocol")]


def _value(row: PredictionRow | None) -> Interval | None:
    return None if row is None or row.value is None else Interval(row.value, row.low, row.high)


def _shown(value: Interval, scale: float) -> str:
    return with_interval(value.estimate, value.low, value.high, lambda x: number(x, scale))


def _crossover_columns() -> list[Column[PredictedCrossoverRow]]:
    return [
        Column("model", lambda row: row.model, "model", words=True),
        Column("", label, "mixer", words=True),
        Column("mixer", lambda row: row.mixer),
        *schedule_columns(lambda row: row),
        Column("baseline", lambda row: row.baseline, "faster than", words=True),
        Column("batch", lambda row: row.batch, "batch"),
        Column("dtype", lambda row: row.dtype),
        *_machine_columns(lambda row: row),
        Column("measured_to", lambda row: row.measured_to, "cells up to (tokens)"),
        Column("looked_to", lambda row: row.looked_to, "looked at up to (tokens)"),
        Column("verdict", lambda row: row.verdict),
        Column("tokens", _crossing, ends=("tokens_low", "tokens_high")),
        Column("", _in_words, "from (tokens)", words=True),
        Column("measured", _measured, ends=("measured_low", "measured_high"), sparse=True),
        Column("", _measured_in_words, "measured, from (tokens)", words=True, optional=True),
        Column("why_none", lambda row: row.why_none or None, "why there is no number", words=True, optional=True),
    ]


def _crossing(row: PredictedCrossoverRow) -> Interval | None:
    return None if row.value is None else Interval(row.value, row.low, row.high)


def _in_words(row: PredictedCrossoverRow) -> str:
    ends = "" if row.low is None or row.high is None else f" [{number(row.low)}, {number(row.high)}]"
    words = {"at": number(row.value), "always": "every place looked at", "none": "no place looked at"}
    return DASH if row.verdict is None else words[row.verdict] + ends


def _measured_in_words(row: PredictedCrossoverRow) -> str | None:
    if row.measured_verdict is None:
        return None
    ends = "" if row.measured_low is None else f" [{number(row.measured_low)}, {number(row.measured_high)}]"
    return {"at": number(row.measured), "always": "every place", "none": "no place"}[row.measured_verdict] + ends


def _measured(row: PredictedCrossoverRow) -> Interval | None:
    if row.measured is None:
        return None
    if row.measured_low is None:
        return Interval(row.measured, why_none="too few measured cells")
    return Interval(row.measured, row.measured_low, row.measured_high)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _factor(value: float) -> str:
    return f"×/÷ {math.exp(value):.2f}"
