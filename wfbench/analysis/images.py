"""Models and lines on the same images: McNemar's test, and a bootstrap over images and seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wfbench.analysis.interval import LEVEL
from wfbench.analysis.unpaired import ENOUGH_POWER
from wfbench.errors import InputError

Floats = NDArray[np.float64]


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
