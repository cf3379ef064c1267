"""The page's charts as Vega-Lite, from the tables' raw numbers.

What is on an axis can be chosen: a chart is a specification with the data fields x, y and their intervals, with placeholders
for titles and scales, and a list of choices for each axis. The page's script fills in those of the choice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from wfbench.records.run_directory import Run
from wfbench.report.figures import mixer_styles
from wfbench.report.parts import label, pixels
from wfbench.report.tables import Table

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
#: How the column of a Pareto table begins that is about a cost of the chart.
_COLUMNS = {"macs": "GMACs", "params": "params", "train": "training time", "latency": "latency", "memory": "memory"}
#: What tells the lines of a Pareto table apart.
_RUN = ("label", "model", "recipe_digest", "weights", "batch", "steps", "samples")
_UNKNOWN = {"color": "#888888", "marker": "o", "linestyle": "-"}  # of a run whose record is not among the rows
_LINE = 16  # pixels of one name in the legend
_LARGE = 1e8  # from so many MACs on they are shown in units of 10⁹, below in units of 10⁶
_MOST_POINTS = 200  # of one run's curve

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


def charts(tables: Sequence[Table], runs: Iterable[Run]) -> list[Chart]:
    """Scaling for each profile, accuracy against cost for each accuracy table, and the curves of the runs."""
    looks = mixer_styles(tables)
    crossed = {name.name.removeprefix("crossover"): name for name in tables if name.name.startswith("crossover")}
    scaling = [
        _scaling(table, crossed.get(table.name.removeprefix("profile")), looks)
        for table in tables
        if table.name.startswith("profile")
    ]
    overview = next((table for table in tables if table.name == "overview"), None)
    trained = [table for table in tables if table.name.startswith("accuracy") and "label" in table.data]
    fronts = {table.name.removeprefix("pareto"): table for table in tables if table.name.startswith("pareto")}
    cost = [
        _cost(table, overview if len(trained) == 1 else None, fronts.get(table.name.removeprefix("accuracy")), looks)
        for table in trained
    ]
    return [chart for chart in [*cost, *scaling, *_curves(list(runs), looks)] if chart is not None]


# --- scaling


def _scaling(table: Table, crossed: Table | None, looks: Mapping[str, Any]) -> Chart | None:
    """Latency, memory and counts of each cell against tokens, with bands and the points where mixers overtake the baseline."""
    data, by_tokens = table.data, bool(table.data["token_budget"].notna().any())
    scale = 1e3 / data["batch"].astype(float) if by_tokens else 1e3
    columns = {
        "latency": _floats(data, "median_seconds") * scale,
        "latency_low": _floats(data, "median_low_seconds").fillna(_floats(data, "p25_seconds")) * scale,
        "latency_high": _floats(data, "median_high_seconds").fillna(_floats(data, "p75_seconds")) * scale,
        "memory": _floats(data, "memory_bytes") * 1e-6,
        "gmacs": _floats(data, "macs") * 1e-9,
        "speedup": _floats(data, "speedup"),
        "tokens": data["tokens"].astype(float),
        "side": data["height"].astype(float),
    }
    frame = pd.DataFrame({**columns, "mixer": data["label"], "status": data["status"]})
    points = _points(frame)
    sure = bool(_floats(data, "median_low_seconds").notna().any())
    band = "band: 95% interval over rounds" if sure else "band: interquartile range"
    y = [
        Choice("latency", f"latency (ms{' per image' if by_tokens else ''}); {band}", "latency_low", "latency_high", "log"),
        Choice("memory", "peak memory of one call (MB)", scale="log"),
        Choice("gmacs", "GMACs of one image", scale="log"),
        Choice("speedup", "speed-up over the baseline (×)", scale="log"),
    ]
    y = [choice for choice in y if frame[choice.field].notna().any()]
    if not y:
        return None
    marks = [] if crossed is None else _crossings(crossed, frame)
    return Chart(
        table.name,
        table.title,
        _lines_spec(looks, frame["mixer"], band=True),
        points,
        [Choice("tokens", "tokens", scale="log"), Choice("side", "image side (px)", scale="log")],
        y,
        marks,
        table.notes,
    )


def _crossings(crossed: Table, frame: pd.DataFrame) -> list[Point]:
    """Where a mixer's curve overtakes the baseline: at the recorded side, at the height of the mixer's own curve there."""
    marks = []
    for entry in crossed.data.to_dict("records"):
        curve = frame[(frame["mixer"] == entry["label"]) & frame["latency"].notna() & (frame["status"] == "ok")]
        curve = curve.sort_values("side")
        if entry["verdict"] != "at" or len(curve) < 2 or pd.isna(entry["side"]):
            continue
        side = float(entry["side"])
        at = {name: _between(side, curve["side"], curve[name]) for name in ("tokens", "latency")}
        marks.append({"mixer": entry["label"], "side": side, **at, "text": f"{entry['label']} is faster from {side:.0f} px on"})
    return marks


def _between(side: float, sides: pd.Series[float], values: pd.Series[float]) -> float:
    """A value at a side between measured ones, on straight lines in the logarithms."""
    import numpy as np

    return math.exp(float(np.interp(math.log(side), np.log(sides), np.log(values))))


# --- accuracy against cost


def _cost(table: Table, overview: Table | None, front: Table | None, looks: Mapping[str, Any]) -> Chart | None:
    data = table.data[table.data["label"].notna()].reset_index(drop=True)
    accuracy, half = 100 * data["accuracy"].astype(float), 100 * _floats(data, "accuracy_ci95")
    seconds, spread = data["train_seconds"].astype(float), _floats(data, "train_seconds_ci95")
    large = bool((_floats(data, "macs") >= _LARGE).any())
    frame = pd.DataFrame(
        {
            "mixer": data["label"],
            "model": data["model"],
            "seeds": data["seed_count"].astype(int),
            "verdict": data.get("verdict"),
            "setting": data["recipe_digest"] if data["recipe_digest"].nunique() > 1 else None,
            **{"accuracy": accuracy, "accuracy_low": accuracy - half, "accuracy_high": accuracy + half},
            "loss": data["loss"].astype(float),
            "macs": _floats(data, "macs") * (1e-9 if large else 1e-6),
            "params": data["parameters"].astype(float) * 1e-6,
            **{"train": seconds, "train_low": seconds - spread, "train_high": seconds + spread},
        }
    )
    x = [
        Choice("macs", f"{'GMACs' if large else 'MMACs'} of one image's forward pass"),
        Choice("params", "parameters (M)"),
        Choice("train", "training time (s)", "train_low", "train_high"),
    ]
    if overview is not None:
        x += _add_measured(frame, overview)
    for choice in x:
        standing = _standing(front, choice.field)
        frame[f"front_{choice.field}"] = [standing.get(tuple(run[name] for name in _RUN)) for run in data.to_dict("records")]
    x = [choice for choice in x if frame[choice.field].notna().any()]
    y = [Choice("accuracy", "top-1 accuracy (%), measured, last epoch", "accuracy_low", "accuracy_high")]
    y += [Choice("loss", "held-out loss")]
    return Chart(table.name, table.title, _points_spec(looks, frame["mixer"]), _points(frame), x, y, (), table.notes)


def _add_measured(frame: pd.DataFrame, overview: Table) -> list[Choice]:
    """Latency and memory of the profile at its largest resolution."""
    cells = overview.data.drop_duplicates("accuracy.label").set_index("accuracy.label")
    known = cells[cells["last.height"].notna()]
    if known.empty:
        return []
    side = pixels((int(known["last.height"].iloc[0]), int(known["last.width"].iloc[0])))
    for name, column, scale in (
        ("latency", "last.median_seconds", 1e3),
        ("latency_low", "last.median_low_seconds", 1e3),
        ("latency_high", "last.median_high_seconds", 1e3),
        ("memory", "last.memory_bytes", 1e-6),
    ):
        frame[name] = frame["mixer"].map(pd.to_numeric(cells[column]).astype(float) * scale)
    whose = "" if known["same_model"].all() else f" of the profiled {known['last.model'].iloc[0]}, another model"
    return [
        Choice("latency", f"latency at {side} px{whose} (ms)", "latency_low", "latency_high"),
        Choice("memory", f"peak memory at {side} px{whose} (MB)"),
    ]


def _standing(front: Table | None, cost: str) -> dict[tuple[object, ...], str]:
    """The lines' places by a cost, from the column of the Pareto table that is about it."""
    if front is None:
        return {}
    columns = [name for name in map(str, front.data) if name.startswith(f"by {_COLUMNS[cost]}")]
    return (
        {} if not columns else {tuple(line[name] for name in _RUN): line[columns[0]] for line in front.data.to_dict("records")}
    )


# --- curves of runs


def _curves(runs: Sequence[Run], looks: Mapping[str, Any]) -> list[Chart]:
    """The training of each run, for runs of one recipe on one data set."""
    found: dict[tuple[str, str, str, str], list[Point]] = {}
    for run in runs:
        if run.row.validation is not None:
            continue  # a trial of tuning is no result
        curve = run.curve()
        every = max(1, math.ceil(len(curve) / _MOST_POINTS))
        kept = [*curve[::every], *([curve[-1]] if curve and (len(curve) - 1) % every else [])]
        key = (run.row.dataset, run.row.recipe, pixels(run.row.image_size), run.row.recipe_digest)
        who = {"mixer": label(run.row), "seed": run.row.seed, "run": str(run.place)}
        for point in kept:
            more = {"accuracy": 100 * point["accuracy"]} if "accuracy" in point else {}
            found.setdefault(key, []).append({**point, **more, **who})
    words = {"accuracy": "held-out top-1 (%)", "loss": "held-out loss", "train_loss": "training loss", "lr": "learning rate"}
    words |= {"grad_norm": "norm of the gradient before clipping"}
    made = []
    for number, ((dataset, recipe, side, digest), points) in enumerate(sorted(found.items()), 1):
        alone = sum(key[:3] == (dataset, recipe, side) for key in found) == 1
        y = [Choice(name, text) for name, text in words.items() if any(name in point for point in points)]
        x = [Choice("epoch", "epoch")] + [
            Choice(name, text)
            for name, text in (("step", "optimiser step"), ("train_seconds", "seconds of training"))
            if any(name in point for point in points)
        ]
        if y:
            names = sorted({str(point["mixer"]) for point in points})
            title = f"Training: {dataset}, recipe {recipe}{'' if alone else f' {digest}'}, {side} px"
            spec = _lines_spec(looks, names, band=False)
            made.append(Chart(f"curves-{number}", title, spec, points, x, y, (), ("Each line is one run, of one seed.",)))
    return made


# --- specifications


def _lines_spec(looks: Mapping[str, Any], names: Iterable[str], *, band: bool) -> dict[str, Any]:
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


def _points_spec(looks: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
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
    look = [looks.get(name, _UNKNOWN) for name in used]
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


def _points(frame: pd.DataFrame) -> list[Point]:
    """The lines of a frame without what is not known, as Python's own numbers."""
    return [
        {str(key): value.item() if hasattr(value, "item") else value for key, value in entry.items() if pd.notna(value)}
        for entry in frame.to_dict("records")
    ]


def _floats(data: pd.DataFrame, name: str) -> pd.Series[float]:
    if name not in data:
        return pd.Series(math.nan, index=data.index)
    return pd.to_numeric(data[name]).astype(float)
