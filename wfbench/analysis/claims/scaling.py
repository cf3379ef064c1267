"""Answers to claims of scaling, from the curves and crossovers of a profile. Each is held against its own 95% interval.

Of several profiles the first complete one counts: whoever could choose among them after looking would choose the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from wfbench.analysis.cells import cell_key, line_key
from wfbench.analysis.claims.answer import Answer, Verdict
from wfbench.analysis.claims.price import Remedy, crossover_remedies, exponent_remedies
from wfbench.analysis.claims.schema import Crossover, Exponent
from wfbench.analysis.derived import derived_rows
from wfbench.analysis.lines import BASELINE, group, label, latest
from wfbench.records import AnyRow, CrossoverRow, FitRow, MeasurementRow, ProfileRow, Row

P = TypeVar("P", FitRow, CrossoverRow)

_METHOD = "surely slower to surely faster"  # of a crossover's interval
_ROUNDING = 1e-6  # pixels


def answer_exponent(claim: Exponent, rows: Sequence[AnyRow], registered: str | None = None) -> Answer:
    """Whether a curve's exponent lies in the claim's range.

    Args:
        claim: the claim.
        rows: the records.
        registered: when the claim was recorded; None if it was not.
    """
    fits = [as_defined_today(row, rows) for row in rows if isinstance(row, FitRow) and _is_about(row, claim)]
    complete = [row for row in fits if exponent_place(claim, row) is not None]
    row, later, why = _first_profile(complete or fits, claim.line, rows, registered)
    if row is None:
        return Answer("undecidable", why, remedies=() if fits else ("a profile",))
    at = exponent_place(claim, row)
    if at is None:
        why = f"no cell at {claim.side} px"
        return Answer("undecidable", why, remedies=_other_sides(claim, row), profile=row, rows=(row,), later=later)
    exact = row.macs_exponents[at]
    value, low, high = (row.exponents[at], row.exponents_low[at], row.exponents_high[at])
    if claim.quantity == "macs":
        if exact is None:
            return Answer("undecidable", "its MACs were not counted", rows=(row,), later=later)
        value = low = high = exact
    least, most = claim.at_least, claim.at_most
    inside = (least is None or low >= least) and (most is None or high <= most)
    outside = (least is not None and high < least) or (most is not None and low > most)
    verdict: Verdict = "supported" if inside else "contradicted" if outside else "undecidable"
    cells = _cells(row, rows)
    remedies = exponent_remedies(row, _of_line(row, cells)) if verdict == "undecidable" else ()
    return Answer(verdict, "", value, low, high, remedies=remedies, profile=row, rows=(row, *cells), later=later)


def exponent_place(claim: Exponent, row: FitRow) -> int | None:
    """Which of a curve's sides a claim is about: the largest where it names none; None where that side was not measured."""
    if claim.side is None:
        return len(row.sides) - 1
    return next((place for place, found in enumerate(row.sides) if found == (claim.side, claim.side)), None)


def answer_crossover(claim: Crossover, rows: Sequence[AnyRow], registered: str | None = None) -> Answer:
    """Whether a line is faster than another from the claim's side on, as far as was measured.

    Contradicted only by a surely slower place at or above that side; supported only if the line is surely faster at every
    place from that side to the last. Arguments as in `answer_exponent`.
    """
    found = [row for row in rows if isinstance(row, CrossoverRow) and row.baseline == claim.than and _is_about(row, claim)]
    found = [as_defined_today(row, rows) for row in found]
    complete = [row for row in found if row.interval and row.smallest_side <= claim.side <= row.largest_side]
    row, later, why = _first_profile(complete or found, claim.line, rows, registered)
    if row is None:
        return Answer("undecidable", why, remedies=() if found else ("a profile",))
    used = (row, *_cells(row, rows))
    why, verdict = "", _faster_from(row, claim.side)
    if not row.interval:
        why, verdict = "too few cells for an interval", "undecidable"
    elif not row.smallest_side <= claim.side <= row.largest_side:
        why, verdict = "the claim's side lies outside the measured ones", "undecidable"
    elif row.interval_method != _METHOD:
        why, verdict = "its interval is of an older definition, and its cells are not among the records", "undecidable"
    low, high = (row.side_low, row.side_high) if row.interval else (None, None)
    remedies = crossover_remedies(row, claim.side) if verdict == "undecidable" else ()
    return Answer(verdict, why, row.side, low, high, remedies=remedies, profile=row, rows=used, later=later)


def _faster_from(row: CrossoverRow, side: int) -> Verdict:
    """What a crossover says to "faster from this side on"."""
    if row.side_low is not None and row.side_low >= side - _ROUNDING:
        return "contradicted"
    return "supported" if row.side_high is not None and row.side_high <= side + _ROUNDING else "undecidable"


def as_defined_today(row: P, rows: Iterable[AnyRow]) -> P:
    """A curve or a crossover computed anew from the cells that it was computed from; the row itself where there are too few.

    Older rows hold intervals of older definitions. Of a crossover these were the sides at which two lines cannot be told
    apart: below them the line may be faster, too. Cells that were measured in a later call of the session do not count.
    """
    cells = [cell for cell in rows if isinstance(cell, ProfileRow) and _is_beside(cell, row)]
    baseline = row.baseline if isinstance(row, CrossoverRow) else BASELINE
    for found in derived_rows(latest(cells, cell_key), baseline, row.created):
        if type(found) is type(row) and line_key(found) == line_key(row):
            return found
    return row


def _is_beside(cell: ProfileRow, row: FitRow | CrossoverRow) -> bool:
    """Whether a row was computed from a cell, or may have been: the same session, model, factors and setting."""
    same = ("session", "model", "local_conv", "pos_embed", "token_budget")  # other schedules are other lines
    said = ("batch", "mode", "dtype", "compiled", "channels_last", "protocol")  # None in rows of old schemas
    return (
        cell.created <= row.created
        and all(getattr(cell, field) == getattr(row, field) for field in same)
        and all(getattr(row, field) in (None, getattr(cell, field)) for field in said)
    )


def _other_sides(claim: Exponent, row: FitRow) -> tuple[Remedy, ...]:
    """What gives a cell at a claim's side."""
    largest = max(row.sides)[0]
    return ("larger sides",) if claim.side is not None and claim.side > largest else ("more sides",)


def _of_line(row: FitRow, cells: Iterable[Row]) -> list[ProfileRow]:
    return [cell for cell in cells if isinstance(cell, ProfileRow) and line_key(cell) == line_key(row)]


def _cells(row: FitRow | CrossoverRow, rows: Iterable[AnyRow]) -> tuple[Row, ...]:
    """What a curve was drawn through: the cells of its session, which may be older than the row."""
    return tuple(cell for cell in rows if isinstance(cell, MeasurementRow | ProfileRow) and cell.session == row.session)


def _began(row: FitRow | CrossoverRow, rows: Iterable[AnyRow]) -> str:
    """When the first cell of a session was measured."""
    return min([row.created, *(cell.created for cell in _cells(row, rows))])


def _is_about(row: FitRow | CrossoverRow, claim: Exponent | Crossover) -> bool:
    return label(row) == claim.line and row.model == claim.model and row.mode in (claim.mode, None)


def _first_profile(
    found: Sequence[P], line: str, rows: Sequence[AnyRow], registered: str | None
) -> tuple[P | None, tuple[P, ...], str]:
    """The row that answers, the later ones, which do not count, and why there is none.

    It is that of the first session which was measured as a whole after the claim was recorded; if there is none, that of the
    first session, which is then not pre-registered. Of a session that was worked on in several calls, the first row counts.
    """
    if not found:
        return None, (), f"no profile of {line}"
    ordered = sorted(found, key=lambda row: row.created)  # stable: rows of the same second stay in the journal's order
    after = [row for row in ordered if registered is not None and _began(row, rows) >= registered]
    first = (after or ordered)[0]
    same = [row for row in ordered if row.session == first.session]
    settings = ("batch", "token_budget", "mode", "dtype", "compiled", "channels_last", "protocol")
    several = group(same, lambda row: tuple(getattr(row, field) for field in settings))
    if len(several) > 1:
        return None, (), f"{len(several)} profiles of {line} in one session, of which the claim could mean any"
    return first, tuple(row for row in (after or ordered) if row is not first), ""
