"""Probes: what each line can do, over its seeds: how much it stores, how far it reaches, how soon it learns."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

from wfbench.analysis.cells import Size
from wfbench.analysis.interval import LEVEL, Interval
from wfbench.analysis.lines import group, label, latest, lines_by_code, sorted_keys
from wfbench.analysis.paired import binomial_reach, mean_interval
from wfbench.analysis.power import t_quantile
from wfbench.analysis.seed_differences import over_seeds
from wfbench.records import AnyRow, ProbeCell, ProbeRow

#: What a mixer can do, it does with this accuracy.
PASSED = 0.9
_ROUNDING = 1e-9  # of means of accuracies
#: Half-widths of 95% intervals in standard errors, where these are of many canvases.
_WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)
#: The order in which probes are shown.
PROBES = ("recall", "needle", "flood", "majority", "shift", "hop")
#: Those of which a number at 90 % is told: of pairs, tokens, steps along a walk.
CAPACITIES = ("recall", "needle", "flood")


class ProbeSetting(NamedTuple):
    """What the lines of one probe's table share. Steps are no part of it: a run that solves every level ends early."""

    probe: str
    recipe: str
    digest: str
    dataset: str
    model: str
    image_size: Size
    epochs: int
    batch: int
    canvases: int
    depth: int
    weights: str
    pretraining: str
    device: str
    dtype: str
    #: Of the models' code and of the data; None where they were not recorded.
    model_digest: str | None
    data_digest: str | None


class CapabilitySetting(NamedTuple):
    """What the probes of one table of capabilities share."""

    model: str
    depth: int
    weights: str
    pretraining: str
    device: str
    dtype: str
    model_digest: str | None


@dataclass(frozen=True)
class Crossing:
    """Where one run's accuracy crosses 90 %, or the bound beyond which it does.

    Attributes:
        value: a number of pairs, tokens or steps.
        censored: "above" where the crossing lies somewhere above the value, which is then the largest that was tried; "below"
            where the accuracy is under 90 % already at the value, the smallest that was tried; of steps of training where
            it was 90 % at the value, the first evaluation. Such a value is a bound, never a result.
    """

    value: float
    censored: Literal["", "above", "below"] = ""

    @property
    def low(self) -> float:
        """What it is at least; 0 where nothing is known."""
        return 0.0 if self.censored == "below" else self.value

    @property
    def high(self) -> float:
        """What it is at most; inf where nothing is known."""
        return math.inf if self.censored == "above" else self.value


@dataclass(frozen=True)
class Crossings:
    """A line's crossings.

    Attributes:
        by_seed: of each seed.
        mean: the geometric mean with its t-interval over log2; None where any seed has only a bound, since nothing is computed
            from bounds.
        bound: the common bound where no seed has more than that; else None.
    """

    by_seed: Mapping[int, Crossing]
    mean: Interval | None
    bound: Crossing | None

    @classmethod
    def of(cls, by_seed: Mapping[int, Crossing]) -> Crossings:
        """From the seeds'."""
        found = list(by_seed.values())
        if not any(crossing.censored for crossing in found):
            return cls(by_seed, _powers_of_two(mean_interval([math.log2(crossing.value) for crossing in found])), None)
        return cls(by_seed, None, found[0] if len(set(found)) == 1 else None)

    def count(self, censored: Literal["above", "below"]) -> int:
        """How many seeds have only this bound."""
        return sum(crossing.censored == censored for crossing in self.by_seed.values())


@dataclass(frozen=True)
class ProbeLine:
    """One line over its seeds.

    Attributes:
        label: its name.
        runs: the newest of each seed.
        budgets: the numbers of steps that are reported; the last is the end of training.
        accuracies: by budget, of each of the result's cells; None for a cell that the mixer cannot be evaluated on.
        mean: accuracy at the end, over the levels on the grid of training.
        capacity: by budget: of recall the pairs, of needle the tokens, of flood the steps along a walk, up to which the
            accuracy is 90 %; empty for others.
        learnt: of shift, the evaluation at which the accuracy was 90 % for the first time, in steps; None for others.
        hops: of hop by seed, the largest number of steps up to which all have an accuracy of 90 %; empty for others.
        solved: how many seeds solved every level of their training.
        train_seconds: of training, evaluation apart.
        leaks: whether the leak check of any run failed, so that no accuracy means anything.
    """

    label: str
    runs: tuple[ProbeRow, ...]
    budgets: tuple[int, ...]
    accuracies: Mapping[int, tuple[Interval | None, ...]]
    mean: Interval
    capacity: Mapping[int, Crossings]
    learnt: Crossings | None
    hops: Mapping[int, int]
    solved: int
    train_seconds: Interval
    leaks: bool

    @property
    def end(self) -> int:
        """The last budget."""
        return self.budgets[-1]

    @property
    def untrained(self) -> int:
        """Of recall: how many seeds did not learn the task, one pair at 90 %; 0 where a single pair was not asked for."""
        found = self.capacity.get(self.end)
        if found is None or self.runs[0].probe != "recall":
            return 0
        return sum(one.censored == "below" and one.value <= 1 for one in found.by_seed.values())

    @property
    def is_trained(self) -> bool:
        """Of recall: whether any seed learnt the task; so too where a single pair was not asked for."""
        return self.untrained < len(self.runs)

    @property
    def set_capacity(self) -> float | None:
        """Of recall: the pairs up to which it is right in 90 % to answer any value that the canvas holds, without looking up.

        None where that is so at all numbers that were asked, or at none, and for other probes.
        """
        floors = {cell.level: floor for cell in self.runs[0].trained if (floor := set_floor(cell)) is not None}
        if self.runs[0].probe != "recall" or not floors:
            return None
        found = falls_through(sorted(floors), [floors[level] for level in sorted(floors)])
        return None if found.censored else found.value

    def is_no_more_than_the_set(self, budget: int) -> bool:
        """Whether a capacity of recall may be that of knowing the set of answers: its interval, or no seed, lies above that."""
        found, floor = self.capacity.get(budget), self.set_capacity
        if found is None or floor is None or any(one.censored == "above" for one in found.by_seed.values()):
            return False
        if all(one.censored for one in found.by_seed.values()):
            return False  # not trained, which is said instead
        if found.mean is not None and found.mean.low is not None:
            return found.mean.low <= floor
        return max(one.value for one in found.by_seed.values()) <= floor

    @property
    def is_blind(self) -> bool:
        """Whether no answer of any run can depend on what it is asked for, so that no training helps."""
        return all(run.is_blind for run in self.runs)

    @property
    def looks_apart(self) -> int:
        """The most steps between one evaluation and the next."""
        steps = [look.step for look in self.runs[0].curve]
        return max(b - a for a, b in itertools.pairwise([0, *steps]))


@dataclass(frozen=True)
class ProbeResult:
    """The runs of one probe under one setting.

    Attributes:
        setting: what the lines share.
        cells: levels and grids with their floors; the accuracies in them are one run's.
        lines: one for each mixer with its factors.
        repeats: how many rows were left out, since a later one is of the same line and seed.
    """

    setting: ProbeSetting
    cells: tuple[ProbeCell, ...]
    lines: tuple[ProbeLine, ...]
    repeats: int = 0

    @property
    def budgets(self) -> list[int]:
        """Of all lines."""
        return sorted({budget for line in self.lines for budget in line.budgets})


@dataclass(frozen=True)
class CapabilityLine:
    """One line in all probes: its result in each of the table's, None where it has none."""

    label: str
    lines: tuple[ProbeLine | None, ...]

    @property
    def any(self) -> ProbeLine:
        """The first that there is, whose size and cost stand for all: probes come in one order."""
        return next(line for line in self.lines if line is not None)

    @property
    def untrained(self) -> tuple[int, int]:
        """The gate, one pair of recall: how many seeds did not learn it, and of how many; (0, 0) where it was not asked.

        Of several settings of recall, that of which the largest share of seeds learnt it.
        """
        gates = [line for line in self.lines if line is not None and not line.leaks and line.runs[0].probe == "recall"]
        if not gates:
            return 0, 0
        best = min(gates, key=lambda line: line.untrained / len(line.runs))
        return best.untrained, len(best.runs)


@dataclass(frozen=True)
class CapabilityResult:
    """The probes side by side.

    Attributes:
        setting: what they share.
        probes: in the order of `PROBES`; a probe may have several settings.
        lines: by name.
    """

    setting: CapabilitySetting
    probes: tuple[ProbeResult, ...]
    lines: tuple[CapabilityLine, ...]


# --- one run


def falls_through(levels: Sequence[float], accuracies: Sequence[float], threshold: float = PASSED) -> Crossing:
    """Where accuracy falls through a threshold, as the levels rise.

    The crossing of a decreasing isotonic fit over log2 of the levels, linear in between.

    Args:
        levels: rising numbers above 0.
        accuracies: at them.
        threshold: between 0 and 1.

    Returns:
        The crossing; a bound where the fit never falls below the threshold, or the first accuracy is below it.

    Source: Barlow and others, Statistical Inference under Order Restrictions (1972), by scikit-learn.
    """
    from sklearn.isotonic import IsotonicRegression

    bar = threshold - _ROUNDING
    if accuracies[0] < bar:
        return Crossing(levels[0], "below")
    x = [math.log2(level) for level in levels]
    fit = [float(value) for value in IsotonicRegression(increasing=False).fit_transform(x, list(accuracies))]
    if fit[-1] >= bar:
        return Crossing(levels[-1], "above")
    after = next(place for place, value in enumerate(fit) if value < bar)
    share = max(fit[after - 1] - threshold, 0.0) / (fit[after - 1] - fit[after])
    return Crossing(2 ** (x[after - 1] + share * (x[after] - x[after - 1])))


def set_floor(cell: ProbeCell) -> float | None:
    """Of recall: the accuracy of answering any value on the canvas; of one pair, where rows may not have it, all."""
    return 1.0 if cell.set_floor is None and cell.level == 1 else cell.set_floor


def capacity(row: ProbeRow, steps: int) -> Crossing | None:
    """What a run can do with an accuracy of 90 %, after some steps of training.

    Of recall: the pairs that it stores; of needle: the tokens among which it finds the marked one, where several grids have as
    many their mean accuracy counts; of flood: the steps along a walk that it follows. None where the run was not evaluated
    then, and for other probes.
    """
    look = row.look(steps)
    if look is None or row.probe not in CAPACITIES:
        return None
    found = [(cell, value) for cell, value in zip(row.cells, look.accuracies, strict=True) if value is not None]
    if row.probe == "recall":
        pairs = [(cell.level, value) for cell, value in found if cell.grid == row.image_size]
    elif row.probe == "flood":
        pairs = [(float(cell.distance), value) for cell, value in found if cell.distance is not None]
    else:
        hardest = row.trained[-1].level
        pairs = [(float(cell.tokens), value) for cell, value in found if cell.level == hardest]
    by_level = group(pairs, lambda pair: pair[0])
    levels = sorted(by_level)
    return falls_through(levels, [math.fsum(value for _, value in by_level[level]) / len(by_level[level]) for level in levels])


def hops(row: ProbeRow, steps: int) -> Crossing | None:
    """The largest number of steps of a chain up to which all have an accuracy of 90 %, after some steps of training.

    A bound where that is the largest asked, or where the smallest has less. None where the run was not evaluated then, and for
    other probes than hop.
    """
    look = row.look(steps)
    if look is None or row.probe != "hop":
        return None
    found = [(cell, value) for cell, value in zip(row.cells, look.accuracies, strict=True) if value is not None]
    by_level = {cell.level: value for cell, value in found if cell.grid == row.image_size}
    passed = list(itertools.takewhile(lambda level: by_level[level] >= PASSED, sorted(by_level)))
    if not passed:
        return Crossing(min(by_level), "below")
    return Crossing(passed[-1], "above" if len(passed) == len(by_level) else "")


def accuracy_at(
    row: ProbeRow,
    level: float | None,
    steps: int,
    *,
    grid: Size | None = None,
    distance: int | None = None,
) -> tuple[float, float] | None:
    """A run's accuracy after some steps, and its standard error over canvases.

    Args:
        row: the run.
        level: on the grid of training, all its questions; None: the mean over all of these levels.
        steps: after which it was evaluated.
        grid: another grid, at the last level, in place of a level.
        distance: of the questions in steps, at the last level, in place of a level.

    Returns:
        None where it was not evaluated then, or not at this level, grid or distance.
    """
    look = row.look(steps)
    if look is None:
        return None
    if grid is None and distance is None:
        asked = [cell for cell in row.trained if level in (None, cell.level)]
    else:
        hardest = row.trained[-1].level
        place = (hardest, grid or row.image_size, distance)
        asked = [cell for cell in row.cells if (cell.level, cell.grid, cell.distance) == place]
    is_end = look is row.curve[-1]
    found = [
        (value, canvas_error(value, cell.standard_error if is_end else None, row.canvases))
        for cell, value in zip(row.cells, look.accuracies, strict=True)
        if value is not None and cell in asked
    ]
    if not found:
        return None
    mean = math.fsum(value for value, _ in found) / len(found)
    return mean, math.sqrt(math.fsum(error**2 for _, error in found)) / len(found)


def canvas_error(accuracy: float, standard_error: float | None, canvases: int) -> float:
    """The standard error of an accuracy over canvases, never below what so many canvases can show.

    Had all n canvases been answered alike, a share of up to z²/(n + z²) of canvases that are answered otherwise would still go
    unseen (Wilson's interval). An accuracy of 99.9 % is known no better than that of 100 %.

    Args:
        accuracy: the share of right answers.
        standard_error: as recorded; None where it was not: then the largest that shares of canvases can have.
        canvases: how many there are.
    """
    found = math.sqrt(accuracy * (1 - accuracy) / canvases) if standard_error is None else standard_error
    return max(found, _least_error(canvases))


@functools.cache
def _least_error(canvases: int) -> float:
    """The standard error of so many canvases that are all answered alike."""
    return binomial_reach(1.0, canvases, LEVEL) / _WIDTH


def steps_to_passed(row: ProbeRow) -> Crossing:
    """The steps of the first evaluation with an accuracy of 90 %, over the levels on the grid of training.

    A bound where that is the first of all, before which nothing was looked at.
    """
    for look in row.curve:
        found = accuracy_at(row, None, look.step)
        if found is not None and found[0] >= PASSED:
            return Crossing(look.step, "below" if look is row.curve[0] else "")
    return Crossing(row.curve[-1].step, "above")


def _hops(row: ProbeRow) -> int:
    """The largest number of steps of a chain up to which a run has an accuracy of 90 % at its end; 0 for none."""
    found = hops(row, row.curve[-1].step)
    return 0 if found is None or found.censored == "below" else round(found.value)


# --- over seeds


def accuracy_interval(values: Sequence[float], errors: Sequence[float]) -> Interval:
    """The mean accuracy with its 95% interval over seeds (t) and canvases (normal), whose half-widths add up in squares.

    All seeds are evaluated on the same canvases, so more seeds do not make the canvases' part smaller. A single seed has the
    canvases' interval.

    Args:
        values: one for each seed.
        errors: their standard errors over canvases.

    Source: Banerjee, as in `paired.Difference`.
    """
    mean, count = math.fsum(values) / len(values), len(values)
    over_canvases = _WIDTH * math.sqrt(math.fsum(error**2 for error in errors) / count)
    if count == 1:
        return Interval.around(mean, over_canvases)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    over_seeds = t_quantile((1 - LEVEL) / 2, count - 1) * deviation / math.sqrt(count)
    return Interval.around(mean, math.hypot(over_seeds, over_canvases))


def probe_results(rows: Iterable[AnyRow]) -> tuple[ProbeResult, ...]:
    """The runs of probes, one result for each setting; trials of tuning are left out.

    Args:
        rows: the records.
    """
    groups = group((row for row in rows if isinstance(row, ProbeRow) and row.validation is None), _setting)
    made = []
    for setting in sorted(sorted_keys(groups), key=lambda found: PROBES.index(found.probe)):
        named = lines_by_code(groups[setting])
        runs = {name: tuple(latest(members, lambda row: row.seed)) for name, members in sorted(named.items())}
        lines = tuple(_line(name, seeds) for name, seeds in runs.items())
        cells = lines[0].runs[0].cells
        made.append(ProbeResult(setting, cells, lines, len(groups[setting]) - sum(map(len, runs.values()))))
    return tuple(made)


def capabilities(results: Sequence[ProbeResult]) -> tuple[CapabilityResult, ...]:
    """The probes of one model side by side, a line for each mixer.

    Args:
        results: of all probes.
    """
    groups = group(results, lambda result: _shared(result.setting))
    made = []
    for setting in sorted_keys(groups):
        probes = tuple(groups[setting])
        whose = sorted({_whose(line) for probe in probes for line in probe.lines}, key=str)
        versions = Counter(name for name, _ in whose)
        lines = tuple(
            CapabilityLine(
                name + (f" (code {(digest or 'unknown')[:8]})" if versions[name] > 1 else ""),
                tuple(next((line for line in probe.lines if _whose(line) == (name, digest)), None) for probe in probes),
            )
            for name, digest in whose
        )
        made.append(CapabilityResult(setting, probes, lines))
    return tuple(made)


def _whose(line: ProbeLine) -> tuple[str, str | None]:
    """A line's name and the code of its mixer: probes of other code are not those of one line."""
    return label(line.runs[0]), line.runs[0].mixer_digest


def _line(name: str, runs: Sequence[ProbeRow]) -> ProbeLine:
    budgets, probe = _budgets(runs), runs[0].probe
    return ProbeLine(
        name,
        tuple(runs),
        budgets,
        accuracies={budget: tuple(_cell(runs, place, budget) for place in range(len(runs[0].cells))) for budget in budgets},
        mean=_mean(runs, budgets[-1]),
        capacity=_of_all(runs, budgets, capacity) if probe in CAPACITIES else {},
        learnt=Crossings.of({run.seed: steps_to_passed(run) for run in runs}) if probe == "shift" else None,
        hops={run.seed: _hops(run) for run in runs} if probe == "hop" else {},
        solved=sum(run.is_solved for run in runs),
        train_seconds=over_seeds([run.train_seconds for run in runs]),
        leaks=not all(run.leak_check.held for run in runs),
    )


def _budgets(runs: Sequence[ProbeRow]) -> tuple[int, ...]:
    """What is reported: the budgets that were trained for, and the end of the runs that went all the way."""
    asked = {budget for run in runs for budget in run.budgets}
    ends = {run.curve[-1].step for run in runs if not run.stopped}
    if not ends:
        return tuple(sorted(asked)) or (max(run.curve[-1].step for run in runs),)
    return tuple(sorted({budget for budget in asked if budget <= max(ends)} | {max(ends)}))


def _of_all(
    runs: Sequence[ProbeRow], budgets: Sequence[int], crossing: Callable[[ProbeRow, int], Crossing | None]
) -> dict[int, Crossings]:
    """By budget, of those at which every run was evaluated."""
    found = {budget: {run.seed: crossing(run, budget) for run in runs} for budget in budgets}
    return {
        budget: Crossings.of({seed: value for seed, value in by_seed.items() if value is not None})
        for budget, by_seed in found.items()
        if None not in by_seed.values()
    }


def _cell(runs: Sequence[ProbeRow], place: int, steps: int) -> Interval | None:
    """A cell's accuracy after some steps; None where a run has none."""
    values, errors = [], []
    for run in runs:
        look = run.look(steps)
        value = None if look is None else look.accuracies[place]
        if look is None or value is None:
            return None
        recorded = run.cells[place].standard_error if look is run.curve[-1] else None
        values.append(value)
        errors.append(canvas_error(value, recorded, run.canvases))
    return accuracy_interval(values, errors)


def _mean(runs: Sequence[ProbeRow], steps: int) -> Interval:
    found = [accuracy_at(run, None, steps) or accuracy_at(run, None, run.curve[-1].step) for run in runs]
    known = [pair for pair in found if pair is not None]
    return accuracy_interval([value for value, _ in known], [error for _, error in known])


def _powers_of_two(found: Interval) -> Interval:
    low, high = (None if end is None else 2**end for end in (found.low, found.high))
    return Interval(2**found.estimate, low, high, found.level, found.why_none)


def _setting(row: ProbeRow) -> ProbeSetting:
    named = {name: getattr(row, name) for name in ProbeSetting._fields if name not in ("digest", "device")}
    return ProbeSetting(**named, digest=row.recipe_digest, device=row.environment.device)


def _shared(setting: ProbeSetting) -> CapabilitySetting:
    return CapabilitySetting(*(getattr(setting, name) for name in CapabilitySetting._fields))


def recall_of(probes: Sequence[ProbeResult]) -> Mapping[str, ProbeLine]:
    """The lines of recall by name, without those whose leak check failed; empty where there are several settings of it."""
    found = [probe for probe in probes if probe.setting.probe == "recall"]
    return {line.label: line for line in found[0].lines if not line.leaks} if len(found) == 1 else {}
