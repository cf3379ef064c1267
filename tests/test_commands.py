"""The commands that stand in scripts and in the heads of sweeps and recipes are commands that there are."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

import mixers
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.tasks.sweep import load_request

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(ROOT.glob("results/*/make.sh"))
HEADS = sorted([*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("recipes/*.yaml")])


def parse(words: list[str]) -> None:
    """Read the words after ``wfbench`` as its command line does, and what recipes, sweeps and mixers they name; run nothing.

    Raises:
        InputError, MixerError: where it would refuse them.
    """
    command: Any = get_command(app)
    context = command.context_class(command, info_name="wfbench")
    rest = list(words)
    try:
        while hasattr(command, "resolve_command"):
            _, command, rest = command.resolve_command(context, rest)
        given = command.make_context(command.name, rest, parent=context).params
    except typer.Exit as e:  # no such command
        raise InputError("no such command", got=" ".join(words), expected="a command of wfbench") from e
    except Exception as e:  # of click, or of the copy of it that typer has
        if not hasattr(e, "format_message"):
            raise
        raise InputError("no such command", got=shlex.join(words), expected=e.format_message()) from e
    for mixer in several(given.get("mixer")):
        mixers.spec(mixer)
    for recipe in several(given.get("recipe")):
        recipes.load(recipe)
    if command.name == "sweep" and given["file"] is not None:
        load_request(ROOT / given["file"] if given["file"].endswith(".yaml") else given["file"], {})


def several(value: Any) -> list[str]:
    """What an option that may be repeated, or may not, was given."""
    return [value] if isinstance(value, str) else value or []


def commands_of(script: Path, place: Path, **environment: str) -> list[list[str]]:
    """What a script would run of ``wfbench``, in an empty directory with the project's recipes and sweeps: each one's words."""
    (place / "bin").mkdir()
    stub, said = place / "bin" / "wfbench", place / "commands.txt"
    into, lock = shlex.quote(str(said)), shlex.quote(f"{said}.lock")  # scripts may call several at once
    stub.write_text(f"#!/bin/bash\nexec 9>> {lock}\nflock 9\nprintf '%s\\0' \"$@\" $'\\n' >> {into}\n")
    stub.chmod(0o755)
    for name in ("recipes", "sweeps"):
        (place / name).symlink_to(ROOT / name)
    kept = {key: value for key, value in os.environ.items() if key not in ("OUT", "DATA", "DEVICE", "JOBS", "MINUTES", "TINY")}
    kept |= {"PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}"} | environment
    done = subprocess.run(["bash", str(script)], cwd=place, env=kept, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in said.read_text().split("\n\0") if line]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_what_a_script_calls_is_there(script: Path, tmp_path: Path) -> None:
    found = commands_of(script, tmp_path)
    assert found
    for words in found:
        parse(words)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("file", HEADS, ids=lambda file: file.stem)
def test_the_command_in_a_head_is_there(file: Path) -> None:
    text = re.sub(r"\n# +(?=--)", " ", file.read_text())
    found = re.findall(r"^# (?:[A-Z][\w ]*:)? +(wfbench .*)$", text, flags=re.M)
    for line in found:
        parse(shlex.split(re.split(r" {3,}", line)[0])[1:])
    assert found or file.parent.name == "sweeps", "a recipe says how it is run"


@pytest.mark.parametrize("page", ["ADD_A_MIXER.md", "INSTALL.md", "../CONTRIBUTING.md"])
def test_the_commands_of_a_page_are_there(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / page).read_text(), flags=re.S | re.M)
    found = [line for block in blocks for line in re.findall(r"^(?:\S*bin/|uv run )?wfbench ([a-z].*)$", block, flags=re.M)]
    for line in found:
        said = line.partition(" > ")[0].replace("mean-gate", "pool")  # which the walk makes a registered one
        parse(
            shlex.split(said.replace("wfbench.examples.my_mixer", "my_mixer.py"), comments=True)
        )  # a checkout has no such package
    assert found or "CONTRIBUTING" in page


@pytest.mark.parametrize(
    "line",
    [
        "sweep sweeps/gpu.yaml --job 2",
        "sweep sweeps/gpus.yaml",
        "profil --mixer softmax",
        "profile --mixer sotfmax",
        "profile --rounds few",
        "train --recipe cifar --mixer softmax",
        "report runs more --verbose",
    ],
)
def test_a_command_that_is_none_is_found(line: str) -> None:
    with pytest.raises((InputError, mixers.MixerError)):
        parse(shlex.split(line))


def test_the_zoo_is_every_registered_mixer(tmp_path: Path) -> None:
    sweep, profile = commands_of(ROOT / "results" / "zoo" / "make.sh", tmp_path)
    assert "sweeps/zoo.yaml" in sweep
    assert yaml.safe_load((ROOT / "sweeps" / "zoo.yaml").read_text())["mixers"] == mixers.names()
    assert [profile[i + 1] for i, word in enumerate(profile) if word == "--mixer"] == mixers.names()
