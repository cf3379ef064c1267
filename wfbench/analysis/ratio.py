"""How many times faster than the baseline a cell is: paired by round, with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wfbench.analysis.cells import Profile
from wfbench.analysis.interval import Interval
from wfbench.measure.rounds import GOAL, LEAST_ROUNDS, RoundsEstimate, common_rounds, paired_ratio, relative_error
from wfbench.records import ProfileRow

_MOST_ROUNDS = 100_000  # more are never named


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster than the baseline's fastest cell at the same resolution a cell is.

    Attributes:
        ratio: the baseline's time divided by the cell's, both as tables show them: medians over rounds. The interval is that
            of the mean logarithm of the ratios round by round, or why there is none.
        rounds: so many rounds both cells have.
        rounds_needed: so many rounds in all would make it known to about ``goal``, if they spread as these do; None without an
            interval.
        is_baseline: whether the cell is the baseline's own, whose ratio is 1.
        goal: how well it was to be known, relative: 0.1 where nobody asked for another precision.
    """

    ratio: Interval
    rounds: int
    rounds_needed: int | None
    is_baseline: bool = False
    goal: float = GOAL

    @property
    def is_uncertain(self) -> bool:
        """Whether there is an interval, and it is wider than about the goal to each side."""
        return self.rounds_needed is not None and self.rounds_needed > self.rounds


def speed_up(profile: Profile, row: ProfileRow, goal: float = GOAL) -> SpeedUp | None:
    """The speed-up of a cell; None if it or the baseline failed.

    Where batches differ, times are for one image. ``goal`` is how well it was to be known, relative.
    """
    baseline, ours = profile.baseline(row.resolution), profile.seconds(row)
    theirs = None if baseline is None else profile.seconds(baseline)
    if baseline is None or not ours or not theirs:
        return None
    if baseline is row:
        return SpeedUp(Interval(1.0, why_none="it is the baseline"), len(row.round_medians), None, is_baseline=True)
    pairs = common_rounds(rounds_of(row), rounds_of(baseline))
    rounds, found = len(pairs[0]), paired_ratio(*pairs)
    if found is None:
        return SpeedUp(Interval(theirs / ours, why_none=_why_none(row, baseline, rounds)), rounds, None)
    # What is reported is the ratio of the latencies shown; it may lie outside the interval of the mean, as a median may.
    ratio = Interval(theirs / ours, min(found.low, theirs / ours), max(found.high, theirs / ours))
    return SpeedUp(ratio, rounds, rounds_needed(found, goal), goal=goal)


def rounds_of(row: ProfileRow) -> Mapping[int, float]:
    """The times of a cell by round, as a profile compares them: of one image where a token budget sets the batch."""
    images = 1 if row.token_budget is None else row.batch
    return {number: seconds / images for number, seconds in row.by_round.items()}


def _why_none(row: ProfileRow, baseline: ProfileRow, rounds: int) -> str:
    if not row.round_medians or not baseline.round_medians:
        return "recorded before rounds were kept"
    reason = row.rounds_reason or baseline.rounds_reason
    count = f"{rounds} round{'' if rounds == 1 else 's'} in common with the baseline, of at least {LEAST_ROUNDS}"
    return f"{count} ({reason})" if reason else count


def rounds_needed(found: RoundsEstimate, goal: float = GOAL) -> int:
    """The least number of rounds whose interval is within about the goal: t(0.975, n − 1) s / √n ≤ log(1 + goal).

    Args:
        found: a mean over rounds, from whose interval the deviation s of the logarithms is taken.
        goal: relative, such as 0.1.
    """
    deviation = math.log(found.high / found.estimate) / relative_error(1.0, found.rounds)
    few, many = LEAST_ROUNDS, LEAST_ROUNDS
    while relative_error(deviation, many) > math.log1p(goal) and many < _MOST_ROUNDS:
        few, many = many, 2 * many
    while many - few > 1:  # between them, since the error falls with every round
        middle = (few + many) // 2
        few, many = (few, middle) if relative_error(deviation, middle) <= math.log1p(goal) else (middle, many)
    return many
