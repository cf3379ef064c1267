"""Exponents, curves and crossovers on known curves, and whether the intervals cover a truth that is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_report import cell

from wfbench.analysis.derived import derived_rows
from wfbench.measure import crossover, local_exponents
from wfbench.measure.scaling import exact_exponents, faster_from, fit, rounds_interval
from wfbench.records import CrossoverRow

SIDES = np.array([224, 448, 672, 896, 1120, 1344])
TOKENS = (SIDES // 16) ** 2.0
SOFTMAX, LINEAR = (3e-3, 60e-6, 50e-9), (6e-3, 90e-6, 0.0)


def times(curve, tokens=TOKENS):
    a, b, c = curve
    return a + b * np.asarray(tokens) + c * np.asarray(tokens) ** 2


def slope(curve, n):
    a, b, c = curve
    return (b * n + 2 * c * n * n) / (a + b * n + c * n * n)


def test_local_exponents_of_a_power_law_are_its_power():
    tokens = [196, 784, 1764, 3136]
    assert local_exponents(tokens, [3e-9 * n**1.7 for n in tokens]) == pytest.approx([1.7] * 3)


@pytest.mark.parametrize(
    ("mixer", "base", "verdict"),
    [
        ([1, 2, 3], [2, 3, 4], "always"),
        ([2, 3, 4], [1, 2, 3], "none"),
        ([1, 3, 9], [2, 2, 2], "none"),
    ],
)
def test_a_mixer_may_be_faster_everywhere_or_nowhere_at_the_end(mixer, base, verdict):
    found = crossover([196, 784, 1764], mixer, base)
    assert found.verdict == verdict
    assert found.interval is None  # three cells leave no freedom for one


def test_the_crossover_of_two_power_laws_is_found_where_they_meet():
    tokens = [196, 784, 3136]
    linear, quadratic = ([1000.0 * n for n in tokens], [1.0 * n * n for n in tokens])
    found = crossover(tokens, linear, quadratic)
    assert found.verdict == "at"
    assert found.tokens == pytest.approx(1000)
    wavering = crossover(tokens, [3, 1, 1], [2, 2, 2])
    assert 196 < wavering.tokens < 784


def test_the_curve_through_exact_times_is_found_and_certain():
    for truth in (SOFTMAX, LINEAR):
        curve = fit(TOKENS, times(truth))
        assert curve.coefficients == pytest.approx(truth, rel=1e-6, abs=1e-15)
        assert curve.freedom == 3
        assert curve.spread < 1e-9
        for n in TOKENS:
            assert curve.exponent(n) == pytest.approx(slope(truth, n))
            interval = curve.exponent_interval(n)
            assert interval.high - interval.low < 1e-6
    assert fit(TOKENS[:3], times(LINEAR)[:3]) is None


def test_no_coefficient_is_negative():
    bent = times(LINEAR) * np.array([1, 1, 1, 1, 0.97, 0.93])  # bends downward
    curve = fit(TOKENS, bent)
    assert min(curve.coefficients) >= 0
    assert curve.coefficients[2] == 0
    assert curve.free[2] < 0
    interval = curve.exponent_interval(TOKENS[-1])
    assert interval.low < curve.exponent(TOKENS[-1]) <= interval.high  # the interval holds what is reported


def test_the_crossover_of_two_exact_curves_is_where_they_cross_and_certain():
    places = np.geomspace(TOKENS[0], TOKENS[-1], 200_001)
    meet = places[np.argmax(times(LINEAR, places) < times(SOFTMAX, places))]
    found = crossover(TOKENS, times(LINEAR), times(SOFTMAX))
    assert found.verdict == "at"
    assert found.tokens == pytest.approx(meet, rel=1e-4)
    assert found.interval.low == pytest.approx(meet, rel=0.01)
    assert found.interval.high == pytest.approx(meet, rel=0.01)
    assert found.interval.low <= meet <= found.interval.high
    assert (found.slower_until, found.faster_since) == (found.interval.low, found.interval.high)
    slower = crossover(TOKENS, 2 * times(SOFTMAX), times(SOFTMAX))
    assert (slower.verdict, slower.interval.low, slower.interval.high) == ("none", TOKENS[-1], math.inf)
    assert (slower.slower_until, slower.faster_since) == (TOKENS[-1], None)
    faster = crossover(TOKENS, 0.5 * times(SOFTMAX), times(SOFTMAX))
    assert (faster.verdict, faster.interval.low, faster.interval.high) == ("always", 0.0, TOKENS[0])
    assert (faster.slower_until, faster.faster_since) == (None, TOKENS[0])


#: Less overhead, more linear work and no superlinear part: nearest to the baseline in the middle of the range.
NEAR = ((0.07388, 1.2912 / 1764, 0.0), (0.2939, 1 / 1764, 0.10285 / 1764**2))


def test_a_mixer_that_is_surely_faster_twice_and_near_in_between_is_nowhere_slower():
    """The ratios are .535 .854 .977 .989 .947 .882. What is not told apart begins above the first side, faster below it."""
    mine, theirs = (times(curve) for curve in NEAR)
    assert mine / theirs == pytest.approx([0.535, 0.854, 0.977, 0.989, 0.947, 0.882], abs=5e-4)
    exact = crossover(TOKENS, mine, theirs)
    assert (exact.verdict, exact.interval.low, exact.interval.high) == ("always", 0.0, TOKENS[0])
    noise = np.random.default_rng(4).normal(1, 0.03, (40, 2, 6))
    answers = [faster_from(TOKENS, mine * mixer, theirs * other, TOKENS[0]) for mixer, other in noise]
    assert answers.count("contradicted") <= 2


def test_of_two_crossings_the_later_one_counts():
    theirs = np.array(NEAR[1])
    # Faster, slower from 1,000 to 4,000 tokens, faster; and the other way round.
    bump = -2e-8 * np.array([1000 * 4000, -5000, 1])
    found = crossover(TOKENS, times(theirs + bump), times(theirs))
    assert found.verdict == "at"
    assert found.interval.low <= 4000 <= found.interval.high
    assert found.interval.high / found.interval.low < 1.01
    assert faster_from(TOKENS, times(theirs + bump), times(theirs), TOKENS[0]) == "contradicted"
    back = crossover(TOKENS, times(theirs - bump), times(theirs))
    assert (back.verdict, back.interval.low, back.interval.high) == ("none", TOKENS[-1], math.inf)


def test_what_is_said_from_a_number_of_tokens_on():
    mine, theirs = times(LINEAR), times(SOFTMAX)  # they cross at 690 tokens, between the first side and the second
    assert [faster_from(TOKENS, mine, theirs, n) for n in TOKENS] == ["contradicted"] + ["supported"] * 5
    noise = np.random.default_rng(0).normal(1, 0.1, (2, 6))
    unsure = [faster_from(TOKENS, mine * noise[0], theirs * noise[1], n) for n in TOKENS]
    assert unsure == ["undecidable"] * 2 + ["supported"] * 4
    for outside in (TOKENS[0] - 1, TOKENS[-1] + 1):
        assert faster_from(TOKENS, 0.5 * theirs, theirs, outside) == "undecidable"
    assert faster_from(TOKENS[:3], 0.5 * theirs[:3], theirs[:3], TOKENS[0]) == "undecidable"


@pytest.mark.parametrize(("share", "verdict"), [(0.86, "none"), (0.94, "at"), (1.0, "at")])
def test_an_interval_holds_the_crossover_that_is_reported(share, verdict):
    """The reported curve has no negative coefficient: where the cells bend downward it crosses elsewhere than the free one."""
    found = crossover(TOKENS, times((6e-3, 90e-6, -2e-9)), share * times(LINEAR))
    assert found.verdict == verdict
    assert found.interval.low <= (found.tokens or math.inf) <= found.interval.high


def test_two_mixers_that_are_alike_are_not_told_apart():
    noise = np.random.default_rng(0).normal(0, 0.04, (2, 6))
    found = crossover(TOKENS, times(SOFTMAX) * np.exp(noise[0]), times(SOFTMAX) * np.exp(noise[1]))
    assert (found.interval.low, found.interval.high) == (0.0, math.inf)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("count", [4, 5])
def test_the_intervals_of_fewer_cells_cover_the_truth_too(count):
    """With one or two degrees of freedom they are wide; where the first order is not enough, they cover a little less."""
    rng, hits = np.random.default_rng(3), np.zeros(count)
    for _ in range(500):
        curve = fit(TOKENS[:count], times(SOFTMAX, TOKENS[:count]) * np.exp(rng.normal(0, 0.04, count)))
        for i, n in enumerate(TOKENS[:count]):
            interval = curve.exponent_interval(n)
            hits[i] += interval.low <= slope(SOFTMAX, n) <= interval.high
    assert (hits / 500).min() >= 0.90
    assert (hits / 500).max() <= 0.98


def test_a_curve_without_a_logarithm_has_no_bounds():
    curve = replace(fit(TOKENS, times(SOFTMAX)), free=(-1.0, 1e-6, 0.0))  # what wild cells may give, without the constraint
    for interval in (curve.exponent_interval(TOKENS[0]), curve.mean_exponent(TOKENS[0], TOKENS[1])[1]):
        assert (interval.low, interval.high) == (-math.inf, math.inf)


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "noise"), [(0.04, 0.03), (0.04, 0.0), (0.0, 0.04)])
def test_the_intervals_cover_the_truth_of_a_simulated_machine(cell, noise):
    """500 grids: each cell has an error of its own that all rounds share, and each round noise."""
    rng = np.random.default_rng(1)

    def grid(truth):
        rounds = np.exp(rng.normal(0, cell, 6) + rng.normal(0, noise, (3, 6)))
        return times(truth) * np.median(rounds, axis=0)

    places = np.geomspace(TOKENS[0], TOKENS[-1], 200_001)
    meet = places[np.argmax(times(LINEAR, places) < times(SOFTMAX, places))]
    at = [(truth, n) for truth in (SOFTMAX, LINEAR) for n in TOKENS]
    hits, crossings = np.zeros(len(at)), 0
    for _ in range(500):
        measured = {truth: grid(truth) for truth in (SOFTMAX, LINEAR)}
        curves = {truth: fit(TOKENS, seconds) for truth, seconds in measured.items()}
        for i, (truth, n) in enumerate(at):
            interval = curves[truth].exponent_interval(n)
            hits[i] += interval.low <= slope(truth, n) <= interval.high
        found = crossover(TOKENS, measured[LINEAR], measured[SOFTMAX]).interval
        crossings += found.low <= meet <= found.high
    assert (hits / 500).min() >= 0.90
    assert (hits / 500).max() <= 0.98
    assert 0.90 <= crossings / 500 <= 0.98


@pytest.mark.slow
def test_resampling_the_samples_of_cells_would_not_cover_the_truth():
    """What the intervals must not be: a bootstrap of each cell's samples, which does not know the cell's own error."""
    rng = np.random.default_rng(2)
    truth = slope(SOFTMAX, TOKENS[-1])
    hits = 0
    for _ in range(100):
        samples = times(SOFTMAX) * np.exp(rng.normal(0, 0.04, 6) + rng.normal(0, 0.01, (50, 6)))
        again = (fit(TOKENS, np.median(samples[rng.integers(0, 50, 50)], axis=0)) for _ in range(200))
        low, high = np.percentile([curve.exponent(TOKENS[-1]) for curve in again], (2.5, 97.5))
        hits += low <= truth <= high
    assert hits < 30


def test_exponents_of_counts_are_exact():
    assert exact_exponents(TOKENS, times(SOFTMAX)) == pytest.approx([slope(SOFTMAX, n) for n in TOKENS])
    assert exact_exponents([196, 784], [196.0, 784.0]) == pytest.approx([1, 1])
    bent = exact_exponents(TOKENS, TOKENS**1.5)  # no quadratic: chords
    assert bent == pytest.approx([1.5] * 6)
    assert exact_exponents([196], [1.0]) == []


def test_the_interval_of_a_cell_comes_from_its_rounds():
    assert rounds_interval([1.0, 1.1]) is None
    interval = rounds_interval([1.0, 1.1, 1.21])
    half = 4.302652729911275 * math.log(1.1) / math.sqrt(3)
    assert (interval.low, interval.high) == pytest.approx((1.1 * math.exp(-half), 1.1 * math.exp(half)))
    skewed = [1.0] * 6 + [2.0] * 4  # the median of many rounds can lie outside the interval of their mean
    assert rounds_interval(skewed).low == 1.0


def test_a_curve_says_when_it_says_little():
    assert fit(TOKENS, times(SOFTMAX)).doubts() == []
    (short,) = fit(TOKENS[-4:], times(SOFTMAX)[-4:]).doubts()
    assert short.startswith("the range is too short: N grows 4 times")
    (overhead,) = fit(TOKENS, times((1.0, 1e-6, 0.0))).doubts()
    assert overhead.startswith("overhead still dominates: it is 99 % of the time")


def test_the_row_of_a_crossover_names_measured_sides_and_how_its_interval_was_computed():
    sides = [int(side) for side in SIDES]

    def row(mixer, curve, sides=sides):
        base = [cell("softmax", side, float(times(SOFTMAX, (side // 16) ** 2)) / 2) for side in sides]  # twice as fast
        own = [cell(mixer, side, float(times(curve, (side // 16) ** 2))) for side in sides]
        (found,) = (r for r in derived_rows([*own, *base], "softmax") if isinstance(r, CrossoverRow))
        return found

    method = "surely slower to surely faster"
    faster = row("pool", 0.4 * np.array(SOFTMAX))
    assert (faster.verdict, faster.interval_method, faster.side_low, faster.side_high) == ("always", method, None, 224)
    slower = row("pool", SOFTMAX)
    assert (slower.verdict, slower.interval_method, slower.side_low, slower.side_high) == ("none", method, 1344, None)
    between = row("pool", LINEAR)
    assert between.side_low <= between.side <= between.side_high < between.side_low * 1.01
    few = row("pool", LINEAR, sides[:3])
    assert (few.interval, few.interval_method, few.side_low, few.side_high) == (False, None, None, None)


def test_a_curve_is_not_drawn_down_by_the_errors_of_its_cells():
    """Least squares of errors relative to the measured times would lie 2 % too low here."""
    tokens = np.geomspace(TOKENS[0], TOKENS[-1], 40)
    noise = np.random.default_rng(0).normal(1, 0.1, (400, 40))
    curves = [fit(tokens, times(SOFTMAX, tokens) * errors) for errors in noise]
    assert np.mean([curve(1000) for curve in curves]) == pytest.approx(times(SOFTMAX, 1000), rel=4e-3)
