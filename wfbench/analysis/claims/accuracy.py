"""Answers to claims of accuracy, from the runs of a sweep.

Every claim is decided by one-sided bounds at the error 5%/k for k such claims in the file, spent over the looks that the file
plans: so the chance that any of these answers is false is 5% at the most. Where all runs that a claim needs are of the paired
design, its bounds are on differences seed by seed; else on the standard deviation pooled over all lines of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wfbench.analysis.claims.answer import PER_CENT, Answer, within_per_cent
from wfbench.analysis.claims.capability import answer_capability, is_hopeless
from wfbench.analysis.claims.price import first_look, price_if_effect, price_if_estimate
from wfbench.analysis.claims.runs import Runs, counted_runs
from wfbench.analysis.claims.schema import AccuracyClaim, Best, Better, Capability, ClaimsFile, DifferenceClaim, Within
from wfbench.analysis.interval import LEVEL
from wfbench.analysis.paired import Difference, one_sided_power, power_within
from wfbench.analysis.sequential import Decision, Looks, decide_best, decide_better, decide_within
from wfbench.records import AnyRow


@dataclass(frozen=True)
class AccuracyAnswers:
    """What answers the claims of accuracy of one file.

    Attributes:
        file: the claims.
        runs: those that count.
        looks: the numbers of seeds at which claims are answered.
        alpha: the error that each claim may have in all.
    """

    file: ClaimsFile
    runs: Runs
    looks: Looks
    alpha: float

    @classmethod
    def of(cls, file: ClaimsFile, rows: Sequence[AnyRow]) -> AccuracyAnswers:
        """The runs and the plan of a file."""
        looks = Looks(file.looks or (len(file.seeds),))
        return cls(file, counted_runs(file, rows), looks, (1 - LEVEL) / max(len(file.of_accuracy), 1))

    def answer(self, claim: AccuracyClaim) -> Answer:
        """The answer to one claim: that of the first look which decides it, else of the last one that its runs reach."""
        lines = (claim.line, *claim.others)
        seeds = self.file.seeds[: self.looks.seeds[0]]
        missing = [(line, self.runs.missing(line, seeds)) for line in lines]
        lacks = "; ".join(f"no run of {line} with seed {', '.join(map(str, absent))}" for line, absent in missing if absent)
        if lacks or self.runs.why_none:
            price = first_look(claim, seeds, self.runs) if lacks and not self.runs.why_none else None
            return Answer("undecidable", lacks or self.runs.why_none, first_look=price, rows=self.runs.rows)
        for seeds in self._looks_reached(lines):
            found = self._at_look(claim, seeds)
            if found.verdict != "undecidable":
                break
        return found

    def _looks_reached(self, lines: Sequence[str]) -> list[tuple[int, ...]]:
        """The seeds of each look that all these lines have."""
        looks = [self.file.seeds[:count] for count in self.looks.seeds]
        return [seeds for seeds in looks if not any(self.runs.missing(line, seeds) for line in lines)]

    def _at_look(self, claim: AccuracyClaim, seeds: Sequence[int]) -> Answer:
        if isinstance(claim, Capability):
            return answer_capability(claim, self.runs, seeds, self.alpha, self.looks)
        paired = self.runs.is_paired((claim.line, *claim.others), seeds)
        found = [self.runs.difference(claim.line, other, seeds, paired=paired) for other in claim.others]
        level = self.looks.level(self.alpha, self.looks.index(len(seeds)))
        decision = _decision(claim, found, self.alpha, self.looks)
        why = next((difference.why_none for difference in found if difference.why_none), "")
        interval, is_open = decision.interval, decision.verdict == "undecidable"
        return Answer(
            decision.verdict,
            f"{why}, so nothing says how sure a difference is" if why else "",
            interval.estimate,
            *within_per_cent(interval.low, interval.high, -PER_CENT),
            power=_power(claim, found, level),
            seeds=len(seeds),
            is_paired=paired,
            if_estimate=price_if_estimate(claim, found, self.alpha, self.looks, self.runs) if is_open else None,
            if_effect=price_if_effect(claim, found, self.alpha, self.looks, self.runs) if is_open else None,
            rival="" if decision.rival is None else claim.others[decision.rival],
            rows=self.runs.of_lines((claim.line, *claim.others)) if paired else self.runs.rows,
        )

    def next_look(self, claim: AccuracyClaim) -> tuple[int, ...]:
        """The seeds of the next look at a claim that is undecided so far; none where no further look is planned or helps.

        None helps a claim of a capacity where a seed has none, since it was not trained, or where seeds have only bounds on
        both sides.
        """
        if self.runs.why_none or self.answer(claim).verdict != "undecidable":
            return ()
        reached = self._looks_reached((claim.line, *claim.others))
        if isinstance(claim, Capability) and reached and is_hopeless(claim, self.runs, reached[-1]):
            return ()
        left = self.looks.seeds[len(reached) :]
        return self.file.seeds[: left[0]] if left else ()


def _decision(claim: DifferenceClaim, found: Sequence[Difference], alpha: float, looks: Looks) -> Decision:
    match claim:
        case Better():
            return decide_better(found[0], claim.by, alpha, looks)
        case Within():
            return decide_within(found[0], claim.margin, alpha, looks)
        case Best():
            return decide_best(found, alpha, looks)


def _power(claim: DifferenceClaim, found: Sequence[Difference], level: float) -> float | None:
    """The chance that a claim is supported at a look where it is true by its effect; None without a spread.

    Of a claim to be best it is a lower bound: 1 − Σ (1 − power against each).
    """
    if any(difference.why_none for difference in found):
        return None
    match claim:
        case Better():
            return one_sided_power(claim.effect - claim.by, found[0], level)
        case Within():
            return power_within(0.0, claim.margin, found[0], level)
        case Best():
            return max(0.0, 1 - sum(1 - one_sided_power(claim.effect, lead, level) for lead in found))
