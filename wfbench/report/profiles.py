"""The overview: the accuracy of each mixer beside its cost; and the old entry to the tables about cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from wfbench.analysis.cost import costs
from wfbench.records import AnyRow
from wfbench.report.cost import cost_tables
from wfbench.report.parts import BASELINE, DASH, Line, Table, make_table


def profile_tables(rows: Sequence[AnyRow]) -> list[Table]:
    """All tables about cost."""
    return cost_tables(costs(rows))


def overview_tables(accuracy: Sequence[Table], cost: Sequence[Table]) -> list[Table]:
    """Accuracy and cost of each mixer on one line, where there is one table of each: two would not say which to join."""
    cost = [table for table in cost if table.title.startswith("Profile: ")]
    if len(accuracy) != 1 or len(cost) != 1:
        return []
    trained, measured = accuracy[0], cost[0]
    cell_of = _fastest_cells(measured.data)
    profiled = {name for name, _ in cell_of}
    joined = [(index, name) for index, name in enumerate(trained.data.get("label", [])) if name in profiled]
    # A name that stands for two runs, or for another model, would put the wrong cost beside an accuracy.
    same = all(trained.data["model"][index] == measured.data["model"][0] for index, _ in joined)
    if not joined or not same or len({name for _, name in joined}) < len(joined):
        return []
    px = {tokens: measured.frame["px"][cell] for (_, tokens), cell in cell_of.items()}
    first, last = min(px), max(px)
    columns = {first: ("params (M)", "GMACs"), last: ("MACs exponent", "latency exponent", f"speed-up over {BASELINE}")}
    lines: list[Line] = []
    for index, name in joined:
        shown = {"mixer": name, **{column: trained.frame[column][index] for column in ("accuracy (%, measured)", "seeds")}}
        raw: dict[str, object] = {f"accuracy.{column}": _raw(trained, column, index) for column in trained.data.columns}
        raw["same_model"] = _same_model(trained.data.iloc[index], name, measured.data, cell_of)
        for which, tokens in (("first", first), ("last", last)):
            cell = cell_of.get((name, tokens))
            for column in columns[tokens]:
                shown[f"{column} at {px[tokens]} px"] = DASH if cell is None else measured.frame[column][cell]
            for column in measured.data.columns:
                raw[f"{which}.{column}"] = None if cell is None else measured.data[column][cell]
        lines.append((shown, raw))
    forced = [(name, measured.data["label"][cell_of[name, last]]) for _, name in joined if (name, last) in cell_of]
    notes = [
        f"{trained.title}. {measured.title}.",
        "Parameters, GMACs and exponents are those of the profiled model, not of the trained one; the tables below have both.",
        f"Exponents are d log / d log tokens from the resolution before to {px[last]} px.",
        *(f"The cost of {name} is that of its fastest backend: {line}." for name, line in forced if line != name),
        *(note for note in trained.notes if note.startswith(("A single seed", "±", "Digits check", "Small images"))),
    ]
    return [make_table("overview", "Mixers at a glance", lines, notes)]


def _same_model(run: pd.Series[Any], name: str, cells: pd.DataFrame, cell_of: Mapping[tuple[str, int], int]) -> bool:
    """Whether a profile is sure to be of the trained model: it has a cell of its image size, with as many parameters."""
    ours = (cells.iloc[place] for (mixer, _), place in cell_of.items() if mixer == name)
    size = (run["height"], run["width"], run["parameters"])
    return any((cell["height"], cell["width"], cell["parameters"]) == size for cell in ours)


def _fastest_cells(data: pd.DataFrame) -> dict[tuple[str, int], int]:
    """The line of each mixer's cell, by name and tokens: of several attention backends the fastest.

    Variants are left out: they are other models than the one that was trained.
    """
    best: dict[tuple[str, int], tuple[float, int]] = {}
    for place, cell in enumerate(data.to_dict("records")):
        if cell["variant"]:
            continue
        key = cell["label"].removesuffix(f" [{cell['sdpa_backend']}]"), cell["tokens"]
        timed = cell["status"] == "ok" and pd.notna(cell["seconds_per_image"])
        best[key] = min(best.get(key, (math.inf, place)), (cell["seconds_per_image"] if timed else math.inf, place))
    return {key: place for key, (_, place) in best.items()}


def _raw(table: Table, column: str, index: int) -> object:
    """A raw number as Python's own, so that whole numbers stay whole in the CSV."""
    value = table.data[column][index]
    return value.item() if hasattr(value, "item") else value
