"""Whether a difference is real: pure functions of arrays. docs/STATISTICS.md says why these tests and what they assume.

Samples hold one number per seed; a difference is always ours minus the baseline's, so that more is better. Everything is in
the unit of the samples. Errors of the first kind are held at 5% unless a level is given.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wfbench.errors import InputError

#: The level of every interval, and the power at which a difference counts as one that would have been found.
LEVEL = 0.95
ENOUGH_POWER = 0.8

_NODES = 64  # of each of the two quadratures behind a probability, which is right to 2e-5
Floats = NDArray[np.float64]
Sided = Literal["better", "worse", "not distinguishable"]
Place = Literal["on the front", "dominated", "undecided"]


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float | None]:
    """The mean and the half-width of its two-sided t-interval; no half-width for a single value."""
    from scipy.stats import t as student

    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, float(student.ppf((1 + level) / 2, count - 1)) * deviation / math.sqrt(count)


# --- many groups against one baseline


@dataclass(frozen=True)
class Comparison:
    """One group against the baseline, as one of a family.

    ``low`` and ``high`` are simultaneous: with probability ``LEVEL`` all of the family's intervals hold at once. ``p`` is
    adjusted likewise. ``power`` is the probability of finding a true difference of ``relevant``, ``detectable`` the
    difference that is found with probability ``ENOUGH_POWER``; both take the pooled deviation for the true one.
    ``p_equivalent`` is that of TOST within ± the margin, after Holm; ``power_equivalent`` the least probability of showing
    equivalence where there is no difference at all. Both are None without a margin.
    """

    difference: float
    low: float
    high: float
    p: float
    relevant: float
    power: float
    detectable: float
    margin: float | None = None
    p_equivalent: float | None = None
    power_equivalent: float | None = None

    @property
    def sided(self) -> Sided:
        """What the simultaneous interval says. That it holds 0 is no evidence of equality."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not distinguishable"

    @property
    def equivalent(self) -> bool:
        """Whether TOST shows that the true difference is smaller than the margin."""
        return self.p_equivalent is not None and self.p_equivalent <= 1 - LEVEL


@dataclass(frozen=True)
class Family:
    """All comparisons with one baseline, and what they share.

    ``deviation`` is the pooled standard deviation within the groups and ``freedom`` its degrees of freedom; ``critical`` is
    the value that |t| must exceed. ``p_spread`` is that of Brown and Forsythe's test that the groups have the same
    deviation, which pooling assumes; None where no group has three values.
    """

    comparisons: tuple[Comparison, ...]
    deviation: float
    freedom: int
    critical: float
    p_spread: float | None


def against_baseline(
    groups: Sequence[Sequence[float]], baseline: Sequence[float], *, relevant: float, margin: float | None = None
) -> Family:
    """Dunnett's two-sided comparisons of each group with the baseline, on the pooled variance.

    t = (mean − mean₀) / (s √(1/n + 1/n₀)), where s² pools the variance within all groups, the baseline's included. |t| is
    held against the distribution of the largest |t| in the family. With a margin, each group is also tested for
    equivalence: TOST (two one-sided t-tests on the same s) with Holm's correction over the family.

    Args:
        groups: the samples, two values or more in each.
        baseline: the baseline's sample.
        relevant: the true difference whose power is given.
        margin: of equivalence, stated before the runs.

    Raises:
        InputError: for no group, a sample of fewer than two values or with one that is not finite, no spread at all, or a
            margin or relevant difference that is not positive.

    Source: Dunnett, JASA 50 (1955) 1096; Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657; Holm, Scand. J. Stat. 6
    (1979) 65. SciPy's `dunnett` draws its distribution at random, which moves the third digit of p; here it is integrated.
    """
    from scipy.stats import t as student

    samples = [_sample(values) for values in (baseline, *groups)]
    for what, value in (("relevant difference", relevant), ("margin", margin)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"the {what} is no size", got=value, expected="a positive number, in the unit of the samples")
    if not groups:
        raise InputError("nothing to compare with the baseline", got="no group", expected="one group or more")
    sizes = [len(sample) for sample in samples]
    freedom = sum(sizes) - len(sizes)
    deviation = math.sqrt(math.fsum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / freedom)
    if deviation <= 1e-12 * max(float(np.abs(sample).max()) for sample in samples):
        raise InputError(
            "the samples have no spread, so nothing says how sure a difference is",
            got=f"a pooled standard deviation of {deviation:.1e}",
            expected="seeds that lead to different results",
        )
    critical = dunnett_critical(tuple(sizes[1:]), sizes[0], freedom)
    errors = [deviation * math.sqrt(1 / size + 1 / sizes[0]) for size in sizes[1:]]
    differences = [float(sample.mean() - samples[0].mean()) for sample in samples[1:]]
    pairs = list(zip(differences, errors, strict=True))
    equivalence: list[float | None] = [None] * len(pairs)
    if margin is not None:
        raw = [max(student.sf((margin + d) / error, freedom), student.sf((margin - d) / error, freedom)) for d, error in pairs]
        equivalence = list(holm(raw))
    level = 1 - (1 - LEVEL) / len(pairs)  # of Holm's first step, the hardest
    return Family(
        tuple(
            Comparison(
                difference=d,
                low=d - critical * error,
                high=d + critical * error,
                p=1 - _dunnett_cdf(abs(d) / error, tuple(sizes[1:]), sizes[0], freedom),
                relevant=relevant,
                power=power_of(relevant / error, critical, freedom),
                detectable=error * _found_with(critical, freedom),
                margin=margin,
                p_equivalent=p,
                power_equivalent=None if margin is None else equivalence_power(margin / error, freedom, level=level),
            )
            for (d, error), p in zip(pairs, equivalence, strict=True)
        ),
        deviation,
        freedom,
        critical,
        spread_p(samples),
    )


def spread_p(samples: Sequence[Sequence[float] | NDArray[np.float64]]) -> float | None:
    """p of Brown and Forsythe's test that all samples spread alike, which pooling assumes; None for pairs of values alone."""
    from scipy.stats import levene

    return float(levene(*samples, center="median").pvalue) if max(map(len, samples)) > 2 else None


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's method: the smallest times k, the next times k − 1, never falling."""
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate(np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)), 1)
    return [float(adjusted[place]) for place in np.argsort(order, kind="stable")]


def _sample(values: Sequence[float]) -> Floats:
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise InputError("not a sample that can be compared", got=list(values), expected="two finite numbers or more")
    return sample


@functools.lru_cache(maxsize=256)
def dunnett_critical(sizes: tuple[int, ...], baseline_size: int, freedom: int, level: float = LEVEL) -> float:
    """What the largest of the family's |t| stays under with probability ``level`` where no group differs."""
    from scipy.optimize import brentq

    def excess(value: float) -> float:
        return _dunnett_cdf(value, sizes, baseline_size, freedom) - level

    top = 10.0
    while excess(top) < 0:
        top *= 2
    return float(brentq(excess, 0.0, top, xtol=1e-10))


def _dunnett_cdf(value: float, sizes: tuple[int, ...], baseline_size: int, freedom: int) -> float:
    """P(max |tᵢ| ≤ value) where no group differs.

    All tᵢ share the baseline's mean Z₀ and the pooled deviation S = √(χ²_ν/ν), and given both they are independent:
    tᵢ S = aᵢ Zᵢ − bᵢ Z₀ with aᵢ² = n₀/(nᵢ + n₀) and bᵢ² = nᵢ/(nᵢ + n₀). So the probability is the mean over S and Z₀ of a
    product of normal probabilities: Gauss-Legendre over the quantiles of S, Gauss-Hermite over Z₀.
    """
    from scipy.special import ndtr

    scale, weight = _deviations(freedom)
    z, z_weight = np.polynomial.hermite_e.hermegauss(_NODES)
    n = np.array(sizes, dtype=float)[:, None, None]
    a, b = np.sqrt(baseline_size / (n + baseline_size)), np.sqrt(n / (n + baseline_size))
    reach = value * scale[:, None]  # (S, 1) beside z (Z,)
    inside = (ndtr((reach + b * z) / a) - ndtr((-reach + b * z) / a)).prod(axis=0)  # (S, Z)
    return float(weight @ inside @ (z_weight / math.sqrt(2 * math.pi)))


@functools.lru_cache(maxsize=64)
def _deviations(freedom: int) -> tuple[Floats, Floats]:
    """Nodes and weights for a mean over S = √(χ²_ν/ν)."""
    from scipy.stats import chi

    node, weight = np.polynomial.legendre.leggauss(_NODES)
    return chi.ppf((node + 1) / 2, freedom) / math.sqrt(freedom), weight / 2


def power_of(effect: float, critical: float, freedom: int, *, two_sided: bool = True) -> float:
    """P(|t| > critical), or P(t > critical), for a true difference of ``effect`` standard errors, with ν = ``freedom``.

    t = D/S, D normal about the effect and S = √(χ²_ν/ν): a mean over S. (SciPy's noncentral t is slow and at times NaN.)
    """
    from scipy.special import ndtr

    scale, weight = _deviations(freedom)
    other = ndtr(-effect - critical * scale) if two_sided else 0.0
    return float(weight @ (ndtr(effect - critical * scale) + other))


def _found_with(critical: float, freedom: int) -> float:
    """The true difference, in standard errors, that is found with probability ``ENOUGH_POWER``."""
    from scipy.optimize import brentq

    top = critical + 4.0
    while power_of(top, critical, freedom) < ENOUGH_POWER:
        top *= 2
    return float(brentq(lambda effect: power_of(effect, critical, freedom) - ENOUGH_POWER, 0.0, top))


def equivalence_power(margin: float, freedom: int, *, difference: float = 0.0, level: float = LEVEL) -> float:
    """The probability that TOST shows equivalence, where margin and true difference are in standard errors.

    It does if |D| < margin − t S with S = √(χ²_ν/ν) and D normal about the difference: a mean over S.
    """
    from scipy.special import ndtr
    from scipy.stats import t as student

    scale, weight = _deviations(freedom)
    room = np.maximum(margin - float(student.ppf(level, freedom)) * scale, 0)
    return float(weight @ np.where(room > 0, ndtr(room - difference) - ndtr(-room - difference), 0))


# --- two models on the same images


@dataclass(frozen=True)
class Paired:
    """McNemar's exact test of two models on the same images: of these two models, not of their mixers.

    ``ours`` and ``theirs`` count the images that only one of them gets right, and ``difference`` is in fractions of the
    ``images``. ``detectable`` is the true difference that is found with probability ``ENOUGH_POWER`` by so many images of
    which as many are in dispute; None where that is more than are in dispute.
    """

    difference: float
    ours: int
    theirs: int
    images: int
    p: float
    detectable: float | None


def mcnemar(ours: ArrayLike, theirs: ArrayLike) -> Paired:
    """Compare two models by the images that only one of them gets right; arguments are right or wrong for each image.

    Where neither is better, each image in dispute falls to either with probability 1/2: p is a two-sided binomial one.

    Raises:
        InputError: if the two were not judged on as many images.

    Source: McNemar, Psychometrika 12 (1947) 153.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    a, b = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise InputError("not the same images", got=f"{a.shape} and {b.shape}", expected="one entry per image, of each model")
    only_a, only_b, images = int((a & ~b).sum()), int((b & ~a).sum()), len(a)
    table = [[int((a & b).sum()), only_a], [only_b, int((~a & ~b).sum())]]
    return Paired(
        difference=(only_a - only_b) / images,
        ours=only_a,
        theirs=only_b,
        images=images,
        p=float(exact_test(table, exact=True).pvalue),
        detectable=_mcnemar_detectable((only_a + only_b) / images, images),
    )


def mcnemar_power(difference: float, disputed: float, images: int) -> float:
    """The probability that McNemar's exact test finds a true difference, where a fraction ``disputed`` is in dispute.

    Of k ~ Binomial(images, disputed) images each falls to the better model with probability (disputed + difference) /
    (2 disputed).
    """
    from scipy.stats import binom

    counts = np.arange(int(binom.ppf(1e-9, images, disputed)), int(binom.ppf(1 - 1e-9, images, disputed)) + 1)
    edge = binom.ppf((1 - LEVEL) / 2, counts, 0.5)  # the smallest with P(X ≤ edge) ≥ 2.5%: rejected up to it, or one below
    edge = np.where(binom.cdf(edge, counts, 0.5) <= (1 - LEVEL) / 2, edge, edge - 1)
    share = min(1.0, (disputed + difference) / (2 * disputed))
    found = binom.cdf(edge, counts, share) + binom.cdf(edge, counts, 1 - share)
    return float(binom.pmf(counts, images, disputed) @ found)


def _mcnemar_detectable(disputed: float, images: int) -> float | None:
    from scipy.optimize import brentq

    if not disputed or mcnemar_power(disputed, disputed, images) < ENOUGH_POWER:
        return None
    return float(brentq(lambda d: mcnemar_power(d, disputed, images) - ENOUGH_POWER, 0.0, disputed, xtol=1e-6))


@dataclass(frozen=True)
class Resampled:
    """A difference of accuracies with its 95% interval over images, and over seeds where ``over_seeds``."""

    difference: float
    low: float
    high: float
    over_seeds: bool


def image_seed_bootstrap(ours: ArrayLike, theirs: ArrayLike, *, draws: int = 2000, seed: int = 0) -> Resampled:
    """The difference of two mixers' mean accuracies, with an interval for other images *and* other seeds.

    Each draw takes images, the same for both mixers, and seeds, of each mixer for itself, with replacement. Of s seeds
    s − 1 are drawn, which makes the variance unbiased (s would give (s − 1)/s of it). What is peculiar to one seed on one
    image enters by the images, by the seeds and by both, three times over; two are taken off again. The interval is
    difference ± t · the standard deviation left; t has Satterthwaite's degrees of freedom, since three seeds say little
    about their own spread.

    Args:
        ours: (seeds, images): right or wrong.
        theirs: (seeds, images), of the same images in the same order; the number of seeds may differ.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        InputError: if the images differ in number, or one mixer has a single seed and the other several.

    Source: Rao and Wu, JASA 83 (1988) 231 (s − 1 of s); Owen, Ann. Appl. Stat. 1 (2007) 386 (rows and columns at once).
    """
    from scipy.stats import t as student

    a, b = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (ours, theirs))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2:
        raise InputError("not the same images", got=f"{a.shape} and {b.shape}", expected="(seeds, images) of the same images")
    over_seeds = len(a) > 1 or len(b) > 1
    if over_seeds and min(len(a), len(b)) == 1:
        raise InputError(
            "one side has a single seed",
            got=f"{len(a)} and {len(b)} seeds",
            expected="one seed on both sides, which compares two models, or several on both",
        )
    rng, images = np.random.default_rng(seed), a.shape[1]
    values = np.empty(draws)
    for draw in range(draws):
        weights = np.bincount(rng.integers(images, size=images), minlength=images) / images
        values[draw] = _drawn_mean(a @ weights, rng) - _drawn_mean(b @ weights, rng)
    difference, variance = float(a.mean() - b.mean()), float(values.var(ddof=1))
    freedom = math.inf
    if over_seeds:
        by_seed = [float(x.mean(axis=1).var(ddof=1)) / len(x) for x in (a, b)]
        variance = max(variance - 2 * (_peculiar(a) + _peculiar(b)), sum(by_seed))
        known = sum(v**2 / (len(x) - 1) for v, x in zip(by_seed, (a, b), strict=True))
        freedom = variance**2 / known if known else math.inf
    reach = math.sqrt(variance) * float(student.ppf((1 + LEVEL) / 2, max(freedom, 1.0)))
    return Resampled(difference, difference - reach, difference + reach, over_seeds)


def _drawn_mean(by_seed: Floats, rng: np.random.Generator) -> float:
    count = len(by_seed)
    return float(by_seed[rng.integers(count, size=count - 1)].mean() if count > 1 else by_seed[0])


def _peculiar(x: Floats) -> float:
    """The variance of the mean of (seeds, images) that comes from what neither the seed nor the image explains."""
    rest = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
    return float((rest**2).sum()) / ((x.shape[0] - 1) * (x.shape[1] - 1)) / x.size


# --- accuracy against cost


def pareto(values: Sequence[Sequence[float]], cost_low: Sequence[float], cost_high: Sequence[float]) -> list[Place]:
    """Where each group stands among all, when more value and less cost are better and neither is known exactly.

    A value is surely better if Tukey and Kramer's simultaneous 95% interval of the difference says so, a cost surely not
    larger if the intervals [low, high] do not overlap (or are one and the same point). "dominated": another group is surely
    better and surely not dearer. "on the front": every other group is surely worse or surely dearer. "undecided": the rest.

    Args:
        values: one sample per group, two values or more in each.
        cost_low: the low ends of the costs' intervals; equal to the high ends for a cost that is counted.
        cost_high: the high ends.

    Raises:
        InputError: for samples that cannot be compared, or other lengths.

    Source: Tukey (1953), Kramer, Biometrics 12 (1956) 307, by `scipy.stats.studentized_range`.
    """
    samples = [_sample(group) for group in values]
    if not len(samples) == len(cost_low) == len(cost_high):
        raise InputError("not a cost for each group", got=f"{len(samples)}, {len(cost_low)}, {len(cost_high)}")
    count = len(samples)
    if count == 1:
        return ["on the front"]
    freedom = sum(map(len, samples)) - count
    variance = math.fsum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / freedom
    q = _tukey_critical(count, freedom)
    mean, size = np.array([sample.mean() for sample in samples]), np.array([len(sample) for sample in samples])
    need = q * np.sqrt(variance / 2 * (1 / size[:, None] + 1 / size))
    better = mean[:, None] - mean > need  # [i, j]: i is surely better than j
    low, high = np.asarray(cost_low, dtype=float), np.asarray(cost_high, dtype=float)
    cheap = high[:, None] <= low  # [i, j]: i is surely not dearer than j
    dearer = low[:, None] > high  # [i, j]: i is surely dearer than j
    np.fill_diagonal(dearer, True)  # of no other, but it must not stand in its own way
    dominated, front = (better & cheap).any(axis=0), (better.T | dearer).all(axis=0)
    return ["dominated" if lost else "on the front" if won else "undecided" for lost, won in zip(dominated, front, strict=True)]


@functools.lru_cache(maxsize=64)
def _tukey_critical(count: int, freedom: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(LEVEL, count, freedom))
