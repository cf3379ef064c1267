"""Pareto tables: which mixers are worth their cost, as far as seeds and rounds can tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from wfbench.report.parts import Line, Table, make_table, pixels
from wfbench.report.statistics import Place, pareto

_SAME = ["model", "recipe_digest", "weights", "batch", "steps", "samples"]
#: Column of an accuracy table, of its 95% half-width or None where the cost is counted, and its name.
_COSTS = (("macs", None, "GMACs"), ("parameters", None, "params"), ("train_seconds", "train_seconds_ci95", "training time"))
#: Columns of the overview: a cost, the ends of its interval or None, its name.
_MEASURED = (
    ("last.median_seconds", "last.median_low_seconds", "last.median_high_seconds", "latency"),
    ("last.memory_bytes", None, None, "memory"),
)


def pareto_tables(accuracy: Sequence[Table], overview: Sequence[Table]) -> list[Table]:
    """For each accuracy table with several seeds: on the front, dominated or undecided, by each cost."""
    made = []
    for table in accuracy:
        if "seed_count" not in table.data:
            continue
        runs = table.data[table.data["label"].notna()]
        families = [family for _, family in runs[runs["seed_count"] > 1].groupby(_SAME, sort=False) if len(family) > 1]
        costs = _costs(overview[0]) if overview and len(accuracy) == 1 else {}
        lines = [line for family in families for line in _lines(family, costs)]
        if lines:
            unranked = sorted(runs.loc[runs["seed_count"] == 1, "label"])
            made.append(_table(table, lines, unranked))
    return made


def _table(table: Table, lines: Sequence[Line], unranked: Sequence[str]) -> Table:
    notes = [
        "More accuracy for less cost. Dominated: another mixer is surely more accurate (Tukey and Kramer's simultaneous 95% "
        "intervals over seeds) and surely not dearer (95% intervals that do not overlap, for costs that are measured). On the "
        "front: every other mixer is surely less accurate or surely dearer. Undecided: the seeds or rounds do not tell.",
        *([f"A single seed is not ranked: {', '.join(unranked)}."] if unranked else []),
    ]
    name, title = f"pareto{table.name.removeprefix('accuracy')}", table.title.replace("Accuracy:", "Pareto fronts:")
    return make_table(name, title, lines, notes)


def _costs(overview: Table) -> dict[str, dict[str, tuple[float, float]]]:
    """The intervals of measured costs, by their name and by the mixer's label; a cost that a mixer lacks is left out."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for cell in overview.data.to_dict("records"):
        for value, low, high, name in _MEASURED:
            if pd.isna(cell[value]):
                continue
            ends = [cell[end] if end and pd.notna(cell[end]) else cell[value] for end in (low, high)]
            where = f"{name} at {pixels((int(cell['last.height']), int(cell['last.width'])))} px"
            found.setdefault(where, {})[str(cell["accuracy.label"])] = (ends[0], ends[1])
    return found


def _lines(family: pd.DataFrame, measured: dict[str, dict[str, tuple[float, float]]]) -> list[Line]:
    runs = family.to_dict("records")
    places: dict[str, dict[str, Place]] = {}
    for value, half, name in _COSTS:
        known = [run for run in runs if pd.notna(run[value]) and (half is None or pd.notna(run[half]))]
        widths = [run[half] if half else 0.0 for run in known]
        ends = [(run[value] - width, run[value] + width) for run, width in zip(known, widths, strict=True)]
        places[name] = _places(known, ends)
    for name, costs in measured.items():
        known = [run for run in runs if run["label"] in costs]
        places[name] = _places(known, [costs[run["label"]] for run in known])
    lines = []
    for run in runs:
        words = {f"by {name}": places[name].get(run["label"], "not measured") for name in places}
        raw = {key: run[key] for key in ("label", "mixer", *_SAME)} | {
            f"by {name}": places[name].get(run["label"]) for name in places
        }
        lines.append(({"model": run["model"], "mixer": run["label"], **words}, raw))
    return lines


def _places(runs: Sequence[dict[Any, Any]], ends: Sequence[tuple[float, float]]) -> dict[str, Place]:
    if not runs:
        return {}
    values = [[float(value) for value in run["accuracy_by_seed"].split()] for run in runs]
    found = pareto(values, [low for low, _ in ends], [high for _, high in ends])
    return {run["label"]: place for run, place in zip(runs, found, strict=True)}
