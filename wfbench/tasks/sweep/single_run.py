"""A run of a sweep: its name, its directory's state, its lock, and the process that makes it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from wfbench import files, forkserver
from wfbench.errors import InputError
from wfbench.locks import INHERITED, NODES, acquire, is_locked
from wfbench.recipe import Recipe
from wfbench.tasks import run_directory
from wfbench.tasks.common import slug
from wfbench.tasks.identity import Digests, Identity, changes, read_identity
from wfbench.tasks.run_directory import RunRow, in_words

#: "new": not begun. "broken": begun and not finished; it will be resumed. "elsewhere": another process has it. "stopped":
#: told to stop, with its state saved.
State = Literal["new", "broken", "queued", "running", "elsewhere", "stopped", "failed", "finished"]

#: What a run imports when it is under way.
_PRELOAD = ("wfbench.tasks.jobs", "sklearn.datasets", "pyarrow.parquet")
#: Bytes that a message may take.
_ROOM = 1 << 16
_LOG, _FAILED = "log.txt", "failed.json"
_STOPPED = (130, 75, -signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP)


@dataclass(frozen=True)
class PlannedRun:
    """One run: what it is called, its resolved recipe, and the words of the `wfbench train` that makes it.

    ``line`` names what the seeds have in common, and ``folder`` is where the directory lies in the sweep's.
    """

    name: str
    recipe: Recipe
    words: tuple[str, ...]
    line: str
    folder: str = ""
    #: The data set by the name that its record has; "" where it is not looked at.
    dataset: str = ""
    #: The code and the data that it is to be made with; None where they are not looked at.
    identity: Identity | None = None

    def place(self, out: Path) -> Path:
        """The run directory."""
        return out / self.folder / self.name


@dataclass(frozen=True)
class Status:
    """How a run stands: its state, epochs done, the held-out figure, and the message of one that failed."""

    state: State
    epoch: int = 0
    figure: str = ""
    message: str = ""
    #: Whether it failed since a loss was not finite.
    diverged: bool = False


def name_of(recipe: Recipe, varied: Mapping[str, object]) -> str:
    """A name that people can read, and a digest of the recipe and the seed: it changes with nothing else.

    A mixer's file, initial weights and the data set stand in it by their names, not by what they hold. Settings at their
    defaults are left out of the digest, so that a new version's new settings do not rename old runs.
    """
    free = {"data": {"path", "workers"}, "compute": {"eval_batch"}, "eval_every": True, "keep_every": True, "save_steps": True}
    content = recipe.model_dump(mode="json", exclude=free, exclude_defaults=True)  # type: ignore[arg-type]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    section = recipe.model
    parts = [recipe.name, slug(section.mixer or section.name), section.local_conv, section.pos_embed]
    schedule = {"every": section.every, "from": section.offset, "between": section.between and slug(section.between)}
    parts += [f"{key}-{value}" for key, value in schedule.items() if value is not None]
    parts += [f"{key.rpartition('.')[2]}-{slug(str(value))}" for key, value in varied.items()]
    return "-".join([part for part in parts if part] + [f"s{recipe.seed}", digest])


def status_of(run: PlannedRun, out: Path) -> Status:
    """How a run's directory stands.

    Raises:
        InputError: for a directory of that name with another recipe, made with other code or data, or a result that cannot
            be read.
    """
    place = run.place(out)
    if (place / "config.yaml").is_file():
        run_directory.check_directory(run.recipe, place, resume=True)
    if (place / "result.json").is_file():
        result = run_directory.read_result(place)
        _check_identity(run, result, place, ("mixer code", "data"))
        return Status("finished", run.recipe.epochs, _figure(run, result, place))
    if (begun := read_identity(place)) is not None:
        _check_identity(run, begun, place, ("mixer code", "model code", "data"))
    if is_locked(place):
        return Status("elsewhere", epochs_done(place))
    if (place / _FAILED).is_file():
        return failure(place)
    return Status("broken", epochs_done(place)) if (place / "config.yaml").is_file() else Status("new")


def epochs_done(place: Path) -> int:
    """How many epochs a run has behind it."""
    try:
        return (place / "metrics.jsonl").read_text().count("\n")
    except (OSError, ValueError):
        return 0


def _check_identity(run: PlannedRun, found: Digests, place: Path, what: Sequence[str]) -> None:
    """Refuse a run that was begun or finished with another mixer's code or other data than planned."""
    changed = [] if run.identity is None else changes(found, run.identity, what)
    if changed:
        raise InputError(
            "a run of the sweep was made with other code or data",
            got=f"{place}: {'; '.join(changed)}",
            expected="the code and the data that the sweep has now",
            remedy="restore them, or sweep into another --out; lines of other code or data are never averaged",
        )


def _figure(run: PlannedRun, result: RunRow, place: Path) -> str:
    """The held-out figure of a finished run, which must be of the data that the sweep was given."""
    if run.dataset and result.dataset != run.dataset:
        raise InputError(
            "a finished run is of another data set",
            got=f"{place}: {result.dataset}",
            expected=run.dataset,
            remedy="give the data of that run, or sweep into another --out",
        )
    return in_words(result)


# --- locks


def take(run: PlannedRun, out: Path) -> int | None:
    """The lock of a run that is still to be made; None if another process has it, or finished it a moment ago.

    The lock belongs to the open file, which the process that trains inherits: it is held until that process ends, however it
    ends, and whether or not the sweep is still there.
    """
    held = acquire(run.place(out))
    if held is not None and (run.place(out) / "result.json").is_file():
        os.close(held)
        return None
    return held


# --- processes


@dataclass
class Process:
    """A `wfbench train` in a process of its own, and its end in words."""

    run: PlannedRun
    out: Path
    process: forkserver.Process
    #: What it prints, and where this process's part of it begins.
    log: Path
    log_begin: int
    #: Of a run on several nodes, the first speaks for all.
    is_first: bool = True

    @property
    def place(self) -> Path:
        """The run directory."""
        return self.run.place(self.out)

    def poll(self) -> Status | None:
        """How the run ended; None while it goes on."""
        code = self.process.poll()
        return None if code is None else self._end_status(code)

    def progress(self) -> Status:
        """How it stands meanwhile."""
        return Status("running", epochs_done(self.place))

    def stop(self) -> None:
        """Finish the step, save, and end."""
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End at once; the last checkpoint stays."""
        self.process.kill()

    def _end_status(self, code: int) -> Status:
        if code == 0 and (self.place / "result.json").is_file():
            return status_of(self.run, self.out)
        if code in _STOPPED:
            return Status("stopped", epochs_done(self.place))
        message = self._message(code)
        diverged = message.startswith("failed: ") and "not finite" in message
        found = Status("failed", epochs_done(self.place), message=message.removeprefix("failed: "), diverged=diverged)
        if not self.is_first:
            return found
        with suppress(OSError):  # without the note, on a full disk, the run counts as broken and is tried again
            files.write_whole(self.place / _FAILED, json.dumps(asdict(found)))
        return found

    def _message(self, code: int) -> str:
        """What the process said last: its own message in full, or the last line of a traceback."""
        with self.log.open("rb") as file:
            file.seek(self.log_begin)
            lines = file.read().decode(errors="replace").rstrip().splitlines()
        if code < 0:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        starts = [i for i, line in enumerate(lines) if line.startswith(("failed: ", "error: "))]
        said = lines[starts[-1] :] if starts else lines[-1:]
        silent = f"exit code {code} without a word"
        if shutil.disk_usage(self.place).free < _ROOM:
            silent = f"exit code {code}; there is no room for what it said: {self.place} is on a full disk"
        return " ".join(" ".join(said).split()) or silent


class Rendezvous(NamedTuple):
    """How the processes of one run meet.

    Attributes:
        nodes: how many.
        processes: of each node.
        host: of the first node.
        port: there.
        resume: whether the run goes on.
        node: the number of this one.
    """

    nodes: int
    processes: int
    host: str
    port: int
    resume: bool
    node: int = 0

    @classmethod
    def here(cls, nodes: int, place: Path, processes: int) -> Rendezvous:
        """With this machine as the first of the nodes, for a run in ``place``."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return cls(nodes, processes, socket.gethostname(), port, (place / "config.yaml").is_file())


def start(
    run: PlannedRun,
    out: Path,
    held: int | None,
    *,
    device: str,
    threads: int,
    gpu: str | None = None,
    fork: bool,
    together: Rendezvous | None = None,
) -> Process:
    """Begin or resume a run whose lock is ``held``; the process takes the lock over.

    With ``fork`` it is the fork of a server that has imported everything, where that can be had. It gets a session of its own,
    so that Ctrl-C on the terminal reaches the sweep alone, which passes it on once.

    Args:
        run: the run.
        out: the sweep's directory.
        held: the lock; None on another node than the first, which has it.
        device: as --device.
        threads: of each process.
        gpu: the only one that the run sees; None: all.
        fork: whether it may be the fork of a server.
        together: how several processes meet; None for one.
    """
    place = run.place(out)
    is_first = together is None or together.node == 0
    if is_first:
        (place / _FAILED).unlink(missing_ok=True)
    resume = (place / "config.yaml").is_file() if together is None else together.resume
    words = ["train", *run.words, "--out", str(place), "--device", device, *(["--resume"] if resume else [])]
    environment = (
        os.environ
        | {"OMP_NUM_THREADS": str(threads), INHERITED: str(place.resolve())}
        | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    )
    if together is not None and (together.nodes > 1 or together.processes > 1):
        words += ["--nproc", str(together.processes)]
    if together is not None and together.nodes > 1:
        environment[NODES] = json.dumps([together.nodes, together.node, together.host, together.port])
    log = place / (_LOG if together is None or is_first else f"log-node-{together.node}.txt")
    with log.open("ab") as printed:
        begin = printed.tell()
        process, _ = forkserver.start(
            "wfbench.__main__",
            words,
            output=printed.fileno(),
            environment=environment,
            keep=[] if held is None else [held],
            preload=_PRELOAD,
            fork=fork,
        )
    if held is not None:
        os.close(held)
    return Process(run, out, process, log, begin, is_first)


def failure(place: Path, since: float = 0.0) -> Status:
    """What a failed run left; a fresh state if it did not fail since then. A torn note says no more than a broken run."""
    note = place / _FAILED
    try:
        if note.stat().st_mtime < since:
            return Status("broken", epochs_done(place))
        return Status(**json.loads(note.read_text()))
    except FileNotFoundError:
        return Status("new")
    except (OSError, ValueError, TypeError):
        return Status("broken", epochs_done(place))
