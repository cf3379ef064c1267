"""The power of t-tests, and the difference that a test finds with a given power.

All effects, margins and differences are in standard errors of the estimate. t = D / S, where D is normal about the effect and
S² = χ²_ν / ν: each probability is a mean over S, taken by Gauss-Legendre quadrature over its quantiles (right to about 2e-5).
SciPy's noncentral t (and so statsmodels' power of a t-test) is NaN for some large effects, and equivalence has no counterpart.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from wfbench.errors import InputError

#: The power at which a difference counts as one that would have been found.
ENOUGH_POWER = 0.8

_NODES = 64
Floats = NDArray[np.float64]


def check_alpha(alpha: float) -> None:
    """Refuse what cannot be the one-sided error of a claim.

    Raises:
        InputError: for a number outside 0 to 1/2.
    """
    if not 0 < alpha < 0.5:
        raise InputError(
            "not an error of a claim",
            got=alpha,
            expected="a number between 0 and 1/2",
            remedy="for example 0.05, or 0.05 / k for one of k claims",
        )


def check_sizes(relevant: float, margin: float | None) -> None:
    """Refuse a relevant difference, or a margin of equivalence where there is one, that is no size.

    Raises:
        InputError: for one that is not positive, or not finite.
    """
    for what, value, remedy in (
        ("relevant difference", relevant, "for example 1 for one point, of accuracies in percent"),
        ("margin", margin, "for example 1 for one point, of accuracies in percent; None asks for no equivalence"),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(
                f"the {what} is no size", got=value, expected="a positive number, in the unit of the values", remedy=remedy
            )


@functools.lru_cache(maxsize=256)
def scales(freedom: int) -> tuple[Floats, Floats]:
    """Nodes and weights for a mean over S = √(χ²_ν / ν)."""
    from scipy.stats import chi

    node, weight = np.polynomial.legendre.leggauss(_NODES)
    return chi.ppf((node + 1) / 2, freedom) / math.sqrt(freedom), weight / 2


@functools.lru_cache(maxsize=4096)
def t_quantile(alpha: float, freedom: int) -> float:
    """The value that t exceeds with probability ``alpha``."""
    from scipy.stats import t as student

    return float(student.isf(alpha, freedom))


def t_power(effect: float, critical: float, freedom: int, *, two_sided: bool = True) -> float:
    """The probability that a t-test finds a true difference: P(|t| > critical), or P(t > critical) if one-sided.

    Args:
        effect: the true difference, in standard errors.
        critical: the value that |t| (or t) has to exceed.
        freedom: degrees of freedom of the standard error.
        two_sided: whether a large negative t counts too.
    """
    from scipy.special import ndtr

    scale, weight = scales(freedom)
    other = ndtr(-effect - critical * scale) if two_sided else 0.0
    return float(weight @ (ndtr(effect - critical * scale) + other))


def equivalence_power(margin: float, freedom: int, *, difference: float = 0.0, alpha: float = 0.05) -> float:
    """The probability that two one-sided t-tests show that a true difference is within ± margin.

    They do if |D| < margin − t S, where t is the 1 − alpha quantile.

    Args:
        margin: of equivalence, in standard errors.
        freedom: degrees of freedom of the standard error.
        difference: the true one, in standard errors.
        alpha: the level of each of the two tests.
    """
    from scipy.special import ndtr

    scale, weight = scales(freedom)
    room = np.maximum(margin - t_quantile(alpha, freedom) * scale, 0)
    return float(weight @ np.where(room > 0, ndtr(room - difference) - ndtr(-room - difference), 0))


@functools.lru_cache(maxsize=256)
def detectable_effect(critical: float, freedom: int, *, two_sided: bool = True, power: float = ENOUGH_POWER) -> float:
    """The true difference, in standard errors, that a t-test finds with probability ``power``."""
    from scipy.optimize import brentq

    def missing(effect: float) -> float:
        return t_power(effect, critical, freedom, two_sided=two_sided) - power

    top = critical + 4.0
    while missing(top) < 0:
        top *= 2
    return float(brentq(missing, 0.0, top))
