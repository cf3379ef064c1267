"""Every number that people may compare has an interval, or a note of its table says why it has none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from test_accuracy_results import trial
from test_report import baseline, cell, train
from test_report_profile import breakdown, throughput

from wfbench import report
from wfbench.analysis.interval import Interval
from wfbench.records.run_directory import find_runs
from wfbench.report import Table
from wfbench.report.columns import Column
from wfbench.report.page import charts
from wfbench.report.page.charts import Chart

RESULTS = Path(__file__).parent.parent / "results"
FOLDERS = sorted({path.relative_to(RESULTS).parts[0] for path in RESULTS.rglob("records.jsonl")})
#: Numbers that need no interval, by their columns in the CSV or, of columns that people alone read, by their headings.
EXACT = {
    # what was run
    *("height", "width", "px", "downsample", "batch", "token_budget", "threads", "epochs", "steps", "cfg", "cfg_channels"),
    *("every", "offset", "tokens", "smallest_side", "largest_side", "rate", "lr", "recipe_lr", "best rate", "validation"),
    *("mlp_ratio", "depth"),
    *("gain_threshold", "saturating_batch", "order_seed", "noise_seed", "sample_seed", "seed", "mcnemar_seed", "residual"),
    # what was counted
    *("parameters", "macs", "flops", "elementwise", "activations", "bytes_least", "bytes_moved", "bytes_alive", "share"),
    *("by shapes (MB)", "macs_exponent", "params", "gmacs", "samples", "images", "seeds", "seed_count", "rounds", "rows"),
    *("timing_samples", "seeds_ours", "seeds_theirs", "real_samples", "reference_samples", "only_ours", "only_theirs"),
    *("canvases", "budget", "global_layers", "solved", "untrained", "cells", "groups", "measured_to", "looked_to"),
    # what is computed from the generator of a probe
    *("chance", "local_floor", "set_floor", "straight_floor"),
    # how something spreads, and other parts of intervals
    *("least_seconds", "most_seconds", "p10_seconds", "p25_seconds", "p75_seconds", "p90_seconds", "spread", "freedom"),
    *("loss_sd", "value_sd", "accuracy_ci95", "train_seconds_ci95"),
    # what tests and plans say
    *("p_adjusted", "p_equivalent", "mcnemar_p", "power", "power_equivalent", "margin", "relevant_difference"),
    *("detectable_difference", "mcnemar_detectable", "holds_above", "holds_below"),
    *(f"{what}_{of}" for what in ("seeds_needed", "more_than", "runs_more", "cost_seconds") for of in ("estimate", "effect")),
}
#: Columns that people read as text, by what begins their headings, with the numbers behind them: the CSV's column, or exact.
TEXTS = {
    **dict.fromkeys(("GMACs", "GFLOPs", "seeds", "recipe", "share (%)", "trials", "diverged", "costs"), "exact"),
    **dict.fromkeys(("global layers", "solved"), "exact"),
    **dict.fromkeys(("px", "rounds (ms)", "McNemar, two models", "saturating batch"), "exact"),
    **{"value": "value", "difference to": "difference", "gain": "gain", "memory (MB)": "memory_bytes", "real": "real"},
    **{"estimate": "estimate", "crossover": "side"},
}
#: Numbers whose ends have columns of their own, since an end may lie beyond what was measured.
ENDS_APART = {"side": ("side_low", "side_high"), "estimate": ("low", "high")}


@cache
def committed(folder: str) -> tuple[list[Table], list[Chart]]:
    """The tables and charts that `wfbench report` makes of a folder of results."""
    rows, _ = report.collect([RESULTS / folder])
    runs = find_runs([RESULTS / folder])
    tables = report.tables(rows, published=True, runs=runs)
    return tables, charts(tables, runs)


def is_stated(why: str, table: Table) -> bool:
    """Whether a note says this."""
    return bool(why) and any(why.lower() in note.lower() for note in table.notes)


def name_of(column: Column[Any]) -> str:
    """A column's name, without what the overview adds to those of other tables."""
    own = re.sub(r"^(accuracy|first|last)\.", "", column.key) or re.sub(r" at \d+ px$", "", column.heading)
    own = re.sub(r"^\w+_(solved|untrained)$", r"\1", own)
    return re.sub(r"^(speedup|mse|vb|chance|local_floor|set_floor|straight_floor)_.*", r"\1", own)


def faults(table: Table) -> list[str]:
    """The numbers of a table that lack an interval and a reason."""
    found: dict[str, None] = {}
    for columns, lines in table.parts:
        for column in columns:
            for line in lines:
                fault = _fault(table, columns, column, line)
                if fault:
                    found[f"{table.name}: {column.key or column.heading}: {fault}"] = None
    return list(found)


def _fault(table: Table, columns: Any, column: Column[Any], line: Any) -> str:
    value = column.value(line)
    if isinstance(value, Interval):
        return _fault_of_interval(table, column, value, line)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if column.why_none:
            return "" if is_stated(column.why_none, table) else "no note has the column's reason"
        if name_of(column) in ENDS_APART:
            return _fault_of_ends(table, columns, column, line)
        is_an_end = any(name_of(column) in ends for ends in ENDS_APART.values())
        return "" if name_of(column) in EXACT or is_an_end else "a bare number"
    if value is None or column.key or column.words or not column.heading:
        return ""
    return _fault_of_text(table, columns, column, line)


def _fault_of_interval(table: Table, column: Column[Any], value: Interval, line: Any) -> str:
    if value.why_none:
        return "" if is_stated(value.why_none, table) else f"no note says {value.why_none!r}"
    if column.key and (column.ends is None or None in [column.raw(line)[end] for end in column.ends]):
        return "its interval is not in the CSV"
    alone = Interval(value.estimate, why_none="shown alone")
    return "its interval is not shown" if column.heading and column.show(value) == column.show(alone) else ""


def _fault_of_ends(table: Table, columns: Any, column: Column[Any], line: Any) -> str:
    wanted = {*ENDS_APART[name_of(column)], "interval", "why"}
    able = [other for other in columns if not wanted.isdisjoint((other.key, *(other.ends or ())))]
    raw = {key: value for other in able for key, value in other.raw(line).items()}
    ends = [raw[end] for end in ENDS_APART[name_of(column)]]
    has_one = raw.get("interval", False) or ends != [None, None]
    return "" if has_one or raw.get("why") or is_stated("fewer than four sides", table) else "no interval, and no reason"


def _fault_of_text(table: Table, columns: Any, column: Column[Any], line: Any) -> str:
    side = re.fullmatch(r"([\d×]+) px", column.heading)
    twin = f"speedup_{side[1]}" if side else next((key for start, key in TEXTS.items() if column.heading.startswith(start)), "")
    behind = next((other.value(line) for other in columns if other.key == twin), None)
    if twin == "exact" or column.why_none:
        return ""
    if twin not in [other.key for other in columns]:
        return "text, and no column of the CSV has the number"
    shows = any(sign in column.cell(line) for sign in "[±")
    return "its interval is not shown" if isinstance(behind, Interval) and not behind.why_none and not shows else ""


@pytest.mark.sampled(8)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_number_of_the_committed_results_has_an_interval_or_a_reason(folder: str) -> None:
    tables, _ = committed(folder)
    assert [fault for table in tables for fault in faults(table)] == []
    for table in tables:
        assert not any(", ," in note or "of of" in note for note in table.notes)
        unbroken = table.to_latex().replace("\n", " ")
        assert len(table.notes) == len(re.findall(r"^- ", table.to_markdown(), re.MULTILINE))
        assert all(note.split()[0].encode("ascii", "ignore").decode() in unbroken for note in table.notes)


OTHERS = {
    "throughput without rounds": [throughput(), throughput("softmax", 448)],
    "breakdown": [breakdown()],
    "cells without rounds": [cell(name, side) for name in ("linear", "softmax") for side in (224, 448)],
    "one seed": [train(), train("linear"), train("linear", 1), baseline(), cell("softmax"), cell("linear")],
    "tuning": [trial(rate, 0.5, name) for rate in (1e-3, 2e-3, 4e-3) for name in ("linear", "pool")],
    "classifiers alone": [baseline()],
}


@pytest.mark.parametrize("what", OTHERS)
def test_so_has_every_number_of_other_tables(what: str) -> None:
    tables = report.tables(OTHERS[what])
    assert tables
    assert [fault for table in tables for fault in faults(table)] == []


def changed(table: Table, column: Column[Any], **changes: Any) -> Table:
    """The table with another version of one of its columns."""
    parts = tuple(
        ([replace(own, **changes) if own is column else own for own in columns], lines) for columns, lines in table.parts
    )
    return replace(table, parts=parts)


def uncertain() -> Iterator[tuple[Table, Column[Any]]]:
    """The columns of the committed tables that hold an interval."""
    for folder in FOLDERS:
        for table in committed(folder)[0]:
            for columns, lines in table.parts:
                for column in columns:
                    values = [column.value(line) for line in lines]
                    if any(isinstance(value, Interval) and not value.why_none for value in values):
                        yield table, column


@pytest.mark.slow
def test_a_column_that_loses_its_intervals_is_found() -> None:
    seen = {name_of(column) for _, column in uncertain()}
    assert seen >= {"accuracy", "loss", "median_seconds", "speedup", "latency_exponent", "difference", "train_seconds", "value"}
    for table, column in uncertain():

        def bare(line: Any, value: Any = column.value) -> Any:
            found = value(line)
            return found.estimate if isinstance(found, Interval) else found

        where = (table.name, column.key, column.heading)
        assert faults(changed(table, column, value=bare, key=f"new_{column.key}", ends=None)), where
        if column.key:
            assert faults(changed(table, column, ends=None)), where
        if column.heading:
            assert faults(changed(table, column, show=lambda found: f"{found.estimate:.3g}")), where


@pytest.mark.slow
def test_a_table_that_loses_its_reasons_is_found() -> None:
    for folder, name, number in (
        ("profile", "profile", "median_seconds"),
        ("profile", "profile", "speedup"),
        ("profile-tokens", "profile", "bound_share"),
        ("profile", "profile", "memory_bytes"),
        ("profile", "scaling", "share_linear"),
        ("zoo", "accuracy", "accuracy"),
        ("zoo", "overview", "last.speedup"),
        ("dit-digits", "scores", "real"),
    ):
        table = next(table for table in committed(folder)[0] if table.name == name)
        silent = replace(table, notes=())
        assert any(f": {number}: no note" in fault for fault in faults(silent)), (folder, name, number)


def test_a_column_of_measured_numbers_is_found_unless_it_says_why() -> None:
    table = next(table for table in committed("profile")[0] if table.name == "profile")
    column = next(column for columns, _ in table.parts for column in columns if column.key == "memory_bytes")
    assert faults(changed(table, column, why_none="")) == ["profile: memory_bytes: a bare number"]
    assert faults(changed(table, column, why_none="nobody knows")) == [
        "profile: memory_bytes: no note has the column's reason",
    ]


#: What a chart shows without an interval: counts, and settings of a run.
EXACT_AXES = {"macs", "gmacs", "params", "tokens", "side", "epoch", "step", "lr"}
#: What a note about a missing interval is about, where it is not about all of a run.
ABOUT = {"latency": "latency", "memory": "memory", "speedup": "speed-up"}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("folder", FOLDERS)
def test_so_has_every_point_of_the_charts(folder: str) -> None:
    for chart in committed(folder)[1]:
        assert all("[" in mark["text"] or "without an interval" in mark["text"] for mark in chart.marks)
        computed = any("a floor is computed" in note for note in chart.notes)
        drawn = [point for point in chart.points if not (computed and str(point.get("mixer")).startswith("floor: "))]
        for choice in (*chart.x, *chart.y):
            points = [point for point in drawn if choice.field in point]
            is_exact = choice.field in EXACT_AXES or choice.field.startswith("probe_")  # levels, tokens, steps
            if is_exact or all(choice.low in point and choice.high in point for point in points):
                continue
            stated = [note for note in chart.notes if re.search(r"\b(no|without|an) (\S+ )*interval", note, re.IGNORECASE)]
            about = ABOUT.get(choice.field, r"\b(single|one) seed|" + choice.field)
            assert any(re.search(about, note) for note in stated), (chart.name, choice.field)
