"""Scaling tables: the curve of each line, its exponents, and what its time at each side is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wfbench.analysis.lines import label
from wfbench.analysis.scaling import CurvePoint, LineCurve, Scaling
from wfbench.report.cells_in_words import exponent, line_columns, setting_columns, side_columns, whole, with_ends
from wfbench.report.columns import Column, Table, interval_ends, make_table
from wfbench.report.naming import suffixes, title_of
from wfbench.report.words import number

_PARTS = ("overhead a (%)", "linear bN (%)", "superlinear cN² (%)")
_NOT_MADE = "the interval of the exponent shows how well the curve is known"
_ORDER = ("mixer", "px", "tokens", "latency exponent", "MACs exponent", *_PARTS)


@dataclass(frozen=True)
class _At:
    """One line of a table: a curve at one of its sides."""

    curve: LineCurve
    point: CurvePoint


def scaling_tables(results: Sequence[Scaling]) -> list[Table]:
    """A table for each profile that has curves."""
    ends = suffixes([[result.profile.setting] for result in results])
    return [_table(f"scaling{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: Scaling) -> Table:
    curves = result.curves
    notes = [
        "The curve t = a + b N + c N² goes through the times of one image at N tokens: a is overhead, b N the part that grows "
        "linearly, c N² the part that grows faster, each with its share of the curve's time. The last part is of the time, not "
        "of the MACs: where these grow linearly, it is what caches and allocation cost at many tokens. The exponent is the "
        "curve's own, d log t / d log N, with its 95% interval; beside it stands that of the counted MACs' own curve. No "
        "mixer's exponent is that of its attention alone, since the rest of the model is in the time.",
        "Typical distance of a cell from the curve: "
        + ", ".join(f"{label(curve.line)} {number(curve.spread, 100, digits=2)} %" for curve in curves)
        + ".",
        *(f"{label(curve.line)}: {doubt}." for curve in curves for doubt in curve.doubts),
        f"Session {curves[0].session}.",
    ]
    title = f"Scaling: {title_of([result.profile.setting])}"
    lines = [_At(curve, point) for curve in curves for point in curve.points]
    return make_table("scaling", name, title, _columns(result), lines, notes, order=_ORDER)


def _columns(result: Scaling) -> list[Column[_At]]:
    return [
        Column("session", lambda at: at.curve.session),
        Column("created", lambda at: at.curve.created),
        *setting_columns(result.profile.setting),
        *line_columns(lambda at: at.curve.line),
        *side_columns(lambda at: at.point.side),
        Column("tokens", lambda at: at.point.tokens, "tokens", whole),
        Column(
            "latency_exponent",
            lambda at: at.point.exponent,
            "latency exponent",
            with_ends(exponent),
            ends=interval_ends("latency_exponent"),
        ),
        Column("macs_exponent", lambda at: at.point.macs_exponent, "MACs exponent", exponent),
        *(
            Column(key, _share(place), heading, lambda share: f"{100 * share:.1f}", why_none=_NOT_MADE)
            for place, (key, heading) in enumerate(
                zip(("share_overhead", "share_linear", "share_quadratic"), _PARTS, strict=True)
            )
        ),
        *(Column(key, _coefficient(place), why_none=_NOT_MADE) for place, key in enumerate("abc")),
        Column("spread", lambda at: at.curve.spread),
        Column("freedom", lambda at: at.curve.freedom),
        Column("doubts", lambda at: "; ".join(at.curve.doubts)),
    ]


def _share(place: int) -> Callable[[_At], float | None]:
    return lambda at: None if at.point.shares is None else at.point.shares[place]


def _coefficient(place: int) -> Callable[[_At], float]:
    return lambda at: at.curve.coefficients[place]
