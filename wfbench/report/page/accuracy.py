"""The chart of an accuracy table: accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from wfbench.analysis.fronts import CostKind, Fronts
from wfbench.analysis.line_results import LineResult
from wfbench.analysis.overview import Overview
from wfbench.analysis.seeds import AccuracyResult
from wfbench.report.columns import Table
from wfbench.report.differences import verdict_in_words
from wfbench.report.interval_notes import latency_notes, memory_notes
from wfbench.report.page.charts import Chart, Choice, Point, as_points, points_spec
from wfbench.report.words import pixels

#: The kind of cost behind each choice of the horizontal axis.
_COSTS: Mapping[str, CostKind] = {
    "macs": "macs",
    "params": "parameters",
    "train": "train_seconds",
    "latency": "latency",
    "memory": "memory",
}
_LARGE = 1e8  # from so many MACs on they are shown in units of 10⁹, below in units of 10⁶


def cost_chart(
    result: AccuracyResult, table: Table, overview: Overview | None, fronts: Fronts | None, looks: Mapping[str, Any]
) -> Chart:
    """Accuracy and loss against MACs, parameters, training time, latency and memory.

    Args:
        result: the accuracies.
        table: their table, of which the chart has name, title and notes.
        overview: the cells of the lines; None without a profile of them.
        fronts: where the lines stand; None where no line has a place.
        looks: the look of each line, by its label.
    """
    large = any(line.last.macs is not None and line.last.macs >= _LARGE for line in result.lines)
    x = [
        Choice("macs", f"{'GMACs' if large else 'MMACs'} of one image's forward pass"),
        Choice("params", "parameters (M)"),
        Choice("train", "training time (s)", "train_low", "train_high"),
        *(_measured_choices(overview) if overview is not None else []),
    ]
    points = [_point(result, line, 1e-9 if large else 1e-6) for line in result.lines]
    if overview is not None:
        points = [point | _measured(overview, line) for point, line in zip(points, result.lines, strict=True)]
    x = [choice for choice in x if any(point.get(choice.field) is not None for point in points)]
    points = [point | _standing(fronts, line, x) for point, line in zip(points, result.lines, strict=True)]
    y = [Choice("accuracy", "top-1 accuracy (%), measured, last epoch", "accuracy_low", "accuracy_high")]
    y += [Choice("loss", "held-out loss", "loss_low", "loss_high")]
    spec = points_spec(looks, [line.label for line in result.lines])
    cells = [line.last for line in overview.lines if line.last is not None] if overview is not None else []
    notes = (*table.notes, *latency_notes(cells), *memory_notes(cells))
    return Chart(table.name, table.title, spec, as_points(pd.DataFrame(points)), x, y, (), notes)


def _point(result: AccuracyResult, line: LineResult, unit: float) -> Point:
    several = len({other.identity.recipe_digest for other in result.lines}) > 1
    return {
        "mixer": line.label,
        "model": line.identity.model,
        "seeds": len(line.seeds),
        "verdict": verdict_in_words(result, line),
        "setting": line.identity.recipe_digest if several else None,
        "accuracy": 100 * line.accuracy.estimate,
        "accuracy_low": None if line.accuracy.low is None else 100 * line.accuracy.low,
        "accuracy_high": None if line.accuracy.high is None else 100 * line.accuracy.high,
        "loss": line.loss.estimate,
        "loss_low": line.loss.low,
        "loss_high": line.loss.high,
        "macs": None if line.last.macs is None else line.last.macs * unit,
        "params": line.identity.parameters * 1e-6,
        "train": line.train_seconds.estimate,
        "train_low": line.train_seconds.low,
        "train_high": line.train_seconds.high,
    }


def _measured_choices(overview: Overview) -> list[Choice]:
    side, model = pixels(overview.last), overview.profile.profile.setting.model
    is_same = all(line.same_model for line in overview.lines if line.last is not None)
    whose = "" if is_same else f" of the profiled {model}, another model"
    return [
        Choice("latency", f"latency at {side} px{whose} (ms)", "latency_low", "latency_high"),
        Choice("memory", f"peak memory at {side} px{whose} (MB)"),
    ]


def _measured(overview: Overview, line: LineResult) -> Point:
    """Latency and memory of the profile at its largest resolution."""
    found = overview.line(line.identity)
    cell = None if found is None else found.last

    latency, memory = (None, None) if cell is None else (cell.latency, cell.row.memory_bytes)

    def milliseconds(seconds: float | None) -> float | None:
        return None if seconds is None else seconds * 1e3

    return {
        "latency": None if latency is None else milliseconds(latency.estimate),
        "latency_low": None if latency is None else milliseconds(latency.low),
        "latency_high": None if latency is None else milliseconds(latency.high),
        "memory": None if memory is None else memory * 1e-6,
    }


def _standing(fronts: Fronts | None, line: LineResult, choices: Sequence[Choice]) -> Point:
    """A line's place by the cost of each choice."""
    if fronts is None:
        return {}
    places = {cost.kind: found.get(line.identity) for cost, found in fronts.places.items()}
    return {f"front_{choice.field}": places.get(_COSTS[choice.field]) for choice in choices}
