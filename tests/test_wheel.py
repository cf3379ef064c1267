"""Installed without a clone: the wheel has all that the commands need, and they run from it in an empty folder."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Bytes that the wheel may have.
MOST = 3_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # Without the back end in this environment, pip fetches it into one of its own.
    own = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    call = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *own, "-w", str(out), str(ROOT)]
    subprocess.run(call, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_has_what_is_not_code_and_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < MOST
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("recipes", "sweeps", "examples"):
        files = [file for file in (ROOT / kind).iterdir() if file.is_file()]
        assert files
        assert {f"wfbench/{kind}/{file.name}" for file in files} <= names, kind
    assets = [str(file.relative_to(ROOT)) for file in (ROOT / "wfbench" / "report" / "page" / "assets").iterdir()]
    assert assets
    assert {*assets, "wfbench/report/published.yaml", "mixers/weightformer/dynamic_linear.py"} <= names
    assert not [name for name in names if name.split("/")[0] in ("tests", "results", "docs")]


@pytest.mark.slow
def test_commands_run_from_the_wheel_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    # Typer takes any value of PY_COLORS, "0" too, for a wish for colours, and these cut an option's name in two.
    environment = {name: value for name, value in os.environ.items() if name != "PY_COLORS"}
    environment |= {"PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "TERM": "dumb"}

    def run(words: str) -> str:
        call = [sys.executable, "-W", "ignore", "-m", "wfbench", *words.split()]
        done = subprocess.run(call, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(run("recipes --json"))
    assert {entry["name"] for entry in found["recipes"]} == {file.stem for file in (ROOT / "recipes").glob("*.yaml")}
    assert str(tmp_path / "installed") in found["recipes"][0]["file"]
    assert [entry["claims"] for entry in found["sweeps"] if entry["name"] == "cifar10"] == [10]
    assert "vit-tiny" in run("models --json")
    assert "--mixer" in run("demo --help")
    small = "--set model.embed_dim=16 --set model.depth=1 --set optim.warmup_epochs=0 --epochs 1"
    assert "run directory: runs/" in run(f"train --mixer wfbench.examples.my_mixer:MeanGate {small}")
    run("report")
    assert (tmp_path / "empty" / "runs" / "digits-MeanGate-s0" / "page.html").is_file()


def test_what_the_wheel_takes_in_is_in_the_source_archive_too() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    sources = set(targets["sdist"]["include"])
    assert {*targets["wheel"]["force-include"], *targets["wheel"]["packages"]} <= sources
    assert [name for name in sources if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_the_walk_from_an_empty_file_to_a_pull_request(tmp_path: Path) -> None:
    """What docs/ADD_A_MIXER.md does to the package, on a copy of it."""
    shutil.copytree(ROOT / "mixers", tmp_path / "mixers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "examples" / "mean_gate.py", tmp_path / "mixers")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}

    def run(words: str) -> str:
        call = [sys.executable, "-W", "ignore", "-m", *words.split()]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    judged = json.loads(run("wfbench verify mean-gate --json"))
    assert [check["name"] for check in judged["checks"] if check["verdict"] == "FAILS"] == []
    assert "docs/ADD_A_MIXER.md" in run("wfbench show mean-gate")
    tests = f"{ROOT}/tests/test_mixers.py {ROOT}/tests/test_flops.py"
    assert " passed" in run(f"pytest -p no:cacheprovider -p no:warnings {tests} -o addopts= -q -k mean-gate").splitlines()[-1]
