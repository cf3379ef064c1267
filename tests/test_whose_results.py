"""Which runs are results, and which of them compare: hidden copies, other data, other code, damaged records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wfbench import records
from wfbench.analysis.asked import Asked
from wfbench.analysis.image_pairs import image_comparisons
from wfbench.analysis.seeds import accuracies
from wfbench.cli import app
from wfbench.records.run_directory import find_runs
from wfbench.report import collect

DEMO = Path(__file__).parent.parent / "results" / "demo"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The runs of two mixers on the digits, with their predictions."""
    for mixer in ("softmax", "linear"):
        (place,) = DEMO.glob(f"digits-{mixer}-*")
        shutil.copytree(place, tmp_path / "runs" / mixer)
    return tmp_path / "runs"


def change(place: Path, **fields: object) -> None:
    """Other values in a run's records."""
    row = json.loads((place / "result.json").read_text()) | fields
    for name in ("result.json", "records.jsonl"):
        (place / name).write_text(json.dumps(row) + "\n")


def by_line(place: Path) -> dict[str, float]:
    rows, _ = collect([place])
    return {line.label: line.accuracy.estimate for result in accuracies(rows, Asked()) for line in result.lines}


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", ".Trash-1000/files"])
def test_a_hidden_copy_of_a_run_is_no_result(name: str, runs: Path) -> None:
    before = by_line(runs)
    shutil.copytree(runs / "softmax", runs / name)
    change(runs / name, accuracy=0.123, created="2130-01-01T00:00:00+00:00")
    assert by_line(runs) == before
    assert len(find_runs([runs])) == 2
    assert by_line(runs / name) == {"softmax": 0.123}, "unless it is named"


def test_images_of_other_data_and_models_are_not_compared(runs: Path) -> None:
    (plain,) = image_comparisons(find_runs([runs]), "softmax")
    assert [line.label for line in plain.lines] == ["linear"]
    for field in ("data_digest", "model_digest"):
        kept = (runs / "linear/result.json").read_bytes()
        change(runs / "linear", **{field: "f" * 12})
        assert image_comparisons(find_runs([runs]), "softmax") == ()
        (runs / "linear/result.json").write_bytes(kept)


def test_images_by_two_versions_of_a_mixer_are_two_lines(runs: Path) -> None:
    shutil.copytree(runs / "linear", runs / "other")
    change(runs / "other", mixer_digest="f" * 12, created="2130-01-01T00:00:00+00:00")
    (found,) = image_comparisons(find_runs([runs]), "softmax")
    assert len(found.lines) == 2
    assert any(line.label == "linear (code ffffffff)" for line in found.lines)


@pytest.mark.parametrize("line", ["[" * 200_000, "9" * 6000, '{"a": ' + "9" * 6000 + "}", "{", "\x00"])
def test_a_line_that_is_no_json_is_a_torn_one(line: str, runs: Path) -> None:
    path = runs / "softmax/records.jsonl"
    path.write_text(path.read_text() + line + "\n")
    rows, torn = records.read(path)
    assert len(rows) == 1
    assert len(torn) == 1


def test_a_report_is_made_beside_a_torn_line(runs: Path) -> None:
    path = runs / "softmax/records.jsonl"
    path.write_text(path.read_text() + "[" * 200_000 + "\n")
    result = CliRunner().invoke(app, ["report", str(runs), "--out", str(runs / "report")])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("line", ["[" * 200_000, "9" * 6000, "[1]", "3", "null", "{"])
def test_a_line_that_is_no_epoch_ends_a_curve(line: str, runs: Path) -> None:
    path = runs / "softmax/metrics.jsonl"
    before = find_runs([runs])[1].curve()
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    assert find_runs([runs])[1].curve() == before
    assert len(before) > 1


def test_a_number_beyond_all_floats_is_not_in_a_curve(runs: Path) -> None:
    path = runs / "softmax/metrics.jsonl"
    path.write_text(json.dumps({"epoch": 1, "loss": 10**400}) + "\n")
    assert find_runs([runs])[1].curve() == [{"epoch": 1}]
