"""Looks, spending and the seeds that a claim needs: published bounds, and answers at known samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from wfbench.analysis.paired import NO_SPREAD, Difference, paired_difference
from wfbench.analysis.power import equivalence_power
from wfbench.analysis.seeds_needed import (
    TOO_FEW_SAMPLES,
    SeedsNeeded,
    seeds_for_best,
    seeds_for_better,
    seeds_for_share,
    seeds_for_within,
)
from wfbench.analysis.sequential import Looks, decide_best, decide_better, decide_within, nominal_levels, spending
from wfbench.errors import InputError

FIXED = Looks((5,))
PLAN = Looks((5, 10, 20))


def test_the_spending_function_is_that_of_lan_and_demets() -> None:
    """Five looks, one-sided 2.5%: what their program and R's ldbounds print."""
    spent = [spending(0.025, i / 5) for i in range(1, 6)]
    assert spent == pytest.approx([5.386e-7, 3.942e-4, 3.808e-3, 1.2206e-2, 0.025], rel=2e-3)


def test_many_seeds_have_the_published_bounds() -> None:
    """z at five equal looks, one-sided 2.5%: 4.877, 3.357, 2.680, 2.290, 2.031 (ldbounds). Ours are a little farther out."""
    z = stats.norm.isf(nominal_levels(0.025, (2000, 4000, 6000, 8000, 10_000)))
    assert z == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], rel=5e-3)
    assert (z > [4.8765, 3.3565, 2.6795, 2.2895, 2.0305]).all(), "Hunter's bound errs on the safe side"
    two = stats.norm.isf(nominal_levels(0.025, (5000, 10_000)))
    assert two == pytest.approx([2.963, 1.969], abs=1e-3), "of two looks it is exact"


def test_a_single_look_has_the_whole_error() -> None:
    assert FIXED.level(0.01, 0) == pytest.approx(0.01)
    assert PLAN.spent(0.01, 2) == pytest.approx(0.01)
    levels = [PLAN.level(0.01, look) for look in range(3)]
    assert levels == sorted(levels)
    assert levels[-1] < 0.01 < sum(levels)


def test_looks_one_seed_apart_and_far_too_early_are_possible() -> None:
    levels = nominal_levels(0.001, (2, 3, 4, 200))
    assert all(0 <= level <= 0.001 for level in levels)
    assert nominal_levels(1e-4, (2, 1000))[0] == pytest.approx(0.0, abs=1e-200)
    found = decide_better(Difference(5.0, 1.0, seeds=2), 0.0, 1e-4, Looks((2, 1000)))
    assert found.verdict == "undecidable"


@pytest.mark.parametrize("seeds", [(), (1, 5), (5, 5), (10, 5)])
def test_plans_that_cannot_be_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="plan of looks"):
        Looks(seeds)


def test_no_answer_between_looks() -> None:
    with pytest.raises(InputError, match="no look"):
        decide_better(Difference(1.0, 1.0, seeds=7), 0.0, 0.05, PLAN)
    with pytest.raises(InputError, match="error of a claim"):
        nominal_levels(0.5, (5,))


# --- decisions


def test_better_is_decided_by_the_one_sided_bounds_of_scipy() -> None:
    ours, theirs = [3.0, 2.5, 3.5, 4.0, 2.0], [1.0, 1.5, 0.5, 2.0, 1.0]
    difference = paired_difference(ours, theirs)
    known = stats.ttest_rel(ours, theirs, alternative="greater").confidence_interval(0.99).low
    found = decide_better(difference, known - 1e-6, 0.01, FIXED)
    assert found.verdict == "supported"
    assert found.interval.low == pytest.approx(known)
    assert found.interval.level == pytest.approx(0.98)
    assert (found.seeds, found.is_last, found.spent) == (5, True, pytest.approx(0.01))
    assert decide_better(difference, known + 1e-6, 0.01, FIXED).verdict == "undecidable"
    above = stats.ttest_rel(ours, theirs, alternative="less").confidence_interval(0.99).high
    assert decide_better(difference, above + 1e-6, 0.01, FIXED).verdict == "contradicted"


def test_a_look_in_between_asks_for_more_than_the_last() -> None:
    first = Difference(1.0, 0.5, seeds=5)
    assert decide_better(first, 0.0, 0.01, FIXED).verdict == "supported"
    early = decide_better(first, 0.0, 0.01, PLAN)
    assert early.verdict == "undecidable", "the level of a first look is tiny"
    assert not early.is_last
    assert early.spent < 1e-4
    assert decide_better(replace(first, seeds=20), 0.0, 0.01, PLAN).verdict == "supported"


def test_within_needs_both_bounds_inside_and_is_refuted_at_half_the_error() -> None:
    difference = Difference(0.2, 0.5, seeds=5)
    reach = stats.t.isf(0.01, 4) * 0.5 / math.sqrt(5)
    assert decide_within(difference, 0.2 + reach + 1e-6, 0.01, FIXED).verdict == "supported"
    assert decide_within(difference, 0.2 + reach - 1e-6, 0.01, FIXED).verdict == "undecidable"
    half = stats.t.isf(0.005, 4) * 0.5 / math.sqrt(5)
    for sign in (1, -1):
        far = replace(difference, mean=sign * (1 + half + 1e-6))
        assert decide_within(far, 1.0, 0.01, FIXED).verdict == "contradicted"
        near = replace(difference, mean=sign * (1 + half - 1e-6))
        assert decide_within(near, 1.0, 0.01, FIXED).verdict == "undecidable", "the whole error would be enough"


def test_best_is_decided_by_the_bound_and_not_by_the_nearest_mean() -> None:
    """The second lead is larger, but so spread that it decides."""
    leads = [Difference(1.0, 0.1, seeds=5), Difference(2.0, 3.0, seeds=5)]
    found = decide_best(leads, 0.01, FIXED)
    assert (found.verdict, found.rival) == ("undecidable", 1)
    assert decide_best(leads[:1], 0.01, FIXED).verdict == "supported"
    ahead = decide_best([leads[0], Difference(-1.0, 0.1, seeds=5)], 0.01, FIXED)
    assert (ahead.verdict, ahead.rival) == ("contradicted", 1)
    assert ahead.interval.high == pytest.approx(-1 + stats.t.isf(0.005, 4) * 0.1 / math.sqrt(5))


def test_without_a_spread_nothing_is_decided() -> None:
    flat = Difference(9.0, 0.0, seeds=5)
    for found in (
        decide_better(flat, 0.0, 0.01, FIXED),
        decide_within(flat, 1.0, 0.01, FIXED),
        decide_best([Difference(1.0, 0.1, seeds=5), flat], 0.01, FIXED),
    ):
        assert (found.verdict, found.interval.why_none) == ("undecidable", NO_SPREAD)


# --- seeds that are still needed


def of_spread(deviation: float, lines: int = 1) -> Difference:
    return Difference(0.0, deviation, seeds=5, lines=lines)


@pytest.mark.parametrize(("true", "by", "deviation"), [(1.0, 0.0, 0.75), (1.0, 0.0, 1.38), (-1.0, 0.5, 2.0)])
def test_seeds_for_better_are_those_of_statsmodels(true: float, by: float, deviation: float) -> None:
    known = TTestPower().solve_power(abs(true - by) / deviation, None, 0.01, 0.8, "larger")
    assert seeds_for_better(true, by, of_spread(deviation), 0.01) == SeedsNeeded(seeds=math.ceil(known))


def test_half_the_seeds_where_the_pairing_halves_the_variance() -> None:
    apart, together = (seeds_for_better(0.5, 0.0, of_spread(x), 0.01).seeds for x in (math.sqrt(2), 1.0))
    assert apart is not None
    assert together is not None
    assert together / apart == pytest.approx(0.5, abs=0.05)


def test_pooled_lines_need_fewer_seeds_at_the_same_deviation() -> None:
    alone, pooled = (seeds_for_better(1.0, 0.0, of_spread(1.0, lines), 0.01).seeds for lines in (1, 6))
    assert alone is not None
    assert pooled is not None
    assert pooled < alone


def test_seeds_for_within_reach_the_power_and_no_more() -> None:
    found = seeds_for_within(0.0, 1.0, of_spread(1.0), 0.01).seeds
    assert found is not None

    def power(seeds: int) -> float:
        return equivalence_power(math.sqrt(seeds), seeds - 1, alpha=0.01)

    assert power(found) >= 0.8 > power(found - 1)
    outside = seeds_for_within(-2.0, 1.0, of_spread(1.0), 0.01)
    assert outside == seeds_for_better(2.0, 1.0, of_spread(1.0), 0.005)


def test_seeds_for_best_is_bounded_by_the_sum_over_rivals() -> None:
    one = seeds_for_better(1.0, 0.0, of_spread(1.0), 0.01).seeds
    three = seeds_for_best([1.0, 1.0, 1.0], [of_spread(1.0)] * 3, 0.01).seeds
    assert one is not None
    assert three is not None
    assert three > one
    assert seeds_for_best([1.0], [of_spread(1.0)], 0.01).seeds == one
    behind = seeds_for_best([1.0, -1.0, -0.1], [of_spread(1.0)] * 3, 0.01)
    assert behind == seeds_for_better(1.0, 0.0, of_spread(1.0), 0.01 / 3), "the clearest one refutes it"


CIFAR = Looks((5, 10, 20, 40))


def test_under_a_plan_the_first_later_look_with_the_power_is_the_price() -> None:
    """By SciPy's noncentral t at each look's own level; a single test at the whole error would be content with fewer."""
    alpha = 0.05 / 7
    for deviation in (0.5, 0.7, 1.0, 1.4):
        level = dict(zip(CIFAR.seeds, nominal_levels(alpha, CIFAR.seeds), strict=True))
        power = {n: stats.nct.sf(stats.t.isf(level[n], n - 1), n - 1, math.sqrt(n) / deviation) for n in (10, 20, 40)}
        found = seeds_for_better(1.0, 0.0, of_spread(deviation), alpha, CIFAR)
        assert found == SeedsNeeded(seeds=next(n for n in (10, 20, 40) if power[n] >= 0.8))
        once = seeds_for_better(1.0, 0.0, of_spread(deviation), alpha).seeds
        assert once is not None
        assert once < found.seeds


def test_within_and_best_are_priced_by_the_levels_of_their_looks_too() -> None:
    alpha, spread = 0.05 / 7, of_spread(0.9)
    for power_at, found in (
        (
            lambda n, level: equivalence_power(1.5 / 0.9 * math.sqrt(n), n - 1, alpha=level),
            seeds_for_within(0.0, 1.5, spread, alpha, CIFAR),
        ),
        (
            lambda n, level: 1 - 2 * stats.nct.cdf(stats.t.isf(level, n - 1), n - 1, math.sqrt(n) / 0.9),
            seeds_for_best([1.0, 1.0], [spread] * 2, alpha, CIFAR),
        ),
    ):
        levels = nominal_levels(alpha, CIFAR.seeds)
        assert found.seeds == next(
            n for n, level in zip(CIFAR.seeds, levels, strict=True) if n > 5 and power_at(n, level) >= 0.8
        )


def test_beyond_the_last_look_stand_the_seeds_of_a_new_plan() -> None:
    known = TTestPower().solve_power(1 / 3, None, 0.01, 0.8, "larger")
    found = seeds_for_better(1.0, 0.0, of_spread(3.0), 0.01, CIFAR)
    assert found == SeedsNeeded(seeds=math.ceil(known), is_new_plan=True)
    assert math.ceil(known) > 40
    assert seeds_for_better(0.01, 0.0, of_spread(1.0), 0.01, CIFAR) == SeedsNeeded(more_than=1000, is_new_plan=True)


def test_no_price_is_the_seeds_in_hand_or_fewer() -> None:
    clear = of_spread(0.1)
    assert seeds_for_better(1.0, 0.0, clear, 0.01).seeds < 5
    assert seeds_for_better(1.0, 0.0, clear, 0.01, FIXED) == SeedsNeeded(seeds=6, is_new_plan=True)
    assert seeds_for_within(0.0, 1.0, clear, 0.01, FIXED) == SeedsNeeded(seeds=6, is_new_plan=True)
    assert seeds_for_better(1.0, 0.0, clear, 0.01, PLAN) == SeedsNeeded(seeds=10)
    assert seeds_for_share(1.0, 0.1, 0.05, FIXED, have=5).seeds == 6


def test_a_share_is_priced_by_what_each_look_spends() -> None:
    plan = Looks((8, 16, 60))
    part = spending(0.05, 16 / 60) - spending(0.05, 8 / 60)
    needed = next(k for k in range(17) if stats.binom.sf(k - 1, 16, 0.5) <= part)
    assert stats.binom.sf(needed - 1, 16, 0.9) < 0.8, "the look in between has not the power"
    assert seeds_for_share(0.9, 0.5, 0.05).seeds < 16
    assert seeds_for_share(0.9, 0.5, 0.05, plan, have=8) == SeedsNeeded(seeds=60)
    assert seeds_for_share(0.6, 0.5, 0.05, plan, have=8).is_new_plan


def test_where_samples_are_too_few_no_number_of_seeds_decides() -> None:
    unsure = replace(of_spread(1.0), sample_error=1.0)
    assert seeds_for_better(1.0, 0.0, unsure, 0.01, PLAN).why_none == TOO_FEW_SAMPLES
    assert seeds_for_within(0.0, 1.0, unsure, 0.01, PLAN).why_none == TOO_FEW_SAMPLES
    sure = replace(unsure, sample_error=0.1)
    assert seeds_for_better(1.0, 0.0, sure, 0.01).seeds > seeds_for_better(1.0, 0.0, of_spread(1.0), 0.01).seeds


def test_what_no_number_of_seeds_decides_is_said() -> None:
    assert seeds_for_better(0.01, 0.0, of_spread(1.0), 0.01) == SeedsNeeded(more_than=1000)
    assert seeds_for_better(0.5, 0.5, of_spread(1.0), 0.01).why_none
    assert seeds_for_within(-1.0, 1.0, of_spread(1.0), 0.01).why_none
    assert seeds_for_best([1.0, 0.0], [of_spread(1.0)] * 2, 0.01).why_none
    assert seeds_for_better(1.0, 0.0, of_spread(0.0), 0.01).why_none == NO_SPREAD
    for wrong in ({}, {"seeds": 3, "more_than": 5}):
        with pytest.raises(ValueError, match="seeds"):
            SeedsNeeded(**wrong)
