"""One self-contained HTML page: charts whose axes can be chosen, tables that sort and filter, pictures, sources.

It asks no network for anything and works from a file:// address. Charts are Vega-Lite, whose JavaScript is bundled by
vl-convert; the rest is in ``assets/``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import numpy as np

from wfbench.analysis.fronts import Fronts
from wfbench.analysis.overview import Overview
from wfbench.analysis.seeds import AccuracyResult
from wfbench.records import AnyRow, ErfRow, PictureRow, TrainRow
from wfbench.records.run_directory import Run
from wfbench.report import figures
from wfbench.report.erf import DECADES, caption, decode
from wfbench.report.figures import mixer_styles
from wfbench.report.page.accuracy import cost_chart
from wfbench.report.page.charts import Chart
from wfbench.report.page.curves import training_charts
from wfbench.report.page.scaling import scaling_chart
from wfbench.report.parts import Table, label, left_aligned, plural
from wfbench.report.sources import Source

#: The page's limit, of which pictures get what charts and tables leave.
MOST_BYTES = 5_000_000

_LEGENDS = {
    "accuracy": "Click a name in the legend to pick it out. Bars are 95% intervals; a hollow point is a single seed and ranks "
    "nothing; a ring marks the Pareto front as far as the seeds tell.",
    "scaling": "Click a name in the legend to pick it out. A large diamond marks the side from which a mixer is faster than "
    "the baseline.",
    "training": "Click a name in the legend to pick it out.",
}
#: Columns by which a single seed is never ranked.
_RANKS = ("accuracy", "loss", "difference", "top-5", "held-out loss", "best epoch", "mse", "proxy-FD", "FID", "value")


@dataclass(frozen=True)
class _Section:
    id: str
    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Mapping[str, object]] = ()
    legend: str = ""
    maps: Sequence[Mapping[str, str]] = ()
    left_out: str = ""
    sources: Sequence[Source] = field(default_factory=tuple)

    def __bool__(self) -> bool:
        return bool(self.charts or self.tables or self.maps or self.left_out or self.sources)


def page(
    rows: Sequence[AnyRow], tables: Sequence[Table], runs: Iterable[Run], sources: Sequence[Source], torn: Sequence[str] = ()
) -> str:
    """The page as HTML.

    Args:
        rows: the records, for pictures and the summary.
        tables: what is shown, in this order; charts are drawn from their raw numbers.
        runs: whose curves are drawn.
        sources: environments and commands.
        torn: messages about torn lines.
    """
    import jinja2

    import wfbench

    drawn = charts(tables, runs)
    by_kind = {
        "claims": "claims",
        "tuning": "accuracy",
        "accuracy": "accuracy",
        "pareto": "accuracy",
        "overview": "glance",
        "published": "published",
        "erf": "erf",
    }
    by_kind |= {"denoising": "denoisers", "scores": "denoisers"}
    placed: dict[str, list[Table]] = {}
    for table in tables:
        placed.setdefault(by_kind.get(table.name.partition("-")[0], "cost"), []).append(table)
    shown = {name: [_table(table) for table in found] for name, found in placed.items()}
    ours = {
        name: [chart for chart in drawn if chart.name.partition("-")[0] == kind]
        for name, kind in (("accuracy", "accuracy"), ("scaling", "profile"), ("training", "curves"))
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_asset("template.html"))

    def render(maps: Sequence[Mapping[str, str]], samples: Sequence[Mapping[str, str]], left_out: str) -> str:
        sections = [
            _Section("claims", "Claims", tables=shown.get("claims", ()), maps=_claims(tables)),
            _Section("glance", "At a glance", tables=shown.get("glance", ())),
            _Section("accuracy", "Accuracy", ours["accuracy"], shown.get("accuracy", ()), _LEGENDS["accuracy"]),
            _Section("cost", "Cost and scaling", ours["scaling"], shown.get("cost", ()), _LEGENDS["scaling"]),
            _Section("training", "Training", ours["training"], legend=_LEGENDS["training"]),
            _Section("erf", "Effective receptive fields", tables=shown.get("erf", ()), maps=maps),
            _Section("denoisers", "Denoisers", tables=shown.get("denoisers", ())),
            _Section("samples", "Samples", maps=samples),
            _Section("published", "Published numbers", tables=shown.get("published", ())),
            _Section("pictures", "Pictures left out", left_out=left_out),
            _Section("sources", "Where the numbers come from", sources=sources),
        ]
        return template.render(
            title="Token mixers compared",
            summary=_summary(rows),
            sections=[section for section in sections if section],
            torn=torn,
            version=wfbench.__version__,
            style=_asset("style.css"),
            script=_asset("script.js"),
            bundle=_bundle(),
        )

    room = MOST_BYTES - len(render([], [], "").encode()) - 2_000
    maps, samples, left = _pictures(rows, room)
    return render(maps, samples, f"No room on this page: {', '.join(left)}." if left else "")


def _table(table: Table) -> dict[str, object]:
    """A table for the template: of an accuracy table, lines of a single seed are marked and never ranked."""
    names = [str(column) for column in table.frame.columns]
    return {
        "id": f"table-{table.name}",
        "title": table.title,
        "published": table.name.startswith("published"),
        "columns": [
            {"name": name, "left": left_aligned(name), "ranks": name.startswith(_RANKS) or name.endswith(" px (%)")}
            for name in names
        ],
        "lines": [
            {"cells": cells, "alone": _alone(dict(zip(names, cells, strict=True)))}
            for cells in table.frame.astype(str).values.tolist()
        ],
        "notes": table.notes,
    }


def _alone(cells: Mapping[str, str]) -> bool:
    """Whether a line, or one of its figures, is of a single seed."""
    return cells.get("seeds", "").removesuffix(" seed").split("/")[0].removesuffix(" seed") == "1"


def _pictures(rows: Iterable[AnyRow], room: int) -> tuple[list[dict[str, str]], list[dict[str, str]], list[str]]:
    """Maps and samples in their order, as far as there is room, and the names of the others."""
    maps: list[dict[str, str]] = []
    samples: list[dict[str, str]] = []
    left = []
    newest: dict[object, ErfRow | PictureRow] = {}
    for row in rows:
        if isinstance(row, ErfRow):
            newest[label(row), row.model, row.image_size, row.weights, row.recipe_digest, row.seed] = row
        elif isinstance(row, PictureRow):
            newest[label(row), row.model, row.caption] = row
    for row in newest.values():
        is_map = isinstance(row, ErfRow)
        words = caption(row).replace("\n", ", ") if isinstance(row, ErfRow) else f"{label(row)}: {row.caption}"
        png = _coloured(row) if isinstance(row, ErfRow) else row.picture
        size = len(png) + 3 * len(words.encode()) + 200
        if size > room:
            left.append(words)
            continue
        room -= size
        (maps if is_map else samples).append({"png": png, "caption": words})
    return maps, samples, left


def _claims(tables: Iterable[Table]) -> list[dict[str, str]]:
    """The figure of each table of claims."""
    pictures = []
    for table in tables:
        figure = figures.claims(table, {}) if table.name.startswith("claims") else None
        if figure is not None:
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=110)
            pictures.append({"png": base64.b64encode(file.getvalue()).decode(), "caption": table.title})
    return pictures


def _coloured(row: ErfRow) -> str:
    """A map in the colours of the figure, as PNG in base64."""
    from matplotlib import colormaps
    from PIL import Image

    levels = np.round(255 * (1 + decode(row.picture) / DECADES)).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette((np.asarray(colormaps["viridis"](np.arange(256)))[:, :3] * 255).astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _summary(rows: Sequence[AnyRow]) -> str:
    """How much there is, from when, on what."""
    if not rows:
        return "No records."
    trained = [row for row in rows if isinstance(row, TrainRow) and row.validation is None]
    dates = sorted(row.created[:10] for row in rows)
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    devices = sorted({row.environment.device for row in rows})
    runs = f"{plural(len(trained), 'training run')}, " if trained else ""
    return f"{plural(len(rows), 'record')}, {runs}{span}; {', '.join(devices)}."


def _asset(name: str) -> str:
    return resources.files("wfbench.report.page").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes specifications for."""
    import altair
    import vl_convert

    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version).replace("</script", "<\\/script")


def charts(tables: Sequence[Table], runs: Iterable[Run]) -> list[Chart]:
    """Scaling for each profile, accuracy against cost for each accuracy table, and the curves of the runs."""
    looks = mixer_styles(tables)
    crossed = {name.name.removeprefix("crossover"): name for name in tables if name.name.startswith("crossover")}
    scaling = [
        scaling_chart(table, crossed.get(table.name.removeprefix("profile")), looks)
        for table in tables
        if table.name.startswith("profile")
    ]
    results = [table.result for table in tables]
    overview = {id(result.accuracy): result for result in results if isinstance(result, Overview)}
    fronts = {id(result.accuracy): result for result in results if isinstance(result, Fronts)}
    cost = [
        cost_chart(table.result, table, overview.get(id(table.result)), fronts.get(id(table.result)), looks)
        for table in tables
        if isinstance(table.result, AccuracyResult) and table.result.lines
    ]
    return [chart for chart in [*cost, *scaling, *training_charts(list(runs), looks)] if chart is not None]
