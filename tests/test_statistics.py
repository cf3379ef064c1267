"""The statistics on known samples, against SciPy and statsmodels, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower
from statsmodels.stats.weightstats import ttost_ind

from wfbench.analysis import fronts, unpaired
from wfbench.analysis import images as same_images
from wfbench.analysis.paired import holm
from wfbench.analysis.power import equivalence_power, t_power
from wfbench.errors import InputError

# Dunnett's own example (1955): blood counts of animals, a control and two drugs.
CONTROL = [7.40, 8.50, 7.20, 8.24, 9.84, 8.32]
DRUG_A = [9.76, 8.80, 7.68, 9.36]
DRUG_B = [12.80, 9.68, 12.16, 9.20, 10.55]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def share(hits: int, trials: int) -> float:
    """The half-width in which a simulated share lies in 999 of 1,000 cases, about the worst case's spread."""
    return 3.3 * math.sqrt(max(hits, 1) / trials * (1 - min(hits, trials - 1) / trials) / trials)


# --- many against one


def test_dunnetts_own_example() -> None:
    family = unpaired.against_baseline([DRUG_A, DRUG_B], CONTROL, relevant=1.0)
    known = stats.dunnett(DRUG_A, DRUG_B, control=CONTROL, rng=0)
    assert [c.p for c in family.comparisons] == pytest.approx([0.6201, 0.0058], abs=1e-4)
    assert [c.p for c in family.comparisons] == pytest.approx(known.pvalue, abs=3e-4), "SciPy draws, so its third digit moves"
    interval = known.confidence_interval(0.95)
    assert [c.low for c in family.comparisons] == pytest.approx(interval.low, abs=3e-3)
    assert [c.high for c in family.comparisons] == pytest.approx(interval.high, abs=3e-3)
    assert [c.sided for c in family.comparisons] == ["not distinguishable", "better"]
    pooled = sum(np.var(x) * len(x) for x in (CONTROL, DRUG_A, DRUG_B)) / 12
    assert (family.deviation, family.freedom) == (pytest.approx(math.sqrt(pooled)), 12)


# Two-sided 5% points, groups of equal size: Dunnett, Biometrics 20 (1964) 482, table II.
@pytest.mark.parametrize(
    ("groups", "freedom", "point"),
    [(1, 5, 2.57), (2, 5, 3.03), (3, 10, 2.76), (4, 10, 2.89), (9, 20, 2.95), (5, 60, 2.58)],
)
def test_the_critical_values_are_the_published_ones(groups: int, freedom: int, point: float) -> None:
    assert unpaired.dunnett_critical((4,) * groups, 4, freedom) == pytest.approx(point, abs=0.011)


@pytest.mark.parametrize("freedom", [2, 3, 8, 40])
def test_against_a_single_group_it_is_the_t_test(freedom: int) -> None:
    assert unpaired.dunnett_critical((5,), 3, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)
    a, b = rng().normal(size=5), rng(1).normal(1, 1, 4)
    (only,) = unpaired.against_baseline([b.tolist()], a.tolist(), relevant=1.0).comparisons
    assert only.p == pytest.approx(stats.ttest_ind(a, b).pvalue, abs=2e-5)
    low, high = stats.ttest_ind(b, a).confidence_interval()
    assert (only.low, only.high) == pytest.approx((low, high), rel=1e-3)


def test_unequal_groups_agree_with_scipy() -> None:
    groups = [rng(i).normal(i / 3, 1, size) for i, size in enumerate((3, 9, 4, 12))]
    control = rng(9).normal(0, 1, 6)
    family = unpaired.against_baseline([g.tolist() for g in groups], control.tolist(), relevant=1.0)
    known = stats.dunnett(*groups, control=control, rng=0)
    assert [c.p for c in family.comparisons] == pytest.approx(known.pvalue, abs=2e-3)


def family_errors(compare: object, trials: int = 1000, groups: int = 6, size: int = 3) -> float:
    """How often at least one of several groups that do not differ is said to."""
    draws, wrong = rng(), 0
    for _ in range(trials):
        samples = draws.normal(0, 0.25, (groups + 1, size)).tolist()
        wrong += any(compare(samples[1:], samples[0]))  # type: ignore[operator]
    return wrong / trials


def by_dunnett(groups: list[list[float]], baseline: list[float]) -> list[bool]:
    return [c.sided != "not distinguishable" for c in unpaired.against_baseline(groups, baseline, relevant=1.0).comparisons]


def by_pairs(groups: list[list[float]], baseline: list[float]) -> list[bool]:
    return [bool(stats.ttest_ind(group, baseline).pvalue < 0.05) for group in groups]


@pytest.mark.slow
def test_false_positives_over_the_family_are_about_5_percent_and_uncorrected_ones_are_not() -> None:
    assert abs(family_errors(by_dunnett) - 0.05) < share(50, 1000)
    assert family_errors(by_pairs) > 0.13, "the check sees what a test without correction does"


@pytest.mark.slow
def test_intervals_hold_all_at_once_in_95_percent() -> None:
    draws, truth, held = rng(1), np.array([-1.0, 0.0, 0.4, 3.0]), 0
    for _ in range(1000):
        base = draws.normal(5, 0.3, 4).tolist()
        groups = [draws.normal(5 + d, 0.3, 5).tolist() for d in truth]
        found = unpaired.against_baseline(groups, base, relevant=1.0).comparisons
        held += all(c.low <= d <= c.high for c, d in zip(found, truth, strict=True))
    assert abs(held / 1000 - 0.95) < share(950, 1000)


@pytest.mark.slow
def test_power_is_as_printed() -> None:
    draws, found, printed = rng(2), 0, []
    for _ in range(1000):
        base, near = draws.normal(0, 0.25, 3).tolist(), draws.normal(0.6, 0.25, 3).tolist()
        rest = draws.normal(0, 0.25, (3, 3)).tolist()
        family = unpaired.against_baseline([near, *rest], base, relevant=0.6)
        found += family.comparisons[0].sided == "better"
        printed.append(family.comparisons[0].power)
    truth = t_power(0.6 / (0.25 * math.sqrt(2 / 3)), unpaired.dunnett_critical((3,) * 4, 3, 10), 10)
    assert abs(found / 1000 - truth) < share(found, 1000)
    assert np.median(printed) == pytest.approx(truth, abs=0.05), "with the deviation estimated from the runs themselves"


def test_power_is_that_of_statsmodels_for_two_groups() -> None:
    family = unpaired.against_baseline([[1.0, 2.0, 3.0, 4.5]], [1.0, 1.5, 2.0, 3.0], relevant=1.0)
    (only,) = family.comparisons
    known = TTestIndPower()
    assert only.power == pytest.approx(known.power(1 / family.deviation, 4, 0.05), abs=1e-4)
    assert known.power(only.detectable / family.deviation, 4, 0.05) == pytest.approx(0.8, abs=1e-4)


def test_what_the_protocol_says_of_13_mixers_at_3_seeds() -> None:
    """A real gap of 1 point at a deviation of 0.25 is found in 95% by pooling, where Holm over paired t-tests finds 9%."""
    error = 0.25 * math.sqrt(2 / 3)
    power = t_power(1.0 / error, unpaired.dunnett_critical((3,) * 12, 3, 26), 26)
    assert 0.94 < power < 0.98


# --- equivalence


def test_tost_is_that_of_statsmodels() -> None:
    a, b = rng().normal(0, 1, 8).tolist(), rng(1).normal(0.2, 1, 6).tolist()
    (only,) = unpaired.against_baseline([b], a, relevant=1.0, margin=1.5).comparisons
    assert only.p_equivalent == pytest.approx(ttost_ind(np.array(b), np.array(a), -1.5, 1.5)[0])


def test_holm_multiplies_the_smallest_by_the_number_of_groups() -> None:
    alone = unpaired.against_baseline([DRUG_A], CONTROL, relevant=1.0, margin=3.0)
    both = unpaired.against_baseline([DRUG_A, DRUG_B], CONTROL, relevant=1.0, margin=3.0)
    again = stats.t.sf((3 - both.comparisons[0].difference) / (both.deviation * math.sqrt(1 / 4 + 1 / 6)), 12)
    assert both.comparisons[0].p_equivalent == pytest.approx(2 * again)
    assert alone.comparisons[0].p_equivalent is not None


@pytest.mark.slow
def test_tost_errs_in_at_most_5_percent_at_the_margin_and_not_finding_a_difference_shows_nothing() -> None:
    draws, shown, missed, trials = rng(3), 0, 0, 1000
    for _ in range(trials):
        base, at_margin = draws.normal(0, 0.25, 5).tolist(), draws.normal(0.5, 0.25, 5).tolist()
        (only,) = unpaired.against_baseline([at_margin], base, relevant=0.5, margin=0.5).comparisons
        shown += only.equivalent
        missed += only.sided == "not distinguishable"
    assert shown / trials < 0.05 + share(50, trials)
    assert shown / trials > 0.03, "it is no test that never shows anything"
    assert missed / trials > 0.15, "taking 'not distinguishable' for 'equal' would err this often"


@pytest.mark.slow
def test_the_power_of_equivalence_is_as_printed() -> None:
    draws, shown, trials = rng(4), 0, 1000
    for _ in range(trials):
        base, same = draws.normal(0, 0.25, 5).tolist(), draws.normal(0, 0.25, 5).tolist()
        shown += unpaired.against_baseline([same], base, relevant=0.5, margin=0.4).comparisons[0].equivalent
    assert abs(shown / trials - equivalence_power(0.4 / (0.25 * math.sqrt(2 / 5)), 8)) < share(shown, trials)


def test_a_difference_may_be_real_and_smaller_than_the_margin() -> None:
    (only,) = unpaired.against_baseline([[0.50, 0.51, 0.52]], [0.40, 0.41, 0.42], relevant=0.1, margin=0.2).comparisons
    assert (only.sided, only.equivalent) == ("better", True)


def test_holm_counts_a_test_that_could_not_be_made() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 3 × 0.01, 2 × 0.03, and never falling
    assert holm([0.01, None, 0.03]) == pytest.approx([0.03, None, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


@pytest.mark.parametrize(
    ("groups", "baseline", "options", "what"),
    [
        ([[1.0]], [1.0, 2.0], {}, "not a sample"),
        ([[1.0, 2.0]], [1.0], {}, "not a sample"),
        ([[1.0, math.nan]], [1.0, 2.0], {}, "not a sample"),
        ([], [1.0, 2.0], {}, "nothing to compare"),
        ([[1.0, 1.0]], [1.0, 1.0], {}, "no spread"),
        ([[0.1, 0.1]], [0.3, 0.1 + 0.2], {}, "no spread"),
        ([[1.0, 2.0]], [1.0, 2.0], {"margin": 0.0}, "margin"),
        ([[1.0, 2.0]], [1.0, 2.0], {"relevant": -1.0}, "relevant"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    groups: list[list[float]], baseline: list[float], options: dict[str, float], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        unpaired.against_baseline(groups, baseline, **({"relevant": 1.0} | options))


def test_groups_of_unlike_spread_are_noticed() -> None:
    calm, wild = rng().normal(0, 0.1, 10).tolist(), rng(1).normal(0, 5, 10).tolist()
    assert unpaired.against_baseline([wild], calm, relevant=1.0).p_spread < 0.05  # type: ignore[operator]
    assert unpaired.against_baseline([[1.0, 2.0]], [1.0, 2.5], relevant=1.0).p_spread is None


# --- the same images


def test_mcnemars_worked_example() -> None:
    """Of 7 images in dispute 6 fall to one side: p = 2 P(X ≤ 1) with X ~ Binomial(7, 1/2), by hand."""
    ours = np.array([1] * 6 + [0] * 1 + [1] * 300, bool)
    theirs = np.array([0] * 6 + [1] * 1 + [1] * 300, bool)
    found = same_images.mcnemar(ours, theirs)
    assert (found.ours, found.theirs, found.images) == (6, 1, 307)
    assert found.difference == pytest.approx(5 / 307)
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert same_images.mcnemar(ours, ours).p == 1
    assert same_images.mcnemar(ours, ours).detectable is None


@pytest.mark.slow
def test_mcnemars_power_is_as_printed() -> None:
    images, disputed, difference = 800, 0.1, 0.03
    draws, found = rng(5), 0
    for _ in range(600):
        which = draws.choice(3, size=images, p=[(disputed + difference) / 2, (disputed - difference) / 2, 1 - disputed])
        found += same_images.mcnemar(which != 1, which != 0).p <= 0.05
    power = same_images.mcnemar_power(difference, disputed, images)
    assert abs(found / 600 - power) < share(found, 600)
    at = same_images.mcnemar(np.arange(1000) < 900, np.arange(1000) % 10 < 9).detectable
    assert at is not None
    assert same_images.mcnemar_power(at, 180 / 1000, 1000) == pytest.approx(0.8, abs=1e-3)


def two_mixers(draws: np.random.Generator, seeds: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong by image difficulty, which is shared, by seed, and by chance; the mixers do not differ."""
    hard = draws.normal(0, 1.5, images)
    made = [draws.random((seeds, images)) < 1 / (1 + np.exp(-(1 + hard + draws.normal(0, 0.3, (seeds, 1))))) for _ in range(2)]
    return made[0], made[1]


def coverage(seeds: int, trials: int = 400) -> float:
    """How often the interval of a difference that is nothing holds 0."""
    draws, held = rng(6), 0
    for _ in range(trials):
        found = same_images.image_seed_bootstrap(*two_mixers(draws, seeds, 200), paired=False).interval
        held += found.low <= 0 <= found.high
    return held / trials


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 6])
def test_the_bootstrap_covers_images_and_seeds(seeds: int) -> None:
    assert 0.92 < coverage(seeds) < 0.985


@pytest.mark.slow
def test_a_bootstrap_of_images_alone_would_not_cover() -> None:
    draws, held = rng(7), 0
    for _ in range(300):
        a, b = two_mixers(draws, 1, 200)
        found = same_images.image_seed_bootstrap(a, b, paired=False)
        assert not found.over_seeds
        held += found.interval.low <= 0 <= found.interval.high
    assert held / 300 < 0.9, "one seed each says what two models do, not what two mixers do"


@pytest.mark.slow
def test_the_bootstraps_variance_is_that_of_the_crossed_design() -> None:
    """Var = Σ var(seed means)/s + var(difference of the images' means)/N − what both hold of the peculiar part."""
    draws, seeds, images = rng(9), 3, 150
    a, b = (
        (draws.normal(0, 0.2, (seeds, 1)) + draws.normal(0, 1, images) + draws.normal(0, 0.2, (seeds, images)) > 0).astype(
            float
        )
        for _ in "ab"
    )

    def peculiar(x: np.ndarray) -> float:
        rest = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
        return float((rest**2).sum() / ((seeds - 1) * (images - 1)) / x.size)

    by_seed = [float(x.mean(1).var(ddof=1)) / seeds for x in (a, b)]
    by_image = float((a.mean(0) - b.mean(0)).var(ddof=1)) / images
    variance = sum(by_seed) + by_image - peculiar(a) - peculiar(b)
    assert 0.3 < sum(by_seed) / variance < 0.7, "both matter here"
    freedom = variance**2 / sum(v**2 / (seeds - 1) for v in by_seed)
    found = same_images.image_seed_bootstrap(a, b, paired=False).interval
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(variance), rel=0.02)


def test_the_centre_of_the_bootstrap_is_the_difference() -> None:
    a, b = two_mixers(rng(), 4, 300)
    found = same_images.image_seed_bootstrap(a, b, paired=False)
    assert found.interval.estimate == pytest.approx(a.mean() - b.mean())
    assert found.interval.low < found.interval.estimate < found.interval.high


def test_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="same images"):
        same_images.mcnemar([True], [True, False])
    with pytest.raises(InputError, match="same images"):
        same_images.image_seed_bootstrap(np.ones((2, 5)), np.ones((2, 6)), paired=False)
    with pytest.raises(InputError, match="single seed"):
        same_images.image_seed_bootstrap(np.ones((1, 5)), np.ones((2, 5)), paired=False)


# --- accuracy against cost


def test_a_front_takes_intervals_into_account() -> None:
    good, near, bad = [0.90, 0.901, 0.902], [0.8995, 0.9005, 0.9015], [0.50, 0.501, 0.502]
    assert fronts.pareto([good, bad], [1, 2], [1, 2]) == ["on the front", "dominated"]
    assert fronts.pareto([good, near], [1, 2], [1, 2]) == ["on the front", "undecided"], "dearer and not surely better"
    assert fronts.pareto([good, near], [1, 1], [1, 1]) == ["undecided", "undecided"], "as dear, and not distinguishable"
    assert fronts.pareto([good, bad], [2, 1], [2, 1]) == ["on the front", "on the front"]
    assert fronts.pareto([good, bad], [1, 2], [3, 4]) == ["on the front", "undecided"], "the costs are not told apart"
    assert fronts.pareto([good], [1], [1]) == ["on the front"]


@pytest.mark.slow
def test_a_front_errs_in_about_5_percent() -> None:
    draws, wrong = rng(8), 0
    for _ in range(800):
        wrong += "dominated" in fronts.pareto(draws.normal(0, 1, (5, 4)).tolist(), [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    assert wrong / 800 < 0.05 + share(40, 800)


def test_the_front_and_tukey_agree() -> None:
    groups = [rng(i).normal(i, 1, 4).tolist() for i in range(4)]
    p = stats.tukey_hsd(*groups).pvalue
    dominated = [any(p[i, j] < 0.05 and np.mean(groups[i]) > np.mean(groups[j]) for i in range(4)) for j in range(4)]
    assert [place == "dominated" for place in fronts.pareto(groups, [1] * 4, [1] * 4)] == dominated
