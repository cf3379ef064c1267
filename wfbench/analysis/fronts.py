"""Accuracy against cost: where each line stands when neither is known exactly."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from wfbench.analysis.interval import LEVEL
from wfbench.analysis.unpaired import as_sample
from wfbench.errors import InputError

Place = Literal["on the front", "dominated", "undecided"]


def pareto(values: Sequence[Sequence[float]], cost_low: Sequence[float], cost_high: Sequence[float]) -> list[Place]:
    """Where each group stands among all, when more value and less cost are better and neither is known exactly.

    A value is surely better if Tukey and Kramer's simultaneous 95% interval of the difference says so, a cost surely not
    larger if the intervals [low, high] do not overlap (or are one and the same point). "dominated": another group is surely
    better and surely not dearer. "on the front": every other group is surely worse or surely dearer. "undecided": the rest.

    Args:
        values: one sample per group, two values or more in each.
        cost_low: the low ends of the costs' intervals; equal to the high ends for a cost that is counted.
        cost_high: the high ends.

    Raises:
        InputError: for samples that cannot be compared, or other lengths.

    Source: Tukey (1953), Kramer, Biometrics 12 (1956) 307, by `scipy.stats.studentized_range`.
    """
    samples = [as_sample(group) for group in values]
    if not len(samples) == len(cost_low) == len(cost_high):
        raise InputError("not a cost for each group", got=f"{len(samples)}, {len(cost_low)}, {len(cost_high)}")
    count = len(samples)
    if count == 1:
        return ["on the front"]
    freedom = sum(map(len, samples)) - count
    variance = math.fsum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / freedom
    q = _tukey_critical(count, freedom)
    mean, size = np.array([sample.mean() for sample in samples]), np.array([len(sample) for sample in samples])
    need = q * np.sqrt(variance / 2 * (1 / size[:, None] + 1 / size))
    better = mean[:, None] - mean > need  # [i, j]: i is surely better than j
    low, high = np.asarray(cost_low, dtype=float), np.asarray(cost_high, dtype=float)
    cheap = high[:, None] <= low  # [i, j]: i is surely not dearer than j
    dearer = low[:, None] > high  # [i, j]: i is surely dearer than j
    np.fill_diagonal(dearer, True)  # of no other, but it must not stand in its own way
    dominated, front = (better & cheap).any(axis=0), (better.T | dearer).all(axis=0)
    return ["dominated" if lost else "on the front" if won else "undecided" for lost, won in zip(dominated, front, strict=True)]


@functools.lru_cache(maxsize=64)
def _tukey_critical(count: int, freedom: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(LEVEL, count, freedom))
