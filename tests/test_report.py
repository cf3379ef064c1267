from __future__ import annotations

import csv
import io
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from wfbench import records, report
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.records import AnyRow, BaselineRow, CrossoverRow, Environment, EvalRow, ProfileRow, ScalingRow, TrainRow
from wfbench.report import Table, figures

CPU = Environment(
    device="Test CPU",
    device_type="cpu",
    threads=2,
    tf32=False,
    platform="Linux x86_64",
    python="3.11.7",
    versions={"torch": "2.9.0"},
    git_revision="abc123",
    git_dirty=False,
)
GPU = CPU.model_copy(update={"device": "Test GPU", "device_type": "cuda"})
THREE = ("declared", "meta", "fvcore")
SPEEDUP = "speed-up over softmax"
ACCURACY = "accuracy (%, measured)"


def train(mixer: str = "softmax", seed: int = 0, accuracy: float = 0.9, minute: int = 0, **changes: object) -> TrainRow:
    fields: dict[str, object] = {
        "created": f"2025-01-01T00:{minute:02}:00+00:00",
        "command": f"wfbench train --mixer {mixer} --seed {seed}",
        "environment": CPU,
        "recipe": "small",
        "recipe_digest": "0123456789ab",
        "dataset": "digits",
        "model": "vit-tiny",
        "mixer": mixer,
        "seed": seed,
        "image_size": (32, 32),
        "epochs": 20,
        "steps": 460,
        "batch": 64,
        "dtype": "float32",
        "parameters": 1_234_567,
        "macs": 3.21e9,
        "accuracy": accuracy,
        "samples": 360,
        "loss": 0.1234,
        "best_accuracy": 0.999,
        "train_seconds": 12.5,
        "images_per_second": 2345.6,
        "data_wait_share": 0.034,
    }
    return TrainRow(**(fields | changes))


def baseline(name: str = "nearest neighbour", accuracy: float = 0.98, **changes: object) -> BaselineRow:
    fields = {"environment": CPU, "name": name, "dataset": "digits", "accuracy": accuracy, "samples": 360}
    return BaselineRow(**(fields | changes))


def cell(
    mixer: str = "softmax", side: int = 224, median: float | None = 0.02, minute: int = 0, **changes: object
) -> ProfileRow:
    fields: dict[str, object] = {
        "created": f"2025-01-01T00:{minute:02}:00+00:00",
        "command": "wfbench profile --mixer softmax",
        "environment": CPU,
        "session": "first",
        "model": "vit-tiny",
        "mixer": mixer,
        "resolution": (side, side),
        "tokens": (side // 16) ** 2,
        "batch": 1,
        "mode": "infer",
        "dtype": "float32",
        "sdpa_backend": "chosen by PyTorch",
        "path": "released",
        "protocol": "constant batch",
        "order_seed": 0,
        "status": "ok",
        "parameters": 5_717_416,
        "macs": 1.2537e9 * side / 224,
        "elementwise": 2.5e7,
        "counted_by": THREE,
        "samples": () if median is None else (median, median * 1.1),
        "median": median,
        "p25": None if median is None else median * 0.9,
        "p75": None if median is None else median * 1.2,
    }
    return ProfileRow(**(fields | changes))


def failed(mixer: str = "softmax", side: int = 448, status: str = "oom", message: str = "wanted 3 GiB") -> ProfileRow:
    nothing = {"parameters": None, "macs": None, "elementwise": None, "counted_by": ()}
    return cell(mixer, side, None, status=status, message=message, **nothing)


def exponent(mixer: str = "linear", low: int = 224, high: int = 448, latency: float = 1.07, **changes: object) -> ScalingRow:
    fields: dict[str, object] = {
        "environment": CPU,
        "session": "first",
        "model": "vit-tiny",
        "mixer": mixer,
        "low": (low, low),
        "high": (high, high),
        "tokens": ((low // 16) ** 2, (high // 16) ** 2),
        "latency_exponent": latency,
        "macs_exponent": 1.0,
    }
    return ScalingRow(**(fields | changes))


def crossover(mixer: str, verdict: str, side: float | None = None, **changes: object) -> CrossoverRow:
    fields: dict[str, object] = {
        "environment": CPU,
        "session": "first",
        "model": "vit-tiny",
        "mixer": mixer,
        "baseline": "softmax",
        "verdict": verdict,
        "side": side,
        "smallest_side": 224,
        "largest_side": 896,
    }
    return CrossoverRow(**(fields | changes))


def only(rows: list[AnyRow]) -> Table:
    (table,) = report.tables(rows)
    return table


def lines(table: Table, column: str = "mixer") -> list[str]:
    return list(table.frame[column])


def notes(table: Table) -> str:
    return "\n".join(table.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": GPU},
        {"dtype": "bfloat16"},
        {"epochs": 21},
        {"image_size": (32, 64)},
        {"recipe": "other"},
        {"dataset": "fashion"},
    ],
)
def test_accuracies_that_do_not_compare_are_in_different_tables(changes: dict[str, object]) -> None:
    made = report.tables([train("softmax"), train("linear", **changes), train("pool")])
    assert sorted(map(lines, made)) == [["linear"], ["pool", "softmax"]]
    assert len({table.name for table in made}) == len({table.title for table in made}) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": GPU},
        {"environment": CPU.model_copy(update={"threads": 1})},
        {"environment": CPU.model_copy(update={"tf32": True})},
        {"dtype": "bfloat16"},
        {"batch": 8},
        {"protocol": "constant tokens"},
        {"mode": "train"},
        {"compiled": True},
        {"channels_last": True},
        {"token_budget": 196},
        {"path": "core"},
        {"model": "vit-small"},
    ],
)
def test_a_profile_never_mixes_settings(changes: dict[str, object]) -> None:
    made = report.tables([cell("softmax"), cell("linear", **changes), cell("pool")])
    assert sorted(map(lines, made)) == [["linear"], ["pool", "softmax"]]
    assert len({table.name for table in made}) == len({table.title for table in made}) == 2
    alone = next(table for table in made if lines(table) == ["linear"])
    assert list(alone.frame[SPEEDUP]) == ["–"]


def test_settings_that_differ_only_in_odd_characters_get_different_files() -> None:
    names = [table.name for table in report.tables([cell(protocol="a b"), cell(protocol="a/b"), cell(protocol="a b ")])]
    assert len(set(names)) == 3
    assert all("/" not in name for name in names)


def test_of_a_seed_that_ran_twice_the_latest_row_counts_in_whatever_order_they_come() -> None:
    early, late = train(accuracy=0.5, minute=1), train(accuracy=0.75, minute=2)
    for rows in ([early, late], [late, early]):
        table = only(rows)
        assert list(table.frame[ACCURACY]) == ["75.00"]
        assert list(table.frame["seeds"]) == ["1 seed"]
        assert "1 earlier row of the same cell was left out" in notes(table)


def test_of_rows_of_one_second_the_last_recorded_counts() -> None:
    assert list(only([train(accuracy=0.5), train(accuracy=0.75)]).data["accuracy"]) == [0.75]
    assert list(only([cell(median=0.5), cell(median=0.75)]).data["median_seconds"]) == [0.75]
    assert list(only([cell(median=0.5), cell(median=0.75, session="later")]).data["median_seconds"]) == [0.75]


def test_seeds_give_a_mean_and_its_interval() -> None:
    values = [0.90, 0.92, 0.97]
    table = only([train(seed=seed, accuracy=value) for seed, value in enumerate(values)])
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert table.frame[ACCURACY][0] == f"{100 * np.mean(values):.2f} ± {100 * half:.2f}"
    assert table.frame["seeds"][0] == "3 seeds"
    assert table.data["accuracy_ci95"][0] == pytest.approx(half)
    assert table.data["accuracy_by_seed"][0].split() == [repr(value) for value in values]
    assert "95% t-interval" in notes(table)
    assert "single seed" not in notes(table)


def test_a_single_seed_is_marked_and_nothing_is_ranked() -> None:
    table = only([train("pool", accuracy=0.9), train("linear", accuracy=0.1), train("softmax", accuracy=0.5)])
    assert lines(table) == ["linear", "pool", "softmax"]
    assert lines(table, "seeds") == ["1 seed"] * 3
    assert all("±" not in value for value in table.frame[ACCURACY])
    assert "ranks nothing" in notes(table)
    assert table.data["accuracy_ci95"].isna().all()


@pytest.mark.parametrize(
    "change",
    [{"recipe_digest": "other"}, {"weights": "ema"}, {"batch": 32}, {"steps": 920}, {"parameters": 5}, {"samples": 359}],
)
def test_a_mean_is_over_runs_that_differ_in_their_seed_only(change: dict[str, object]) -> None:
    table = only([train(seed=0, accuracy=0.5), train(seed=1, accuracy=1.0, **change)])
    assert sorted(table.frame[ACCURACY]) == ["100.00", "50.00"]
    (field, value), *_ = change.items()
    if field in ("weights", "batch", "steps"):
        assert str(value) in lines(table, field)


def test_the_final_accuracy_stands_in_the_table_with_its_circumstances() -> None:
    table = only([train(accuracy=0.9, best_accuracy=0.999)])
    assert "99.9" not in table.to_markdown()
    assert table.frame["samples"][0] == "360"
    for part in ("measured", "last epoch", "32 px", "20 epochs", "pretraining none", "raw"):
        assert part in table.notes[0]


def test_every_cell_of_an_accuracy_line() -> None:
    table = only([train()])
    assert table.frame.iloc[0].to_dict() == {
        "model": "vit-tiny",
        "mixer": "softmax",
        "params (M)": "1.23",
        "GMACs": "3.210",
        ACCURACY: "90.00",
        "seeds": "1 seed",
        "samples": "360",
        "loss": "0.123",
        "images/s": "2,346",
        "data wait (%)": "3.4",
        "train (s)": "12.5",
    }


def test_baselines_stand_under_the_mixers_of_their_data_set() -> None:
    rows = [baseline("b", 0.98), baseline("a", 0.97, samples=359), baseline("c", dataset="fashion"), train("zeta")]
    made = report.tables(rows)
    table = next(table for table in made if "zeta" in lines(table))
    assert lines(table) == ["zeta", "a", "b"]
    shown = table.frame.iloc[1].to_dict()
    assert (shown.pop("mixer"), shown.pop(ACCURACY), shown.pop("samples")) == ("a", "97.00", "359")
    assert set(shown.values()) == {"–"}
    assert "sample counts differ" in notes(table)
    assert [lines(table) for table in made if table is not made[0]] == [["c"]]


def test_digits_rank_nothing() -> None:
    for dataset, expected in (("digits", True), ("digits-8x8", True), ("imagenet", False)):
        table = only([train(dataset=dataset)])
        assert ("check the machinery and rank nothing" in notes(table)) is expected


def test_what_the_environments_of_one_table_do_not_share_is_said() -> None:
    newer = CPU.model_copy(update={"git_revision": "def456", "versions": {"torch": "2.10.0"}})
    table = only([train("linear"), train("softmax", environment=newer)])
    assert "git revision: abc123, def456" in notes(table)
    assert "torch: 2.9.0, 2.10.0" in notes(table)
    assert "threads" not in notes(table)
    assert "environments" not in notes(only([train("linear"), train("softmax")]))


def test_refused_macs_are_said_with_the_reason() -> None:
    table = only([train("pool", macs=None, macs_error="no count knows aten::odd")])
    assert table.frame["GMACs"][0] == "refused"
    assert "GMACs refused (pool): no count knows aten::odd" in table.notes
    table = only([cell("pool", macs=None, macs_error="counts disagree: 1 | 2", counted_by=()), cell("linear")])
    assert lines(table, "GMACs") == ["1.254", "refused"]
    assert lines(table, "GFLOPs") == ["2.507", "refused"]
    assert "GMACs refused (pool): counts disagree: 1 | 2" in table.notes
    assert r"1 \| 2" in table.to_markdown()


def test_a_bound_is_marked_in_its_cell_and_is_no_number_elsewhere() -> None:
    bound = {"macs": None, "macs_error": "unknown operator: a::b in layer", "macs_sure": "at least", "macs_at_least": 1.23e9}
    table = only([train("pool", **bound), train("softmax")])
    assert table.frame["GMACs"][0] == "≥ 1.230"
    said = "GMACs with ≥ (pool) are a lower bound, and no number to compare: unknown operator: a::b in layer."
    assert said in table.notes
    assert "refused" not in notes(table)
    work = {"elementwise": None, "elementwise_at_least": 2e7}
    table = only([cell("pool", counted_by=("flop_counter", "fvcore"), **bound, **work), cell("linear")])
    assert lines(table, "GMACs") == ["1.254", "≥ 1.230"]
    assert lines(table, "GFLOPs") == ["2.507", "≥ 2.460"]
    assert lines(table, "elementwise (G)") == ["0.0250", "≥ 0.0200"]
    assert said in table.notes
    assert list(table.data["macs"].isna()) == [False, True]
    assert table.data["macs_sure"].iloc[1] == "at least"
    assert table.data["macs_at_least"].iloc[1] == 1.23e9


def test_macs_that_are_counted_and_not_declared_have_a_note_and_no_dagger() -> None:
    said = "GMACs counted, not declared (pool): two counts agree, without a closed form."
    assert said in only([train("pool", macs_sure="counted"), train("softmax", macs_sure="proved")]).notes
    table = only([cell("pool", counted_by=("flop_counter", "fvcore"), macs_sure="counted"), cell("linear", macs_sure="proved")])
    assert lines(table, "GMACs") == ["1.254", "1.254"]
    assert said in table.notes
    assert "counted, not declared" not in notes(only([cell("linear", macs_sure="proved"), cell("softmax")]))


def test_a_failed_cell_is_a_line_with_its_status_and_message() -> None:
    table = only([cell("softmax"), failed("softmax", 448, "oom", "wanted\n3 GiB"), failed("pool", 224, "error", "odd <op>")])
    assert list(zip(lines(table), lines(table, "px"), lines(table, "status"), strict=True)) == [
        ("pool", "224", "error"),
        ("softmax", "224", "ok"),
        ("softmax", "448", "oom"),
    ]
    assert lines(table, "latency (ms)") == ["–", "20.0", "–"]
    assert lines(table, "GMACs") == ["–", "1.254", "–"]
    assert "softmax at 448 px: oom: wanted 3 GiB" in table.notes
    assert "pool at 224 px: error: odd <op>" in table.notes
    assert "odd &lt;op>" in table.to_markdown()
    assert "refused" not in notes(table)


def test_every_cell_of_a_profile_line() -> None:
    rows = [cell("softmax", 448, 0.1), cell("linear", 224, 0.03), cell("linear", 448, 0.05)]
    refused = [cell("pool", 224, 0.01, macs=None, macs_error="why"), cell("pool", 448, 0.08)]
    table = only([*rows, *refused])
    assert lines(table) == ["linear", "linear", "pool", "pool", "softmax"]
    assert table.frame.iloc[1].to_dict() == {
        "mixer": "linear",
        "px": "448",
        "tokens": "784",
        "params (M)": "5.72",
        "GMACs": "2.507",
        "GFLOPs": "5.015",
        "elementwise (G)": "0.0250",
        "latency (ms)": "50.0",
        "rounds (ms)": "50.0–55.0",
        SPEEDUP: "2.00×",
        "latency exponent": "0.37",
        "MACs exponent": "0.50",
        "status": "ok",
    }
    assert lines(table, "latency exponent") == ["–", "0.37", "–", "1.50", "–"], (
        "from the cells: log(5/3) / log 4, log 8 / log 4"
    )
    assert lines(table, "MACs exponent") == ["–", "0.50", "–", "–", "–"]
    assert lines(table, SPEEDUP) == ["–", "2.00×", "–", "1.25×", "1.00×"]


def test_recorded_exponents_and_crossovers_give_way_to_those_of_the_cells() -> None:
    rows = [cell(name, side, t * side) for name, t in (("linear", 1e-4), ("softmax", 2e-4)) for side in (224, 448)]
    made = {table.name: table for table in report.tables([*rows, exponent(latency=9.0), crossover("linear", "none")])}
    assert lines(made["profile"], "latency exponent") == ["–", "0.50", "–", "0.50"]
    assert lines(made["crossover"], "crossover") == ["faster at every measured side (224–448 px)"]
    assert "crossover" not in [table.name for table in report.tables([*rows[:1], crossover("linear", "none")])]


def test_a_speed_up_needs_softmax_to_have_run() -> None:
    table = only([failed("softmax", 448), cell("linear", 448)])
    assert lines(table, SPEEDUP) == ["–", "–"]
    table = only([cell("softmax", status="error", message="killed after timing"), cell("linear")])
    assert lines(table, SPEEDUP) == ["–", "–"]
    assert lines(table, "rounds (ms)") == ["20.0–22.0", "–"]


def test_macs_that_fewer_than_three_counts_give_carry_a_dagger() -> None:
    table = only([cell("linear", counted_by=("declared", "meta")), cell("pool", counted_by=()), cell("softmax")])
    assert lines(table, "GMACs") == ["1.254†", "1.254†", "1.254"]
    assert "counted by declared and meta only" in notes(table)
    assert "linear at 224 px" in notes(table)
    assert "counted by no named count only" in notes(table)
    assert "†" not in notes(only([cell("softmax")]))


def test_the_latest_session_of_a_setting_is_used_and_the_others_are_named() -> None:
    old = [cell("softmax", median=0.5, minute=5), cell("pool", median=0.1, minute=5), cell("softmax", 112, 0.3, minute=5)]
    new = [cell("softmax", median=0.25, minute=6, session="second")]
    other = [cell("softmax", median=0.75, minute=1, batch=8)]
    made = report.tables([*new, *old])
    assert [lines(t) for t in made] == [["softmax"]]
    assert list(made[0].data["median_seconds"]) == [0.25]
    assert lines(made[0], "latency exponent") == ["–"]
    assert "Earlier sessions of the same setting were left out: first (3 cells)." in made[0].notes
    profiles = [t for t in report.tables([*new, *old, *other]) if t.name.startswith("profile")]
    assert sorted(t.data["session"].iloc[0] for t in profiles) == ["first", "second"]


def test_accuracy_and_cost_stand_on_one_line_where_there_is_one_table_of_each() -> None:
    rows = [*small_report(), train("hydra"), cell("static"), cell("linear", 896, 0.4)]
    overview, accuracy, profile, *_ = report.tables(rows)
    assert (overview.name, lines(overview)) == ("overview", ["linear", "pool", "softmax"]), "who has both"
    first = overview.frame.iloc[0]
    assert first[ACCURACY] == accuracy.frame.iloc[lines(accuracy).index("linear")][ACCURACY]
    assert first["params (M) at 224 px"] == "5.72"
    assert first["GMACs at 224 px"] == profile.frame.iloc[0]["GMACs"]
    assert list(overview.frame["latency exponent at 896 px"]) == ["1.40 [-0.93, 3.74]", "–", "–"], "or failed"
    assert list(overview.data["last.status"].fillna("none")) == ["ok", "none", "oom"]
    assert "A single seed has no interval" in notes(overview)
    assert accuracy.title in notes(overview)
    assert profile.title in notes(overview)


@pytest.mark.parametrize(
    "more",
    [
        [cell("softmax", batch=2)],
        [train("softmax", recipe="other")],
        [cell("softmax", local_conv="dwc")],
        [train("softmax", weights="ema")],
        [train("softmax", model="vit-small")],
    ],
    ids=["two profiles", "two recipes", "two factors", "two runs of one name", "another model"],
)
def test_nothing_is_joined_where_it_is_not_clear_what_to_join(more: list[AnyRow]) -> None:
    assert "overview" not in [table.name for table in report.tables([*small_report(), *more])]


def test_mixers_that_were_not_both_trained_and_profiled_are_not_joined() -> None:
    names = [table.name for table in report.tables([train("softmax"), cell("linear"), baseline()])]
    assert names == ["accuracy", "profile"]


def test_crossovers_in_words() -> None:
    times = {"softmax": (2, 2, 2), "a": (1, 1, 1), "b": (4, 1, 1), "c": (1, 1, 3)}
    rows = [cell(name, side, t) for name, ts in times.items() for side, t in zip((224, 448, 896), ts, strict=True)]
    made = {table.name: table for table in report.tables(rows)}["crossover"]
    assert lines(made) == ["a", "b", "c"]
    assert lines(made, "crossover") == ["faster at every measured side (224–896 px)", "from 317 px", "none up to 896 px"]
    assert list(made.data["verdict"]) == ["always", "at", "none"]
    assert made.data["side"][1] == pytest.approx(224 * 2**0.5), "halfway between two sides, in the logarithm"
    assert "fewer than four sides there is no interval" in notes(made)


def small_report() -> list[AnyRow]:
    rows: list[AnyRow] = [baseline(), baseline("logistic regression", 0.97)]
    for step, mixer in enumerate(("linear", "pool", "softmax")):
        rows += [train(mixer, seed, 0.9 + 0.01 * step + 0.003 * seed, macs=1e9 * (step + 1)) for seed in range(1 + step)]
        rows += [cell(mixer, side, (step + 1) * side**2 / 3e6) for side in (224, 448, 672)]
    return [*rows, failed("softmax", 896)]


def test_csv_numbers_are_the_rows_numbers(tmp_path: Path) -> None:
    rows = [
        train("linear", seed=3, accuracy=1 / 3, loss=0.1 + 0.2, macs=1e9 / 7),
        baseline(accuracy=2 / 3),
        cell("linear", median=0.1 / 3, samples=(0.1 / 3, 0.2)),
        cell("pool", macs=None),
        failed(),
    ]
    report.write(rows, tmp_path)
    accuracy, simple = cells(tmp_path / "accuracy.csv")
    assert isinstance(rows[0], TrainRow)
    for field in ("parameters", "macs", "accuracy", "samples", "loss", "images_per_second", "train_seconds"):
        assert accuracy[field] == repr(getattr(rows[0], field))
    assert simple["accuracy"] == repr(2 / 3)
    assert simple["parameters"] == simple["macs"] == ""
    assert isinstance(rows[2], ProfileRow)
    timed, uncounted, oom = cells(tmp_path / "profile.csv")
    for column, field in (("median_seconds", "median"), ("p25_seconds", "p25"), ("p75_seconds", "p75"), ("macs", "macs")):
        assert timed[column] == repr(getattr(rows[2], field))
    assert float(timed["flops"]) == 2 * float(timed["macs"])
    assert (uncounted["macs"], oom["median_seconds"], oom["parameters"]) == ("", "", "")
    assert timed["parameters"] == str(rows[2].parameters)
    assert [line["status"] for line in (timed, uncounted, oom)] == ["ok", "ok", "oom"]


@pytest.mark.slow
def test_a_table_of_the_report_before_does_not_stay_beside_new_ones(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    report.write(small_report(), tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    assert {"accuracy.md", "accuracy.csv", "accuracy.tex", "accuracy.png"} <= before
    report.write([*small_report(), train("pool", image_size=(64, 64))], tmp_path)
    after = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in after if name.startswith("accuracy.")}
    assert len({name for name in after if name.startswith("accuracy-")}) >= 6
    assert "notes.md" in after
    report.write(small_report(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_baseline_that_no_table_has_is_refused(tmp_path: Path) -> None:
    records.append(tmp_path / "records.jsonl", small_report())
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--baseline", "pol"])
    assert (done.exit_code, "did you mean pool" in done.output) == (2, True), done.output
    assert not (tmp_path / "tables.md").exists()
    assert CliRunner().invoke(app, ["report", str(tmp_path), "--baseline", "pool"]).exit_code == 0


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_write_says_where_everything_came_from(tmp_path: Path) -> None:
    rows = small_report()
    paths = report.write(rows, tmp_path / "new", ["runs/a/records.jsonl:7: a torn line (12 characters) was skipped"])
    names = {path.name for path in paths}
    stems = {"overview", "accuracy", "profile", "speedup", "crossover", "pareto"}
    files = {f"{stem}.{kind}" for stem in stems for kind in ("md", "csv", "tex")}
    assert names == {"tables.md", "page.html", "answers.md", "accuracy.png", "latency.png", "speedup.png"} | files
    assert all(path.is_file() for path in paths)
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    page = (tmp_path / "new" / "tables.md").read_text()
    for stem in stems:
        assert (tmp_path / "new" / f"{stem}.md").read_text() in page
    for part in ("runs/a/records.jsonl:7", "Test CPU", "2 threads", "torch 2.9.0", "abc123", "](latency.png)"):
        assert part in page
    assert "wfbench train --mixer pool --seed 1  # 1 row" in page
    assert "uncommitted" not in page
    before = {path: path.read_bytes() for path in paths if path.suffix != ".png"}
    assert report.write(rows, tmp_path / "new", ["runs/a/records.jsonl:7: a torn line (12 characters) was skipped"]) == paths
    assert {path: path.read_bytes() for path in before} == before


def test_uncommitted_changes_and_several_environments_are_said(tmp_path: Path) -> None:
    dirty = GPU.model_copy(update={"git_dirty": True, "tf32": True})
    report.write([train(), train(environment=dirty)], tmp_path)
    page = (tmp_path / "tables.md").read_text()
    assert "Environment 2: Test GPU" in page
    assert "abc123, with uncommitted changes" in page
    assert "TF32 on" in page


def test_an_unwritable_place_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "tables.md").mkdir(parents=True)
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken"):
        with pytest.raises(InputError, match="cannot write the report"):
            report.write([train(), cell()], place)


def colours(path: Path) -> dict[tuple[int, int, int], int]:
    """How many pixels there are of each colour."""
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 600
        return {colour: count for count, colour in image.convert("RGB").getcolors(maxcolors=1 << 24) or []}


@pytest.mark.slow
def test_plots_are_real_pictures(tmp_path: Path) -> None:
    rows = small_report()
    report.write(rows, tmp_path)
    styles = figures.mixer_styles(report.tables(rows))
    for name in ("latency.png", "accuracy.png"):
        seen = colours(tmp_path / name)
        assert len(seen) > 150
        for style in styles.values():
            assert seen.get(tuple(round(255 * part) for part in to_rgb(style["color"])), 0) > 50


def test_curves_are_the_rows_numbers() -> None:
    made = {table.name: table for table in report.tables(small_report())}
    styles = figures.mixer_styles(list(made.values()))
    figure = figures.latency(made["profile"].result, made["profile"], styles)
    assert figure is not None
    curves = {str(line.get_label()): line for line in figure.axes[0].lines}
    for step, mixer in enumerate(("linear", "pool", "softmax")):
        assert list(curves[mixer].get_xdata()) == [196, 784, 1764]
        assert list(curves[mixer].get_ydata()) == [1e3 * ((step + 1) * side**2 / 3e6) for side in (224, 448, 672)]
    assert "softmax: oom" in [text.get_text() for text in figure.axes[0].texts]
    figure = figures.accuracy(made["accuracy"].result, made["accuracy"], styles)
    assert figure is not None
    data = made["accuracy"].data
    bars = {bar[0].get_xdata()[0]: bar for bar in figure.axes[0].containers}
    for macs, accuracy, interval in data.loc[data["macs"].notna(), ["macs", "accuracy", "accuracy_ci95"]].to_numpy(float):
        bar = bars[macs / 1e9]
        assert bar[0].get_ydata()[0] == 100 * accuracy
        assert bar.has_yerr is not math.isnan(interval)
        if bar.has_yerr:
            (low, high) = bar[2][0].get_segments()[0][:, 1]
            assert (low, high) == pytest.approx((100 * (accuracy - interval), 100 * (accuracy + interval)))
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert {"linear", "pool", "softmax", "nearest neighbour", "logistic regression"} <= shown


def test_no_two_mixers_look_the_same() -> None:
    styles = figures.mixer_styles(report.tables([cell(f"mixer-{number}") for number in range(60)]))
    assert len({(style["color"], style["marker"], str(style["linestyle"])) for style in styles.values()}) == 61
    for first, second in itertools.combinations(list(styles)[:6], 2):
        assert all(styles[first][part] != styles[second][part] for part in ("color", "marker"))


@pytest.mark.slow
def test_each_table_has_its_plot_and_empty_plots_are_not_drawn(tmp_path: Path) -> None:
    rows = [cell(batch=1), cell(batch=8), failed().model_copy(update={"batch": 32}), train(macs=None, macs_error="odd")]
    report.write(rows, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["latency-batch-1.png", "latency-batch-8.png"]
    assert "](latency-batch-8.png)" in (tmp_path / "tables.md").read_text()


@pytest.mark.slow
def test_plots_of_the_smallest_and_of_odd_data(tmp_path: Path) -> None:
    tall = cell("linear", resolution=(224, 448), tokens=392)
    sparse = cell("softmax", 448, p25=None, p75=None)
    many = [cell(f"mixer-{number}", 224, 0.01 + number / 1000) for number in range(40)]
    report.write([tall, sparse, *many, cell("softmax", batch=8), train(), train(dataset="other", macs=0.0)], tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert all(len(colours(path)) > 50 for path in tmp_path.glob("*.png"))


def test_rich_shows_brackets_and_every_cell() -> None:
    from rich.console import Console

    table = only([failed(message="cannot [bold]alloc[/nothing]"), cell("linear")])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.to_rich())
    text = console.export_text()
    for part in ("cannot [bold]alloc[/nothing]", "linear", "1.254", "oom", table.title):
        assert part in text


def test_markdown_is_a_table() -> None:
    text = only([cell("linear"), cell("softmax")]).to_markdown().splitlines()
    rows = [line for line in text if line.startswith("|")]
    assert text[0].startswith("## Profile: vit-tiny, Test CPU, float32, 2 threads, batch 1, inference")
    assert len(rows) == 4
    assert len({line.count("|") for line in rows}) == 1


def test_no_rows_give_no_tables(tmp_path: Path) -> None:
    assert report.tables([]) == []
    assert [path.name for path in report.write([], tmp_path)] == ["tables.md", "page.html"]


def test_tables_that_their_records_alone_do_not_give_name_their_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for place, mixer in ((here, "softmax"), (there, "linear")):
        records.append(place / "records.jsonl", [train(mixer)])
    named: list[str] = []

    def shown(*_: object, command: str, **__: object) -> None:
        named.append(command)

    monkeypatch.setattr(sys.modules["wfbench.cli.report"], "_write_and_show", shown)
    monkeypatch.setattr(sys, "argv", ["wfbench", "report", "..."])
    for words in ([here], [here, "--out", here], [here, there, "--out", here], [here, "--margin", 1], [here, "--out", there]):
        done = CliRunner().invoke(app, ["report", *map(str, words)])
        assert done.exit_code == 0, done.output
    assert named == ["", "", *3 * ["wfbench report ..."]]
    report.write_made(report.make([]), tmp_path, (), named[-1])
    assert report.made_by(tmp_path / "tables.md") == named[-1]
    report.write([], tmp_path)
    assert report.made_by(tmp_path / "tables.md") is None


def test_collect_reads_files_and_searches_directories(tmp_path: Path) -> None:
    rows = {name: train(name) for name in ("a", "b", "c")}
    records.append(tmp_path / "runs" / "z" / "deep" / "records.jsonl", [rows["b"]])
    records.append(tmp_path / "runs" / "a" / "records.jsonl", [rows["a"]])
    records.append(tmp_path / "runs" / "a" / "metrics.jsonl", [train("not asked for")])
    records.append(tmp_path / "single.jsonl", [rows["c"]])
    assert report.collect([tmp_path / "single.jsonl", tmp_path / "runs"]) == ([rows["a"], rows["b"], rows["c"]], [])
    assert report.collect([tmp_path / "runs", tmp_path / "single.jsonl"]) == ([rows["a"], rows["b"], rows["c"]], [])


def test_an_identical_row_counts_once_and_a_similar_one_does_not(tmp_path: Path) -> None:
    row, similar = train(accuracy=0.25), train(accuracy=0.5)
    records.append(tmp_path / "run" / "records.jsonl", [row])
    records.append(tmp_path / "copy" / "records.jsonl", [row, similar])
    rows, _ = report.collect([tmp_path, tmp_path / "run", tmp_path / "run" / "records.jsonl"])
    assert [found.model_dump_json() for found in rows] == [row.model_dump_json(), similar.model_dump_json()]


def test_collect_hands_on_torn_lines_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.append(path, [train()])
    with path.open("a") as file:
        file.write('{"kind": "tra')
    rows, torn = report.collect([tmp_path, path])
    assert len(rows) == 1
    assert len(torn) == 1
    assert f"{path}:2" in torn[0]


def test_collect_refuses_what_holds_no_records(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "torn.jsonl").write_text('{"kind"')
    (tmp_path / "config.yaml").write_text("")
    records.append(tmp_path / "good.jsonl", [train()])
    cases = [
        ("absent", "no such file or directory"),
        ("empty", "no records"),
        ("empty.jsonl", "no records"),
        ("torn.jsonl", "torn"),
        ("config.yaml", "not a file of records"),
    ]
    for name, what in cases:
        with pytest.raises(InputError) as caught:
            report.collect([tmp_path / "good.jsonl", tmp_path / name])
        assert what in str(caught.value)
        assert name in str(caught.value)
        assert "expected:" in str(caught.value)
    with pytest.raises(InputError, match="nothing to report on"):
        report.collect([])


def test_the_report_loads_neither_torch_nor_the_rest_of_the_bench() -> None:
    code = (
        "import sys, wfbench.report, wfbench.report.figures\n"
        "bad = {'torch', 'mixers', 'timm', 'matplotlib', 'rich', 'wfbench.measure.latency', 'wfbench.measure.flops'}\n"
        "bad = (bad | {'wfbench.models'}) & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Accuracy by test resolution


def evaluated(
    mixer: str = "softmax", side: int = 32, accuracy: float = 0.5, seed: int | None = 0, **changes: object
) -> EvalRow:
    fields: dict[str, object] = {
        "environment": train().environment,
        "model": "vit-tiny",
        "mixer": mixer,
        "recipe": "cifar10",
        "recipe_digest": "abc",
        "seed": seed,
        "weights": "raw",
        "weights_sha256": "0" * 64,
        "dataset": "CIFAR-10",
        "trained_size": (32, 32),
        "image_size": (side, side),
        "eval_resize": "squash",
        "eval_crop": 1.0,
        "mean": (0.5,),
        "std": (0.5,),
        "dtype": "float32",
        "accuracy": accuracy,
        "top5": 0.9,
        "samples": 100,
        "loss": 1.0,
    }
    return EvalRow(**(fields | changes))


def test_accuracy_by_resolution_is_the_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    rows = [evaluated(side=side, seed=seed, accuracy=0.4 + 0.1 * seed) for side in (24, 32) for seed in range(3)]
    rows += [evaluated("linear", 24, 0.3), evaluated("linear", 24, 0.31)]  # the same weights again: the newest counts
    (table,) = report.tables(rows)
    assert table.name == "resolution"
    assert list(table.frame.columns) == ["model", "mixer", "24 px (%)", "32 px (%)", "seeds"]
    linear, softmax = table.frame.to_dict("records")
    assert (linear["24 px (%)"], linear["32 px (%)"], linear["seeds"]) == ("31.00", "–", "1 seed")
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    assert softmax["24 px (%)"] == f"50.00 ± {100 * half:.2f}"
    assert set(table.data["seed_count"]) == {1, 3}
    names = {path.name for path in report.write(rows, tmp_path)}
    assert {"resolution.md", "resolution.csv", "resolution.png"} < names


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "other"},
        {"weights": "ema"},
        {"mapping": "real.json"},
        {"eval_resize": "shorter"},
        {"trained_size": (64, 64)},
    ],
)
def test_evaluations_that_do_not_compare_stand_in_tables_of_their_own(other: dict[str, object]) -> None:
    assert len(report.tables([evaluated(), evaluated("linear", **other)])) == 2


def test_weights_that_began_from_others_are_never_averaged_with_those_that_did_not() -> None:
    (table,) = report.tables([train(seed=0), train(seed=1, pretraining="deit.safetensors 0123")])
    assert list(table.frame["pretraining"]) == ["deit.safetensors 0123", "none"]
    assert set(table.frame["seeds"]) == {"1 seed"}
