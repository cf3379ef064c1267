"""Two models, or two lines of models, on the same images: McNemar's test and the bootstrap over images and seeds.

A difference is always ours minus theirs, in shares of the images.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wfbench.analysis.interval import LEVEL, Interval
from wfbench.analysis.power import ENOUGH_POWER
from wfbench.errors import InputError

Floats = NDArray[np.float64]

#: What to do where two models were not judged on the same images.
SAME_IMAGES = "evaluate both on the same held-out images, and give them in the same order"


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
        raise InputError(
            "not the same images",
            got=f"{a.shape} and {b.shape}",
            expected="one entry per image, of each model",
            remedy=SAME_IMAGES,
        )
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

    counts, chance, edge = _disputes(disputed, images)
    share = min(1.0, (disputed + difference) / (2 * disputed))
    found = binom.cdf(edge, counts, share) + binom.cdf(edge, counts, 1 - share)
    return float(chance @ found)


@functools.lru_cache(maxsize=1)
def _disputes(disputed: float, images: int) -> tuple[NDArray[np.int_], Floats, Floats]:
    """How many images may be in dispute, how likely each number is, and up to how many of them the test rejects."""
    from scipy.stats import binom

    counts = np.arange(int(binom.ppf(1e-9, images, disputed)), int(binom.ppf(1 - 1e-9, images, disputed)) + 1)
    edge = binom.ppf((1 - LEVEL) / 2, counts, 0.5)  # the smallest with P(X ≤ edge) ≥ 2.5%: rejected up to it, or one below
    edge = np.where(binom.cdf(edge, counts, 0.5) <= (1 - LEVEL) / 2, edge, edge - 1)
    return counts, binom.pmf(counts, images, disputed), edge


def _mcnemar_detectable(disputed: float, images: int) -> float | None:
    from scipy.optimize import brentq

    if not disputed or mcnemar_power(disputed, disputed, images) < ENOUGH_POWER:
        return None
    return float(brentq(lambda d: mcnemar_power(d, disputed, images) - ENOUGH_POWER, 0.0, disputed, xtol=1e-6))


@dataclass(frozen=True)
class ImageDifference:
    """A difference of two lines' mean accuracies, with an interval for other images.

    Attributes:
        interval: the difference and its 95% interval, in shares of the images.
        over_seeds: whether the interval holds for other seeds too; False for one model against one.
        paired: whether the two lines share their seeds, and seeds were drawn jointly.
    """

    interval: Interval
    over_seeds: bool
    paired: bool


def image_seed_bootstrap(ours: ArrayLike, theirs: ArrayLike, *, paired: bool) -> ImageDifference:
    """The difference of two lines' mean accuracies, with an interval for other images *and* other seeds.

    Each draw takes images with replacement, the same for both lines, and seeds with replacement: the same seeds for both lines
    if they share them (``paired``), of each line for itself if not. Of s seeds s − 1 are drawn, which makes the variance
    unbiased (s would give (s − 1)/s of it). What is peculiar to one seed on one image enters the variance by the images, by
    the seeds and by both, three times over; two are taken off again. The interval is difference ± t · the standard deviation
    left, and no narrower than one image on either side; t has Satterthwaite's degrees of freedom, since few seeds say little
    about their own spread.

    Nothing is drawn: the variance over all possible draws has a closed form, to which that of many draws converges.

    Args:
        ours: (seeds, images): right or wrong.
        theirs: (seeds, images), of the same images in the same order; if ``paired``, of the same seeds in the same order.
        paired: whether the two lines share their seeds.

    Raises:
        InputError: if the images differ in number, one line has a single seed and the other several, or the lines are said to
            be paired and differ in their number of seeds.

    Source: Rao and Wu, JASA 83 (1988) 231 (s − 1 of s); Owen, Ann. Appl. Stat. 1 (2007) 386 (rows and columns at once).
    """
    from scipy.stats import t as student

    a, b = _runs(ours, theirs, paired)
    # With joint draws a seed is one difference image by image; without, the lines are two groups that are drawn apart.
    groups = [a - b] if paired else [a, -b]
    difference = float(a.mean() - b.mean())
    over_seeds = len(a) > 1
    variance = _variance(groups)
    freedom = math.inf
    if over_seeds:
        by_seed = [float(group.mean(axis=1).var(ddof=1)) / len(group) for group in groups]
        variance = max(variance - 2 * sum(_peculiar(group) for group in groups), sum(by_seed))
        known = sum(v**2 / (len(group) - 1) for v, group in zip(by_seed, groups, strict=True))
        freedom = variance**2 / known if known else math.inf
    reach = math.sqrt(variance) * float(student.isf((1 - LEVEL) / 2, max(freedom, 1.0)))
    return ImageDifference(Interval.around(difference, max(reach, 1 / a.shape[1])), over_seeds, paired)


def _runs(ours: ArrayLike, theirs: ArrayLike, paired: bool) -> tuple[Floats, Floats]:
    a, b = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (ours, theirs))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.shape[1] < 2:
        raise InputError(
            "not the same images",
            got=f"{a.shape} and {b.shape}",
            expected="(seeds, images) of the same images",
            remedy=SAME_IMAGES,
        )
    if min(len(a), len(b)) == 1 < max(len(a), len(b)):
        raise InputError(
            "one side has a single seed",
            got=f"{len(a)} and {len(b)} seeds",
            expected="one seed on both sides, which compares two models, or several on both",
            remedy="run more seeds of the side that has one, or compare one run of each",
        )
    if paired and len(a) != len(b):
        raise InputError(
            "lines that share their seeds have as many",
            got=f"{len(a)} and {len(b)} seeds",
            expected="the same seeds of both",
            remedy="leave out the seeds that one of them lacks, or give paired=False",
        )
    return a, b


def _variance(groups: list[Floats]) -> float:
    """Of the sum of the groups' means, over drawn images (the same for all groups) and over drawn seeds (of each group).

    A mean over m drawn seeds and N drawn images has var(means of seeds) / m + var(means of images) / N + var(rest) / (m N),
    each the variance of what is there (divided by its number): the weights of both draws are independent multinomials.
    """
    images = groups[0].shape[1]
    total = float(sum(group.mean(axis=0) for group in groups).var()) / images
    for group in groups:
        taken = max(len(group) - 1, 1)
        total += float(group.mean(axis=1).var()) / taken + float((_rest(group) ** 2).mean()) / (taken * images)
    return total


def _rest(x: Floats) -> Floats:
    """What of (seeds, images) neither the seed nor the image explains."""
    return x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()


def _peculiar(x: Floats) -> float:
    """The variance of the mean of (seeds, images) that comes from what neither the seed nor the image explains."""
    return float((_rest(x) ** 2).sum()) / ((x.shape[0] - 1) * (x.shape[1] - 1)) / x.size
