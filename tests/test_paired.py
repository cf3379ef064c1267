"""Contrasts of lines that share their seeds: textbook values, SciPy and statsmodels, and formulas that must not be used."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from wfbench.analysis.paired import (
    NO_SPREAD,
    SINGLE_SEED,
    Difference,
    mean_interval,
    one_sided_power,
    paired_contrasts,
    paired_difference,
    power_within,
)
from wfbench.analysis.power import detectable_effect, equivalence_power, t_power
from wfbench.errors import InputError

# Student's sleep data (Biometrika 6 (1908) 20): hours gained by ten patients under two drugs. t = 4.06, p = 0.0028.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# Accuracies of the committed CIFAR-10 records, seeds 5 to 9: two strategies that go up and down together (r = 0.99).
BILATERAL = [42.52, 42.62, 43.11, 44.28, 40.88]
NONLINEAR = [42.64, 42.88, 43.22, 44.43, 41.54]
STATIC = [43.99, 43.39, 43.46, 43.28, 42.50]
DEEP = [42.26, 43.13, 44.05, 44.52, 43.00]


def test_students_sleep_data() -> None:
    (found,) = paired_contrasts([DRUG_2], DRUG_1, relevant=1.0)
    assert found.difference.mean == pytest.approx(1.58)
    assert found.difference.deviation == pytest.approx(1.2299, abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert found.simultaneous == found.interval, "one line is a family of its own"
    assert found.sided == "better"


def test_lines_that_go_together_are_told_apart_by_their_differences() -> None:
    """The seeds move both lines by 1.2 points and their difference by 0.23: independent samples would hide it."""
    found = paired_difference(BILATERAL, NONLINEAR)
    assert np.corrcoef(BILATERAL, NONLINEAR)[0, 1] > 0.98
    assert found.deviation == pytest.approx(0.2315, abs=1e-3)
    half = found.interval().half_width
    assert half == pytest.approx(stats.t.ppf(0.975, 4) * found.deviation / math.sqrt(5))
    independent = stats.ttest_ind(BILATERAL, NONLINEAR).confidence_interval()
    assert half is not None
    assert half < 0.2 * (independent.high - independent.low) / 2, "the formula for independent samples is six times wider"


def test_each_difference_has_its_own_spread() -> None:
    close, far = paired_contrasts([NONLINEAR, DEEP], BILATERAL, relevant=1.0)
    assert far.difference.deviation > 3 * close.difference.deviation
    for found, line in ((close, NONLINEAR), (far, DEEP)):
        known = stats.ttest_rel(line, BILATERAL)
        assert (found.interval.low, found.interval.high) == pytest.approx(tuple(known.confidence_interval()))
        bonferroni = known.confidence_interval(1 - 0.05 / 2)
        assert (found.simultaneous.low, found.simultaneous.high) == pytest.approx(tuple(bonferroni))
        assert found.simultaneous.level == 0.95


def test_p_values_are_those_of_scipy_after_holm() -> None:
    lines = [NONLINEAR, STATIC, DEEP]
    raw = [stats.ttest_rel(line, BILATERAL).pvalue for line in lines]
    found = paired_contrasts(lines, BILATERAL, relevant=1.0)
    assert [c.p for c in found] == pytest.approx(multipletests(raw, method="holm")[1])


def test_holms_later_steps_decide_what_one_step_does_not() -> None:
    """Four lines are far ahead, and the fifth (p = 0.036 alone) is then tested with no correction left."""
    noise = [-1.0, -0.5, 0.0, 0.5, 1.0]
    lines = [[100 + i + x for x in noise] for i in range(4)] + [[1.0 + 1.0 * x for x in noise]]
    found = paired_contrasts(lines, [0.0, 0.0, 0.0, 0.0, 0.0], relevant=1.0)[-1]
    alone = stats.ttest_1samp(lines[-1], 0).pvalue
    assert found.p == pytest.approx(alone)
    assert found.sided == "better"
    assert found.simultaneous.low < 0 < found.interval.low


@pytest.mark.slow
def test_equivalence_is_that_of_statsmodels_after_holm() -> None:
    lines = [NONLINEAR, STATIC, DEEP]
    raw = [ttost_paired(np.array(line), np.array(BILATERAL), -1.5, 1.5)[0] for line in lines]
    found = paired_contrasts(lines, BILATERAL, relevant=1.0, margin=1.5)
    assert [c.p_equivalent for c in found] == pytest.approx(multipletests(raw, method="holm")[1])
    assert [c.equivalent for c in found] == [True, False, False]
    assert all(c.p_equivalent is None and not c.equivalent for c in paired_contrasts(lines, BILATERAL, relevant=1.0))


def test_power_is_that_of_statsmodels_at_the_hardest_step() -> None:
    """At sizes for which statsmodels has a number: its noncentral t is NaN at larger ones."""
    found = paired_contrasts([NONLINEAR, STATIC, DEEP], BILATERAL, relevant=0.3)
    for c in found:
        assert c.power is not None
        assert c.detectable is not None
        size = 0.3 / c.difference.deviation
        assert c.power == pytest.approx(TTestPower().power(size, 5, 0.05 / 3), abs=2e-4)
        size = c.detectable / c.difference.deviation
        assert TTestPower().power(size, 5, 0.05 / 3) == pytest.approx(0.8, abs=2e-4)


@pytest.mark.parametrize("freedom", [1, 2, 4, 30])
def test_powers_agree_with_the_noncentral_t(freedom: int) -> None:
    critical = float(stats.t.isf(0.01, freedom))
    for effect in (0.0, 1.0, 4.0, 20.0):
        assert t_power(effect, critical, freedom, two_sided=False) == pytest.approx(
            stats.nct.sf(critical, freedom, effect), abs=3e-4
        )
    assert t_power(detectable_effect(critical, freedom), critical, freedom) == pytest.approx(0.8, abs=1e-6)


def test_the_power_of_equivalence_is_as_simulated() -> None:
    draws = np.random.default_rng(3).normal(0.3, 1, (40_000, 5))
    reach = stats.t.isf(0.025, 4) * draws.std(axis=1, ddof=1) / math.sqrt(5)
    inside = (np.abs(draws.mean(axis=1)) + reach < 1.8).mean()
    scale = math.sqrt(5)
    assert equivalence_power(1.8 * scale, 4, difference=0.3 * scale, alpha=0.025) == pytest.approx(inside, abs=0.008)


# --- what has no interval, and how narrow one may be


def test_equal_seeds_have_no_difference_to_test() -> None:
    same = [x + 1 for x in BILATERAL]
    equal, other = paired_contrasts([same, DEEP], BILATERAL, relevant=1.0, margin=1.0)
    assert equal.interval.why_none == equal.simultaneous.why_none == NO_SPREAD
    assert (equal.p, equal.power, equal.detectable, equal.p_equivalent, equal.power_equivalent) == (None,) * 5
    assert equal.sided == "not distinguishable"
    assert other.p == pytest.approx(min(1, 2 * stats.ttest_rel(DEEP, BILATERAL).pvalue)), "it still counts in the correction"


def test_a_single_seed_has_no_interval() -> None:
    assert paired_difference([1.0], [2.0]).interval().why_none == SINGLE_SEED
    assert mean_interval([0.5], 100).why_none == SINGLE_SEED
    with pytest.raises(InputError, match="two seeds"):
        paired_contrasts([[1.0]], [2.0], relevant=1.0)
    with pytest.raises(InputError, match="standard error"):
        _ = paired_difference([1.0, 2.0], [0.0, 1.0]).error


def test_a_difference_is_never_known_to_less_than_an_image() -> None:
    close = paired_difference([50.01, 60.02, 70.01], [50.0, 60.01, 70.01], one_image=1.0)
    assert close.interval().half_width == pytest.approx(1.0)
    assert close.low(0.005) < close.mean - 1.0, "the floor is one of the standard error, so it grows with the level"
    assert paired_difference(DEEP, STATIC, one_image=0.01).interval() == paired_difference(DEEP, STATIC).interval()


def test_the_error_over_samples_counts_beside_that_over_seeds_and_stays_with_more_of_them() -> None:
    ours, theirs, c = [3.0, 2.5, 3.5, 4.0, 2.0], [1.0, 1.5, 0.5, 2.0, 1.0], 0.3
    by_seed = np.subtract(ours, theirs)
    found = paired_difference(ours, theirs, sample_error=c)
    reach = math.hypot(stats.t.isf(0.01, 4) * by_seed.std(ddof=1) / math.sqrt(5), stats.norm.isf(0.01) * c)
    assert found.low(0.01) == pytest.approx(by_seed.mean() - reach)
    assert found.high(0.01) == pytest.approx(by_seed.mean() + reach)
    assert replace(found, seeds=10**6).error == pytest.approx(c, rel=1e-4)
    alike = paired_difference([50.0] * 3, [50.0] * 3, sample_error=c)
    assert alike.why_none == ""
    assert alike.interval().half_width == pytest.approx(stats.norm.isf(0.025) * c)
    assert one_sided_power(1.0, alike, 0.01) == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - 1.0 / c))
    inside = stats.norm.cdf(1.0 / c - stats.norm.isf(0.01)) * 2 - 1
    assert power_within(0.0, 1.0, alike, 0.01) == pytest.approx(inside)


def test_without_an_error_over_samples_power_is_that_of_the_t_tests() -> None:
    plain = paired_difference(DEEP, STATIC)
    critical = stats.t.isf(0.01, plain.freedom)
    assert one_sided_power(1.0, plain, 0.01) == pytest.approx(
        t_power(1.0 / plain.error, critical, plain.freedom, two_sided=False)
    )
    assert power_within(0.2, 1.5, plain, 0.01) == pytest.approx(
        equivalence_power(1.5 / plain.error, plain.freedom, difference=0.2 / plain.error, alpha=0.01)
    )


def test_an_accuracy_is_never_known_better_than_its_images_allow() -> None:
    wilson = proportion_confint(39, 40, method="wilson")
    tied = mean_interval([0.975, 0.975], 40)
    assert (tied.low, tied.high) != (0.975, 0.975)
    assert tied.low == pytest.approx(wilson[0])
    assert tied.high is not None
    assert tied.high >= wilson[1]
    assert mean_interval([0.975] * 10, 40) == tied, "the same images again are no more images"
    assert mean_interval([1.0, 1.0], 40).low == pytest.approx(proportion_confint(40, 40, method="wilson")[0])
    assert mean_interval([0.975, 0.975]).why_none == NO_SPREAD


def test_seeds_that_spread_more_than_images_have_their_t_interval() -> None:
    values = [0.40, 0.45, 0.50]
    known = stats.ttest_1samp(values, 0).confidence_interval()
    for found in (mean_interval(values), mean_interval(values, 10_000)):
        assert (found.low, found.high) == pytest.approx(tuple(known))
    with pytest.raises(InputError, match="shares"):
        mean_interval([43.0, 44.0], 10_000)
    with pytest.raises(InputError, match="mean"):
        mean_interval([])


def test_a_pooled_difference_has_the_degrees_of_freedom_of_all_lines() -> None:
    pooled = Difference(1.0, 2.0, seeds=5, lines=3)
    assert pooled.freedom == 12
    assert pooled.mean - pooled.low(0.01) == pytest.approx(stats.t.isf(0.01, 12) * 2.0 / math.sqrt(5))


@pytest.mark.parametrize(
    ("lines", "baseline", "options", "what"),
    [
        ([], [1.0, 2.0], {}, "nothing to compare"),
        ([[1.0, 2.0, 3.0]], [1.0, 2.0], {}, "share their seeds"),
        ([[1.0, math.nan]], [1.0, 2.0], {}, "share their seeds"),
        ([[1.0, 3.0]], [1.0, 2.0], {"margin": 0.0}, "margin"),
        ([[1.0, 3.0]], [1.0, 2.0], {"relevant": -1.0}, "relevant"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    lines: list[list[float]], baseline: list[float], options: dict[str, float], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        paired_contrasts(lines, baseline, **({"relevant": 1.0} | options))  # type: ignore[arg-type]
