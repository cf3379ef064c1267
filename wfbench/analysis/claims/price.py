"""What it would take to answer a claim that is undecidable so far: seeds and their cost, or other cells of a profile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wfbench.analysis.claims.runs import Runs
from wfbench.analysis.claims.schema import AccuracyClaim, Best, Better, DifferenceClaim, Within
from wfbench.analysis.paired import Difference
from wfbench.analysis.seeds_needed import SeedsNeeded, seeds_for_best, seeds_for_better, seeds_for_within
from wfbench.analysis.sequential import Looks
from wfbench.records import CrossoverRow, FitRow, ProfileRow

#: What would narrow the interval of a profile, or move it: sides beyond the range, more sides within it, more rounds.
Remedy = Literal["a profile", "larger sides", "smaller sides", "more sides", "more rounds"]

_FEW_SIDES = 5  # under so many degrees of freedom the quantile of t is above 2.57, and each side more narrows it


@dataclass(frozen=True)
class Price:
    """What it takes to decide a claim with a power of 80%, if some difference is the true one.

    Attributes:
        needed: how many seeds in all of each line.
        runs: how many runs more of all lines that the claim is about, of a new plan all that it has; None where no number of
            seeds is known to do. Of a number that is too few (``needed.more_than``), the runs up to that number.
        seconds: what these runs cost, by the measured training time of each line, evaluation not included.
    """

    needed: SeedsNeeded
    runs: int | None
    seconds: float | None


@dataclass(frozen=True)
class FirstLook:
    """What a claim of accuracy takes to be answered at all, where runs are missing.

    Attributes:
        seeds: of each line, at the first look.
        runs: those that are missing, of all lines that the claim is about.
        seconds: what they cost, by the measured training time of each line's runs; None where no run of the file was timed.
        untimed: the lines of which no run was timed: theirs are taken to last as long as those of the other lines do on
            average.
    """

    seeds: int
    runs: int
    seconds: float | None
    untimed: tuple[str, ...]


def first_look(claim: AccuracyClaim, seeds: Sequence[int], runs: Runs) -> FirstLook:
    """What is missing of the first look at a claim.

    Args:
        claim: the claim.
        seeds: those of the look.
        runs: the runs that count.
    """
    of_line = {line: [row.train_seconds for row in by_seed.values()] for line, by_seed in runs.by_line.items()}
    means = {line: math.fsum(known) / len(known) for line, known in of_line.items()}
    mean = math.fsum(means.values()) / len(means) if means else None
    missing = {line: len(runs.missing(line, seeds)) for line in (claim.line, *claim.others)}
    untimed = tuple(line for line, count in missing.items() if count and line not in means)
    seconds = None if mean is None else math.fsum(count * means.get(line, mean) for line, count in missing.items())
    return FirstLook(len(seeds), sum(missing.values()), seconds, untimed)


def price_if_estimate(claim: DifferenceClaim, found: Sequence[Difference], alpha: float, looks: Looks, runs: Runs) -> Price:
    """The price of an answer if the differences that were found are the true ones.

    Args:
        claim: the claim.
        found: line minus other, for each other line of the claim.
        alpha: the claim's one-sided error.
        looks: the plan.
        runs: the runs that count.
    """
    match claim:
        case Better():
            needed = seeds_for_better(found[0].mean, claim.by, found[0], alpha, looks)
        case Within():
            needed = seeds_for_within(found[0].mean, claim.margin, found[0], alpha, looks)
        case Best():
            needed = seeds_for_best([lead.mean for lead in found], found, alpha, looks)
    return price_of(claim, needed, runs)


def price_if_effect(claim: DifferenceClaim, found: Sequence[Difference], alpha: float, looks: Looks, runs: Runs) -> Price:
    """The price of an answer if the claim is true by its stated effect; of "within", if there is no difference at all.

    Arguments as in `price_if_estimate`; only the spreads of the differences are used.
    """
    match claim:
        case Better():
            needed = seeds_for_better(claim.effect, claim.by, found[0], alpha, looks)
        case Within():
            needed = seeds_for_within(0.0, claim.margin, found[0], alpha, looks)
        case Best():
            needed = seeds_for_best([claim.effect] * len(found), found, alpha, looks)
    return price_of(claim, needed, runs)


def price_of(claim: AccuracyClaim, needed: SeedsNeeded, runs: Runs) -> Price:
    """What so many seeds cost of the lines of a claim: the runs that are missing, or all of a new plan, whose seeds are new."""
    count = needed.seeds or needed.more_than
    if count is None:
        return Price(needed, None, None)
    lines = (claim.line, *claim.others)
    more = [count if needed.is_new_plan else len(runs.missing(line, runs.planned[:count])) for line in lines]
    of_line = [[row.train_seconds for row in runs.by_line[line].values()] for line in lines]
    seconds = math.fsum(n * math.fsum(known) / len(known) for n, known in zip(more, of_line, strict=True))
    return Price(needed, sum(more), seconds)


def exponent_remedies(row: FitRow, cells: Sequence[ProfileRow]) -> tuple[Remedy, ...]:
    """What would decide a claim about an exponent: from the curve's doubts, its sides and the noise of its cells.

    Args:
        row: the curve.
        cells: those that it goes through.
    """
    remedies: list[Remedy] = ["larger sides"] if row.doubts else []
    if row.freedom < _FEW_SIDES:
        remedies.append("more sides")
    if _noise(cells) > row.spread / 2:
        remedies.append("more rounds")
    return tuple(remedies) or ("more sides",)


def crossover_remedies(row: CrossoverRow, side: int) -> tuple[Remedy, ...]:
    """What would decide a claim that a line is faster from a side on: sides beyond the range, or a narrower interval."""
    if not row.smallest_side <= side <= row.largest_side:
        return ("larger sides",) if side > row.largest_side else ("smaller sides",)
    if not row.interval:
        return ("more sides",)
    beyond: tuple[Remedy, ...] = ("larger sides",) if row.side_high is None else ()
    return (*beyond, "more sides", "more rounds")


def _noise(cells: Sequence[ProfileRow]) -> float:
    """The typical half-width, as a share of the time, of the cells' 95% intervals over rounds; 0 where none has one."""
    shares = [
        (cell.median_high - cell.median_low) / (2 * cell.median)
        for cell in cells
        if cell.median and cell.median_low is not None and cell.median_high is not None
    ]
    return sorted(shares)[len(shares) // 2] if shares else 0.0
