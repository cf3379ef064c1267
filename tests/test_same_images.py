"""Two lines on the same images: McNemar's example, and the bootstrap over images and seeds with joint draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from wfbench.analysis.images import _variance, image_seed_bootstrap, mcnemar
from wfbench.errors import InputError


def lines(seed: int, seeds: int, images: int, shared: float, own: float) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong by image difficulty and by seed, whose effect the lines share in part; they do not differ."""
    draws = np.random.default_rng(seed)
    hard, common = draws.normal(0, 1.5, images), draws.normal(0, shared, (seeds, 1))
    made = [
        draws.random((seeds, images)) < 1 / (1 + np.exp(-(1 + hard + common + draws.normal(0, own, (seeds, 1)))))
        for _ in range(2)
    ]
    return made[0], made[1]


def test_mcnemars_worked_example() -> None:
    """Of 7 images in dispute 6 fall to one side: p = 2 P(X ≤ 1) with X ~ Binomial(7, 1/2), by hand."""
    ours = np.array([1] * 6 + [0] * 1 + [1] * 300, bool)
    theirs = np.array([0] * 6 + [1] * 1 + [1] * 300, bool)
    assert mcnemar(ours, theirs).p == pytest.approx(2 * (1 + 7) / 2**7)


def test_the_variance_of_joint_draws_is_that_of_the_differences() -> None:
    """var(seed means of d)/s + var(image means of d)/N − the peculiar part, for d = ours − theirs image by image."""
    draws, seeds, images = np.random.default_rng(9), 4, 150
    common = draws.normal(0, 0.5, (seeds, 1))
    a, b = (
        common + draws.normal(0, 0.2, (seeds, 1)) + draws.normal(0, 1, images) + draws.normal(0, 0.2, (seeds, images))
        for _ in "ab"
    )
    d = a - b
    rest = d - d.mean(0) - d.mean(1, keepdims=True) + d.mean()
    peculiar = float((rest**2).sum() / ((seeds - 1) * (images - 1)) / d.size)
    by_seed = float(d.mean(1).var(ddof=1)) / seeds
    variance = by_seed + float(d.mean(0).var(ddof=1)) / images - peculiar
    assert 0.1 < by_seed / variance < 0.9, "both matter here"
    freedom = variance**2 / (by_seed**2 / (seeds - 1))
    expected = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    joint = image_seed_bootstrap(a, b, paired=True).interval
    assert joint.half_width == pytest.approx(expected, rel=0.005)  # (N − 1) / N in the images' part
    apart = image_seed_bootstrap(a, b, paired=False).interval
    assert apart.half_width is not None
    assert apart.half_width > 1.5 * expected, "seeds drawn of each line for itself count what both share twice"


def test_the_variance_is_that_of_many_draws() -> None:
    """Seeds and images are drawn, one after the other; s − 1 of s seeds, of each group for itself, and the same images."""
    draws, count = np.random.default_rng(5), 40_000
    groups = [x.astype(float) for x in lines(4, 4, 30, 0.5, 0.5)]
    groups[1] = -groups[1][:3]
    images = draws.integers(30, size=(count, 30))
    total = np.zeros(count)
    for group in groups:
        seeds = draws.integers(len(group), size=(count, len(group) - 1))
        total += group[seeds[:, :, None], images[:, None, :]].mean(axis=(1, 2))
    assert _variance(groups) == pytest.approx(total.var(), rel=0.03)


def test_the_spread_over_images_alone_is_that_of_their_differences() -> None:
    a, b = (x[0] for x in lines(1, 1, 3000, 0.0, 0.3))
    found = image_seed_bootstrap(a, b, paired=True)
    assert not found.over_seeds
    error = (a.astype(float) - b).std() / math.sqrt(3000)
    assert found.interval.half_width == pytest.approx(stats.norm.isf(0.025) * error)


def test_equal_predictions_are_equal_to_within_an_image() -> None:
    a, _ = lines(3, 3, 200, 0.0, 0.1)
    assert image_seed_bootstrap(a, a, paired=True).interval.half_width == pytest.approx(1 / 200)


def test_other_images_and_other_seeds_are_refused() -> None:
    with pytest.raises(InputError, match="same images"):
        mcnemar([True], [True, False])
    with pytest.raises(InputError, match="same images"):
        image_seed_bootstrap(np.ones((2, 5)), np.ones((2, 6)), paired=False)
    with pytest.raises(InputError, match="single seed"):
        image_seed_bootstrap(np.ones((1, 5)), np.ones((2, 5)), paired=False)
    with pytest.raises(InputError, match="share their seeds"):
        image_seed_bootstrap(np.ones((3, 5)), np.ones((2, 5)), paired=True)
