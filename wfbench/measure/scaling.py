"""What latencies say about scaling: exponents with intervals, and where one mixer overtakes another.

A whole model takes t = a + b N + c N² for N tokens: overhead, a linear and a superlinear part. An exponent d log t / d log N is
local, and 2 is only its asymptote. What makes it uncertain is less the noise of a cell's samples, which many of them
average out, than the error that each cell has of its own: how its sizes fit the caches and the kernels. So intervals come
from the distance of the cells to the curve, and more samples of the same cells do not narrow them without end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from wfbench.measure.crossing import sure_ends

#: The curve has three coefficients; an interval needs at least one cell more.
LEAST_CELLS = 4
#: The least growth of N over which b N and c N² can be told apart.
SHORT_RANGE = 8.0
_OVERHEAD = 0.5
_LEVEL = 0.95
#: Relative errors of a time below this are those of floating-point numbers.
_EXACT = 1e-9
#: The level of each end of a crossover's interval. It is less than 2.5 % because Welch's test with three degrees of freedom
#: is wrong 0.6 points more often than its level says, where one mixer's cells scatter five times as much as the other's.
_END_LEVEL = 0.02
#: So many places of the measured range are looked at, beside the cells'.
_PLACES = 1001


@dataclass(frozen=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """t = a + b N + c N² through the cells of one mixer, by least squares of relative errors.

    a is the overhead, b N the linear part of the time, c N² its superlinear part. They are parts of the time, not of the
    arithmetic: a mixer whose work is linear has a superlinear part too where its larger sizes no longer fit the caches.

    Attributes:
        tokens: N of each cell, ascending.
        seconds: the time of each cell, for one image.
        coefficients: (a, b, c), none of them negative.
        free: the same without that constraint: intervals stand about what these give, for a bound that holds would make
            the estimate look more certain than it is.
        spread: typical relative distance of a cell from the free curve.
        freedom: the degrees of freedom behind ``spread``.
        weights: of each cell's error: 1 / seconds of a first curve there.
    """

    tokens: tuple[float, ...]
    seconds: tuple[float, ...]
    coefficients: tuple[float, float, float]
    free: tuple[float, float, float]
    spread: float
    freedom: int
    weights: tuple[float, ...]

    def __call__(self, n: float) -> float:
        """Seconds at n tokens."""
        return float(self.seconds_at(np.array(n)))

    def seconds_at(self, tokens: np.ndarray) -> np.ndarray:
        """Seconds at each number of tokens."""
        return np.asarray(_powers(tokens) @ np.array(self.coefficients))

    def exponent(self, n: float) -> float:
        """d log t / d log N at n tokens."""
        return _slope(self.coefficients, n)

    def exponent_interval(self, n: float) -> Interval:
        """Of the exponent at n tokens, by the delta method and Student's t; infinite where the free curve has no logarithm."""
        powers = _powers(np.array(n))
        if powers @ self.free <= 0:
            return Interval(-math.inf, math.inf)
        slope = _slope(self.free, n)
        return self._about(slope, (np.arange(3) - slope) * powers / (powers @ self.free), self.exponent(n))

    def mean_exponent(self, low: float, high: float) -> tuple[float, Interval]:
        """Δ log t / Δ log N between two numbers of tokens, with its interval."""
        growth, ends = math.log(high / low), _powers(np.array([low, high]))
        seconds = ends @ self.free
        point = math.log(self(high) / self(low)) / growth
        if seconds.min() <= 0:
            return point, Interval(-math.inf, math.inf)
        gradient = (ends[1] / seconds[1] - ends[0] / seconds[0]) / growth
        return point, self._about(math.log(seconds[1] / seconds[0]) / growth, gradient, point)

    def log_time(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """log t of the free curve at each number of tokens, and its uncertainty as three numbers per place.

        The three numbers say what one standard deviation of each of three independent errors adds to log t. The sum of
        their squares is the variance of log t, and the sum of their products at two places is the covariance.
        """
        powers = _powers(tokens)
        # Wild cells may leave a free curve without a logarithm: near 0 its uncertainty has no bound, so nothing is sure there.
        seconds = np.maximum(powers @ np.array(self.free), _EXACT * min(self.seconds))
        root = max(self.spread, _EXACT) * np.linalg.cholesky(self._inverse)
        return np.log(seconds), powers @ root / seconds[..., None]

    def doubts(self) -> list[str]:
        """Why the curve says less than it seems to."""
        found = []
        growth = self.tokens[-1] / self.tokens[0]
        if growth < SHORT_RANGE:
            found.append(
                f"the range is too short: N grows {growth:.3g} times, and under {SHORT_RANGE:g} times linear and quadratic "
                "work are hard to tell apart"
            )
        share = self.coefficients[0] / self(self.tokens[-1])
        if share > _OVERHEAD:
            found.append(f"overhead still dominates: it is {100 * share:.0f} % of the time at the largest N")
        return found

    def _about(self, middle: float, gradient: np.ndarray, point: float) -> Interval:
        """The interval about a middle; it holds the point that is reported, too."""
        half = float(_student(self.freedom) * self._error(gradient))
        return Interval(min(middle - half, point), max(middle + half, point))

    def _error(self, gradient: np.ndarray) -> np.ndarray:
        """Standard error of what has these gradients (..., 3) by the coefficients."""
        variance = np.einsum("...i,ij,...j->...", gradient, self._inverse, gradient)
        return np.asarray(self.spread * np.sqrt(np.maximum(variance, 0)))

    @cached_property
    def _inverse(self) -> np.ndarray:
        """The coefficients' covariance by spread²."""
        design = _powers(np.array(self.tokens)) * np.array(self.weights)[:, None]
        scale = design.max(axis=0)
        design = design / scale
        return np.linalg.inv(design.T @ design) / np.outer(scale, scale)


def fit(tokens: Sequence[float], seconds: Sequence[float]) -> Curve | None:
    """The curve through cells in ascending order of tokens; None for fewer than `LEAST_CELLS`."""
    if len(tokens) < LEAST_CELLS:
        return None
    powers, measured = _powers(np.array(tokens, dtype=float)), np.array(seconds, dtype=float)
    weights = 1 / measured
    free, _ = _least_squares(powers, measured, weights)
    # Errors relative to the measured times give too much weight to cells that happen to be fast, which draws the curve down
    # by about twice the square of a cell's error. So they are relative to a first curve, wherever it is near the cell.
    weights = 1 / np.clip(powers @ free, measured / 2, measured * 2)
    free, left = _least_squares(powers, measured, weights)
    scale = (powers * weights[:, None]).max(axis=0)
    from scipy import optimize  # here: who asks for an exponent alone need not wait for it

    coefficients, _ = optimize.nnls(powers * weights[:, None] / scale, measured * weights)
    # The spread is that of the curve without the constraint: a coefficient that is held at 0 is no freedom gained.
    freedom = len(tokens) - 3
    spread = math.sqrt(float(np.sum(left**2)) / freedom)
    a, b, c = (float(x) for x in coefficients / scale)
    unbound = (float(free[0]), float(free[1]), float(free[2]))
    return Curve(tuple(tokens), tuple(seconds), (a, b, c), unbound, spread, freedom, tuple(float(w) for w in weights))


def _least_squares(powers: np.ndarray, seconds: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients without a constraint, and the weighted errors that they leave."""
    design = powers * weights[:, None]
    scale = design.max(axis=0)
    found, *_ = np.linalg.lstsq(design / scale, seconds * weights, rcond=None)
    return found / scale, design @ (found / scale) - seconds * weights


def local_exponents(tokens: Sequence[float], values: Sequence[float]) -> list[float]:
    """d log value / d log tokens between neighbours: one number fewer than points. Tokens must ascend."""
    return [math.log(values[i + 1] / values[i]) / math.log(tokens[i + 1] / tokens[i]) for i in range(len(tokens) - 1)]


def exact_exponents(tokens: Sequence[float], counts: Sequence[float]) -> list[float]:
    """d log count / d log tokens at each point, of numbers without error.

    Where a quadratic passes through all points, as through MACs, it is that quadratic's; else, or from two points, that of
    the chords beside each point.
    """
    n, values = np.array(tokens, dtype=float), np.array(counts, dtype=float)
    if len(n) > 2:
        x = n / n[-1]
        coefficients = np.polynomial.polynomial.polyfit(x, values, 2)
        smooth = np.polynomial.polynomial.polyval(x, coefficients)
        if np.allclose(smooth, values, rtol=1e-9):
            return [float(e) for e in (coefficients[1] * x + 2 * coefficients[2] * x**2) / smooth]
    return [float(e) for e in np.gradient(np.log(values), np.log(n))] if len(n) > 1 else []


def rounds_interval(medians: Sequence[float]) -> Interval | None:
    """Of a cell's time, from the medians of rounds that were measured apart; None for fewer than three rounds."""
    if len(medians) < 3:
        return None
    logs = np.log(medians)
    half = float(_student(len(logs) - 1)) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    low, high = math.exp(logs.mean() - half), math.exp(logs.mean() + half)
    median = float(np.median(medians))  # what is reported: in many rounds it may lie outside the interval of the mean
    return Interval(min(low, median), max(high, median))


@dataclass(frozen=True)
class Crossover:
    """The number of tokens from which a mixer is faster than the baseline at every later place, as far as was measured.

    Attributes:
        verdict: "always" (faster at every place: the crossover lies below the measured range), "none" (not faster at the
            last place: it lies beyond), or "at".
        tokens: the crossover where the verdict is "at", interpolated.
        interval: 95% interval of the crossover; None for fewer than `LEAST_CELLS` cells. ``low`` is the last place where
            the mixer is surely slower, 0 where it is surely slower nowhere: the crossover may then lie below the measured
            range. ``high`` is the place from which the mixer is surely faster at every later one, infinite where it is not
            surely faster at the last place: the crossover may then lie beyond the range.
    """

    verdict: Literal["at", "always", "none"]
    tokens: float | None = None
    interval: Interval | None = None

    @property
    def slower_until(self) -> float | None:
        """The last number of tokens at which the mixer is surely slower; None if there is none, or no interval."""
        return self.interval.low if self.interval is not None and self.interval.low > 0 else None

    @property
    def faster_since(self) -> float | None:
        """The tokens from which the mixer is surely faster at every later place; None if there are none, or no interval."""
        return self.interval.high if self.interval is not None and self.interval.high < math.inf else None


def crossover(tokens: Sequence[float], mixer: Sequence[float], baseline: Sequence[float]) -> Crossover:
    """The least number of tokens from which ``mixer`` takes less time than ``baseline`` at every later place.

    With `LEAST_CELLS` cells or more, by the curves through them, and with an interval; else the logarithm of the ratio is
    taken to be linear in log tokens between two cells. The errors of the two mixers' cells are taken to be independent;
    where rounds make both slower alike, the interval is wider than it need be.

    Args:
        tokens: of each cell, ascending.
        mixer: seconds per image of each cell.
        baseline: the same of what the mixer is compared with.
    """
    ours, theirs = fit(tokens, mixer), fit(tokens, baseline)
    if ours is None or theirs is None:
        return interpolated_crossover(tokens, [math.log(m / b) for m, b in zip(mixer, baseline, strict=True)])
    places = np.union1d(np.geomspace(tokens[0], tokens[-1], _PLACES), tokens)
    found = interpolated_crossover(places.tolist(), np.log(ours.seconds_at(places) / theirs.seconds_at(places)).tolist())
    low, high = _sure_ends(ours, theirs, places)
    # As every interval here, it holds the point that is reported, which comes of curves without negative coefficients.
    point = {"always": 0.0, "none": math.inf}.get(found.verdict, found.tokens or 0.0)
    return Crossover(found.verdict, found.tokens, Interval(min(low, point), max(high, point)))


def faster_from(
    tokens: Sequence[float], mixer: Sequence[float], baseline: Sequence[float], n: float
) -> Literal["supported", "contradicted", "undecidable"]:
    """What the cells say to "from ``n`` tokens on, ``mixer`` takes less time than ``baseline``".

    "contradicted": the mixer is surely slower at n or at a later place. "supported": it is surely faster at every place
    from n to the last. Each is false in at most 2.5 % of cases. Undecidable are also an n outside the measured range and
    a claim about fewer than `LEAST_CELLS` cells. The arguments are those of `crossover`.
    """
    found = crossover(tokens, mixer, baseline)
    if not tokens[0] <= n <= tokens[-1]:
        return "undecidable"
    if found.slower_until is not None and found.slower_until >= n:
        return "contradicted"
    return "supported" if found.faster_since is not None and found.faster_since <= n else "undecidable"


def _sure_ends(ours: Curve, theirs: Curve, places: np.ndarray) -> tuple[float, float]:
    """The last place where ours is surely slower (0: none), and that from which it is surely faster (infinite: none)."""
    (our_log, our_errors), (their_log, their_errors) = ours.log_time(places), theirs.log_time(places)
    mine, other = (our_errors**2).sum(axis=-1), (their_errors**2).sum(axis=-1)
    error = np.sqrt(mine + other)
    freedom = (mine + other) ** 2 / (mine**2 / ours.freedom + other**2 / theirs.freedom)  # Welch
    t, direction = (our_log - their_log) / error, np.concatenate([our_errors, their_errors], axis=-1) / error[:, None]
    until, since = sure_ends(t, freedom, direction, _END_LEVEL)
    return 0.0 if until is None else float(places[until]), math.inf if since is None else float(places[since])


def interpolated_crossover(tokens: Sequence[float], ratio: Sequence[float]) -> Crossover:
    """From the logarithms of mixer over baseline: negative where the mixer is faster."""
    slower = [i for i, r in enumerate(ratio) if r >= 0]
    if not slower:
        return Crossover("always")
    last = slower[-1]
    if last == len(ratio) - 1:
        return Crossover("none")
    share = ratio[last] / (ratio[last] - ratio[last + 1])
    low, high = math.log(tokens[last]), math.log(tokens[last + 1])
    return Crossover("at", math.exp(low + share * (high - low)))


def _slope(coefficients: tuple[float, float, float], n: float) -> float:
    """d log t / d log N of a curve."""
    a, b, c = coefficients
    return (b * n + 2 * c * n * n) / (a + b * n + c * n * n)


def _powers(tokens: np.ndarray) -> np.ndarray:
    """1, N and N², in a last dimension of their own."""
    return np.stack([np.ones_like(tokens, dtype=float), tokens, tokens.astype(float) ** 2], axis=-1)


def _student(freedom: float | np.ndarray) -> np.ndarray:
    from scipy import stats

    return np.asarray(stats.t.ppf((1 + _LEVEL) / 2, freedom))
