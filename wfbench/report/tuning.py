"""Tuning tables: what every mixer was allowed, how its accuracy follows the rate, and how often it diverged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wfbench.records import AnyRow, TrialRow
from wfbench.report.parts import (
    DASH,
    Line,
    Table,
    flat,
    group,
    label,
    latest,
    make_table,
    number,
    percent,
    plural,
    sorted_keys,
    suffixes,
    title_of,
)


class _Key(NamedTuple):
    """What the trials of one table share."""

    dataset: str
    recipe: str
    model: str
    image_size: tuple[int, int]
    epochs: int
    recipe_digest: str


def tuning_tables(rows: Iterable[AnyRow]) -> list[Table]:
    """For each recipe whose lines were tuned: the trials of every line."""
    found = group((row for row in rows if isinstance(row, TrialRow)), _key)
    keys = sorted_keys(found)
    ends = suffixes([[key] for key in keys])
    return [_table(f"tuning{end}", key, found[key]) for key, end in zip(keys, ends, strict=True)]


def _key(row: TrialRow) -> _Key:
    return _Key(*(getattr(row, field) for field in _Key._fields))


def _table(name: str, key: _Key, rows: Sequence[TrialRow]) -> Table:
    lines: list[Line] = []
    raw: list[dict[str, object]] = []
    for mixer, members in sorted(group(rows, label).items()):
        trials = latest(members, lambda row: (row.lr, row.seed))
        lines.append((_cells(mixer, trials), {}))
        raw += [{**flat(key), "mixer": mixer, **row.model_dump(include=_RAW)} for row in trials]
    first = rows[0]
    notes = [
        f"Every line has the same rates, about the recipe's own of {first.recipe_lr:g}, each with {_seeds(rows)}, judged on "
        f"{percent(first.validation)} % of the training images, which these trials were not trained on. The held-out images "
        "were not looked at, and the final seeds are others.",
        "Each column of a rate is the mean accuracy in % of its trials. The best rate has the highest, and no trial that "
        "diverged: a loss that is not finite, or at the end more than twice that of guessing.",
    ]
    edges = [mixer for mixer, members in group(rows, label).items() if _best(members) in (min(first.rates), max(first.rates))]
    if edges:
        notes.append(
            f"The best rate is the last of the grid, and a better one may lie beyond: {', '.join(sorted(edges))}. More trials "
            "for all lines would say."
        )
    undone = {mixer: count for mixer, members in group(rows, label).items() if (count := _undone(members))}
    if undone:
        told = ", ".join(f"{mixer} {plural(count, 'rate')}" for mixer, count in sorted(undone.items()))
        notes.append(f"Not all trials are done, and no rate is chosen before they are; without a trial: {told}.")
    title = title_of([key._replace(recipe_digest="")])
    return make_table(name, f"Tuning: {title}", lines, notes, raw)


_RAW = {"seed", "lr", "status", "message", "accuracy", "loss", "samples", "validation", "recipe_lr"}


def _cells(mixer: str, trials: Sequence[TrialRow]) -> dict[str, str]:
    by_rate = _by_rate(trials)
    best, lost = _best(trials), sum(row.status == "diverged" for row in trials)
    return {
        "mixer": mixer,
        "trials": str(len(trials)),
        "diverged": f"{lost} ({100 * lost / len(trials):.0f} %)",
        "best rate": DASH if best is None else number(best),
        **{f"{rate:g}": _rate(rows) for rate, rows in by_rate.items()},
    }


def _rate(rows: Sequence[TrialRow]) -> str:
    lost = sum(row.status == "diverged" for row in rows)
    return f"{plural(lost, 'trial')} diverged" if lost else percent(_mean(rows))


def _by_rate(trials: Iterable[TrialRow]) -> dict[float, list[TrialRow]]:
    found = group(trials, lambda row: row.lr)
    return {rate: found[rate] for rate in sorted(found)}


def _undone(trials: Sequence[TrialRow]) -> int:
    """How many of a line's rates have no trial yet."""
    return len(set(trials[0].rates) - {row.lr for row in trials})


def _best(trials: Sequence[TrialRow]) -> float | None:
    """The rate that the sweep chose: the highest mean accuracy, then the lowest mean loss; None while rates are untried."""
    if _undone(trials):
        return None
    means = {
        rate: (_mean(rows), -math.fsum(row.loss or 0.0 for row in rows) / len(rows))
        for rate, rows in _by_rate(trials).items()
        if all(row.status == "ok" for row in rows)
    }
    return max(means, key=means.__getitem__) if means else None


def _mean(rows: Sequence[TrialRow]) -> float:
    return math.fsum(row.accuracy or 0.0 for row in rows) / len(rows)


def _seeds(rows: Iterable[TrialRow]) -> str:
    seeds = sorted({row.seed for row in rows})
    return f"seed {', '.join(map(str, seeds))}"
