"""The answer to a claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from wfbench.analysis.capability import Crossings
from wfbench.analysis.claims.price import FirstLook, Price, Remedy
from wfbench.records import CrossoverRow, FitRow, Row

Verdict = Literal["supported", "contradicted", "undecidable"]
#: The largest accuracy, in the unit of claims.
PER_CENT = 100.0


def within_per_cent(low: float | None, high: float | None, least: float) -> tuple[float | None, float | None]:
    """Bounds no further than an accuracy, or a difference of two, goes: few seeds give bounds that do.

    Args:
        low: the lower bound; None for none.
        high: the upper one.
        least: 0 for an accuracy, -100 for a difference of two.
    """
    return None if low is None else max(low, least), None if high is None else min(high, PER_CENT)


@dataclass(frozen=True)
class Answer:
    """What the records say to a claim.

    Attributes:
        verdict: "undecidable" is no finding: the claim may be true or false.
        why_none: why the records cannot be held against the claim; "" where they were.
        estimate: in the claim's unit: points, an exponent, pixels, pairs, tokens, per cent, a ratio; None where there is none.
        low: lower end of the estimate's interval; None where there is none.
        high: upper end, likewise.
        power: the probability that so many seeds support the claim where it is true by as much as it says; None where there
            is none.
        seeds: of a claim of accuracy: the number of seeds of each line that it was answered with; 0 where runs are missing.
        is_paired: of a claim of accuracy: whether differences were taken seed by seed.
        if_estimate: of an undecidable claim of accuracy: the price of an answer if the estimate is true; else None.
        if_effect: the same if the claim is true by its stated effect (of "within": if there is no difference).
        first_look: of a claim of accuracy of which runs are missing: what they are and cost.
        remedies: of an undecidable claim about a profile: what would decide it.
        crossings: of a claim about a capacity: those of its lines.
        rival: of a claim to be best: the line that decides.
        profile: of a claim about a profile: the curve or the crossover that was held against it.
        rows: all rows that were used.
        later: of a claim about a profile: curves or crossovers of later profiles, which do not count.
    """

    verdict: Verdict
    why_none: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    power: float | None = None
    seeds: int = 0
    is_paired: bool = False
    if_estimate: Price | None = None
    if_effect: Price | None = None
    first_look: FirstLook | None = None
    remedies: tuple[Remedy, ...] = ()
    crossings: Mapping[str, Crossings] = field(default_factory=dict)
    rival: str = ""
    profile: FitRow | CrossoverRow | None = None
    rows: tuple[Row, ...] = ()
    later: tuple[FitRow | CrossoverRow, ...] = ()
