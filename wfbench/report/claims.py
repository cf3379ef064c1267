"""Claims that were written before the runs, and what the records say to each: supported, contradicted or undecidable.

docs/SWEEPS.md describes the file. Every claim of accuracy is decided by one-sided bounds, each at the level 1 − 5%/k for k
such claims in the file, on the standard deviation over seeds pooled over all lines that the file names: so the chance that
any of these answers is false is 5% at the most. The seeds are those that the file names, no more and no fewer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from wfbench import strict
from wfbench.errors import InputError
from wfbench.records import AnyRow, ClaimsRow, CrossoverRow, FitRow, MeasurementRow, ProfileRow, Row, TrainRow
from wfbench.report.parts import DASH, SMALL_SIDE, Line, Table, group, label, latest, make_table, pixels, plural, spread_note
from wfbench.report.statistics import LEVEL, equivalence_power, power_of, spread_p
from wfbench.strict import Section

P = TypeVar("P", FitRow, CrossoverRow)
Verdict = Literal["supported", "contradicted", "undecidable"]
_Points = Annotated[float, Field(gt=-100, lt=100)]


class _Claim(Section):
    id: str = Field(min_length=1)
    #: The claim in words, for people.
    says: str = Field(min_length=1)
    #: The line that it is about, as tables name it: "softmax + DWC".
    line: str = Field(min_length=1)


def _others(line: str, *others: str) -> None:
    """Refuse a line that is compared with itself, or twice with the same one."""
    if line in others:
        raise ValueError(f"{line} is compared with itself")
    if len(set(others)) < len(others):
        raise ValueError("a line is named twice in among")


class Better(_Claim):
    """line − than > by, in points of accuracy. A negative ``by`` says "no worse than, by more than"."""

    kind: Literal["better"]
    than: str
    by: _Points = 0.0
    #: The true difference whose power is printed.
    effect: _Points = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Better:
        _others(self.line, self.than)
        if self.effect <= self.by:
            raise ValueError(f"effect ({self.effect:g}) must be more than by ({self.by:g}): its power is printed")
        return self


class Within(_Claim):
    """|line − of| < margin, in points of accuracy: "as good as"."""

    kind: Literal["within"]
    of: str
    margin: float = Field(gt=0, lt=100)

    @model_validator(mode="after")
    def _consistent(self) -> Within:
        _others(self.line, self.of)
        return self


class Best(_Claim):
    """line − other > 0 for every other one of a family."""

    kind: Literal["best"]
    among: tuple[str, ...] = Field(min_length=1)
    #: The true lead over each whose power is printed.
    effect: float = Field(1.0, gt=0, lt=100)

    @model_validator(mode="after")
    def _consistent(self) -> Best:
        _others(self.line, *self.among)
        return self


class Exponent(_Claim):
    """at_least ≤ d log t / d log N ≤ at_most at an image side, by a profile's curve."""

    kind: Literal["exponent"]
    quantity: Literal["latency", "macs"] = "latency"
    #: In pixels; None: the largest that was measured.
    side: int | None = Field(None, ge=1)
    at_least: float | None = None
    at_most: float | None = None
    model: str = "vit-tiny"
    mode: Literal["infer", "train"] = "infer"

    @model_validator(mode="after")
    def _consistent(self) -> Exponent:
        if self.at_least is None and self.at_most is None:
            raise ValueError("at_least or at_most is needed")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least:g}) is more than at_most ({self.at_most:g})")
        return self


class Crossover(_Claim):
    """line takes less time than ``than`` at every image side from ``from`` on."""

    kind: Literal["crossover"]
    than: str = "softmax"
    side: int = Field(ge=1, alias="from")
    model: str = "vit-tiny"
    mode: Literal["infer", "train"] = "infer"

    @model_validator(mode="after")
    def _consistent(self) -> Crossover:
        _others(self.line, self.than)
        return self


AnyClaim = Annotated[Better | Within | Best | Exponent | Crossover, Field(discriminator="kind")]


class Budget(Section):
    """What each run may cost: a run with another budget does not count."""

    epochs: int = Field(ge=1)
    #: Whether models were matched to the baseline's budget, and how many rates were tried for each line.
    match: Literal["params", "macs"] | None = None
    trials: int = Field(0, ge=0)


class ClaimsFile(Section):
    """A file of claims about the runs of one recipe."""

    recipe: str
    #: All of these seeds decide, and no other.
    seeds: tuple[int, ...] = Field(min_length=2)
    budget: Budget
    weights: Literal["raw", "ema"] = "raw"
    claims: tuple[AnyClaim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> ClaimsFile:
        names = [claim.id for claim in self.claims]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ValueError(f"two claims have the id {twice[0]}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        return self


@dataclass(frozen=True)
class Claims:
    """A file of claims with its text and the text's hash."""

    text: str
    sha256: str
    file: ClaimsFile


def read_claims(path: Path) -> Claims:
    """Read a file of claims.

    Raises:
        InputError: for a file that cannot be read, an unknown key, or a value that cannot be.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError("cannot read the claims", got=f"{path}: {strict.one_line(e)}", expected="a YAML file of claims") from e
    return _parsed(text, str(path))


def _parsed(text: str, where: str) -> Claims:
    file = strict.validated(ClaimsFile, strict.parse_yaml(text, "claims file", where), "claims file", where)
    return Claims(text, hashlib.sha256(text.encode()).hexdigest(), file)


@dataclass(frozen=True)
class Answer:
    """What the records say to a claim.

    ``estimate``, ``low`` and ``high`` are in the claim's unit: points, an exponent, pixels; None where there is no such
    number. ``power`` is the probability that so many seeds support the claim where it is true by as much as it says, None
    where there is none. ``rows`` were used, ``why`` says what decided or what is missing.
    """

    verdict: Verdict
    why: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    power: float | None = None
    rows: tuple[Row, ...] = ()


def claims_tables(rows: Iterable[AnyRow], stated: Claims | None = None) -> list[Table]:
    """The answers to the claims that the records hold, or to those of a file, which the records must hold unchanged.

    Raises:
        InputError: for recorded claims whose text is not that of their hash.
    """
    rows = list(rows)
    recorded = [row for row in rows if isinstance(row, ClaimsRow)]
    texts: dict[str, Claims] = {}
    for row in recorded:
        found = _parsed(row.text, f"the claims recorded {row.created}")
        if found.sha256 != row.sha256:
            raise InputError(
                "recorded claims were changed",
                got=f"a text of SHA-256 {found.sha256[:12]}",
                expected=f"that of the record of {row.created}: {row.sha256[:12]}",
                remedy="restore the records",
            )
        texts[row.sha256] = found
    if stated is not None:
        texts = {stated.sha256: stated}
    several = len(texts) > 1
    return [_table(f"claims-{sha256[:8]}" if several else "claims", found, rows, recorded) for sha256, found in texts.items()]


def _table(name: str, found: Claims, rows: Sequence[AnyRow], recorded: Sequence[ClaimsRow]) -> Table:
    file = found.file
    accuracy = _Accuracy.of(file, rows)
    answers = _answers(file, rows, accuracy)
    lines: list[Line] = []
    for claim in file.claims:
        said = answers[claim.id]
        stated = registration(found.sha256, recorded, said.rows)
        digits = 0 if isinstance(claim, Crossover) else 2
        interval = _interval(said, digits)
        cells = {
            "claim": claim.id,
            "says": claim.says,
            "holds if": _condition(claim),
            "verdict": said.verdict,
            "estimate": interval,
            "power": DASH if said.power is None else _share(said.power),
            "why": said.why,
            "pre-registered": stated or "yes",
        }
        raw: dict[str, object] = {
            "id": claim.id,
            "kind": claim.kind,
            "line": claim.line,
            "says": claim.says,
            "verdict": said.verdict,
            "estimate": said.estimate,
            "low": said.low,
            "high": said.high,
            **dict(zip(("holds_above", "holds_below"), _region(claim), strict=True)),
            "power": said.power,
            "why": said.why,
            "rows": len(said.rows),
            "pre_registered": stated is None,
            "registration": stated or "yes",
            "claims_sha256": found.sha256,
        }
        lines.append((cells, raw))
    used = [row for said in answers.values() for row in said.rows if isinstance(row, TrainRow)]
    sides = {max(row.image_size) for row in used}
    return make_table(
        name,
        f"Claims: recipe {file.recipe}, {plural(len(file.seeds), 'seed')}",
        lines,
        [*_notes(found, sides), *spread_note(accuracy.p_spread)],
    )


def _notes(found: Claims, sides: Iterable[int]) -> list[str]:
    file, k = found.file, len(_of_accuracy(found.file))
    budget = [plural(file.budget.epochs, "epoch")]
    budget += [f"{file.budget.match} matched"] if file.budget.match else ["models as they are"]
    budget += [f"{file.budget.trials} trials of tuning for each line"] if file.budget.trials else ["no tuning"]
    notes = [
        f"The claims of SHA-256 {found.sha256[:12]} ask for seeds {', '.join(map(str, file.seeds))} of recipe {file.recipe}: "
        f"{', '.join(budget)}. Runs with another budget or other seeds do not count.",
        "“Undecidable” is no finding: with these runs the claim may be true or false.",
    ]
    if small := [side for side in sides if side <= SMALL_SIDE]:
        notes.append(
            f"Images of {max(small)} px cannot decide which mixer is best on ImageNet, at high resolution or after long "
            "training: they have few tokens, and reward convolutions. They show what these runs, and differences within a "
            "family, are like."
        )
    if k:
        notes.append(
            "Differences are in points of accuracy. Each end of an interval is a one-sided bound on the standard deviation "
            f"pooled over all lines that the file names, at the level 1 − 5%/{k} for {plural(k, 'claim')} of accuracy, so that "
            "the chance of any false answer among them is 5% at the most. Power is the probability that a claim is "
            "supported where the true difference is its effect (of “within”: where it is 0), if the pooled deviation is the "
            "true one; of “best” it is a lower bound."
        )
    if len(file.claims) > k:
        notes.append("Claims of scaling are held against their own 95% intervals, each for itself; they have no power printed.")
    return notes


def _condition(claim: AnyClaim) -> str:
    match claim:
        case Better():
            return f"{claim.line} − {claim.than} > {f'{claim.by:g}'.replace('-', '−')} points"
        case Within():
            return f"|{claim.line} − {claim.of}| < {claim.margin:g} points"
        case Best():
            return f"{claim.line} > each of {', '.join(claim.among)}"
        case Exponent():
            low = "" if claim.at_least is None else f"{claim.at_least:g} ≤ "
            high = "" if claim.at_most is None else f" ≤ {claim.at_most:g}"
            return f"{low}exponent of {'MACs' if claim.quantity == 'macs' else 'latency'}{high}"
        case Crossover():
            return f"faster than {claim.than} from {claim.side} px on"


def _region(claim: AnyClaim) -> tuple[float | None, float | None]:
    """The points of accuracy between which a claim of accuracy holds, None where there is no end."""
    match claim:
        case Better():
            return claim.by, None
        case Within():
            return -claim.margin, claim.margin
        case Best():
            return 0.0, None
        case _:
            return None, None


def _interval(said: Answer, digits: int) -> str:
    def show(value: float | None) -> str:
        return "…" if value is None else f"{value:.{digits}f}".replace("-", "−")

    if said.estimate is None and said.low is None and said.high is None:
        return DASH
    if said.low is None and said.high is None:
        return show(said.estimate)
    return f"{show(said.estimate) if said.estimate is not None else DASH} [{show(said.low)}, {show(said.high)}]"


def _share(power: float) -> str:
    return "> 99 %" if power > 0.99 else "< 1 %" if power < 0.01 else f"{100 * power:.0f} %"


def registration(sha256: str, recorded: Iterable[ClaimsRow], used: Iterable[Row]) -> str | None:
    """Why a claim may not be called pre-registered; None if it may.

    It may if a sweep recorded this very file before any of its runs began, and all rows that answer it are newer.
    """
    same = sorted((row for row in recorded if row.sha256 == sha256), key=lambda row: row.created)
    if not same:
        others = sorted({row.sha256[:12] for row in recorded})
        return f"no: the records hold {'the claims ' + ', '.join(others) if others else 'no claims'}, not this file"
    used = list(used)
    older = [row for row in used if row.created < same[0].created]
    if older:
        return f"no: {len(older)} of {plural(len(used), 'row')} are older than the claims"
    if same[0].begun:
        return f"no: {plural(same[0].begun, 'run')} had begun when it was recorded"
    return None


# --- answers


def answer(file: ClaimsFile, rows: Sequence[AnyRow]) -> dict[str, Answer]:
    """The answer to each claim, by its id."""
    return _answers(file, rows, _Accuracy.of(file, rows))


def _answers(file: ClaimsFile, rows: Sequence[AnyRow], accuracy: _Accuracy) -> dict[str, Answer]:
    answers = {}
    for claim in file.claims:
        if isinstance(claim, Exponent):
            answers[claim.id] = _exponent(claim, rows)
        elif isinstance(claim, Crossover):
            answers[claim.id] = _crossover(claim, rows)
        else:
            answers[claim.id] = accuracy.answer(claim)
    return answers


def _of_accuracy(file: ClaimsFile) -> list[Better | Within | Best]:
    return [claim for claim in file.claims if isinstance(claim, Better | Within | Best)]


def compared(file: ClaimsFile) -> list[str]:
    """The lines whose accuracies a file speaks of, each once."""
    return list(dict.fromkeys(name for claim in _of_accuracy(file) for name in _named(claim)))


def _named(claim: Better | Within | Best) -> list[str]:
    others = {"better": lambda c: [c.than], "within": lambda c: [c.of], "best": lambda c: list(c.among)}
    return [claim.line, *others[claim.kind](claim)]


@dataclass(frozen=True)
class _Accuracy:
    """The runs that count, by line and seed, and what their spread allows to say."""

    seeds: tuple[int, ...]
    runs: Mapping[str, Mapping[int, TrainRow]]
    #: Why no line can be compared; "" where they can.
    refused: str
    #: Pooled over the lines with all seeds, in points, and its degrees of freedom.
    deviation: float
    freedom: int
    #: Of Brown and Forsythe's test that these lines spread alike; None where it cannot be made.
    p_spread: float | None
    #: The error that each claim may have.
    alpha: float

    @classmethod
    def of(cls, file: ClaimsFile, rows: Sequence[AnyRow]) -> _Accuracy:
        claims = _of_accuracy(file)
        names = compared(file)
        counted = [row for row in rows if isinstance(row, TrainRow) and _counts(row, file) and label(row) in names]
        families = group(counted, _family)
        runs: dict[str, dict[int, TrainRow]] = {}
        for name, members in group(counted, label).items():
            runs[name] = {row.seed: row for row in latest(members, lambda row: row.seed)}
        whole = [
            [100 * run.accuracy for run in by_seed.values()] for by_seed in runs.values() if set(by_seed) == set(file.seeds)
        ]
        freedom = len(whole) * (len(file.seeds) - 1)
        squares = math.fsum((x - math.fsum(values) / len(values)) ** 2 for values in whole for x in values)
        refused = f"the runs are of {len(families)} settings, which do not compare" if len(families) > 1 else ""
        for name, by_seed in runs.items():
            if len({run.chosen.lr if run.chosen is not None else None for run in by_seed.values()}) > 1:
                refused = f"the runs of {name} were tuned to several rates, so they do not make one line"
        deviation = math.sqrt(squares / freedom) if freedom else 0.0
        p = spread_p(whole) if len(whole) > 1 and deviation > 1e-10 else None
        return cls(file.seeds, runs, refused, deviation, freedom, p, (1 - LEVEL) / max(len(claims), 1))

    def answer(self, claim: Better | Within | Best) -> Answer:
        names = _named(claim)
        used = tuple(row for by_seed in self.runs.values() for row in by_seed.values())  # all: the deviation is pooled
        missing = [(name, sorted(set(self.seeds) - set(self.runs.get(name, {})))) for name in names]
        lacks = "; ".join(f"no run of {name} with seed {', '.join(map(str, seeds))}" for name, seeds in missing if seeds)
        if lacks or self.refused:
            return Answer("undecidable", lacks or self.refused, rows=used)
        if self.deviation <= 1e-10:
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
        """Of a difference of two lines' means."""
        return self.deviation * math.sqrt(2 / len(self.seeds))

    def difference(self, line: str, other: str) -> float:
        mean = [math.fsum(run.accuracy for run in self.runs[name].values()) / len(self.seeds) for name in (line, other)]
        return 100 * (mean[0] - mean[1])

    def critical(self, alpha: float) -> float:
        from scipy.stats import t as student

        return float(student.ppf(1 - alpha, self.freedom))

    def _better(self, claim: Better, used: tuple[Row, ...]) -> Answer:
        d, t = self.difference(claim.line, claim.than), self.critical(self.alpha)
        low, high = d - t * self.error, d + t * self.error
        verdict: Verdict = "supported" if low > claim.by else "contradicted" if high < claim.by else "undecidable"
        power = power_of((claim.effect - claim.by) / self.error, t, self.freedom, two_sided=False)
        return Answer(verdict, f"power at a true difference of {_points(claim.effect)}", d, low, high, power, used)

    def _within(self, claim: Within, used: tuple[Row, ...]) -> Answer:
        """Two one-sided tests; a contradiction may come from either side, so each of these has half the error."""
        d, t = self.difference(claim.line, claim.of), self.critical(self.alpha)
        low, high = d - t * self.error, d + t * self.error
        inside = -claim.margin < low and high < claim.margin
        outside = abs(d) - self.critical(self.alpha / 2) * self.error > claim.margin
        verdict: Verdict = "supported" if inside else "contradicted" if outside else "undecidable"
        power = equivalence_power(claim.margin / self.error, self.freedom, level=1 - self.alpha)
        return Answer(verdict, "power at no difference", d, low, high, power, used)

    def _best(self, claim: Best, used: tuple[Row, ...]) -> Answer:
        """Better than all needs no correction for their number, worse than some one does."""
        count, t = len(claim.among), self.critical(self.alpha)
        leads = {other: self.difference(claim.line, other) for other in claim.among}
        rival = min(leads, key=leads.__getitem__)
        low, high = leads[rival] - t * self.error, leads[rival] + self.critical(self.alpha / count) * self.error
        verdict: Verdict = "supported" if low > 0 else "contradicted" if high < 0 else "undecidable"
        power = max(0.0, 1 - count * (1 - power_of(claim.effect / self.error, t, self.freedom, two_sided=False)))
        why = f"the lead over {rival}, the nearest; power at a true lead of {_points(claim.effect)} over each"
        return Answer(verdict, why, leads[rival], low, high, power, used)


def _points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


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


def _exponent(claim: Exponent, rows: Sequence[AnyRow]) -> Answer:
    fits = [row for row in rows if isinstance(row, FitRow) and _profiled(row, claim)]
    row, why = _only(fits, claim.line)
    if row is None:
        return Answer("undecidable", why)
    at = len(row.sides) - 1 if claim.side is None else _index(row.sides, claim.side)
    if at is None:
        return Answer("undecidable", f"no cell at {claim.side} px, only {', '.join(map(pixels, row.sides))}", rows=(row,))
    exact = row.macs_exponents[at]
    value, low, high = (row.exponents[at], row.exponents_low[at], row.exponents_high[at])
    if claim.quantity == "macs":
        if exact is None:
            return Answer("undecidable", "its MACs were not counted", rows=(row,))
        value = low = high = exact
    least, most = claim.at_least, claim.at_most
    inside = (least is None or low >= least) and (most is None or high <= most)
    outside = (least is not None and high < least) or (most is not None and low > most)
    verdict: Verdict = "supported" if inside else "contradicted" if outside else "undecidable"
    why = "; ".join([f"at {pixels(row.sides[at])} px", *row.doubts])
    return Answer(verdict, why, value, low, high, rows=(row, *_cells(row, rows)))


def _crossover(claim: Crossover, rows: Sequence[AnyRow]) -> Answer:
    found = [row for row in rows if isinstance(row, CrossoverRow) and row.baseline == claim.than and _profiled(row, claim)]
    row, why = _only(found, claim.line)
    if row is None:
        return Answer("undecidable", why)
    measured = f"measured from {row.smallest_side} to {row.largest_side} px"
    if not row.interval:
        return Answer("undecidable", f"too few cells for an interval; {measured}", row.side, rows=(row, *_cells(row, rows)))
    used = (row, *_cells(row, rows))
    if not row.smallest_side <= claim.side <= row.largest_side:
        return Answer("undecidable", f"only {measured}", row.side, row.side_low, row.side_high, rows=used)
    verdict: Verdict = "supported" if _surely_faster(row, claim.side) else "undecidable"
    if _surely_slower(row, claim.side):
        verdict = "contradicted"
    told = {"always": "faster at every side", "none": "slower at the last side", "at": "in between"}[row.verdict]
    return Answer(verdict, f"{told}; {measured}", row.side, row.side_low, row.side_high, rows=used)


def _surely_faster(row: CrossoverRow, side: float) -> bool:
    """Whether a mixer is faster at ``side`` and above: the sides that are not told apart all lie below."""
    return row.verdict != "none" and row.side_high is not None and row.side_high <= side


def _surely_slower(row: CrossoverRow, side: float) -> bool:
    """Whether a mixer is slower at ``side`` or somewhere above.

    What the interval says depends on the verdict: of a mixer that is slower at the last side, sides above the interval are
    surely slower, and so are all if it is the last side alone; of one that overtakes, those just below it. Of one that is
    faster all along the curves nothing is surely slower, wherever the interval lies.
    """
    if row.verdict == "none":
        return row.side_high is not None or (row.side_low is not None and row.side_low >= row.largest_side)
    return row.verdict == "at" and row.side_low is not None and row.side_low > side


def _cells(row: FitRow | CrossoverRow, rows: Iterable[AnyRow]) -> tuple[Row, ...]:
    """What a curve was drawn through: the cells of its session, which may be older than the row."""
    return tuple(cell for cell in rows if isinstance(cell, MeasurementRow | ProfileRow) and cell.session == row.session)


def _profiled(row: FitRow | CrossoverRow, claim: Exponent | Crossover) -> bool:
    return label(row) == claim.line and row.model == claim.model and row.mode in (claim.mode, None)


def _only(rows: Sequence[P], line: str) -> tuple[P | None, str]:
    """The newest row of the one setting that there is; or why none."""
    settings = ("session", "batch", "token_budget", "mode", "dtype", "compiled", "channels_last", "protocol")
    by_setting = group(rows, lambda row: tuple(getattr(row, field) for field in settings))
    if not rows:
        return None, f"no profile of {line}"
    if len(by_setting) > 1:
        return None, f"{len(by_setting)} profiles of {line}, of which the claim could mean any"
    return max(reversed(rows), key=lambda row: row.created), ""


def _index(sides: Sequence[tuple[int, int]], side: int) -> int | None:
    return next((i for i, found in enumerate(sides) if found == (side, side)), None)
