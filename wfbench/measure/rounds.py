"""What rounds say: a mean with its interval, and the ratio of two things that were measured in the same rounds.

Times are compared as ratios, so all of it is done on logarithms. Within a round two cells run one soon after the other: what
slows the machine for a while slows both, and leaves their ratio alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Fewer rounds have no interval: with two of them it would span orders of magnitude.
LEAST_ROUNDS = 3
#: The relative half-width that a ratio should be known to; a wider one is named where it is shown.
GOAL = 0.10
_LEVEL = 0.95


@dataclass(frozen=True)
class RoundsEstimate:
    """A geometric mean over rounds, with its 95% interval.

    Attributes:
        estimate: the geometric mean, in the unit of what was measured.
        low, high: ends of the interval.
        rounds: how many rounds stand behind it.
    """

    estimate: float
    low: float
    high: float
    rounds: int

    @property
    def relative_half_width(self) -> float:
        """Half the interval's width as a share of the estimate, √(high / low) − 1: 0.1 is "known to 10 %"."""
        return math.sqrt(self.high / self.low) - 1


def rounds_mean(values: Sequence[float]) -> RoundsEstimate | None:
    """exp(m ± t(0.975, n − 1) s / √n), for the mean m and the standard deviation s of the logarithms of n rounds.

    Args:
        values: one positive number for each round.

    Returns:
        None for fewer than `LEAST_ROUNDS`.
    """
    if len(values) < LEAST_ROUNDS:
        return None
    logs = np.log(np.asarray(values, dtype=float))
    mean, half = float(logs.mean()), relative_error(float(logs.std(ddof=1)), len(logs))
    return RoundsEstimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> RoundsEstimate | None:
    """theirs / ours, round by round: how many times as fast ours is, for times of the same rounds in the same order.

    The logarithms of the ratios are a sample of their own; their mean has Student's t-interval,
    exp(mean ± t(0.975, n − 1) s / √n). What a round does to both cancels. Only the ratios of a pair have to be independent from
    round to round, and about normal in their logarithm.

    Args:
        ours, theirs: seconds (or rates, upside down) of each round; `common_rounds` aligns two cells that differ in rounds.

    Returns:
        None for fewer than `LEAST_ROUNDS`.

    Raises:
        ValueError: if they differ in length.
    """
    return rounds_mean([their / our for our, their in zip(ours, theirs, strict=True)])


def common_rounds(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """The values of the rounds that both have, by the number of the round, in the same order."""
    both = sorted(ours.keys() & theirs.keys())
    return [ours[number] for number in both], [theirs[number] for number in both]


def relative_error(deviation: float, rounds: int) -> float:
    """Half-width of the 95% interval of a mean of logarithms, t(0.975, n − 1) s / √n; exp of it, less 1, is a share.

    Args:
        deviation: standard deviation of the logarithms from round to round.
        rounds: how many.
    """
    from scipy import stats  # half a second to import, and every process that measures imports this file

    return float(stats.t.ppf((1 + _LEVEL) / 2, rounds - 1)) * deviation / math.sqrt(rounds)
