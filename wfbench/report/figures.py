"""Plots of the tables' raw numbers, as PNG files.

Mixers are told apart by colour, marker and line style alike, so that the plots hold in grey and for colour-blind eyes.
A mixer looks the same in every plot of a report.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from wfbench.report.tables import BASELINE, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_SIZE = (8.4, 5.2)
# Okabe and Ito's palette; black is kept for the baseline, and yellow, weak on white, comes last.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
# The lengths share no factor, so that no combination comes back before 7 × 9 × 4 mixers.
_MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
_GREY = "0.45"

_Style = dict[str, Any]


def draw(tables: Sequence[Table], out: Path) -> Iterator[tuple[Path, Table]]:
    """Write the plot of each table that has one, and yield its path with the table."""
    styles = _styles(tables)
    for table in tables:
        kind, suffix = table.name.partition("-")[0], table.name.partition("-")[2]
        suffix = f"-{suffix}" if suffix else ""
        figure, path = None, out
        if kind == "profile":
            figure, path = latency(table, styles), out / f"latency{suffix}.png"
        elif kind == "accuracy":
            figure, path = accuracy(table, styles), out / f"accuracy{suffix}.png"
        if figure is not None:
            figure.savefig(path, dpi=_DPI)
            yield path, table


def latency(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """Latency against tokens of a profile table, on two logarithmic axes; None if no cell was timed."""
    data = table.data
    timed = data[(data["status"] == "ok") & data["median_seconds"].notna()]
    if timed.empty:
        return None
    figure, axes = _figure(table)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="latency (ms), median and interquartile range")
    # The slowest first, so that the legend stands in the order of the lines' right ends.
    curves = sorted(timed.groupby("mixer"), key=lambda item: -item[1].sort_values("tokens")["median_seconds"].iloc[-1])
    for mixer, curve in curves:
        curve = curve.sort_values("tokens")
        style = styles[str(mixer)]
        axes.plot(curve["tokens"], 1e3 * curve["median_seconds"], label=str(mixer), **style)
        axes.fill_between(
            curve["tokens"].to_numpy(float),
            1e3 * curve["p25_seconds"].to_numpy(float),
            1e3 * curve["p75_seconds"].to_numpy(float),
            color=style["color"],
            alpha=0.2,
            linewidth=0,
        )
    _failures(axes, data[data["status"] != "ok"], styles)
    _guides(axes, timed)
    _token_ticks(axes, data)
    _legend(figure, axes)
    return figure


def accuracy(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """Accuracy against GMACs of an accuracy table, baselines as dotted lines; None if no point has both."""
    data = table.data
    if "macs" not in data or data["macs"].isna().all():
        return None
    points = data[data["macs"].notna()]
    figure, axes = _figure(table)
    axes.set(xlabel="GMACs of one image's forward pass", ylabel="top-1 accuracy (%), measured, last epoch")
    several = points["model"].nunique() > 1
    labels = []
    for point in points.to_dict("records"):
        style = styles[str(point["mixer"])] | {"linestyle": "none", "markersize": 9}
        x, y = point["macs"] / 1e9, 100 * point["accuracy"]
        spread = None if pd.isna(point["accuracy_ci95"]) else 100 * point["accuracy_ci95"]
        axes.errorbar(x, y, yerr=spread, capsize=4, ecolor=style["color"], **style)
        name = f"{point['mixer']} ({point['model']})" if several else str(point["mixer"])
        seeds = "" if point["seed_count"] > 1 else ", 1 seed"
        labels.append((x, y, name + seeds))
    axes.margins(x=0.18, y=0.15)
    _baselines(axes, data)
    _refused(axes, data[data["macs"].isna() & data["mixer"].notna()])
    _label_points(axes, labels)
    return figure


def _styles(tables: Sequence[Table]) -> dict[str, _Style]:
    """One look per mixer, by its place in the alphabet among all mixers of the report."""
    mixers = {str(mixer) for table in tables if "mixer" in table.data for mixer in table.data["mixer"].dropna()}
    others = sorted(mixers - {BASELINE})
    looks = zip(others, itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), itertools.cycle(_DASHES), strict=False)
    styles = {name: _style(colour, marker, dashes) for name, colour, marker, dashes in looks}
    return styles | {BASELINE: _style("black", "o", "-")}


def _style(colour: str, marker: str, dashes: object) -> _Style:
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.8}
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.8, "markersize": 7.5, **edge}


def _figure(table: Table) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state, and picks a backend by what screen it finds.
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    subject, _, setting = table.title.partition(": ")
    first, _, rest = setting.partition(", ")
    figure.suptitle(f"{subject} of {first}" if subject == "Profile" else f"{subject}: {first}", weight="bold", fontsize=13)
    axes.set_title(textwrap.fill(rest, 95), fontsize=9, color=_GREY)
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _guides(axes: Axes, timed: pd.DataFrame) -> None:
    """Dashed lines of slope 1 and 2 from below the first point, within the limits that the data have set."""
    first, last = timed["tokens"].min(), timed["tokens"].max()
    if first == last:
        return
    bottom = 0.7e3 * timed["median_seconds"].min()
    low, high = axes.get_ylim()
    low = min(low, 0.85 * bottom)
    for slope in (1, 2):
        end = min(last, first * (0.9 * high / bottom) ** (1 / slope))
        axes.plot(
            [first, end], [bottom, bottom * (end / first) ** slope], color=_GREY, linewidth=1, linestyle=(0, (4, 4)), zorder=1
        )
        label = "∝ tokens" if slope == 1 else "∝ tokens²"
        spot = (end, bottom * (end / first) ** slope)
        axes.annotate(label, spot, (5, 0), textcoords="offset points", va="center", fontsize=9, color=_GREY)
    axes.set_ylim(low, high)


def _failures(axes: Axes, failed: pd.DataFrame, styles: dict[str, _Style]) -> None:
    """A cross on the upper edge for each cell that was not timed."""
    for tokens, cells in failed.groupby("tokens"):
        for place, cell in enumerate(cells.to_dict("records")):
            height = 0.97 - 0.05 * place
            colour = styles[str(cell["mixer"])]["color"]
            where = axes.get_xaxis_transform()
            axes.plot([tokens], [height], transform=where, marker="x", markersize=8, markeredgewidth=2, color=colour)
            axes.annotate(
                f"{cell['mixer']}: {cell['status']}",
                (float(str(tokens)), height),
                (-8, 0),
                xycoords=where,
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=9,
            )


def _token_ticks(axes: Axes, data: pd.DataFrame) -> None:
    """Ticks at the measured token counts, with the image sides on top; ticks too close to be read are left out."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    sides = {
        int(cell["tokens"]): f"{cell['height']}" if cell["height"] == cell["width"] else f"{cell['height']}×{cell['width']}"
        for cell in data.to_dict("records")
    }
    span = math.log(max(sides) / min(sides)) or 1.0
    ticks: list[int] = []
    for tokens in sorted(sides):
        if not ticks or math.log(tokens / ticks[-1]) > 0.06 * span:
            ticks.append(tokens)
    top = axes.secondary_xaxis("top")
    top.set_xlabel("image side (px)")
    for axis, labels in ((axes.xaxis, [f"{tick:,}" for tick in ticks]), (top.xaxis, [sides[tick] for tick in ticks])):
        axis.set_ticks(ticks, labels)
        axis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, handlelength=3.6)


def _baselines(axes: Axes, data: pd.DataFrame) -> None:
    """Dotted lines for the simple classifiers, named on the right, where names are moved apart if they would touch."""
    if "baseline" not in data:
        return
    lines = data[data["baseline"].notna()].sort_values("accuracy")
    for value in lines["accuracy"]:
        axes.axhline(100 * value, color=_GREY, linestyle=":", linewidth=1.4, zorder=1)
    low, high = axes.get_ylim()
    height = -math.inf
    for name, value in zip(lines["baseline"], lines["accuracy"], strict=True):
        height = max((100 * value - low) / (high - low), height + 0.045)
        axes.text(1.01, height, str(name), transform=axes.transAxes, va="center", fontsize=9, color=_GREY)


def _refused(axes: Axes, data: pd.DataFrame) -> None:
    if len(data):
        names = ", ".join(sorted({str(mixer) for mixer in data["mixer"]}))
        axes.text(0.01, 0.01, f"not shown, GMACs refused: {names}", transform=axes.transAxes, fontsize=9, color=_GREY)


def _label_points(axes: Axes, labels: Sequence[tuple[float, float, str]]) -> None:
    """Write each name at the nearest place around its point where it covers no point and no other name."""
    canvas = _canvas(axes)
    taken = [_around(axes.transData.transform((x, y)), 9) for x, y, _ in labels]
    for x, y, name in labels:
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", va="center", fontsize=9.5)
        box = None
        for dx, dy in _places():
            text.set_ha("left" if dx > 0 else "right" if dx < 0 else "center")
            text.set_position((dx, dy))
            box = text.get_window_extent(canvas.get_renderer()).padded(1)
            if axes.bbox.fully_containsx(box.x0) and axes.bbox.fully_containsx(box.x1) and not box.count_overlaps(taken):
                break
        if box is not None:
            taken.append(box)
