"""Plots of the tables' raw numbers, as PNG files.

Lines are told apart by colour, marker and line style alike, so that the plots hold in grey and for colour-blind eyes.
A mixer with the same factors looks the same in every plot of a report.
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
    from matplotlib.transforms import Bbox

_DPI = 150
_SIZE = (8.4, 5.2)
# Okabe and Ito's palette, without yellow, which is weak on white; black is kept for the baseline.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# The lengths of the three lists share no factor, so that a look comes back as late as it can.
_MARKERS = ("s", "^", "D", "v", "P", "X", "p")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)), (0, (6, 1, 1, 1, 1, 1)))
_GREY = "0.45"
_VERDICTS: dict[str, dict[str, Any]] = {
    "supported": {"color": _COLOURS[0], "marker": "o", "markersize": 9},
    "contradicted": {"color": _COLOURS[1], "marker": "X", "markersize": 9},
    "undecidable": {"color": "0.25", "marker": "s", "markersize": 8, "markerfacecolor": "white"},
}
_BAND_ROOM = 2  # a band widens the axis by no more than this factor on each side
_SHORT_GUIDE = 0.25  # a guide that is seen along less than this part of the axis says nothing

_Style = dict[str, Any]


def draw(tables: Sequence[Table], out: Path) -> Iterator[tuple[Path, Table]]:
    """Write the plots of each table that has some, and yield each path with its table."""
    styles = mixer_styles(tables)
    plots = {
        "profile": {"latency": latency, "memory": memory},
        "accuracy": {"accuracy": accuracy},
        "resolution": {"resolution": resolution},
        "claims": {"claims": claims},
    }
    for table in tables:
        kind, dash, suffix = table.name.partition("-")
        for name, plot in plots.get(kind, {}).items():
            figure, path = plot(table, styles), out / f"{name}{dash}{suffix}.png"
            if figure is not None:
                figure.savefig(path, dpi=_DPI)
                yield path, table


def latency(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """Latency against tokens of a profile table, on two logarithmic axes; None if no cell was timed.

    The band is the interval of the median over rounds, where there is one, and else the interquartile range. Where batches
    differ, latency is that of one image.
    """
    data = table.data
    by_tokens = bool(data["token_budget"].notna().any())
    columns = ("median_seconds", "median_low_seconds", "median_high_seconds", "p25_seconds", "p75_seconds")
    median, low, high, p25, p75 = (_column(data, name) * 1e3 / (data["batch"] if by_tokens else 1) for name in columns)
    shown = (data["status"] == "ok") & median.notna()
    sure = low.notna() & high.notna()
    band = "95% interval over rounds" if sure[shown].all() else "interquartile range"
    if sure[shown].any() and not sure[shown].all():
        band = "95% interval over rounds or, without one, interquartile range"
    values = pd.DataFrame({"y": median, "low": low.where(sure, p25), "high": high.where(sure, p75)})
    unit = "ms per image" if by_tokens else "ms"
    return _curves(table, "Latency", f"latency ({unit}), median and {band}", values[shown], "status", styles)


def memory(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """Peak memory against tokens of a profile table, on two logarithmic axes; None if none was measured."""
    peak = _column(table.data, "memory_bytes") * 1e-6
    values = pd.DataFrame({"y": peak, "low": math.nan, "high": math.nan})
    shown = (table.data["memory_status"] == "ok") & (peak > 0)
    return _curves(table, "Memory", "peak memory of one call (MB), the model included", values[shown], "memory_status", styles)


def _curves(
    table: Table, subject: str, axis: str, values: pd.DataFrame, status: str, styles: dict[str, _Style]
) -> Figure | None:
    """Curves of ``values`` (y, and the band's low and high) against tokens; None if there are none.

    Cells that failed, by the column ``status``, are crosses above the curves.
    """
    if values.empty:
        return None
    data = table.data
    measured = data.loc[values.index, ["label", "tokens"]].join(values)
    figure, axes = _figure(table, gap=38, subject=subject)
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
    figure.set_size_inches(_SIZE[0], max(_SIZE[1], 2 + 0.25 * measured["label"].nunique()))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _column(data: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column as floats, where an empty cell is NaN."""
    return pd.to_numeric(data[name]).astype(float)


def accuracy(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """Accuracy against GMACs of an accuracy table, baselines as dotted lines; None if no point has both."""
    data = table.data
    if "macs" not in data or data["macs"].isna().all():
        return None
    points = data[data["macs"].notna()]
    figure, axes = _figure(table, gap=8)
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
        axes.axhline(100 * value, color=_GREY, linestyle=":", linewidth=1.4, zorder=1)
    axes.margins(x=0.2, y=0.15)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))  # the interval of two seeds may reach far beyond all there is
    _name_baselines(axes, simple)
    _label_points(figure, axes, labels, points)
    return figure


def resolution(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """Accuracy against the side of the test images, with 95% intervals over seeds; None for a single size."""
    data = table.data
    if data["height"].nunique() == 1:
        return None
    figure, axes = _figure(table, gap=8)
    axes.set(xlabel="height of the test images (px)", ylabel="top-1 accuracy (%), measured")
    for (_, name), curve in data.groupby(["trained_as", "label"], sort=False):
        curve = curve.sort_values("height")
        spread = 100 * _column(curve, "accuracy_ci95").fillna(0.0)
        axes.errorbar(curve["height"], 100 * curve["accuracy"], yerr=spread, capsize=4, label=str(name), **styles[str(name)])
    axes.set_xticks(sorted(data["height"].unique()))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def claims(table: Table, styles: dict[str, _Style]) -> Figure | None:
    """The estimate and interval of each claim of accuracy, on the region where it holds; None if none has an estimate."""
    del styles  # claims have looks by their verdicts
    data = table.data.assign(condition=table.frame["holds if"])
    region = data[["holds_above", "holds_below"]].apply(pd.to_numeric).astype(float)
    data = data[_column(data, "estimate").notna() & region.notna().any(axis=1)]
    if data.empty:
        return None
    figure, axes = _figure(table, gap=8)
    figure.set_size_inches(_SIZE[0], 1.7 + 0.52 * len(data))
    ends = [0.0, *_column(data, "low"), *_column(data, "high"), *region.loc[data.index].stack()]
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
    axes.axvline(0, color=_GREY, linewidth=1, zorder=2)
    conditions = [textwrap.shorten(text, 60, placeholder=" …", break_on_hyphens=False) for text in data["condition"]]
    axes.set_yticks(
        range(len(data)), [f"{name}\n{text}" for name, text in zip(data["id"], conditions, strict=True)], fontsize=8
    )
    axes.set(xlim=(left, right), ylim=(len(data) - 0.4, -0.6), xlabel="points of accuracy; grey: where the claim holds")
    axes.grid(visible=False, axis="y")
    return figure


def mixer_styles(tables: Sequence[Table]) -> dict[str, _Style]:
    """One look per line, a mixer with its factors: first those that have curves, which need the different colours most.

    The baseline is black, whatever its factors and its attention backend.
    """
    mixers: set[str] = set()
    curves: set[str] = set()
    baselines: set[str] = set()
    for table in tables:
        if "label" in table.data:
            names = {str(name) for name in table.data["label"].dropna()}
            mixers |= names
            curves |= names if table.name.startswith(("profile", "resolution")) else set()
            plain = table.data["variant"] == "" if "variant" in table.data else True
            baselines |= set(table.data.loc[(table.data["mixer"] == BASELINE) & plain, "label"])
    others = sorted(mixers - baselines, key=lambda name: (name not in curves, name))
    looks = zip(others, itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), itertools.cycle(_DASHES), strict=False)
    styles = {name: _style(colour, marker, dashes) for name, colour, marker, dashes in looks}
    black = zip(sorted(baselines | {BASELINE}), itertools.cycle(("o", *_MARKERS)), itertools.cycle(_DASHES), strict=False)
    return styles | {name: _style("black", marker, dashes) for name, marker, dashes in black}


def _style(colour: str, marker: str, dashes: object) -> _Style:
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.8}
    return {"color": colour, "marker": marker, "linestyle": dashes, "linewidth": 1.8, "markersize": 7.5, **edge}


def _figure(table: Table, gap: int, subject: str = "") -> tuple[Figure, Axes]:
    """An empty plot under the table's title, ``gap`` points above the axes: the subject in bold, then the setting."""
    from matplotlib.figure import Figure

    # Not pyplot: it keeps global state, and picks a backend by what screen it finds.
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    kind, _, rest = table.title.partition(": ")
    first, *setting = rest.split(", ")
    # Spaces within a part do not break, so that lines end between parts.
    lines = textwrap.wrap(", ".join(part.replace(" ", "\u00a0") for part in setting), 95)
    heading = f"{subject} of {first}" if subject else f"{kind}: {first}"
    look: _Style = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate("\n".join(lines), (0, 1), (0, gap), fontsize=9, color=_GREY, **look)
    axes.annotate(heading, (0, 1), (0, gap + 12 * len(lines) + 5), fontsize=13, weight="bold", **look)
    axes.grid(which="major", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


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
        axes.plot(*spots, color=_GREY, linewidth=1.1, linestyle=(0, (5, 4)), marker="none", zorder=1)
        # Halfway along, on the side where there are no curves.
        middle = (math.sqrt(begin * end), factor * math.sqrt(begin * end) ** slope)
        label, side = ("∝ tokens", 1) if slope == 1 else ("∝ tokens²", -1)
        ha, va = ("left", "top") if slope == 1 else ("right", "bottom")
        look: _Style = {"textcoords": "offset points", "fontsize": 9, "color": _GREY}
        axes.annotate(label, middle, (3 * side, -3 * side), ha=ha, va=va, **look)
    axes.set_ylim(low, high)


def _failures(axes: Axes, failed: pd.DataFrame, styles: dict[str, _Style]) -> None:
    """In a strip above the curves, a row for each line with failed cells: their crosses, and the ``word`` for each."""
    if failed.empty:
        return
    lines = list(failed.sort_values("tokens").groupby("label"))
    step = min(0.05, 0.5 / len(lines))
    low, high = axes.get_ylim()
    axes.set_ylim(low, low * (high / low) ** (1 / (1 - step * len(lines))))
    where = axes.get_xaxis_transform()
    look: _Style = {"xycoords": where, "textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 9}
    for place, (name, cells) in enumerate(lines):
        tokens, height = cells["tokens"].to_numpy(float), 1 - step * (place + 0.6)
        cross: _Style = {"marker": "x", "markersize": 8, "markeredgewidth": 2, "color": styles[str(name)]["color"]}
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
        axes.text(1.01, height, str(name), transform=axes.transAxes, va="center", fontsize=9, color=_GREY)


def _label_points(figure: Figure, axes: Axes, labels: Sequence[tuple[float, float, str]], points: pd.DataFrame) -> None:
    """Write each name at the first place around its point where it covers no point, error bar, or other name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # the layout settles only when it draws, and places are measured in it
    frame = axes.get_window_extent(renderer)
    taken = _obstacles(axes, points)
    white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    leader = {"arrowstyle": "-", "color": _GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 6}
    look: _Style = {"textcoords": "offset points", "va": "center", "fontsize": 9.5, "bbox": white, "arrowprops": leader}
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
