"""Error, coverage and power by simulation, with fixed seeds; each check is seen to fail for a formula that must not be used.

Lines are normal over their seeds, in units of their standard deviation. A situation is a correlation matrix of all lines, the
baseline first: "compound" (all pairs alike), "unequal" (a block with r = 0.99, the rest -0.1 to it), "outlier" (all pairs 0.99
but those of one line).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from test_same_images import lines as image_lines

from wfbench.analysis.capability import canvas_error
from wfbench.analysis.images import image_seed_bootstrap
from wfbench.analysis.paired import Contrast, Difference, paired_contrasts, paired_difference
from wfbench.analysis.power import t_quantile
from wfbench.analysis.seeds_needed import seeds_for_better
from wfbench.analysis.sequential import Decision, Looks, decide_best, decide_better, decide_within

pytestmark = pytest.mark.slow
TRIALS = 2000

#: Dunnett's two-sided 5% points (Biometrics 20 (1964) 482, table II), by lines and degrees of freedom.
DUNNETT = {(1, 8): 2.31, (4, 10): 2.89, (4, 20): 2.65, (4, 45): 2.54, (9, 50): 2.81}


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """statsmodels collects garbage in each call of multipletests, which takes 0.1 s where torch is loaded."""
    monkeypatch.setattr("gc.collect", lambda: 0)


def slack(share: float, trials: int = TRIALS) -> float:
    """How far a simulated share lies from the true one in one case of 1,000, to one side."""
    return 3.1 * math.sqrt(share * (1 - share) / trials)


def correlations(situation: str | float, lines: int) -> np.ndarray:
    """Of the baseline and so many lines."""
    r = np.full((lines + 1, lines + 1), situation if isinstance(situation, float) else 0.0)
    if situation == "unequal":
        block = 1 + (lines + 1) // 2
        r[:block, :block] = 0.99
        r[block:, :block] = r[:block, block:] = -0.1
    elif situation == "outlier":
        r[:] = 0.99
        r[-1, :] = r[:, -1] = 0.0
    np.fill_diagonal(r, 1.0)
    return r


def samples(situation: str | float, lines: int, seeds: int, trials: int = TRIALS, seed: int = 1) -> np.ndarray:
    """(trials, lines with the baseline first, seeds); nothing differs in truth."""
    value, vector = np.linalg.eigh(correlations(situation, lines))
    root = vector * np.sqrt(np.clip(value, 0, None))
    return np.swapaxes(np.random.default_rng(seed).normal(size=(trials, seeds, lines + 1)) @ root.T, 1, 2)


def families(data: np.ndarray, margin: float | None = None) -> list[tuple[Contrast, ...]]:
    return [paired_contrasts(x[1:].tolist(), x[0].tolist(), relevant=1.0, margin=margin) for x in data]


def holds(interval: object, value: float = 0.0) -> bool:
    low, high = interval.low, interval.high  # type: ignore[attr-defined]
    return bool(low <= value <= high)


SITUATIONS = [
    (0.0, 4, 5),
    (0.3, 9, 3),
    (0.6, 1, 5),
    (0.9, 4, 10),
    ("unequal", 4, 3),
    ("unequal", 9, 5),
    ("outlier", 4, 5),
]


@pytest.mark.parametrize(("situation", "lines", "seeds"), SITUATIONS)
def test_families_err_in_5_percent_and_every_interval_covers(situation: str | float, lines: int, seeds: int) -> None:
    found = families(samples(situation, lines, seeds))
    error = np.mean([any(c.sided != "not distinguishable" for c in family) for family in found])
    assert error <= 0.05 + slack(0.05)
    together = np.mean([all(holds(c.simultaneous) for c in family) for family in found])
    assert together >= 0.95 - slack(0.05)
    each = np.mean([[holds(c.interval) for c in family] for family in found], axis=0)
    assert (abs(each - 0.95) < 0.02).all(), each


def coverage(data: np.ndarray, deviation: Callable[[np.ndarray], np.ndarray], freedom: int) -> np.ndarray:
    """Of each line's 95% interval, by another rule for the standard deviation of a difference."""
    mean = (data[:, 1:] - data[:, :1]).mean(axis=2)
    reach = stats.t.isf(0.025, freedom) * deviation(data) / math.sqrt(data.shape[2])
    return np.asarray((np.abs(mean) <= reach).mean(axis=0))


def independent(data: np.ndarray) -> np.ndarray:
    """√2 times the deviation within lines, pooled: the formula for independent samples."""
    return np.sqrt(2 * data.var(axis=2, ddof=1).mean(axis=1, keepdims=True))


def residual(data: np.ndarray) -> np.ndarray:
    """√2 times the deviation that is left after lines and seeds, pooled: right if all pairs are correlated alike."""
    rest = data - data.mean(2, keepdims=True) - data.mean(1, keepdims=True) + data.mean((1, 2), keepdims=True)
    freedom = (data.shape[1] - 1) * (data.shape[2] - 1)
    return np.asarray(np.sqrt(2 * (rest**2).sum((1, 2)) / freedom)[:, None])


def test_formulas_that_do_not_cover() -> None:
    """What the check above is for: each of these fails it."""
    assert (coverage(samples(0.0, 4, 5), independent, 20) > 0.93).all(), "right where nothing is shared"
    assert (coverage(samples(0.9, 4, 10), independent, 45) > 0.99).all(), "three times too wide"
    assert (abs(coverage(samples(0.6, 4, 5), residual, 16) - 0.95) < 0.02).all(), "right where all pairs are alike"
    assert coverage(samples("outlier", 4, 5), residual, 16).min() < 0.85, "one spread for all is wrong for most"


def test_equivalence_errs_in_5_percent() -> None:
    """All true differences lie at the margin."""
    for situation in (0.0, 0.9, "unequal"):
        data = samples(situation, 4, 5)
        data[:, 1:] += 1.5
        error = np.mean([any(c.equivalent for c in family) for family in families(data, margin=1.5)])
        assert error <= 0.05 + slack(0.05)


@pytest.mark.parametrize(("correlation", "lines", "seeds"), [(0.4, 1, 5), (0.6, 4, 5), (0.4, 4, 10), (0.9, 4, 3), (0.9, 4, 10)])
def test_paired_tests_find_more_than_unpaired_ones(correlation: float, lines: int, seeds: int) -> None:
    """All lines differ by as much as Dunnett's test finds in about half the cases. Where it finds more is in the docs."""
    data = samples(correlation, lines, seeds)
    critical = DUNNETT[lines, (lines + 1) * (seeds - 1)]
    data[:, 1:] += 1.05 * critical * math.sqrt(2 / seeds)
    unpaired = np.abs((data[:, 1:] - data[:, :1]).mean(axis=2)) > critical * independent(data) / math.sqrt(seeds)
    paired = np.mean([[c.sided == "better" for c in family] for family in families(data)])
    assert paired > unpaired.mean() + 0.01


# --- looks


def claims_file(
    data: np.ndarray, seeds: int, looks: Looks, alpha: float, *, hold: bool, pooled: bool
) -> Iterator[tuple[int, Decision]]:
    """Four claims at the border of what is true; ``hold`` says on which side. All share the first line.

    True means are 0, 0, −1, 0, −5. A claim that holds is one whose contradiction would be false, and the other way round.
    """
    spread = float(np.sqrt(2 * data[:, :seeds].var(axis=1, ddof=1).mean()))

    def lead(other: int) -> Difference:
        if pooled:
            return Difference(float((data[0, :seeds] - data[other, :seeds]).mean()), spread, seeds, lines=len(data))
        return paired_difference(data[0, :seeds], data[other, :seeds])

    yield 0, decide_better(lead(1), 0.0, alpha, looks)
    yield 1, decide_within(lead(2), 1.0, alpha, looks)
    yield 2, decide_best([lead(3), lead(4)], alpha, looks) if not hold else decide_better(lead(3), 0.0, alpha, looks)
    yield 3, decide_better(lead(4), 5.0, alpha, looks)


def false_answers(
    correlation: float, plan: Sequence[int], *, hold: bool, spend: bool = True, pooled: bool = False, trials: int = 2500
) -> float:
    """The share of trials in which any of the four claims gets a false answer; a claim is closed when it has one."""
    data = samples(correlation, 4, plan[-1], trials, seed=2)
    data += np.array([0.0, 0.0, -1.0, 0.0, -5.0])[:, None]
    wrong, false = 0, "contradicted" if hold else "supported"
    for x in data:
        closed: dict[int, str] = {}
        for seeds in plan:
            looks = Looks(tuple(plan)) if spend else Looks((seeds,))
            for claim, said in claims_file(x, seeds, looks, 0.05 / 4, hold=hold, pooled=pooled):
                if said.verdict != "undecidable":
                    closed.setdefault(claim, said.verdict)
        wrong += false in closed.values()
    return wrong / trials


@pytest.mark.parametrize("plan", [(3, 6, 12, 20), (5, 10, 20), (5, 6, 7, 8, 9, 10)])
@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_no_more_than_5_percent_of_claim_files_have_a_false_answer(
    plan: tuple[int, ...], hold: bool, correlation: float
) -> None:
    assert false_answers(correlation, plan, hold=hold) <= 0.05 + slack(0.05, 2500)


def test_the_error_holds_for_a_pooled_deviation_too() -> None:
    assert false_answers(0.0, (3, 6, 12, 20), hold=False, pooled=True) <= 0.05 + slack(0.05, 2500)


@pytest.mark.parametrize("effect", [0.7, 1.0, 1.5])
def test_the_look_that_is_said_to_decide_does_so_in_80_percent(effect: float) -> None:
    plan, alpha = Looks((5, 10, 20, 40)), 0.05 / 7
    needed = seeds_for_better(effect, 0.0, Difference(0.0, 1.0, 5), alpha, plan).seeds
    assert needed in plan.seeds
    draws, decided = np.random.default_rng(9).normal(effect, 1.0, size=(TRIALS, needed)), 0
    for x in draws:
        until = [count for count in plan.seeds if count <= needed]
        decided += any(
            decide_better(paired_difference(x[:n], np.zeros(n)), 0.0, alpha, plan).verdict == "supported" for n in until
        )
    assert decided / TRIALS >= 0.8 - slack(0.8)


def test_looking_again_and_again_without_spending_errs_twice_as_often() -> None:
    assert false_answers(0.0, (3, 6, 12, 20), hold=False, spend=False, trials=1000) > 0.08


# --- an error over samples beside that over seeds


def false_share(
    seeds: int, share: float, alpha: float, reach: Callable[[Difference, float], float], trials: int = 20_000
) -> float:
    """How often a true difference of 0 lies beyond a one-sided bound, where a share of the variance is that over samples.

    All seeds have the same samples, so what these add to the difference is the same for every seed.
    """
    draws = np.random.default_rng(7)
    over_samples = math.sqrt(share) * draws.normal(size=(trials, 1))
    by_seed = over_samples + math.sqrt((1 - share) * seeds) * draws.normal(size=(trials, seeds))
    mean, deviation = by_seed.mean(axis=1), by_seed.std(axis=1, ddof=1)
    found = [
        Difference(m, d, seeds, sample_error=math.sqrt(share)) for m, d in zip(mean.tolist(), deviation.tolist(), strict=True)
    ]
    return float(np.mean([one.mean > reach(one, alpha) for one in found]))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
def test_bounds_with_an_error_over_samples_err_as_often_as_they_say(seeds: int, share: float, alpha: float) -> None:
    error = false_share(seeds, share, alpha, lambda one, level: one.mean - one.low(level))
    assert error <= alpha + slack(alpha, 20_000)
    if share == 1.0:
        assert error == pytest.approx(alpha, abs=slack(alpha, 20_000))


@pytest.mark.parametrize("wrong", [0.0005, 0.005, 0.05, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
def test_so_do_bounds_where_seeds_are_alike_and_few_canvases_are_answered_wrong(wrong: float, alpha: float) -> None:
    """Two lines that fail on canvases of their own, as often in truth; every seed of a line fails on the same ones."""
    canvases, trials = 512, 20_000
    right = 1 - np.random.default_rng(8).binomial(canvases, wrong, size=(trials, 2)) / canvases
    error = [[canvas_error(p, math.sqrt(p * (1 - p) / canvases), canvases) for p in pair] for pair in right.tolist()]
    found = [
        Difference(a - b, 0.0, 3, sample_error=math.hypot(*own)) for (a, b), own in zip(right.tolist(), error, strict=True)
    ]
    assert np.mean([one.low(alpha) > 0 for one in found]) <= alpha + slack(alpha, trials)


def test_bounds_of_the_seeds_alone_err_far_more_often() -> None:
    """Of the seeds alone, and of the larger of the two errors."""

    def of_seeds(one: Difference, level: float) -> float:
        return t_quantile(level, one.freedom) * one.deviation / math.sqrt(one.seeds)

    def larger(one: Difference, level: float) -> float:
        return max(of_seeds(one, level), -NormalDist().inv_cdf(level) * one.sample_error)

    for wrong in (of_seeds, larger):
        assert false_share(5, 0.5, 0.01, wrong) > 0.01 + slack(0.01, 20_000)


# --- images and seeds


def bootstrap_coverage(seeds: int, shared: float, own: float, paired: bool, trials: int = 500) -> tuple[float, float]:
    """How often the interval of a difference that is nothing holds it, and its mean half-width."""
    found = [image_seed_bootstrap(*image_lines(i, seeds, 200, shared, own), paired=paired).interval for i in range(trials)]
    return float(np.mean([holds(x) for x in found])), float(np.mean([x.half_width for x in found]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(("shared", "own"), [(0.0, 0.3), (0.3, 0.3), (0.5, 0.1)])
def test_joint_draws_cover_images_and_seeds(seeds: int, shared: float, own: float) -> None:
    assert 0.92 < bootstrap_coverage(seeds, shared, own, paired=True)[0] < 0.98


def test_drawing_shared_seeds_apart_is_twice_too_wide() -> None:
    joint, apart = (bootstrap_coverage(5, 0.5, 0.1, paired) for paired in (True, False))
    assert apart[0] > 0.985
    assert apart[1] > 1.8 * joint[1]
