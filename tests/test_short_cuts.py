"""Commands that guess right: options that are short for settings, mixers with commas between, the newest results."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from wfbench import recipe as recipes
from wfbench import records
from wfbench.cli import app
from wfbench.cli.mixer_option import split_mixers
from wfbench.cli.train import _say_own_sizes
from wfbench.errors import InputError, did_you_mean
from wfbench.tasks.baselines import baselines
from wfbench.tasks.sweep import Sweep, load_request


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def dry(*words: object) -> str:
    """The recipe that a training would have."""
    done = run("train", "--dry-run", *words)
    assert done.exit_code == 0, done.output
    return done.stdout.partition("\ndata: ")[0]


def test_the_short_cuts_are_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = dry("--model", "vit-small", "--epochs", 4, "--lr", "2e-4", "--batch-size", 32)
    settings = ("model.name=vit-small", "epochs=4", "optim.lr=2e-4", "batch_size=32")
    assert short == dry(*(word for setting in settings for word in ("--set", setting)))
    assert "name: vit-small" in short
    assert "lr: 0.0002" in short


def test_what_a_recipe_has_in_place_of_the_preset_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    own = recipes.load("digits", ["model.name=vit-small"])
    _say_own_sizes(own)
    assert "not of vit-small but of the recipe or --set: embed_dim = 64, depth = 4, num_heads = 4" in capsys.readouterr().err
    _say_own_sizes(recipes.override(own, [f"model.{key}=null" for key in ("embed_dim", "depth", "num_heads")]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("short", "setting"),
    [
        ("--lr 0.1", "optim.lr=0.2"),
        ("--epochs 3", "epochs=3"),
        ("--model vit-tiny", "model.name=vit-small"),
        ("--batch-size 32", "batch_size=64"),
        ("--mixer linear", "model.mixer=pool"),
        ("--pos none", "model.pos_embed=learned"),
        ("--seed 1", "seed=2"),
    ],
)
def test_a_short_cut_and_its_setting_are_one_error(short: str, setting: str) -> None:
    done = run("train", *short.split(), "--set", setting)
    assert done.exit_code == 2
    assert done.stderr.count("error: one setting twice") == done.stderr.count("error:") == 1
    assert f"got:      {short} and --set {setting}" in done.stderr


def test_a_sweep_gives_its_runs_each_setting_once(tmp_path: Path) -> None:
    line = {"mixer": "pool", "local_conv": "none"}
    asked = {"mixers": [line], "set": ["model.local_conv=dwc", "seed=3", "epochs=4"], "seeds": [7]}
    plan = Sweep.plan(load_request(None, asked), tmp_path)
    ((only,), _) = plan.finals(plan.tuning())
    assert only.words == ("--recipe", "digits", "--mixer", "pool", "--local-conv", "none", "--set", "epochs=4", "--seed", "7")
    assert (only.recipe.model.local_conv, only.recipe.seed, only.recipe.epochs) == ("none", 7, 4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("softmax", ["softmax"]),
        ("softmax,linear", ["softmax", "linear"]),
        ("softmax, linear", ["softmax", "linear"]),
        ("window(window=7, pos=false),pool", ["window(window=7, pos=false)", "pool"]),
        ("pool,my.py:M(a=1,b=2),static", ["pool", "my.py:M(a=1,b=2)", "static"]),
        ("window(window=7", ["window(window=7"]),
    ],
)
def test_mixers_with_commas_between(text: str, expected: list[str]) -> None:
    assert split_mixers(text) == expected


def test_a_comma_of_a_path_is_no_other_mixer(tmp_path: Path) -> None:
    (tmp_path / "a,b.py").touch()
    assert split_mixers(f"{tmp_path}/a,b.py:M") == [f"{tmp_path}/a,b.py:M"]


@pytest.mark.parametrize("text", ["softmax,", ",softmax", "softmax,,linear", ","])
def test_a_comma_needs_a_mixer_on_either_side(text: str) -> None:
    with pytest.raises(InputError, match="a comma without a mixer"):
        split_mixers(text)


def test_every_command_takes_mixers_in_the_same_way() -> None:
    found = {name: p for name, c in get_command(app).commands.items() for p in c.params if "--mixer" in p.opts}
    assert {"train", "eval", "profile", "sweep", "erf", "probe", "demo"} <= set(found)
    for name, option in found.items():
        done = run(name, *(["run"] if name == "eval" else []), "--mixer", "softmx,,linear")
        assert (done.exit_code, "a comma without a mixer" in done.stderr) == (2, True), name
        if not option.multiple:
            assert "several mixers where one is taken" in run(name, "--mixer", "softmax,linear", "run").stderr, name


def test_a_sweep_of_mixers_with_commas_between_is_that_of_each(tmp_path: Path) -> None:
    sweep = ["sweep", "--dry-run", "--out", tmp_path / "out"]
    one = run(*sweep, "--mixer", "pool,linear")
    assert one.exit_code == 0, one.output
    assert one.stdout == run(*sweep, "--mixer", "pool", "--mixer", "linear").stdout


def test_a_report_without_a_path_is_of_the_newest_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Path] = []
    module = sys.modules["wfbench.cli.report"]
    monkeypatch.setattr(module, "_write_and_show", lambda rows, torn, runs, out, asked, **more: made.append(out))
    rows = baselines(recipes.load("digits", ["data.limit=50"]))
    for place, age in (("old", 300), ("sweep/one", 200), ("sweep/two", 50), ("other", 100)):
        records.append(tmp_path / "runs" / place / "records.jsonl", rows)
        os.utime(tmp_path / "runs" / place / "records.jsonl", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "empty" / "records.jsonl").touch()
    done = run("report")
    assert (done.exit_code, made) == (0, [Path("runs/sweep")]), done.output
    assert "reporting on runs/sweep: its records are of 20" in done.stderr
    assert "the last of 3 directories in runs/; all of them: wfbench report runs" in done.stderr


def test_options_stand_in_groups() -> None:
    for name in ("train", "profile", "sweep"):
        options = [p for p in get_command(app).commands[name].params if p.param_type_name == "option" and p.name != "help"]
        groups = [p.rich_help_panel for p in options]
        assert None not in groups, name
        assert 3 <= len(set(groups)) <= 6, name
        assert max(map(groups.count, groups)) <= 12, name


def test_known_names_are_listed_once() -> None:
    done = run("train", "--set", "zzzz=1")
    assert done.stderr.count("batch_size") == 1, done.stderr
    assert "remedy:   choose one of these" in done.stderr
    assert did_you_mean("epohcs", ["epochs", "seed"]) == "did you mean epochs?"
