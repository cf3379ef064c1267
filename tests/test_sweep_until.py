"""`wfbench sweep --until decided`: looks, lines that still need seeds, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_report import train
from typer.testing import CliRunner

from wfbench import records
from wfbench.analysis.claims import read_claims
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.tasks.sweep.sequential import planned_looks, run_until_decided
from wfbench.tasks.sweep.single_run import Status

CLAIMS = """recipe: small
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
budget: {epochs: 20}
looks: [5, 10]
claims:
  - {id: clear, says: clear, kind: better, line: pool, than: softmax}
  - {id: open, says: open, kind: better, line: linear, than: softmax}
"""
#: Accuracy by line: pool is far above softmax at every seed, linear now above and now below it.
LEVELS = {"softmax": 0.80, "pool": 0.90, "linear": 0.80, "xca": 0.70}


def claims_file(tmp_path: Path, text: str = CLAIMS) -> Path:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    return path


def accuracy_of(line: str, seed: int) -> float:
    wobble = {"pool": 0.002, "linear": 0.03, "softmax": 0.0, "xca": 0.0}[line]
    return LEVELS[line] + 0.001 * (seed % 3) + wobble * (-1) ** seed


class Runner:
    """Finishes runs at once, as rows of the sweep's directory."""

    def __init__(self, out: Path, fails: Sequence[str] = ()) -> None:
        self.out, self.fails, self.calls = out, fails, []

    def __call__(self, runs: Sequence[Any]) -> dict[str, Status]:
        self.calls.append(sorted({run.line for run in runs}))
        for run in runs:
            path = self.out / run.name / "records.jsonl"
            if not path.is_file():
                seed = run.recipe.seed
                records.append(path, [train(run.line, seed=seed, accuracy=accuracy_of(run.line, seed))])
        return {run.name: Status("failed" if run.line in self.fails else "finished") for run in runs}


def planned(lines: Sequence[str], seeds: int = 10) -> dict[str, list[Any]]:
    def run(line: str, seed: int) -> Any:
        return SimpleNamespace(name=f"{line}-{seed}", line=line, recipe=SimpleNamespace(seed=seed))

    return {line: [run(line, seed) for seed in range(seeds)] for line in lines}


def until_decided(tmp_path: Path, text: str = CLAIMS, **options: Any) -> tuple[Runner, list[str]]:
    file = read_claims(claims_file(tmp_path, text)).file
    runner, said = Runner(tmp_path / "out", options.pop("fails", ())), []
    run_until_decided(
        file, planned_looks(file, options.pop("most", None)), planned(list(LEVELS)), runner.out, runner, said.append
    )
    return runner, said


def test_seeds_are_added_only_to_lines_that_an_undecided_claim_needs(tmp_path: Path) -> None:
    runner, said = until_decided(tmp_path)
    assert runner.calls == [["linear", "pool", "softmax", "xca"], ["linear", "softmax"]]
    assert not (runner.out / "pool-5").exists()
    assert any("undecided after 5 seeds: open" in line for line in said)


def test_it_ends_when_all_are_answered(tmp_path: Path) -> None:
    text = CLAIMS.replace("  - {id: open, says: open, kind: better, line: linear, than: softmax}\n", "")
    runner, said = until_decided(tmp_path, text)
    assert len(runner.calls) == 1
    assert "every claim of accuracy is answered after 5 seeds" in said[-1]


def test_an_undecided_claim_at_the_last_look_is_not_called_answered(tmp_path: Path) -> None:
    _, said = until_decided(tmp_path)
    assert "undecided after 10 seeds: open" in said[-2]
    assert "no further look is planned" in said[-1]


def test_max_seeds_leaves_later_looks_out(tmp_path: Path) -> None:
    runner, said = until_decided(tmp_path, most=7)
    assert len(runner.calls) == 1
    assert not any("answered" in line for line in said)


def test_after_a_failed_run_no_seeds_are_added(tmp_path: Path) -> None:
    runner, said = until_decided(tmp_path, fails=["linear"])
    assert len(runner.calls) == 1
    assert "not every run is finished" in said[-1]


def test_claims_without_looks_and_too_few_seeds_are_refused(tmp_path: Path) -> None:
    without = read_claims(claims_file(tmp_path, CLAIMS.replace("looks: [5, 10]\n", ""))).file
    with pytest.raises(InputError, match="plan no looks"):
        planned_looks(without, None)
    with pytest.raises(InputError, match="no look has so few seeds"):
        planned_looks(read_claims(claims_file(tmp_path)).file, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--until", "dawn"], "unknown end of a sweep"),
        (["--max-seeds", "5"], "--max-seeds means nothing here"),
        (["--until", "decided", "--mixer", "softmax"], "nothing says when the sweep is decided"),
    ],
)
def test_bad_options_are_one_message(tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["sweep", "--mixer", "pool", "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
