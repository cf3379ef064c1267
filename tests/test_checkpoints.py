"""Checkpoints when things go wrong: a full disk, a kill at any moment, a loss or a gradient that is not finite."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import Silent
from safetensors.torch import load_file

from wfbench import recipe as recipes
from wfbench.tasks import jobs
from wfbench.training import RunError, TrainState, checkpoint

SMALL = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=2", "optim.warmup_epochs=0"]
SMALL += ["ema.decay=0.9", "keep_every=1"]


def train(out: Path, *settings: str, resume: bool = False):
    recipe = recipes.load("digits", [*SMALL, *settings])
    return jobs.train(recipe, out, Silent(), device=torch.device("cpu"), resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return out


def assert_equal_runs(a: Path, b: Path) -> None:
    """The same files under the same names, but for times."""
    names = [sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) for run in (a, b)]
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".safetensors"):
            ours, theirs = load_file(a / name), load_file(b / name)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    scores = [[json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()] for run in (a, b)]
    assert scores[0] == scores[1]


def test_the_last_the_best_and_the_kept_ones_are_there_and_nothing_else(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    best = max(rows, key=lambda row: row["accuracy"])["step"]
    names = sorted(p.name for p in (whole / "checkpoint").iterdir())
    assert names == [f"best-{best:08d}", "epoch-0001", "epoch-0002", "step-00000044"]
    last = load_file(whole / "checkpoint" / "step-00000044" / "model.safetensors")
    first = load_file(whole / "checkpoint" / "epoch-0001" / "model.safetensors")
    final = load_file(whole / "model.safetensors")
    assert all(torch.equal(last[key], final[key]) for key in final)
    assert any(not torch.equal(first[key], final[key]) for key in final)


LIMITED = """
import resource, sys
from wfbench.cli import main, progress

shown = progress.Lines.epoch

def epoch(self, row):
    shown(self, row)
    if row["epoch"] == {epoch}:  # from now on no file may have more than 4 KB: writing on fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

progress.Lines.epoch = epoch
sys.argv = ["wfbench", "train", "--out", {out!r}, *{words!r}]
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("epoch", "what"), [(1, "a checkpoint"), (2, "model.safetensors")])
def test_a_disk_that_fills_up_is_one_message_and_the_previous_checkpoint_stays_and_goes_on(epoch, what, whole, tmp_path):
    out = tmp_path / "run"
    words = [word for setting in SMALL for word in ("--set", setting)]
    code = LIMITED.format(epoch=epoch, out=str(out), words=words)
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [f"error: cannot write {what}"]
    assert not (out / "result.json").exists()
    assert not list(out.rglob(".*")), "what was half written takes no room"
    assert checkpoint.load(out / "checkpoint").progress["epoch"] == epoch
    train(out, resume=True)
    assert_equal_runs(out, whole)


@pytest.mark.slow
def test_training_goes_on_while_a_checkpoint_is_written_and_what_is_written_is_that_of_its_step(whole, tmp_path, monkeypatch):
    steps_meanwhile, saved, taken = [], checkpoint.save_file, threading.Semaphore(0)
    step = TrainState.step

    def counted(self, inputs, targets):
        metrics = step(self, inputs, targets)
        if self.step_count > 8:
            taken.release()
        return metrics

    def slow(tensors, path, metadata=None):
        if not steps_meanwhile:  # the first file of the checkpoint of step 8 is not begun before three more steps were taken
            steps_meanwhile.extend(taken.acquire(timeout=60) for _ in range(3))
        saved(tensors, path, metadata)

    with monkeypatch.context() as m:
        m.setattr(TrainState, "step", counted)
        m.setattr(checkpoint, "save_file", slow)
        poison(m, 14, loss=True, weights=True)
        with pytest.raises(RunError, match="the last checkpoint"):
            train(tmp_path / "run", "save_steps=8")
    assert steps_meanwhile == [True, True, True]
    train(tmp_path / "run", "save_steps=8", resume=True)
    (tmp_path / "run" / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    assert_equal_runs(tmp_path / "run", whole)


def test_weights_that_share_memory_or_lie_in_another_order_are_saved_as_they_are(tmp_path):
    weights = torch.arange(24.0).reshape(2, 3, 2, 2)
    tensors = {"a": weights, "tied": weights, "part": weights[:1], "last": weights.to(memory_format=torch.channels_last)}
    tensors["none"] = torch.empty(0)
    checkpoint.write_tensors(tmp_path / "w.safetensors", tensors)
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in found)


class Killed(BaseException):
    pass


@pytest.mark.sampled(2)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moment", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 6))])
def test_a_kill_between_any_two_renames_loses_nothing(moment, when, whole, tmp_path, monkeypatch):
    """Each epoch names the best, the kept and the newest checkpoint, one after the other."""
    publish, count = checkpoint._publish, 0

    def kills(part: Path, final: Path) -> None:
        nonlocal count
        count += 1
        if count == moment + 1 and when == "before":
            raise Killed
        publish(part, final)
        if count == moment + 1:
            raise Killed

    monkeypatch.setattr(checkpoint, "_publish", kills)
    try:
        train(tmp_path / "run")
    except Killed:
        monkeypatch.setattr(checkpoint, "_publish", publish)
        train(tmp_path / "run", resume=True)
    assert_equal_runs(tmp_path / "run", whole)


def poison(monkeypatch, at: int, *, loss: bool, weights: bool) -> None:
    """From step ``at`` on: the loss is NaN; or, its loss being finite still, the gradient and with it the weights."""
    step = TrainState.step

    def poisoned(self, inputs, targets):
        metrics = step(self, inputs, targets)
        if self.step_count != at:
            return metrics
        if weights:
            with torch.no_grad():
                for p in self.model.parameters():
                    p.fill_(float("nan"))
        nan = torch.tensor(float("nan"))
        return type(metrics)(metrics.loss * nan if loss else metrics.loss, metrics.grad_norm * nan, metrics.lr)

    monkeypatch.setattr(TrainState, "step", poisoned)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("settings", [[], ["save_steps=8"]], ids=["epochs", "steps"])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint_and_the_run_can_go_on(settings, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        poison(m, 33, loss=True, weights=True)
        with pytest.raises(RunError, match="loss is not finite: nan at step 33; lower optim.lr; the last checkpoint"):
            train(tmp_path / "run", *settings)
    assert checkpoint.load(tmp_path / "run" / "checkpoint").progress["step"] == (8 if settings else 0)
    train(tmp_path / "run", *settings, resume=True)
    (tmp_path / "run" / "config.yaml").write_bytes((whole / "config.yaml").read_bytes())
    assert_equal_runs(tmp_path / "run", whole)


def test_weights_that_a_gradient_has_spoilt_are_not_saved_though_the_loss_was_finite(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        poison(m, 38, loss=False, weights=True)  # the step at which a checkpoint is due
        with pytest.raises(RunError, match="the gradient is not finite: its norm is nan at step 38"):
            train(tmp_path / "run", "save_steps=8")
    saved = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert (saved.progress["epoch"], saved.progress["step"]) == (1, 8)
    assert all(value.isfinite().all() for value in saved.model.values())
    train(tmp_path / "run", "save_steps=8", resume=True)
    assert_equal_runs(tmp_path / "run", whole)


def test_spoilt_weights_are_found_by_the_evaluation_and_not_saved(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        poison(m, 43, loss=False, weights=True)  # the last step but one: its successor's loss says it
        with pytest.raises(RunError, match="loss is not finite: nan at step 44"):
            train(tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "checkpoint").progress["epoch"] == 1


def test_a_step_that_float16_leaves_out_does_not_stop_the_run(tmp_path, monkeypatch):
    poison(monkeypatch, 22, loss=False, weights=False)
    row = train(tmp_path / "run", "compute.precision=float16", "save_steps=11", "epochs=1", "keep_every=1")
    assert row.steps == 22
