"""The runs that count for a file of claims, and the differences of its lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wfbench.analysis.capability import accuracy_at
from wfbench.analysis.claims.schema import ClaimsFile
from wfbench.analysis.design import is_paired_design
from wfbench.analysis.lines import group, label
from wfbench.analysis.paired import Difference, paired_difference
from wfbench.analysis.unpaired import spread_p
from wfbench.analysis.variants import with_settings
from wfbench.records import AnyRow, DenseRow, ProbeRow, TrainRow

#: A run whose result claims speak of.
ResultRow = TrainRow | DenseRow | ProbeRow

_NO_SPREAD = 1e-10  # points: below it, all seeds are equal but for rounding


@dataclass(frozen=True)
class Runs:
    """The runs of the lines, the seeds and the budget that a file of claims speaks of.

    Attributes:
        by_line: the first run of each line and seed.
        later: runs of a line and seed that had been run before; they do not count.
        why_none: why no line can be compared; "" where they can.
        planned: the seeds of the file, in its order.
    """

    by_line: Mapping[str, Mapping[int, ResultRow]]
    later: tuple[ResultRow, ...]
    why_none: str
    planned: tuple[int, ...]

    @property
    def rows(self) -> tuple[ResultRow, ...]:
        """All runs that count."""
        return tuple(row for by_seed in self.by_line.values() for row in by_seed.values())

    def of_lines(self, lines: Iterable[str]) -> tuple[ResultRow, ...]:
        """The runs of some lines."""
        return tuple(row for line in lines for row in self.by_line.get(line, {}).values())

    def missing(self, line: str, seeds: Iterable[int]) -> list[int]:
        """Of these seeds those that a line has no run of."""
        return sorted(set(seeds) - set(self.by_line.get(line, {})))

    def points(self, line: str, seeds: Iterable[int]) -> list[float]:
        """The results of a line by seed, accuracies or mean intersections over union, in points."""
        return [100 * self.by_line[line][seed].result for seed in seeds]

    def is_paired(self, lines: Iterable[str], seeds: Sequence[int]) -> bool:
        """Whether all these runs are of the paired design, so that those of one seed go up and down together."""
        return is_paired_design(self.by_line[line][seed] for line in lines for seed in seeds)

    def difference(self, line: str, other: str, seeds: Sequence[int], *, paired: bool) -> Difference:
        """Line minus other in points: seed by seed, or, if not ``paired``, on the deviation pooled over all whole lines."""
        ours, theirs = self.points(line, seeds), self.points(other, seeds)
        one_image = 100 * self.by_line[line][seeds[0]].one_image
        sample_error = math.hypot(self.canvas_error(line, seeds), self.canvas_error(other, seeds))
        if paired:
            return paired_difference(ours, theirs, one_image=one_image, sample_error=sample_error)
        whole = self.whole(seeds)
        deviation = pooled_deviation(whole)
        deviation = math.sqrt(2) * deviation if deviation > _NO_SPREAD else 0.0
        mean = math.fsum(ours) / len(seeds) - math.fsum(theirs) / len(seeds)
        return Difference(mean, deviation, len(seeds), len(whole), one_image, sample_error)

    def canvas_error(self, line: str, seeds: Sequence[int]) -> float:
        """The standard error of a probe's mean accuracy over its canvases, in points, as that of one seed; 0 for images.

        Lines and seeds have the same canvases. Lines that fail on the same ones differ by less than the sum of their squares
        has it.
        """
        rows = [row for seed in seeds if isinstance(row := self.by_line[line][seed], ProbeRow)]
        found = [known[1] for row in rows if (known := accuracy_at(row, None, row.curve[-1].step)) is not None]
        return 100 * math.sqrt(math.fsum(error**2 for error in found) / len(found)) if found else 0.0

    def whole(self, seeds: Sequence[int]) -> list[list[float]]:
        """The results, in points, of each line that has all these seeds."""
        return [self.points(line, seeds) for line in self.by_line if not self.missing(line, seeds)]

    def p_spread(self, seeds: Sequence[int]) -> float | None:
        """Of Brown and Forsythe's test that the whole lines spread alike; None where it cannot be made."""
        whole = self.whole(seeds)
        return spread_p(whole) if len(whole) > 1 and pooled_deviation(whole) > _NO_SPREAD else None


def counted_runs(file: ClaimsFile, rows: Iterable[AnyRow]) -> Runs:
    """The runs that count for a file of claims."""
    counted = [row for row in rows if isinstance(row, ResultRow) and _counts(row, file) and label(row) in file.lines]
    by_line, later = first_runs(counted)
    families = group((row for by_seed in by_line.values() for row in by_seed.values()), _family)
    why_none = f"the runs are of {len(families)} settings, which do not compare" if len(families) > 1 else ""
    if len(settings := sorted({f"{row.recipe} of {row.model}" for row in with_settings(counted)})) > 1:
        why_none = f"the runs are of {len(settings)} settings, which do not compare: {'; '.join(settings)}"
    for name, by_seed in by_line.items():
        if len({run.chosen.lr if run.chosen is not None else None for run in by_seed.values()}) > 1:
            why_none = f"the runs of {name} were tuned to several rates, so they do not make one line"
        if len({run.mixer_digest for run in by_seed.values()}) > 1:
            why_none = f"the runs of {name} are of several versions of its mixer's code, so they do not make one line"
        if any(isinstance(run, ProbeRow) and not run.leak_check.held for run in by_seed.values()):
            why_none = f"the leak check of {name} failed, so its accuracy means nothing"
    return Runs(by_line, later, why_none, file.seeds)


def pooled_deviation(lines: Sequence[Sequence[float]]) -> float:
    """The standard deviation within lines of equal length, pooled over them; 0 for none."""
    freedom = sum(len(values) - 1 for values in lines)
    squares = math.fsum((x - math.fsum(values) / len(values)) ** 2 for values in lines for x in values)
    return math.sqrt(squares / freedom) if freedom else 0.0


def first_runs(rows: Iterable[ResultRow]) -> tuple[dict[str, dict[int, ResultRow]], tuple[ResultRow, ...]]:
    """The first run of each line and seed, and the later ones, which do not count.

    If the newest counted, whoever is not content with an answer could run the same seeds until it changes. The first is that
    which began first, by ``created``; of runs that began in the same second, the one that was recorded first.
    """
    first: dict[str, dict[int, ResultRow]] = {}
    later = []
    for row in sorted(rows, key=lambda row: row.created):  # stable: rows of the same second stay in the journal's order
        if first.setdefault(label(row), {}).setdefault(row.seed, row) is not row:
            later.append(row)
    return first, tuple(later)


def _counts(row: ResultRow, file: ClaimsFile) -> bool:
    """Whether a run has the budget, the seed and the recipe that the claims speak of."""
    matched = row.chosen.match if row.chosen is not None else None
    trials = len(row.chosen.rates or ()) if row.chosen is not None else 0
    found = (row.recipe, row.epochs, matched, trials, row.weights, row.validation)
    budget = file.budget
    return found == (file.recipe, budget.epochs, budget.match, budget.trials, file.weights, None) and row.seed in file.seeds


def _family(row: ResultRow) -> tuple[object, ...]:
    """What runs share that compare; the digests are of the models' code and of the data."""
    steps = 0 if isinstance(row, ProbeRow) else row.steps  # a run that solved its probe ended early
    setting = row.model, row.recipe_digest, row.dataset, row.image_size, row.batch, steps, row.samples, row.dtype
    return *setting, row.model_digest, row.data_digest
