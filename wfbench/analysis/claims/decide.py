"""What the records say to the claims of a file: supported, contradicted or undecidable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wfbench.analysis.claims.accuracy import AccuracyAnswers
from wfbench.analysis.claims.answer import Answer
from wfbench.analysis.claims.registration import Registration, first_record, recorded_claims, registration
from wfbench.analysis.claims.runs import ResultRow
from wfbench.analysis.claims.scaling import answer_crossover, answer_exponent
from wfbench.analysis.claims.schema import AnyClaim, Claims, ClaimsFile, Crossover, Exponent
from wfbench.analysis.lines import label, latest
from wfbench.records import AnyRow, ClaimsRow, DenseRow, ProbeRow


@dataclass(frozen=True)
class AnsweredClaim:
    """A claim with its answer.

    Attributes:
        claim: the claim.
        answer: what the records say to it.
        registration: whether it was registered before the rows that answer it.
        shown_instead: the newest runs of the lines and seeds that answer, where the first are others: tables show the newest.
    """

    claim: AnyClaim
    answer: Answer
    registration: Registration
    shown_instead: tuple[ResultRow, ...] = ()

    @property
    def runs(self) -> tuple[ResultRow, ...]:
        """The runs that answer it, of its own lines; none of a claim about a profile."""
        if isinstance(self.claim, Exponent | Crossover):
            return ()
        lines = (self.claim.line, *self.claim.others)
        return tuple(row for row in self.answer.rows if isinstance(row, ResultRow) and label(row) in lines)


@dataclass(frozen=True)
class ClaimsResult:
    """The answers to one file of claims.

    Attributes:
        claims: the file.
        answered: its claims in their order.
        later_runs: runs of a line and seed that had been run before; they do not count.
        p_spread: of Brown and Forsythe's test that the lines spread alike over seeds; None where it cannot be made.
    """

    claims: Claims
    answered: tuple[AnsweredClaim, ...]
    later_runs: tuple[ResultRow, ...]
    p_spread: float | None

    @property
    def measure(self) -> str:
        """What the runs that answer are compared by: "accuracy" or "mIoU"."""
        rows = [row for found in self.answered for row in found.answer.rows]
        return "mIoU" if any(isinstance(row, DenseRow) for row in rows) else "accuracy"

    @property
    def image_sides(self) -> set[int]:
        """The longer side of the images that the runs which answer were trained on, in pixels; a probe has no images."""
        rows = [row for found in self.answered for row in found.answer.rows]
        return {max(row.image_size) for row in rows if isinstance(row, ResultRow) and not isinstance(row, ProbeRow)}


def claims_results(rows: Iterable[AnyRow], stated: Claims | None = None) -> tuple[ClaimsResult, ...]:
    """The answers to the claims that the records hold, or to those of a file that is given.

    Args:
        rows: the records.
        stated: a file of claims, which the records must hold unchanged to be called pre-registered.

    Raises:
        InputError: for recorded claims whose text is not that of their hash.
    """
    rows = list(rows)
    recorded = [row for row in rows if isinstance(row, ClaimsRow)]
    known = recorded_claims(recorded)
    return tuple(_result(claims, rows, recorded) for claims in (known if stated is None else [stated]))


def decide(file: ClaimsFile, rows: Sequence[AnyRow], registered: str | None = None) -> dict[str, Answer]:
    """The answer to each claim, by its id.

    Args:
        file: the claims.
        rows: the records.
        registered: when the file was recorded; None if it was not. Claims about a profile ask for one that is newer.
    """
    return _answers(file, rows, AccuracyAnswers.of(file, rows), registered)


@dataclass(frozen=True)
class OpenClaim:
    """A claim of accuracy that more seeds may decide.

    Attributes:
        id: the claim's.
        lines: the lines that it needs.
        seeds: all seeds that each of these lines needs for the next look.
    """

    id: str
    lines: tuple[str, ...]
    seeds: tuple[int, ...]


def open_claims(file: ClaimsFile, rows: Sequence[AnyRow]) -> tuple[OpenClaim, ...]:
    """The claims of accuracy that are undecided so far, and have a further look planned.

    Args:
        file: the claims, with ``looks`` if they are to be answered at several numbers of seeds.
        rows: the records so far.
    """
    accuracy = AccuracyAnswers.of(file, rows)
    planned = [(claim, accuracy.next_look(claim)) for claim in file.of_accuracy]
    return tuple(OpenClaim(claim.id, (claim.line, *claim.others), seeds) for claim, seeds in planned if seeds)


def _result(claims: Claims, rows: Sequence[AnyRow], recorded: Sequence[ClaimsRow]) -> ClaimsResult:
    accuracy = AccuracyAnswers.of(claims.file, rows)
    first = first_record(claims.sha256, recorded)
    answers = _answers(claims.file, rows, accuracy, None if first is None else first.created)
    runs = accuracy.runs
    found = [
        AnsweredClaim(claim, answers[claim.id], registration(claims.sha256, recorded, answers[claim.id].rows))
        for claim in claims.file.claims
    ]
    answered = tuple(replace(one, shown_instead=_shown_instead(one, runs.later)) for one in found)
    unpaired = any(line.answer.seeds and not line.answer.is_paired for line in answered)
    return ClaimsResult(claims, answered, runs.later, runs.p_spread(claims.file.seeds) if unpaired else None)


def _shown_instead(one: AnsweredClaim, later: Sequence[ResultRow]) -> tuple[ResultRow, ...]:
    """Of the runs that do not count the newest of each line and seed that answers the claim, of the same setting and code."""

    def key(row: ResultRow) -> tuple[str, int, str, str]:
        return label(row), row.seed, row.recipe_digest, row.mixer_digest or ""

    used = set(map(key, one.runs)) if one.answer.seeds else set()
    return tuple(latest((row for row in later if key(row) in used), key))


def _answers(file: ClaimsFile, rows: Sequence[AnyRow], accuracy: AccuracyAnswers, registered: str | None) -> dict[str, Answer]:
    answers = {}
    for claim in file.claims:
        match claim:
            case Exponent():
                answers[claim.id] = answer_exponent(claim, rows, registered)
            case Crossover():
                answers[claim.id] = answer_crossover(claim, rows, registered)
            case _:
                answers[claim.id] = accuracy.answer(claim)
    return answers
