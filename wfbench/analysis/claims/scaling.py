"""Answers to claims of scaling, from the curves and crossovers of a profile. Each is held against its own 95% interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from wfbench.analysis.claims.answer import Answer, Verdict
from wfbench.analysis.claims.schema import Crossover, Exponent
from wfbench.analysis.lines import group, label
from wfbench.records import AnyRow, CrossoverRow, FitRow, MeasurementRow, ProfileRow, Row

P = TypeVar("P", FitRow, CrossoverRow)


def answer_exponent(claim: Exponent, rows: Sequence[AnyRow]) -> Answer:
    """Whether a curve's exponent lies in the claim's range."""
    fits = [row for row in rows if isinstance(row, FitRow) and _is_about(row, claim)]
    row, why = _only(fits, claim.line)
    if row is None:
        return Answer("undecidable", why)
    at = exponent_place(claim, row)
    if at is None:
        return Answer("undecidable", f"no cell at {claim.side} px", profile=row, rows=(row,))
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
    return Answer(verdict, "", value, low, high, profile=row, rows=(row, *_cells(row, rows)))


def exponent_place(claim: Exponent, row: FitRow) -> int | None:
    """Which of a curve's sides a claim is about: the largest where it names none; None where that side was not measured."""
    if claim.side is None:
        return len(row.sides) - 1
    return next((place for place, found in enumerate(row.sides) if found == (claim.side, claim.side)), None)


def answer_crossover(claim: Crossover, rows: Sequence[AnyRow]) -> Answer:
    """Whether a line is faster than another from the claim's side on."""
    found = [row for row in rows if isinstance(row, CrossoverRow) and row.baseline == claim.than and _is_about(row, claim)]
    row, why = _only(found, claim.line)
    if row is None:
        return Answer("undecidable", why)
    used = (row, *_cells(row, rows))
    if not row.interval:
        return Answer("undecidable", "too few cells for an interval", row.side, profile=row, rows=used)
    if not row.smallest_side <= claim.side <= row.largest_side:
        why = "the claim's side lies outside the measured ones"
        return Answer("undecidable", why, row.side, row.side_low, row.side_high, profile=row, rows=used)
    verdict: Verdict = "supported" if _surely_faster(row, claim.side) else "undecidable"
    if _surely_slower(row, claim.side):
        verdict = "contradicted"
    return Answer(verdict, "", row.side, row.side_low, row.side_high, profile=row, rows=used)


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


def _is_about(row: FitRow | CrossoverRow, claim: Exponent | Crossover) -> bool:
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
