"""One model before and after a change to it, on the same held-out images: the difference, with an interval over images.

A difference is always changed minus unchanged. The interval is for other images from where these came, and for these weights;
it says nothing of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wfbench.analysis.images import SAME_IMAGES
from wfbench.analysis.interval import LEVEL, Interval
from wfbench.errors import InputError

Floats = NDArray[np.float64]

_CHUNK = 4_000_000  # numbers in a table of weights: 32 MB


def mean_change(changed: ArrayLike, unchanged: ArrayLike, least: float = 0.0) -> Interval:
    """The difference of two means over the same images, with the paired t-interval over images.

    Args:
        changed: a number for each image: right or wrong, or a loss.
        unchanged: of the same images in the same order.
        least: the interval is no narrower than this on either side: of a share of images, or of canvases, one of them, 1/n.

    Raises:
        InputError: if there are not two images or more, the same ones.
    """
    ours, theirs = _same(changed, unchanged, 1)
    differences = ours - theirs
    deviation = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return Interval.around(float(differences.mean()), max(_quantile(len(differences)) * deviation, least))


def counts_change(
    changed: ArrayLike,
    unchanged: ArrayLike,
    figure: Callable[[Floats], Floats],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """The difference of a figure of summed counts, such as mIoU, with an interval by the bootstrap over images.

    Each draw takes n − 1 of n images with replacement, the same for both sides, and takes the figure of their sums; the
    interval is difference ± t · the standard deviation of the draws' differences.

    Args:
        changed: (images, 3, K): of each image and class, pixels that are right, true, predicted.
        unchanged: of the same images in the same order.
        figure: of sums (..., 3, K) to (...): `miou` or `pixel_accuracy`.
        draws: bootstrap samples.
        seed: of the draws.

    Raises:
        InputError: if there are not two images or more, the same ones.

    Source: Rao and Wu, JASA 83 (1988) 231 (n − 1 of n, which makes the variance unbiased).
    """
    ours, theirs = _same(changed, unchanged, 3)
    images, rng, found = len(ours), np.random.default_rng(seed), []
    size = max(1, _CHUNK // images)
    for at in range(0, draws, size):
        weights = rng.multinomial(images - 1, np.full(images, 1 / images), min(size, draws - at)).astype(float)
        sums = [(weights @ counts.reshape(images, -1)).reshape(-1, *counts.shape[1:]) for counts in (ours, theirs)]
        found.append(figure(sums[0]) - figure(sums[1]))
    by_draw = np.concatenate(found)
    known = by_draw[np.isfinite(by_draw)]  # a draw may hold no labelled pixel
    deviation = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    estimate = float(figure(ours.sum(axis=0)) - figure(theirs.sum(axis=0)))
    if not math.isfinite(deviation):
        return Interval(estimate, why_none="too few images have a labelled pixel")
    return Interval.around(estimate, _quantile(images) * deviation)


def miou(counts: Floats) -> Floats:
    """Mean intersection over union of sums (..., 3, K); classes that are neither in the masks nor predicted do not count."""
    right, true, predicted = np.moveaxis(counts, -2, 0)
    union = true + predicted - right
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(union > 0, right / union, 0).sum(axis=-1) / (union > 0).sum(axis=-1)


def pixel_accuracy(counts: Floats) -> Floats:
    """The share of labelled pixels that are right, of sums (..., 3, K)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts[..., 0, :].sum(axis=-1) / counts[..., 1, :].sum(axis=-1)


def _same(changed: ArrayLike, unchanged: ArrayLike, dimensions: int) -> tuple[Floats, Floats]:
    ours, theirs = (np.asarray(values, dtype=float) for values in (changed, unchanged))
    if ours.shape != theirs.shape or ours.ndim != dimensions or len(ours) < 2:
        raise InputError(
            "not the same images",
            got=f"{ours.shape} and {theirs.shape}",
            expected="two images or more, the same of both",
            remedy=SAME_IMAGES,
        )
    return ours, theirs


def _quantile(images: int) -> float:
    from scipy.stats import t as student

    return float(student.isf((1 - LEVEL) / 2, images - 1))
