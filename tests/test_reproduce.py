"""`wfbench reproduce`: which cells are drawn, what is found missing, and what is answered; measurements are stand-ins here."""

from __future__ import annotations

import functools
import json
import math
import random
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wfbench import records
from wfbench.analysis.reproduction import Spread
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.measure.latency import INTERLEAVED, ISOLATED
from wfbench.records import AnyRow, MeasurementRow, ProfileRow, ReproductionRow
from wfbench.report import collect, make
from wfbench.report.checked import lines_of, unlike
from wfbench.tasks import reproduce as task
from wfbench.tasks.profile import summary
from wfbench.tasks.profile.request import PATH, ProfileRequest
from wfbench.tasks.reproduce.cells import ProfileCell, TrainingCell, of_table, subject_of
from wfbench.tasks.reproduce.profile import ProfilePlan, plan_profile
from wfbench.tasks.reproduce.training import TrainingPlan, judge_training, said, spread_of

TINY = ["--set", "model.embed_dim=16", "--set", "model.depth=1", "--set", "epochs=1", "--set", "optim.warmup_epochs=0"]
#: Seconds of a call at 32 px, by mixer.
SECONDS = {"softmax": 0.010, "linear": 0.008, "static": 0.004}


@pytest.fixture(scope="module", autouse=True)
def _committed() -> Iterator[None]:
    """As in a checkout without changes: there the same bits are due."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wfbench.records.environment._git_revision", lambda: ("0" * 40, False))
        yield


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def row(mixer: str, side: int = 32, factor: float = 1.0, seed: int = 0, **changes: object) -> ProfileRow:
    """A cell as it would be recorded here, with ten rounds that deviate by 3 %; ``factor`` makes it slower."""
    rng = random.Random(f"{mixer} {side} {seed}")
    rounds = tuple(factor * SECONDS[mixer] * (side / 32) ** 2 * math.exp(rng.gauss(0, 0.03)) for _ in range(10))
    fields: dict[str, object] = {
        "command": "wfbench profile --no-isolate --seconds 0.5",
        "environment": records.stamp("cpu"),
        "session": "then",
        "model": "vit-tiny",
        "mixer": mixer,
        "resolution": (side, side),
        "tokens": (side // 16) ** 2,
        "batch": 1,
        "mode": "infer",
        "dtype": "float32",
        "sdpa_backend": "chosen by PyTorch",
        "path": PATH,
        "protocol": INTERLEAVED,
        "order_seed": 0,
        "status": "ok",
        "parameters": 1000,
        "macs": 5e6,
        "round_medians": rounds,
        "round_numbers": tuple(range(10)),
        "median": sorted(rounds)[4] / 2 + sorted(rounds)[5] / 2,
    }
    return ProfileRow(**(fields | changes))


def recorded(place: Path, *changed: ProfileRow) -> Path:
    """Records of three mixers at two sizes, where ``changed`` rows take the place of those of the same cell."""
    rows = {summary.key_of(r): r for r in (*(row(m, s) for m in SECONDS for s in (32, 64)), *changed)}
    records.append(place / "records.jsonl", rows.values())
    return place


def measured(
    request: ProfileRequest, journal: Path, watch: object, only: Collection[summary.Key] | None, **changes: object
) -> list[AnyRow]:
    """Stands in for a measurement here: other rounds of the same truth."""
    keys = [cell.key for cell in request.cells() if only is None or cell.key in only]
    rows = [row(key[0], key[3], seed=1, session="now", **changes) for key in keys]
    records.append(journal, rows)
    return list(rows)


class Silent:
    def __init__(self) -> None:
        self.heard: list[ReproductionRow] = []

    def answered(self, row: ReproductionRow) -> None:
        self.heard.append(row)

    def profile(self) -> Any:
        from wfbench.cli.progress import cell_table

        return cell_table()

    def training(self, name: str, epochs: int) -> Any:
        from wfbench.cli.progress import quiet

        return quiet()


def answers(place: Path, out: Path, cells: int = 4, measure: Callable[..., Any] = measured) -> list[ReproductionRow]:
    rows, _ = collect([place])
    made = task.plan(task.ReproduceRequest(str(place), cells), task.find_cells(rows, place))
    return task.reproduce(made, out, Silent(), measure=measure)


def stubbed(monkeypatch: pytest.MonkeyPatch, measure: Callable[..., Any] = measured) -> None:
    monkeypatch.setattr(task, "reproduce", functools.partial(task.reproduce, measure=measure))


# --- which cells, and which draw


def test_cells_are_all_but_the_baselines_and_the_draw_follows_from_the_seed(tmp_path: Path) -> None:
    rows, _ = collect([recorded(tmp_path)])
    found = task.find_cells(rows, tmp_path)
    assert [cell.name for cell in found.cells] == [f"vit-tiny, {m} at {s} px" for m in ("linear", "static") for s in (32, 64)]
    assert list(found.left_out.values()) == [2]
    turned = task.find_cells(rows[::-1], tmp_path)
    for seed in range(5):
        names = [cell.name for cell in task.draw(found, 2, seed)]
        assert names == [cell.name for cell in task.draw(turned, 2, seed)]
    assert len({tuple(cell.name for cell in task.draw(found, 2, seed)) for seed in range(20)}) > 5
    assert len(task.draw(found, 99, 0)) == 4
    assert len(set(task.draw(found, 4, 0))) == 4


def test_what_has_no_interval_or_failed_is_not_drawn(tmp_path: Path) -> None:
    few = row("linear", round_medians=(0.008, 0.009), round_numbers=(0, 1), median=0.0085)
    failed = row("static", 64, status="oom", median=None, round_medians=(), round_numbers=())
    rows, _ = collect([recorded(tmp_path, few, failed)])
    found = task.find_cells(rows, tmp_path)
    assert [cell.name for cell in found.cells] == ["vit-tiny, linear at 64 px", "vit-tiny, static at 32 px"]
    assert sum(found.left_out.values()) == 4


def test_a_table_names_its_records_and_what_it_is_about(tmp_path: Path) -> None:
    tables = {"speedup-dwc.md": "profile", "accuracy.csv": "training", "overview.csv": None}
    assert {name: subject_of(Path(name)) for name in tables} == tables
    recorded(tmp_path)
    (tmp_path / "speedup.csv").write_text("")
    (tmp_path / "accuracy.csv").write_text("")
    done = run("reproduce", tmp_path / "accuracy.csv", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "none of them a finished training" in done.output


def table_of(place: Path, name: str) -> Path:
    """A table of the records in a directory, written beside them."""
    path = place / name
    table = next(table for table in make(collect([place])[0]).tables if table.name == path.stem)
    text = {".csv": table.data.to_csv(index=False), ".md": table.to_markdown(), ".tex": table.to_latex()}[path.suffix]
    path.write_text(text)
    return path


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("speedup.csv", "2.5", "3.0", "row 3 (static), column speedup_32: 3.0"),
        ("speedup.md", "| static | 2.", "| static | 3.", "row 3 (static), column 32 px: 3."),
        ("speedup.tex", "static & 2.", "static & 3.", "row 3 (static), column 32 px: 3."),
        ("speedup.md", "over softmax", "over linear", "title or notes"),
    ],
)
def test_a_cell_of_the_table_that_is_not_what_its_records_give_disagrees(
    name: str, old: str, new: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table_of(recorded(tmp_path / "then"), name)
    stubbed(monkeypatch)
    words = ["reproduce", path, "--cells", 4, "--out", tmp_path / "out"]
    assert f"agree: every cell of {name} is what its records give" in run(*words).output
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    done = run(*words)
    assert done.exit_code == 1, done.output
    assert f"disagree: {name}, {said}" in done.output
    assert "4 agree, 0 disagree" in done.output


def test_a_table_whose_columns_or_rows_are_others_disagrees(tmp_path: Path) -> None:
    path = table_of(recorded(tmp_path), "speedup.csv")
    rows, lines = collect([tmp_path])[0], path.read_text().splitlines()
    assert unlike(path, rows) == []
    path.write_text("\n".join(lines[:-1]))
    assert unlike(path, rows) == ["rows: 2, and 3 from its records"]
    path.write_text("\n".join([lines[0].replace("speedup_32,", "speed,"), *lines[1:]]))
    assert unlike(path, rows) == ["columns: 'speed' is not one of them; 'speedup_32' is missing"]
    assert unlike(tmp_path / "published.csv", rows) is None


def test_a_table_of_other_records_or_with_options_is_not_accused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_of(recorded(tmp_path / "then"), "speedup.csv")
    stubbed(monkeypatch)
    path.write_text(path.read_text().replace("linear", "another"))
    words = ["reproduce", path, "--out", tmp_path / "out"]
    assert run(*words).exit_code == 1
    (path.parent / "tables.md").write_text("# Tables\n\nMade by `wfbench report a b`, with options or from records elsewhere\n")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "speedup.csv is not checked: it was made by `wfbench report a b`" in done.output


def test_the_cells_of_a_table_are_those_that_it_shows(trained: Path, tmp_path: Path) -> None:
    place = recorded(tmp_path)
    (then,) = records.read(trained / "run" / "records.jsonl")[0]
    runs = [
        then.model_copy(update={"seed": seed, "epochs": e, "recipe_digest": f"{e}"}) for seed, e in ((0, 1), (1, 1), (0, 2))
    ]
    small = [row(m, s, model="vit-small", session="other") for m in SECONDS for s in (32, 64)]
    records.append(place / "records.jsonl", [*small, *runs])
    rows, _ = collect([place])
    found = task.find_cells(rows, place)
    for name, count in {"profile-vit-small": 4, "speedup-vit-tiny": 4, "accuracy-1-epoch": 2, "accuracy-2-epochs": 1}.items():
        shown = of_table(found, lines_of(table_of(place, f"{name}.csv"), rows))
        assert shown is not None, name
        assert all(str(getattr(cell.row, "epochs", cell.row.model)) in name for cell in shown.cells)
        assert (len(shown.cells), shown.left_out["cells of other tables"]) == (count, 11 - count)
    without_csv = of_table(found, lines_of(place / "speedup-vit-small.md", rows))
    assert without_csv is not None
    assert {cell.row.model for cell in without_csv.cells} == {"vit-small"}
    part = of_table(found, [{"first.model": "vit-small", "accuracy.model": "", "first.mixer": "static"}])
    assert part is not None
    assert [cell.name for cell in part.cells] == [f"vit-small, static at {side} px" for side in (32, 64)]
    assert of_table(found, [{"claim": "a"}]) is None


# --- profiles


def test_a_profile_that_is_repeated_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table_of(recorded(tmp_path / "then"), "speedup.md")
    stubbed(monkeypatch)
    done = run("reproduce", tmp_path / "then" / "speedup.md", "--cells", 4, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "4 agree, 0 disagree, 0 cannot be compared" in done.output
    rows, _ = records.read(tmp_path / "out" / "records.jsonl")
    assert [r.answer for r in rows if isinstance(r, ReproductionRow)] == ["agree"] * 4
    first = rows[0]
    assert isinstance(first, ReproductionRow)
    assert first.quantity == "speed-up over softmax"
    assert first.low is not None
    assert first.low < 1 < (first.high or 0)
    assert first.level == pytest.approx(1 - 0.05 / 4)
    assert (first.drawn, first.among, first.recorded_command) == (4, 4, "wfbench profile --no-isolate --seconds 0.5")


def test_cells_of_one_setting_are_measured_in_one_request_beside_the_baseline(tmp_path: Path) -> None:
    asked: list[tuple[ProfileRequest, int]] = []

    def measure(request: ProfileRequest, journal: Path, watch: object, only: Collection[summary.Key]) -> list[AnyRow]:
        asked.append((request, len(only)))
        return measured(request, journal, watch, only)

    answers(recorded(tmp_path), tmp_path / "out", measure=measure)
    ((request, keys),) = asked
    assert keys == 6
    assert (request.isolate, request.seconds, request.rounds, request.protocol) == (False, 0.5, 20, INTERLEAVED)
    assert (set(request.mixers), request.resolutions, request.attention) == (set(SECONDS), (32, 64), "auto")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"protocol": ISOLATED}, {"protocol": ISOLATED, "isolate": True, "rounds": 10}),
        ({"token_budget": 32, "batch": 2}, {"tokens": 32, "batch": 1}),
        ({"mode": "train", "dtype": "bfloat16 autocast"}, {"mode": "train", "dtype": "bfloat16"}),
        ({"every": 2, "offset": 1, "between": "static"}, {"every": 2, "between": "static"}),
        ({"variant": "patch 32"}, {"alternatives": True}),
        ({"local_conv": "dwc", "pos_embed": "sincos"}, {"local_conv": "dwc", "pos_embed": "sincos"}),
    ],
)
def test_the_request_is_what_the_row_says(changes: dict[str, Any], expected: dict[str, object]) -> None:
    mixer = "softmax" if "variant" in changes else "linear"
    own = {key: value for key, value in changes.items() if key not in ("every", "offset", "between", "variant")}
    rows = [row("softmax", 64, **own), row(mixer, 64, factor=1.2, **changes)]
    (cell,) = task.find_cells(rows, Path()).cells
    assert isinstance(cell, ProfileCell)
    made = plan_profile(cell, device=None)
    assert isinstance(made, ProfilePlan), made
    assert {key: getattr(made.request, key) for key in expected} == expected
    assert {summary.key_of(r) for r in rows} == set(made.keys) <= {c.key for c in made.request.cells()}


def test_a_time_that_is_40_percent_off_in_every_round_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(tmp_path / "then", row("static", factor=1.4))
    stubbed(monkeypatch)
    done = run("reproduce", tmp_path / "then", "--cells", 4, "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert "disagree: vit-tiny, static at 32 px" in done.output
    assert "3 agree, 1 disagree" in done.output


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"macs": 1.2 * 5e6}, "MACs: 6,000,000 in the record, 5,000,000 here"),
        ({"parameters": 1200}, "parameters: 1,200 in the record, 1,000 here"),
        ({"elementwise": 1200}, "elementwise operations: 1,200 in the record, 1,000 here"),
        ({"activations": 240}, "activations: 240 in the record, 200 here"),
        ({"bytes_moved": 360}, "bytes moved: 360 in the record, 300 here"),
        ({"memory_bytes": 1.2e8, "memory_status": "ok"}, "peak memory: 120.0 MB in the record, 100.0 MB here"),
        ({"median": 1.2 * row("static").median}, "contradicts its own raw data: median"),  # type: ignore[operator]
    ],
)
def test_one_number_that_is_20_percent_off_is_found(changes: dict[str, object], reason: str, tmp_path: Path) -> None:
    counts = {"elementwise": 1000, "activations": 200, "bytes_moved": 300}
    measure = functools.partial(measured, memory_bytes=1e8, memory_status="ok", **counts)
    place = recorded(tmp_path, row("static", **changes))
    found = {r.cell: r for r in answers(place, tmp_path / "out", measure=measure)}
    wrong = found.pop("vit-tiny, static at 32 px")
    assert wrong.answer == "disagree"
    assert reason in wrong.reason
    assert {r.answer for r in found.values()} == {"agree"}


@pytest.mark.parametrize("mixer", ["linear", "softmax"])
def test_rounds_that_are_not_those_of_the_raw_measurements_are_found(mixer: str, tmp_path: Path) -> None:
    then = row(mixer)
    shared = {name: getattr(then, name) for name in MeasurementRow.model_fields if name in ProfileRow.model_fields}
    shared = {k: v for k, v in shared.items() if k not in ("kind", "samples")}
    raw = [
        MeasurementRow(**shared, stage="latency", round=k, samples=(seconds,), wall_seconds=1, call_seconds=1)
        for k, seconds in enumerate(then.round_medians)
    ]
    rounds = (1.2 * then.round_medians[0], *then.round_medians[1:])
    place = recorded(tmp_path, row(mixer, round_medians=rounds, median=sorted(rounds)[4] / 2 + sorted(rounds)[5] / 2))
    records.append(place / "records.jsonl", raw)
    found = {r.cell: r for r in answers(place, tmp_path / "out")}
    whose = "" if mixer == "linear" else "the baseline's "
    assert f"{whose}round 0: " in found["vit-tiny, linear at 32 px"].reason
    assert [r.answer for r in found.values()].count("disagree") == (1 if mixer == "linear" else 2), "cells of that size"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"device": "Another CPU"}, "the device: Another CPU in the record"),
        ({"threads": 1, "tf32": True}, "TF32: True in the record"),
        ({"device_type": "cuda", "device": "A GPU"}, "A GPU"),
    ],
)
def test_another_place_is_not_compared_and_says_so(changes: dict[str, object], missing: str, tmp_path: Path) -> None:
    there = records.stamp("cpu").model_copy(update=changes)
    place = recorded(tmp_path, *(row(m, s, environment=there) for m in SECONDS for s in (32, 64)))
    done = run("reproduce", place, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert "no cell that was drawn can be compared" in done.output
    assert missing in done.output
    assert not (tmp_path / "out").exists()


def test_other_versions_are_named_and_do_not_forbid_the_comparison(tmp_path: Path) -> None:
    here = records.stamp("cpu")
    there = here.model_copy(update={"versions": here.versions | {"torch": "1.0.0"}})
    place = recorded(tmp_path, *(row(m, s, environment=there, bytes_moved=1) for m in SECONDS for s in (32, 64)))
    for found in answers(place, tmp_path / "out", measure=functools.partial(measured, bytes_moved=2)):
        assert found.answer == "agree"
        assert "parameters and MACs are equal" in found.reason, "the operators of another PyTorch may be others"
        assert any(other.startswith("torch 1.0.0") for other in found.differs)


def test_uncommitted_changes_are_named(tmp_path: Path) -> None:
    there = records.stamp("cpu").model_copy(update={"git_dirty": True})
    place = recorded(tmp_path, *(row(m, s, environment=there) for m in SECONDS for s in (32, 64)))
    assert {r.differs for r in answers(place, tmp_path / "out")} == {("uncommitted changes of the code in the record",)}


def test_what_a_command_gave_an_option_is_read_either_way() -> None:
    command = "wfbench profile --seconds 2 --set a=1 --set=b=2 --seconds=0.5 --settle 3 --set"
    assert said(command, "--seconds") == ["2", "0.5"]
    assert said(command, "--set") == ["a=1", "b=2"]


def test_the_recipe_of_a_profile_is_that_of_its_command(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "recipes" / "digits.yaml").read_text()
    (tmp_path / "digits.yaml").write_text(f"{text}\nlabel_smoothing: 0.25\n")
    command = f"wfbench profile --recipe={tmp_path / 'digits.yaml'}"
    rows = [row(m, 8, model="vit-tiny of digits", tokens=16, command=command) for m in ("softmax", "linear")]
    (cell,) = task.find_cells(rows, Path()).cells
    assert isinstance(cell, ProfileCell)
    made = plan_profile(cell, device=None)
    assert isinstance(made, ProfilePlan), made
    assert made.request.recipe is not None
    assert made.request.recipe.label_smoothing == 0.25
    (tmp_path / "digits.yaml").write_text(f"{text}\nname: other\n")
    assert "has another name" in plan_profile(cell, device=None)[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({"mixer": "gone.py:Mixer"}, "gone.py"), ({"model": "vit-tiny of no-such"}, "no-such"), ({"path": "rank"}, "rank")],
)
def test_a_cell_that_cannot_be_repeated_is_a_finding_beside_the_others(
    changes: dict[str, Any], missing: str, tmp_path: Path
) -> None:
    place = recorded(tmp_path)
    shared = {key: value for key, value in changes.items() if key != "mixer"}
    records.append(
        place / "records.jsonl", [row("static").model_copy(update=changes), *([row("softmax", **shared)] if shared else [])]
    )
    found = answers(place, tmp_path / "out", cells=9)
    wrong = [r for r in found if r.answer != "agree"]
    assert [r.answer for r in wrong] == ["cannot be compared"]
    assert missing in wrong[0].missing[0]


def test_a_cell_that_fails_here_does_not_agree(tmp_path: Path) -> None:
    nothing: dict[str, object] = {"median": None, "round_medians": (), "round_numbers": ()}
    fails = functools.partial(measured, status="error", message="boom", **nothing)
    assert {r.answer for r in answers(recorded(tmp_path), tmp_path / "a", measure=fails)} == {"disagree"}
    late = functools.partial(measured, status="timeout", message="120 s", **nothing)
    assert {r.answer for r in answers(recorded(tmp_path / "b"), tmp_path / "c", measure=late)} == {"cannot be compared"}


# --- trainings


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch on the digits."""
    place = tmp_path_factory.mktemp("trained")
    done = run("train", "--mixer", "static", *TINY, "--seed", 3, "--device", "cpu", "--out", place / "run")
    assert done.exit_code == 0, done.output
    return place


def copied(trained: Path, place: Path, factor: float = 1.0, *, consistently: bool = False) -> Path:
    """The run's directory, with its accuracy changed: in the records, or wherever it stands."""
    shutil.copytree(trained, place)
    for name in ("records.jsonl", *(("result.json",) if consistently else ())):
        found = json.loads((place / "run" / name).read_text())
        (place / "run" / name).write_text(json.dumps(found | {"accuracy": factor * found["accuracy"]}) + "\n")
    if consistently:
        for name in ("metrics.jsonl", "predictions-raw.parquet"):
            (place / "run" / name).unlink()
    return place


def test_a_training_again_here_is_the_same_to_the_last_digit(trained: Path, tmp_path: Path) -> None:
    done = run("reproduce", trained, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "the same to the last digit" in done.output
    (found,) = records.read(tmp_path / "out" / "records.jsonl")[0]
    assert isinstance(found, ReproductionRow)
    assert (found.answer, found.same_predictions, found.seed) == ("agree", 1.0, 3)
    assert found.recorded == found.new
    assert found.made is not None
    before = (tmp_path / "out" / found.made / "result.json").read_bytes()
    again = run("reproduce", trained, "--out", tmp_path / "out")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "out" / found.made / "result.json").read_bytes() == before, "what is finished is not trained again"


def test_an_accuracy_that_is_20_percent_off_contradicts_its_run(trained: Path, tmp_path: Path) -> None:
    done = run("reproduce", copied(trained, tmp_path / "then", 0.8), "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    text = " ".join(done.output.split())
    assert "contradicts its own raw data" in text
    for place in ("result.json", "metrics.jsonl", "predictions are not those"):
        assert place in text


@pytest.mark.parametrize("field", ["loss", "top5", "macs", "train_seconds"])
def test_a_figure_that_is_not_that_of_its_run_contradicts_it(field: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    found = json.loads((tmp_path / "run" / "records.jsonl").read_text())
    (tmp_path / "run" / "records.jsonl").write_text(json.dumps(found | {field: 0.8 * found[field]}) + "\n")
    made = task.plan(task.ReproduceRequest("x", 1), task.find_cells(collect([tmp_path])[0], tmp_path))
    (verdict,) = made.ready.values()
    assert verdict.answer == "disagree"
    assert f"{field} {0.8 * found[field]:.6g}, and {found[field]:.6g} in the run's result.json" in verdict.reason


def test_an_accuracy_that_is_20_percent_off_everywhere_is_found_by_training_again(trained: Path, tmp_path: Path) -> None:
    done = run("reproduce", copied(trained, tmp_path / "then", 0.8, consistently=True), "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert "the same bits are due" in " ".join(done.output.split())


def test_data_that_are_not_there_are_a_finding(trained: Path, tmp_path: Path) -> None:
    place = copied(trained, tmp_path / "then")
    config = (place / "run" / "config.yaml").read_text()
    changed = config.replace("source: digits", "source: folder").replace("path: null", "path: gone")
    (place / "run" / "config.yaml").write_text(changed)
    done = run("reproduce", place, "--out", tmp_path / "out")
    assert done.exit_code == 2, done.output
    assert "gone" in done.output
    assert not (tmp_path / "out").exists()


def plan_of(place: Path) -> TrainingPlan | str:
    rows, _ = collect([place])
    try:
        made = task.plan(task.ReproduceRequest(str(place), 1), task.find_cells(rows, place))
    except InputError as e:
        return str(e)
    (work,) = made.work.values()
    assert isinstance(work, TrainingPlan)
    return work


def test_without_its_directory_a_run_is_what_row_and_command_say(trained: Path, tmp_path: Path) -> None:
    beside = plan_of(trained)
    assert isinstance(beside, TrainingPlan)
    assert beside.equal_bits, beside.differs
    (then,) = records.read(trained / "run" / "records.jsonl")[0]
    words = " ".join(["wfbench train --mixer static --seed 3", *TINY])
    records.append(tmp_path / "a" / "records.jsonl", [then.model_copy(update={"command": words})])
    alone = plan_of(tmp_path / "a")
    assert isinstance(alone, TrainingPlan)
    assert alone.recipe.model.embed_dim == 16
    assert alone.equal_bits
    records.append(tmp_path / "b" / "records.jsonl", [then.model_copy(update={"command": "wfbench train"})])
    assert "does not say how it was trained" in str(plan_of(tmp_path / "b"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("mixer_digest", "0123", "mixer code 0123 then"),
        ("recipe_digest", "0123", "recipe's digest 0123"),
        ("processes", 2, "by 2 processes"),
        ("data_digest", None, "does not say with which code"),
    ],
)
def test_what_is_other_here_is_named_and_then_no_bits_are_due(
    field: str, value: object, said: str, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    for name in ("records.jsonl", "result.json"):
        found = json.loads((tmp_path / "run" / name).read_text())
        (tmp_path / "run" / name).write_text(json.dumps(found | {field: value}) + "\n")
    made = plan_of(tmp_path)
    assert isinstance(made, TrainingPlan)
    assert not made.equal_bits
    assert any(said in other for other in made.differs), made.differs


def test_other_data_are_not_compared(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    found = json.loads((tmp_path / "run" / "records.jsonl").read_text())
    (tmp_path / "run" / "records.jsonl").write_text(json.dumps(found | {"data_digest": "0123"}) + "\n")
    assert "its data: digest 0123 in the record" in str(plan_of(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("seed: 3", "seed: 4", "seed 3 in the record, 4 there"), ("epochs: 1\n", "epochs: 2\n", "epochs 1 in the record, 2")],
)
def test_the_recipe_of_another_run_is_not_compared(old: str, new: str, said: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    assert f"its config.yaml: {said}" in str(plan_of(tmp_path))


def test_a_damaged_result_does_not_end_the_others(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run" / "result.json").write_text("{")
    recorded(tmp_path / "profile")
    rows, _ = collect([tmp_path])
    made = task.plan(task.ReproduceRequest("x", 9), task.find_cells(rows, tmp_path))
    (verdict,) = made.ready.values()
    assert (verdict.answer, len(made.work)) == ("cannot be compared", 4)
    assert "cannot read the run's result" in verdict.reason


def test_uncommitted_changes_are_named_and_then_no_bits_are_due(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfbench.records.environment._git_revision", lambda: ("0" * 40, True))
    made = plan_of(trained)
    assert isinstance(made, TrainingPlan)
    assert made.differs == ("uncommitted changes of the code here",)
    assert not made.equal_bits


@pytest.mark.parametrize("change", [{"git_revision": "1" * 40}, {"versions": {"torch": "1.0"}}])
def test_a_new_run_of_other_code_has_a_directory_of_its_own(
    change: dict[str, Any], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, here = plan_of(trained), records.stamp("cpu")
    monkeypatch.setattr(records, "stamp", lambda device: here.model_copy(update=change))
    after = plan_of(trained)
    assert isinstance(before, TrainingPlan)
    assert isinstance(after, TrainingPlan)
    assert before.folder != after.folder


def test_where_no_bits_are_due_the_spread_of_seeds_decides(trained: Path) -> None:
    plan = plan_of(trained)
    assert isinstance(plan, TrainingPlan)
    new = plan.cell.row
    assert not isinstance(new, ProfileCell)

    def judged(accuracy: float, spread: Spread | None, *, due: bool) -> str:
        cell = replace(plan.cell, row=new.model_copy(update={"accuracy": 0.5}))
        other = new.model_copy(update={"accuracy": accuracy})
        made = judge_training(replace(plan, cell=cell, equal_bits=due), other, 0.9, spread, cells=2, made=Path("x"))
        return made.answer

    known = Spread(0.01**2, 20)
    assert judged(0.49, known, due=False) == "agree"
    assert judged(0.40, known, due=False) == "disagree"
    assert judged(0.49, None, due=False) == "cannot be compared"
    assert judged(0.49, None, due=True) == "disagree"
    assert judged(0.49, known, due=True) == "agree"
    fewer = replace(plan, cell=replace(plan.cell, row=new.model_copy(update={"parameters": 7})))
    judged_by_counts = judge_training(fewer, new, 1.0, known, cells=2, made=Path("x"))
    assert (judged_by_counts.answer, "parameters: 7 in the record" in judged_by_counts.reason) == ("disagree", True)


def test_the_spread_is_that_of_the_other_runs() -> None:
    rows, _ = collect([Path(__file__).parent.parent / "results" / "cifar10-strategies"])
    place = Path(__file__).parent.parent / "results" / "cifar10-strategies"
    found = task.find_cells(rows, place, "training")

    cell = next(cell for cell in found.cells if cell.name == "cifar10, softmax, seed 5")
    assert isinstance(cell, TrainingCell)
    spread = spread_of(cell, found.cells)
    assert spread is not None
    changed = TrainingCell(cell.row.model_copy(update={"accuracy": 0.99}), cell.place)
    others = [changed if other is cell else other for other in found.cells]
    assert spread_of(changed, others) == spread, "what is judged has no part in it"
    assert 0.004 < math.sqrt(spread.variance) < 0.02


# --- for real


@pytest.mark.slow
def test_two_cells_of_a_real_profile(tmp_path: Path) -> None:
    words = ["--model", "vit-tiny", "--resolution", 32, "--resolution", 64, "--no-isolate", "--device", "cpu", "--rounds", 5]
    mixers = [word for name in ("softmax", "identity", "static") for word in ("--mixer", name)]
    done = run("profile", *mixers, *words, "--out", tmp_path / "then")
    assert done.exit_code == 0, done.output
    again = run("reproduce", tmp_path / "then", "--cells", 2, "--out", tmp_path / "out")
    assert again.exit_code in (0, 1, 2), again.output
    rows = [r for r in records.read(tmp_path / "out" / "records.jsonl")[0] if isinstance(r, ReproductionRow)]
    assert len(rows) == 2
    (journal,) = (tmp_path / "out").glob("profile-*.jsonl")
    new = [r for r in records.read(journal)[0] if isinstance(r, ProfileRow)]
    sides = {side for r in rows for side in (32, 64) if r.cell.endswith(f"{side} px")}
    assert len(new) == 2 + len(sides), "the drawn cells and their baselines, and no more"
    for found in rows:
        assert found.new is not None
        assert found.difference == pytest.approx(found.new / (found.recorded or 0))
        assert 0.5 < found.difference < 2, "counts and time are of the same cell"
