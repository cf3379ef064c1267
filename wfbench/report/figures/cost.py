"""Latency and memory of a profile against tokens."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wfbench.analysis.lines import label
from wfbench.analysis.profile import CellCost, ProfileCost
from wfbench.report.columns import Table
from wfbench.report.figures.style import GREY, SIZE, Style, empty_figure
from wfbench.report.words import pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND_ROOM = 2  # a band widens the axis by no more than this factor on each side
_SHORT_GUIDE = 0.25  # a guide that is seen along less than this part of the axis says nothing


@dataclass(frozen=True)
class _Point:
    """A cell on a curve: its value, and the ends of the band there; NaN without a band."""

    tokens: int
    y: float
    low: float = math.nan
    high: float = math.nan


_Curve = tuple[str, Sequence[_Point]]


def latency(result: ProfileCost, table: Table, styles: Mapping[str, Style]) -> Figure | None:
    """Latency against tokens of a profile, on two logarithmic axes; None if no cell was timed.

    The band is the interval of the median over rounds, where there is one, and else the least to the most of its sample.
    Where batches differ, latency is that of one image.

    Args:
        result: the profile.
        table: its table, whose title stands above the plot.
        styles: the look of each line, by its label.
    """
    by_tokens = result.profile.setting.token_budget is not None
    points, known = [], []
    for cell in result.cells:
        if cell.latency is None:
            continue
        scale = 1e3 / (cell.row.batch if by_tokens else 1)
        known.append(cell.latency.low is not None)
        ends = (cell.latency.low, cell.latency.high) if known[-1] else (cell.row.spread or (None, None))
        low, high = (math.nan if end is None else end * scale for end in ends)
        points.append((cell, _Point(cell.row.tokens, cell.latency.estimate * scale, low, high)))
    band = "95% interval over rounds" if all(known) else "least to most"
    if any(known) and not all(known):
        band = "95% interval over rounds or, without one, least to most"
    failed = [(cell, cell.row.status) for cell in result.cells if cell.row.status != "ok"]
    axis = f"latency ({'ms per image' if by_tokens else 'ms'}), median and {band}"
    return _plot(result, table, "Latency", axis, points, failed, styles)


def memory(result: ProfileCost, table: Table, styles: Mapping[str, Style]) -> Figure | None:
    """Peak memory against tokens of a profile, on two logarithmic axes; None if none was measured.

    Args:
        result: the profile.
        table: its table, whose title stands above the plot.
        styles: the look of each line, by its label.
    """
    points = [
        (cell, _Point(cell.row.tokens, cell.row.memory_bytes * 1e-6))
        for cell in result.cells
        if cell.row.memory_status == "ok" and cell.row.memory_bytes
    ]
    failed = [(cell, cell.row.memory_status) for cell in result.cells if cell.row.memory_status not in ("ok", "not measured")]
    return _plot(result, table, "Memory", "peak memory of one call (MB), the model included", points, failed, styles)


def _plot(
    result: ProfileCost,
    table: Table,
    subject: str,
    axis: str,
    points: Sequence[tuple[CellCost, _Point]],
    failed: Sequence[tuple[CellCost, str]],
    styles: Mapping[str, Style],
) -> Figure | None:
    """Curves of the points against tokens; None if there are none. Cells that ``failed``, each with a word, are crosses."""
    if not points:
        return None
    figure, axes = empty_figure(table, gap=38, subject=subject)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=textwrap.fill(axis, 60))
    curves = _curves(points)
    for name, curve in curves:
        axes.plot([point.tokens for point in curve], [point.y for point in curve], label=name, **styles[name])
    bottom, top = axes.get_ylim()
    for name, curve in curves:
        x, low, high = zip(*((point.tokens, point.low, point.high) for point in curve), strict=True)
        axes.fill_between(x, low, high, color=styles[name]["color"], alpha=0.15, linewidth=0)
    # Two rounds give an interval of many orders of magnitude, which would press the curves flat.
    axes.set_ylim(max(axes.get_ylim()[0], bottom / _BAND_ROOM), min(axes.get_ylim()[1], top * _BAND_ROOM))
    _failures(axes, failed, styles)
    _guides(axes, [point for _, point in points])
    _token_ticks(axes, result.cells)
    # Many mixers need a taller plot: a legend that is higher than the figure would squeeze the axes to nothing.
    figure.set_size_inches(SIZE[0], max(SIZE[1], 2 + 0.25 * len(curves)))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _curves(points: Iterable[tuple[CellCost, _Point]]) -> list[_Curve]:
    """The points of each line in order, the highest line first: so the legend stands in the order of their right ends."""
    lines: dict[str, list[_Point]] = {}
    for cell, point in points:
        lines.setdefault(label(cell.line), []).append(point)
    curves = [(name, sorted(lines[name], key=lambda point: point.tokens)) for name in sorted(lines)]
    return sorted(curves, key=lambda curve: -curve[1][-1].y)


def _guides(axes: Axes, points: Sequence[_Point]) -> None:
    """Dashed lines of slope 1, below all points, and slope 2, above them, within the limits that the data have set."""
    fewest, most = min(point.tokens for point in points), max(point.tokens for point in points)
    if fewest == most:
        return
    low, high = axes.get_ylim()
    below, above = min(point.y / point.tokens for point in points), max(point.y / point.tokens**2 for point in points)
    for slope, factor in ((1, 0.8 * below), (2, 1.35 * above)):
        begin = max(fewest, (low / factor) ** (1 / slope))
        end = min(most, (high / factor) ** (1 / slope))
        if math.log(end / begin) < _SHORT_GUIDE * math.log(most / fewest):
            continue
        spots = ([begin, end], [factor * begin**slope, factor * end**slope])
        axes.plot(*spots, color=GREY, linewidth=1.1, linestyle=(0, (5, 4)), marker="none", zorder=1)
        # Halfway along, on the side where there are no curves.
        middle = (math.sqrt(begin * end), factor * math.sqrt(begin * end) ** slope)
        text, side = ("∝ tokens", 1) if slope == 1 else ("∝ tokens²", -1)
        ha, va = ("left", "top") if slope == 1 else ("right", "bottom")
        look: Style = {"textcoords": "offset points", "fontsize": 9, "color": GREY}
        axes.annotate(text, middle, (3 * side, -3 * side), ha=ha, va=va, **look)
    axes.set_ylim(low, high)


def _failures(axes: Axes, failed: Sequence[tuple[CellCost, str]], styles: Mapping[str, Style]) -> None:
    """In a strip above the curves, a row for each line with failed cells: their crosses, and the words for each."""
    if not failed:
        return
    lines: dict[str, list[tuple[CellCost, str]]] = {}
    for cell, word in sorted(failed, key=lambda pair: pair[0].row.tokens):
        lines.setdefault(label(cell.line), []).append((cell, word))
    step = min(0.05, 0.5 / len(lines))
    low, high = axes.get_ylim()
    axes.set_ylim(low, low * (high / low) ** (1 / (1 - step * len(lines))))
    where = axes.get_xaxis_transform()
    look: Style = {"xycoords": where, "textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 9}
    for place, name in enumerate(sorted(lines)):
        tokens, height = [cell.row.tokens for cell, _ in lines[name]], 1 - step * (place + 0.6)
        cross: Style = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "color": styles[name]["color"]}
        axes.plot(tokens, [height] * len(tokens), transform=where, linestyle="none", **cross)
        words = ", ".join(dict.fromkeys(word for _, word in lines[name]))
        axes.annotate(f"{name}: {words}", (tokens[0], height), (-8, 0), **look)


def _token_ticks(axes: Axes, cells: Sequence[CellCost]) -> None:
    """Ticks at the measured token counts, with the image sides on top; ticks too close to be read are left out.

    Variants of the model have other tokens at the same sides, so their sides are not on the axis.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    plain = [cell for cell in cells if cell.line.variant == ""]
    varied = 0 < len(plain) < len(cells)
    sides = {cell.row.tokens: pixels(cell.row.resolution) for cell in (plain if varied else cells)}
    span = math.log(max(cell.row.tokens for cell in cells) / min(cell.row.tokens for cell in cells)) or 1.0
    ticks: list[int] = []
    for tokens in sorted(sides, reverse=True):
        if not ticks or math.log(ticks[-1] / tokens) > 0.09 * span:
            ticks.append(tokens)
    top = axes.secondary_xaxis("top")
    top.set_xlabel(f"image side (px){', of the model without variants' if varied else ''}")
    for axis, labels in ((axes.xaxis, [f"{tick:,}" for tick in ticks]), (top.xaxis, [sides[tick] for tick in ticks])):
        axis.set_ticks(ticks, labels)
        axis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
