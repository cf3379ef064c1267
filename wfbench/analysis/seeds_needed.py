"""How many seeds in all would decide a claim with a power of 80%, if a difference were the true one.

The answer holds for one test at the end (no earlier looks), at the claim's one-sided error ``alpha``, if the estimated spread
over seeds is the true one. It is the smallest number whose power is 80%: of support where the claim would be true, of
contradiction where it would be false. At its threshold no number of seeds decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wfbench.analysis.paired import Difference
from wfbench.analysis.power import ENOUGH_POWER, check_alpha, equivalence_power, t_power, t_quantile
from wfbench.errors import InputError

#: The largest number of seeds that is looked for.
MOST_SEEDS = 1000


@dataclass(frozen=True)
class SeedsNeeded:
    """A number of seeds, or "more than so many", or the reason why no number would do: exactly one of the three.

    Attributes:
        seeds: the smallest number in all.
        more_than: the number of seeds, the largest looked for, that is still too few; None where one was found.
        why_none: why no number of seeds decides; "" where one does.

    Raises:
        ValueError: for none of the three, or more than one.
    """

    seeds: int | None = None
    more_than: int | None = None
    why_none: str = ""

    def __post_init__(self) -> None:
        if (self.seeds is not None) + (self.more_than is not None) + bool(self.why_none) != 1:
            raise ValueError("a number of seeds, a number that is too few, or a reason why there is none")


def seeds_for_better(true: float, by: float, difference: Difference, alpha: float, *, most: int = MOST_SEEDS) -> SeedsNeeded:
    """How many seeds decide whether the difference is above ``by``.

    Args:
        true: the true difference that is supposed: the estimate, or the stated effect.
        by: the difference that the claim asks for.
        difference: the one that was found; its spread over seeds is taken for the true one.
        alpha: the claim's one-sided error.
        most: the largest number that is looked for.

    Raises:
        InputError: for an alpha outside 0 to 1/2.
    """
    check_alpha(alpha)
    if difference.why_none:
        return SeedsNeeded(why_none=difference.why_none)
    if true == by:
        return _at_threshold(by)
    return _smallest(lambda seeds: _one_sided(abs(true - by), difference, alpha, seeds), most)


def seeds_for_within(
    true: float, margin: float, difference: Difference, alpha: float, *, most: int = MOST_SEEDS
) -> SeedsNeeded:
    """How many seeds decide whether the difference is within ± ``margin``. Arguments and errors as in `seeds_for_better`.

    Inside, two one-sided tests have to show it; outside, one test with half the error.
    """
    check_alpha(alpha)
    if difference.why_none:
        return SeedsNeeded(why_none=difference.why_none)
    if abs(true) == margin:
        return _at_threshold(margin)
    if abs(true) > margin:
        return _smallest(lambda seeds: _one_sided(abs(true) - margin, difference, alpha / 2, seeds), most)

    def power(seeds: int) -> float:
        then = replace(difference, seeds=seeds)
        return equivalence_power(margin / then.error, then.freedom, difference=true / then.error, alpha=alpha)

    return _smallest(power, most)


def seeds_for_best(true: Sequence[float], leads: Sequence[Difference], alpha: float, *, most: int = MOST_SEEDS) -> SeedsNeeded:
    """How many seeds decide whether a line leads over every other one.

    If all leads are positive, the power to show them all is at least 1 − Σ (1 − power of each); that bound has to reach 80%.
    If one is negative, it is the power to show the clearest one at alpha divided by their number.

    Args:
        true: the true lead over each rival that is supposed.
        leads: those that were found; their spreads over seeds are taken for the true ones.
        alpha: the claim's one-sided error.
        most: the largest number that is looked for.

    Raises:
        InputError: for no rival, not as many true leads as leads, or an alpha outside 0 to 1/2.
    """
    check_alpha(alpha)
    if not leads or len(true) != len(leads):
        raise InputError(
            "not a true lead over each rival",
            got=f"{len(true)} of {len(leads)}",
            expected="one for each rival",
            remedy="give the true leads in the order of the leads that were found",
        )
    if unknown := next((lead.why_none for lead in leads if lead.why_none), ""):
        return SeedsNeeded(why_none=unknown)
    pairs = list(zip(true, leads, strict=True))
    if min(true) < 0:
        shared = alpha / len(leads)
        return _smallest(lambda n: max(_one_sided(-lead, found, shared, n) for lead, found in pairs if lead < 0), most)
    if min(true) == 0:
        return _at_threshold(0.0)
    return _smallest(lambda n: 1 - sum(1 - _one_sided(lead, found, alpha, n) for lead, found in pairs), most)


def seeds_for_share(true: float, threshold: float, alpha: float, *, most: int = MOST_SEEDS) -> SeedsNeeded:
    """How many seeds decide whether a share of all possible seeds is above a threshold, by exact binomial bounds.

    Args:
        true: the true share that is supposed.
        threshold: the share that the claim asks for.
        alpha: the claim's one-sided error.
        most: the largest number that is looked for.

    Raises:
        InputError: for an alpha outside 0 to 1/2.
    """
    import numpy as np
    from scipy.stats import binom

    check_alpha(alpha)
    if true == threshold:
        return _at_threshold(threshold)
    p, bar = (true, threshold) if true > threshold else (1 - true, 1 - threshold)  # below it: the seeds that do not
    count = np.arange(2, most + 1)
    needed = binom.isf(alpha, count, bar) + 1  # so many would be found with a probability of alpha at most
    enough = np.flatnonzero(binom.sf(needed - 1, count, p) >= ENOUGH_POWER)
    return SeedsNeeded(seeds=int(count[enough[0]])) if len(enough) else SeedsNeeded(more_than=most)


def _one_sided(distance: float, difference: Difference, alpha: float, seeds: int) -> float:
    """The power of the one-sided t-test of a difference that lies at a distance from the threshold."""
    then = replace(difference, seeds=seeds)
    return t_power(distance / then.error, t_quantile(alpha, then.freedom), then.freedom, two_sided=False)


def _smallest(power: Callable[[int], float], most: int) -> SeedsNeeded:
    """The smallest number of seeds, from 2 on, whose power is enough; power rises with the number."""
    if power(most) < ENOUGH_POWER:
        return SeedsNeeded(more_than=most)
    low, high = 1, most  # too few; enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= ENOUGH_POWER else (middle, high)
    return SeedsNeeded(seeds=high)


def _at_threshold(value: float) -> SeedsNeeded:
    return SeedsNeeded(why_none=f"the difference would lie exactly at the claim's threshold ({value:g})")
