"""Times and memory of cells that were never measured, from those that were: with an interval from held-out error, or a reason.

The value of a cell is taken to be a sum over what it does, each with a rate that is not negative: by kind of operator the
multiply-adds and the bytes, and the number of operators (`wfbench.measure.work`); for memory, the bytes alive by the shapes.
The rates minimise squared relative errors over all measured cells and microbenchmarks (Lawson and Hanson 1974, ch. 23). What
the rates leave over at the measured cells nearest to the one that is asked for multiplies the sum.

How far such a value is off is measured, not assumed: measured cells are left out as the question would have it (a resolution,
all beyond a resolution, a mixer, a size of model or batch), and predicted. The interval is that of `half_width_of`: the
split-conformal quantile of the held-out |log error| (Vovk, Gammerman and Shafer 2005, ch. 4), and no less than what so few
mixers or sizes allow. Whether it covers as often as it says is shown by taking the width from the other mixers or sizes than
those it is tried on. Nothing is predicted whose work is many times that of every measured cell (`Calibration.reach_of`).
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from wfbench.analysis.interval import LEVEL, Interval
from wfbench.analysis.lines import group, label
from wfbench.errors import InputError
from wfbench.measure import scaling
from wfbench.measure.scaling import Crossover, interpolated_crossover
from wfbench.records import AnyRow, HeldOutRow, PredictedCrossoverRow, PredictionRow, Quantity, Question

#: What was not measured: a resolution between measured ones, one beyond them, the mixer, or the size of the model or batch.

QUESTIONS: tuple[Question, ...] = ("resolution", "beyond", "mixer", "size")
#: Of squared relative errors: that of a microbenchmark counts as much as this many cells'.
MICRO_WEIGHT = 0.1
#: Fewer resolutions are not extrapolated from.
LEAST_RESOLUTIONS = 3
#: Nothing is extrapolated to more than so many times the tokens (an image of twice the side), nor to so many times the work.
MOST_STEP = 4.0
#: An interval needs held-out cells of so many mixers; for the question "size", of so many sizes.
LEAST_GROUPS = 5


@dataclass(frozen=True, eq=False)
class Place:
    """Where a cell stands, measured or not.

    Attributes:
        mixer: with its schedule, options, factors and attention backend.
        size: of the model and the batch.
        tokens: of one image.
        parts: what its value is a sum of, such as `wfbench.measure.work.features`.
    """

    mixer: str
    size: str
    tokens: int
    parts: np.ndarray


@dataclass(frozen=True, eq=False)
class Measured:
    """A cell with its value: seconds or bytes."""

    place: Place
    value: float


@dataclass(frozen=True)
class HeldOut:
    """One measured cell that was left out and predicted.

    Attributes:
        question: what was left out with it.
        mixer, size, tokens: the cell.
        step: its tokens by the most that were left in, for "beyond"; 1 otherwise.
        measured, predicted: its value, in the same unit.
    """

    question: Question
    mixer: str
    size: str
    tokens: int
    step: float
    measured: float
    predicted: float

    @property
    def log_error(self) -> float:
        """ln predicted − ln measured."""
        return math.log(self.predicted / self.measured)


@dataclass(frozen=True)
class Accuracy:
    """Held-out error of one question.

    Attributes:
        question: what was left out.
        cells: how many cells were predicted.
        groups: of how many mixers they are; for "size", of how many sizes.
        median_error: the median of |predicted / measured − 1|.
        coverage: how often the interval holds the measured value, its width taken from other groups; None without a width.
        half_width: of the interval of ln value (`half_width_of`); None where there are too few groups.
        farthest: the largest step beyond the measured resolutions that was tried, as a factor of the tokens; "beyond" alone.
    """

    question: Question
    cells: int
    groups: int
    median_error: float
    coverage: float | None
    half_width: float | None
    farthest: float | None


@dataclass(frozen=True)
class Predicted:
    """A value that was not measured: with its interval, or why there is none to give.

    Attributes:
        question: what of the cell was not measured.
        value: with its interval; None where ``why_none`` says why.
        why_none: in words; "" where there is a value.
    """

    question: Question
    value: Interval | None
    why_none: str = ""


class Calibration:
    """The rates of a machine, by the cells and the microbenchmarks that were measured on it.

    Args:
        cells: measured, one for each place.
        micro: parts and values of single operators.

    Raises:
        InputError: where no rates can be fitted.
    """

    def __init__(self, cells: Sequence[Measured], micro: Sequence[tuple[np.ndarray, float]] = ()) -> None:
        self.cells, self.micro = tuple(cells), tuple(micro)
        parts = np.array([cell.place.parts for cell in cells] + [part for part, _ in micro])
        values = np.array([cell.value for cell in cells] + [value for _, value in micro])
        weights = np.array([1.0] * len(cells) + [math.sqrt(MICRO_WEIGHT)] * len(micro))
        largest = parts.max(axis=0)
        self.known = largest > 0
        scale = np.where(self.known, largest, 1)
        try:
            solution, _ = nnls(parts / scale / values[:, None] * weights[:, None], weights)
        except RuntimeError as e:
            raise InputError(
                "no rates of this machine can be fitted to the measured cells",
                got=f"{len(cells)} cells and {len(micro)} microbenchmarks: {e}",
                expected="times that follow the work of the cells",
                remedy="measure the cells again with `wfbench profile`, or leave the microbenchmarks out",
            ) from e
        self.rates: np.ndarray = solution / scale
        self._left = np.log([cell.value / self.sum_of(cell.place) for cell in cells])
        self._most_parts = parts[: len(cells)].max(axis=0)
        self._most_sum = max(self.sum_of(cell.place) for cell in cells)

    def sum_of(self, place: Place) -> float:
        """The value by the rates alone."""
        return max(float(place.parts @ self.rates), float(np.finfo(float).tiny))

    def reach_of(self, place: Place) -> float:
        """How many times the largest of the measured cells a place is: by the sum, or by that part where it is most.

        A part that microbenchmarks alone have counts in the sum only.
        """
        seen = self._most_parts > 0
        return max(self.sum_of(place) / self._most_sum, *(place.parts[seen] / self._most_parts[seen]))

    def value_of(self, place: Place) -> float:
        """The value, with what the rates leave over at the nearest cells: of the line, else of the mixer, else of all."""
        same_line = [cell.place.mixer == place.mixer and cell.place.size == place.size for cell in self.cells]
        same_mixer = [cell.place.mixer == place.mixer for cell in self.cells]
        same_size = [cell.place.size == place.size for cell in self.cells]
        chosen = next(np.array(group) for group in (same_line, same_mixer, same_size, [True] * len(self.cells)) if any(group))
        distance = np.abs(np.log([self.sum_of(cell.place) / self.sum_of(place) for cell in self.cells]))
        weights = chosen * np.exp(-(distance - distance[chosen].min()))
        return self.sum_of(place) * math.exp(float(weights @ self._left / weights.sum()))


def question_of(place: Place, cells: Iterable[Measured]) -> Question:
    """What of a place was not measured."""
    cells = list(cells)
    own = [cell.place.tokens for cell in cells if (cell.place.mixer, cell.place.size) == (place.mixer, place.size)]
    if own:
        return "beyond" if not min(own) <= place.tokens <= max(own) else "resolution"
    return "mixer" if any(cell.place.size == place.size for cell in cells) else "size"


def mixer_of(line: str) -> str:
    """The mixer of a place, whatever runs its attention: "softmax" of "softmax [flash]"."""
    return re.sub(r" \[[^\[\]]*\]$", "", line)


def hold_out(cells: Sequence[Measured], micro: Sequence[tuple[np.ndarray, float]], question: Question) -> tuple[HeldOut, ...]:
    """Every cell that can be left out for a question, predicted from the others; none where nothing would be left to tell."""
    if question == "beyond":
        return tuple(_hold_out_beyond(cells, micro))
    group = {"resolution": lambda p: p.tokens, "mixer": lambda p: mixer_of(p.mixer), "size": lambda p: p.size}[question]
    found: list[HeldOut] = []
    for value in dict.fromkeys(group(cell.place) for cell in cells):
        left = [cell for cell in cells if group(cell.place) != value]
        out = [cell for cell in cells if group(cell.place) == value and question_of(cell.place, left) == question]
        if left and out:
            found += _predict(Calibration(left, micro), out, question, 1.0)
    return tuple(found)


def _hold_out_beyond(cells: Sequence[Measured], micro: Sequence[tuple[np.ndarray, float]]) -> Iterable[HeldOut]:
    """For each resolution that enough others lie below: the cells beyond it, from those up to it."""
    places = sorted({cell.place.tokens for cell in cells})
    for last in places[LEAST_RESOLUTIONS - 1 : -1]:
        left = [cell for cell in cells if cell.place.tokens <= last]
        calibration = Calibration(left, micro)
        for cell in cells:
            step = cell.place.tokens / last
            if 1 < step <= MOST_STEP and question_of(cell.place, left) == "beyond":
                yield from _predict(calibration, [cell], "beyond", step)


def _predict(calibration: Calibration, cells: Iterable[Measured], question: Question, step: float) -> list[HeldOut]:
    return [
        HeldOut(question, c.place.mixer, c.place.size, c.place.tokens, step, c.value, calibration.value_of(c.place))
        for c in cells
        if not _unseen(calibration, c.place) and calibration.reach_of(c.place) <= _most_reach(question)
    ]


def _unseen(calibration: Calibration, place: Place) -> bool:
    """Whether the place has parts of which the calibration has none."""
    return bool((place.parts[~calibration.known] > 0).any())


def _most_reach(question: Question) -> float:
    """So many times the work of the largest measured cell is predicted.

    Beyond the resolutions of a measured line the tokens themselves are limited, and attention's work grows with their square.
    """
    return MOST_STEP**2 if question == "beyond" else MOST_STEP


def accuracy_of(found: Sequence[HeldOut]) -> Accuracy:
    """The error of one question's held-out cells."""
    question = found[0].question
    sizes = [abs(cell.predicted / cell.measured - 1) for cell in found]
    return Accuracy(
        question,
        len(found),
        len({_group(cell) for cell in found}),
        float(np.median(sizes)),
        _coverage(found),
        half_width_of(found),
        max(cell.step for cell in found) if question == "beyond" else None,
    )


def _group(cell: HeldOut) -> str:
    """Errors of one group resemble one another: those of a mixer, whatever runs its attention; for "size", of a size."""
    return cell.size if cell.question == "size" else mixer_of(cell.mixer)


def half_width_of(found: Sequence[HeldOut], least: int = LEAST_GROUPS) -> float | None:
    """The half-width of the interval of ln value, by the errors of held-out cells; None for fewer than ``least`` groups.

    Cells of one mixer (for "size", of one size) are off alike, so many cells of few mixers do not say how far another is off.
    The width is at least t s: t Student's quantile with as many degrees of freedom as groups, s² the mean over groups of
    their mean squared error. That holds a new group's cell with 95 % probability where errors are normal, even if those of a
    group are all equal. Where there are cells enough for it (19), it is also at least their conformal quantile.
    """
    groups: dict[Hashable, list[float]] = {}
    for cell in found:
        groups.setdefault(_group(cell), []).append(cell.log_error)
    return None if len(groups) < max(1, least) else _half_width(groups, len(groups))


def ratio_half_width_of(found: Sequence[HeldOut]) -> float | None:
    """The half-width of the interval of ln of a ratio of two predicted values; None for too few groups, as `half_width_of`.

    By every two mixers that were held out at one size, number of tokens and step. Of m mixers, the differences between them
    have m − 1 degrees of freedom; for "size" the groups are the sizes.
    """
    beside: dict[Hashable, list[HeldOut]] = {}
    for cell in found:
        beside.setdefault((cell.size, cell.tokens, cell.step), []).append(cell)
    errors: dict[Hashable, list[float]] = {}
    for cells in beside.values():
        for a, b in itertools.combinations(cells, 2):
            if mixer_of(a.mixer) != mixer_of(b.mixer):
                errors.setdefault(_group(a), []).append(a.log_error - b.log_error)
    by_size = any(cell.question == "size" for cell in found)
    groups = len(errors) if by_size else len({_group(cell) for cell in found})
    return _half_width(errors, groups if by_size else groups - 1) if errors and groups >= LEAST_GROUPS else None


def _half_width(errors: Mapping[Hashable, Sequence[float]], freedom: int) -> float:
    """By the errors of groups, as `half_width_of` says."""
    from scipy.special import stdtrit

    mean_square = float(np.mean([np.mean(np.square(own)) for own in errors.values()]))
    by_groups = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(mean_square)
    return max(by_groups, conformal_half_width([error for own in errors.values() for error in own]) or 0.0)


def conformal_half_width(errors: Sequence[float], level: float = LEVEL) -> float | None:
    """The half-width that holds a new error of the same kind with probability ``level``; None for too few errors."""
    place = math.ceil((len(errors) + 1) * level)
    return None if place > len(errors) else sorted(abs(error) for error in errors)[place - 1]


def _coverage(found: Sequence[HeldOut]) -> float | None:
    """How often an interval holds, its width from the cells of other mixers (for "size", of other sizes)."""
    held: list[bool] = []
    for value in dict.fromkeys(_group(cell) for cell in found):
        width = half_width_of([cell for cell in found if _group(cell) != value], LEAST_GROUPS - 1)
        if width is not None:
            held += [abs(cell.log_error) <= width for cell in found if _group(cell) == value]
    return sum(held) / len(held) if held else None


@dataclass(frozen=True, eq=False)
class Predictor:
    """A calibration, with what is known of its errors."""

    calibration: Calibration
    held_out: tuple[HeldOut, ...]

    @classmethod
    def of(cls, cells: Sequence[Measured], micro: Sequence[tuple[np.ndarray, float]] = ()) -> Predictor:
        """Fitted to all cells, after each question was tried on them."""
        found = [cell for question in QUESTIONS for cell in hold_out(cells, micro, question)]
        return cls(Calibration(cells, micro), tuple(found))

    @functools.cached_property
    def accuracies(self) -> dict[Question, Accuracy]:
        """By question; those that could not be tried are missing."""
        groups = {question: [cell for cell in self.held_out if cell.question == question] for question in QUESTIONS}
        return {question: accuracy_of(found) for question, found in groups.items() if found}

    def predict(self, place: Place) -> Predicted:
        """The value at a place, or why there is none."""
        question = question_of(place, self.calibration.cells)
        if _unseen(self.calibration, place):
            return Predicted(question, None, "it has operators of a kind that no measured cell and no microbenchmark has")
        if why := self._out_of_range(place, question):
            return Predicted(question, None, f"out of the calibrated range: {why}")
        step = self._step_of(place, question)
        tried = self._tried(question, step)
        half = half_width_of(tried)
        if question == "resolution" and half is None:
            half = half_width_of(self._tried("beyond", 1.0))  # if few could be left out, the larger error beyond them
        if half is None:
            groups, word = len({_group(cell) for cell in tried}), "sizes" if question == "size" else "mixers"
            what = {"resolution": "a resolution", "beyond": "the largest resolutions", "mixer": "a mixer", "size": "a size"}
            far = f" at {step:.3g} times the tokens or more" if question == "beyond" else ""
            why = (
                f"how far off it would be is not known: {groups} {word} could be predicted with {what[question]} left out{far}"
            )
            return Predicted(question, None, f"{why}, of {LEAST_GROUPS} that an interval needs")
        value, spread = self.calibration.value_of(place), math.exp(half)
        return Predicted(question, Interval(value, value / spread, value * spread))

    def _out_of_range(self, place: Place, question: Question) -> str:
        """Why a place is out of the calibrated range; empty for one within it."""
        most, least = (end(cell.place.tokens for cell in self.calibration.cells) for end in (max, min))
        farthest = self.accuracies["beyond"].farthest or 1.0 if "beyond" in self.accuracies else 1.0
        if not least <= place.tokens <= most * farthest:
            return f"{place.tokens:,} tokens, and it is tried from {least:,} to {int(most * farthest):,} tokens"
        if place.tokens > most and question != "beyond":
            return f"beyond {most:,} tokens only measured lines are tried"
        reach, limit = self.calibration.reach_of(place), _most_reach(question)
        if reach > limit:
            return f"its work, or a part of it, is {reach:,.1f} times the most measured, and {limit:g} times is the limit"
        return ""

    def _step_of(self, place: Place, question: Question) -> float:
        """Beyond the resolutions of a measured line: a place's tokens by the line's most; else 1."""
        own = [c.place.tokens for c in self.calibration.cells if (c.place.mixer, c.place.size) == (place.mixer, place.size)]
        return max(1.0, place.tokens / max(own)) if question == "beyond" else 1.0

    def _tried(self, question: Question, step: float) -> list[HeldOut]:
        """The held-out cells of a question; beyond the measured resolutions, those with at least this step."""
        return [cell for cell in self.held_out if cell.question == question and cell.step >= step * (1 - 1e-9)]

    def crossover(self, mixer: Sequence[Place], baseline: Sequence[Place]) -> Crossover | str:
        """From how many tokens a mixer is faster than the baseline, by predicted times; or why that is not known.

        Args:
            mixer, baseline: at the same numbers of tokens, ascending.
        """
        for place in (*mixer, *baseline):
            if why := self.predict(place).why_none:
                return why
        steps: dict[Question, float] = {}
        for place in (*mixer, *baseline):
            question = question_of(place, self.calibration.cells)
            steps[question] = max(steps.get(question, 1.0), self._step_of(place, question))
        alone = not any(question_of(place, self.calibration.cells) == "mixer" for place in baseline)
        widths = [self._ratio_width(question, step, alone=alone) for question, step in steps.items()]
        known = [width for width in widths if width is not None]
        if len(known) < len(widths):
            return "how far off the ratio of two predicted times would be is not known: too few mixers could be left out"
        half = max(known)
        tokens = [float(place.tokens) for place in mixer]
        log = [
            math.log(self.calibration.value_of(m) / self.calibration.value_of(b)) for m, b in zip(mixer, baseline, strict=True)
        ]
        found = interpolated_crossover(tokens, log)
        slower = [n for n, ratio in zip(tokens, log, strict=True) if ratio > half]
        unsure = [n for n, ratio in zip(tokens, log, strict=True) if ratio >= -half]
        later = [n for n in tokens if not unsure or n > unsure[-1]]
        low, high = slower[-1] if slower else 0.0, later[0] if later else math.inf
        point = {"always": 0.0, "none": math.inf}.get(found.verdict, found.tokens or 0.0)
        return Crossover(found.verdict, found.tokens, scaling.Interval(min(low, point), max(high, point)))

    def _ratio_width(self, question: Question, step: float, *, alone: bool) -> float | None:
        """Of the interval of ln(mixer / baseline).

        By every two lines that were held out at one size and number of tokens. Of a mixer that was not measured, by the
        held-out cells themselves where it is predicted ``alone``, since the baseline's time is known.
        """
        own = self._tried(question, step)
        if question == "mixer" and alone:
            return half_width_of(own)
        found = ratio_half_width_of(own)
        return self._ratio_width("beyond", 1.0, alone=alone) if found is None and question == "resolution" else found


_FromPredict = HeldOutRow | PredictionRow | PredictedCrossoverRow


@dataclass(frozen=True)
class Trial:
    """How far off the predictions of one quantity were for one question.

    Attributes:
        quantity: "latency" or "memory".
        accuracy: the error.
        worst: the cell that was farthest off.
    """

    quantity: Quantity
    accuracy: Accuracy
    worst: HeldOut


@dataclass(frozen=True)
class Predictions:
    """What one call of `wfbench predict` found.

    Attributes:
        session: of the call.
        created, command: of its newest row.
        trials: by quantity and question.
        cells: predictions, in the order of mixers and resolutions.
        crossovers: by predicted times.
        device, threads, protocol: of the profile; None where older rows do not say it.
        measured_to: the most tokens of a cell that was predicted from; None likewise.
        earlier: older calls that asked the same of the same machine, in the order of time.
    """

    session: str
    created: str
    command: str
    trials: tuple[Trial, ...]
    cells: tuple[PredictionRow, ...]
    crossovers: tuple[PredictedCrossoverRow, ...]
    device: str | None = None
    threads: int | None = None
    protocol: str | None = None
    measured_to: int | None = None
    earlier: tuple[Predictions, ...] = ()

    @property
    def asked(self) -> Hashable:
        """What calls have in common that ask the same of the same machine."""
        cells = {(row.model, label(row), row.batch, row.resolution, row.dtype) for row in self.cells}
        crossovers = {(row.model, label(row), row.batch, row.looked_to, row.dtype, row.baseline) for row in self.crossovers}
        return self.device, self.threads, self.protocol, self.measured_to, frozenset(cells), frozenset(crossovers)


def predictions(rows: Iterable[AnyRow]) -> tuple[Predictions, ...]:
    """The predictions that the rows hold, one result for each call of the command, in the order of time.

    Of calls that ask the same the newest, which names the earlier ones.
    """
    own = (row for row in rows if isinstance(row, HeldOutRow | PredictionRow | PredictedCrossoverRow))
    sessions = group(own, lambda row: row.session)
    calls = sorted((_of_session(session, found) for session, found in sessions.items()), key=lambda call: call.created)
    alike = group(calls, lambda call: call.asked).values()
    newest = [replace(same[-1], earlier=tuple(same[:-1])) for same in alike]
    return tuple(sorted(newest, key=lambda call: call.created))


def _of_session(session: str, rows: Sequence[_FromPredict]) -> Predictions:
    tried: dict[tuple[Quantity, Question], list[HeldOut]] = {}
    for row in rows:
        if isinstance(row, HeldOutRow):
            cell = HeldOut(row.question, row.mixer, row.size, row.tokens, row.step, row.measured, row.predicted)
            tried.setdefault((row.quantity, row.question), []).append(cell)
    newest = max(rows, key=lambda row: row.created)
    return Predictions(
        session=session,
        created=newest.created,
        command=newest.command,
        trials=tuple(
            Trial(quantity, accuracy_of(cells), max(cells, key=lambda cell: abs(cell.log_error)))
            for (quantity, _), cells in tried.items()
        ),
        cells=tuple(row for row in rows if isinstance(row, PredictionRow)),
        crossovers=tuple(row for row in rows if isinstance(row, PredictedCrossoverRow)),
        device=newest.device,
        threads=newest.threads,
        protocol=newest.protocol,
        measured_to=max((row.measured_to for row in rows if row.measured_to is not None), default=None),
    )
