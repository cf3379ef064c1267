"""Which one for me: the cells of a profile with limits to set, as data for the page's script."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wfbench.analysis.choice import Candidate, Choice
from wfbench.analysis.interval import Interval
from wfbench.report.accuracy import accuracy_title
from wfbench.report.capability import under_in_words
from wfbench.report.naming import title_of
from wfbench.report.words import pixels

#: A value that may be limited: {"value": [estimate, low, high]}, the ends None without an interval; {"unknown": why} where it
#: was not measured; {"fails": why} where no limit can be met.
_Value = dict[str, Any]
_UNKNOWN: _Value = {"unknown": "not measured"}
#: What may be limited: field, words, unit, whether it is a most.
_LIMITS = (
    ("latency", "latency of one call", "ms", True),
    ("memory", "peak memory of one call", "MB", True),
    ("accuracy", "accuracy", "%", False),
    ("pairs", "pairs stored", "", False),
)


@dataclass(frozen=True)
class Chooser:
    """The candidates of one profile.

    Attributes:
        title: what the cells are of.
        sides: the image sizes in words, smallest first.
        limits: what may be limited: field, words, unit, whether it is a most or a least, and the values that the slider
            passes through.
        candidates: name, for each side a cell with latency and memory, and accuracy and pairs where any mixer has them.
        notes: where accuracies and stored pairs are from, and what the answer means.
    """

    title: str
    sides: Sequence[str]
    limits: Sequence[dict[str, Any]]
    candidates: Sequence[dict[str, Any]]
    notes: Sequence[str]

    def to_json(self) -> str:
        """For the page's script; nothing in it can end a script element."""
        found = {"sides": self.sides, "limits": self.limits, "candidates": self.candidates}
        return json.dumps(found, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")


def chooser(choice: Choice) -> Chooser | None:
    """The chooser of a profile; None for a single mixer, or where nothing was timed."""
    candidates = [_candidate(candidate, choice) for candidate in choice.candidates]
    limits = [limit for limit in (_limit(candidates, *of) for of in _LIMITS) if limit is not None]
    if len(candidates) < 2 or not any(limit["field"] == "latency" for limit in limits):
        return None
    notes = [
        "Only cells that were measured are chosen from. A mixer may fit where its 95 % interval reaches over a limit, and is "
        "unknown where what a limit asks for was not measured of it."
    ]
    if choice.accuracy is not None:
        notes.append(f"{accuracy_title(choice.accuracy)}: of this data set alone, and no accuracy of another.")
    if choice.recall is not None:
        setting = choice.recall.setting
        notes.append(f"Pairs stored: those of the probe recall, in {setting.model} with {setting.depth} layers.")
    return Chooser(title_of([choice.cost.profile.setting]), list(map(pixels, choice.sides)), limits, candidates, notes)


def _candidate(candidate: Candidate, choice: Choice) -> dict[str, Any]:
    found: dict[str, Any] = {"name": candidate.label, "cells": [_cell(candidate, side) for side in choice.sides]}
    if choice.accuracy is not None:
        trained = candidate.trained
        found["accuracy"] = {"unknown": "not trained"} if trained is None else _scaled(trained.accuracy, 100.0)
    if choice.recall is not None:
        found["pairs"] = _pairs(candidate)
    return found


def _cell(candidate: Candidate, side: tuple[int, int]) -> dict[str, _Value]:
    """Latency in ms and memory in MB at a side."""
    cell = candidate.cells.get(side)
    if cell is None:
        return {"latency": _UNKNOWN, "memory": _UNKNOWN}
    if cell.latency is None:
        return dict.fromkeys(("latency", "memory"), {"fails": f"failed: {cell.row.status}"})
    memory = cell.row.memory_bytes
    return {
        "latency": _scaled(cell.latency, 1e3),
        "memory": _UNKNOWN if memory is None else {"value": [memory * 1e-6, None, None]},
    }


def _scaled(value: Interval, scale: float) -> _Value:
    low, high = (None if end is None or not math.isfinite(end) else end * scale for end in (value.low, value.high))
    return {"value": [value.estimate * scale, low, high]}


def _pairs(candidate: Candidate) -> _Value:
    """The pairs that a mixer stores at the end of training; where a seed has only a bound, the smallest of all seeds."""
    if candidate.recall is None:
        return {"unknown": "not probed"}
    found = candidate.recall.capacity.get(candidate.recall.end)
    if found is None:
        return {"unknown": "not evaluated at the end"}
    if found.mean is not None:
        return _scaled(found.mean, 1.0)
    seeds = found.by_seed.values()
    if not candidate.recall.is_trained:
        return {"fails": "has not learnt recall"}
    if all(one.censored == "below" for one in seeds):
        return {"fails": under_in_words(max(one.value for one in seeds), "recall")}
    return {"value": [min(one.value for one in seeds), min(one.low for one in seeds), None]}


def _limit(candidates: Sequence[dict[str, Any]], field: str, words: str, unit: str, is_most: bool) -> dict[str, Any] | None:
    """What a slider passes through: the values that were measured, from the one that all meet to the one that few do."""
    values = [value for candidate in candidates for value in _values(candidate, field)]
    known = sorted({value["value"][0] for value in values if "value" in value}, reverse=is_most)
    return {"field": field, "words": words, "unit": unit, "most": is_most, "values": known} if known else None


def _values(candidate: dict[str, Any], field: str) -> list[_Value]:
    """A candidate's values of a field: one for each side, or one for all; none where nobody has it."""
    if field in candidate["cells"][0]:
        return [cell[field] for cell in candidate["cells"]]
    return [candidate[field]] if field in candidate else []
