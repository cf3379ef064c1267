"""Estimates and intervals of claims of accuracy, on the regions where the claims hold."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import pandas as pd

from wfbench.report.columns import Table
from wfbench.report.figures.style import COLOURS, GREY, SIZE, Style, as_floats, empty_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERDICTS: dict[str, dict[str, Any]] = {
    "supported": {"color": COLOURS[0], "marker": "o", "markersize": 9},
    "contradicted": {"color": COLOURS[1], "marker": "X", "markersize": 9},
    "undecidable": {"color": "0.25", "marker": "s", "markersize": 8, "markerfacecolor": "white"},
}


def claims(table: Table, styles: dict[str, Style]) -> Figure | None:
    """The estimate and interval of each claim of accuracy, on the region where it holds; None if none has an estimate."""
    del styles  # claims have looks by their verdicts
    data = table.data.assign(condition=table.frame["holds if"])
    region = data[["holds_above", "holds_below"]].apply(pd.to_numeric).astype(float)
    data = data[as_floats(data, "estimate").notna() & region.notna().any(axis=1)]
    if data.empty:
        return None
    figure, axes = empty_figure(table, gap=8)
    figure.set_size_inches(SIZE[0], 1.7 + 0.52 * len(data))
    ends = [0.0, *as_floats(data, "low"), *as_floats(data, "high"), *region.loc[data.index].stack()]
    room = 0.06 * (max(ends) - min(ends))
    left, right = min(ends) - room, max(ends) + room
    for place, claim in enumerate(data.to_dict("records")):
        begin = left if pd.isna(claim["holds_above"]) else claim["holds_above"]
        end = right if pd.isna(claim["holds_below"]) else claim["holds_below"]
        axes.barh(place, end - begin, left=begin, height=0.62, color="0.9", zorder=1)
        axes.errorbar(
            claim["estimate"],
            place,
            xerr=[[claim["estimate"] - claim["low"]], [claim["high"] - claim["estimate"]]],
            capsize=4,
            linestyle="none",
            **_VERDICTS[str(claim["verdict"])],
        )
        axes.annotate(str(claim["verdict"]), (1.01, place), xycoords=axes.get_yaxis_transform(), va="center", fontsize=9)
    axes.axvline(0, color=GREY, linewidth=1, zorder=2)
    conditions = [textwrap.shorten(text, 60, placeholder=" …", break_on_hyphens=False) for text in data["condition"]]
    axes.set_yticks(
        range(len(data)), [f"{name}\n{text}" for name, text in zip(data["id"], conditions, strict=True)], fontsize=8
    )
    axes.set(xlim=(left, right), ylim=(len(data) - 0.4, -0.6), xlabel="points of accuracy; grey: where the claim holds")
    axes.grid(visible=False, axis="y")
    return figure
