"""Speed-ups over the baseline against the image side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import label
from wfbench.analysis.speedup import SpeedUps
from wfbench.report.columns import Table
from wfbench.report.figures.style import GREY, SIZE, Style, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST = 3  # a bar widens the axis by no more than this factor on each side


def speedup(result: SpeedUps, table: Table, styles: Mapping[str, Style]) -> Figure | None:
    """Speed-ups against the image side on two logarithmic axes, with bars of their 95% intervals; None if there are none.

    Args:
        result: the speed-ups of one profile; the baseline's own fastest cells, whose ratio is 1, are not drawn.
        table: their table, whose title stands above the plot.
        styles: the look of each line, by its label.
    """
    lines = {
        line: [
            (cell.row.resolution[0], cell.speedup.ratio)
            for cell in sorted(cells.values(), key=lambda cell: cell.row.resolution)
            if cell.speedup is not None and not cell.speedup.is_baseline
        ]
        for line, cells in result.lines.items()
    }
    lines = {line: points for line, points in lines.items() if points}
    if not lines:
        return None
    figure, axes = empty_figure(table, gap=8, subject="Speed-up")
    times = f"times as fast as {result.profile.baseline_mixer}, and 95% interval"
    axes.set(xscale="log", yscale="log", xlabel="image side (px)", ylabel=times)
    axes.axhline(1, color=GREY, linewidth=1.1, linestyle=(0, (5, 4)), zorder=1)
    # The highest first, so that the legend stands in the order of the lines' right ends.
    for line, points in sorted(lines.items(), key=lambda item: -item[1][-1][1].estimate):
        style = styles[label(line)]
        sides, ratios = [side for side, _ in points], [ratio for _, ratio in points]
        bars = [_bar(ratio) for ratio in ratios]
        ends = [below for below, _ in bars], [above for _, above in bars]
        look: Style = {"capsize": 3, "ecolor": style["color"], "elinewidth": 1.1, "label": label(line)}
        axes.errorbar(sides, [ratio.estimate for ratio in ratios], yerr=ends, **look, **style)
    values = [ratio.estimate for points in lines.values() for _, ratio in points] + [1.0]
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(values) / _MOST), min(high, max(values) * _MOST))
    _ticks(axes, [side for side, _ in result.sides])
    figure.set_size_inches(SIZE[0], max(SIZE[1], 2 + 0.25 * len(lines)))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _bar(ratio: Interval) -> tuple[float, float]:
    """The lengths of a bar below and above the point; not a number where there is no interval."""
    if ratio.low is None or ratio.high is None:
        return math.nan, math.nan
    return ratio.estimate - ratio.low, ratio.high - ratio.estimate


def _ticks(axes: Axes, sides: Sequence[int]) -> None:
    """Ticks at the measured sides, and plain numbers at the ratios."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_ticks(sides, [str(side) for side in sides])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
