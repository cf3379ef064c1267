"""The chart of a profile: latency, memory and counts of each cell against tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wfbench.analysis.cells import Line
from wfbench.analysis.lines import label
from wfbench.analysis.profile import CellCost, ProfileCost
from wfbench.analysis.scaling import Crossing, Crossovers
from wfbench.report.columns import Table
from wfbench.report.crossover import crossing_in_words
from wfbench.report.page.charts import Chart, Choice, Point, lines_spec


def scaling_chart(result: ProfileCost, table: Table, crossovers: Crossovers | None, looks: Mapping[str, Any]) -> Chart | None:
    """Latency, memory and counts of each cell against tokens, with bands and the points where mixers overtake the baseline.

    Args:
        result: the profile.
        table: its table, of which the chart has name, title and notes.
        crossovers: those of the profile; None where there are none.
        looks: the look of each line, by its label.

    Returns:
        The chart; None where nothing was measured.
    """
    by_tokens = result.profile.setting.token_budget is not None
    known = any(cell.latency is not None and cell.latency.low is not None for cell in result.cells)
    points = [_point(cell, by_tokens, known=known) for cell in result.cells]
    band = "band: 95% interval over rounds" if known else "band: least to most"
    y = [
        Choice("latency", f"latency (ms{' per image' if by_tokens else ''}); {band}", "latency_low", "latency_high", "log"),
        Choice("memory", "peak memory of one call (MB)", scale="log"),
        Choice("gmacs", "GMACs of one image", scale="log"),
        Choice("speedup", "speed-up over the baseline (×); band: 95% interval", "speedup_low", "speedup_high", "log"),
    ]
    y = [choice for choice in y if any(choice.field in point for point in points)]
    if not y:
        return None
    crossings = crossovers.crossings if crossovers is not None else ()
    return Chart(
        table.name,
        table.title,
        lines_spec(looks, [label(cell.line) for cell in result.cells], band=True),
        points,
        [Choice("tokens", "tokens", scale="log"), Choice("side", "image side (px)", scale="log")],
        y,
        [mark for crossing in crossings if (mark := _mark(crossing, result.cells, by_tokens)) is not None],
        table.notes,
    )


def _point(cell: CellCost, by_tokens: bool, *, known: bool) -> Point:
    """A cell's values, of those that it has; where no latency has an interval, least and most of its sample are the band."""
    row, scale = cell.row, _scale(cell, by_tokens)
    latency, ratio = cell.latency, None if cell.speedup is None else cell.speedup.ratio
    ends = (None, None) if latency is None else (latency.low, latency.high) if known else (row.spread or (None, None))
    values = {
        "latency": None if latency is None else latency.estimate * scale,
        "latency_low": None if ends[0] is None else ends[0] * scale,
        "latency_high": None if ends[1] is None else ends[1] * scale,
        "memory": None if row.memory_bytes is None else row.memory_bytes * 1e-6,
        "gmacs": None if row.macs is None else row.macs * 1e-9,
        "speedup": None if ratio is None else ratio.estimate,
        "speedup_low": None if ratio is None else ratio.low,
        "speedup_high": None if ratio is None else ratio.high,
        "tokens": float(row.tokens),
        "side": float(row.resolution[0]),
        "mixer": label(cell.line),
        "status": row.status,
    }
    return {name: value for name, value in values.items() if value is not None}


def _scale(cell: CellCost, by_tokens: bool) -> float:
    """From seconds of a batch to milliseconds: of an image where batches differ."""
    return 1e3 / cell.row.batch if by_tokens else 1e3


def _mark(crossing: Crossing, cells: Sequence[CellCost], by_tokens: bool) -> Point | None:
    """Where a line's curve overtakes the baseline: at the side of the crossover, at the height of the line there."""
    curve = _timed(crossing.line, cells)
    if crossing.verdict != "at" or len(curve) < 2 or crossing.side is None:
        return None
    sides = [float(cell.row.resolution[0]) for cell, _ in curve]
    tokens = _between(crossing.side, sides, [float(cell.row.tokens) for cell, _ in curve])
    latency = _between(crossing.side, sides, [seconds * _scale(cell, by_tokens) for cell, seconds in curve])
    name = label(crossing.line)
    why_none = "" if crossing.has_interval else ", without an interval: there are fewer than four sides"
    text = f"{name} is faster {crossing_in_words(crossing)}{why_none}"
    return {"mixer": name, "side": crossing.side, "tokens": tokens, "latency": latency, "text": text}


def _timed(line: Line, cells: Sequence[CellCost]) -> list[tuple[CellCost, float]]:
    """A line's cells with their times, by side."""
    timed = [(cell, cell.latency.estimate) for cell in cells if cell.line == line and cell.latency is not None]
    return sorted(timed, key=lambda pair: pair[0].row.resolution[0])


def _between(side: float, sides: Sequence[float], values: Sequence[float]) -> float:
    """A value at a side between measured ones, on straight lines in the logarithms."""
    import numpy as np

    return math.exp(float(np.interp(math.log(side), np.log(sides), np.log(values))))
