"""A chart of the page as Vega-Lite, whose axes can be chosen.

A chart is a specification with the data fields x, y and their intervals, with placeholders for titles and scales, and a list
of choices for each axis. The page's script fills in those of the choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

INK = "currentColor"  # of the page: dark on light, light on dark, black in print
_MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "triangle-left",
    "p": "wedge",
}
UNKNOWN = {"color": "#888888", "marker": "o", "linestyle": "-"}  # of a run whose record is not among the rows
_LINE = 16  # pixels of one name in the legend

Point = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """What an axis may show: the field of the data, its words, the fields of its interval, the kind of its scale."""

    field: str
    title: str
    low: str | None = None
    high: str | None = None
    scale: str = "linear"


@dataclass(frozen=True)
class Chart:
    """One chart of the page, with the choices of its axes; the first of each is shown first."""

    name: str
    title: str
    spec: dict[str, Any]
    points: Sequence[Point]
    x: Sequence[Choice]
    y: Sequence[Choice]
    marks: Sequence[Point] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> str:
        """For the page's script; nothing in it can end a script element."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")


def lines_spec(looks: Mapping[str, Any], names: Iterable[str], *, band: bool) -> dict[str, Any]:
    """Curves of y against x for each mixer, with a band where there is one, points, and marks."""
    import altair as alt

    encoded, pick = _encodings(looks, names)
    x, y = _axes()
    faint = alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.12))
    base = alt.Chart().encode(x=x, color=encoded["color"], detail="run:N")
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=encoded["dash"], opacity=faint)
    tips = [alt.Tooltip(f"{name}:N") for name in ("mixer", "tip_x", "tip_y")]
    dots = base.mark_point(filled=True, size=46 if band else 12).encode(
        y=y, shape=encoded["shape"], opacity=faint, tooltip=tips
    )
    layers: list[Any] = [line, dots.add_params(pick)]
    if band:
        area = base.mark_area(opacity=0.16, line=False).encode(y=alt.Y("y_low:Q").title("@y"), y2="y_high:Q")
        marks = alt.Chart(alt.NamedData(name="marks")).encode(x=x, color=encoded["color"], tooltip=["text:N"])
        cross = marks.mark_point(shape="diamond", size=170, strokeWidth=2.2, filled=False).encode(y=y)
        text = marks.mark_text(dy=-13, fontSize=11, fontWeight="bold").encode(y=y, text="short:N")
        named = {"y interval": area, "marks": cross, "names of marks": text}
        area, cross, text = (layer.properties(name=name) for name, layer in named.items())
        layers = [area, *layers, cross, text]
    return _finished(alt.layer(*layers, data=alt.NamedData(name="points")), names)


def points_spec(looks: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """One point for each mixer, with the intervals of both axes; hollow where there is a single seed, ringed on the front."""
    import altair as alt

    encoded, pick = _encodings(looks, names)
    x, y = _axes(room=30)
    faint = alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.12))
    base = alt.Chart().encode(color=encoded["color"], opacity=faint)
    up = base.mark_rule(strokeWidth=1.4).encode(x=x, y=alt.Y("y_low:Q").title("@y"), y2="y_high:Q")
    across = base.mark_rule(strokeWidth=1.4).encode(y=y, x=alt.X("x_low:Q").title("@x"), x2="x_high:Q")
    tips = [
        alt.Tooltip(f"{name}:N") for name in ("mixer", "model", "setting", "seeds", "verdict", "standing", "tip_x", "tip_y")
    ]
    at = base.encode(x=x, y=y, shape=encoded["shape"], tooltip=tips)
    filled = at.transform_filter("datum.seeds > 1").mark_point(filled=True, size=110)
    hollow = at.transform_filter("datum.seeds == 1").mark_point(filled=False, size=110, strokeWidth=2)
    ring = base.encode(x=x, y=y).transform_filter("datum.standing == 'on the front'")
    ring = ring.mark_point(shape="circle", filled=False, size=420, strokeWidth=1.2)
    # Names stand towards the middle, so that none runs out of the plot.
    side: dict[str, Any] = {
        "align": alt.expr("datum.right ? 'right' : 'left'"),
        "dx": alt.expr("datum.right ? -12 : 12"),
    }
    words = base.encode(x=x, y=y, text="name:N").mark_text(dy=-8, fontSize=11, **side).add_params(pick)
    named = {"y interval": up, "x interval": across, "front": ring, "several": filled, "single": hollow}
    layers = [layer.properties(name=name) for name, layer in named.items()]
    return _finished(alt.layer(*layers, words, data=alt.NamedData(name="points")), names)


def _axes(room: int = 16) -> tuple[Any, Any]:
    """The two axes, whose titles and scales are filled in on the page, with ``room`` pixels beside the points."""
    import altair as alt

    x = alt.X("x:Q").title("@x").scale(**_placeholder("x"), padding=room, nice=False).axis(labelOverlap=True)
    y = alt.Y("y:Q").title("@y").scale(**_placeholder("y"), padding=16).axis(labelOverlap=True)
    return x, y


def _placeholder(axis: str) -> dict[str, Any]:
    """A type that Vega-Lite does not know yet; `zero` is set by the page, since a logarithmic scale has none."""
    return {"type": f"@{axis}scale"}


def _encodings(looks: Mapping[str, Any], names: Iterable[str]) -> tuple[dict[str, Any], Any]:
    """Colour, shape and dash of each mixer, the same as in the plots; and the choice of one by its name in the legend."""
    import altair as alt

    used = sorted(set(names))
    look = [looks.get(name, UNKNOWN) for name in used]
    colours = [INK if style["color"] == "black" else style["color"] for style in look]
    shapes = [_MARKERS.get(style["marker"], "triangle-right") for style in look]
    dashes = [[1, 0] if style["linestyle"] == "-" else list(style["linestyle"][1]) for style in look]
    legend = alt.Legend(title=None, symbolLimit=0, labelLimit=240, symbolSize=90, symbolOpacity=1)
    encoded = {
        "color": alt.Color("mixer:N").scale(domain=used, range=colours).legend(legend),
        "shape": alt.Shape("mixer:N").scale(domain=used, range=shapes).legend(legend),
        "dash": alt.StrokeDash("mixer:N").scale(domain=used, range=dashes).legend(legend),
    }
    return encoded, alt.selection_point(fields=["mixer"], bind="legend", name="picked")


def _finished(chart: Any, names: Iterable[str]) -> dict[str, Any]:
    """The specification for the page: as wide as its place, as high as its legend, in the page's ink, without data."""
    chart = chart.properties(width="container", height=max(360, _LINE * len(set(names)) + 20)).configure(
        background="transparent", font="system-ui, sans-serif"
    )
    chart = (
        chart.configure_axis(
            labelColor=INK,
            titleColor=INK,
            gridColor="#8884",
            domainColor="#888",
            tickColor="#888",
            labelFontSize=11.5,
            titleFontSize=12.5,
            titleFontWeight="normal",
            gridDash=[2, 3],
        )
        .configure_legend(labelColor=INK, titleColor=INK, labelFontSize=12)
        .configure_view(stroke=None)
    )
    chart = chart.configure_text(color=INK)
    spec = chart.to_dict(validate=False)
    spec.pop("datasets", None)
    return spec


def as_points(frame: pd.DataFrame) -> list[Point]:
    """The lines of a frame without what is not known, as Python's own numbers."""
    return [
        {str(key): value.item() if hasattr(value, "item") else value for key, value in entry.items() if pd.notna(value)}
        for entry in frame.to_dict("records")
    ]


def as_floats(data: pd.DataFrame, name: str) -> pd.Series[float]:
    """A column as floats, where an empty cell is NaN; NaN throughout for a column that is not there."""
    if name not in data:
        return pd.Series(math.nan, index=data.index)
    return pd.to_numeric(data[name]).astype(float)
