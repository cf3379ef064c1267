"""One self-contained HTML page: charts whose axes can be chosen, tables that sort and filter, pictures, sources.

It asks no network for anything and works from a file:// address. Charts are Vega-Lite, whose JavaScript is bundled by
vl-convert; the rest is in ``assets/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from wfbench.analysis.capability import ProbeResult
from wfbench.analysis.fronts import Fronts
from wfbench.analysis.overview import Overview
from wfbench.analysis.profile import ProfileCost
from wfbench.analysis.results import Results
from wfbench.analysis.scaling import Crossovers
from wfbench.analysis.seeds import AccuracyResult
from wfbench.records import AnyRow, DenseRow, ProbeRow, TrainRow
from wfbench.records.run_directory import Run
from wfbench.report.answers import Question
from wfbench.report.columns import Table
from wfbench.report.figures import mixer_styles
from wfbench.report.findings import Finding
from wfbench.report.page.accuracy import cost_chart
from wfbench.report.page.capability import probe_chart
from wfbench.report.page.charts import Chart
from wfbench.report.page.chooser import Chooser, chooser
from wfbench.report.page.curves import training_charts
from wfbench.report.page.pictures import Picture, claims_pictures, pictures, size_pictures
from wfbench.report.page.scaling import scaling_chart
from wfbench.report.sources import Source
from wfbench.report.words import plural

#: The page's limit, of which pictures get what charts and tables leave.
MOST_BYTES = 5_000_000

_LEGENDS = {
    "accuracy": "Click a name in the legend to pick it out. Bars are 95% intervals; a hollow point is a single seed and ranks "
    "nothing; a ring marks the Pareto front as far as the seeds tell.",
    "cost": "Click a name in the legend to pick it out. A large diamond marks the side from which a mixer is faster than "
    "the baseline.",
    "training": "Click a name in the legend to pick it out.",
    "probes": "Where there are several probes, choose one by the horizontal axis; click a name in the legend to pick it out. "
    "Grey lines are floors: what needs no such ability.",
}
#: The section of each kind of table; the other kinds are about cost.
_SECTIONS = {
    "claims": "claims",
    "tuning": "accuracy",
    "accuracy": "accuracy",
    "pareto": "accuracy",
    "overview": "glance",
    "exports": "glance",
    "published": "published",
    "erf": "erf",
    "capability": "probes",
    "probe": "probes",
    "segmentation": "segmentation",
    "segmentation-sizes": "segmentation",
    "denoising": "denoisers",
    "scores": "denoisers",
    "ablation": "ablation",
}


@dataclass(frozen=True)
class _Shown:
    """A finding with the chart that shows it, and what stands below the chart."""

    finding: Finding
    chart: Chart | None
    legend: str


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
    answers: Sequence[Question] = ()
    findings: Sequence[_Shown] = ()
    choosers: Sequence[Chooser] = ()

    @property
    def is_folded(self) -> bool:
        """Whether it is shown only when it is asked for: all but the findings and the choice."""
        return not (self.findings or self.choosers)

    def __bool__(self) -> bool:
        inside = (self.charts, self.tables, self.maps, self.left_out, self.sources, self.answers, self.findings, self.choosers)
        return any(inside)


def page(
    rows: Sequence[AnyRow],
    results: Results,
    tables: Sequence[Table],
    runs: Iterable[Run],
    sources: Sequence[Source],
    torn: Sequence[str] = (),
    answers: Sequence[Question] = (),
    findings: Sequence[Finding] = (),
) -> str:
    """The page as HTML: first the findings, each with its chart, and a choice between mixers; then everything, folded.

    Args:
        rows: the records, for pictures and the summary.
        results: what the rows say.
        tables: what is shown, in this order; charts are drawn from their raw numbers.
        runs: whose curves are drawn.
        sources: environments and commands.
        torn: messages about torn lines.
        answers: what the results say, in sentences.
        findings: the same in short.
    """
    import jinja2

    import wfbench

    drawn = _charts_by_section(tables, runs)
    shortly = [_with_chart(finding, drawn) for finding in findings]
    by_section: dict[str, list[Table]] = {}
    for table in tables:
        by_section.setdefault(_SECTIONS.get(table.kind, "cost"), []).append(table)
    shown = {name: [_table(table) for table in found] for name, found in by_section.items()}
    answered, by_size = claims_pictures(results, tables), size_pictures(results, tables)
    choosers = [made for choice in results.choices if (made := chooser(choice)) is not None]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_asset("template.html"))

    def render(pictured: Mapping[str, Sequence[Picture]], left_out: str) -> str:
        sections = [
            _Section("short", "In short", findings=shortly),
            _Section("choose", "Which one for me?", choosers=choosers),
            _Section("answers", "Every line in words", answers=answers),
            _Section("claims", "Claims", tables=shown.get("claims", ()), maps=answered),
            _Section("glance", "At a glance", tables=shown.get("glance", ())),
            _Section("accuracy", "Accuracy", drawn["accuracy"], shown.get("accuracy", ()), _LEGENDS["accuracy"]),
            _Section("probes", "What can it do? Probes", drawn["probes"], shown.get("probes", ()), _LEGENDS["probes"]),
            _Section(
                "segmentation", "Segmentation", tables=shown.get("segmentation", ()), maps=[*by_size, *pictured["predictions"]]
            ),
            _Section("cost", "Cost and scaling", drawn["cost"], shown.get("cost", ()), _LEGENDS["cost"]),
            _Section("training", "Training", drawn["training"], legend=_LEGENDS["training"]),
            _Section("erf", "Effective receptive fields", tables=shown.get("erf", ()), maps=pictured["maps"]),
            _Section("denoisers", "Denoisers", tables=shown.get("denoisers", ())),
            _Section("ablation", "What does the work", tables=shown.get("ablation", ())),
            _Section("samples", "Samples", maps=pictured["samples"]),
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

    nothing: dict[str, list[Picture]] = {"maps": [], "samples": [], "predictions": []}
    room = MOST_BYTES - len(render(nothing, "").encode()) - 2_000
    pictured, left = pictures(rows, room)
    return render(pictured, f"No room on this page: {', '.join(left)}." if left else "")


def _with_chart(finding: Finding, drawn: dict[str, list[Chart]]) -> _Shown:
    """A finding with the first chart of its kind, which then stands nowhere else."""
    charts = drawn.get(finding.chart, [])
    return _Shown(finding, charts.pop(0) if charts else None, _LEGENDS.get(finding.chart, ""))


def _table(table: Table) -> dict[str, object]:
    """A table for the template: of an accuracy table, lines of a single seed are marked and never ranked."""
    names = [str(column) for column in table.frame.columns]
    return {
        "id": f"table-{table.name}",
        "title": table.title,
        "published": table.kind == "published",
        "columns": [{"name": name, "left": name in table.words, "ranks": name in table.ranks} for name in names],
        "lines": [
            {"cells": cells, "alone": _alone(dict(zip(names, cells, strict=True)))}
            for cells in table.frame.astype(str).values.tolist()
        ],
        "notes": table.notes,
    }


def _alone(cells: Mapping[str, str]) -> bool:
    """Whether a line, or one of its figures, is of a single seed."""
    return cells.get("seeds", "").removesuffix(" seed").split("/")[0].removesuffix(" seed") == "1"


def _summary(rows: Sequence[AnyRow]) -> str:
    """How much there is, from when, on what."""
    if not rows:
        return "No records."
    trained = [row for row in rows if isinstance(row, TrainRow | DenseRow | ProbeRow) and row.validation is None]
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
    """Accuracy against cost for each accuracy table, scaling for each profile, and the curves of the runs."""
    return [chart for found in _charts_by_section(tables, runs).values() for chart in found]


def _charts_by_section(tables: Sequence[Table], runs: Iterable[Run]) -> dict[str, list[Chart]]:
    looks = mixer_styles(tables)
    results = [table.result for table in tables]
    crossed = {id(result.profile): result for result in results if isinstance(result, Crossovers)}
    scaling = [
        scaling_chart(result, table, crossed.get(id(result.profile)), looks)
        for table, result in zip(tables, results, strict=True)
        if isinstance(result, ProfileCost)
    ]
    fronts = {id(result.accuracy): result for result in results if isinstance(result, Fronts)}
    overview = {id(result.accuracy): result for result in results if isinstance(result, Overview)}
    cost = [
        cost_chart(result, table, overview.get(id(result)), fronts.get(id(result)), looks)
        for table, result in zip(tables, results, strict=True)
        if isinstance(result, AccuracyResult) and result.lines
    ]
    probes = [(result, table) for table, result in zip(tables, results, strict=True) if isinstance(result, ProbeResult)]
    probed = probe_chart([result for result, _ in probes], [table for _, table in probes], looks)
    return {
        "accuracy": cost,
        "probes": [] if probed is None else [probed],
        "cost": [chart for chart in scaling if chart is not None],
        "training": training_charts(list(runs), looks),
    }
