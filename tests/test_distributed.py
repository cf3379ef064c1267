"""Several processes train and evaluate as one does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import Command
from safetensors.torch import load_file

# Augmentation, mixing, drop-path and accumulation are shared out exactly.
SETTINGS = [
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "model.mixer=weightformer",
    "model.drop_path=0.2",
    "data.augment=resized-crop",
    "data.hflip=0.5",
    "mix.mixup=0.8",
    "mix.cutmix=1.0",
    "ema.decay=0.9",
    "epochs=2",
    "optim.warmup_epochs=1",
]


def start(out: Path, *more: str, sets: list[str] | None = None) -> Command:
    words = [word for setting in (SETTINGS if sets is None else sets) for word in ("--set", setting)]
    return Command("train", "--device", "cpu", "--out", str(out), *more, *words)


def train(out: Path, *more: str, code: int = 0, sets: list[str] | None = None) -> str:
    process = start(out, *more, sets=sets)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("pair")
    train(root / "one")
    said = train(root / "two", "--nproc", "2")
    assert said.count("run directory") == 1, "the first process speaks for all"
    return root / "one", root / "two"


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(pair):
    one, two = pair
    for a, b in zip(rows(one), rows(two), strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert (a["lr"], a["step"], a["samples"]) == (b["lr"], b["step"], b["samples"])
    for name in ("model.safetensors", "ema.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        worst = max((a[key] - b[key]).abs().max().item() for key in a)
        assert worst < 1e-5, worst  # float32, whose sums of gradients have another order; seen: 1e-7
    result = json.loads((two / "result.json").read_text())
    assert result["processes"] == 2
    assert result["samples"] == 360


@pytest.mark.slow
def test_other_weights_are_seen_to_differ_by_more(pair, tmp_path):
    """Another seed of the mixing or another half of each batch moves the weights far beyond the tolerance above."""
    train(tmp_path / "other", sets=[*SETTINGS, "mix.mixup=0.7"])
    a, b = load_file(pair[0] / "model.safetensors"), load_file(tmp_path / "other" / "model.safetensors")
    assert max((a[key] - b[key]).abs().max().item() for key in a) > 1e-3


@pytest.mark.slow
def test_an_evaluation_by_two_processes_is_that_of_one_exactly(pair, tmp_path):
    one, _ = pair
    code = """
import os, sys, torch
from wfbench.training import distributed
device = distributed.join(torch.device("cpu"))
from pathlib import Path
from safetensors.torch import load_file
from wfbench.tasks.jobs import classify
from wfbench.tasks.run_directory import read_recipe
run = classify.prepare(read_recipe(Path(sys.argv[1])))
run.model.load_state_dict(load_file(Path(sys.argv[1]) / "model.safetensors"))
found = run.evaluation(run.model)
os.write(1, f"{distributed.rank()}: {found.accuracy!r} {found.loss!r} {found.samples}\\n".encode())  # whole
distributed.leave()
"""
    file = tmp_path / "evaluate.py"
    file.write_text(code)
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(file),
        str(one),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    recorded = json.loads((one / "result.json").read_text())
    line = f"{recorded['accuracy']!r} {recorded['loss']!r} {recorded['samples']}"
    assert sorted(done.stdout.splitlines()) == [f"0: {line}", f"1: {line}"]


@pytest.mark.slow
def test_every_sample_is_predicted_once_and_in_order(pair):
    one, two = (pd.read_parquet(run / "predictions-raw.parquet") for run in pair)
    assert list(two["index"]) == list(range(360))
    assert list(two["label"]) == list(one["label"])


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_exactly(pair, tmp_path):
    out = tmp_path / "run"
    process = start(out, "--nproc", "2", sets=[*SETTINGS, "save_steps=5"])
    deadline = time.monotonic() + 200
    while not list((out / "checkpoint").glob("step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 75, text
    assert not (out / "result.json").exists()
    train(out, "--nproc", "2", "--resume", sets=[*SETTINGS, "save_steps=5"])
    a, b = load_file(pair[1] / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_each_process_draws_by_a_seed_of_its_own(pair):
    """Else a task's loss would draw the same noise in all of them."""
    [newest] = (pair[1] / "checkpoint").glob("step-*")
    states = load_file(newest / "random.safetensors")
    assert states.keys() >= {"0.torch", "1.torch", "0.generator", "1.generator"}
    assert not torch.equal(states["0.torch"], states["1.torch"])
    assert not torch.equal(states["0.generator"], states["1.generator"])
    [alone] = (pair[0] / "checkpoint").glob("step-*")
    assert torch.equal(states["0.torch"], load_file(alone / "random.safetensors")["0.torch"]), "the first is a run's own"


@pytest.mark.slow
def test_processes_that_a_scheduler_starts_by_their_environment_stop_with_75_and_go_on(pair, tmp_path):
    """As the Slurm script of docs/TRAINING.md starts and signals them: no torchrun, one command for each process."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def together(*more: str) -> list[subprocess.Popen]:
        words = [sys.executable, "-W", "ignore", "-m", "wfbench", "train", "--device", "cpu", "--out", str(out), *more]
        words += [word for setting in (*SETTINGS, "save_steps=5") for word in ("--set", setting)]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        return [
            subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            )
            for rank in "01"
        ]

    processes = together()
    deadline = time.monotonic() + 200
    while not list((out / "checkpoint").glob("step-*")):
        assert processes[0].poll() is None, processes[0].communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGUSR1)
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [75, 75], said
    assert not (out / "result.json").exists()
    again = together("--resume")
    said = [process.communicate(timeout=300)[0] for process in again]
    assert [process.returncode for process in again] == [0, 0], said
    a, b = load_file(pair[1] / "model.safetensors"), load_file(out / "model.safetensors")
    assert all(torch.equal(a[key], b[key]) for key in a)


BREAKS = """
import os, pathlib
from torch import nn


class Breaks(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale, self.calls = nn.Linear(dim, dim), 0

    def forward(self, x, grid):
        self.calls += self.training
        if os.environ.get("RANK") == "1" and self.calls == 30 and not pathlib.Path("{mended}").exists():
            raise RuntimeError("the second process broke")
        return self.scale(x)
"""


@pytest.mark.slow
def test_a_process_that_fails_ends_the_run_with_its_own_traceback_and_the_run_can_go_on(tmp_path):
    mixer = tmp_path / "breaks.py"
    mixer.write_text(BREAKS.format(mended=str(tmp_path / "mended")))
    sets = ["model.depth=2", "epochs=2", "optim.warmup_epochs=0"]
    text = train(tmp_path / "run", "--nproc", "2", "--mixer", f"{mixer}:Breaks", sets=sets, code=1)
    assert "RuntimeError: the second process broke" in text
    assert "breaks.py" in text
    assert len(rows(tmp_path / "run")) == 1
    (tmp_path / "mended").touch()
    train(tmp_path / "run", "--nproc", "2", "--mixer", f"{mixer}:Breaks", "--resume", sets=sets)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 44


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["batch_size=63"], ["batch_size 63", "a multiple of 2"]),
        pytest.param(["batch_size=66", "mix.mixup=0.8"], ["66", "a multiple of 4"], marks=pytest.mark.slow),
        pytest.param(["batch_size=64", "mix.mixup=0.8", "mix.mode=elem"], ["elem", "mix.mode=batch"], marks=pytest.mark.slow),
    ],
)
def test_what_processes_cannot_share_is_said_once_before_they_start(sets, expected, tmp_path):
    text = train(tmp_path / "run", "--nproc", "2", sets=sets, code=2)
    assert all(words in text for words in expected), text
    assert text.count("error:") == 1
    assert not (tmp_path / "run").exists()
