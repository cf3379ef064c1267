"""Accuracy against cost: where each line stands when neither is known exactly."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from wfbench.analysis.cells import Size
from wfbench.analysis.interval import LEVEL, Interval
from wfbench.analysis.line_results import LineIdentity, LineResult, Recipe, recipe_of
from wfbench.analysis.overview import Overview
from wfbench.analysis.paired import binomial_reach
from wfbench.analysis.seeds import AccuracyResult
from wfbench.analysis.unpaired import as_sample
from wfbench.errors import InputError

Place = Literal["on the front", "dominated", "undecided"]
CostKind = Literal["macs", "parameters", "train_seconds", "latency", "memory"]
#: By how much costs that were measured once have to differ: peak memory of equal calls does by a few per cent.
TOLERANCE = 0.05


class Cost(NamedTuple):
    """What a line costs: a count of the trained model, its training time, or what a profile measured at an image size."""

    kind: CostKind
    #: Of the profile's cell; None for what the training run says itself.
    size: Size | None = None


@dataclass(frozen=True, eq=False)
class Fronts:
    """Where the lines of an accuracy result stand by each cost.

    Attributes:
        accuracy: the result.
        lines: those with several seeds and a rival, by recipe.
        places: by cost and line; a line whose cost is not known has none.
        single: the lines of a single seed, which have no place.
        is_other_model: whether measured costs are left out, since the profile may be of another model than was trained.
    """

    accuracy: AccuracyResult
    lines: tuple[LineResult, ...]
    places: Mapping[Cost, Mapping[LineIdentity, Place]]
    single: tuple[LineResult, ...]
    is_other_model: bool

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes of the lines, each once."""
        return list(dict.fromkeys(recipe_of(line.identity) for line in self.lines))


def fronts(accuracy: Sequence[AccuracyResult], overview: Overview | None) -> tuple[Fronts, ...]:
    """For each accuracy result with lines of several seeds: on the front, dominated or undecided, by each cost.

    Args:
        accuracy: the results.
        overview: the cells of the lines, whose latency and memory are costs too.
    """
    found = []
    for result in accuracy:
        several = _by_recipe([line for line in result.lines if len(line.seeds) > 1])
        families = [family for family in several if len(family) > 1]
        if not families:
            continue
        profiled = overview if overview is not None and overview.accuracy is result else None
        is_other_model = profiled is not None and not profiled.same_model
        known = _costs(result, None if is_other_model else profiled)
        places = {cost: _places(families, ends) for cost, ends in known.items()}
        single = tuple(line for line in result.lines if len(line.seeds) == 1)
        lines = tuple(line for family in families for line in family)
        found.append(Fronts(result, lines, places, single, is_other_model))
    return tuple(found)


def _by_recipe(lines: Sequence[LineResult]) -> list[list[LineResult]]:
    """The lines by recipe."""
    groups: dict[Recipe, list[LineResult]] = {}
    for line in lines:
        groups.setdefault(recipe_of(line.identity), []).append(line)
    return list(groups.values())


def _costs(result: AccuracyResult, profiled: Overview | None) -> dict[Cost, dict[LineIdentity, tuple[float, float]]]:
    """The ends of each cost's interval, by cost and line; a cost that a line lacks is left out."""
    found: dict[Cost, dict[LineIdentity, tuple[float, float]]] = {
        Cost("macs"): {line.identity: (macs, macs) for line in result.lines if (macs := line.last.macs) is not None},
        Cost("parameters"): {line.identity: (line.identity.parameters, line.identity.parameters) for line in result.lines},
        Cost("train_seconds"): {line.identity: _ends(line.train_seconds) for line in result.lines},
    }
    for line in () if profiled is None else profiled.lines:
        if (cell := line.last) is None:
            continue
        size, memory = cell.row.resolution, cell.row.memory_bytes
        if cell.latency is not None:
            found.setdefault(Cost("latency", size), {})[line.trained.identity] = _ends(cell.latency)
        if memory is not None:
            ends = _ends(Interval(memory, why_none="measured once"))
            found.setdefault(Cost("memory", size), {})[line.trained.identity] = ends
    return found


def _ends(cost: Interval) -> tuple[float, float]:
    """The ends of a measured cost's interval; without one, half the tolerance on each side."""
    if cost.low is not None and cost.high is not None:
        return cost.low, cost.high
    half = TOLERANCE / 2 * cost.estimate
    return cost.estimate - half, cost.estimate + half


def _places(
    families: Sequence[Sequence[LineResult]], costs: Mapping[LineIdentity, tuple[float, float]]
) -> dict[LineIdentity, Place]:
    """The places of the lines whose cost is known; the others might cost anything, and stand in their way."""
    found: dict[LineIdentity, Place] = {}
    for family in families:
        ends = [costs.get(line.identity, (-math.inf, math.inf)) for line in family]
        low, high = [low for low, _ in ends], [high for _, high in ends]
        places = pareto([line.accuracies for line in family], low, high, [line.identity.samples for line in family])
        known = zip(family, places, strict=True)
        found |= {line.identity: place for line, place in known if line.identity in costs}
    return found


def pareto(
    values: Sequence[Sequence[float]],
    cost_low: Sequence[float],
    cost_high: Sequence[float],
    images: Sequence[int] | None = None,
) -> list[Place]:
    """Where each group stands among all, when more value and less cost are better and neither is known exactly.

    A value is surely better if Tukey and Kramer's simultaneous 95% interval of the difference says so, a cost surely not
    larger if the intervals [low, high] do not overlap (or are one and the same point). "dominated": another group is surely
    better and surely not dearer. "on the front": every other group is surely worse or surely dearer. "undecided": the rest.

    Args:
        values: one sample per group, two values or more in each.
        cost_low: the low ends of the costs' intervals; equal to the high ends for a cost that is counted.
        cost_high: the high ends.
        images: of how many images the values of each group are shares; None where they are no shares. A difference is then
            never sure that is smaller than the binomial intervals of the two groups' images allow, however well seeds agree.

    Raises:
        InputError: for samples that cannot be compared, or other lengths.

    Source: Tukey (1953), Kramer, Biometrics 12 (1956) 307, by `scipy.stats.studentized_range`; Wilson, JASA 22 (1927) 209.
    """
    samples = [as_sample(group) for group in values]
    if not len(samples) == len(cost_low) == len(cost_high):
        raise InputError(
            "not a cost for each group",
            got=f"{len(samples)}, {len(cost_low)}, {len(cost_high)}",
            expected=f"{len(samples)} of each: one sample, one low and one high end of its cost for every group",
            remedy="give them in the order of the groups; of a cost that is counted, the same number for both ends",
        )
    count = len(samples)
    if count == 1:
        return ["on the front"]
    freedom = sum(map(len, samples)) - count
    variance = math.fsum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples) / freedom
    q = _tukey_critical(count, freedom)
    mean, size = np.array([sample.mean() for sample in samples]), np.array([len(sample) for sample in samples])
    need = q * np.sqrt(variance / 2 * (1 / size[:, None] + 1 / size))
    if images is not None:
        reach = np.array([binomial_reach(float(share), size, LEVEL) for share, size in zip(mean, images, strict=True)])
        need = np.maximum(need, np.hypot(reach[:, None], reach))
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
