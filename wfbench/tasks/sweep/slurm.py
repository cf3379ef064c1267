"""Runs as Slurm jobs, through submitit: on one GPU, on several, or on several nodes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wfbench import files
from wfbench.errors import InputError
from wfbench.tasks.common import slug
from wfbench.tasks.sweep.single_run import PlannedRun, Process, Rendezvous, Status, epochs_done, start, status_of, take

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

#: A job that is preempted or runs out of time is queued again so often.
_REQUEUES = 100
#: Seconds within which the first node of a job tells the others where to meet.
_PATIENCE = 600.0
#: So many jobs are queued at once, in one array.
_MOST = 1_000


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks Slurm for.

    Attributes:
        partition: where it runs; None: Slurm's own choice.
        minutes: after which it is queued again.
        gpus: of each node.
        cpus: of each process's node.
        nodes: that one run spans.
        processes: of each node; None: one for each GPU.
        gres: as Slurm's --gres.
        qos: as Slurm's --qos.
        more: other options of sbatch, by name without the dashes; True for one that has no value.
        cluster: another of submitit's executors, for tests.
    """

    partition: str | None = None
    minutes: int = 240
    gpus: int = 0
    cpus: int = 2
    nodes: int = 1
    processes: int | None = None
    gres: str | None = None
    qos: str | None = None
    more: Mapping[str, str | bool] = field(default_factory=dict)
    cluster: str = "slurm"

    @property
    def processes_per_node(self) -> int:
        """How many processes train together on each node."""
        return self.processes or max(1, self.gpus)


class Node(NamedTuple):
    """One node of a job: its number, and what tells the attempts of all jobs apart."""

    number: int
    attempt: str


def this_node() -> Node:
    """The node that this process of a submitit job runs on."""
    from submitit import JobEnvironment

    job = JobEnvironment()
    return Node(job.node, f"{job.job_id}-{os.environ.get('SLURM_RESTART_COUNT', '0')}")


class Remote:
    """One run inside a job. submitit calls it on each node, and ``checkpoint`` before the job is taken away and queued again.

    Where several nodes make one run, the first holds its lock and tells the others where to meet.
    """

    def __init__(
        self, run: PlannedRun, out: Path, device: str, options: SlurmOptions, node: Callable[[], Node] = this_node
    ) -> None:
        self.run, self.out, self.device, self.options, self.node = run, out, device, options, node
        self.process: Process | None = None

    def __call__(self) -> Status:
        """Make the run, unless it is finished or another process has it; how it ended."""
        nodes = self.options.nodes
        node = self.node() if nodes > 1 else Node(0, "")
        meeting = None if nodes == 1 else self.out / "jobs" / f"{node.attempt}.meeting.json"
        if node.number == 0:
            held = take(self.run, self.out)
            meet = None if held is None else Rendezvous.here(nodes, self.run.place(self.out), self.options.processes_per_node)
            if meeting is not None:
                files.write_whole(meeting, json.dumps(None if meet is None else meet._asdict()))
        else:
            assert meeting is not None
            held, meet = None, _wait(meeting, node.number)
        if meet is None:
            return Status("elsewhere")
        self.process = start(self.run, self.out, held, device=self.device, threads=self._threads, fork=False, together=meet)
        try:
            while (ended := self.process.poll()) is None:
                time.sleep(0.2)  # not wait(), inside which a signal's handler could not look at the process
            return ended
        except KeyboardInterrupt:
            self.process.stop()
            raise

    @property
    def _threads(self) -> int:
        return max(1, self.options.cpus // self.options.processes_per_node)

    def checkpoint(self) -> DelayedSubmission:
        """Finish the step, save, and be queued again; of several nodes the first is asked, and the others stop with it."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.process.send_signal(signal.SIGUSR1)
            while self.process.process.poll() is None:
                time.sleep(0.1)
        return DelayedSubmission(Remote(self.run, self.out, self.device, self.options, self.node))


def _wait(meeting: Path, number: int) -> Rendezvous | None:
    """What the first node wrote for this attempt of the job.

    Raises:
        InputError: if it writes nothing in time.
    """
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if meeting.is_file():
            found = json.loads(meeting.read_text())
            return None if found is None else Rendezvous(**found)._replace(node=number)
        time.sleep(0.5)
    raise InputError(
        "the first node of the job did not say where to meet",
        got=f"nothing at {meeting} after {_PATIENCE:.0f} s on {socket.gethostname()}",
        expected="an --out that all nodes see",
        remedy="choose an --out on a shared file system",
    )


@dataclass
class SlurmJob:
    """A job as the sweep sees it."""

    run: PlannedRun
    out: Path
    job: Any

    def poll(self) -> Status | None:
        """How the run ended; None while the job goes on."""
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return self.job.results()[0]  # of several nodes the first speaks for the run
        found = status_of(self.run, self.out)  # what is on disk counts, should only the job's answer be lost
        if found.state == "finished":
            return found
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Status("failed", found.epoch, message=f"job {self.job.job_id}: {lines[-1].strip()}")

    def progress(self) -> Status:
        """How it stands meanwhile."""
        waits = "PENDING" in self.job.state
        return Status("queued" if waits else "running", epochs_done(self.run.place(self.out)))

    def stop(self) -> None:
        """Cancel the job: its processes are told to end, and the run saves. The next call queues another one."""
        with suppress(OSError, subprocess.CalledProcessError):  # a job that scancel refuses goes on, and is watched again
            self.job.cancel()
            note_of(self.run, self.out).unlink(missing_ok=True)

    def kill(self) -> None:
        """The same: what does not end by itself, Slurm ends."""
        self.stop()


class Slurm:
    """Submits runs as jobs of one array; ``slots`` limits how many of them run at once."""

    def __init__(self, options: SlurmOptions, out: Path, device: str, slots: int | None) -> None:
        self.out, self.device, self.options = out, device, options
        is_slurm = options.cluster == "slurm"
        self.slots = _MOST if is_slurm else slots or _MOST
        try:
            import submitit
        except ImportError as e:
            raise InputError(
                "Slurm needs the package submitit",
                got="not installed",
                expected="the package submitit, which queues the jobs",
                remedy="pip install 'wfbench[slurm]'",
            ) from e
        try:
            self.executor = submitit.AutoExecutor(out / "jobs", cluster=options.cluster, **_requeues(options.cluster))
        except (RuntimeError, ValueError) as e:
            raise InputError(
                "Slurm cannot be used", got=str(e).strip(), expected="sbatch and srun on the path", remedy="leave --slurm out"
            ) from e
        asked = {"timeout_min": options.minutes, "cpus_per_task": options.cpus}
        if options.gpus:  # 0 would forbid those of --gres
            asked["gpus_per_node"] = options.gpus
        self.executor.update_parameters(name="wfbench", nodes=options.nodes, tasks_per_node=1, **asked)
        self.executor.update_parameters(**_own_parameters(options, slots if is_slurm else None))

    def launch(self, runs: Sequence[PlannedRun]) -> list[SlurmJob | Process | None]:
        """Queue runs, several as an array. A run whose job of an earlier call waits or works still is watched instead.

        Raises:
            InputError: where Slurm refuses the jobs, with its words, or does not say which ones live.
        """
        jobs = self._queued_before(runs)
        jobs |= self._queue([run for run in runs if run.name not in jobs])
        return [SlurmJob(run, self.out, jobs[run.name]) for run in runs]

    def _queue(self, runs: Sequence[PlannedRun]) -> dict[str, Any]:
        """A new job for each run, by the run's name; its number is kept beside what submitit writes."""
        if not runs:
            return {}
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(Remote(run, self.out, self.device, self.options)) for run in runs]
        except (RuntimeError, FileNotFoundError) as e:  # of submitit, with what sbatch said; or there is no sbatch
            raise InputError(
                "Slurm refused the jobs",
                got=" ".join(str(e).split()) or type(e).__name__,
                expected="options that sbatch takes here",
                remedy="change them: wfbench sweep --help lists them; jobs that were queued before go on",
            ) from e
        for run, job in zip(runs, jobs, strict=True) if self.options.cluster == "slurm" else ():
            files.write_whole(note_of(run, self.out), json.dumps({"job": job.job_id, "tasks": job.num_tasks}))
        return {run.name: job for run, job in zip(runs, jobs, strict=True)}

    def _queued_before(self, runs: Sequence[PlannedRun]) -> dict[str, Any]:
        """The jobs of earlier calls that wait or work still, by the names of their runs."""
        notes = {run.name: note for run in runs if (note := _read_note(note_of(run, self.out))) is not None}
        if not notes or self.options.cluster != "slurm":  # other executors' jobs belong to the process that began them
            return {}
        from submitit import SlurmJob as Job

        living, folder = _living_jobs(), self.out / "jobs"
        return {
            name: Job(folder=folder, job_id=job, tasks=list(range(tasks)))
            for name, (job, tasks) in notes.items()
            if job in living
        }


def note_of(run: PlannedRun, out: Path) -> Path:
    """Where the number of a run's newest job stands."""
    return out / "jobs" / f"{slug(run.folder)}{run.name}.job.json"


def _read_note(path: Path) -> tuple[str, int] | None:
    """A job's number, and how many tasks it has; None where there is no such note, or a torn one."""
    try:
        note = json.loads(path.read_text())
        return str(note["job"]), int(note["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _living_jobs() -> set[str]:
    """The numbers of this user's jobs that wait or work, as Slurm's queue has them; of an array, each job's own.

    Raises:
        InputError: if the queue cannot be read: a job that lives would be queued a second time.
    """
    try:
        command = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        said = " ".join((getattr(e, "stderr", None) or str(e)).split())
        raise InputError(
            "Slurm does not say which jobs live",
            got=said,
            expected="an answer of squeue: jobs of an earlier call are watched, and not queued again",
            remedy="try again when it answers",
        ) from e
    return set(done.stdout.split())


def _own_parameters(options: SlurmOptions, at_once: int | None) -> dict[str, Any]:
    """What submitit hands to Slurm alone; other executors are not told."""
    found = {
        "slurm_partition": options.partition,
        "slurm_qos": options.qos,
        "slurm_gres": options.gres,
        "slurm_array_parallelism": at_once,
        "slurm_additional_parameters": dict(options.more) or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _requeues(cluster: str) -> dict[str, int]:
    return {} if cluster == "debug" else {f"{cluster}_max_num_timeout": _REQUEUES}
