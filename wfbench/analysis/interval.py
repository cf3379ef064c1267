"""An uncertain number: an estimate with its confidence interval, or with the reason why it has none."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: The level of every interval that names no other.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in the unit of the estimate.

    Attributes:
        estimate: the number.
        low: lower end; -inf where there is none; None without an interval.
        high: upper end; inf where there is none; None without an interval.
        level: the probability that the interval holds the truth.
        why_none: why there is no interval; "" where there is one.

    Raises:
        ValueError: for one end alone, ends in the wrong order, or neither an interval nor a reason.
    """

    estimate: float
    low: float | None = None
    high: float | None = None
    level: float = LEVEL
    why_none: str = ""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval has two ends or none, not {self.low} and {self.high}")
        if (self.low is None) != bool(self.why_none):
            raise ValueError("a number has an interval, or says why it has none")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the ends of an interval are in order, not {self.low} and {self.high}")

    @classmethod
    def around(cls, estimate: float, half_width: float, level: float = LEVEL) -> Interval:
        """The interval estimate ± half_width."""
        return cls(estimate, estimate - half_width, estimate + half_width, level)

    def divided_by(self, count: float) -> Interval:
        """The same of a part, such as of one image of a batch; the count is exact and above 0."""
        low, high = (None if end is None else end / count for end in (self.low, self.high))
        return Interval(self.estimate / count, low, high, self.level, self.why_none)

    @property
    def half_width(self) -> float | None:
        """Half the interval's width; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def is_known(self) -> bool:
        """Whether there is an interval with two finite ends."""
        return self.low is not None and self.high is not None and math.isfinite(self.low) and math.isfinite(self.high)
