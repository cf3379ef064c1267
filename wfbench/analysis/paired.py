"""Differences of lines that share all their seeds, seed by seed: intervals, tests, equivalence and power.

Runs with the same seed share the order of the data, augmentation, and the initial values of what their models have in common,
so the results of two lines go up and down together. The difference of two such lines is therefore judged by its own spread
over the seeds, which is smaller than that of two independent lines, and which differs from pair to pair. docs/STATISTICS.md
says which tests were compared by simulation, and why this one was kept.

A difference is always ours minus theirs, so that more is better. Everything is in the unit of the values, points of accuracy as
a rule; `mean_interval` alone needs shares from 0 to 1 where it knows the number of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wfbench.analysis.interval import LEVEL, Interval
from wfbench.analysis.power import check_sizes, detectable_effect, equivalence_power, scales, t_power, t_quantile
from wfbench.errors import InputError

Sided = Literal["better", "worse", "not distinguishable"]
Floats = NDArray[np.float64]

SINGLE_SEED = "a single seed"
NO_SPREAD = "the seeds do not differ"

_ROUNDING = 1e-9  # a spread smaller than this share of the values is the rounding of floating-point numbers


def mean_interval(values: Sequence[float], samples: int | None = None, level: float = LEVEL) -> Interval:
    """The mean over seeds with its t-interval, which is never narrower than the binomial interval of the images.

    An accuracy is a share of a finite number of images, and all seeds are tested on the same ones. So where ``samples`` is
    given, the half-width is at least what it takes to hold Wilson's interval for the mean accuracy on ``samples`` images
    (not on seeds × samples: the same images again are no more images).

    Args:
        values: one number per seed; shares from 0 to 1 where ``samples`` is given.
        samples: the number of images that each accuracy was measured on; None for a quantity that is no share of images.
        level: the probability that the interval holds the truth.

    Returns:
        mean ± half-width. A single seed has no interval, and neither have seeds that do not differ, unless ``samples`` is
        given.

    Raises:
        InputError: for no value, one that is not finite, one that is no share although ``samples`` is given, or fewer than
            one sample.

    Source: Wilson, JASA 22 (1927) 209, by `statsmodels.stats.proportion.proportion_confint`.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise InputError(
            "not a sample with a mean",
            got=list(values),
            expected="one finite number or more",
            remedy="leave out the runs without a finite value; a line that has no other has no mean",
        )
    if samples is not None and (samples < 1 or sample.min() < 0 or sample.max() > 1):
        raise InputError(
            "not shares of images",
            got=f"{list(values)} of {samples} images",
            expected="numbers from 0 to 1",
            remedy="divide percentages by 100; give samples=None for values that are no shares of images",
        )
    mean, count = math.fsum(sample) / len(sample), len(sample)
    if count == 1:
        return Interval(mean, level=level, why_none=SINGLE_SEED)
    deviation = float(sample.std(ddof=1))
    if deviation <= _ROUNDING * float(np.abs(sample).max()):
        deviation = 0.0
    if not deviation and samples is None:
        return Interval(mean, level=level, why_none=NO_SPREAD)
    half_width = t_quantile((1 - level) / 2, count - 1) * deviation / math.sqrt(count)
    return Interval.around(mean, max(half_width, binomial_reach(mean, samples, level) if samples else 0.0), level)


def binomial_reach(share: float, samples: int, level: float) -> float:
    """How far the farther end of Wilson's interval lies from a share of so many samples."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(share * samples, samples, alpha=1 - level, method="wilson")
    return max(share - float(low), float(high) - share)


@dataclass(frozen=True)
class Difference:
    """The mean difference of two lines over their seeds, and how sure it is.

    Attributes:
        mean: ours minus theirs.
        deviation: the standard deviation of one seed's difference. For lines that do not share their seeds, √2 times the
            standard deviation that is pooled over all lines. 0 where the seeds do not differ.
        seeds: how many, of each line.
        lines: how many lines the deviation is pooled over; 1 for differences seed by seed. There are
            lines × (seeds − 1) degrees of freedom.
        one_image: what one image is worth: 100 / images in points. The half-width of the 95% interval is never smaller.
        sample_error: the standard error over held-out samples, where they are counted as a sample too, as canvases of probes
            are. All seeds have the same ones, so more seeds do not make it smaller.
    """

    mean: float
    deviation: float
    seeds: int
    lines: int = 1
    one_image: float = 0.0
    sample_error: float = 0.0

    @property
    def freedom(self) -> int:
        """Degrees of freedom."""
        return self.lines * (self.seeds - 1)

    @property
    def why_none(self) -> str:
        """Why nothing can be said of the difference; "" where something can."""
        return SINGLE_SEED if self.seeds < 2 else "" if self.deviation > 0 or self.sample_error > 0 else NO_SPREAD

    @property
    def error(self) -> float:
        """The standard error of the mean over seeds and samples.

        Raises:
            InputError: where nothing can be said (`why_none`).
        """
        return math.hypot(self.seed_error, self.sample_error)

    @property
    def seed_error(self) -> float:
        """The standard error of the mean over seeds; no smaller than one image's worth over the 97.5% quantile of t.

        Raises:
            InputError: where nothing can be said (`why_none`).
        """
        if self.why_none:
            raise InputError(
                "a difference without a standard error",
                got=self.why_none,
                expected="seeds that differ",
                remedy="run another seed; ask only where why_none is empty",
            )
        least = self.one_image / t_quantile((1 - LEVEL) / 2, self.freedom)
        return max(self.deviation / math.sqrt(self.seeds), least)

    def low(self, alpha: float) -> float:
        """The one-sided lower bound: the true difference is below it with probability ``alpha``. Needs a spread."""
        return self.mean - self._reach(alpha)

    def high(self, alpha: float) -> float:
        """The one-sided upper bound: the true difference is above it with probability ``alpha``. Needs a spread."""
        return self.mean + self._reach(alpha)

    def interval(self, level: float = LEVEL) -> Interval:
        """The two-sided t-interval, or why there is none."""
        if self.why_none:
            return Interval(self.mean, level=level, why_none=self.why_none)
        return Interval.around(self.mean, self._reach((1 - level) / 2), level)

    def reaches(self, alpha: float) -> tuple[Floats, Floats]:
        """How far a one-sided bound would lie from the mean in other seeds, if the spread found is the true one.

        Returns:
            nodes and weights for a mean over those seeds, as `power.scales`.
        """
        scale, weight = scales(self.freedom)
        return np.hypot(self._reach_over_seeds(alpha) * scale, self._reach_over_samples(alpha)), weight

    def _reach(self, alpha: float) -> float:
        """√((t × error over seeds)² + (z × error over samples)²).

        A bound errs with probability ``alpha`` at most, whatever share of the variance is that over samples, and with just that
        where one of the two is 0.

        Source: Banerjee, Sankhya 22 (1960) 357.
        """
        return math.hypot(self._reach_over_seeds(alpha), self._reach_over_samples(alpha))

    def _reach_over_seeds(self, alpha: float) -> float:
        error = self.seed_error
        return t_quantile(alpha, self.freedom) * error if error else 0.0

    def _reach_over_samples(self, alpha: float) -> float:
        from scipy.special import ndtri

        return float(-ndtri(alpha) * self.sample_error) if self.sample_error else 0.0


def paired_difference(ours: ArrayLike, theirs: ArrayLike, *, one_image: float = 0.0, sample_error: float = 0.0) -> Difference:
    """The difference of two lines that share all their seeds.

    Args:
        ours: one value per seed.
        theirs: those of the other line, with the seeds in the same order.
        one_image: what one image is worth, in the unit of the values.
        sample_error: the standard error of the difference over held-out samples, in that unit; 0: not counted.

    Raises:
        InputError: for samples of different length, none at all, or a number that is not finite.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a) or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(
            "not lines that share their seeds",
            got=f"values of shapes {a.shape} and {b.shape}",
            expected="one finite number per seed, for the same seeds in the same order",
            remedy="keep the seeds that both lines have; for lines of other seeds there is unpaired.against_baseline",
        )
    by_seed = a - b
    deviation = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0
    if deviation <= _ROUNDING * float(max(np.abs(a).max(), np.abs(b).max())):
        deviation = 0.0
    return Difference(float(by_seed.mean()), deviation, len(by_seed), one_image=one_image, sample_error=sample_error)


def one_sided_power(distance: float, difference: Difference, level: float) -> float:
    """The power of the one-sided test, at a level, of a true difference at a distance from the threshold."""
    from scipy.special import ndtr

    reach, weight = difference.reaches(level)
    return float(weight @ ndtr((distance - reach) / difference.error))


def power_within(true: float, margin: float, difference: Difference, level: float) -> float:
    """The power of two one-sided tests, each at a level, to show that a true difference is within ± margin."""
    from scipy.special import ndtr

    reach, weight = difference.reaches(level)
    room, error = np.maximum(margin - reach, 0), difference.error
    return float(weight @ np.where(room > 0, ndtr((room - true) / error) - ndtr((-room - true) / error), 0))


@dataclass(frozen=True)
class Contrast:
    """One line against the baseline, as one of a family.

    Attributes:
        difference: line minus baseline, and its spread.
        interval: the 95% interval of this difference alone.
        simultaneous: with probability 95% all of the family's simultaneous intervals hold at once (Bonferroni).
        p: of the two-sided test, after Holm's correction over the family. It decides `sided`: where it is small although
            ``simultaneous`` holds 0, Holm's later steps found what Bonferroni's single step does not. None without a spread.
        relevant: the true difference that ``power`` is given for.
        power: the least probability of finding a true difference of ``relevant``: at Holm's hardest step, with the
            estimated spread for the true one. None without a spread.
        detectable: the true difference that is found with a probability of 80% or more, likewise.
        margin: of equivalence; None where none was stated.
        p_equivalent: of the two one-sided tests, after Holm's correction; None without a margin or a spread.
        power_equivalent: the least probability of showing equivalence where there is no difference at all, likewise.
    """

    difference: Difference
    interval: Interval
    simultaneous: Interval
    p: float | None
    relevant: float
    power: float | None
    detectable: float | None
    margin: float | None = None
    p_equivalent: float | None = None
    power_equivalent: float | None = None

    @property
    def sided(self) -> Sided:
        """What the test says. "Not distinguishable" is no evidence of equality."""
        if self.p is None or self.p > 1 - LEVEL:
            return "not distinguishable"
        return "better" if self.difference.mean > 0 else "worse"

    @property
    def equivalent(self) -> bool:
        """Whether the two one-sided tests show that the true difference is smaller than the margin."""
        return self.p_equivalent is not None and self.p_equivalent <= 1 - LEVEL


def paired_contrasts(
    lines: Sequence[Sequence[float]],
    baseline: Sequence[float],
    *,
    relevant: float,
    margin: float | None = None,
    one_image: float = 0.0,
) -> tuple[Contrast, ...]:
    """Compare each line with a baseline that has the same seeds, by paired t-tests with Holm's correction.

    Each difference has its own spread over the seeds and seeds − 1 degrees of freedom. A line whose difference does not spread
    at all cannot be tested; it still counts in the correction.

    Args:
        lines: one row of values per line, for the seeds of the baseline in their order.
        baseline: the baseline's values.
        relevant: the true difference whose power is given.
        margin: of equivalence, stated before the runs.
        one_image: what one image is worth, in the unit of the values: no 95% interval is narrower on either side.

    Raises:
        InputError: for no line, fewer than two seeds, rows of different length, a number that is not finite, or a margin or
            relevant difference that is not positive.

    Source: Holm, Scand. J. Stat. 6 (1979) 65, by statsmodels; Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657.
    """
    check_sizes(relevant, margin)
    if not lines:
        raise InputError(
            "nothing to compare with the baseline",
            got="no line",
            expected="one line or more",
            remedy="give the values of a line beside the baseline's own",
        )
    if len(baseline) < 2:
        raise InputError(
            "too few seeds to compare",
            got=len(baseline),
            expected="two seeds or more",
            remedy="run the baseline and the lines with another seed: wfbench sweep --seed 0 --seed 1",
        )
    differences = [paired_difference(line, baseline, one_image=one_image) for line in lines]
    count, freedom = len(lines), len(baseline) - 1
    p = [None if d.why_none else 2 * _t_tail(abs(d.mean) / d.error, freedom) for d in differences]
    p_equivalent = [None if margin is None or d.why_none else _equivalence_p(d, margin) for d in differences]
    hardest = (1 - LEVEL) / count  # the level of Holm's first step
    critical = t_quantile(hardest / 2, freedom)
    return tuple(
        Contrast(
            difference=d,
            interval=d.interval(),
            simultaneous=replace(d.interval(1 - hardest), level=LEVEL),
            p=p_two_sided,
            relevant=relevant,
            power=None if d.why_none else t_power(relevant / d.error, critical, freedom),
            detectable=None if d.why_none else d.error * detectable_effect(critical, freedom),
            margin=margin,
            p_equivalent=p_within,
            power_equivalent=(
                None if margin is None or d.why_none else equivalence_power(margin / d.error, freedom, alpha=hardest)
            ),
        )
        for d, p_two_sided, p_within in zip(differences, holm(p), holm(p_equivalent), strict=True)
    )


def _equivalence_p(difference: Difference, margin: float) -> float:
    """The larger p of the two one-sided t-tests of −margin < difference < margin."""
    return _t_tail((margin - abs(difference.mean)) / difference.error, difference.freedom)


def _t_tail(value: float, freedom: int) -> float:
    """P(t > value)."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -value))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; a test that could not be made counts as one that found nothing, and stays None."""
    from statsmodels.stats.multitest import multipletests

    adjusted = multipletests([1.0 if value is None else value for value in p], method="holm")[1]
    return [None if value is None else float(new) for value, new in zip(p, adjusted, strict=True)]
