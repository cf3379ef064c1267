"""The tables of predictions: how far off held-out cells were, what was predicted, and predicted crossovers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, label
from wfbench.analysis.prediction import Predictions, Trial
from wfbench.records import PredictedCrossoverRow, PredictionRow
from wfbench.report.columns import Column, Table, make_table, schedule_columns
from wfbench.report.naming import suffixes, title_of
from wfbench.report.words import DASH, number, pixels, with_interval

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


class _Of(NamedTuple):
    """What the titles say of a call; None where its rows are older than that they say so."""

    device: str | None
    threads: int | None
    protocol: str | None
    measured_to: int | None


def prediction_tables(results: Sequence[Predictions]) -> list[Table]:
    """Of each call of the command: held-out error, predictions, crossovers."""
    keys = [_Of(found.device, found.threads, found.protocol, found.measured_to) for found in results]
    tables: list[Table] = []
    for place, (found, key, suffix) in enumerate(zip(results, keys, suffixes([[key] for key in keys]), strict=True), 1):
        calls = f"call {place} of {len(results)}" if keys.count(key) > 1 else ""
        of = ", ".join(filter(None, [title_of([key]), calls]))
        tables += _tables(found, f": {of}" if of else "", suffix)
    return tables


def _tables(found: Predictions, of: str, suffix: str) -> Iterator[Table]:
    """The tables of a call, given the end of their titles and of their names."""

    def table(kind: str, title: str, columns: Sequence[Column[Any]], lines: Sequence[Any], notes: Sequence[str]) -> Table:
        return make_table(kind, f"{kind}{suffix}", f"{title}{of}", columns, lines, [*notes, *_call_notes(found)])

    yield table("held_out", "Held-out error of predictions", _trial_columns(), found.trials, _HELD_OUT_NOTES)
    if found.cells:
        yield table("predictions", "Predicted cells", _cell_columns(), _cells(found.cells), _PREDICTED_NOTES)
    if found.crossovers:
        lines = sorted(found.crossovers, key=label)
        yield table("predicted_crossover", "Predicted crossovers", _crossover_columns(), lines, _CROSSOVER_NOTES)


def _call_notes(found: Predictions) -> list[str]:
    """Which command made a table, and which earlier calls asked the same."""
    notes = [f"Made by: {found.command} ({found.created})."]
    if found.earlier:
        dates = group(found.earlier, lambda call: call.command)
        named = "; ".join(f"{command} ({', '.join(call.created for call in calls)})" for command, calls in dates.items())
        notes.append(f"Of calls that ask the same the newest is shown. Left out: {named}.")
    return notes


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
    return None if row.value is None else Interval(row.value, *_ends(row.low, row.high))


def _ends(low: float | None, high: float | None) -> tuple[float, float] | tuple[None, None]:
    """Of a crossover's interval; a row without an upper end says that it lies beyond the places looked at."""
    return (None, None) if low is None else (low, math.inf if high is None else high)


def _ends_in_words(low: float | None, high: float | None) -> str:
    return "" if low is None else f" [{number(low)}, {'∞' if high is None else number(high)}]"


def _in_words(row: PredictedCrossoverRow) -> str:
    words = {"at": number(row.value), "always": "every place looked at", "none": "no place looked at"}
    return DASH if row.verdict is None else words[row.verdict] + _ends_in_words(row.low, row.high)


def _measured_in_words(row: PredictedCrossoverRow) -> str | None:
    if row.measured_verdict is None:
        return None
    words = {"at": number(row.measured), "always": "every place", "none": "no place"}[row.measured_verdict]
    return words + _ends_in_words(row.measured_low, row.measured_high)


def _measured(row: PredictedCrossoverRow) -> Interval | None:
    if row.measured is None:
        return None
    if row.measured_low is None:
        return Interval(row.measured, why_none="too few measured cells")
    return Interval(row.measured, *_ends(row.measured_low, row.measured_high))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _factor(value: float) -> str:
    return f"×/÷ {math.exp(value):.2f}"
