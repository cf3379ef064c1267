"""The chart of an accuracy table: accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from wfbench.report.columns import Table
from wfbench.report.page.charts import Chart, Choice, as_floats, as_points, points_spec
from wfbench.report.words import pixels

#: How the column of a Pareto table begins that is about a cost of the chart.
_COLUMNS = {"macs": "GMACs", "params": "params", "train": "training time", "latency": "latency", "memory": "memory"}
#: What tells the lines of a Pareto table apart.
_RUN = ("label", "model", "recipe_digest", "weights", "batch", "steps", "samples")
_LARGE = 1e8  # from so many MACs on they are shown in units of 10⁹, below in units of 10⁶


def cost_chart(table: Table, overview: Table | None, front: Table | None, looks: Mapping[str, Any]) -> Chart | None:
    """Accuracy and loss against MACs, parameters, training time, latency and memory."""
    data = table.data[table.data["label"].notna()].reset_index(drop=True)
    accuracy, half = 100 * data["accuracy"].astype(float), 100 * as_floats(data, "accuracy_ci95")
    seconds, spread = data["train_seconds"].astype(float), as_floats(data, "train_seconds_ci95")
    large = bool((as_floats(data, "macs") >= _LARGE).any())
    frame = pd.DataFrame(
        {
            "mixer": data["label"],
            "model": data["model"],
            "seeds": data["seed_count"].astype(int),
            "verdict": data.get("verdict"),
            "setting": data["recipe_digest"] if data["recipe_digest"].nunique() > 1 else None,
            **{"accuracy": accuracy, "accuracy_low": accuracy - half, "accuracy_high": accuracy + half},
            "loss": data["loss"].astype(float),
            "macs": as_floats(data, "macs") * (1e-9 if large else 1e-6),
            "params": data["parameters"].astype(float) * 1e-6,
            **{"train": seconds, "train_low": seconds - spread, "train_high": seconds + spread},
        }
    )
    x = [
        Choice("macs", f"{'GMACs' if large else 'MMACs'} of one image's forward pass"),
        Choice("params", "parameters (M)"),
        Choice("train", "training time (s)", "train_low", "train_high"),
    ]
    if overview is not None:
        x += _add_measured(frame, overview)
    for choice in x:
        standing = _standing(front, choice.field)
        frame[f"front_{choice.field}"] = [standing.get(tuple(run[name] for name in _RUN)) for run in data.to_dict("records")]
    x = [choice for choice in x if frame[choice.field].notna().any()]
    y = [Choice("accuracy", "top-1 accuracy (%), measured, last epoch", "accuracy_low", "accuracy_high")]
    y += [Choice("loss", "held-out loss")]
    return Chart(table.name, table.title, points_spec(looks, frame["mixer"]), as_points(frame), x, y, (), table.notes)


def _add_measured(frame: pd.DataFrame, overview: Table) -> list[Choice]:
    """Latency and memory of the profile at its largest resolution."""
    cells = overview.data.drop_duplicates("accuracy.label").set_index("accuracy.label")
    known = cells[cells["last.height"].notna()]
    if known.empty:
        return []
    side = pixels((int(known["last.height"].iloc[0]), int(known["last.width"].iloc[0])))
    for name, column, scale in (
        ("latency", "last.median_seconds", 1e3),
        ("latency_low", "last.median_low_seconds", 1e3),
        ("latency_high", "last.median_high_seconds", 1e3),
        ("memory", "last.memory_bytes", 1e-6),
    ):
        frame[name] = frame["mixer"].map(pd.to_numeric(cells[column]).astype(float) * scale)
    whose = "" if known["same_model"].all() else f" of the profiled {known['last.model'].iloc[0]}, another model"
    return [
        Choice("latency", f"latency at {side} px{whose} (ms)", "latency_low", "latency_high"),
        Choice("memory", f"peak memory at {side} px{whose} (MB)"),
    ]


def _standing(front: Table | None, cost: str) -> dict[tuple[object, ...], str]:
    """The lines' places by a cost, from the column of the Pareto table that is about it."""
    if front is None:
        return {}
    columns = [name for name in map(str, front.data) if name.startswith(f"by {_COLUMNS[cost]}")]
    return (
        {} if not columns else {tuple(line[name] for name in _RUN): line[columns[0]] for line in front.data.to_dict("records")}
    )
