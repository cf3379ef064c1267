"""Answers to claims of what a line can do in a probe, from the runs of a sweep.

Capacities and ratios are decided on their log2, accuracies in per cent, by one-sided t-bounds over the seeds; ratios seed by
seed. A seed whose capacity is only a bound counts as the bound where that is against the verdict, and where it would be for it,
there is none: "at least 64" is 64 to a claim of at least, and endless to one of at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from wfbench.analysis.capability import Crossings, accuracy_at, capacity
from wfbench.analysis.claims.answer import PER_CENT, Answer, Verdict, within_per_cent
from wfbench.analysis.claims.price import price_of_capability
from wfbench.analysis.claims.runs import Runs
from wfbench.analysis.claims.schema import Capability
from wfbench.analysis.interval import LEVEL
from wfbench.analysis.paired import Difference, one_sided_power, paired_difference
from wfbench.analysis.seeds_needed import SeedsNeeded, seeds_for_better, seeds_for_share
from wfbench.analysis.sequential import Looks, decide_better
from wfbench.records import ProbeRow

#: Half-widths of 95% intervals in standard errors, where these are of many canvases.
_WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)
_TINY = 1e-6


@dataclass(frozen=True)
class _Values:
    """A claim's values by seed, turned so that it holds above a number.

    Attributes:
        low: what each is at least; -inf where nothing is known.
        high: what each is at most; inf where nothing is known.
        by: the number.
        error: the standard error over canvases, below which that of the mean never is; 0 where there is none.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    by: float
    error: float

    @property
    def are_exact(self) -> bool:
        """Whether no seed has only a bound."""
        return self.low == self.high

    def difference(self, values: Sequence[float]) -> Difference | None:
        """Their mean and its spread; None where nothing is known of some seed."""
        if not all(map(math.isfinite, values)):
            return None
        found = paired_difference(values, [0.0] * len(values), one_image=_WIDTH * self.error)
        return replace(found, deviation=max(found.deviation, _TINY * self.error))  # canvases say how sure equal seeds are


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
    values = _values(claim, runs, seeds)
    if isinstance(values, str):
        return Answer("undecidable", values, rows=rows)
    level, needs = looks.level(alpha, looks.index(len(seeds))), _distance(claim)
    verdict, (estimate, low, high) = _decide(values, alpha, looks)
    found = values.difference(values.low) or values.difference(values.high)
    why = found.why_none if found is not None and values.are_exact else ""
    is_open, is_priced = verdict == "undecidable", found is not None and not found.why_none
    if is_priced:
        assert found is not None
        needed = [seeds_for_better(true, values.by, found, alpha) for true in (found.mean, values.by + needs)]
    else:
        reason = found.why_none if found is not None else "seeds have bounds on both sides, or on the wrong one"
        needed = [SeedsNeeded(why_none=reason)] * 2
    prices = [price_of_capability(claim, one, runs, seeds) if is_open else None for one in needed]
    return Answer(
        verdict,
        f"{why}, so nothing says how sure it is" if why else "",
        *_in_units(claim, estimate, low, high),
        power=one_sided_power(needs, found, level) if is_priced and found is not None else None,
        seeds=len(seeds),
        is_paired=True,
        if_estimate=prices[0],
        if_effect=prices[1],
        crossings=_crossings(claim, runs, seeds),
        rows=rows,
    )


def _decide(values: _Values, alpha: float, looks: Looks) -> tuple[Verdict, tuple[float | None, float | None, float | None]]:
    """The verdict, and estimate and bounds of what has no bounds instead of numbers.

    Where all seeds have one bound, it decides by itself: it has no spread.
    """
    nothing = (None, None, None)
    if values.are_exact:
        found = values.difference(values.low)
        assert found is not None
        decision = decide_better(found, values.by, alpha, looks)
        return decision.verdict, (decision.interval.estimate, decision.interval.low, decision.interval.high)
    least, most = values.difference(values.low), values.difference(values.high)
    if least is not None:
        is_surely = least.mean >= values.by if least.why_none else False
        if is_surely or decide_better(least, values.by, alpha, looks).verdict == "supported":
            return "supported", nothing
    if most is not None:
        is_never = most.mean < values.by if most.why_none else False
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
    return _Values(tuple(e[0] for e in ends), tuple(e[1] for e in ends), by if claim.is_lower else -by, error)


def _value(claim: Capability, row: object) -> tuple[float, float, float] | str:
    """What a run's value is at least and at most, and its error over canvases; or why it has none."""
    assert isinstance(row, ProbeRow)
    steps = _steps(claim, row)
    if claim.statistic == "accuracy":
        found = accuracy_at(row, claim.level, steps)
        if found is None:
            at = "" if claim.level is None else f" at level {claim.level:g}"
            return f"no evaluation of {row.mixer} with seed {row.seed} after {steps:,} steps{at}"
        value, error = found
        if not claim.is_factor:
            return PER_CENT * value, PER_CENT * value, PER_CENT * error
        value = max(value, error)  # that of no right answer has a logarithm too
        return math.log2(value), math.log2(value), error / value / math.log(2)
    crossing = capacity(row, steps)
    if crossing is None:
        return f"no evaluation of {row.mixer} with seed {row.seed} after {steps:,} steps"
    return -math.inf if not crossing.low else math.log2(crossing.low), math.log2(crossing.high), 0.0


def _steps(claim: Capability, row: ProbeRow) -> int:
    return row.curve[-1].step if claim.budget is None else claim.budget


def _crossings(claim: Capability, runs: Runs, seeds: Sequence[int]) -> dict[str, Crossings]:
    """The lines' capacities, where that is the claim's statistic."""
    if claim.statistic == "accuracy":
        return {}
    found = {}
    for line in (claim.line, *claim.others):
        rows = [row for seed in seeds if isinstance(row := runs.by_line[line][seed], ProbeRow)]
        by_seed = {row.seed: crossing for row in rows if (crossing := capacity(row, _steps(claim, row))) is not None}
        found[line] = Crossings.of(by_seed)
    return found


def _distance(claim: Capability) -> float:
    """The effect on the scale of the values."""
    return math.log2(claim.distance) if claim.is_factor else claim.distance


def _in_units(
    claim: Capability, estimate: float | None, low: float | None, high: float | None
) -> tuple[float | None, float | None, float | None]:
    """Estimate and bounds in the claim's unit."""
    found = (estimate, low, high)
    if not claim.is_lower:
        negative = [None if value is None else -value for value in found]
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
    level = looks.spent(alpha, look) - (looks.spent(alpha, look - 1) if look else 0.0)
    low = float(beta.ppf(level, solved, count - solved + 1)) if solved else 0.0
    high = float(beta.isf(level, solved + 1, count - solved)) if solved < count else 1.0
    holds, fails = (low > bar, high < bar) if claim.is_lower else (high < bar, low > bar)
    verdict: Verdict = "supported" if holds else "contradicted" if fails else "undecidable"
    shares = (solved / count, 1.0 if claim.is_lower else 0.0)
    prices = [
        price_of_capability(claim, seeds_for_share(true, bar, alpha), runs, seeds) if verdict == "undecidable" else None
        for true in shares
    ]
    return Answer(
        verdict,
        "",
        PER_CENT * solved / count,
        PER_CENT * low,
        PER_CENT * high,
        seeds=count,
        is_paired=True,
        if_estimate=prices[0],
        if_effect=prices[1],
        rows=tuple(rows),
    )
