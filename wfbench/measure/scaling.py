"""What a row of latencies says about scaling: local exponents, and where one mixer overtakes another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Crossover:
    """Where a mixer becomes faster than the baseline, for good as far as was measured.

    ``verdict``: "always" (at every point), "none" (not at the last point), or "at", with ``tokens`` interpolated.
    """

    verdict: Literal["at", "always", "none"]
    tokens: float | None = None


def local_exponents(tokens: Sequence[float], values: Sequence[float]) -> list[float]:
    """d log value / d log tokens between neighbours: one number fewer than points. Tokens must ascend."""
    return [math.log(values[i + 1] / values[i]) / math.log(tokens[i + 1] / tokens[i]) for i in range(len(tokens) - 1)]


def crossover(tokens: Sequence[float], mixer: Sequence[float], baseline: Sequence[float]) -> Crossover:
    """The least number of tokens from which ``mixer`` takes less time than ``baseline`` at every later point.

    Between two points the logarithm of the ratio is taken to be linear in log tokens. Tokens must ascend.
    """
    ratio = [math.log(m / b) for m, b in zip(mixer, baseline, strict=True)]  # negative: faster
    slower = [i for i, r in enumerate(ratio) if r >= 0]
    if not slower:
        return Crossover("always")
    last = slower[-1]
    if last == len(ratio) - 1:
        return Crossover("none")
    share = ratio[last] / (ratio[last] - ratio[last + 1])
    low, high = math.log(tokens[last]), math.log(tokens[last + 1])
    return Crossover("at", math.exp(low + share * (high - low)))
