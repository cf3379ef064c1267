"""The charts of training: held-out figures and losses of each run, epoch by epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from wfbench.analysis.lines import label
from wfbench.records import Slot
from wfbench.records.run_directory import Run
from wfbench.report.page.charts import Chart, Choice, Point, lines_spec
from wfbench.report.words import pixels

_MOST_POINTS = 200  # of one run's curve


def training_charts(runs: Sequence[Run], looks: Mapping[str, Any]) -> list[Chart]:
    """The training of each run, for runs of one recipe on one data set."""
    found: dict[tuple[str, str, str, str], list[Point]] = {}
    for run in runs:
        if run.row.validation is not None:
            continue  # a trial of tuning is no result
        curve = run.curve()
        every = max(1, math.ceil(len(curve) / _MOST_POINTS))
        kept = [*curve[::every], *([curve[-1]] if curve and (len(curve) - 1) % every else [])]
        key = (run.row.dataset, run.row.recipe, pixels(run.row.image_size), run.row.recipe_digest)
        who = {"mixer": label(run.row), "seed": run.row.seed, "run": str(run.place)}
        for point in kept:
            more: dict[str, float] = {
                name: 100 * point[name] for name in ("accuracy", "miou", "pixel_accuracy") if name in point
            }
            plain = {
                name: value for name, value in point.items() if "strength_" not in name
            }  # those of every layer fill a page
            found.setdefault(key, []).append({**plain, **more, **_strengths(point), **who})
    words = {"accuracy": "held-out top-1 (%)", "miou": "held-out mIoU (%)", "pixel_accuracy": "pixels right (%)"}
    words |= {"loss": "held-out loss", "train_loss": "training loss", "lr": "learning rate"}
    words |= {"grad_norm": "norm of the gradient before clipping"}
    words |= {f"strength_{slot}": f"strength of predicted parts, {slot}" for slot in get_args(Slot)}
    made = []
    for number, ((dataset, recipe, side, digest), points) in enumerate(sorted(found.items()), 1):
        alone = sum(key[:3] == (dataset, recipe, side) for key in found) == 1
        y = [Choice(name, text) for name, text in words.items() if any(name in point for point in points)]
        x = [Choice("epoch", "epoch")] + [
            Choice(name, text)
            for name, text in (("step", "optimiser step"), ("train_seconds", "seconds of training"))
            if any(name in point for point in points)
        ]
        if y:
            names = sorted({str(point["mixer"]) for point in points})
            title = f"Training: {dataset}, recipe {recipe}{'' if alone else f' {digest}'}, {side} px"
            spec = lines_spec(looks, names, band=False)
            notes = ("Each line is one run, of one seed, so it has no interval.",)
            made.append(Chart(f"curves-{number}", title, spec, points, x, y, (), notes))
    return made


def _strengths(point: Mapping[str, float]) -> dict[str, float]:
    """The strength of predicted parts, the mean over the layers of a slot, of the raw weights; of an epoch that has it."""
    found = {
        slot: [value for name, value in point.items() if re.fullmatch(rf"strength_{slot}_\d+", name)] for slot in get_args(Slot)
    }
    return {f"strength_{slot}": sum(values) / len(values) for slot, values in found.items() if values}
