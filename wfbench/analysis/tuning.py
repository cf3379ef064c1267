"""Trials of learning rates: how each line's accuracy follows the rate, and which rate is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, label, latest, sorted_keys
from wfbench.analysis.seed_differences import over_seeds
from wfbench.records import AnyRow, TrialRow


class TuningSetting(NamedTuple):
    """What the trials of one result share."""

    dataset: str
    recipe: str
    model: str
    image_size: tuple[int, int]
    epochs: int
    recipe_digest: str


@dataclass(frozen=True, eq=False)
class RateResult:
    """The trials of one rate.

    Attributes:
        rate: the learning rate.
        trials: one for each seed.
    """

    rate: float
    trials: tuple[TrialRow, ...]

    @property
    def diverged(self) -> int:
        """How many trials diverged."""
        return sum(row.status == "diverged" for row in self.trials)

    @property
    def accuracy(self) -> Interval | None:
        """The mean accuracy on the validation images, a fraction; None where a trial diverged, and of denoisers."""
        if self.diverged or self.trials[0].measure == "loss":
            return None
        samples = self.trials[0].samples if self.trials[0].measure == "accuracy" else None
        return over_seeds([row.accuracy or 0.0 for row in self.trials], samples)

    @property
    def loss(self) -> Interval | None:
        """The mean loss on the validation images; None where a trial diverged."""
        return None if self.diverged else over_seeds([row.loss or 0.0 for row in self.trials])

    @property
    def result(self) -> Interval | None:
        """What rates are compared by: the accuracy, or of denoisers the loss; None where a trial diverged."""
        return self.loss if self.trials[0].measure == "loss" else self.accuracy


@dataclass(frozen=True, eq=False)
class TunedLine:
    """The trials of one line.

    Attributes:
        label: the line's name.
        trials: the latest of each rate and seed, by rate.
        rates: the rates that were tried, in order.
        best: the `best_rate` of those without a trial that diverged; None where there is none, or a rate is not tried yet.
        untried: how many of the rates that were to be tried have no trial yet.
    """

    label: str
    trials: tuple[TrialRow, ...]
    rates: Mapping[float, RateResult]
    best: float | None
    untried: int

    @property
    def diverged(self) -> int:
        """How many trials diverged."""
        return sum(found.diverged for found in self.rates.values())


@dataclass(frozen=True, eq=False)
class TuningResult:
    """The trials of one recipe.

    Attributes:
        setting: what they share.
        lines: by label.
        rates: all rates that were to be tried.
        recipe_rate: the recipe's own rate.
        validation: the share of the training images that the trials are judged on.
        seeds: those of the trials.
    """

    setting: TuningSetting
    lines: tuple[TunedLine, ...]
    rates: tuple[float, ...]
    recipe_rate: float
    validation: float
    seeds: tuple[int, ...]

    @property
    def measure(self) -> str:
        """What the trials are compared by: "accuracy", "mIoU" or "loss"."""
        return self.lines[0].trials[0].measure

    @property
    def at_the_edge(self) -> list[TunedLine]:
        """The lines whose best rate is the smallest or the largest of all, so that a better one may lie beyond."""
        return [line for line in self.lines if line.best in (min(self.rates), max(self.rates))]


def tunings(rows: Sequence[AnyRow]) -> tuple[TuningResult, ...]:
    """The trials of each recipe whose lines were tuned."""
    groups = group((row for row in rows if isinstance(row, TrialRow)), _setting_of)
    return tuple(_result(setting, groups[setting]) for setting in sorted_keys(groups))


def _setting_of(row: TrialRow) -> TuningSetting:
    return TuningSetting(*(getattr(row, field) for field in TuningSetting._fields))


def _result(setting: TuningSetting, rows: Sequence[TrialRow]) -> TuningResult:
    first = rows[0]
    lines = tuple(_line(name, members) for name, members in sorted(group(rows, label).items()))
    seeds = tuple(sorted({row.seed for row in rows}))
    return TuningResult(setting, lines, first.rates, first.recipe_lr, first.validation, seeds)


def _line(name: str, rows: Sequence[TrialRow]) -> TunedLine:
    trials = latest(rows, lambda row: (row.lr, row.seed))
    rates = {rate: RateResult(rate, tuple(found)) for rate, found in group(trials, lambda row: row.lr).items()}
    untried = len(set(rows[0].rates) - rates.keys())
    return TunedLine(name, tuple(trials), rates, None if untried else _best(rates), untried)


def _best(rates: Mapping[float, RateResult]) -> float | None:
    return best_rate({rate: tried.trials for rate, tried in rates.items() if not tried.diverged})


def best_rate(trials: Mapping[float, Sequence[TrialRow]]) -> float | None:
    """The rate with the highest mean accuracy; of equal ones that with the fewest steps, then that with the lowest loss.

    Trials that solved a probe are equal in accuracy and ended at different steps, so their losses do not compare: the rate that
    solves it soonest is taken. A high rate that solves it late is one that other seeds may fail at. Of denoisers, which have no
    accuracy, the loss decides.

    Args:
        trials: of each rate, without those at which a trial diverged.
    """

    def order(rate: float) -> tuple[float, float, float]:
        rows = trials[rate]
        accuracy = math.fsum(row.accuracy or 0.0 for row in rows) / len(rows)
        steps = math.fsum(row.steps or 0 for row in rows) / len(rows)
        return accuracy, -steps, -math.fsum(row.loss or 0.0 for row in rows) / len(rows)

    return max(trials, key=order, default=None)
