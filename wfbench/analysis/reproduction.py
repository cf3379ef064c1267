"""Do a recorded number and a new one agree? Rules with a stated error, as pure functions of samples.

A number is a mean over values of its own (of rounds, the logarithms of a ratio of times) or one draw among seeds. Whether two
numbers agree is a t-test of their difference at the level ``ALPHA / cells``, so that of all cells of one call, where nothing
has changed, none disagrees with probability 95 % at least (Bonferroni). A sample of three says little of its own deviation,
so deviations are moderated by those of the samples around it (`moderated`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wfbench.analysis.interval import Interval
from wfbench.analysis.power import detectable_effect, t_quantile
from wfbench.analysis.ratio import rounds_of
from wfbench.errors import InputError
from wfbench.measure.rounds import LEAST_ROUNDS, common_rounds
from wfbench.records import ProfileRow

#: The probability that any cell of one call disagrees, where nothing has changed.
ALPHA = 0.05
#: Standard deviation, from one run of a profile to another, of a ratio's mean logarithm that the rounds of neither show: both
#: runs have it. The rule allows for as much; see docs/REPRODUCE.md.
BETWEEN_RUNS = 0.025
#: Where not even a change by this factor would be found with probability `power.ENOUGH_POWER`, times say nothing.
COARSEST = 2.0
#: Of fewer samples, nothing is learnt about how much their deviations differ.
_ENOUGH_SAMPLES = 5
#: Deviations are never taken to be so much alike that the others count for more than so many degrees of freedom.
_MOST_PRIOR = 3.0

Answer = Literal["agree", "disagree", "cannot be compared"]


@dataclass(frozen=True)
class Spread:
    """The variance of one value of a sample, as far as it is known, and the degrees of freedom behind it."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Number:
    """A mean over so many values, each with this spread."""

    mean: float
    count: int
    spread: Spread


@dataclass(frozen=True)
class Compared:
    """A new number against the recorded one.

    Attributes:
        difference: new minus recorded, with its interval; the intervals of all cells of a call hold at once with probability
            ``1 - ALPHA``.
        error: the standard error of the difference.
        freedom: its degrees of freedom, rounded down.
    """

    difference: Interval
    error: float
    freedom: int

    @property
    def agrees(self) -> bool:
        """Whether the interval of the difference holds 0."""
        assert self.difference.low is not None
        assert self.difference.high is not None
        return self.difference.low <= 0 <= self.difference.high

    @property
    def found_from(self) -> float:
        """A true difference of this size, to either side, would be found with probability `power.ENOUGH_POWER`."""
        return self.error * detectable_effect(t_quantile((1 - self.difference.level) / 2, self.freedom), self.freedom)


def moderated(samples: Sequence[Sequence[float]]) -> list[Spread]:
    """The variance of each sample, drawn towards that of all by as much as they are alike.

    The true variances are taken to scatter as a scaled inverse χ² with d₀ degrees of freedom about s₀², both estimated from
    the samples; then (d₀ s₀² + d s²) / (d₀ + d) has d₀ + d degrees of freedom, counted as no more than all samples have. From
    fewer than five samples d₀ cannot be estimated: each then has its own variance, and one of a single value that of all.

    Args:
        samples: values of each; one with a single value gets what the others say.

    Raises:
        InputError: where no sample has two values that differ.

    Source: Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004) 3, section 6.2.
    """
    freedoms = np.array([len(sample) - 1 for sample in samples], dtype=float)
    known = freedoms > 0
    raw = np.array([np.var(sample, ddof=1) if len(sample) > 1 else 0.0 for sample in samples])
    total = float(freedoms[known].sum())
    if not known.any() or not raw.any():
        raise InputError(
            "nothing says how far numbers scatter",
            got="no sample of two values that differ",
            expected="at least one such sample",
            remedy="measure more rounds",
        )
    floor = 1e-5 * float(np.median(raw[known][raw[known] > 0]))
    raw = np.maximum(raw, floor)  # a sample that happens not to scatter has a logarithm too
    pooled = float((freedoms * raw)[known].sum() / total)
    prior_freedom, prior = 0.0, pooled
    if known.sum() >= _ENOUGH_SAMPLES:
        prior_freedom, prior = _prior(raw[known], freedoms[known], pooled)
    found = []
    for variance, freedom in zip(raw, freedoms, strict=True):
        if prior_freedom + freedom == 0:
            found.append(Spread(pooled, total))
        else:
            mean = (prior_freedom * prior + freedom * variance) / (prior_freedom + freedom)
            found.append(Spread(float(mean), min(prior_freedom + freedom, total)))
    return found


def _prior(variances: np.ndarray, freedoms: np.ndarray, pooled: float) -> tuple[float, float]:
    """d₀, at most `_MOST_PRIOR`, and s₀² by the mean and the variance of log s²; the pooled variance where d₀ is at its limit.

    Few variances may scatter no more than by chance though the true ones differ, and then d₀ would be estimated as infinite.
    """
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    logs = np.log(variances) - digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedoms / 2).mean())
    if excess <= polygamma(1, _MOST_PRIOR / 2):
        return _MOST_PRIOR, pooled
    half = float(brentq(lambda x: polygamma(1, x) - excess, 1e-6, _MOST_PRIOR / 2))
    return 2 * half, float(np.exp(logs.mean() + digamma(half) - np.log(half)))


def compare(recorded: Number, new: Number, *, cells: int, between: float = 0.0) -> Compared:
    """t = (new − recorded) / √(s²/n + s'²/n' + 2 between²) against Student's t at the level ``ALPHA / cells``, two-sided.

    The degrees of freedom are Welch's; ``between`` counts as known.

    Args:
        recorded, new: in the same unit, in which ``between`` is too.
        cells: that were drawn in this call, whether or not they could be compared.
        between: standard deviation of either number from run to run, beside what its own values show.
    """
    parts = [(number.spread.variance / number.count, number.spread.freedom) for number in (recorded, new)]
    squared = sum(part for part, _ in parts) + 2 * between**2
    freedom = squared**2 / sum(part**2 / freedom for part, freedom in parts)
    return _judged(new.mean - recorded.mean, math.sqrt(squared), freedom, cells)


def compare_draws(recorded: float, new: float, spread: Spread, *, cells: int) -> Compared:
    """A training again: its figure and the recorded one as two draws among seeds, t = (new − recorded) / (s √2).

    Draws of one seed on other code or another machine are no more alike than those of two seeds, and no less.

    Args:
        recorded, new: the final metric.
        spread: of the metric from seed to seed, from runs other than the recorded one.
        cells: as in `compare`.
    """
    return _judged(new - recorded, math.sqrt(2 * spread.variance), spread.freedom, cells)


def _judged(difference: float, error: float, freedom: float, cells: int) -> Compared:
    whole = max(1, min(int(freedom), 10_000))
    level = ALPHA / cells
    interval = Interval.around(difference, t_quantile(level / 2, whole) * error, 1 - level)
    return Compared(interval, error, whole)


# --- profiles


def log_speed_ups(row: ProfileRow, baseline: ProfileRow) -> list[float]:
    """The logarithm of the baseline's time divided by the cell's, for each round that both have."""
    ours, theirs = common_rounds(rounds_of(row), rounds_of(baseline))
    return [math.log(their / our) for our, their in zip(ours, theirs, strict=True)]


def numbers_of(samples: Sequence[Sequence[float]]) -> list[Number | None]:
    """The mean of each sample of one session with its moderated spread; None for fewer values than `LEAST_ROUNDS`."""
    enough = [sample for sample in samples if len(sample) >= LEAST_ROUNDS]
    spreads = iter(moderated(enough) if enough else [])
    return [Number(float(np.mean(x)), len(x), next(spreads)) if len(x) >= LEAST_ROUNDS else None for x in samples]


def is_too_coarse(compared: Compared) -> bool:
    """Whether not even a change of a ratio by the factor `COARSEST` would be found, for differences of logarithms."""
    return compared.found_from > math.log(COARSEST)
