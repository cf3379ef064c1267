"""Accuracy against GMACs, and against the side of the test images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from wfbench.report.columns import Table
from wfbench.report.figures.style import GREY, Style, as_floats, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox


def accuracy(table: Table, styles: dict[str, Style]) -> Figure | None:
    """Accuracy against GMACs of an accuracy table, baselines as dotted lines; None if no point has both."""
    data = table.data
    if "macs" not in data or data["macs"].isna().all():
        return None
    points = data[data["macs"].notna()]
    figure, axes = empty_figure(table, gap=8)
    axes.set(xlabel=f"GMACs of one image's forward pass{_legend_line(data)}", ylabel="top-1 accuracy (%), measured, last epoch")
    several = points["model"].nunique() > 1
    labels = []
    for point in points.to_dict("records"):
        style = styles[str(point["label"])] | {"linestyle": "none", "markersize": 9}
        x, y, spread = point["macs"] / 1e9, 100 * point["accuracy"], None
        if point["seed_count"] > 1:
            spread = 100 * point["accuracy_ci95"]
        else:
            style |= {"markerfacecolor": "none", "markeredgecolor": style["color"], "markeredgewidth": 1.6}
        axes.errorbar(x, y, yerr=spread, capsize=4, ecolor=style["color"], elinewidth=1.3, **style)
        labels.append((x, y, f"{point['label']} ({point['model']})" if several else str(point["label"])))
    simple = data[data["baseline"].notna()].sort_values("accuracy") if "baseline" in data else data.head(0)
    for value in simple["accuracy"]:
        axes.axhline(100 * value, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    axes.margins(x=0.2, y=0.15)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))  # the interval of two seeds may reach far beyond all there is
    _name_baselines(axes, simple)
    _label_points(figure, axes, labels, points)
    return figure


def resolution(table: Table, styles: dict[str, Style]) -> Figure | None:
    """Accuracy against the side of the test images, with 95% intervals over seeds; None for a single size."""
    data = table.data
    if data["height"].nunique() == 1:
        return None
    figure, axes = empty_figure(table, gap=8)
    axes.set(xlabel="height of the test images (px)", ylabel="top-1 accuracy (%), measured")
    for (_, name), curve in data.groupby(["trained_as", "label"], sort=False):
        curve = curve.sort_values("height")
        spread = 100 * as_floats(curve, "accuracy_ci95").fillna(0.0)
        axes.errorbar(curve["height"], 100 * curve["accuracy"], yerr=spread, capsize=4, label=str(name), **styles[str(name)])
    axes.set_xticks(sorted(data["height"].unique()))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _legend_line(data: pd.DataFrame) -> str:
    """What the looks of the points mean, and which mixers have no point."""
    runs = data[data["label"].notna()]
    means = {
        "bars: 95% interval of the mean over seeds": (runs["seed_count"] > 1).any(),
        "hollow: 1 seed, ranks nothing": (runs["seed_count"] == 1).any(),
    }
    lines = ["; ".join(text for text, holds in means.items() if holds)]
    if refused := sorted({str(name) for name in runs.loc[runs["macs"].isna(), "label"]}):
        lines.append(f"not shown, GMACs refused: {', '.join(refused)}")
    return "".join(f"\n{line}" for line in lines)


def _name_baselines(axes: Axes, simple: pd.DataFrame) -> None:
    """The names of the dotted lines, on the right; names that would touch are moved apart, upwards."""
    if simple.empty:
        return
    low, high = axes.get_ylim()
    height = -math.inf
    for name, value in zip(simple["baseline"], simple["accuracy"], strict=True):
        height = max((100 * value - low) / (high - low), height + 0.045)
        axes.text(1.01, height, str(name), transform=axes.transAxes, va="center", fontsize=9, color=GREY)


def _label_points(figure: Figure, axes: Axes, labels: Sequence[tuple[float, float, str]], points: pd.DataFrame) -> None:
    """Write each name at the first place around its point where it covers no point, error bar, or other name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # the layout settles only when it draws, and places are measured in it
    frame = axes.get_window_extent(renderer)
    taken = _obstacles(axes, points)
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    leader = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 6}
    look: Style = {"textcoords": "offset points", "va": "center", "fontsize": 9.5, "bbox": white, "arrowprops": leader}
    for x, y, name in labels:
        text = axes.annotate(name, (x, y), (0, 0), **look)
        text.update_positions(renderer)
        for up, right in itertools.product((0, 12, -12, 20, -20, 30, -30, 40, -40), (10, -10)):
            text.set(position=(right, up), ha="left" if right > 0 else "right")
            box = Text.get_window_extent(text, renderer)  # an annotation's own extent has the leader line in it
            if frame.x0 < box.x0 and box.x1 < frame.x1 and not box.count_overlaps(taken):
                break
        taken.append(box)


def _obstacles(axes: Axes, points: pd.DataFrame) -> list[Bbox]:
    """The boxes, in pixels, of the markers and error bars."""
    from matplotlib.transforms import Bbox

    boxes = []
    for point in points.to_dict("records"):
        spread = 0.0 if pd.isna(point["accuracy_ci95"]) else point["accuracy_ci95"]
        ends = [(point["macs"] / 1e9, 100 * (point["accuracy"] + sign * spread)) for sign in (-1, 1)]
        (left, bottom), (_, top) = axes.transData.transform(ends)
        boxes += [Bbox.from_extents(left - 3, bottom, left + 3, top)]
        boxes += [Bbox.from_extents(left - 10, (bottom + top) / 2 - 10, left + 10, (bottom + top) / 2 + 10)]
    return boxes
