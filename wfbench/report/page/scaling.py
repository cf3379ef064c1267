"""The chart of a profile: latency, memory and counts of each cell against tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from wfbench.report.columns import Table
from wfbench.report.page.charts import Chart, Choice, Point, as_floats, as_points, lines_spec


def scaling_chart(table: Table, crossed: Table | None, looks: Mapping[str, Any]) -> Chart | None:
    """Latency, memory and counts of each cell against tokens, with bands and the points where mixers overtake the baseline."""
    data, by_tokens = table.data, bool(table.data["token_budget"].notna().any())
    scale = 1e3 / data["batch"].astype(float) if by_tokens else 1e3
    columns = {
        "latency": as_floats(data, "median_seconds") * scale,
        "latency_low": as_floats(data, "median_low_seconds").fillna(as_floats(data, "p25_seconds")) * scale,
        "latency_high": as_floats(data, "median_high_seconds").fillna(as_floats(data, "p75_seconds")) * scale,
        "memory": as_floats(data, "memory_bytes") * 1e-6,
        "gmacs": as_floats(data, "macs") * 1e-9,
        "speedup": as_floats(data, "speedup"),
        "tokens": data["tokens"].astype(float),
        "side": data["height"].astype(float),
    }
    frame = pd.DataFrame({**columns, "mixer": data["label"], "status": data["status"]})
    points = as_points(frame)
    sure = bool(as_floats(data, "median_low_seconds").notna().any())
    band = "band: 95% interval over rounds" if sure else "band: interquartile range"
    y = [
        Choice("latency", f"latency (ms{' per image' if by_tokens else ''}); {band}", "latency_low", "latency_high", "log"),
        Choice("memory", "peak memory of one call (MB)", scale="log"),
        Choice("gmacs", "GMACs of one image", scale="log"),
        Choice("speedup", "speed-up over the baseline (×)", scale="log"),
    ]
    y = [choice for choice in y if frame[choice.field].notna().any()]
    if not y:
        return None
    marks = [] if crossed is None else _crossings(crossed, frame)
    return Chart(
        table.name,
        table.title,
        lines_spec(looks, frame["mixer"], band=True),
        points,
        [Choice("tokens", "tokens", scale="log"), Choice("side", "image side (px)", scale="log")],
        y,
        marks,
        table.notes,
    )


def _crossings(crossed: Table, frame: pd.DataFrame) -> list[Point]:
    """Where a mixer's curve overtakes the baseline: at the recorded side, at the height of the mixer's own curve there."""
    marks = []
    for entry in crossed.data.to_dict("records"):
        curve = frame[(frame["mixer"] == entry["label"]) & frame["latency"].notna() & (frame["status"] == "ok")]
        curve = curve.sort_values("side")
        if entry["verdict"] != "at" or len(curve) < 2 or pd.isna(entry["side"]):
            continue
        side = float(entry["side"])
        at = {name: _between(side, curve["side"], curve[name]) for name in ("tokens", "latency")}
        marks.append({"mixer": entry["label"], "side": side, **at, "text": f"{entry['label']} is faster from {side:.0f} px on"})
    return marks


def _between(side: float, sides: pd.Series[float], values: pd.Series[float]) -> float:
    """A value at a side between measured ones, on straight lines in the logarithms."""
    import numpy as np

    return math.exp(float(np.interp(math.log(side), np.log(sides), np.log(values))))
