"""Times and memory of cells that were never measured, from those that were: with an interval from held-out error, or a reason.

The value of a cell is taken to be a sum over what it does, each with a rate that is not negative: by kind of operator the
multiply-adds and the bytes, and the number of operators (`wfbench.measure.work`); for memory, the bytes alive by the shapes.
The rates minimise squared relative errors over all measured cells and microbenchmarks (Lawson and Hanson 1974, ch. 23). What
the rates leave over at the measured cells nearest to the one that is asked for multiplies the sum.

How far such a value is off is measured, not assumed: measured cells are left out as the question would have it (a resolution,
all beyond a resolution, a mixer, a size of model or batch), and predicted. The interval is split-conformal: the quantile of
the held-out |log error| (Vovk, Gammerman and Shafer 2005, ch. 4). Whether it covers as often as it says is shown by taking the
quantile from the other lines, mixers or sizes than those it is tried on.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from wfbench.analysis.interval import LEVEL, Interval
from wfbench.measure import scaling
from wfbench.measure.scaling import Crossover, interpolated_crossover
from wfbench.records import AnyRow, HeldOutRow, PredictedCrossoverRow, PredictionRow, Quantity, Question

#: What was not measured: a resolution between measured ones, one beyond them, the mixer, or the size of the model or batch.

QUESTIONS: tuple[Question, ...] = ("resolution", "beyond", "mixer", "size")
#: Of squared relative errors: that of a microbenchmark counts as much as this many cells'.
MICRO_WEIGHT = 0.1
#: Fewer resolutions are not extrapolated from.
LEAST_RESOLUTIONS = 3
#: Nothing is extrapolated to more than so many times the tokens: an image of twice the side.
MOST_STEP = 4.0


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
        median_error: the median of |predicted / measured − 1|.
        coverage: how often the interval holds the measured value, its width taken from other groups; None without a width.
        half_width: of the interval of ln value; None where there are too few cells for the level.
        farthest: the largest step beyond the measured resolutions that was tried, as a factor of the tokens; "beyond" alone.
    """

    question: Question
    cells: int
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
    """

    def __init__(self, cells: Sequence[Measured], micro: Sequence[tuple[np.ndarray, float]] = ()) -> None:
        self.cells, self.micro = tuple(cells), tuple(micro)
        parts = np.array([cell.place.parts for cell in cells] + [part for part, _ in micro])
        values = np.array([cell.value for cell in cells] + [value for _, value in micro])
        weights = np.array([1.0] * len(cells) + [math.sqrt(MICRO_WEIGHT)] * len(micro))
        largest = parts.max(axis=0)
        self.known = largest > 0
        scale = np.where(self.known, largest, 1)
        solution, _ = nnls(parts / scale / values[:, None] * weights[:, None], weights)
        self.rates: np.ndarray = solution / scale
        self._left = np.log([cell.value / self.sum_of(cell.place) for cell in cells])

    def sum_of(self, place: Place) -> float:
        """The value by the rates alone."""
        return max(float(place.parts @ self.rates), float(np.finfo(float).tiny))

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


def hold_out(cells: Sequence[Measured], micro: Sequence[tuple[np.ndarray, float]], question: Question) -> tuple[HeldOut, ...]:
    """Every cell that can be left out for a question, predicted from the others; none where nothing would be left to tell."""
    if question == "beyond":
        return tuple(_hold_out_beyond(cells, micro))
    group = {"resolution": lambda p: p.tokens, "mixer": lambda p: p.mixer, "size": lambda p: p.size}[question]
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
        if not _unseen(calibration, c.place)
    ]


def _unseen(calibration: Calibration, place: Place) -> bool:
    """Whether the place has parts of which the calibration has none."""
    return bool((place.parts[~calibration.known] > 0).any())


def accuracy_of(found: Sequence[HeldOut]) -> Accuracy:
    """The error of one question's held-out cells."""
    question = found[0].question
    sizes = [abs(cell.predicted / cell.measured - 1) for cell in found]
    return Accuracy(
        question,
        len(found),
        float(np.median(sizes)),
        _coverage(found),
        conformal_half_width([cell.log_error for cell in found]),
        max(cell.step for cell in found) if question == "beyond" else None,
    )


def conformal_half_width(errors: Sequence[float], level: float = LEVEL) -> float | None:
    """The half-width that holds a new error of the same kind with probability ``level``; None for too few errors."""
    place = math.ceil((len(errors) + 1) * level)
    return None if place > len(errors) else sorted(abs(error) for error in errors)[place - 1]


def _coverage(found: Sequence[HeldOut]) -> float | None:
    """How often an interval holds, its width from the cells of other mixers (for "size", of other sizes)."""

    def group(cell: HeldOut) -> Hashable:
        return cell.size if cell.question == "size" else cell.mixer

    held: list[bool] = []
    for value in dict.fromkeys(group(cell) for cell in found):
        width = conformal_half_width([cell.log_error for cell in found if group(cell) != value])
        if width is not None:
            held += [abs(cell.log_error) <= width for cell in found if group(cell) == value]
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
        cells = self.calibration.cells
        question = question_of(place, cells)
        if _unseen(self.calibration, place):
            return Predicted(question, None, "it has operators of a kind that no measured cell and no microbenchmark has")
        accuracy = self._accuracy_for(question)
        if accuracy is None or accuracy.half_width is None:
            tried = 0 if accuracy is None else accuracy.cells
            what = {"resolution": "a resolution", "beyond": "the largest resolutions", "mixer": "a mixer", "size": "a size"}
            why = f"how far off it would be is not known: {tried} cells could be predicted with {what[question]} left out, of "
            return Predicted(question, None, f"{why}{math.ceil(LEVEL / (1 - LEVEL))} that an interval needs")
        most, least = (end(cell.place.tokens for cell in cells) for end in (max, min))
        farthest = self.accuracies["beyond"].farthest or 1.0 if "beyond" in self.accuracies else 1.0
        if not least <= place.tokens <= most * farthest:
            reach = f"from {least:,} to {int(most * farthest):,} tokens"
            return Predicted(question, None, f"out of the calibrated range: {place.tokens:,} tokens, and it is tried {reach}")
        if place.tokens > most and question != "beyond":
            return Predicted(
                question, None, f"out of the calibrated range: beyond {most:,} tokens only measured lines are tried"
            )
        value = self.calibration.value_of(place)
        spread = math.exp(accuracy.half_width)
        return Predicted(question, Interval(value, value / spread, value * spread))

    def _accuracy_for(self, question: Question) -> Accuracy | None:
        """The error of a question; of a resolution between others, if few could be left out, the larger one beyond them."""
        own = self.accuracies.get(question)
        few = own is None or own.half_width is None
        return self.accuracies.get("beyond") if few and question == "resolution" else own

    def crossover(self, mixer: Sequence[Place], baseline: Sequence[Place]) -> Crossover | str:
        """From how many tokens a mixer is faster than the baseline, by predicted times; or why that is not known.

        Args:
            mixer, baseline: at the same numbers of tokens, ascending.
        """
        for place in (*mixer, *baseline):
            if why := self.predict(place).why_none:
                return why
        questions = {question_of(place, self.calibration.cells) for place in (*mixer, *baseline)}
        widths = [self._ratio_width(question) for question in questions]
        known = [width for width in widths if width is not None]
        if len(known) < len(widths):
            return "how far off the ratio of two predicted times would be is not known: too few cells could be left out"
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

    def _ratio_width(self, question: Question) -> float | None:
        """Of the interval of ln(mixer / baseline).

        Of a measured mixer by every two lines that were held out at one size and number of tokens; of another by the held-out
        cells themselves, since the baseline's time is known.
        """
        own = [cell for cell in self.held_out if cell.question == question]
        if question in ("mixer", "size"):
            return conformal_half_width([cell.log_error for cell in own])
        beside: dict[Hashable, list[float]] = {}
        for cell in own:
            beside.setdefault((cell.size, cell.tokens, cell.step), []).append(cell.log_error)
        found = conformal_half_width([a - b for errors in beside.values() for a, b in itertools.combinations(errors, 2)])
        return self._ratio_width("beyond") if found is None and question == "resolution" else found


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
        trials: by quantity and question.
        cells: predictions, in the order of mixers and resolutions.
        crossovers: by predicted times.
    """

    session: str
    trials: tuple[Trial, ...]
    cells: tuple[PredictionRow, ...]
    crossovers: tuple[PredictedCrossoverRow, ...]


def predictions(rows: Iterable[AnyRow]) -> tuple[Predictions, ...]:
    """The predictions that the rows hold, one result for each call of the command."""
    found: dict[str, list[AnyRow]] = {}
    for row in rows:
        if isinstance(row, HeldOutRow | PredictionRow | PredictedCrossoverRow):
            found.setdefault(row.session, []).append(row)
    return tuple(_of_session(session, own) for session, own in found.items())


def _of_session(session: str, rows: Sequence[AnyRow]) -> Predictions:
    tried: dict[tuple[Quantity, Question], list[HeldOut]] = {}
    for row in rows:
        if isinstance(row, HeldOutRow):
            cell = HeldOut(row.question, row.mixer, row.size, row.tokens, row.step, row.measured, row.predicted)
            tried.setdefault((row.quantity, row.question), []).append(cell)
    trials = tuple(
        Trial(quantity, accuracy_of(cells), max(cells, key=lambda cell: abs(cell.log_error)))
        for (quantity, _), cells in tried.items()
    )
    cells = tuple(row for row in rows if isinstance(row, PredictionRow))
    return Predictions(session, trials, cells, tuple(row for row in rows if isinstance(row, PredictedCrossoverRow)))
