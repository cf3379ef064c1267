"""Rounds: means and paired ratios on known samples, and whether their intervals cover a truth that is known."""

import math

import numpy as np
import pytest
from scipy import stats

from wfbench.measure.rounds import common_rounds, paired_ratio, relative_error, rounds_mean


def test_a_paired_ratio_is_students_interval_of_the_logarithms():
    ours, theirs = [1.0, 2.0, 1.5, 1.2], [2.1, 3.9, 3.2, 2.4]
    found = paired_ratio(ours, theirs)
    test = stats.ttest_rel(np.log(theirs), np.log(ours)).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((math.exp(test.low), math.exp(test.high)))
    assert found.estimate == pytest.approx(math.prod(b / a for a, b in zip(ours, theirs, strict=True)) ** 0.25)
    assert found.rounds == 4
    assert found.relative_half_width == pytest.approx(found.high / found.estimate - 1)
    back = paired_ratio(theirs, ours)
    assert (back.estimate, back.low, back.high) == pytest.approx((1 / found.estimate, 1 / found.high, 1 / found.low))


def test_what_a_round_does_to_both_cancels():
    slow = np.array([1.0, 3.0, 1.0, 2.0])
    found = paired_ratio((2 * slow).tolist(), (5 * slow).tolist())
    assert (found.estimate, found.low, found.high) == pytest.approx((2.5, 2.5, 2.5))
    assert rounds_mean((2 * slow).tolist()).high > 2.5


def test_fewer_than_three_rounds_have_no_interval_and_rounds_that_do_not_match_are_an_error():
    assert paired_ratio([1.0, 2.0], [1.0, 2.1]) is None
    assert rounds_mean([1.0, 2.0]) is None
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0, 2.0, 3.0], [1.0, 2.0])


def test_common_rounds_are_found_by_their_numbers():
    assert common_rounds({0: 1.0, 1: 2.0, 3: 4.0}, {3: 40.0, 0: 10.0, 2: 30.0}) == ([1.0, 4.0], [10.0, 40.0])
    assert common_rounds({}, {0: 1.0}) == ([], [])


def test_the_error_of_more_rounds_is_known_before_they_are_measured():
    logs = np.random.default_rng(0).normal(0, 0.1, 7)
    found = rounds_mean(np.exp(logs).tolist())
    assert math.log(found.high / found.estimate) == pytest.approx(relative_error(float(logs.std(ddof=1)), 7))


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [3, 5, 10])
@pytest.mark.parametrize(("shared", "own"), [(0.3, 0.1), (0.0, 0.15), (0.1, 0.02)])
def test_the_interval_of_a_ratio_covers_the_truth(rounds, shared, own):
    """Log-normal effects of the round, the same for both, and noise of each: 95 % of the intervals hold the true ratio."""
    rng, trials, truth = np.random.default_rng(7), 4000, 1.7
    both = rng.normal(0, shared, (trials, 1, rounds)) + rng.normal(0, own, (trials, 2, rounds))
    ours, theirs = np.exp(both[:, 0]), truth * np.exp(both[:, 1])
    found = [paired_ratio(a.tolist(), b.tolist()) for a, b in zip(ours, theirs, strict=True)]
    covered = np.mean([ratio.low <= truth <= ratio.high for ratio in found])
    assert 0.94 <= covered <= 0.96  # the standard error of 4,000 trials is 0.0034
    assert np.median([ratio.estimate for ratio in found]) == pytest.approx(truth, rel=0.02)
