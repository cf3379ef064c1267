"""results/gpu/make.sh: what it asks for, how its parts end, and all of it in small on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_commands import commands_of
from test_data import write_cifar10

from wfbench import records

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "results" / "gpu" / "make.sh"


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def make(place: Path, *parts: str, stub: dict[str, str] | None = None, **environment: str) -> subprocess.CompletedProcess:
    """Run the script, in the project, with some commands replaced, and `wfbench` that of this Python's environment."""
    for name, text in (stub or {}).items():
        place.mkdir(exist_ok=True)
        (place / name).write_text(f"#!/bin/bash\n{text}\n")
        (place / name).chmod(0o755)
    path = os.pathsep.join([str(place), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", str(SCRIPT), *parts],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_without_a_word_it_is_the_gpu_and_the_results(tmp_path: Path) -> None:
    found = commands_of(SCRIPT, tmp_path)
    assert [words[0] for words in found] == ["sweep", "profile", "profile", "profile", "report"]
    assert {value(words, "--out") for words in found} == {"results/gpu"}
    assert {value(words, "--device") for words in found[:-1]} == {"cuda"}
    assert found[0][1] == "sweeps/gpu.yaml"
    assert not {"--seed", "--mixer", "--recipe", "--claims", "--set"} & set(found[0]), "what is run stands in the file"
    for words in found[1:4]:
        assert value(words, "--dtype") == "bfloat16"
        assert {"224", "2048"} < set(words)
    assert ["--compile" in words for words in found[1:4]] == [False, False, True]
    assert ["--memory" in words for words in found[1:3]] == [False, True]
    assert not any("--attention" in words for words in found[1:3]), "softmax with every backend"


def test_the_claims_of_scaling_lie_within_the_sides_of_the_first_profile(tmp_path: Path) -> None:
    _, first, *_ = commands_of(SCRIPT, tmp_path)
    sides = {int(first[i + 1]) for i, word in enumerate(first) if word == "--resolution"}
    claims = yaml.safe_load((ROOT / "sweeps" / "gpu-claims.yaml").read_text())["claims"]
    assert len(sides) >= 4, "fewer give no interval"
    assert {claim["from"] for claim in claims if claim["kind"] == "crossover"} <= sides
    mixers = {first[i + 1] for i, word in enumerate(first) if word == "--mixer"}
    assert {claim["line"] for claim in claims if claim["kind"] in ("exponent", "crossover")} <= mixers


def test_tiny_rows_never_stand_among_results(tmp_path: Path) -> None:
    found = commands_of(SCRIPT, tmp_path, TINY="1", MINUTES="1")
    assert {value(words, "--out") for words in found} == {"runs/gpu-tiny"}
    assert {value(words, "--device") for words in found if "--device" in words} == {"cpu"}
    for out in ("results/gpu", "results/gpu/tiny", str(ROOT / "results" / "x"), "runs/../results/gpu", "results"):
        refused = make(tmp_path / "stubs", "train", stub={"wfbench": "echo called"}, TINY="1", OUT=out)
        assert refused.returncode == 2, refused
        assert out in refused.stderr
        assert "called" not in refused.stdout
    assert not (ROOT / "results" / "x").exists()


def test_an_unknown_part_is_refused_before_any_is_made(tmp_path: Path) -> None:
    done = make(tmp_path, "report", "trian", stub={"wfbench": "echo called"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "trian" in done.stderr


@pytest.mark.parametrize(
    ("code", "ends"), [(0, 0), (124, 75), (137, 75), (1, 1), (2, 2)], ids=["well", "late", "killed", "failed", "bad input"]
)
def test_a_part_whose_minutes_are_over_says_that_the_same_command_goes_on(code: int, ends: int, tmp_path: Path) -> None:
    stub = {"timeout": f"echo limit $2; exit {code}", "wfbench": "exit 0"}
    done = make(tmp_path, "profile", stub=stub, MINUTES="7")
    assert done.returncode == ends
    assert ("the same command goes on" in done.stderr) == (ends == 75)
    assert done.stdout.startswith(("limit 420\n", "limit 419\n"))
    assert done.stdout.count("limit") == (2 if code == 0 else 1), "what comes after a part that did not end is not begun"


@pytest.mark.slow
def test_every_part_in_small_on_a_cpu_and_a_second_time_nothing_anew(tmp_path: Path) -> None:
    data, out = tmp_path / "cifar10", tmp_path / "out"
    data.mkdir()
    write_cifar10(data, (25, 10))
    done = make(tmp_path, TINY="1", DATA=str(data), OUT=str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    tables = {path.name for path in out.glob("*.md")}
    assert {"accuracy.md", "claims.md", "tables.md"} <= tables
    assert (out / "page.html").exists()
    profiles = [name for name in tables if name.startswith("profile-")]
    assert [sum(word in name for name in profiles) for word in ("256-tokens", "not-compiled", "v1-compiled")] == [1, 2, 1]
    rows, torn = records.read(out / "records.jsonl")
    assert not torn
    cells = [row for row in rows if row.kind == "profile"]
    assert {row.status for row in cells} == {"ok"}
    assert {row.dtype for row in cells} == {"bfloat16"}
    eager = [row for row in cells if not row.compiled and row.token_budget is None]
    assert all(row.memory_bytes > 0 for row in eager)
    assert {row.sdpa_backend for row in eager if row.mixer == "softmax"} == {"flash", "math"}
    claims = (out / "claims.csv").read_text()
    assert all(claim in claims for claim in ("dynamic-both", "linear-work", "faster-at-high-resolution"))
    assert "yes" in claims, "they are registered before the runs"
    results = sorted(out.glob("*/result.json"))
    assert len(results) == 4
    before = [path.read_bytes() for path in (out / "records.jsonl", *results)], [path.stat().st_mtime_ns for path in results]
    again = make(tmp_path, TINY="1", DATA=str(data), OUT=str(out))
    assert again.returncode == 0, again.stdout + again.stderr
    assert before[0] == [path.read_bytes() for path in (out / "records.jsonl", *results)]
    assert before[1] == [path.stat().st_mtime_ns for path in results]
