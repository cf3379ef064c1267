"""Answers to claims of accuracy, from the runs of a sweep.

Every claim is decided by one-sided bounds, each at the level 1 − 5%/k for k such claims in the file, on the standard deviation
over seeds pooled over all lines that the file names: so the chance that any of these answers is false is 5% at the most. The
seeds are those that the file names, no more and no fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wfbench.analysis.claims.answer import Answer, Verdict
from wfbench.analysis.claims.schema import AccuracyClaim, Best, Better, ClaimsFile, Within
from wfbench.analysis.interval import LEVEL
from wfbench.analysis.lines import group, label
from wfbench.analysis.unpaired import equivalence_power, power_of, spread_p
from wfbench.records import AnyRow, Row, TrainRow

_NO_SPREAD = 1e-10  # points: below it, all seeds are equal but for rounding


@dataclass(frozen=True)
class Runs:
    """The runs that count for a file of claims, and what their spread allows to say.

    Attributes:
        seeds: those that the file names.
        runs: by line and seed, the first of each.
        later: runs of a line and seed that had been run before; they do not count.
        why_none: why no line can be compared; "" where they can.
        deviation: pooled over the lines with all seeds, in points.
        freedom: its degrees of freedom.
        p_spread: of Brown and Forsythe's test that these lines spread alike; None where it cannot be made.
        alpha: the error that each claim may have.
    """

    seeds: tuple[int, ...]
    runs: Mapping[str, Mapping[int, TrainRow]]
    later: tuple[TrainRow, ...]
    why_none: str
    deviation: float
    freedom: int
    p_spread: float | None
    alpha: float

    @classmethod
    def of(cls, file: ClaimsFile, rows: Sequence[AnyRow]) -> Runs:
        """The runs of the lines, the seeds and the budget that the file speaks of."""
        counted = [row for row in rows if isinstance(row, TrainRow) and _counts(row, file) and label(row) in file.lines]
        runs, later = first_runs(counted)
        families = group((row for by_seed in runs.values() for row in by_seed.values()), _family)
        whole = [
            [100 * run.accuracy for run in by_seed.values()] for by_seed in runs.values() if set(by_seed) == set(file.seeds)
        ]
        freedom = len(whole) * (len(file.seeds) - 1)
        squares = math.fsum((x - math.fsum(values) / len(values)) ** 2 for values in whole for x in values)
        why_none = f"the runs are of {len(families)} settings, which do not compare" if len(families) > 1 else ""
        for name, by_seed in runs.items():
            if len({run.chosen.lr if run.chosen is not None else None for run in by_seed.values()}) > 1:
                why_none = f"the runs of {name} were tuned to several rates, so they do not make one line"
        deviation = math.sqrt(squares / freedom) if freedom else 0.0
        p = spread_p(whole) if len(whole) > 1 and deviation > _NO_SPREAD else None
        return cls(file.seeds, runs, later, why_none, deviation, freedom, p, (1 - LEVEL) / max(len(file.of_accuracy), 1))

    def answer(self, claim: AccuracyClaim) -> Answer:
        """The answer to one claim of the file."""
        names = (claim.line, *claim.others)
        used = tuple(row for by_seed in self.runs.values() for row in by_seed.values())  # all: the deviation is pooled
        missing = [(name, sorted(set(self.seeds) - set(self.runs.get(name, {})))) for name in names]
        lacks = "; ".join(f"no run of {name} with seed {', '.join(map(str, seeds))}" for name, seeds in missing if seeds)
        if lacks or self.why_none:
            return Answer("undecidable", lacks or self.why_none, rows=used)
        if self.deviation <= _NO_SPREAD:
            return Answer("undecidable", "the seeds do not differ, so nothing says how sure a difference is", rows=used)
        match claim:
            case Better():
                return self._better(claim, used)
            case Within():
                return self._within(claim, used)
            case Best():
                return self._best(claim, used)

    @property
    def error(self) -> float:
        """Of a difference of two lines' means, in points."""
        return self.deviation * math.sqrt(2 / len(self.seeds))

    def difference(self, line: str, other: str) -> float:
        """Of two lines' mean accuracies, in points."""
        mean = [math.fsum(run.accuracy for run in self.runs[name].values()) / len(self.seeds) for name in (line, other)]
        return 100 * (mean[0] - mean[1])

    def critical(self, alpha: float) -> float:
        """What t exceeds with probability ``alpha``."""
        from scipy.stats import t as student

        return float(student.ppf(1 - alpha, self.freedom))

    def _better(self, claim: Better, used: tuple[Row, ...]) -> Answer:
        d, t = self.difference(claim.line, claim.than), self.critical(self.alpha)
        low, high = d - t * self.error, d + t * self.error
        verdict: Verdict = "supported" if low > claim.by else "contradicted" if high < claim.by else "undecidable"
        power = power_of((claim.effect - claim.by) / self.error, t, self.freedom, two_sided=False)
        return Answer(verdict, "", d, low, high, power, rows=used)

    def _within(self, claim: Within, used: tuple[Row, ...]) -> Answer:
        """Two one-sided tests; a contradiction may come from either side, so each of these has half the error."""
        d, t = self.difference(claim.line, claim.of), self.critical(self.alpha)
        low, high = d - t * self.error, d + t * self.error
        inside = -claim.margin < low and high < claim.margin
        outside = abs(d) - self.critical(self.alpha / 2) * self.error > claim.margin
        verdict: Verdict = "supported" if inside else "contradicted" if outside else "undecidable"
        power = equivalence_power(claim.margin / self.error, self.freedom, level=1 - self.alpha)
        return Answer(verdict, "", d, low, high, power, rows=used)

    def _best(self, claim: Best, used: tuple[Row, ...]) -> Answer:
        """Better than all needs no correction for their number, worse than some one does."""
        count, t = len(claim.among), self.critical(self.alpha)
        leads = {other: self.difference(claim.line, other) for other in claim.among}
        rival = min(leads, key=leads.__getitem__)
        low, high = leads[rival] - t * self.error, leads[rival] + self.critical(self.alpha / count) * self.error
        verdict: Verdict = "supported" if low > 0 else "contradicted" if high < 0 else "undecidable"
        power = max(0.0, 1 - count * (1 - power_of(claim.effect / self.error, t, self.freedom, two_sided=False)))
        return Answer(verdict, "", leads[rival], low, high, power, rival, rows=used)


def first_runs(rows: Iterable[TrainRow]) -> tuple[dict[str, dict[int, TrainRow]], tuple[TrainRow, ...]]:
    """The first run of each line and seed, and the later ones, which do not count.

    If the newest counted, whoever is not content with an answer could run the same seeds until it changes. The first is that
    which began first, by ``created``; of runs that began in the same second, the one that was recorded first.
    """
    first: dict[str, dict[int, TrainRow]] = {}
    later = []
    for row in sorted(rows, key=lambda row: row.created):  # stable: rows of the same second stay in the journal's order
        if first.setdefault(label(row), {}).setdefault(row.seed, row) is not row:
            later.append(row)
    return first, tuple(later)


def _counts(row: TrainRow, file: ClaimsFile) -> bool:
    """Whether a run has the budget, the seed and the recipe that the claims speak of."""
    matched = row.chosen.match if row.chosen is not None else None
    trials = len(row.chosen.rates or ()) if row.chosen is not None else 0
    found = (row.recipe, row.epochs, matched, trials, row.weights, row.validation)
    budget = file.budget
    return found == (file.recipe, budget.epochs, budget.match, budget.trials, file.weights, None) and row.seed in file.seeds


def _family(row: TrainRow) -> tuple[object, ...]:
    """What runs share that compare."""
    return row.model, row.recipe_digest, row.dataset, row.image_size, row.batch, row.steps, row.samples, row.dtype
