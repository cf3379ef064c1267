"""Paired tables: each mixer against the baseline on the same held-out images, from the predictions that runs keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wfbench.records.run_directory import Run
from wfbench.report.parts import DASH, Line, Table, flat, label, make_table, percent, sorted_keys, suffixes, title_of
from wfbench.report.significance import Asked
from wfbench.report.statistics import LEVEL, image_seed_bootstrap, mcnemar


class _Key(NamedTuple):
    """What runs share whose predictions are compared image by image."""

    dataset: str
    recipe: str
    image_size: tuple[int, int]
    model: str
    weights: str
    recipe_digest: str


class _Judged(NamedTuple):
    """A run's predictions: which images, their classes, and which of them it gets right."""

    run: Run
    images: NDArray[np.int64]
    truth: NDArray[np.int64]
    right: NDArray[np.bool_]


def paired_tables(runs: Iterable[Run], asked: Asked) -> list[Table]:
    """For each recipe with predictions of the baseline and another mixer: the difference over images and seeds."""
    found = group_runs(runs)
    made = []
    ends = suffixes([[key] for key in found])
    for (key, kept), end in zip(found.items(), ends, strict=True):
        table = _table(f"paired{end}", key, kept, asked)
        if table is not None:
            made.append(table)
    return made


def group_runs(runs: Iterable[Run]) -> dict[_Key, list[_Judged]]:
    """The runs that kept predictions, by what they share; of a seed that ran twice the newest counts."""
    kept: dict[tuple[object, ...], _Judged] = {}
    for run in sorted(runs, key=lambda run: run.row.created):
        table = run.predictions()
        if table is not None:
            kept[_key(run), label(run.row), run.row.seed] = _judged(run, table)
    found = {
        key: [judged for judged in kept.values() if _key(judged.run) == key] for key in {_key(j.run) for j in kept.values()}
    }
    return {key: found[key] for key in sorted_keys(found)}


def _key(run: Run) -> _Key:
    row = run.row
    return _Key(row.dataset, row.recipe, row.image_size, row.model, row.weights, row.recipe_digest)


def _judged(run: Run, table: pd.DataFrame) -> _Judged:
    truth = table["label"].to_numpy()
    return _Judged(run, table["index"].to_numpy(), truth, table["top1"].to_numpy() == truth)


def _table(name: str, key: _Key, kept: Sequence[_Judged], asked: Asked) -> Table | None:
    by_line = {line: sorted(members, key=lambda j: j.run.row.seed) for line, members in _by_line(kept).items()}
    theirs = by_line.pop(asked.baseline, [])
    if not theirs or not by_line:
        return None
    lines, refused = [], []
    for line, ours in sorted(by_line.items()):
        if all(_same_images(judged, theirs[0]) for judged in (*ours, *theirs)):
            lines.append(_line(key, line, ours, theirs, asked))
        else:
            refused.append(line)
    if not lines:
        return None
    notes = [
        f"The same held-out images, in points of accuracy over {asked.baseline}. With several seeds on both sides the 95% "
        "interval is over other images and other seeds (image × seed bootstrap), for each line by itself. McNemar's exact test "
        "is between the two models of one seed each, on the images that only one of them gets right: it says which of these "
        "two models is better, and nothing of other seeds.",
        *([f"Not compared, since they were judged on other images or labels: {', '.join(refused)}."] if refused else []),
    ]
    return make_table(name, f"Image by image: {title_of([key])}", lines, notes)


def _by_line(kept: Sequence[_Judged]) -> dict[str, list[_Judged]]:
    found: dict[str, list[_Judged]] = {}
    for judged in kept:
        found.setdefault(label(judged.run.row), []).append(judged)
    return found


def _same_images(a: _Judged, b: _Judged) -> bool:
    return np.array_equal(a.images, b.images) and np.array_equal(a.truth, b.truth)


def _line(key: _Key, name: str, ours: Sequence[_Judged], theirs: Sequence[_Judged], asked: Asked) -> Line:
    cells = {"mixer": name, "seeds": f"{len(ours)} and {len(theirs)}", "images": f"{len(ours[0].right):,}"}
    raw: dict[str, object] = {
        **flat(key),
        "label": name,
        "mixer": ours[0].run.row.mixer,
        "compared_with": asked.baseline,
        "images": len(ours[0].right),
    }
    raw |= {"seeds_ours": len(ours), "seeds_theirs": len(theirs)}
    if min(len(ours), len(theirs)) > 1:
        found = image_seed_bootstrap([j.right for j in ours], [j.right for j in theirs])
        ends = [f"{100 * value:+.2f}".replace("-", "−") for value in (found.difference, found.low, found.high)]
        word = "better" if found.low > 0 else "worse" if found.high < 0 else "not distinguishable"
        cells |= {"difference over images and seeds": f"{ends[0]} [{ends[1]}, {ends[2]}]", "verdict": word}
        raw |= {"difference": found.difference, "difference_low": found.low, "difference_high": found.high, "verdict": word}
    else:
        cells |= {"difference over images and seeds": DASH, "verdict": "not ranked: 1 seed"}
    pairs = [(a, b) for a in ours for b in theirs if a.run.row.seed == b.run.row.seed]
    if pairs:
        a, b = pairs[0]
        test = mcnemar(a.right, b.right)
        word = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
        found_from = "" if test.detectable is None else f"; 80 % power from {percent(test.detectable)}"
        seed = a.run.row.seed
        said = "the models differ" if test.p <= 1 - LEVEL else "the models are not distinguishable"
        cells["McNemar, two models"] = f"seed {seed}: {test.ours} : {test.theirs}, {word}, {said}{found_from}"
        raw |= {"mcnemar_seed": seed, "only_ours": test.ours, "only_theirs": test.theirs, "mcnemar_p": test.p}
        raw |= {"mcnemar_detectable": test.detectable}
    return cells, raw
