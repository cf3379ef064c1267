"""Latency and memory of a profile against tokens."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import pandas as pd

from wfbench.report.columns import Table
from wfbench.report.figures.style import GREY, SIZE, Style, as_floats, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND_ROOM = 2  # a band widens the axis by no more than this factor on each side
_SHORT_GUIDE = 0.25  # a guide that is seen along less than this part of the axis says nothing


def latency(table: Table, styles: dict[str, Style]) -> Figure | None:
    """Latency against tokens of a profile table, on two logarithmic axes; None if no cell was timed.

    The band is the interval of the median over rounds, where there is one, and else the interquartile range. Where batches
    differ, latency is that of one image.
    """
    data = table.data
    by_tokens = bool(data["token_budget"].notna().any())
    columns = ("median_seconds", "median_low_seconds", "median_high_seconds", "p25_seconds", "p75_seconds")
    median, low, high, p25, p75 = (as_floats(data, name) * 1e3 / (data["batch"] if by_tokens else 1) for name in columns)
    shown = (data["status"] == "ok") & median.notna()
    sure = low.notna() & high.notna()
    band = "95% interval over rounds" if sure[shown].all() else "interquartile range"
    if sure[shown].any() and not sure[shown].all():
        band = "95% interval over rounds or, without one, interquartile range"
    values = pd.DataFrame({"y": median, "low": low.where(sure, p25), "high": high.where(sure, p75)})
    unit = "ms per image" if by_tokens else "ms"
    return _curves(table, "Latency", f"latency ({unit}), median and {band}", values[shown], "status", styles)


def memory(table: Table, styles: dict[str, Style]) -> Figure | None:
    """Peak memory against tokens of a profile table, on two logarithmic axes; None if none was measured."""
    peak = as_floats(table.data, "memory_bytes") * 1e-6
    values = pd.DataFrame({"y": peak, "low": math.nan, "high": math.nan})
    shown = (table.data["memory_status"] == "ok") & (peak > 0)
    return _curves(table, "Memory", "peak memory of one call (MB), the model included", values[shown], "memory_status", styles)


def _curves(
    table: Table, subject: str, axis: str, values: pd.DataFrame, status: str, styles: dict[str, Style]
) -> Figure | None:
    """Curves of ``values`` (y, and the band's low and high) against tokens; None if there are none.

    Cells that failed, by the column ``status``, are crosses above the curves.
    """
    if values.empty:
        return None
    data = table.data
    measured = data.loc[values.index, ["label", "tokens"]].join(values)
    figure, axes = empty_figure(table, gap=38, subject=subject)
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel=textwrap.fill(axis, 60))
    # The highest first, so that the legend stands in the order of the lines' right ends.
    curves = sorted(measured.groupby("label"), key=lambda item: -item[1].sort_values("tokens")["y"].iloc[-1])
    for name, curve in curves:
        curve = curve.sort_values("tokens")
        axes.plot(curve["tokens"], curve["y"], label=str(name), **styles[str(name)])
    bottom, top = axes.get_ylim()
    for name, curve in curves:
        x, low, high = (curve.sort_values("tokens")[column].to_numpy(float) for column in ("tokens", "low", "high"))
        axes.fill_between(x, low, high, color=styles[str(name)]["color"], alpha=0.15, linewidth=0)
    # Two rounds give an interval of many orders of magnitude, which would press the curves flat.
    axes.set_ylim(max(axes.get_ylim()[0], bottom / _BAND_ROOM), min(axes.get_ylim()[1], top * _BAND_ROOM))
    failed = data[~data[status].isin(["ok", "not measured"])]
    _failures(axes, failed.assign(word=failed[status]), styles)
    _guides(axes, measured)
    _token_ticks(axes, data)
    # Many mixers need a taller plot: a legend that is higher than the figure would squeeze the axes to nothing.
    figure.set_size_inches(SIZE[0], max(SIZE[1], 2 + 0.25 * measured["label"].nunique()))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _guides(axes: Axes, measured: pd.DataFrame) -> None:
    """Dashed lines of slope 1, below all points, and slope 2, above them, within the limits that the data have set."""
    tokens, values = measured["tokens"].astype(float), measured["y"]
    if tokens.nunique() == 1:
        return
    low, high = axes.get_ylim()
    for slope, factor in ((1, 0.8 * (values / tokens).min()), (2, 1.35 * (values / tokens**2).max())):
        begin = max(tokens.min(), (low / factor) ** (1 / slope))
        end = min(tokens.max(), (high / factor) ** (1 / slope))
        if math.log(end / begin) < _SHORT_GUIDE * math.log(tokens.max() / tokens.min()):
            continue
        spots = ([begin, end], [factor * begin**slope, factor * end**slope])
        axes.plot(*spots, color=GREY, linewidth=1.1, linestyle=(0, (5, 4)), marker="none", zorder=1)
        # Halfway along, on the side where there are no curves.
        middle = (math.sqrt(begin * end), factor * math.sqrt(begin * end) ** slope)
        label, side = ("∝ tokens", 1) if slope == 1 else ("∝ tokens²", -1)
        ha, va = ("left", "top") if slope == 1 else ("right", "bottom")
        look: Style = {"textcoords": "offset points", "fontsize": 9, "color": GREY}
        axes.annotate(label, middle, (3 * side, -3 * side), ha=ha, va=va, **look)
    axes.set_ylim(low, high)


def _failures(axes: Axes, failed: pd.DataFrame, styles: dict[str, Style]) -> None:
    """In a strip above the curves, a row for each line with failed cells: their crosses, and the ``word`` for each."""
    if failed.empty:
        return
    lines = list(failed.sort_values("tokens").groupby("label"))
    step = min(0.05, 0.5 / len(lines))
    low, high = axes.get_ylim()
    axes.set_ylim(low, low * (high / low) ** (1 / (1 - step * len(lines))))
    where = axes.get_xaxis_transform()
    look: Style = {"xycoords": where, "textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 9}
    for place, (name, cells) in enumerate(lines):
        tokens, height = cells["tokens"].to_numpy(float), 1 - step * (place + 0.6)
        cross: Style = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "color": styles[str(name)]["color"]}
        axes.plot(tokens, [height] * len(tokens), transform=where, linestyle="none", **cross)
        axes.annotate(f"{name}: {', '.join(dict.fromkeys(cells['word']))}", (tokens[0], height), (-8, 0), **look)


def _token_ticks(axes: Axes, data: pd.DataFrame) -> None:
    """Ticks at the measured token counts, with the image sides on top; ticks too close to be read are left out.

    Variants of the model have other tokens at the same sides, so their sides are not on the axis.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    plain = data[data["variant"] == ""]
    varied = 0 < len(plain) < len(data)
    sides = {
        int(cell["tokens"]): f"{cell['height']}" if cell["height"] == cell["width"] else f"{cell['height']}×{cell['width']}"
        for cell in (plain if varied else data).to_dict("records")
    }
    span = math.log(data["tokens"].max() / data["tokens"].min()) or 1.0
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
