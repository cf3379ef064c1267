"""Pareto tables: which mixers are worth their cost, as far as seeds and rounds can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from wfbench.report.parts import Line, Table, make_table, pixels
from wfbench.report.statistics import Place, pareto

#: By how much costs that were measured once have to differ: peak memory of equal calls does by a few per cent.
_TOLERANCE = 0.05
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
        joined = overview[0] if overview and len(accuracy) == 1 else None
        other_model = joined is not None and not joined.data["same_model"].all()
        costs = _costs(joined) if joined is not None and not other_model else {}
        varying = [name for name in _SAME[1:] if len({family[name].iloc[0] for family in families}) > 1]
        lines = [line for family in families for line in _lines(family, costs, varying)]
        if lines:
            unranked = sorted(runs.loc[runs["seed_count"] == 1, "label"])
            made.append(_table(table, lines, unranked, other_model))
    return made


def _table(table: Table, lines: Sequence[Line], unranked: Sequence[str], other_model: bool) -> Table:
    notes = [
        "More accuracy for less cost. Dominated: another mixer is surely more accurate (Tukey and Kramer's simultaneous 95% "
        "intervals over seeds) and surely not dearer. On the front: every other mixer is surely less accurate or surely "
        "dearer. Undecided: seeds or rounds do not tell. Counted costs are told apart exactly, measured ones where their 95% "
        f"intervals do not overlap, and those without an interval where they differ by more than {_TOLERANCE:.0%}. A mixer "
        "whose cost is not known may be cheaper or dearer than any other.",
        *(["Latency and memory are not here: the profile is of another model than the one that was trained."] * other_model),
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
            known = low is not None and pd.notna(cell[low]) and pd.notna(cell[high])
            half = _TOLERANCE / 2 * cell[value]
            ends = (cell[low], cell[high]) if known else (cell[value] - half, cell[value] + half)
            where = f"{name} at {pixels((int(cell['last.height']), int(cell['last.width'])))} px"
            found.setdefault(where, {})[str(cell["accuracy.label"])] = ends
    return found


def _lines(family: pd.DataFrame, measured: dict[str, dict[str, tuple[float, float]]], varying: Sequence[str]) -> list[Line]:
    runs = family.to_dict("records")
    costs = {name: {run["label"]: ends for run in runs if (ends := _ends(run, value, half))} for value, half, name in _COSTS}
    places = {name: _places(runs, known) for name, known in (costs | measured).items()}
    lines = []
    for run in runs:
        words = {f"by {name}": found.get(run["label"], "not known") for name, found in places.items()}
        raw = {key: run[key] for key in ("label", "mixer", *_SAME)}
        raw |= {f"by {name}": found.get(run["label"]) for name, found in places.items()}
        lines.append(
            ({"model": run["model"], "mixer": run["label"], **{name: str(run[name]) for name in varying}, **words}, raw)
        )
    return lines


def _ends(run: dict[Any, Any], value: str, half: str | None) -> tuple[float, float] | None:
    """The interval of a cost in an accuracy table; None where it is not known."""
    width = run[half] if half else 0.0
    return None if pd.isna(run[value]) or pd.isna(width) else (run[value] - width, run[value] + width)


def _places(runs: Sequence[dict[Any, Any]], costs: dict[str, tuple[float, float]]) -> dict[str, Place]:
    """The places of the lines whose cost is known; the others might cost anything, and stand in their way."""
    values = [[float(value) for value in run["accuracy_by_seed"].split()] for run in runs]
    ends = [costs.get(run["label"], (-math.inf, math.inf)) for run in runs]
    found = pareto(values, [low for low, _ in ends], [high for _, high in ends])
    return {run["label"]: place for run, place in zip(runs, found, strict=True) if run["label"] in costs}
