"""Answers to claims of what a line can do in a probe, from the runs of a sweep.

Capacities and ratios are decided on their log2, accuracies in per cent, by one-sided t-bounds over the seeds; ratios seed by
seed. A seed whose capacity is only a bound counts as the bound where that is against the verdict, and where it would be for it,
there is none: "at least 64" is 64 to a claim of at least, and endless to one of at most. A seed that is under 90 % at the
smallest number asked was not trained to do the task at all: that is no capacity, and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wfbench.analysis.capability import Crossing, Crossings, accuracy_at, capacity, hops, steps_to_passed
from wfbench.analysis.claims.answer import PER_CENT, Answer, Verdict, within_per_cent
from wfbench.analysis.claims.price import Price, price_of
from wfbench.analysis.claims.runs import Runs
from wfbench.analysis.claims.schema import Capability
from wfbench.analysis.paired import Difference, one_sided_power, paired_difference
from wfbench.analysis.seeds_needed import AT_THRESHOLD, SeedsNeeded, seeds_for_better, seeds_for_share
from wfbench.analysis.sequential import Looks, decide_better
from wfbench.records import ProbeRow

_ROUNDING = 1e-9  # of means of equal numbers
#: Why no number of seeds gives a capacity to what has none.
UNTRAINED = "what was not trained has no capacity, and longer training may give it one"
#: Why none gives one to what cannot see what it is asked for.
BLIND = "no layer reaches what is asked for, so neither seeds nor training give it a capacity"
#: Why none decides where some seeds are known by a bound alone.
BOUNDED = "a seed has only a bound, on the wrong side: harder or easier levels may decide it, more seeds do not"


@dataclass(frozen=True)
class _Values:
    """A claim's values by seed, turned so that it holds above a number.

    Attributes:
        low: what each is at least; -inf where nothing is known.
        high: what each is at most; inf where nothing is known.
        by: the number.
        error: the standard error over canvases, which counts beside that over seeds; 0 where there is none.
        are_counted: whether they are few whole numbers, which seeds that are alike have in common.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    by: float
    error: float
    are_counted: bool = False

    @property
    def are_exact(self) -> bool:
        """Whether no seed has only a bound."""
        return self.low == self.high

    def difference(self, values: Sequence[float]) -> Difference | None:
        """Their mean and its spread; None where nothing is known of some seed."""
        if not all(map(math.isfinite, values)):
            return None
        return paired_difference(values, [0.0] * len(values), sample_error=self.error)


def answer_capability(claim: Capability, runs: Runs, seeds: Sequence[int], alpha: float, looks: Looks) -> Answer:
    """The answer to a claim at a look.

    Args:
        claim: the claim.
        runs: those that count; the claim's lines have all the seeds.
        seeds: of this look.
        alpha: the error that the claim may have in all.
        looks: the plan.
    """
    rows = runs.of_lines((claim.line, *claim.others))
    probes = {row.probe if isinstance(row, ProbeRow) else row.dataset for row in rows}
    if probes != {claim.probe}:
        return Answer("undecidable", f"the runs are of {', '.join(sorted(probes))}, not of the probe {claim.probe}", rows=rows)
    if claim.statistic == "solved":
        return _answer_solved(claim, runs, seeds, alpha, looks)
    if lacks := untrained(claim, runs, seeds):
        is_blind = any(isinstance(row, ProbeRow) and row.is_blind for row in rows)
        price = Price(SeedsNeeded(why_none=BLIND if is_blind else UNTRAINED), None, None)
        return Answer(
            "undecidable",
            f"{lacks}; {BLIND}" if is_blind else f"{lacks}; longer training may decide it, more seeds do not",
            seeds=len(seeds),
            is_paired=True,
            if_estimate=price,
            if_effect=price,
            crossings=_crossings(claim, runs, seeds),
            rows=rows,
        )
    values = _values(claim, runs, seeds)
    if isinstance(values, str):
        return Answer("undecidable", values, rows=rows)
    level, needs = looks.level(alpha, looks.index(len(seeds))), _distance(claim)
    verdict, (estimate, low, high) = _decide(values, alpha, looks)
    least = values.difference(values.low)
    why = least.why_none if least is not None and values.are_exact and verdict == "undecidable" else ""
    needed = []
    if verdict == "undecidable":
        needed = [_seeds_needed(claim, values, true, alpha, looks) for true in (_estimate(values), values.by + needs)]
    prices = [price_of(claim, one, runs) for one in needed]
    return Answer(
        verdict,
        f"{why}, so nothing says how sure it is" if why else "",
        *_in_units(claim, estimate, low, high),
        power=one_sided_power(needs, least, level) if least is not None and not least.why_none else None,
        seeds=len(seeds),
        is_paired=True,
        if_estimate=prices[0] if prices else None,
        if_effect=prices[1] if prices else None,
        crossings=_crossings(claim, runs, seeds),
        rows=rows,
    )


def _estimate(values: _Values) -> float | None:
    """The mean that is supposed to be the true one; None where bounds leave open on which side of the threshold it lies."""
    least, most = values.difference(values.low), values.difference(values.high)
    if least is not None and (least.mean > values.by or values.are_exact):
        return least.mean
    return most.mean if most is not None and most.mean < values.by else None


def _seeds_needed(claim: Capability, values: _Values, true: float | None, alpha: float, looks: Looks) -> SeedsNeeded:
    """How many seeds decide if the mean is the true one: of what is known at least if it would hold, else at most."""
    found = None if true is None else values.difference(values.low if true >= values.by else values.high)
    if true is None or found is None:
        return SeedsNeeded(why_none=BOUNDED)
    if true == values.by and not found.why_none:
        return SeedsNeeded(why_none=AT_THRESHOLD.format(claim.threshold))
    return seeds_for_better(true, values.by, found, alpha, looks)


def is_hopeless(claim: Capability, runs: Runs, seeds: Sequence[int]) -> bool:
    """Whether no further seed decides: seeds of a look were not trained, or have bounds that exclude either verdict."""
    if untrained(claim, runs, seeds):
        return True
    if claim.statistic == "solved":
        return False
    values = _values(claim, runs, seeds)
    return not isinstance(values, str) and values.difference(values.low) is None and values.difference(values.high) is None


def untrained(claim: Capability, runs: Runs, seeds: Sequence[int]) -> str:
    """Which seeds of a claim's lines are under 90 % at the smallest number asked, so that they have no capacity; "" for none.

    Args:
        claim: the claim; one about an accuracy, or the seeds that solve a probe, asks for no capacity.
        runs: those that count; the claim's lines have all the seeds.
        seeds: of a look.
    """
    if claim.statistic not in ("capacity", "n90", "reach", "hops"):
        return ""
    parts = []
    for line, found in _crossings(claim, runs, seeds).items():
        failed = {seed: one.value for seed, one in found.by_seed.items() if one.censored == "below"}
        if failed:
            smallest = f"{min(failed.values()):g}, the smallest number asked"
            parts.append(f"{line} is under 90 % at {smallest}, with seed {', '.join(map(str, failed))}")
    return f"not trained: {'; '.join(parts)}" if parts else ""


def _decide(values: _Values, alpha: float, looks: Looks) -> tuple[Verdict, tuple[float | None, float | None, float | None]]:
    """The verdict, and estimate and bounds of what has no bounds instead of numbers.

    Where all seeds have one bound, it decides by itself: it has no spread. So does one whole number.
    """
    nothing = (None, None, None)
    if values.are_exact:
        found = values.difference(values.low)
        assert found is not None
        if values.are_counted and found.why_none:
            return "supported" if found.mean >= values.by - _ROUNDING else "contradicted", (found.mean, None, None)
        decision = decide_better(found, values.by, alpha, looks)
        return decision.verdict, (decision.interval.estimate, decision.interval.low, decision.interval.high)
    least, most = values.difference(values.low), values.difference(values.high)
    if least is not None:
        is_surely = least.mean >= values.by - _ROUNDING if least.why_none else False
        if is_surely or decide_better(least, values.by, alpha, looks).verdict == "supported":
            return "supported", nothing
    if most is not None:
        is_never = most.mean < values.by - _ROUNDING if most.why_none else False
        if is_never or decide_better(most, values.by, alpha, looks).verdict == "contradicted":
            return "contradicted", nothing
    return "undecidable", nothing


def _values(claim: Capability, runs: Runs, seeds: Sequence[int]) -> _Values | str:
    """The claim's values; or why there are none."""
    ends: list[tuple[float, float]] = []
    errors = []
    for seed in seeds:
        found = [_value(claim, runs.by_line[line][seed]) for line in (claim.line, *claim.others)]
        missing = next((one for one in found if isinstance(one, str)), None)
        if missing is not None:
            return missing
        own, *others = [one for one in found if not isinstance(one, str)]
        low, high = own[0] - sum(other[1] for other in others), own[1] - sum(other[0] for other in others)
        ends.append((low, high) if claim.is_lower else (-high, -low))
        errors.append(own[2] ** 2 + sum(other[2] ** 2 for other in others))
    by = math.log2(claim.threshold) if claim.is_factor else claim.threshold
    error = math.sqrt(math.fsum(errors) / len(errors))
    return _Values(
        tuple(end[0] for end in ends),
        tuple(end[1] for end in ends),
        by if claim.is_lower else -by,
        error,
        are_counted=claim.statistic in ("hops", "steps"),
    )


def _value(claim: Capability, row: object) -> tuple[float, float, float] | str:
    """What a run's value is at least and at most, and its error over canvases; or why it has none."""
    assert isinstance(row, ProbeRow)
    steps = _steps(claim, row)
    if claim.statistic == "accuracy":
        found = accuracy_at(row, claim.level, steps, grid=claim.grid, distance=claim.distance)
        if found is None:
            return f"no evaluation of {row.mixer} with seed {row.seed} after {steps:,} steps{_where(claim)}"
        value, error = found
        if not claim.is_factor:
            return PER_CENT * value, PER_CENT * value, PER_CENT * error
        value = max(value, error)  # that of no right answer has a logarithm too
        return math.log2(value), math.log2(value), error / value / math.log(2)
    crossing = _crossing(claim, row)
    if crossing is None:
        return f"no evaluation of {row.mixer} with seed {row.seed} after {steps:,} steps"
    return -math.inf if not crossing.low else math.log2(crossing.low), math.log2(crossing.high), 0.0


def _where(claim: Capability) -> str:
    """At which of the probe's questions an accuracy is."""
    if claim.distance is not None:
        return f" at a distance of {claim.distance}"
    if claim.grid is not None:
        return f" on {claim.grid[0]}×{claim.grid[1]} tokens"
    return "" if claim.level is None else f" at level {claim.level:g}"


def _crossing(claim: Capability, row: ProbeRow) -> Crossing | None:
    """What a run reaches with 90 %; None where it was not evaluated then."""
    match claim.statistic:
        case "hops":
            return hops(row, _steps(claim, row))
        case "steps":
            return steps_to_passed(row)
        case _:
            return capacity(row, _steps(claim, row))


def _steps(claim: Capability, row: ProbeRow) -> int:
    return row.curve[-1].step if claim.budget is None else claim.budget


def _crossings(claim: Capability, runs: Runs, seeds: Sequence[int]) -> dict[str, Crossings]:
    """The lines' capacities, where that is the claim's statistic."""
    if claim.statistic == "accuracy":
        return {}
    found = {}
    for line in (claim.line, *claim.others):
        rows = [row for seed in seeds if isinstance(row := runs.by_line[line][seed], ProbeRow)]
        by_seed = {row.seed: crossing for row in rows if (crossing := _crossing(claim, row)) is not None}
        found[line] = Crossings.of(by_seed)
    return found


def _distance(claim: Capability) -> float:
    """The effect on the scale of the values."""
    return math.log2(claim.beyond) if claim.is_factor else claim.beyond


def _in_units(
    claim: Capability, estimate: float | None, low: float | None, high: float | None
) -> tuple[float | None, float | None, float | None]:
    """Estimate and bounds in the claim's unit."""
    found = (estimate, low, high)
    if not claim.is_lower:
        negative = [None if value is None else 0.0 - value for value in found]  # -0.0 would be shown
        found = (negative[0], negative[2], negative[1])
    if not claim.is_factor:
        return found[0], *within_per_cent(found[1], found[2], -PER_CENT if claim.others else 0.0)
    a, b, c = (None if value is None else 2**value for value in found)
    return a, b, c


def _answer_solved(claim: Capability, runs: Runs, seeds: Sequence[int], alpha: float, looks: Looks) -> Answer:
    """By exact binomial bounds (Clopper and Pearson); each look has its own part of the error."""
    from scipy.stats import beta

    rows = [row for seed in seeds if isinstance(row := runs.by_line[claim.line][seed], ProbeRow)]
    count, solved, bar, look = (
        len(rows),
        sum(row.is_solved for row in rows),
        claim.threshold / PER_CENT,
        looks.index(len(seeds)),
    )
    level = looks.own_part(alpha, look)
    low = float(beta.ppf(level, solved, count - solved + 1)) if solved else 0.0
    high = float(beta.isf(level, solved + 1, count - solved)) if solved < count else 1.0
    holds, fails = (low > bar, high < bar) if claim.is_lower else (high < bar, low > bar)
    verdict: Verdict = "supported" if holds else "contradicted" if fails else "undecidable"
    shares = (solved / count, 1.0 if claim.is_lower else 0.0)
    needed = []
    if verdict == "undecidable":
        needed = [
            SeedsNeeded(why_none=AT_THRESHOLD.format(claim.threshold))
            if true == bar
            else seeds_for_share(true, bar, alpha, looks, have=count)
            for true in shares
        ]
    prices = [price_of(claim, one, runs) for one in needed]
    return Answer(
        verdict,
        "",
        PER_CENT * solved / count,
        PER_CENT * low,
        PER_CENT * high,
        seeds=count,
        is_paired=True,
        if_estimate=prices[0] if prices else None,
        if_effect=prices[1] if prices else None,
        rows=tuple(rows),
    )
