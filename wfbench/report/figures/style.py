"""The look of all plots: colours, markers and line styles by line, and an empty plot under its title."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from wfbench.analysis.lines import BASELINE
from wfbench.report.columns import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
SIZE = (8.4, 5.2)
# Okabe and Ito's palette, without yellow, which is weak on white; black is kept for the baseline.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# The lengths of the three lists share no factor, so that a look comes back as late as it can.
MARKERS = ("s", "^", "D", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)), (0, (6, 1, 1, 1, 1, 1)))
GREY = "0.45"

Style = dict[str, Any]


def mixer_styles(tables: Sequence[Table]) -> dict[str, Style]:
    """One look per line, a mixer with its factors: first those that have curves, which need the different colours most.

    The baseline is black, whatever its factors and its attention backend, but for one whose layer schedule was chosen.
    """
    mixers: set[str] = set()
    curves: set[str] = set()
    baselines: set[str] = set()
    rescheduled: set[str] = set()
    for table in tables:
        if "label" in table.data:
            names = {str(name) for name in table.data["label"].dropna()}
            mixers |= names
            curves |= names if table.kind in ("profile", "resolution", "segmentation-sizes", "probe") else set()
            plain = table.data["variant"] == "" if "variant" in table.data else True
            if "every" in table.data:
                rescheduled |= set(table.data.loc[table.data["every"].notna(), "label"])
            baselines |= set(table.data.loc[(table.data["mixer"] == BASELINE) & plain, "label"])
    baselines -= rescheduled
    others = sorted(mixers - baselines, key=lambda name: (name not in curves, name))
    looks = zip(others, itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(DASHES), strict=False)
    styles = {name: mixer_style(colour, marker, dashes) for name, colour, marker, dashes in looks}
    black = zip(sorted(baselines | {BASELINE}), itertools.cycle(("o", *MARKERS)), itertools.cycle(DASHES), strict=False)
    return styles | {name: mixer_style("black", marker, dashes) for name, marker, dashes in black}


def mixer_style(colour: str, marker: str, dashes: object) -> Style:
    """The look of one line, as matplotlib takes it."""
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.8}
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.8, "markersize": 7.5, **edge}


def empty_figure(table: Table, gap: int, subject: str = "", question: str = "") -> tuple[Figure, Axes]:
    """An empty plot under the table's title, ``gap`` points above the axes: the subject in bold, then the setting.

    A question stands in the subject's place, and the whole title under it.
    """
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state, and picks a backend by what screen it finds.
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    kind, _, rest = table.title.partition(": ")
    first, *setting = rest.split(", ")
    setting = table.title.split(", ") if question else setting
    # Spaces within a part do not break, so that lines end between parts.
    lines = textwrap.wrap(", ".join(part.replace(" ", "\u00a0") for part in setting), 95)
    heading = question or (f"{subject} of {first}" if subject else f"{kind}: {first}")
    look: Style = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate("\n".join(lines), (0, 1), (0, gap), fontsize=9, color=GREY, **look)
    axes.annotate(heading, (0, 1), (0, gap + 12 * len(lines) + 5), fontsize=13, weight="bold", **look)
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_floats(data: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column as floats, where an empty cell is NaN."""
    return pd.to_numeric(data[name]).astype(float)
