"""Estimates and intervals of claims of accuracy, on the regions where the claims hold."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from wfbench.analysis.claims import AnsweredClaim, ClaimsResult
from wfbench.report.claims import condition, region
from wfbench.report.columns import Table
from wfbench.report.figures.style import COLOURS, GREY, SIZE, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VERDICTS: dict[str, dict[str, Any]] = {
    "supported": {"color": COLOURS[0], "marker": "o", "markersize": 9},
    "contradicted": {"color": COLOURS[1], "marker": "X", "markersize": 9},
    "undecidable": {"color": "0.25", "marker": "s", "markersize": 8, "markerfacecolor": "white"},
}


def claims(result: ClaimsResult, table: Table) -> Figure | None:
    """The estimate and interval of each claim of accuracy, on the region where it holds; None if none has an estimate.

    Args:
        result: the claims with their answers.
        table: theirs, whose title stands above the plot.
    """
    shown = [line for line in result.answered if line.answer.estimate is not None and region(line.claim) != (None, None)]
    if not shown:
        return None
    figure, axes = empty_figure(table, gap=8)
    figure.set_size_inches(SIZE[0], 1.7 + 0.52 * len(shown))
    left, right = _range(shown)
    for place, line in enumerate(shown):
        _draw_claim(axes, place, line, left, right)
    axes.axvline(0, color=GREY, linewidth=1, zorder=2)
    conditions = [textwrap.shorten(condition(line), 60, placeholder=" …", break_on_hyphens=False) for line in shown]
    names = [f"{line.claim.id}\n{text}" for line, text in zip(shown, conditions, strict=True)]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set(
        xlim=(left, right), ylim=(len(shown) - 0.4, -0.6), xlabel=f"points of {result.measure}; grey: where the claim holds"
    )
    axes.grid(visible=False, axis="y")
    return figure


def _range(shown: list[AnsweredClaim]) -> tuple[float, float]:
    """The points of accuracy that the plot shows."""
    ends = [0.0]
    for line in shown:
        ends += [end for end in (line.answer.low, line.answer.high, *region(line.claim)) if end is not None]
    room = 0.06 * (max(ends) - min(ends))
    return min(ends) - room, max(ends) + room


def _draw_claim(axes: Axes, place: int, line: AnsweredClaim, left: float, right: float) -> None:
    """One claim: its region in grey, its estimate with the interval, its verdict beside the plot."""
    above, below = region(line.claim)
    begin, end = left if above is None else above, right if below is None else below
    axes.barh(place, end - begin, left=begin, height=0.62, color="0.9", zorder=1)
    answer = line.answer
    assert answer.estimate is not None
    low, high = (answer.estimate if value is None else value for value in (answer.low, answer.high))
    axes.errorbar(
        answer.estimate,
        place,
        xerr=[[answer.estimate - low], [high - answer.estimate]],
        capsize=4,
        linestyle="none",
        **_VERDICTS[answer.verdict],
    )
    axes.annotate(answer.verdict, (1.01, place), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9)
