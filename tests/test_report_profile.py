"""The report of a profile: what its rows become, and what never stands side by side."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from rich.console import Console
from test_report import CPU, GPU, SPEEDUP, cell, colours, crossover, failed, lines, notes, only, train

from wfbench import records, report
from wfbench.analysis.cost import costs
from wfbench.analysis.lines import label
from wfbench.analysis.profile import ProfileCost
from wfbench.records import (
    AnyRow,
    BreakdownRow,
    HarnessRow,
    MachineRow,
    MeasurementRow,
    ProfileRow,
    ThroughputRow,
)
from wfbench.report import Table, figures
from wfbench.report.crossover import crossing_in_words

ROOT = Path(__file__).parent.parent
FLASH, MATH = {"sdpa_backend": "flash"}, {"sdpa_backend": "math"}
EXTRA = ("activations (M)", "bytes moved (MB)", "ms per image", "of the bound (%)", "memory (MB)", "by shapes (MB)")
EXTRA += ("backend", "batch")


#: a, b and c of t = a + b N + c N², and four sides: the least number from which a curve has an interval.
CURVE, SIDES = (9.8e-3, 1e-4, 19.6e-3 / 196**2), (224, 448, 672, 896)


def curve(mixer: str = "linear", coefficients: Sequence[float] = CURVE, sides: Sequence[int] = SIDES, **changes: object):
    """Cells whose times lie on a curve."""
    a, b, c = coefficients
    tokens = [(side // 16) ** 2 for side in sides]
    return [cell(mixer, side, a + b * n + c * n**2, **changes) for side, n in zip(sides, tokens, strict=True)]


def of_cell(mixer: str, side: int, **changes: object) -> dict[str, object]:
    """What rows about a cell share."""
    kept = cell(mixer, side).model_dump(exclude={"kind", "status", "message", "schema_version"})
    return {key: value for key, value in kept.items() if key in ThroughputRow.model_fields} | changes


def throughput(mixer: str = "linear", side: int = 224, **changes: object) -> ThroughputRow:
    rates = {"batches": (1, 2, 4, 8), "images_per_second": (20.0, 35.0, 49.0, 50.0), "saturating_batch": 4}
    return ThroughputRow(**{"status": "ok", **rates, **of_cell(mixer, side), **changes})


def breakdown(mixer: str = "linear", side: int = 224, **changes: object) -> BreakdownRow:
    blocks = {f"blocks.{i}": 2e8 if i % 3 == 1 else 1e8 for i in range(6)}
    by = {
        "by_module": {"patch_embed.proj": 2e8, "": 1e9, "patch_embed": 2e8, **blocks, "blocks.0.mixer": 6e7, "blocks": 8e8},
        "by_operator": {"aten.addmm": 8e8, "aten.convolution": 2e8},
    }
    return BreakdownRow(**{**of_cell(mixer, side), **by, **changes})


def machine(**changes: object) -> MachineRow:
    rates = {"gemm_flops": 1.234e11, "copy_bytes": 2.1e10, "gemm_size": 2048}
    return MachineRow(**{"environment": CPU, "session": "first", "dtype": "float32", **rates, **changes})


def harness(minute: int = 0, **changes: object) -> HarnessRow:
    seconds = {"wall_seconds": 240.0, "call_seconds": 200.0, "count_seconds": 12.0, "fixed_seconds": 2.9}
    fields = {"protocol": "constant batch", "processes": 90, "load": (0.3, 1.14), **seconds}
    created = f"2025-01-01T00:{minute:02}:00+00:00"
    return HarnessRow(**{"environment": CPU, "session": "first", "created": created, **fields, **changes})


def named(rows: list[AnyRow]) -> dict[str, Table]:
    return {table.name: table for table in report.tables(rows)}


def kind(rows: list[AnyRow], stem: str) -> list[Table]:
    return [table for table in report.tables(rows) if table.name.partition("-")[0] == stem]


# --- lines and their names


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "softmax"),
        ({"variant": "patch 32"}, "softmax, patch 32"),
        (FLASH, "softmax [flash]"),
        ({"variant": "depth 6", **MATH}, "softmax, depth 6 [math]"),
        ({"local_conv": "dwc", "variant": "depth 6"}, "softmax + DWC, depth 6"),
        ({"pos_embed": "rope2d", "variant": "depth 6", **FLASH}, "softmax, rope2d, depth 6 [flash]"),
    ],
)
def test_variants_and_forced_backends_name_a_line(changes: dict[str, object], name: str) -> None:
    assert label(cell(**changes)) == name
    assert lines(only([cell(**changes)])) == [name]


def test_forced_backends_and_variants_are_lines_that_never_replace_one_another() -> None:
    rows = [cell(median=0.04, **MATH), cell(median=0.01, **FLASH), cell(median=0.02, variant="patch 32"), cell(median=0.03)]
    for order in (rows, rows[::-1]):
        table = only(order)
        assert lines(table) == ["softmax", "softmax [flash]", "softmax [math]", "softmax, patch 32"]
        assert list(table.data["median_seconds"]) == [0.03, 0.01, 0.04, 0.02]
        assert lines(table, "backend") == ["chosen by PyTorch", "flash", "math", "chosen by PyTorch"]
        assert list(table.data["sdpa_backend"]) == lines(table, "backend")
        assert list(table.data["variant"]) == ["", "", "", "patch 32"]
    assert "backend" not in only([cell(), cell("linear")]).frame


# --- what a table mixes


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": GPU},
        {"dtype": "bfloat16"},
        {"batch": 8},
        {"protocol": "isolated"},
        {"token_budget": 784},
        {"token_budget": 784, "batch": 4},
        {"channels_last": True},
        {"compiled": True},
        {"mode": "train"},
        {"environment": CPU.model_copy(update={"threads": 1})},
        {"environment": CPU.model_copy(update={"tf32": True})},
    ],
    ids=str,
)
def test_settings_of_one_session_split_with_all_that_was_computed_from_them(changes: dict[str, object]) -> None:
    rows: list[AnyRow] = []
    for factor, other in ((1, {}), (2, changes)):
        rows += curve("softmax", [factor * c for c in CURVE], **other)
        rows += curve("linear", [factor / 2 * c for c in CURVE], **other)
        cells = {key: value for key, value in other.items() if key != "batch"}
        rows += [throughput(images_per_second=(factor, 2, 3, 4), **cells), breakdown(**cells)]
    made = report.tables(rows)
    for stem in ("profile", "scaling", "speedup", "crossover"):
        pair = [table for table in made if table.name.startswith(stem)]
        assert len({table.name for table in pair}) == len({table.title for table in pair}) == len(pair) == 2, stem
    titles = {table.title.partition(": ")[2]: {} for table in made if table.name.startswith("profile")}
    for table in made:
        titles.get(table.title.partition(": ")[2], {})[table.name.partition("-")[0]] = table
    first = min(titles.values(), key=lambda tables: tables["profile"].data["median_seconds"].min())
    for factor, tables in enumerate((first, *(t for t in titles.values() if t is not first)), 1):
        assert tables["profile"].data["median_seconds"][4] == pytest.approx(factor * 0.049)
        assert lines(tables["profile"], SPEEDUP) == ["2.00×"] * 4 + ["1.00×"] * 4
        batch = tables["profile"].data["batch"][0]
        assert list(tables["scaling"].data["a"]) == pytest.approx(
            [factor / 2 * 9.8e-3 / batch] * 4 + [factor * 9.8e-3 / batch] * 4
        )
        assert lines(tables["crossover"], "crossover") == ["faster at every measured side (224–896 px); sure (95 %) at each"]
    for stem in ("throughput", "breakdown"):
        measured = [table for table in made if table.name.startswith(stem)]
        assert len(measured) == (1 if {"batch", "token_budget"} & set(changes) else 2), "of several batches, or of one image"


def test_a_token_budget_holds_several_batches_in_one_table_and_compares_images() -> None:
    budget = {"token_budget": 784}
    rows: list[AnyRow] = [
        cell("softmax", 224, 0.08, batch=4, **budget),
        cell("softmax", 448, 0.06, batch=1, **budget),
        cell("linear", 224, 0.02, batch=2, **budget),
        cell("linear", 448, 0.03, batch=1, **budget),
    ]
    table = named(rows)["profile"]
    assert lines(table, "batch") == ["2", "1", "4", "1"]
    assert lines(table, "latency (ms)") == ["20.0", "30.0", "80.0", "60.0"]
    assert lines(table, "ms per image") == ["10.0", "30.0", "20.0", "60.0"]
    assert lines(table, SPEEDUP) == ["2.00×", "2.00×", "1.00×", "1.00×"]
    assert "batches of 784 tokens" in table.title
    assert "as many images as hold 784 tokens" in table.notes[0]
    assert "of the times per image" in table.notes[0]
    assert list(table.data["batch"]) == [2, 1, 4, 1]
    assert list(table.data["token_budget"]) == [784] * 4
    assert list(table.data["seconds_per_image"]) == [0.01, 0.03, 0.02, 0.06]
    assert "times per image" in named(rows)["speedup"].notes[0]
    assert not {"batch", "ms per image"} & set(only([cell()]).frame)


def test_rows_that_a_later_call_wrote_again_supersede_the_earlier_ones_silently() -> None:
    first = [
        cell("linear", 448, 0.5, 1),
        failed("softmax"),
        cell("linear", 224, 0.1, 1),
        cell("softmax", 224, 0.05, 1),
        throughput(),
    ]
    again: list[AnyRow] = [
        cell("linear", 448, 0.4, 2),
        cell("softmax", 448, 0.8, 2),
        cell("linear", 224, 0.2, 2),
        throughput(saturating_batch=8, created="2999-01-01"),
    ]
    made = named([*first, *again])
    profile = made["profile"]
    assert list(profile.data["median_seconds"]) == [0.2, 0.4, 0.05, 0.8]
    assert lines(profile, "status") == ["ok"] * 4
    assert lines(profile, SPEEDUP) == ["0.250×", "2.00×", "1.00×", "1.00×"]
    assert lines(profile, "latency exponent") == ["–", "0.50", "–", "2.00"]
    assert all("left out" not in notes(table) for table in made.values())
    assert lines(made["throughput"], "saturating batch") == ["≥ 8"]
    assert lines(made["crossover"], "crossover") == ["from 356 px"], "where log 4 has fallen to log 1/2 by two thirds"


def test_other_sessions_are_named_with_their_cells_however_often_those_were_written() -> None:
    old = [cell(minute=1), cell(minute=2), cell(minute=2, **FLASH), throughput(session="old")]
    table = named([*old, cell(minute=3, session="second"), throughput(created="2999-01-01")])
    assert "Earlier sessions of the same setting were left out: first (2 cells)." in table["profile"].notes
    assert "Earlier sessions of the same setting were left out: old (1 cell)." in table["throughput"].notes
    assert lines(table["profile"]) == ["softmax"]


# --- the profile table


def full(**changes: object) -> ProfileRow:
    """A cell with everything measured."""
    measured = {
        "activations": 1.25e7,
        "bytes_least": 2.5e7,
        "bytes_moved": 3.456e8,
        "bytes_alive": 4.5e7,
        "round_medians": (0.0121, 0.0123, 0.0126),
        "median_low": 0.0121,
        "median_high": 0.0126,
        "p10": 0.0115,
        "p90": 0.015,
        "memory_bytes": 1.876e8,
        "memory_baseline_bytes": 3e8,
        "memory_reserved_bytes": 2e8,
        "memory_status": "ok",
        "bound_seconds": 0.005043,
        "bound_by": "compute",
    }
    return cell(**{"median": 0.0123, **measured, **changes})


def test_every_new_cell_of_a_profile_line() -> None:
    table = only([full()])
    expected = {
        "activations (M)": "12.5",
        "bytes moved (MB)": "346",
        "latency (ms)": "12.3 [12.1, 12.6]",
        "of the bound (%)": "41 compute",
        "memory (MB)": "188",
        "by shapes (MB)": "45.0",
    }
    assert {column: table.frame[column][0] for column in expected} == expected
    raw = table.data.iloc[0]
    for field in ("activations", "bytes_least", "bytes_moved", "bytes_alive", "memory_bytes", "memory_baseline_bytes"):
        assert raw[field] == getattr(full(), field)
    for column, field in (("p10_seconds", "p10"), ("p90_seconds", "p90"), ("median_low_seconds", "median_low")):
        assert raw[column] == getattr(full(), field)
    assert (raw["median_high_seconds"], raw["memory_reserved_bytes"], raw["rounds"]) == (0.0126, 2e8, 3)
    assert (raw["bound_seconds"], raw["bound_by"]) == (0.005043, "compute")
    assert raw["bound_share"] == pytest.approx(0.41)
    assert "behind a latency hold its 95% interval over the medians of its rounds" in notes(table)
    assert "No interval of “memory (MB)”: measured once per cell." in table.notes
    for words in ("above what the process held", "1 MB is 10⁶ bytes", "Activations are", "bytes moved are"):
        assert words in notes(table)


def test_new_columns_that_hold_nothing_are_left_out() -> None:
    assert not set(EXTRA) & set(only([cell(), cell("linear", 448)]).frame)
    table = only([cell(), cell("linear", memory_status="ok", memory_bytes=1e6)])
    assert lines(table, "memory (MB)") == ["1.00", "–"]
    assert not (set(EXTRA) - {"memory (MB)"}) & set(table.frame)
    assert "elementwise (G)" in only([cell(elementwise=None)]).frame, "an old column stays"


def test_a_terminal_is_spared_the_columns_that_do_not_fit() -> None:
    def printed(table: Table) -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(table.to_rich())
        return console.export_text()

    wide = printed(only([full(), full(**FLASH)]))
    for part in ("softmax [flash]", "12.3 [12.1, 12.6]", "41 compute", "188"):
        assert part in wide
    assert "In the files only: backend, GFLOPs, elementwise (G), activations (M), bytes moved (MB), rounds (ms)." in wide
    old = printed(only([cell()]))
    assert "GFLOPs" in old
    assert "In the files only" not in old


def test_memory_that_could_not_be_measured_is_said() -> None:
    words = ("oom", "error", "timeout", "not measured")
    table = only([cell(str(place), memory_status=word, memory_message=f"why {word}") for place, word in enumerate(words)])
    assert lines(table, "memory (MB)") == ["oom", "error", "timeout", "–"]
    assert "Memory of 0 at 224 px: oom: why oom" in table.notes
    assert "Memory of 2 at 224 px: timeout: why timeout" in table.notes
    assert "why not measured" not in notes(table)


def test_a_share_of_the_bound_over_100_is_refused() -> None:
    rows = [full(mixer="fast", bound_seconds=0.01231), full(mixer="just", bound_seconds=0.0123, bound_by="memory")]
    table = only([*rows, full(mixer="slow", bound_seconds=0.0000615), full(mixer="unknown", bound_seconds=None, bound_by=None)])
    assert lines(table, "of the bound (%)") == ["refused", "100 memory", "0.50 compute", "–"]
    assert "Share of the bound refused (fast at 224 px)" in notes(table)
    assert "was lower than the cell's" in notes(table)
    assert table.data["bound_share"].isna().tolist() == [True, False, False, True]


def test_a_timeout_is_a_failure_like_others() -> None:
    table = only([failed("softmax", 448, "timeout", "over 120 s"), cell("linear", 448)])
    assert lines(table, "status") == ["ok", "timeout"]
    assert "softmax at 448 px: timeout: over 120 s" in table.notes
    assert lines(table, SPEEDUP) == ["–", "–"]


def test_an_exponent_shows_its_interval_where_there_is_one() -> None:
    rows = [c for name, variant, more in LINES[:2] for c in curve(name, variant=variant, **more)]
    rows += [c for name, variant, more in LINES[2:3] for c in curve(name, sides=SIDES[:3], variant=variant, **more)]
    (table,) = kind([*rows, cell("softmax", 448, variant="depth 6")], "profile")
    shown = lines(table, "latency exponent")
    assert shown[:5] == ["–", "1.52 [1.52, 1.52]", "1.83 [1.83, 1.83]", "1.92 [1.92, 1.92]", "–"]
    assert shown[8:] == ["–", "1.52", "1.83", "–"]
    assert table.data["latency_exponent_low"][1] == pytest.approx(math.log(401.8 / 49) / math.log(4))
    assert "behind a latency exponent hold its 95% interval" in notes(table)
    assert "No interval of the latency exponent of softmax [math] at every side: it is of two cells alone" in notes(table)


LINES = (("linear", "", {}), ("softmax", "", FLASH), ("softmax", "", MATH), ("softmax", "depth 6", {}))


def test_a_speed_up_is_over_the_fastest_backend_of_the_plain_baseline() -> None:
    rows = [
        cell("softmax", 224, 0.04, **FLASH),
        cell("softmax", 224, 0.02, **MATH),
        cell("softmax", 224, 0.001, variant="patch 32"),
        cell("softmax", 448, 0.3, **FLASH),
        failed("softmax", 448).model_copy(update=MATH),
        cell("softmax", 448, 0.0001, status="error", sdpa_backend="cudnn"),
        cell("linear", 224, 0.01),
        cell("linear", 448, 0.1),
    ]
    made = named(rows)
    profile = made["profile"]
    assert dict(zip(zip(lines(profile), lines(profile, "px"), strict=True), lines(profile, SPEEDUP), strict=True)) == {
        ("linear", "224"): "2.00×",
        ("linear", "448"): "3.00×",
        ("softmax [cudnn]", "448"): "–",
        ("softmax [flash]", "224"): "0.500×",
        ("softmax [flash]", "448"): "1.00×",
        ("softmax [math]", "224"): "1.00×",
        ("softmax [math]", "448"): "–",
        ("softmax, patch 32", "224"): "20.0×",
    }
    assert "over softmax in its fastest attention backend at that resolution" in profile.notes[0]
    speedup = made["speedup"]
    assert speedup.frame.to_numpy().tolist() == [
        ["linear", "2.00×", "3.00×"],
        ["softmax [cudnn]", "–", "error"],
        ["softmax [flash]", "0.500×", "1.00×"],
        ["softmax [math]", "1.00×", "oom"],
        ["softmax, patch 32", "20.0×", "–"],
    ]
    assert list(speedup.frame) == ["mixer", "224 px", "448 px"]
    assert "softmax's backend: math at 224 px; flash at 448 px." in speedup.notes
    assert list(speedup.data["speedup_448"])[0] == pytest.approx(3)
    assert list(speedup.data["baseline_backend_224"]) == ["math"] * 5


def test_speed_ups_need_a_baseline_at_several_sides_and_something_to_compare() -> None:
    sides = (224, 448, 672)
    assert kind([cell("linear", side) for side in sides], "speedup") == []
    assert kind([cell("softmax", side) for side in sides], "speedup") == []
    assert kind([cell("softmax"), *(cell("linear", side) for side in sides)], "speedup") == []
    rows = [*(cell("softmax", side) for side in sides[:2]), failed("softmax", 672), *(cell("linear", side) for side in sides)]
    (table,) = kind(rows, "speedup")
    assert lines(table, "672 px") == ["–", "oom"]
    assert "softmax has no time at 672 px." in table.notes
    assert "softmax's backend: chosen by PyTorch at 224, 448 px." in table.notes


def test_the_machine_of_the_session_is_named_with_its_best_rates() -> None:
    others = [machine(session="other", gemm_flops=9e12), machine(dtype="bfloat16", gemm_flops=8e12), machine(environment=GPU)]
    table = only([cell(), machine(), machine(gemm_flops=1e11, gemm_size=1024, copy_bytes=2.2e10), *others])
    said = [note for note in table.notes if "machine" in note]
    assert said == ["This machine in this session: 123 GFLOP/s (square product of 2,048), 22.0 GB/s copy, float32."]
    cast = only([cell(dtype="bfloat16 autocast"), machine(dtype="bfloat16")])
    assert "GB/s copy, bfloat16." in notes(cast)
    assert "machine" not in notes(only([cell()]))


def test_what_the_harness_cost_is_named_for_each_call() -> None:
    table = only([cell(), harness(), harness(session="other"), harness(protocol="another")])
    (said,) = [note for note in table.notes if "Harness" in note]
    assert said == (
        "Harness: 240 s wall for 200 s within calls (1.20), fixed 2.90 s per process over 90 processes, counting 12.0 s; "
        "load average 0.30 to 1.14."
    )
    table = only([cell(), harness(2, processes=0, fixed_seconds=None, call_seconds=0.0), harness(1)])
    said = [note for note in table.notes if "Harness" in note]
    assert said[0].startswith("Harness, call 1 of 2: 240 s wall for 200 s within calls (1.20), fixed")
    assert said[1] == "Harness, call 2 of 2: 240 s wall for 0 s within calls, counting 12.0 s; load average 0.30 to 1.14."


def test_measurements_are_in_no_table_but_among_the_sources(tmp_path: Path) -> None:
    measured = MeasurementRow(
        **of_cell("softmax", 224), stage="latency", status="ok", samples=(0.5,), wall_seconds=3.0, call_seconds=1.0
    )
    assert report.tables([measured, machine(), harness()]) == []
    assert [table.name for table in report.tables([cell(), measured])] == ["profile"]
    report.write([cell(), measured], tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert "wfbench profile --mixer softmax  # 2 rows" in text
    assert "not finished" not in text
    report.write([measured, measured.model_copy(update={"round": 1})], tmp_path)
    unfinished = (
        "2 measurements of a profile that was not finished stand in no table: the same `wfbench profile` command goes on"
    )
    assert unfinished in (tmp_path / "tables.md").read_text()


def test_measurements_that_other_work_disturbed_or_that_were_not_forked_are_counted_below_the_table() -> None:
    def said(**changes: object) -> list[str]:
        fields = {**of_cell("softmax", 224), "protocol": "forked-v1", "origin": "fork", "stage": "latency", "status": "ok"}
        fields |= {"samples": (0.5,), "wall_seconds": 3.0, "call_seconds": 1.0}
        once = [MeasurementRow(**fields, round=0, crowded=True), MeasurementRow(**fields, round=0)]
        table = only([cell(protocol="forked-v1"), *once, MeasurementRow(**(fields | {"round": 1} | changes))])
        return [note for note in table.notes if "measurements" in note]

    assert said() == []
    assert said(crowded=True) == [
        "Other work kept the cores busy in 1 of 2 measurements, also when they were made once more; they count as they are."
    ]
    assert [note.partition(", since")[0] for note in said(origin="fresh")] == [
        "1 of 2 measurements had a process that was begun afresh"
    ]


# --- scaling, crossovers


def test_every_cell_of_a_scaling_line() -> None:
    cells = curve()
    cells[1] = cells[1].model_copy(update={"macs": None})
    (table,) = kind(cells, "scaling")
    assert table.frame.iloc[0].to_dict() == {
        "mixer": "linear",
        "px": "224",
        "tokens": "196",
        "latency exponent": "1.20 [1.20, 1.20]",
        "MACs exponent": "–",
        "overhead a (%)": "20.0",
        "linear bN (%)": "40.0",
        "superlinear cN² (%)": "40.0",
    }
    assert lines(table, "overhead a (%)")[1] == "2.4"
    assert lines(table, "superlinear cN² (%)")[1] == "78.0"
    assert list(table.data["share_overhead"][:2]) == pytest.approx([0.2, 9.8 / 401.8])
    assert list(table.data["freedom"]) == [1] * 4
    assert lines(kind(curve(), "scaling")[0], "MACs exponent") == ["0.50"] * 4, "the MACs of `cell` grow as the side"


def test_the_doubts_and_the_distance_of_a_curve_are_named() -> None:
    cells = curve(coefficients=(1.0, 1e-6, 0.0), sides=(448, 672, 896, 1120))
    cells[1] = cells[1].model_copy(update={"median": cells[1].median * 1.03})
    (table,) = kind(cells, "scaling")
    assert "linear: the range is too short: N grows 6.25 times" in notes(table)
    assert "linear: overhead still dominates" in notes(table)
    (spread,) = table.data["spread"].unique()
    assert f"linear {100 * spread:.1f} %" in notes(table)
    assert 0.005 < spread < 0.03


def test_each_line_has_its_own_curve() -> None:
    rows: list[AnyRow] = [c for mixer, variant, more in LINES for c in curve(mixer, variant=variant, **more)]
    (table,) = kind(rows, "scaling")
    assert lines(table)[::4] == ["linear", "softmax [flash]", "softmax [math]", "softmax, depth 6"]
    assert kind(curve(sides=SIDES[:3]), "scaling") == [], "three cells leave nothing to judge a curve by"
    mixed = [*curve(sides=SIDES[:2]), *curve(sides=SIDES[2:], session="other"), *curve(sides=SIDES[2:], dtype="bfloat16")]
    assert kind(mixed, "scaling") == [], "cells of other sessions and settings are no part of a curve"


@pytest.mark.parametrize(
    ("verdict", "side", "low", "high", "words"),
    [
        ("at", 437.2, 402.4, 480.6, "from 437 px [402, 481]"),
        ("at", 437.2, None, 480.6, "from 437 px [below 224, 481]"),
        ("at", 437.2, 402.4, None, "from 437 px [402, beyond 896]"),
        ("at", 437.2, None, None, "from 437 px [below 224, beyond 896]"),
        ("always", None, None, 260.0, "faster at every measured side (224–896 px); sure (95 %) only from 260 px on"),
        ("always", None, None, None, "faster at every measured side (224–896 px); not sure (95 %): maybe only beyond 896 px"),
        ("none", None, 700.0, None, "none up to 896 px; sure (95 %) only up to 700 px"),
        ("none", None, None, None, "none up to 896 px; not sure (95 %): maybe from below 224 px"),
        ("none", None, 896.0, None, "none up to 896 px; sure (95 %)"),
    ],
)
def test_a_crossover_with_its_interval(
    verdict: str, side: float | None, low: float | None, high: float | None, words: str
) -> None:
    (found,) = costs([*curve("softmax"), *curve("linear")]).crossovers
    changes = {"verdict": verdict, "side": side, "side_low": low, "side_high": high}
    assert crossing_in_words(replace(found.crossings[0], **changes)) == words


def test_where_curves_cross_is_found_from_their_cells() -> None:
    rows = [*curve("softmax", (3e-3, 6e-5, 5e-8)), *curve("linear", (13e-3, 6e-5, 1e-9))]
    rows.append(crossover("linear", "at", 300.0, interval=True, side_low=1.0, side_high=2.0))
    (table,) = kind(rows, "crossover")
    meet = 16 * math.sqrt(math.sqrt(10e-3 / 4.9e-8))  # 10 ms = 4.9e-8 s N²
    assert lines(table, "crossover") == [f"from {meet:.0f} px [{meet:.0f}, {meet:.0f}]"]
    assert table.data["side"][0] == pytest.approx(meet, rel=1e-3)
    assert "surely slower than the baseline" in notes(table)
    assert "no interval" not in notes(table)


def test_a_crossover_names_the_baselines_backends_by_side() -> None:
    times = {224: (1, 2), 448: (2, 1), 672: (1, 2)}
    rows: list[AnyRow] = [
        cell("softmax", side, t, **more) for side, ts in times.items() for more, t in zip((FLASH, MATH), ts, strict=True)
    ]
    rows += [cell(mixer, side) for mixer in ("linear", "pool") for side in times]
    (table,) = kind(rows, "crossover")
    assert "The baseline's backend: flash at 224, 672 px; math at 448 px." in table.notes
    assert lines(table, "baseline") == ["softmax"] * 2
    (table,) = kind(rows[:-1], "crossover")
    assert "The baseline's backend (linear): flash at 224, 672 px; math at 448 px." in table.notes
    assert "The baseline's backend (pool): flash at 224 px; math at 448 px." in table.notes


def test_crossovers_are_found_against_the_baseline_of_the_newest_call() -> None:
    rows = [cell(name, side, t) for name, t in (("linear", 1), ("pool", 2), ("softmax", 3)) for side in (224, 448)]
    (table,) = kind([*rows, harness(1, baseline="softmax"), harness(2, baseline="pool")], "crossover")
    assert lines(table) == ["linear", "softmax"]
    assert lines(table, "baseline") == ["pool"] * 2
    (table,) = kind(rows, "crossover")
    assert lines(table) == ["linear", "pool"]


# --- throughput, breakdown


def test_every_cell_of_a_throughput_line() -> None:
    rows = [
        throughput(),
        throughput("softmax", 448, saturating_batch=8),
        throughput("pool", status="oom", message="at batch 1", batches=(), images_per_second=(), saturating_batch=None),
        throughput("softmax", 448, batches=(2, 4), images_per_second=(9.0, 9.1), saturating_batch=2, **FLASH),
    ]
    table = only(rows)
    assert table.name == "throughput"
    assert list(table.frame) == [
        "mixer",
        "px",
        "tokens",
        "images/s at batch 1",
        "saturating batch",
        "images/s there",
        "gain",
        "status",
    ]
    assert table.frame.to_numpy().tolist() == [
        ["linear", "224", "196", "20.0", "4", "49.0", "2.45×", "ok"],
        ["pool", "224", "196", "–", "–", "–", "–", "oom"],
        ["softmax", "448", "784", "20.0", "≥ 8", "50.0", "≥ 2.50×", "ok"],
        ["softmax [flash]", "448", "784", "–", "2", "9.00", "–", "ok"],
    ]
    assert "pool at 224 px: oom: at batch 1" in table.notes
    assert "within 5 %" in table.notes[0]
    assert "ended before the rate surely stopped rising" in notes(table)
    assert table.data["batches"][0] == "1 2 4 8"
    assert table.data["gain"][0] == 49 / 20


def test_a_breakdown_shows_the_top_and_keeps_everything() -> None:
    table = only([breakdown(), breakdown("softmax", **FLASH)])
    assert table.name == "breakdown"
    assert lines(table) == ["linear"] * 8 + ["softmax [flash]"] * 8
    assert table.frame.iloc[:8, 1:].to_numpy().tolist() == [
        ["224", "module", "whole model", "1.000", "100.0"],
        ["224", "module", "patch_embed", "0.2000", "20.0"],
        ["224", "module", "patch_embed.proj", "0.2000", "20.0"],
        ["224", "module", "blocks", "0.8000", "80.0"],
        ["224", "module", "blocks.0, 2–3, 5 (each)", "0.1000", "10.0"],
        ["224", "module", "blocks.1, 4 (each)", "0.2000", "20.0"],
        ["224", "operator", "aten.addmm", "0.8000", "80.0"],
        ["224", "operator", "aten.convolution", "0.2000", "20.0"],
    ]
    data = table.data[table.data["label"] == "linear"]
    assert len(data) == 11 + 2
    deep = data[data["name"] == "blocks.0.mixer"].iloc[0]
    assert (deep["by"], deep["macs"], deep["share"]) == ("module", 6e7, 0.06)


def test_a_breakdown_whose_totals_disagree_has_no_shares() -> None:
    table = only([breakdown(by_operator={"aten.addmm": 8e8})])
    assert set(lines(table, "share (%)")) == {"refused"}
    assert "Shares refused (linear at 224 px)" in notes(table)
    assert table.data["share"].isna().all()


# --- accuracy beside cost


def test_the_overview_takes_the_baselines_fastest_backend_and_no_variant() -> None:
    rows: list[AnyRow] = [train("softmax"), train("linear")]
    rows += [cell("linear", side, 0.01 * side) for side in (224, 448)]
    rows += [cell("softmax", 224, 0.5, **FLASH), cell("softmax", 224, 0.4, **MATH)]
    rows += [cell("softmax", 448, 2.0, **FLASH), failed("softmax", 448).model_copy(update=MATH)]
    rows += [cell("softmax", 224, 0.1, variant="patch 32", tokens=49)]
    overview = named(rows)["overview"]
    assert lines(overview) == ["linear", "softmax"]
    assert list(overview.data["first.median_seconds"]) == [2.24, 0.4]
    assert list(overview.data["last.median_seconds"]) == [4.48, 2.0]
    assert lines(overview, "speed-up over softmax at 448 px") == ["0.446×", "1.00×"]
    assert "The cost of softmax is that of its fastest backend: softmax [flash]." in overview.notes


# --- plots


def drawn(table: Table) -> tuple[ProfileCost, Table]:
    """What the plots of a profile are drawn from."""
    assert isinstance(table.result, ProfileCost)
    return table.result, table


def grid(**changes: object) -> list[AnyRow]:
    """Five mixers, one of them with two backends, at six sides."""
    rows: list[AnyRow] = []
    looks = [*((mixer, "", {}) for mixer in ("hydra", "linear", "nystrom", "weightformer")), *LINES[1:]]
    for place, (mixer, variant, more) in enumerate(looks, 1):
        for side in (224, 448, 672, 896, 1120, 1344):
            t = place * side**2 / 3e6
            one = full(mixer=mixer, side=side, median=t, median_low=0.9 * t, median_high=1.2 * t, bound_seconds=None)
            update = {"variant": variant, "memory_bytes": 1e3 * side**2 * place, **more, **changes}
            rows.append(one.model_copy(update=update))
    return [*rows, failed("pool", 1344, "timeout").model_copy(update={"memory_status": "oom", **changes})]


@pytest.mark.slow
def test_seven_lines_of_latency_and_memory(tmp_path: Path) -> None:
    rows = grid()
    drawn_files = {path.name for path in report.write(rows, tmp_path) if path.suffix == ".png"}
    assert drawn_files == {"latency.png", "memory.png", "speedup.png"}
    assert "](memory.png)" in (tmp_path / "tables.md").read_text()
    made = report.tables(rows)
    styles = figures.mixer_styles(made)
    for name in ("latency.png", "memory.png"):
        seen = colours(tmp_path / name)
        for style in styles.values():
            assert seen.get(tuple(round(255 * part) for part in to_rgb(style["color"])), 0) > 20
    figure = figures.latency(*drawn(made[0]), styles)
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_ylabel() == "latency (ms), median and 95% interval over rounds"
    assert {"softmax [flash]", "softmax [math]", "softmax, depth 6"} <= {str(line.get_label()) for line in axes.lines}
    assert "pool: timeout" in [text.get_text() for text in axes.texts]
    figure = figures.memory(*drawn(made[0]), styles)
    assert figure is not None
    curves = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert list(curves["linear"].get_ydata()) == pytest.approx([1e-6 * 1e3 * side**2 * 2 for side in range(224, 1345, 224)])
    assert "pool: oom" in [text.get_text() for text in figure.axes[0].texts]


def band(axes: object) -> tuple[float, float]:
    """The lowest and highest value of the first band."""
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    return heights.min(), heights.max()


@pytest.mark.parametrize(
    ("changes", "ends", "words"),
    [
        ({"median_low": 0.019, "median_high": 0.022}, (19, 22), "95% interval over rounds"),
        ({}, (20, 22), "least to most"),
    ],
)
def test_the_band_is_the_interval_or_else_the_least_and_most(
    changes: dict[str, object], ends: tuple[float, float], words: str
) -> None:
    made = report.tables([cell("linear", side, **changes) for side in (224, 448)])
    figure = figures.latency(*drawn(made[0]), figures.mixer_styles(made))
    assert figure is not None
    assert band(figure.axes[0]) == pytest.approx(ends)
    assert words in figure.axes[0].get_ylabel()


def test_an_interval_of_two_rounds_does_not_press_the_curves_flat() -> None:
    made = report.tables([cell("linear", side, side / 1e4, median_low=1e-6, median_high=1e4) for side in (224, 448)])
    figure = figures.latency(*drawn(made[0]), figures.mixer_styles(made))
    assert figure is not None
    low, high = figure.axes[0].get_ylim()
    assert 10 < low < 22.4
    assert 44.8 < high < 100


def test_with_a_token_budget_the_plot_shows_images() -> None:
    rows = [cell("linear", side, 0.02, batch=batch, token_budget=784) for side, batch in ((224, 4), (448, 1))]
    made = report.tables(rows)
    figure = figures.latency(*drawn(made[0]), figures.mixer_styles(made))
    assert figure is not None
    assert list(figure.axes[0].lines[0].get_ydata()) == [5, 20]
    assert "ms per image" in figure.axes[0].get_ylabel()


def test_memory_is_drawn_only_where_it_was_measured(tmp_path: Path) -> None:
    report.write([cell(), cell("linear", memory_status="oom")], tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["latency.png"]


def test_the_baseline_is_black_in_every_backend_and_told_apart() -> None:
    styles = figures.mixer_styles(report.tables(grid()))
    black = {name for name, style in styles.items() if style["color"] == "black"}
    assert black == {"softmax", "softmax [flash]", "softmax [math]"}
    assert len({(style["color"], style["marker"], str(style["linestyle"])) for style in styles.values()}) == len(styles)
    assert (styles["softmax"]["marker"], styles["softmax"]["linestyle"]) == ("o", "-")


# --- rows of before


@pytest.mark.parametrize("name", ["demo", pytest.param("zoo", marks=pytest.mark.slow)])
def test_committed_records_of_old_schemas_are_reported_as_they_were(name: str, tmp_path: Path) -> None:
    source = ROOT / "results" / name / "records.jsonl"
    versions = {json.loads(line)["schema_version"] for line in source.read_text().splitlines()}
    rows, torn = records.read(source)
    written = {path.name for path in report.write(rows, tmp_path)}
    assert torn == []
    assert {"profile.md", "speedup.md", "crossover.md", "latency.png"} <= written
    if max(versions) > 2:
        return
    assert "memory.png" not in written
    with (tmp_path / "profile.csv").open(newline="") as file:
        after = list(csv.DictReader(file))
    cells = [row for row in rows if isinstance(row, ProfileRow)]
    assert sorted(float(line["median_seconds"]) for line in after) == sorted(row.median for row in cells)
    header = (tmp_path / "profile.md").read_text().splitlines()[2]
    assert not any(f"| {column} |" in header for column in EXTRA)
