"""Hand-made rows of probes, with accuracies that a test chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wfbench import records
from wfbench.records import LeakCheck, ProbeCell, ProbeLook, ProbeRow

CPU = records.stamp("cpu")
LEVELS: Mapping[str, Sequence[float]] = {
    "recall": (1, 2, 4, 8, 16),
    "needle": (0, 0.25, 1),
    "majority": (0.2, 0.1, 0.05),
    "shift": (0,),
    "hop": (1, 2, 3),
    "flood": (4, 16),
}
GRID = {"shift": (8, 8), "flood": (16, 16)}
#: Of the questions of the last level.
DISTANCES = {"flood": (1, 4, 15)}
GRIDS = {"needle": ((12, 18), (16, 24))}
HELD = LeakCheck(gradient=0.0, readout=0.03, floor=0.03, bound=0.05)
LEAKS = LeakCheck(gradient=0.1, readout=0.5, floor=0.03, bound=0.05)


def probe_row(
    probe: str = "recall",
    mixer: str = "linear",
    seed: int = 0,
    by_step: Mapping[int, Sequence[float | None]] | None = None,
    error: float = 0.004,
    distances: Sequence[int] | None = None,
    **more: object,
) -> ProbeRow:
    """A row with the accuracies of its cells at each evaluation, those of the last one its result."""
    distances = DISTANCES.get(probe, ()) if distances is None else distances
    by_step = by_step or {100: [1.0] * (len(LEVELS[probe]) + len(GRIDS.get(probe, ())) + len(distances))}
    grid = GRID.get(probe, (8, 12))
    hardest = LEVELS[probe][-1]
    places: list[tuple[float, tuple[int, int], int | None]] = [(level, grid, None) for level in LEVELS[probe]]
    places += [(hardest, other, None) for other in GRIDS.get(probe, ())] + [(hardest, grid, d) for d in distances]
    last = list(by_step.values())[-1]
    cells = tuple(
        ProbeCell(
            level=level,
            grid=own,
            accuracy=value,
            standard_error=None if value is None else error,
            chance=1 / 32,
            local_floor=1 / 32,
            set_floor=1 / level if probe == "recall" and level > 1 else None,
            straight_floor=0.6 if probe == "flood" else None,
            distance=distance,
        )
        for (level, own, distance), value in zip(places, last, strict=True)
    )
    fields = {
        "environment": CPU,
        "created": f"2026-01-01T00:00:{seed:02d}+00:00",
        "model": "vit-tiny",
        "mixer": mixer,
        "pos_embed": "sincos" if probe in ("shift", "flood") else "none",
        "local_conv": "dwc" if probe == "flood" else "none",
        "recipe": f"probe-{probe}",
        "recipe_digest": f"digest of {probe}",
        "dataset": f"probe {probe}",
        "seed": seed,
        "image_size": grid,
        "epochs": 60,
        "steps": max(by_step),
        "batch": 32,
        "dtype": "float32",
        "parameters": 100_000 + len(mixer),
        "macs": 12_000_000,
        "train_seconds": 100.0 + seed,
        "images_per_second": 800.0,
        "data_wait_share": 0.1,
        "probe": probe,
        "cells": cells,
        "canvases": 512,
        "loss": 0.5,
        "curve": tuple(ProbeLook(step=step, accuracies=tuple(found)) for step, found in by_step.items()),
        "budgets": (max(by_step),),
        "leak_check": HELD,
        "depth": 2,
        "global_layers": 2,
        "mixer_digest": f"code of {mixer}",
        "model_digest": "models",
        "data_digest": "canvases",
    }
    return ProbeRow(**(fields | more))  # type: ignore[arg-type]


def stored(pairs: float) -> list[float]:
    """Accuracies of recall that cross 90 % exactly at a number of pairs, from 1 to less than 16."""
    levels = LEVELS["recall"]
    last = max(place for place, level in enumerate(levels) if level <= pairs)
    share = math.log2(pairs / levels[last]) / math.log2(levels[last + 1] / levels[last])
    before, after = (1.0, 1 - 0.1 / share) if share > 1 / 7 else ((0.9 - 0.3 * share) / (1 - share), 0.3)
    return [1.0] * last + [before, after] + [0.3] * (len(levels) - last - 2)
