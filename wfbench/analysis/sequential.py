"""Claims decided at planned looks, with the error spent over the looks, and the seeds that an open claim still needs.

A look is a number of seeds, planned before the runs, at which the claims are answered; seeds are added only while one is open.
Testing at 5% at every look would give a false answer far more often than in 5% of cases. So the error of a claim is spent over
the looks: little of it at first, where few seeds have been run, and most at the last.

Differences are ours minus theirs, in the unit of the claim: points of accuracy. ``alpha`` is the error that a claim may have in
all, 5% divided by the number of claims (Bonferroni's correction).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wfbench.analysis.interval import Interval
from wfbench.analysis.paired import Difference
from wfbench.errors import InputError

Floats = NDArray[np.float64]
Verdict = Literal["supported", "contradicted", "undecidable"]

_NODES = 400  # of the quadrature over a look's statistic
_FAR = 10.0  # standard deviations beyond which a look's statistic is not followed


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds at which claims are answered, in order. A single one is the fixed design.

    Raises:
        InputError: for no look, fewer than two seeds, or numbers that do not rise.
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds or self.seeds[0] < 2 or any(b <= a for a, b in zip(self.seeds, self.seeds[1:], strict=False)):
            raise InputError("not a plan of looks", got=self.seeds, expected="rising numbers of seeds, from 2 on")

    def index(self, seeds: int) -> int:
        """Which look a number of seeds is, counted from 0.

        Raises:
            InputError: for a number of seeds at which no look was planned.
        """
        if seeds not in self.seeds:
            raise InputError("no look was planned there", got=f"{seeds} seeds", expected=f"one of {self.seeds}")
        return self.seeds.index(seeds)

    def level(self, alpha: float, look: int) -> float:
        """The one-sided level of the test at a look, if all looks together may have the error ``alpha``."""
        return nominal_levels(alpha, tuple(count / self.seeds[-1] for count in self.seeds))[look]

    def spent(self, alpha: float, look: int) -> float:
        """The part of ``alpha`` that is spent by the end of a look."""
        return spending(alpha, self.seeds[look] / self.seeds[-1])


def spending(alpha: float, fraction: float) -> float:
    """The one-sided error that is spent when a fraction of the seeds has been run: 2 − 2 Φ(z / √fraction).

    z is the 1 − alpha/2 quantile, so that all of ``alpha`` is spent at 1. Its bounds are close to those of O'Brien and Fleming.

    Source: Lan and DeMets, Biometrika 70 (1983) 659; O'Brien and Fleming, Biometrics 35 (1979) 549.
    """
    from scipy.special import ndtr, ndtri

    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))


@functools.lru_cache(maxsize=256)
def nominal_levels(alpha: float, fractions: tuple[float, ...]) -> tuple[float, ...]:
    """The one-sided level of the test at each look.

    The statistic at fraction t of the seeds is B(t) = Z √t for a normal Z, with independent increments. Its density among
    those that crossed no earlier bound is carried from look to look by numerical integration, and each bound is set so that
    the probability of crossing it first is what is spent at its look. A level is used as the level of the t-test at that look
    ("significance level approach"), which at a few seeds is an approximation; the slow tests hold it to account.

    Args:
        alpha: the one-sided error of all looks together, between 0 and 1/2.
        fractions: seeds at each look over those at the last: rising, the last is 1.

    Raises:
        InputError: for an alpha or fractions that cannot be.

    Source: Armitage, McPherson and Rowe, J. R. Stat. Soc. A 132 (1969) 235; Jennison and Turnbull, Group Sequential Methods
    (2000), sections 3.3 (levels of t-tests), 7.2 (spending) and 19.2 (integration).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    rising = all(a < b for a, b in zip((0.0, *fractions), fractions, strict=False))
    if not (0 < alpha < 0.5 and fractions and rising and fractions[-1] == 1):
        raise InputError(
            "not an error to be spent", got=f"{alpha} at {fractions}", expected="alpha below 1/2; rising fractions, up to 1"
        )
    node, node_weight = np.polynomial.legendre.leggauss(_NODES)
    place, mass = np.zeros(1), np.ones(1)  # of B before the first look
    before, already, levels = 0.0, 0.0, []
    for fraction in fractions:
        step, deviation, due = math.sqrt(fraction - before), math.sqrt(fraction), spending(alpha, fraction)
        excess = functools.partial(_excess, place, mass, step, deviation, due - already)
        bound = float(brentq(excess, 0.0, 40.0, xtol=1e-12)) if excess(40.0) < 0 else math.inf
        levels.append(float(ndtr(-bound)))
        low, high = -_FAR * deviation, min(bound, _FAR) * deviation
        new = low + (high - low) * (node + 1) / 2
        density = np.exp(-(((new[:, None] - place) / step) ** 2) / 2) @ mass / (step * math.sqrt(2 * math.pi))
        place, mass = new, density * node_weight * (high - low) / 2
        before, already = fraction, due
    return tuple(levels)


def _excess(place: Floats, mass: Floats, step: float, deviation: float, due: float, z: float) -> float:
    """By how much the probability of crossing the bound ``z`` at a look, and none before, is more than is ``due``.

    ``place`` and ``mass`` are B at the look before and its density times the weights, ``step`` is the standard deviation of
    the increment since, and ``deviation`` that of B now.
    """
    from scipy.special import ndtr

    return float(mass @ ndtr((place - z * deviation) / step)) - due


# --- decisions at a look


@dataclass(frozen=True)
class Decision:
    """The answer to a claim at a look.

    Attributes:
        verdict: "undecidable" is no finding: the claim may be true or false.
        interval: the difference, between one-sided bounds at the look's level; or why there are none.
        spent: the part of the claim's error that is spent by the end of this look.
        seeds: the number at this look.
        is_last: whether no later look is planned.
        rival: of a claim to be best, the place among the leads of the one that ``interval`` is of; else None.
    """

    verdict: Verdict
    interval: Interval
    spent: float
    seeds: int
    is_last: bool
    rival: int | None = None


def decide_better(difference: Difference, by: float, alpha: float, looks: Looks) -> Decision:
    """Answer the claim that the true difference is above ``by``.

    Supported if the one-sided lower bound at the look's level is above ``by``, contradicted if the upper one is below it.

    Args:
        difference: at as many seeds as one of the looks has.
        by: the difference that the claim asks for.
        alpha: the error of the claim over all looks.
        looks: the plan.

    Raises:
        InputError: for a number of seeds at which no look was planned.
    """
    look = looks.index(difference.seeds)
    level = looks.level(alpha, look)
    if difference.why_none:
        return _decision("undecidable", difference.interval(), alpha, looks, look)
    interval = _between(difference, level, level)
    verdict: Verdict = "undecidable"
    if _low(interval) > by:
        verdict = "supported"
    elif _high(interval) < by:
        verdict = "contradicted"
    return _decision(verdict, interval, alpha, looks, look)


def decide_within(difference: Difference, margin: float, alpha: float, looks: Looks) -> Decision:
    """Answer the claim that the true difference is within ± ``margin``.

    Supported if both one-sided bounds at the look's level are inside (two one-sided tests). Contradicted if the difference is
    surely outside; as that may be on either side, each side has half the error.

    Args:
        difference: at as many seeds as one of the looks has.
        margin: of equivalence, above 0.
        alpha: the error of the claim over all looks.
        looks: the plan.

    Raises:
        InputError: for a number of seeds at which no look was planned.
    """
    look = looks.index(difference.seeds)
    if difference.why_none:
        return _decision("undecidable", difference.interval(), alpha, looks, look)
    level, half = looks.level(alpha, look), looks.level(alpha / 2, look)
    interval = _between(difference, level, level)
    verdict: Verdict = "undecidable"
    if -margin < _low(interval) and _high(interval) < margin:
        verdict = "supported"
    elif difference.low(half) > margin or difference.high(half) < -margin:
        verdict = "contradicted"
    return _decision(verdict, interval, alpha, looks, look)


def decide_best(leads: Sequence[Difference], alpha: float, looks: Looks) -> Decision:
    """Answer the claim that a line is better than every one of several others.

    Supported if its lower bounds against all of them are above 0, which needs no correction for their number. Contradicted if
    the upper bound against any one is below 0, at the error divided by their number. ``interval`` is of the rival that
    decides: the one that is surely ahead, else the one whose lower bound is lowest.

    Args:
        leads: the line minus each of the others, all at as many seeds as one of the looks has.
        alpha: the error of the claim over all looks.
        looks: the plan.

    Raises:
        InputError: for no rival, or a number of seeds at which no look was planned.
    """
    if not leads or len({lead.seeds for lead in leads}) > 1:
        raise InputError("not leads at one look", got=[lead.seeds for lead in leads], expected="a lead or more, of equal seeds")
    look = looks.index(leads[0].seeds)
    for rival, lead in enumerate(leads):
        if lead.why_none:
            return _decision("undecidable", lead.interval(), alpha, looks, look, rival)
    level, shared = looks.level(alpha, look), looks.level(alpha / len(leads), look)
    intervals = [_between(lead, level, shared) for lead in leads]
    ahead = min(range(len(leads)), key=lambda i: _high(intervals[i]))
    nearest = min(range(len(leads)), key=lambda i: _low(intervals[i]))
    if _high(intervals[ahead]) < 0:
        return _decision("contradicted", intervals[ahead], alpha, looks, look, ahead)
    verdict: Verdict = "supported" if _low(intervals[nearest]) > 0 else "undecidable"
    return _decision(verdict, intervals[nearest], alpha, looks, look, nearest)


def _between(difference: Difference, low: float, high: float) -> Interval:
    """The interval between the one-sided bounds at two levels."""
    return Interval(difference.mean, difference.low(low), difference.high(high), level=1 - low - high)


def _low(interval: Interval) -> float:
    return -math.inf if interval.low is None else interval.low


def _high(interval: Interval) -> float:
    return math.inf if interval.high is None else interval.high


def _decision(
    verdict: Verdict, interval: Interval, alpha: float, looks: Looks, look: int, rival: int | None = None
) -> Decision:
    last = look == len(looks.seeds) - 1
    return Decision(verdict, interval, looks.spent(alpha, look), looks.seeds[look], last, rival)
