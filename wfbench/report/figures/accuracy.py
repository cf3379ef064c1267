"""Accuracy against GMACs, and against the side of the test images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wfbench.analysis.line_results import LineResult
from wfbench.analysis.resolutions import ResolutionLine, ResolutionResult
from wfbench.analysis.seeds import AccuracyResult
from wfbench.records import BaselineRow
from wfbench.report.columns import Table
from wfbench.report.figures.style import GREY, Style, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox


def accuracy(result: AccuracyResult, table: Table, styles: dict[str, Style]) -> Figure | None:
    """Accuracy against GMACs, simple classifiers as dotted lines; None if no line has both.

    Args:
        result: the accuracies.
        table: their table, whose title stands above the plot.
        styles: the look of each line, by its label.
    """
    points = [(line, line.last.macs / 1e9) for line in result.lines if line.last.macs is not None]
    if not points:
        return None
    figure, axes = empty_figure(table, gap=8)
    axes.set(
        xlabel=f"GMACs of one image's forward pass{_legend_line(result.lines)}",
        ylabel="top-1 accuracy (%), measured, last epoch",
    )
    several = len({line.identity.model for line, _ in points}) > 1
    labels = []
    for line, gmacs in points:
        style = styles[line.label] | {"linestyle": "none", "markersize": 9}
        if len(line.seeds) == 1:
            style |= {"markerfacecolor": "none", "markeredgecolor": style["color"], "markeredgewidth": 1.6}
        percent, spread = 100 * line.accuracy.estimate, _half_width(line)
        axes.errorbar(gmacs, percent, yerr=spread, capsize=4, ecolor=style["color"], elinewidth=1.3, **style)
        labels.append((gmacs, percent, f"{line.label} ({line.identity.model})" if several else line.label))
    simple = sorted(result.simple_classifiers, key=lambda row: row.accuracy)
    for row in simple:
        axes.axhline(100 * row.accuracy, color=GREY, linestyle=":", linewidth=1.4, zorder=1)
    axes.margins(x=0.2, y=0.15)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))  # the interval of two seeds may reach far beyond all there is
    _name_simple_classifiers(axes, simple)
    _label_points(figure, axes, labels, points)
    return figure


def resolution(result: ResolutionResult, table: Table, styles: dict[str, Style]) -> Figure | None:
    """Accuracy against the side of the test images, with 95% intervals over seeds; None for a single height.

    Args:
        result: the evaluations.
        table: their table, whose title stands above the plot.
        styles: the look of each line, by its label.
    """
    heights = sorted({height for height, _ in result.sizes})
    if len(heights) == 1:
        return None
    figure, axes = empty_figure(table, gap=8)
    axes.set(xlabel="height of the test images (px)", ylabel="top-1 accuracy (%), measured")
    curves: dict[tuple[str, str], list[ResolutionLine]] = {}
    for line in result.lines:
        curves.setdefault((line.identity.trained_as, line.label), []).append(line)
    for (_, name), lines in curves.items():
        found = sorted((found for line in lines for found in line.sizes.values()), key=lambda found: found.size[0])
        x, y = [one.size[0] for one in found], [100 * one.accuracy.estimate for one in found]
        spread = [100 * (one.accuracy.half_width or 0.0) for one in found]
        axes.errorbar(x, y, yerr=spread, capsize=4, label=name, **styles[name])
    axes.set_xticks(heights)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _half_width(line: LineResult) -> float | None:
    """Half the interval of a line's accuracy, in per cent; None without one."""
    return None if line.accuracy.half_width is None else 100 * line.accuracy.half_width


def _legend_line(lines: Sequence[LineResult]) -> str:
    """What the looks of the points mean, and which mixers have no point."""
    means = {
        "bars: 95% interval of the mean over seeds": any(len(line.seeds) > 1 for line in lines),
        "hollow: 1 seed, ranks nothing": any(len(line.seeds) == 1 for line in lines),
    }
    found = ["; ".join(text for text, holds in means.items() if holds)]
    if refused := sorted({line.label for line in lines if line.last.macs is None}):
        found.append(f"not shown, GMACs refused: {', '.join(refused)}")
    return "".join(f"\n{text}" for text in found)


def _name_simple_classifiers(axes: Axes, simple: Sequence[BaselineRow]) -> None:
    """The names of the dotted lines, on the right; names that would touch are moved apart, upwards."""
    low, high = axes.get_ylim()
    height = -math.inf
    for row in simple:
        height = max((100 * row.accuracy - low) / (high - low), height + 0.045)
        axes.text(1.01, height, row.name, transform=axes.transAxes, va="center", fontsize=9, color=GREY)


def _label_points(
    figure: Figure, axes: Axes, labels: Sequence[tuple[float, float, str]], points: Sequence[tuple[LineResult, float]]
) -> None:
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


def _obstacles(axes: Axes, points: Sequence[tuple[LineResult, float]]) -> list[Bbox]:
    """The boxes, in pixels, of the markers and error bars."""
    from matplotlib.transforms import Bbox

    boxes = []
    for line, gmacs in points:
        percent, spread = 100 * line.accuracy.estimate, _half_width(line) or 0.0
        (left, bottom), (_, top) = axes.transData.transform([(gmacs, percent - spread), (gmacs, percent + spread)])
        boxes += [Bbox.from_extents(left - 3, bottom, left + 3, top)]
        boxes += [Bbox.from_extents(left - 10, (bottom + top) / 2 - 10, left + 10, (bottom + top) / 2 + 10)]
    return boxes
