"""Every registered mixer through the commands that users run: slow, and complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mixers
from wfbench import records
from wfbench.cli import app
from wfbench.records import ProfileRow, ScalingRow, TrainRow
from wfbench.tasks.demo import DemoRequest

SHORT = ["--set", "epochs=2", "--set", "optim.warmup_epochs=1"]


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", mixers.names())
def test_every_mixer_trains_on_the_digits(tmp_path: Path, name: str) -> None:
    run("train", "--mixer", name, "--out", tmp_path / "run", *SHORT)
    (row,), torn = records.read(tmp_path / "run" / "records.jsonl")
    assert isinstance(row, TrainRow)
    assert not torn
    assert (row.mixer, row.samples, row.macs_error) == (name, 360, None)
    assert row.macs is not None
    assert row.accuracy > 0.15, "two epochs are far from a result, and yet better than chance"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))  # for as many processes of the tests
def test_every_mixer_is_profiled_at_three_resolutions(tmp_path: Path, part: int) -> None:
    names = {"softmax", *mixers.names()[part::3]}
    chosen = [word for name in sorted(names) for word in ("--mixer", name)]
    sides = [word for side in (8, 16, 32) for word in ("--resolution", side)]
    how = ["--rounds", 2, "--seconds", 0.05, "--no-isolate", "--attention", "auto"]
    run("profile", "--recipe", "digits", *chosen, *sides, *how, "--out", tmp_path)
    rows, _ = records.read(tmp_path / "records.jsonl")
    cells = [row for row in rows if isinstance(row, ProfileRow)]
    assert {(row.mixer, row.resolution[0]) for row in cells} == {(name, side) for name in names for side in (8, 16, 32)}
    assert [(row.mixer, row.status, row.macs_error) for row in cells if row.status != "ok" or row.macs is None] == []
    assert all(len(row.counted_by) == 3 for row in cells)
    assert {row.mixer for row in rows if isinstance(row, ScalingRow)} == names


@pytest.mark.slow
def test_the_demo_takes_any_mixers_puts_them_side_by_side_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = f"{Path(__file__).parents[1] / 'examples' / 'my_mixer.py'}:MeanGate"
    short = ("epochs=1", "optim.warmup_epochs=0")
    whole = DemoRequest.of(("softmax", example))
    request = replace(
        whole,
        recall=(*short, "data.probe.budgets=[100]", "data.probe.held_out=64"),
        digits=short,
        profile=replace(whole.profile, resolutions=(32, 64), rounds=2),
    )
    monkeypatch.setattr(DemoRequest, "of", lambda mixers: request)
    words = run("demo", "--mixer", f"softmax,{example}", "--out", tmp_path / "demo")
    assert words.count("Mixers at a glance") == 1
    assert "MeanGate" in words.split("Mixers at a glance")[1]
    assert {"overview.md", "probe-recall.md", "answers.md", "page.html"} <= {
        file.name for file in (tmp_path / "demo").iterdir()
    }
    rows = records.read(tmp_path / "demo" / "records.jsonl")[0]
    assert len(rows) == len({row.model_dump_json() for row in rows})
    run("demo", "--mixer", f"softmax,{example}", "--out", tmp_path / "demo")
    again = records.read(tmp_path / "demo" / "records.jsonl")[0]
    kinds = [[row.kind for row in found if row.kind in ("baseline", "profile")] for found in (rows, again)]
    assert kinds[0] == kinds[1]
