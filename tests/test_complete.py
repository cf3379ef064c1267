"""What the shell completes: names that there are, without waiting for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_python

import mixers
from wfbench import shipped
from wfbench.cli import complete
from wfbench.models import PRESETS
from wfbench.tasks.probe import known

CALL = [sys.executable, "-c", "import sys; sys.argv = ['wfbench', *sys.argv[1:]]; from wfbench.cli import main; main()"]


def offered(words: str, place: Path) -> list[str]:
    """What a shell shows after these words: the last one is not whole, and empty after a space."""
    asked = {"_WFBENCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run(CALL, env=os.environ | asked, cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def test_the_names_are_those_that_there_are() -> None:
    assert complete.mixer_names() == mixers.names()
    assert list(complete.MODELS) == list(PRESETS)
    assert complete.probes("") == sorted(known())


def test_a_shell_is_offered_mixers_recipes_sweeps_models_and_runs(tmp_path: Path) -> None:
    for place in ("runs/mine", "runs/sweep/one", "runs/sweep/one/deeper"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").touch()
    assert offered("wfbench train --mixer softmax,wf-linear-", tmp_path) == [
        f"softmax,wf-linear-{name}" for name in ("bilateral", "deep", "gap", "linear", "nonlinear")
    ]
    assert offered("wfbench train --recipe imagenet-w", tmp_path) == [
        name for name in shipped.names("recipes") if name.startswith("imagenet-w")
    ]
    assert offered("wfbench sweep scen", tmp_path) == ["scenes"]
    assert offered("wfbench eval r", tmp_path) == ["runs/mine", "runs/sweep/one", "runs/"]


@pytest.mark.parametrize(
    ("complete_word", "word", "expected"),
    [
        (complete.models, "vit-s", ["vit-small"]),
        (complete.mixers, "softmax(", []),
        (complete.recipes, "no-such-folder/", []),
        (complete.recipes, "\0", []),
        (complete.runs, "", []),
    ],
)
def test_a_word_is_completed(complete_word, word, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert complete_word(word) == expected


def test_completing_does_not_import_torch() -> None:
    code = "import sys; from wfbench.cli import complete as c; c.anything(''); print({'torch', 'timm'} & {*sys.modules})"
    assert run_python(code).strip() == "set()"


def test_the_completion_is_installed_by_the_command(tmp_path: Path) -> None:
    home = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([*CALL, "--install-completion", "bash"], env=home, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (script,) = tmp_path.rglob("wfbench.sh")
    assert "_WFBENCH_COMPLETE=complete_bash" in script.read_text()
