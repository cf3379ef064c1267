"""Curves for TensorBoard and Weights & Biases say what metrics.jsonl says."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import Silent, listing
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.tasks import jobs
from wfbench.training import Interrupted, Trackers, checkpoint

SMALL = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=2", "optim.warmup_epochs=0"]
WORDS = [word for setting in SMALL for word in ("--set", setting)]


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


def scalars(out: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve of a run's event files: (step, value)."""
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def train(out: Path, *, watch=None, resume: bool = False, settings=()):
    recipe = recipes.load("digits", [*SMALL, *settings])
    trackers = Trackers(tensorboard=True)
    return jobs.train(recipe, out, watch or Silent(), device=torch.device("cpu"), resume=resume, trackers=trackers)


def assert_curves_equal_metrics(out: Path) -> None:
    found, lines = scalars(out), rows(out)
    names = {f"epoch/{name}": name for name in lines[0] if name != "step"}
    assert found.keys() == {"loss", *names}
    for tag, name in names.items():
        assert [step for step, _ in found[tag]] == [line["step"] for line in lines], tag
        assert [value for _, value in found[tag]] == pytest.approx([line[name] for line in lines], rel=1e-6), tag


def test_tensorboard_has_every_figure_of_every_epoch_at_its_step(tmp_path):
    train(tmp_path / "run", settings=["ema.decay=0.9"])
    assert_curves_equal_metrics(tmp_path / "run")
    found = scalars(tmp_path / "run")
    assert "epoch/ema_accuracy" in found
    assert [step for step, _ in found["loss"]] == [22, 44]


@pytest.mark.slow
def test_a_run_that_was_killed_and_goes_on_has_each_point_once(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    class Stops(Silent):
        def step(self, epoch, step, steps, loss):
            if (epoch, step) == (1, 12):
                os.kill(os.getpid(), signal.SIGTERM)

    def kills(self, state, progress, **options):
        if state.step_count == 37:
            raise Killed
        save(self, state, progress, **options)

    settings, save = ["save_steps=5"], checkpoint.Writer.save
    with monkeypatch.context() as m:
        m.setattr(checkpoint.Writer, "save", kills)
        with pytest.raises(Killed):  # step 37 is told, and its checkpoint is not there: it will be told again
            train(tmp_path / "run", settings=settings)
    assert scalars(tmp_path / "run")["loss"][-1][0] == 37
    train(tmp_path / "run", resume=True, settings=settings)
    assert_curves_equal_metrics(tmp_path / "run")
    steps = [step for step, _ in scalars(tmp_path / "run")["loss"]]
    assert steps == [5, 10, 15, 20, 22, 27, 32, 37, 42, 44]
    with pytest.raises(Interrupted):
        train(tmp_path / "other", watch=Stops(), settings=settings)
    train(tmp_path / "other", resume=True, settings=settings)
    assert_curves_equal_metrics(tmp_path / "other")


def test_without_a_flag_there_is_no_tracker(tmp_path):
    watch = Silent()
    with Trackers().beside(watch, tmp_path, recipes.load("digits")) as same:
        assert same is watch
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "flag"), [("tensorboard", ["--tensorboard"]), ("wandb", ["--wandb", "project"])], ids=["tensorboard", "wandb"]
)
def test_a_package_that_is_missing_is_one_message_before_anything_is_made(package, flag, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    result = CliRunner().invoke(app, ["train", *WORDS, *flag, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2, result.output
    for words in (f"{package} is not installed", "pip install 'wfbench[trackers]'", "leave the flag out"):
        assert words in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_bad_input_starts_no_tracker(tmp_path):
    before = listing(tmp_path)
    words = ["--tensorboard", "--wandb", "project", "--data", "folder:nowhere", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["train", *WORDS, *words])
    assert result.exit_code == 2, result.output
    assert "not a folder" in result.output
    assert listing(tmp_path) == before


def wandb_run(out: Path, **environment: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-W", "ignore", "-m", "wfbench", "train", *WORDS, "--wandb", "project", "--out", str(out)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = {"HOME": str(out.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL, env=clean | home | environment
    )


@pytest.mark.slow
def test_weights_and_biases_offline_keeps_its_files_in_the_run_directory_and_has_the_last_figures(tmp_path):
    done = wandb_run(tmp_path / "run", WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stat().st_size > 1000
    last = rows(tmp_path / "run")[-1]
    for name in ("accuracy", "loss", "train_loss", "lr", "top5"):  # its own summary, to five digits
        [value] = re.findall(rf"epoch/{name} ([-+.e0-9]+)$", done.stderr, flags=re.MULTILINE)
        assert float(value) == pytest.approx(last[name], abs=1e-5), name
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_weights_and_biases_that_cannot_start_is_one_message_and_the_run_can_go_on(tmp_path):
    done = wandb_run(tmp_path / "run", WANDB_API_KEY="short")
    assert done.returncode == 2, done.stderr
    assert "Weights & Biases cannot start" in done.stderr
    assert "WANDB_MODE=offline" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists(), "before the first step"
    result = CliRunner().invoke(app, ["train", "--resume", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
