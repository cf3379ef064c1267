"""What the records say to the claims of a file: supported, contradicted or undecidable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wfbench.analysis.claims.accuracy import Runs
from wfbench.analysis.claims.answer import Answer
from wfbench.analysis.claims.registration import Registration, first_record, recorded_claims, registration
from wfbench.analysis.claims.scaling import answer_crossover, answer_exponent
from wfbench.analysis.claims.schema import AnyClaim, Claims, ClaimsFile, Crossover, Exponent
from wfbench.records import AnyRow, ClaimsRow, TrainRow


@dataclass(frozen=True)
class AnsweredClaim:
    """A claim with its answer, and whether it was registered before the rows that answer it."""

    claim: AnyClaim
    answer: Answer
    registration: Registration


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
    later_runs: tuple[TrainRow, ...]
    p_spread: float | None

    @property
    def image_sides(self) -> set[int]:
        """The longer side of the images that the runs which answer were trained on, in pixels."""
        rows = [row for found in self.answered for row in found.answer.rows]
        return {max(row.image_size) for row in rows if isinstance(row, TrainRow)}


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
    return _answers(file, rows, Runs.of(file, rows), registered)


def _result(claims: Claims, rows: Sequence[AnyRow], recorded: Sequence[ClaimsRow]) -> ClaimsResult:
    runs = Runs.of(claims.file, rows)
    first = first_record(claims.sha256, recorded)
    answers = _answers(claims.file, rows, runs, None if first is None else first.created)
    answered = tuple(
        AnsweredClaim(claim, answers[claim.id], registration(claims.sha256, recorded, answers[claim.id].rows))
        for claim in claims.file.claims
    )
    return ClaimsResult(claims, answered, runs.later, runs.p_spread)


def _answers(file: ClaimsFile, rows: Sequence[AnyRow], runs: Runs, registered: str | None) -> dict[str, Answer]:
    answers = {}
    for claim in file.claims:
        match claim:
            case Exponent():
                answers[claim.id] = answer_exponent(claim, rows, registered)
            case Crossover():
                answers[claim.id] = answer_crossover(claim, rows, registered)
            case _:
                answers[claim.id] = runs.answer(claim)
    return answers
