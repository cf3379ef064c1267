"""How many seeds in all would decide a claim with a power of 80%, if a difference were the true one.

Power is that of support where the claim would be true, and of contradiction where it would be false, at the claim's one-sided
error ``alpha``, if the estimated spread over seeds is the true one. At its threshold no number of seeds decides.

A claim is answered at planned looks, each with its own level. So what is looked for is the first planned look after the seeds
in hand at which the test alone has that power; the chance that it or an earlier one decides is no smaller. Where no planned
look has it, the answer is a new plan: the smallest number of seeds above those in hand with which a single look, at the whole
error, has it. Its seeds are new ones, since seeds that have been seen decide no claim that is stated afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from wfbench.analysis.paired import Difference, one_sided_power, power_within
from wfbench.analysis.power import ENOUGH_POWER, check_alpha
from wfbench.analysis.sequential import Looks
from wfbench.errors import InputError

#: The largest number of seeds that is looked for.
MOST_SEEDS = 1000
#: Why more seeds would not help.
TOO_FEW_SAMPLES = "the held-out samples are too few, whatever the number of seeds"

_AT = "would lie exactly at the claim's threshold ({:g})"
#: Why none decides a claim about a value where that is the number which the claim names, to be filled in.
AT_THRESHOLD = f"it {_AT}"

#: From an error over all looks to the level of the test at one of them.
Level = Callable[[float], float]
_ENDLESS = 1_000_000  # seeds: a spread over so many is nothing beside the error over samples


@dataclass(frozen=True)
class SeedsNeeded:
    """A number of seeds, or "more than so many", or the reason why no number would do: exactly one of the three.

    Attributes:
        seeds: the smallest number in all.
        more_than: the number of seeds, the largest looked for, that is still too few; None where one was found.
        why_none: why no number of seeds decides; "" where one does.
        is_new_plan: whether the number is of a new plan with a single look, since no look that is still planned is enough.

    Raises:
        ValueError: for none of the three, or more than one.
    """

    seeds: int | None = None
    more_than: int | None = None
    why_none: str = ""
    is_new_plan: bool = False

    def __post_init__(self) -> None:
        if (self.seeds is not None) + (self.more_than is not None) + bool(self.why_none) != 1:
            raise ValueError("a number of seeds, a number that is too few, or a reason why there is none")


def seeds_for_better(
    true: float, by: float, difference: Difference, alpha: float, looks: Looks | None = None, *, most: int = MOST_SEEDS
) -> SeedsNeeded:
    """How many seeds decide whether the difference is above ``by``.

    Args:
        true: the true difference that is supposed: the estimate, or the stated effect.
        by: the difference that the claim asks for.
        difference: the one that was found, with the seeds in hand; its spread over seeds is taken for the true one.
        alpha: the claim's one-sided error.
        looks: the plan, of which the seeds in hand are a look; None: a single look at any number of seeds, from 2 on.
        most: the largest number that is looked for.

    Raises:
        InputError: for an alpha outside 0 to 1/2.
    """
    check_alpha(alpha)
    if difference.why_none:
        return SeedsNeeded(why_none=difference.why_none)
    if true == by:
        return _at_threshold(by)
    return _first(lambda n, level: _one_sided(abs(true - by), difference, level(alpha), n), [difference], looks, most)


def seeds_for_within(
    true: float, margin: float, difference: Difference, alpha: float, looks: Looks | None = None, *, most: int = MOST_SEEDS
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
        beyond = abs(true) - margin
        return _first(lambda n, level: _one_sided(beyond, difference, level(alpha / 2), n), [difference], looks, most)

    def power(seeds: int, level: Level) -> float:
        return power_within(true, margin, replace(difference, seeds=seeds), level(alpha))

    return _first(power, [difference], looks, most)


def seeds_for_best(
    true: Sequence[float], leads: Sequence[Difference], alpha: float, looks: Looks | None = None, *, most: int = MOST_SEEDS
) -> SeedsNeeded:
    """How many seeds decide whether a line leads over every other one.

    If all leads are positive, the power to show them all is at least 1 − Σ (1 − power of each); that bound has to reach 80%.
    If one is negative, it is the power to show the clearest one at alpha divided by their number.

    Args:
        true: the true lead over each rival that is supposed.
        leads: those that were found; their spreads over seeds are taken for the true ones.
        alpha: the claim's one-sided error.
        looks: as in `seeds_for_better`.
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
    if min(true) == 0:
        return _at_threshold(0.0)

    def power(seeds: int, level: Level) -> float:
        if min(true) < 0:
            shared = level(alpha / len(leads))
            return max(_one_sided(-lead, found, shared, seeds) for lead, found in pairs if lead < 0)
        return 1 - sum(1 - _one_sided(lead, found, level(alpha), seeds) for lead, found in pairs)

    return _first(power, leads, looks, most)


def seeds_for_share(
    true: float, threshold: float, alpha: float, looks: Looks | None = None, *, have: int = 1, most: int = MOST_SEEDS
) -> SeedsNeeded:
    """How many seeds decide whether a share of all possible seeds is above a threshold, by exact binomial bounds.

    Args:
        true: the true share that is supposed.
        threshold: the share that the claim asks for.
        alpha: the claim's one-sided error.
        looks: as in `seeds_for_better`; each look has its own part of the error.
        have: the seeds in hand, where there is a plan.
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
    least = 1 if looks is None else have

    def is_enough(count: np.typing.NDArray[np.int_], level: float) -> np.typing.NDArray[np.bool_]:
        needed = binom.isf(level, count, bar) + 1  # so many would be found with a probability of the level at most
        return np.asarray(binom.sf(needed - 1, count, p) >= ENOUGH_POWER)

    for place, count in enumerate(() if looks is None else looks.seeds):
        assert looks is not None
        if count > least and is_enough(np.array([count]), looks.own_part(alpha, place))[0]:
            return SeedsNeeded(seeds=count)
    counts = np.arange(least + 1, most + 1)
    enough = np.flatnonzero(is_enough(counts, alpha))
    found = SeedsNeeded(seeds=int(counts[enough[0]])) if len(enough) else SeedsNeeded(more_than=most)
    return replace(found, is_new_plan=looks is not None)


def _one_sided(distance: float, difference: Difference, level: float, seeds: int) -> float:
    """The power of the one-sided test of a difference that lies at a distance from the threshold."""
    return one_sided_power(distance, replace(difference, seeds=seeds), level)


def _first(power: Callable[[int, Level], float], found: Sequence[Difference], looks: Looks | None, most: int) -> SeedsNeeded:
    """The first planned look after the seeds in hand whose power is enough, else the seeds of a new plan with one look."""
    least = 1 if looks is None else found[0].seeds
    for place, count in enumerate(() if looks is None else looks.seeds):
        assert looks is not None
        if count > least and power(count, partial(looks.level, look=place)) >= ENOUGH_POWER:
            return SeedsNeeded(seeds=count)

    def once(seeds: int) -> float:
        return power(seeds, lambda error: error)

    smallest = _smallest(once, least, most)
    if smallest.more_than and any(one.sample_error for one in found) and once(_ENDLESS) < ENOUGH_POWER:
        return SeedsNeeded(why_none=TOO_FEW_SAMPLES)
    return replace(smallest, is_new_plan=looks is not None)


def _smallest(power: Callable[[int], float], low: int, most: int) -> SeedsNeeded:
    """The smallest number of seeds above ``low`` whose power is enough; power rises with the number."""
    if most <= low or power(most) < ENOUGH_POWER:
        return SeedsNeeded(more_than=max(most, low))
    high = most  # enough, where low is too few, or is not asked for
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= ENOUGH_POWER else (middle, high)
    return SeedsNeeded(seeds=high)


def _at_threshold(value: float) -> SeedsNeeded:
    return SeedsNeeded(why_none=f"the difference {_AT}".format(value))
