"""Faults at random moments of every command that writes a directory, and whether anything is lost.

    .venv/bin/python tests/faults/harness.py --kills 100 --disks 30 --pairs 20 --out results/benchmarks    (about 20 minutes)

A trial runs one command in an empty directory, breaks it, lets the same command go on, and holds what is there in the end
against a run that nothing broke: equal weights, predictions and figures, byte for byte, all cells measured once, and nothing
that was finished made again. The faults:

- kill: SIGKILL, SIGTERM or SIGHUP at a random moment of the command's life, or SIGKILL to one of its two processes;
- disk: a file takes all the room that is left on a small disk at a random moment; it is removed before the command goes on;
- pair: the same command twice in the same directory, the second at a random moment of the first.

Trial k of a kind follows from its seed alone, but for the speed of the machine. A small disk needs the right to mount one.

Writes faults.md (what was tried, and what was lost) and faults.csv (each trial).
"""

from __future__ import annotations

import argparse
import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import Command

from wfbench import locks, records

MODEL = ["model.embed_dim=16", "model.depth=1", "model.num_heads=2", "optim.warmup_epochs=0", "batch_size=64"]
TRAIN = [*MODEL, "epochs=3", "save_steps=4", "keep_every=2", "ema.decay=0.9", "data.augment=resized-crop", "data.workers=1"]
#: Exit codes of a command that was asked to stop and saved what it had, or had nothing yet.
STOPPED = {75, 130}


@dataclass(frozen=True)
class Trial:
    """One fault and what became of it."""

    kind: str
    command: str
    seed: int
    fault: str
    code: int | None
    #: Empty if nothing was lost.
    lost: str = ""


class Lost(AssertionError):
    """Something that must not be lost was."""


def check(holds: bool, what: str) -> None:
    """Fail, saying what was lost."""
    if not holds:
        raise Lost(what)


@dataclass(frozen=True)
class Work:
    """A command that writes a directory: its words to begin and to go on, and what is compared in the end."""

    name: str
    words: Callable[[Path], list[str]]
    #: What is there in the end, to be equal to that of another run; fails if anything in it is not whole.
    ends: Callable[[Path], object]
    #: What is finished already, and must stay as it is.
    finished: Callable[[Path], dict[str, bytes]]
    #: Made in the directory before.
    before: Callable[[Path], None] = lambda out: None
    processes: int = 1

    def start(self, out: Path) -> Command:
        """Begin, or go on."""
        return Command(*self.words(out))

    def complete(self, out: Path) -> str:
        """Begin or go on, to the end; what it said."""
        process = self.start(out)
        said, _ = process.communicate(timeout=600)
        check(process.returncode == 0, f"the same command does not go on: {process.returncode}: {said[-300:]}")
        return said


def _settings(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def _train(out: Path) -> list[str]:
    begun = (out / "run" / "config.yaml").is_file()
    return ["train", "--device", "cpu", "--out", str(out / "run"), *(["--resume"] if begun else _settings(TRAIN))]


def _train_by_two(out: Path) -> list[str]:
    return [*_train(out), "--nproc", "2"]


def _run_ends(run: Path) -> object:
    row = json.loads((run / "result.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = {"train_seconds", "images_per_second"}
    names = [path.name for path in sorted((run / "checkpoint").iterdir())]
    binary = {path.name: path.read_bytes() for path in sorted(run.iterdir()) if path.suffix in (".safetensors", ".parquet")}
    kept = {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("checkpoint/*/*.safetensors"))}
    check(len(binary) >= 2, f"weights and predictions of {run.name}")
    check(not list(run.rglob("*.part")), "nothing half written is left")
    return (
        row["accuracy"],
        row["loss"],
        names,
        binary,
        kept,
        [{key: value for key, value in line.items() if key not in timed} for line in lines],
    )


def _finished_runs(out: Path) -> dict[str, bytes]:
    """Results of trainings; an evaluation may be made again."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("result.json") if "eval" not in path.parts}


def _sweep(out: Path) -> list[str]:
    lines = ["--mixer", "static", "--mixer", "pool", "--seed", "1", "--seed", "2"]
    small = _settings([*MODEL, "epochs=2"])
    how = ["--jobs", "2", "--threads", "1", "--device", "cpu"]
    return ["sweep", "--recipe", "digits", *lines, *small, "--out", str(out / "sweep"), *how]


def _sweep_ends(out: Path) -> object:
    runs = sorted(path.parent for path in (out / "sweep").glob("*/result.json"))
    check(len(runs) == 4, f"{len(runs)} of 4 runs")
    return {run.name: _run_ends(run) for run in runs}


def _profile(out: Path) -> list[str]:
    cells = ["--mixer", "static", "--mixer", "pool", "--resolution", "32", "--resolution", "64"]
    how = ["--rounds", "2", "--seconds", "0.02", "--no-memory", "--attention", "auto", "--device", "cpu"]
    return ["profile", *cells, *how, "--out", str(out / "profile")]


def _profile_ends(out: Path) -> object:
    rows, torn = records.read(out / "profile" / "records.jsonl")
    check(not torn, "a whole row")
    latency = [(row.mixer, row.resolution, row.round) for row in rows if row.kind == "measurement" and row.stage == "latency"]
    check(len(latency) == len(set(latency)) == 2 * 2 * 2, f"{len(latency)} measurements, {len(set(latency))} of them different")
    check((out / "profile" / "page.html").read_text().rstrip().endswith("</html>"), "a whole page")
    return sorted(latency), sorted({(r.mixer, r.resolution, r.status, r.macs) for r in rows if r.kind == "profile"})


def _measured(out: Path) -> dict[str, bytes]:
    """The whole lines of the records, which stay at the beginning."""
    path = out / "profile" / "records.jsonl"
    text = path.read_bytes() if path.exists() else b""
    return {f"measurement {k}": line for k, line in enumerate(text.split(b"\n")[:-1])}


def _trained(out: Path) -> None:
    Work("train", _train, lambda out: None, lambda out: {}).complete(out)


def _eval(out: Path) -> list[str]:
    return ["eval", str(out / "run"), "--device", "cpu", "--out", str(out / "eval")]


def _eval_ends(out: Path) -> object:
    rows, torn = records.read(out / "eval" / "records.jsonl")
    check(not torn, "a whole row")
    check(len(rows) >= 1, "a row")
    predictions = {path.name: path.read_bytes() for path in (out / "eval").rglob("*.parquet")}
    return rows[-1].accuracy, predictions, _run_ends(out / "run")  # type: ignore[union-attr]


def _report(out: Path) -> list[str]:
    return ["report", str(out / "run"), "--out", str(out / "tables")]


def _report_ends(out: Path) -> object:
    files = sorted(path.name for path in (out / "tables").iterdir() if path.name != locks.LOCK)
    check("accuracy.md" in files, "the table of accuracy")
    check((out / "tables" / "page.html").read_text().rstrip().endswith("</html>"), "a whole page")
    return files


WORKS = [
    Work("train", _train, lambda out: _run_ends(out / "run"), _finished_runs),
    Work("train, 2 processes", _train_by_two, lambda out: _run_ends(out / "run"), _finished_runs, processes=2),
    Work("sweep", _sweep, _sweep_ends, _finished_runs),
    Work("profile", _profile, _profile_ends, _measured),
    Work("eval", _eval, _eval_ends, _finished_runs, before=_trained),
    Work("report", _report, _report_ends, _finished_runs, before=_trained),
]


#: Breaks a command in a directory, by random draws: what was done, and the exit code.
Fault = Callable[[Work, Path, random.Random], tuple[str, int | None]]


class Bench:
    """The trials, each in a directory of its own, and the unbroken runs that they are held against."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._unbroken: dict[str, tuple[float, object]] = {}

    def unbroken(self, work: Work) -> tuple[float, object]:
        """Seconds of the command, and what it leaves."""
        if work.name not in self._unbroken:
            out = self.place / f"unbroken {work.name}"
            out.mkdir()
            work.before(out)
            began = time.monotonic()
            work.complete(out)
            self._unbroken[work.name] = time.monotonic() - began, work.ends(out)
        return self._unbroken[work.name]

    def try_(self, kind: str, work: Work, seed: int, fault: Fault) -> Trial:
        """Break the command by ``fault``, go on, and compare."""
        expected = self.unbroken(work)[1]
        draw = random.Random(f"{kind} {work.name} {seed}")
        what, code = "", None
        with tempfile.TemporaryDirectory(dir=self.place, prefix=f"{kind}-") as place:
            out = Path(place)
            with _small_disk(out) if kind == "disk" else nullcontext():
                try:
                    what, code = fault(work, out, draw)
                    finished = work.finished(out)
                    work.complete(out)
                    now = work.finished(out)
                    check(all(now.get(key) == value for key, value in finished.items()), "what was finished stays as it was")
                    check(work.ends(out) == expected, "what an unbroken run leaves")
                except Lost as e:
                    return Trial(kind, work.name, seed, what or kind, code, str(e))
                except (OSError, ValueError, KeyError) as e:
                    return Trial(kind, work.name, seed, what or kind, code, f"{type(e).__name__}: {e}")
        return Trial(kind, work.name, seed, what, code)

    # --- the faults

    def at_a_moment(self, work: Work, out: Path, draw: random.Random, until: float) -> tuple[Command, float]:
        """The command, begun so many seconds ago: a random moment within ``until`` of its life."""
        work.before(out)
        moment = draw.uniform(0, until * self.unbroken(work)[0])
        process = work.start(out)
        time.sleep(moment)
        return process, moment

    def kill(self, work: Work, out: Path, draw: random.Random) -> tuple[str, int | None]:
        """A signal at a random moment of the command's life; of two processes, sometimes SIGKILL to one alone."""
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
        process, moment = self.at_a_moment(work, out, draw, 1.1)
        one = work.processes > 1 and draw.random() < 0.5
        children = _children(process.pid) if one else []
        what = f"{signal.SIGKILL.name if children else number.name} after {moment:.2f} s{' to one process' if children else ''}"
        if children:
            with suppress(ProcessLookupError):
                os.kill(draw.choice(children), signal.SIGKILL)
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=300)
        _await_runs(out)
        code = process.returncode
        allowed = {0, 1} if children else {0, -number, *(() if number == signal.SIGKILL else STOPPED)}
        if "before anything was saved" in said:  # of several processes
            allowed |= {1}
        check(code in allowed, f"the exit code after {what}: {code}: {said[-300:]}")
        check("Traceback" not in said, f"one message: {said[-300:]}")
        return what, code

    def fill(self, work: Work, out: Path, draw: random.Random) -> tuple[str, int | None]:
        """A file takes all the room of a small disk at a random moment."""
        process, moment = self.at_a_moment(work, out, draw, 0.9)
        ballast = out / "ballast"
        _fill(ballast)
        said, _ = process.communicate(timeout=300)
        _await_runs(out)
        ballast.unlink()
        what, code = f"no room after {moment:.2f} s", process.returncode
        check(code in (0, 1, 2), f"the exit code after {what}: {code}: {said[-300:]}")
        check("Traceback" not in said, f"one message: {said[-300:]}")
        reasons = ("No space left", "room", "full disk")
        check(code == 0 or any(reason in said for reason in reasons), f"the reason: {said[-300:]}")
        return what, code

    def pair(self, work: Work, out: Path, draw: random.Random) -> tuple[str, int | None]:
        """The same command once more while it runs: one works, and the other waits or says who does."""
        first, moment = self.at_a_moment(work, out, draw, 0.9)
        second = work.start(out)
        ends = [process.communicate(timeout=600)[0] for process in (first, second)]
        codes = [first.returncode, second.returncode]
        check(0 in codes, f"one of two works: {codes}: {ends[0][-300:]} {ends[1][-300:]}")
        for code, said in zip(codes, ends, strict=True):
            check("Traceback" not in said, f"one message: {said[-300:]}")
            if code != 0:
                check(code == 2, f"exit code 2 for the other: {code}: {said[-300:]}")
                named = any(word in said for word in ("another process works", "held by", "is finished", "already"))
                check(named, f"who has it: {said[-300:]}")
        return f"a second one after {moment:.2f} s", codes[1]


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found]


def _await_runs(out: Path) -> None:
    """Runs whose sweep was killed go on: wait for them."""
    deadline = time.monotonic() + 300
    while any(locks.is_locked(path.parent) for path in out.rglob(locks.LOCK)):
        check(time.monotonic() < deadline, "an end of what was started")
        time.sleep(0.05)


def can_mount() -> bool:
    """Whether small disks can be made here."""
    with tempfile.TemporaryDirectory() as place:
        try:
            with _small_disk(Path(place)):
                return True
        except OSError:
            return False


@contextmanager
def _small_disk(place: Path, megabytes: int = 64) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(errno.EPERM, f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                size //= 2


# --- the table


def trials(bench: Bench, kills: int, disks: int, pairs: int) -> Iterator[Trial]:
    """So many trials of each kind, of the commands in turn."""
    for kind, number, fault in (("kill", kills, bench.kill), ("disk", disks, bench.fill), ("pair", pairs, bench.pair)):
        for seed in range(number):
            yield bench.try_(kind, WORKS[seed % len(WORKS)], seed, fault)


def table(found: list[Trial], command: str) -> str:
    """What was tried, and what was lost, by kind and command."""
    lines = [
        "# Faults at random moments",
        "",
        "What is tried, and what counts as lost: the docstring of tests/faults/harness.py.",
        "",
    ]
    lines += [
        "| fault | command | trials | nothing lost | ended by the fault | had ended before |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("kill", "disk", "pair"):
        for work in WORKS:
            of = [trial for trial in found if (trial.kind, trial.command) == (kind, work.name)]
            if of:
                whole, early = sum(not trial.lost for trial in of), sum(trial.code == 0 for trial in of)
                lines.append(f"| {kind} | {work.name} | {len(of)} | {whole} | {len(of) - early} | {early} |")
    lost = [f"- {trial.kind} {trial.command} {trial.seed}: {trial.fault}: {trial.lost}" for trial in found if trial.lost]
    lines += ["", *(lost or ["Nothing was lost."]), "", f"Command: `{command}`. {environment()}", ""]
    return "\n".join(lines)


def environment() -> str:
    """Where it was tried."""
    stamp = records.stamp()
    revision = f"{(stamp.git_revision or 'unknown')[:12]}{' with changes' if stamp.git_dirty else ''}"
    return f"{stamp.device}, {stamp.platform}, Python {stamp.python}, PyTorch {stamp.versions['torch']}, revision {revision}."


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description="Faults at random moments, and whether anything is lost.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--disks", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    if asked.disks and not can_mount():
        parser.error("no small disk can be mounted here: run it as root, or with --disks 0")
    # A profile measures again what it measured beside other work, and then its cells are not those of an unbroken one.
    os.environ["WFBENCH_IGNORE_LOAD"] = "1"
    found = []
    with tempfile.TemporaryDirectory() as place:
        for trial in trials(Bench(Path(place)), asked.kills, asked.disks, asked.pairs):
            said = f"{trial.kind} {trial.command} {trial.seed}: {trial.fault}, exit code {trial.code}: {trial.lost or 'whole'}"
            sys.stdout.write(said + "\n")
            sys.stdout.flush()
            found.append(trial)
    how = f"--kills {asked.kills} --disks {asked.disks} --pairs {asked.pairs}"
    words = f"python tests/faults/harness.py {how} --out {asked.out}"
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "faults.md").write_text(table(found, words))
    with (asked.out / "faults.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Trial)])
        writer.writeheader()
        writer.writerows(asdict(trial) for trial in found)
    sys.exit(any(trial.lost for trial in found))


if __name__ == "__main__":
    main()
