"""Runs as Slurm jobs, through submitit."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfbench.errors import InputError
from wfbench.tasks.sweep.single_run import PlannedRun, Process, Status, epochs_done, start, status_of, take

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

#: A job that is preempted or runs out of time is queued again so often.
_REQUEUES = 100


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks Slurm for; ``cluster`` may name another of submitit's executors, for tests."""

    partition: str | None = None
    minutes: int = 240
    gpus: int = 0
    cpus: int = 2
    cluster: str = "slurm"


class Remote:
    """One run inside a job. submitit calls it there, and ``checkpoint`` before the job is taken away and queued again."""

    def __init__(self, run: PlannedRun, out: Path, device: str, threads: int) -> None:
        self.run, self.out, self.device, self.threads = run, out, device, threads
        self.process: Process | None = None

    def __call__(self) -> Status:
        """Make the run, unless it is finished or another process has it; how it ended."""
        held = take(self.run, self.out)
        if held is None:
            return Status("elsewhere")
        self.process = start(self.run, self.out, held, device=self.device, threads=self.threads, fork=False)
        try:
            while (ended := self.process.poll()) is None:
                time.sleep(0.2)  # not wait(), inside which a signal's handler could not look at the process
            return ended
        except KeyboardInterrupt:
            self.process.stop()
            raise

    def checkpoint(self) -> DelayedSubmission:
        """Finish the step, save, and be queued again."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.process.send_signal(signal.SIGUSR1)
            while self.process.process.poll() is None:
                time.sleep(0.1)
        return DelayedSubmission(Remote(self.run, self.out, self.device, self.threads))


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
            return self.job.result()
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
        """Cancel the job: its processes are told to end, and the run saves."""
        self.job.cancel()

    def kill(self) -> None:
        """The same: what does not end by itself, Slurm ends."""
        self.job.cancel()


class Slurm:
    """Submits runs as jobs."""

    def __init__(self, options: SlurmOptions, out: Path, device: str, slots: int | None) -> None:
        self.out, self.device, self.slots, self.threads = out, device, slots or 1_000, options.cpus
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
        asked = {"timeout_min": options.minutes, "gpus_per_node": options.gpus, "cpus_per_task": options.cpus}
        self.executor.update_parameters(name="wfbench", nodes=1, tasks_per_node=1, **asked)
        if options.partition is not None:
            self.executor.update_parameters(slurm_partition=options.partition)

    def launch(self, run: PlannedRun) -> SlurmJob:
        """Queue a run."""
        return SlurmJob(run, self.out, self.executor.submit(Remote(run, self.out, self.device, self.threads)))


def _requeues(cluster: str) -> dict[str, int]:
    return {} if cluster == "debug" else {f"{cluster}_max_num_timeout": _REQUEUES}
