"""Runs that are stopped, whenever and however, and go on: bit for bit the run that was not."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers import Command
from safetensors.torch import load_file

from wfbench.training import checkpoint

# All that draws at random is on: two workers, augmentation, mixing, drop-path; and all that is kept: average, best, every 2nd.
SETTINGS = [
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "model.mixer=weightformer",
    "model.drop_path=0.2",
    "data.augment=resized-crop",
    "data.auto_augment=rand-m9-mstd0.5-inc1",
    "data.erase=0.25",
    "data.hflip=0.5",
    "data.workers=2",
    "mix.mixup=0.8",
    "mix.cutmix=1.0",
    "ema.decay=0.9",
    "label_smoothing=0.1",
    "epochs=5",
    "optim.warmup_epochs=1",
    "save_steps=7",
    "keep_every=2",
]


def start(out: Path, *more: str) -> Command:
    return Command("train", "--device", "cpu", "--out", str(out), *more)


def settings(*more: str) -> list[str]:
    return [word for setting in (*SETTINGS, *more) for word in ("--set", setting)]


def finish(process: Command, code: int = 0) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def steps_saved(out: Path) -> int:
    found = sorted((out / "checkpoint").glob("step-*")) if (out / "checkpoint").is_dir() else []
    return int(found[-1].name.removeprefix("step-")) if found else 0


def assert_equal_runs(a: Path, b: Path) -> None:
    """Weights, averages, optimiser, random states, predictions and every line of metrics."""
    for name in ("model.safetensors", "ema.safetensors", "predictions-raw.parquet", "predictions-ema.parquet"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    names = [sorted(p.name for p in (run / "checkpoint").iterdir()) for run in (a, b)]
    assert names[0] == names[1]
    for directory in names[0]:
        for name in ("model.safetensors", "ema.safetensors", "state.safetensors", "random.safetensors"):
            ours, theirs = (load_file(run / "checkpoint" / directory / name) for run in (a, b))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), (directory, name)
    timed = {"train_seconds", "images_per_second"}
    ours, theirs = (
        [{k: v for k, v in json.loads(line).items() if k not in timed} for line in (run / "metrics.jsonl").open()]
        for run in (a, b)
    )
    assert ours == theirs
    assert len(ours) == 5


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finish(start(out, *settings()))
    assert sorted(p.name for p in (out / "checkpoint").iterdir() if not p.name.startswith("best")) == [
        "epoch-0002",
        "epoch-0004",
        "step-00000110",
    ]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        (signal.SIGUSR1, 75),
        (signal.SIGINT, 130),
    ],
)
def test_a_signal_finishes_the_step_saves_and_says_by_its_exit_code_how_to_go_on(number, code, uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(out, *settings())
    wait_for(process, out, 25)
    process.send_signal(number)
    assert "stopped in epoch" in finish(process, code)
    assert not (out / "result.json").exists(), "it was over before it was stopped"
    finish(start(out, "--resume"))
    assert_equal_runs(out, uninterrupted)


def wait_for(process: Command, out: Path, steps: int) -> None:
    deadline = time.monotonic() + 200
    while steps_saved(out) < steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "too slow"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_that_is_killed_at_five_random_moments_ends_as_if_it_had_not_been(uninterrupted, tmp_path):
    for k in range(5):
        out, draw = tmp_path / str(k), random.Random(k)
        process = start(out, *settings())
        wait_for(process, out, 7 * draw.randint(1, 13))
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        finish(process, -9)
        assert not (out / "result.json").exists(), "it was over before it was killed"
        finish(start(out, "--resume"))
        assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_again(uninterrupted, tmp_path):
    out = tmp_path / "run"
    process = start(out, *settings())
    while not (out / "config.yaml").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    finish(process, -9)
    finish(start(out, "--resume"))
    assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_resuming_is_refused_for_another_recipe(uninterrupted):
    text = finish(start(uninterrupted, "--resume", *settings("optim.lr=1e-4")), 2)
    assert "another recipe" in text
    assert "optim.lr: 0.002 / 0.0001" in text


@pytest.mark.slow
def test_what_changes_no_result_may_change_on_a_resume_and_the_record_says_it(uninterrupted, tmp_path):
    """Other processes, parts of a batch and evaluation batches: the same weights within rounding."""
    out = tmp_path / "run"
    process = start(out, *settings())
    wait_for(process, out, 7)
    process.send_signal(signal.SIGTERM)
    finish(process, 75)
    finish(start(out, "--resume", "--nproc", "2", *settings("compute.micro_batch=16", "compute.eval_batch=50")))
    ours, theirs = (load_file(run / "model.safetensors") for run in (out, uninterrupted))
    assert max((ours[key] - theirs[key]).abs().max() for key in ours) < 1e-3
    assert any((ours[key] != theirs[key]).any() for key in ours), "not the same sums"
    row = json.loads((out / "result.json").read_text())
    first, second = row["ways"]
    assert first.startswith("from step 0: cpu, 1 process, whole batches")
    assert second.endswith(": cpu, 2 processes, micro-batches of 16, evaluation by 50")
    assert (
        "ways" not in json.loads((uninterrupted / "result.json").read_text())
        or not json.loads((uninterrupted / "result.json").read_text())["ways"]
    )


@pytest.mark.slow
def test_a_wrong_resume_would_be_seen(uninterrupted, tmp_path):
    """The comparison fails for a run that takes a step twice, with the draws of the step before."""
    out = tmp_path / "run"
    process = start(out, *settings())
    wait_for(process, out, 30)
    process.send_signal(signal.SIGTERM)
    finish(process, 75)
    newest = sorted((out / "checkpoint").glob("step-*"))[-1]
    progress = json.loads((newest / "progress.json").read_text())
    assert progress["step"] > 0, "inside an epoch"
    (newest / "progress.json").write_text(json.dumps(progress | {"step": progress["step"] - 1}))
    finish(start(out, "--resume"))
    ours, theirs = (load_file(run / "model.safetensors") for run in (out, uninterrupted))
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(AssertionError):
        assert_equal_runs(out, uninterrupted)


@pytest.mark.slow
def test_the_best_epoch_is_kept_beside_the_last(uninterrupted):
    rows = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").open()]
    best = max(rows, key=lambda row: row["accuracy"])
    [directory] = (uninterrupted / "checkpoint").glob("best-*")
    assert int(directory.name.removeprefix("best-")) == best["step"]
    saved = json.loads((directory / "progress.json").read_text())
    assert (saved["best"], saved["best_epoch"]) == (best["accuracy"], best["epoch"])
    assert checkpoint.load(uninterrupted / "checkpoint").progress["epoch"] == 5
