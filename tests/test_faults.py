"""Faults of weights, disks, files and other processes: one message, nothing lost, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import Command
from safetensors.torch import load_file, save_file
from test_data import write_folder
from typer.testing import CliRunner, Result

from wfbench import files, locks, report
from wfbench.cli import app
from wfbench.errors import InputError, NotFiniteError, check_finite
from wfbench.records import read
from wfbench.signals import Interrupted, noted, stopping
from wfbench.strict import parse_yaml, read_json

TINY = ["epochs=2", "optim.warmup_epochs=0", "model.embed_dim=24", "model.depth=1", "batch_size=64"]


def words_of(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def train(out: Path, *more: object, settings: list[str] | None = None) -> Result:
    return run("train", "--device", "cpu", "--out", out, *more, *words_of(*(TINY if settings is None else settings)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "run"
    done = train(out)
    assert done.exit_code == 0, done.output
    return out


# --- what is not finite


def spoilt(run_directory: Path, to: Path, value: float) -> Path:
    """Copies of a run whose head has one weight that is not finite."""
    import shutil

    shutil.copytree(run_directory, to)
    weights = load_file(to / "model.safetensors")
    weights["head.weight"][0, 0] = value
    from safetensors import safe_open

    with safe_open(run_directory / "model.safetensors", "pt") as file:
        save_file(weights, to / "model.safetensors", file.metadata())
    return to


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_no_accuracy(trained: Path, value: float, tmp_path: Path) -> None:
    done = run("eval", spoilt(trained, tmp_path / "spoilt", value), "--device", "cpu")
    assert done.exit_code == 1, done.output
    assert "the classifier's outputs are not finite" in done.output
    assert "held-out images from 0 on" in done.output
    assert not (tmp_path / "spoilt" / "eval" / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [(float("nan"), "1 of 1 values"), (torch.tensor([1.0, float("inf"), float("nan")]), "2 of 3 values")],
)
def test_a_check_names_what_and_where(values: object, said: str) -> None:
    with pytest.raises(NotFiniteError, match=rf"the loss is not finite(.|\n)*{said} NaN or infinite: step 3"):
        check_finite(values, "the loss is", "step 3")  # type: ignore[arg-type]
    check_finite(0.0, "the loss is", "step 3")
    check_finite(torch.zeros(3), "the loss is", "step 3")


# --- what can fail comes after the save


def test_a_damaged_held_out_file_costs_the_evaluation_and_not_the_training(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", each=(24, 8))
    settings = ["data.source=folder", f"data.path={tmp_path / 'data'}", "epochs=1", "batch_size=8", "optim.warmup_epochs=0"]
    settings += ["model.image_size=16", "model.patch_size=8", "model.in_channels=3", "model.embed_dim=24", "model.depth=1"]
    last = sorted((tmp_path / "data" / "val" / "light").iterdir())[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "run"
    failed = train(out, settings=settings)
    assert failed.exit_code == 2, failed.output
    assert last.name in failed.output
    saved = list((out / "checkpoint").glob("step-*"))
    assert [path.name for path in saved] == ["step-00000006"], "the epoch is trained, and saved"
    load_file(saved[0] / "model.safetensors")
    last.write_bytes(whole)
    refused = train(out, "--resume", settings=[])
    assert (refused.exit_code, "trained on other data" in refused.output) == (2, True), "the file changed since the start"


def test_the_evaluation_alone_is_repeated_on_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wfbench.tasks.jobs import classify
    from wfbench.training import TrainState

    fails = [True]
    right, step = classify.ClassifyJob.evaluation, TrainState.step

    def evaluation(job: object, *arguments: object) -> object:
        if fails[0]:
            raise RuntimeError("out of memory, say")
        return right(job, *arguments)  # type: ignore[arg-type]

    steps: list[int] = []

    def counted(state: TrainState, *arguments: object, **more: object) -> object:
        steps.append(state.step_count)
        return step(state, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(classify.ClassifyJob, "evaluation", evaluation)
    monkeypatch.setattr(TrainState, "step", counted)
    one_epoch = [*TINY[1:], "epochs=1"]
    done = train(tmp_path / "run", settings=one_epoch)
    assert isinstance(done.exception, RuntimeError)
    assert len(steps) == 22
    fails[0] = False
    done = train(tmp_path / "run", "--resume", settings=["compute.eval_batch=100"])
    assert done.exit_code == 0, done.output
    assert len(steps) == 22, "no step is taken again"
    monkeypatch.undo()
    assert train(tmp_path / "other", settings=one_epoch).exit_code == 0
    ours, other = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "other"))
    assert ours["accuracy"] == other["accuracy"]
    assert ours["ways"][1].endswith("evaluation by 100")
    (a, b), keys = (
        [json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("run", "other")],
        ("lr", "grad_norm"),
    )
    assert [a[key] for key in keys] == [b[key] for key in keys]


# --- one process at a time


def test_a_directory_is_held_by_one_process_and_says_by_which(tmp_path: Path) -> None:
    with locks.locked(tmp_path / "run"):
        assert locks.is_locked(tmp_path / "run")
        with pytest.raises(InputError, match=rf"another process works in the directory(.|\n)*process {os.getpid()} on"):
            locks.locked(tmp_path / "run").__enter__()
    assert not locks.is_locked(tmp_path / "run")
    assert not (tmp_path / "run" / locks.LOCK).exists()
    with locks.locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--out", "{place}", "--device", "cpu"],
        ["train", "--out", "{place}", "--device", "cpu", "--resume"],
        ["profile", "--out", "{place}", "--mixer", "pool", "--resolution", "32", "--device", "cpu"],
        ["report", "{place}"],
    ],
)
def test_every_command_that_writes_a_directory_is_kept_out_of_one_that_is_held(
    words: list[str], trained: Path, tmp_path: Path
) -> None:
    import shutil

    place = tmp_path / "held"
    if "--resume" in words or "report" in words:
        shutil.copytree(trained, place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} if place.exists() else {}
    with locks.locked(place):
        done = run(*(word.format(place=place) for word in words))
    assert done.exit_code == 2, done.output
    assert f"held by process {os.getpid()}" in done.output
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_file_system_without_locks_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    done = train(tmp_path / "run")
    assert done.exit_code == 2, done.output
    assert "the file system has no locks" in done.output


# --- reports


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    out = tmp_path / "out"
    rows, torn = report.collect([trained])
    report.write(rows, out, torn)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    whole = Path.write_text

    def full(path: Path, text: str, **more: object) -> int:
        if path.name == "page.html":
            whole(path, text[:100], **more)  # type: ignore[arg-type]
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return whole(path, text + " ", **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match="No space left on device"):
        report.write(rows, out, torn)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_predictions_that_are_not_the_records_are_refused(trained: Path, tmp_path: Path) -> None:
    import shutil

    import pandas as pd

    place = tmp_path / "run"
    shutil.copytree(trained, place)
    path = place / "predictions-raw.parquet"
    table = pd.read_parquet(path)
    for change in (table.assign(top1=table["label"]), table.iloc[:-1]):
        change.to_parquet(path, index=False)
        (found,) = report.find_runs([place])
        with pytest.raises(InputError, match="predictions are not those of their record"):
            found.predictions()
    table.to_parquet(path, index=False)
    found = report.find_runs([place])[0].predictions()
    assert found is not None
    assert len(found) == len(table)


# --- signals


def test_a_process_that_was_told_to_ignore_a_closed_terminal_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with noted((signal.SIGHUP, signal.SIGUSR1), lambda _: None) as seen:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_work_that_is_stopped_ends_with_the_code_of_its_signal(number: signal.Signals, code: int) -> None:
    def work() -> None:
        with stopping("stopped"):
            os.kill(os.getpid(), number)
            time.sleep(1)

    before = signal.signal(number, signal.SIG_DFL)  # SIGHUP may be ignored, where the tests run under nohup
    try:
        with pytest.raises(Interrupted) as stopped:
            work()
    finally:
        signal.signal(number, before)
    assert stopped.value.exit_code == code


def started(out: Path, *more: str, **environment: str) -> Command:
    return Command("train", "--device", "cpu", "--out", str(out), *more, **environment)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP])  # the others take the same way
def test_a_signal_at_any_moment_of_a_run_ends_it_with_75_and_the_same_command_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    long = ["epochs=6", *TINY[1:]]
    moments = [0.05, 0.9]  # of a whole run's wall time, after start-up
    begun = time.monotonic()
    process = started(tmp_path / "whole", *words_of(*long))
    while not (tmp_path / "whole" / locks.LOCK).exists() and process.poll() is None:
        time.sleep(0.01)
    at_start = time.monotonic() - begun
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    lasts = time.monotonic() - begun - at_start
    for k, moment in enumerate(moments):
        out = tmp_path / str(k)
        process = started(out, *words_of(*long))
        while not (out / locks.LOCK).exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moment * lasts)
        process.send_signal(number)
        said, _ = process.communicate(timeout=300)
        assert process.returncode in (75, 0), said
        assert "Traceback" not in said
        again = ["--resume"] if (out / "config.yaml").exists() else words_of(*long)
        said, _ = (process := started(out, *again)).communicate(timeout=300)
        assert process.returncode == 0, said
        ours, other = (load_file(place / "model.safetensors") for place in (out, tmp_path / "whole"))
        assert all(torch.equal(ours[key], other[key]) for key in ours)


# --- several processes


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_gives_the_message_and_the_code_of_a_single_process(rank: int, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_folder(root, each=(40, 8))
    file = sorted((root / "train" / "dark").iterdir())[7]
    settings = ["data.source=folder", f"data.path={root}", "epochs=1", "batch_size=8", "optim.warmup_epochs=0", "model.depth=1"]
    settings += ["model.image_size=16", "model.patch_size=8", "model.in_channels=3", "model.embed_dim=24", f"seed={rank}"]
    file.write_bytes(b"no picture")
    for more in ((), ("--nproc", "2")):
        out = tmp_path / f"run-{len(more)}"
        said, _ = (process := started(out, *more, *words_of(*settings))).communicate(timeout=300)
        assert process.returncode == 2, said
        assert said.count("error: an image cannot be read") == 1, said
        assert file.name in said
        assert "Traceback" not in said


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_others_soon_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = started(out, "--nproc", "2", *words_of("epochs=40", *TINY[1:], "save_steps=5"))
    while not list((out / "checkpoint").glob("step-*")):
        assert process.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    killed = time.monotonic()
    said, _ = process.communicate(timeout=120)
    assert time.monotonic() - killed < 30
    assert process.returncode == 1, said
    assert "was killed by SIGKILL" in said
    assert "Traceback" not in said
    process = started(out, "--nproc", "2", "--resume")
    time.sleep(15)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (0, 75), said


# --- files


#: Nine times nine times nine ...: 300 bytes that stand for billions of values.
BOMB = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else '1'}]" for k in range(12))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "itself"),
        ("a: &a {x: *a}", "itself"),
        (
            "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else '1'}]" for k in range(12)),
            "more than 100,000 values",
        ),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("a: " + "9" * 5000, "digits"),
        ("a: 2001-99-99", "month must be"),
        ("a: [1", "expected"),
        ("- 1", "not a recipe"),
        ("a: 1\na: 2", "stands twice"),
        ("a: \x00", "special characters"),
    ],
)
def test_yaml_that_settings_cannot_hold_is_one_message_at_once(text: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(InputError, match=said):
        parse_yaml(text, "recipe", "x.yaml")
    assert time.monotonic() - begun < 20


def test_anchors_that_are_used_as_they_are_meant_are_read() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: *a", "recipe", "x") == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100_000, b""])
def test_json_that_is_none_is_one_message(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the thing(.|\n)*x.json"):
        read_json(tmp_path / "x.json", "thing", "JSON")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"\xff\xfe"),
        ("config.yaml", b"a: [1"),
        ("result.json", b"\xff\xfe"),
        ("result.json", b"{}"),
        ("identity.json", b"\xff"),
        ("checkpoint/step-*/progress.json", b"\xff"),
        ("checkpoint/step-*/progress.json", b'{"format": 2, "processes": 1, "epoch": 99, "step": 0}'),
        ("checkpoint/step-*/progress.json", b'{"format": 2, "processes": 1, "what": 1}'),
        ("checkpoint/step-*/state.safetensors", None),
        ("checkpoint/step-*/model.safetensors", b"torn"),
        ("checkpoint/step-*/random.safetensors", None),
    ],
)
def test_a_foreign_file_in_a_run_directory_is_one_message(
    name: str, content: bytes | None, trained: Path, tmp_path: Path
) -> None:
    import shutil

    place = tmp_path / "run"
    shutil.copytree(trained, place)
    (file,) = place.glob(name)
    if content is None:
        save_file({"foreign": torch.zeros(2), "optim.nobody:exp_avg": torch.zeros(2)}, file)
    else:
        file.write_bytes(content)
    if not name.startswith("result"):
        (place / "result.json").unlink()
    done = train(place, "--resume", settings=[])
    assert done.exit_code == 2, done.output
    assert done.output.count("error:") == 1
    assert file.name in done.output or "checkpoint" in done.output


def test_records_of_another_writer_keep_their_place_in_the_message(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(b'{"kind": "train", "\xff": 1}\n')
    with pytest.raises(InputError, match=r"records.jsonl:1"):
        read(tmp_path / "records.jsonl")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["optim.lr=1e-6", "optim.min_lr=1e-5"], "optim.min_lr 1e-05 is above optim.lr"),
        (["optim.warmup_lr=1.0", "optim.warmup_epochs=1"], "optim.warmup_lr 1 is above optim.lr"),
        (["batch_size=1000000000"], "the batch is larger than the data"),
    ],
)
def test_settings_that_would_surprise_are_refused_at_once(settings: list[str], said: str, tmp_path: Path) -> None:
    done = train(tmp_path / "run", settings=settings)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_path_that_the_system_refuses_is_one_message(tmp_path: Path) -> None:
    done = train(tmp_path / ("x" * 300))
    assert done.exit_code == 2, done.output
    assert "File name too long" in done.output


@pytest.mark.parametrize("words", [["train", "--recipe", ""], ["train", "--out", ""], ["report", ""]])
def test_an_empty_word_is_refused(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "wfbench", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: an empty word\n  got:      '' after {words[-2]}")


def test_what_a_killed_writer_left_goes_with_the_next_one_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / ".report-killed").mkdir()
    (tmp_path / ".report-killed" / "accuracy.md").write_text("a part")
    with files.part_directory(tmp_path, "report") as first, files.part_directory(tmp_path, "report") as second:
        assert first.is_dir()
        assert sorted(tmp_path.iterdir()) == sorted([first, second])
    assert list(tmp_path.iterdir()) == []
