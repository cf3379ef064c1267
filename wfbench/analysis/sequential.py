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
from wfbench.analysis.power import check_alpha
from wfbench.errors import InputError

Floats = NDArray[np.float64]
Verdict = Literal["supported", "contradicted", "undecidable"]

_NODES = 100  # of each of the two quadratures behind the probability that two looks both err


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds at which claims are answered, in order. A single one is the fixed design.

    Raises:
        InputError: for no look, fewer than two seeds, or numbers that do not rise.
    """

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds or self.seeds[0] < 2 or any(b <= a for a, b in zip(self.seeds, self.seeds[1:], strict=False)):
            raise InputError(
                "not a plan of looks",
                got=self.seeds,
                expected="rising numbers of seeds, from 2 on",
                remedy="for example (5, 10, 20), where all 20 seeds are the last look; (20,) for no look before",
            )

    def index(self, seeds: int) -> int:
        """Which look a number of seeds is, counted from 0.

        Raises:
            InputError: for a number of seeds at which no look was planned.
        """
        if seeds not in self.seeds:
            raise InputError(
                "no look was planned there",
                got=f"{seeds} seeds",
                expected=f"one of {self.seeds}",
                remedy="run the missing seeds, or leave out those beyond a look",
            )
        return self.seeds.index(seeds)

    def level(self, alpha: float, look: int) -> float:
        """The one-sided level of the test at a look, if all looks together may have the error ``alpha``."""
        return nominal_levels(alpha, self.seeds)[look]

    def spent(self, alpha: float, look: int) -> float:
        """The part of ``alpha`` that is spent by the end of a look."""
        return spending(alpha, self.seeds[look] / self.seeds[-1])

    def own_part(self, alpha: float, look: int) -> float:
        """The part of ``alpha`` that is spent at a look itself."""
        return self.spent(alpha, look) - (self.spent(alpha, look - 1) if look else 0.0)


def spending(alpha: float, fraction: float) -> float:
    """The one-sided error that is spent when a fraction of the seeds has been run: 2 − 2 Φ(z / √fraction).

    z is the 1 − alpha/2 quantile, so that all of ``alpha`` is spent at 1. Its bounds are close to those of O'Brien and Fleming.

    Source: Lan and DeMets, Biometrika 70 (1983) 659; O'Brien and Fleming, Biometrics 35 (1979) 549.
    """
    from scipy.special import ndtr, ndtri

    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))


@functools.lru_cache(maxsize=256)
def nominal_levels(alpha: float, seeds: tuple[int, ...]) -> tuple[float, ...]:
    """The one-sided level of the t-test at each look, so that all looks together err with probability ``alpha`` at most.

    Let A_j be a false answer at look j. The chance of any is at most Σ P(A_j) − Σ P(A_j and A_{j−1}) (Hunter's bound). Each
    level P(A_j) is set so that its part of the sum is what the spending function spends at that look. P(A_j and A_{j−1}) is
    that of two t-tests of which the later one has all seeds of the earlier one, by numerical integration. So the error holds
    for t-tests of a few seeds; the usual recursion takes the statistics for normal, and errs too often where looks at few
    seeds are close together. For many seeds and two looks the levels are those of Lan and DeMets, for more looks a little
    smaller. A deviation that is pooled over several lines varies less than that of one t-test, and errs less.

    Args:
        alpha: the one-sided error of all looks together, between 0 and 1/2.
        seeds: their number at each look: rising, from 2 on.

    Raises:
        InputError: for an alpha outside 0 to 1/2.

    Source: Hunter, J. Appl. Probab. 13 (1976) 597; Jennison and Turnbull, Group Sequential Methods (2000), section 7.2.
    """
    from scipy.optimize import brentq

    check_alpha(alpha)
    spent = [spending(alpha, count / seeds[-1]) for count in seeds]
    levels = spent[:1]
    for look in range(1, len(seeds)):
        due = spent[look] - spent[look - 1]
        excess = functools.partial(_excess, levels[-1], seeds[look - 1], seeds[look], due)
        levels.append(float(brentq(excess, due, 0.5, xtol=1e-12 * due, rtol=1e-9)) if levels[-1] else due)
    return tuple(levels)


def _excess(earlier: float, few: int, many: int, due: float, level: float) -> float:
    """By how much a level adds more to Hunter's bound than is due, after a look at ``few`` seeds with the level ``earlier``."""
    return level - _both(earlier, few, level, many) - due


def _both(earlier: float, few: int, level: float, many: int) -> float:
    """P(the t-tests of the first ``few`` and of all ``many`` seeds both reject), where there is no difference.

    A t-test rejects where the cosine U = T / √(T² + n − 1) of the angle between the n values and (1, …, 1) is large. Let U be
    that of the first n = ``few`` values, V that of the other m, and R² ~ Beta(n/2, m/2) the share of the first in the sum of
    all squares. The three are independent, and the cosine of all is R U √(n/(n+m)) + √(1 − R²) V √(m/(n+m)). So the
    probability is a mean over U, beyond its bound, and R of a probability of V.
    """
    from scipy.stats import beta
    from scipy.stats import t as student

    extra = many - few
    node, weight = np.polynomial.legendre.leggauss(_NODES)
    node, weight = (node + 1) / 2, weight / 2
    u = _cosine(student.isf(earlier * node, few - 1), few)[:, None]
    square = beta.ppf(node, few / 2, extra / 2)
    bound = _cosine(np.asarray(student.isf(level, many - 1)), many)
    v = (bound * math.sqrt(many) - u * np.sqrt(square * few)) / np.sqrt((1 - square) * extra)
    if extra == 1:  # V is 1 or −1
        beyond = ((v < 1).astype(float) + (v < -1)) / 2
    else:
        inside = np.clip(v, -1 + 1e-15, 1 - 1e-15)
        beyond = student.sf(inside * np.sqrt((extra - 1) / (1 - inside**2)), extra - 1)
    return float(earlier * (weight @ beyond @ weight))


def _cosine(t: Floats, count: int) -> Floats:
    """The cosine of the angle between ``count`` values and (1, …, 1), where their t-statistic is ``t``."""
    t = np.clip(t, -1e150, 1e150)
    return t / np.hypot(t, math.sqrt(count - 1))


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
        raise InputError(
            "not leads at one look",
            got=[lead.seeds for lead in leads],
            expected="a lead or more, of equal seeds",
            remedy="give the leads over all rivals after the same number of seeds",
        )
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
