"""What grows with files, runs and rows: the script that measures it, and how often a report does its expensive parts."""

from __future__ import annotations

import collections
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from wfbench import records
from wfbench.analysis import image_pairs, results
from wfbench.cli.report import report
from wfbench.records import run_directory

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def scale() -> Iterator[ModuleType]:
    found = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["scale"] = module  # where its dataclasses look for their types
    found.loader.exec_module(module)
    yield module
    del sys.modules["scale"]


@pytest.fixture(scope="module")
def first(scale: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make_first_run` leaves of what a report reads, without a training."""
    import pandas as pd
    from test_report import train

    place = tmp_path_factory.mktemp("first")
    row = train("softmax", seed=0)
    (place / "result.json").write_text(row.model_dump_json())
    (place / "config.yaml").write_text("{}\n")
    (place / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 2.0, "accuracy": 0.5}\n')
    columns = ["index", "label", *(f"top{k}" for k in range(1, 6)), "confidence"]
    pd.DataFrame({name: [0] for name in columns}).to_parquet(place / "predictions-raw.parquet")
    return place


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """How often a report read each file, made its tables, and drew bootstraps."""
    found: collections.Counter[str] = collections.Counter()

    def count(module: Any, name: str, of: Callable[..., str]) -> None:
        plain = getattr(module, name)

        def counted(*arguments: Any, **keywords: Any) -> Any:
            found[of(*arguments)] += 1
            return plain(*arguments, **keywords)

        monkeypatch.setattr(module, name, counted)

    count(records, "read", lambda path: f"read {path}")
    count(run_directory, "_result", lambda path: f"read {path}")
    count(run_directory, "_columns", lambda path: f"read {path}")
    count(image_pairs, "image_seed_bootstrap", lambda *_: "bootstrap")
    count(image_pairs, "mcnemar", lambda *_: "mcnemar")
    for name in ("accuracies", "image_comparisons", "costs", "claims_results"):
        count(results, name, lambda *_, name=name: name)
    for name in ("accuracy_tables", "image_tables", "cost_tables", "claims_tables"):
        count(importlib.import_module("wfbench.report.tables"), name, lambda *_, name=name: name)
    return found


def test_a_report_reads_each_file_once_and_makes_each_table_once(
    scale: ModuleType, first: Path, tmp_path: Path, calls: collections.Counter[str]
) -> None:
    scale.make_runs(tmp_path / "runs", first, 30, images=40)
    report([tmp_path / "runs"], out=tmp_path / "out")
    assert len([name for name in calls if name.startswith("read ")]) == 3 * 30  # records, result and predictions
    assert len(calls) == 3 * 30 + 4 + 4 + 2
    assert {name: times for name, times in calls.items() if times > 1} == {"bootstrap": 2, "mcnemar": 2}  # three lines
    assert (tmp_path / "out" / "page.html").is_file()


@pytest.mark.slow
def test_another_baseline_reads_no_file_again(
    scale: ModuleType, first: Path, tmp_path: Path, calls: collections.Counter[str]
) -> None:
    scale.make_runs(tmp_path / "runs", first, 20, images=40)
    other = next(path.name for path in sorted((tmp_path / "runs").iterdir()) if "softmax" not in path.name).split("-s")[0]
    report([tmp_path / "runs"], out=tmp_path / "out", baseline=other.partition("-0-")[2])
    assert calls["bootstrap"] == calls["accuracy_tables"] == calls["image_tables"] == 1
    assert {times for name, times in calls.items() if name.startswith("read ")} == {1}


@pytest.mark.slow
def test_bootstraps_grow_with_the_lines_and_no_faster(
    scale: ModuleType, first: Path, tmp_path: Path, calls: collections.Counter[str]
) -> None:
    found = []
    for size in (20, 40, 80):  # of ten seeds each: one, three and seven lines beside the baseline
        calls.clear()
        scale.make_runs(tmp_path / f"runs-{size}", first, size, images=40)
        runs = run_directory.find_runs([tmp_path / f"runs-{size}"])
        image_pairs.image_comparisons(runs, "softmax")
        found.append((calls["bootstrap"], calls["mcnemar"], sum(n for name, n in calls.items() if name.startswith("read "))))
    assert found == [(1, 1, 2 * 20), (3, 3, 2 * 40), (7, 7, 2 * 80)]


def test_predictions_are_held_for_one_setting_at_a_time(
    scale: ModuleType, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: collections.Counter[str]
) -> None:
    monkeypatch.setattr(scale, "MIXERS", 2)
    scale.make_runs(tmp_path / "runs", first, 40, images=40)
    found = image_pairs.predictions_by_setting(run_directory.find_runs([tmp_path / "runs"]))
    calls.clear()
    for read in (20, 40):
        _, kept = next(found)
        assert (len(kept), sum(calls.values())) == (20, read)
    assert next(found, None) is None


@pytest.mark.slow
def test_the_table_of_growth_is_complete(
    scale: ModuleType, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(what: str, root: Path) -> Any:
        measured.append((what, root.name))
        return scale.work(what, root)

    def copied(place: Path) -> None:
        place.symlink_to(first)

    measured: list[tuple[str, str]] = []
    # In this process, without a training: a process for each figure costs seconds.
    monkeypatch.setattr(scale, "measure", here)
    monkeypatch.setattr(scale, "make_first_run", copied)
    found = scale.measure_all(files=(200, 300), runs=(20,), rows=(), images=[40], rounds=2)
    text = scale.write(found, tmp_path, 2)
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    runs = "report of runs, 40 images each"
    assert [name for name in names if name != ":---"] == [scale.OURS, scale.OURS, scale.TIMM, scale.TIMM, runs]
    assert collections.Counter(measured) == {
        **{(what, f"files-{size}"): 2 for what in (scale.OURS, scale.TIMM) for size in (200, 300)},
        (scale.REPORT, "runs-20-40"): 1,
    }
    lines = (tmp_path / "scale.csv").read_text().splitlines()
    assert lines[0] == "what,size,turn,cpu_seconds,wall_seconds,peak_mb"
    assert len(lines) == 1 + len(found) == 1 + 8 + 1
    assert all(turn.cpu_seconds > 0 and turn.wall_seconds > 0 for turn in found)


def test_the_files_are_what_both_readers_open(scale: ModuleType, tmp_path: Path) -> None:
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    from wfbench.data.image_files import folder

    scale.make_files(tmp_path / "files", 250, classes=4)
    ours, theirs = folder(tmp_path / "files"), ReaderImageFolder(str(tmp_path / "files" / "train"))
    assert len(ours.train) == len(theirs) == 250
    assert [(ours.train.label(i), c) for i, c in enumerate(ours.train.targets)] == theirs.samples


def test_rows_of_a_profile_are_of_as_many_devices_as_it_takes(scale: ModuleType, tmp_path: Path) -> None:
    scale.make_rows(tmp_path / "rows", 500)
    rows, torn = records.read(tmp_path / "rows" / "records.jsonl")
    assert not torn
    assert 500 <= len(rows) < 1000
    assert len({row.environment.device for row in rows}) == 2


def test_growth_is_the_exponent_between_two_sizes(scale: ModuleType) -> None:
    found = [
        *(scale.Turn(1e-4 * size**2, 1.0, 10.0, scale.OURS, size, turn) for size in (100, 1000) for turn in range(3)),
        *(scale.Turn(1e-2 * size, 1.0, 10.0, scale.TIMM, size, turn) for size in (100, 1000) for turn in range(3)),
    ]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in scale.table(found)[2:]]
    assert [(line[0], line[1], line[5], line[6]) for line in cells] == [
        (scale.OURS, "100 files", "1.00×", "–"),
        (scale.OURS, "1,000 files", "10.00×", "2.00"),
        (scale.TIMM, "100 files", "–", "–"),
        (scale.TIMM, "1,000 files", "–", "1.00"),
    ]
