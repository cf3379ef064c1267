"""Samples of lines whose seeds differ: comparisons with one baseline, equivalence, power. Pure functions of arrays.

Samples hold one number per seed; a difference is always ours minus the baseline's, so that more is better. Everything is in
the unit of the samples. Errors of the first kind are held at 5% unless a level is given. docs/STATISTICS.md says why these
tests and what they assume.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wfbench.analysis.interval import LEVEL, Interval
from wfbench.analysis.paired import Sided, holm
from wfbench.analysis.power import check_sizes, detectable_effect, equivalence_power, scales, t_power
from wfbench.errors import InputError

_NODES = 64  # of the quadrature over the baseline's mean
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One group against the baseline, as one of a family.

    ``low`` and ``high`` are simultaneous: with probability ``LEVEL`` all of the family's intervals hold at once. ``p`` is
    adjusted likewise. ``power`` is the probability of finding a true difference of ``relevant``, ``detectable`` the
    difference that is found with probability `power.ENOUGH_POWER`; both take the pooled deviation for the true one.
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
    def simultaneous(self) -> Interval:
        """The difference with its simultaneous interval."""
        return Interval(self.difference, self.low, self.high)

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

    samples = [as_sample(values) for values in (baseline, *groups)]
    check_sizes(relevant, margin)
    if not groups:
        raise InputError(
            "nothing to compare with the baseline",
            got="no group",
            expected="one group or more",
            remedy="give the values of a group beside the baseline's own",
        )
    sizes = [len(sample) for sample in samples]
    freedom = sum(sizes) - len(sizes)
    deviation = math.sqrt(math.fsum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / freedom)
    if deviation <= 1e-12 * max(float(np.abs(sample).max()) for sample in samples):
        raise InputError(
            "the samples have no spread, so nothing says how sure a difference is",
            got=f"a pooled standard deviation of {deviation:.1e}",
            expected="seeds that lead to different results",
            remedy="check that the runs are no copies of one another; where all agree, compare the values themselves",
        )
    critical = dunnett_critical(tuple(sizes[1:]), sizes[0], freedom)
    errors = [deviation * math.sqrt(1 / size + 1 / sizes[0]) for size in sizes[1:]]
    differences = [float(sample.mean() - samples[0].mean()) for sample in samples[1:]]
    pairs = list(zip(differences, errors, strict=True))
    equivalence: list[float | None] = [None] * len(pairs)
    if margin is not None:
        raw = [max(student.sf((margin + d) / error, freedom), student.sf((margin - d) / error, freedom)) for d, error in pairs]
        equivalence = holm(raw)
    hardest = (1 - LEVEL) / len(pairs)  # the level of Holm's first step
    return Family(
        tuple(
            Comparison(
                difference=d,
                low=d - critical * error,
                high=d + critical * error,
                p=1 - _dunnett_cdf(abs(d) / error, tuple(sizes[1:]), sizes[0], freedom),
                relevant=relevant,
                power=t_power(relevant / error, critical, freedom),
                detectable=error * detectable_effect(critical, freedom),
                margin=margin,
                p_equivalent=p,
                power_equivalent=None if margin is None else equivalence_power(margin / error, freedom, alpha=hardest),
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


def as_sample(values: Sequence[float]) -> Floats:
    """The values as an array.

    Raises:
        InputError: for fewer than two values, or one that is not finite.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise InputError(
            "not a sample that can be compared",
            got=list(values),
            expected="two finite numbers or more",
            remedy="run more seeds, or leave the sample out; leave out runs without a finite value",
        )
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

    scale, weight = scales(freedom)
    z, z_weight = np.polynomial.hermite_e.hermegauss(_NODES)
    n = np.array(sizes, dtype=float)[:, None, None]
    a, b = np.sqrt(baseline_size / (n + baseline_size)), np.sqrt(n / (n + baseline_size))
    reach = value * scale[:, None]  # (S, 1) beside z (Z,)
    inside = (ndtr((reach + b * z) / a) - ndtr((-reach + b * z) / a)).prod(axis=0)  # (S, Z)
    return float(weight @ inside @ (z_weight / math.sqrt(2 * math.pi)))
