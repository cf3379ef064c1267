"""Where a curve that is known with errors surely lies above 0, and from where on it surely lies below."""

from __future__ import annotations

import math

import numpy as np
from scipy import special


def sure_ends(t: np.ndarray, freedom: np.ndarray, direction: np.ndarray, level: float) -> tuple[int | None, int | None]:
    """An interval of the place from which a curve lies below 0 for good.

    The lower end is the last place at which the curve surely lies above 0; the upper end is the place from which it surely
    lies below 0 at every later one. Each end is on the wrong side of the truth with a chance of ``level`` at most.

    Args:
        t: the curve's estimate at each place, by its standard error.
        freedom: the degrees of freedom of that error at each place.
        direction: (places, k): what k independent errors add to the estimate at each place, scaled to length 1.
        level: the chance of error, one-sided.

    Returns:
        The indices of both ends; None for a lower or an upper end that lies at no place.
    """
    below = special.stdtr(freedom, t) < level
    # The curve is called below 0 from a place on only if it surely is so at that place too. At the truth it is 0, so the
    # bound of a single place holds there, and with it that of the end.
    since = len(t) - int(np.argmin(np.append(below[::-1], False)))
    until = int(np.argmin(np.append(_chance(t, freedom, direction, below) < level, False))) - 1
    return (until if until >= 0 else None), (since if since < len(t) else None)


def _chance(t: np.ndarray, freedom: np.ndarray, direction: np.ndarray, below: np.ndarray) -> np.ndarray:
    """For each place: the chance, at most, that a curve nowhere above 0 from there on rises as high as this one does.

    The height is the largest t of the later places. It may be any of them that a curve of chance rises at, so the chance is
    larger than that of one place: at most the chance that t lies above that height at the last place, and the expected
    number of times that it falls below the height on the way there. That number is the angle by which ``direction`` turns
    on the way, over 2π, times (1 + t²/ν)^(-ν/2) (Knafl, Sacks and Ylvisaker 1985, J. Amer. Statist. Assoc. 80:683; Naiman
    1986, Ann. Statist. 14:896). Stretches where the curve surely lies below 0 are left out of the angle: it rises nowhere
    there. The rest of the formula does not know of this choice; tests/test_crossover_simulation.py shows that it
    costs no more than the level.

    The lower end is the last place up to which all these chances are under the level. One level serves for all places,
    since they are looked at in order and the first one that is not under it ends the search (a fixed sequence of tests): a
    curve that is nowhere above 0 from one place on is so from every later place, too.
    """
    turn = np.linalg.norm(np.diff(direction, axis=0), axis=-1) * ~(below[1:] & below[:-1])
    angle = np.append(np.cumsum(turn[::-1])[::-1], 0.0)
    crossings = (1 + np.maximum(t, 0) ** 2 / freedom) ** (-freedom / 2) / (2 * math.pi)
    return np.asarray(angle * _least_later(crossings) + _least_later(special.stdtr(freedom, -t)))


def _least_later(values: np.ndarray) -> np.ndarray:
    """The least of each value and all after it."""
    return np.asarray(np.minimum.accumulate(values[::-1])[::-1])
