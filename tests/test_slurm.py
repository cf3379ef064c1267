"""Runs of several processes as Slurm jobs: one node or several, preempted and queued again, bit-equal."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from helpers import Command, children

from wfbench.errors import InputError
from wfbench.files import sha256
from wfbench.locks import is_locked
from wfbench.tasks.sweep import SlurmOptions, Status, Sweep, load_request
from wfbench.tasks.sweep.single_run import PlannedRun
from wfbench.tasks.sweep.slurm import Node, Remote, Slurm, SlurmJob

LONG = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=8", "optim.warmup_epochs=0"]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The weights of one run in two processes, by hand."""
    out = tmp_path_factory.mktemp("two") / "run"
    words = ["train", "--mixer", "linear", "--seed", "0", "--device", "cpu", "--nproc", "2", "--out", str(out)]
    command = Command(*words, *(word for setting in LONG for word in ("--set", setting)))
    said, _ = command.communicate()
    assert command.returncode == 0, said
    return {"model": sha256(out / "model.safetensors")}


def planned_run(out: Path) -> PlannedRun:
    (found,) = Sweep.plan(load_request(None, {"mixers": ["linear"], "seeds": [0], "set": LONG}), out).finals(None)[0]
    return found


@pytest.mark.slow
def test_a_job_of_two_processes_that_is_preempted_is_queued_again_and_ends_bit_equal(
    tmp_path: Path, two_processes: dict[str, str]
) -> None:
    """submitit's local executor is a fake Slurm that sends the same signal and starts the job again."""
    pytest.importorskip("submitit")
    planned, options = planned_run(tmp_path), SlurmOptions(minutes=10, cpus=2, processes=2, cluster="local")
    (job,) = Slurm(options, tmp_path, "cpu", None).launch([planned])
    assert isinstance(job, SlurmJob)
    curve = planned.place(tmp_path) / "metrics.jsonl"
    until = time.monotonic() + 240
    while not curve.is_file():
        assert time.monotonic() < until, (planned.place(tmp_path) / "log.txt").read_text()
        time.sleep(0.05)
    for task in children(job.job._process.pid):  # as Slurm does before it takes a job away
        os.kill(task, signal.SIGUSR2)
    while (ended := job.poll()) is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert ended.state == "finished", ended
    assert "stopped" in (planned.place(tmp_path) / "log.txt").read_text()
    (printed,) = (tmp_path / "jobs").glob("*_0_log.out")
    assert "this job is timed-out" in printed.read_text() or "this job is preempted" in printed.read_text()
    assert sha256(planned.place(tmp_path) / "model.safetensors") == two_processes["model"]


@pytest.mark.slow
def test_two_nodes_meet_where_the_first_says_and_make_one_run(tmp_path: Path, two_processes: dict[str, str]) -> None:
    """Two processes of this machine stand for the nodes, each with one process of the training."""
    planned, options = planned_run(tmp_path), SlurmOptions(minutes=10, cpus=1, nodes=2, cluster="local")
    (tmp_path / "jobs").mkdir()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = (pool.submit(on_node, planned, tmp_path, options, number) for number in range(2))
        assert first.result(240).state == "finished"
        assert second.result(60).state == "finished"
        assert [pool.submit(on_node, planned, tmp_path, options, 0, "again").result(60).state for _ in "1"] == ["elsewhere"]
        assert pool.submit(on_node, planned, tmp_path, options, 1, "again").result(60).state == "elsewhere"
    assert sha256(planned.place(tmp_path) / "model.safetensors") == two_processes["model"]
    assert (planned.place(tmp_path) / "log-node-1.txt").is_file()
    assert not is_locked(planned.place(tmp_path))


def on_node(planned: PlannedRun, out: Path, options: SlurmOptions, number: int, attempt: str = "1-0") -> Status:
    return Remote(planned, out, "cpu", options, lambda: Node(number, attempt))()


def test_what_slurm_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    options = SlurmOptions("gpu", 60, gpus=8, cpus=64, nodes=2, gres="gpu:a100:8", qos="high", more={"account": "a1"})
    launcher = Slurm(options, tmp_path, "cuda", 4)
    asked = launcher.executor._executor.parameters
    expected = {
        "partition": "gpu",
        "time": 60,
        "nodes": 2,
        "ntasks_per_node": 1,
        "gpus_per_node": 8,
        "cpus_per_task": 64,
        "gres": "gpu:a100:8",
        "qos": "high",
        "array_parallelism": 4,
        "additional_parameters": {"account": "a1"},
    }
    assert {name: asked.get(name) for name in expected} == expected
    assert options.processes_per_node == 8
    assert launcher.slots > 100, "Slurm itself holds the others back"


def test_without_gpus_none_are_asked_for_and_flags_have_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    launcher = Slurm(SlurmOptions("cpu", gres="tmpdisk:8", more={"exclusive": True}), tmp_path, "cpu", None)
    text = launcher.executor._executor._make_submission_file_text("command", "1")
    assert "#SBATCH --exclusive\n" in text
    assert "#SBATCH --gres=tmpdisk:8\n" in text
    assert "gpus-per-node" not in text


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm of shell scripts. Its queue is a file of jobs' numbers; what stands in "refuses" is said, and nothing done."""
    pytest.importorskip("submitit")
    place = tmp_path / "slurm"
    place.mkdir()
    (place / "queue").touch()
    refuse = f"if [ -e {place}/refuses ]; then cat {place}/refuses >&2; exit 1; fi\n"
    scripts = {"srun": "", "sacct": "", "scancel": f"echo $1 >> {place}/cancelled\n", "squeue": f"{refuse}cat {place}/queue\n"}
    scripts["sbatch"] = f'{refuse}echo "$1" >> {place}/asked\necho "Submitted batch job $(wc -l < {place}/asked)"\n'
    for name, text in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{text}")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


def launched(runs: list[PlannedRun], out: Path) -> list[SlurmJob]:
    found = Slurm(SlurmOptions("gpu"), out, "cpu", None).launch(runs)
    return [job for job in found if isinstance(job, SlurmJob)]


def test_a_second_call_watches_the_jobs_that_live_and_queues_the_others(cluster: Path, tmp_path: Path) -> None:
    out, one = tmp_path / "out", planned_run(tmp_path / "out")
    runs = [one, replace(one, name="another"), replace(one, name="a trial", folder="trials/lr")]
    first = launched(runs, out)
    assert [job.job.job_id for job in first] == ["1_0", "1_1", "1_2"]
    (cluster / "queue").write_text("1_0\n1_2\n8\n")
    again = launched(runs, out)
    assert [job.job.job_id for job in again] == ["1_0", "2", "1_2"]
    assert [job.run for job in again] == runs
    again[0].stop()
    assert (cluster / "cancelled").read_text() == "1_0\n"
    assert [job.job.job_id for job in launched(runs[:1], out)] == ["3"], "what was cancelled is queued anew"


def test_what_slurm_refuses_is_one_message(cluster: Path, tmp_path: Path) -> None:
    run = planned_run(tmp_path / "out")
    (cluster / "refuses").write_text("sbatch: error: invalid partition specified: gpu\n")
    with pytest.raises(InputError, match="got: +sbatch: error: invalid partition specified: gpu\n"):
        launched([run], tmp_path / "out")
    (cluster / "refuses").rename(cluster / "later")
    launched([run], tmp_path / "out")
    (cluster / "later").rename(cluster / "refuses")
    with pytest.raises(InputError, match="does not say which jobs live"):
        launched([run], tmp_path / "out")
