"""The sweep itself: what is missing is run, so many at once, until all is finished or has failed."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from wfbench import signals
from wfbench.analysis.claims import ClaimsFile, read_claims
from wfbench.errors import InputError
from wfbench.locks import is_locked
from wfbench.tasks.common import writable_dir
from wfbench.tasks.sweep import registration
from wfbench.tasks.sweep.combinations import Draft, drafts, match_lines
from wfbench.tasks.sweep.request import SweepRequest
from wfbench.tasks.sweep.sequential import planned_looks, run_until_decided
from wfbench.tasks.sweep.single_run import PlannedRun, Process, Status, epochs_done, failure, start, status_of, take
from wfbench.tasks.sweep.slurm import Slurm, SlurmJob, SlurmOptions
from wfbench.tasks.sweep.tuning import Tuning
from wfbench.training import Interrupted

_LOOK = 0.1  # seconds between two looks at the processes
_PROGRESS = 2.0  # seconds between two looks at what goes on inside them, and at runs that another sweep has


@dataclass(frozen=True)
class Dispatch:
    """Where the runs go: so many processes at once here, or Slurm."""

    jobs: int | None = None
    #: Of each process; None: this machine's cores, shared out among the jobs.
    threads: int | None = None
    device: str = "auto"
    slurm: SlurmOptions | None = None

    def launcher(self, out: Path) -> Local | Slurm:
        """What begins runs."""
        if self.slurm is not None:
            return Slurm(self.slurm, out, self.device, self.jobs)
        jobs = self.jobs or 1
        return Local(out, jobs, self.threads or max(1, (os.cpu_count() or 1) // jobs), self.device)


class Watch(Protocol):
    """Who watches a sweep."""

    def say(self, line: str) -> None:
        """News in words."""
        ...

    def begin(self, runs: Sequence[PlannedRun], stands: Sequence[Status]) -> None:
        """These runs are to be finished, and so they stand."""
        ...

    def changed(self, run: PlannedRun, status: Status) -> None:
        """A run stands otherwise than before."""
        ...


class Local:
    """Begins runs as processes of this machine; of several GPUs each process gets one, in turn."""

    def __init__(self, out: Path, slots: int, threads: int, device: str) -> None:
        self.out, self.slots, self.threads, self.device = out, slots, threads, device
        self.gpus: deque[str] = deque(_gpus(device))

    def launch(self, runs: Sequence[PlannedRun]) -> list[SlurmJob | Process | None]:
        """Begin or resume runs; None for one that another process has, or has just finished."""
        return [self._launch(run) for run in runs]

    def _launch(self, run: PlannedRun) -> Process | None:
        held = take(run, self.out)
        if held is None:
            return None
        self.gpus.rotate(-1)
        gpu = self.gpus[0] if len(self.gpus) > 1 else None
        return start(run, self.out, held, device=self.device, threads=self.threads, gpu=gpu, fork=not self.gpus)


def _gpus(device: str) -> list[str]:
    if device == "cpu" or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]


@dataclass(frozen=True)
class Sweep:
    """A sweep that was planned: its lines, and the final runs that are known by now."""

    request: SweepRequest
    drafts: tuple[Draft, ...]
    out: Path

    @classmethod
    def plan(cls, request: SweepRequest, out: Path) -> Sweep:
        """Check everything; nothing is written.

        Raises:
            InputError, MixerError: for whatever would stop a run.
        """
        found = tuple(drafts(request))
        if request.claims is not None:
            registration.check(Path(request.claims), request, found)
        return cls(request, found, out)

    def tuning(self) -> Tuning | None:
        """The trials that come first, if there are any."""
        return None if self.request.tune is None else Tuning(self.request.tune, self.drafts, self.out)

    def finals(self, tuning: Tuning | None) -> tuple[list[PlannedRun], dict[str, str]]:
        """The final runs, seed after seed, and why lines have none: their trials are not done, or all diverged."""
        none: tuple[tuple[str, ...], str | None] = ((), None)
        found = [(draft, *(none if tuning is None else tuning.choose(draft))) for draft in self.drafts]
        runs = [draft.plan_run(seed, settings) for seed in self.request.seeds for draft, settings, why in found if why is None]
        return runs, {draft.label: why for draft, _, why in found if why is not None}


def sweep(
    request: SweepRequest,
    out: Path,
    dispatch: Dispatch,
    watch: Watch,
    *,
    until_decided: bool = False,
    max_seeds: int | None = None,
) -> dict[str, Status]:
    """Bring every run of a sweep to its end: the trials of tuning first, then the final runs.

    What is finished is left alone, what was stopped or killed is resumed, and a run that another sweep has is waited for. A
    run that fails does not stop the others. With ``until_decided``, seeds are added at the looks that the claims file plans,
    up to ``max_seeds``, and only to lines that an undecided claim needs.

    Returns:
        How each run ended, by its name; of a line that could not run, by the line's.

    Raises:
        InputError, MixerError: for bad input, before anything is written; and claims that changed after runs began.
        Interrupted: after a signal, with the state of all runs saved, or their jobs going on.
    """
    plan = Sweep.plan(request, out)
    file = sequential_claims(request) if until_decided else None
    looks = planned_looks(file, max_seeds) if file is not None else ()
    for line in match_lines(plan.drafts, request.baseline):
        watch.say(line)
    writable_dir(out)
    launcher = dispatch.launcher(out)
    if request.claims is not None:
        watch.say(registration.record(Path(request.claims), out))
    ended: dict[str, Status] = {}
    tuning = plan.tuning()
    if tuning is not None:
        trials = tuning.trials()
        watch.say(f"{len(trials)} trials of tuning, {request.tune.trials if request.tune else 0} rates for each line")
        ended |= run_all(trials, out, launcher, watch, is_final=tuning.diverged)
        ended = {name: status for name, status in ended.items() if not status.diverged}  # a finding, not a failure
        tuning.record()
    runs, missing = plan.finals(tuning)
    ended |= {label: Status("failed", message=why) for label, why in missing.items()}
    if file is None:
        return ended | run_all(runs, out, launcher, watch)
    by_line = {registration.line_name(draft): [run for run in runs if run.line == draft.label] for draft in plan.drafts}
    return ended | run_until_decided(file, looks, by_line, out, lambda some: run_all(some, out, launcher, watch), watch.say)


def sequential_claims(request: SweepRequest) -> ClaimsFile:
    """The claims that decide when a sweep ends.

    Raises:
        InputError: for a sweep without claims, or of several recipes or varied settings, whose lines share their names.
    """
    if request.claims is None:
        raise InputError(
            "nothing says when the sweep is decided",
            got="--until decided without claims",
            expected="a file of claims with looks",
            remedy="add --claims FILE",
        )
    if len(request.recipes) > 1 or request.vary:
        raise InputError(
            "--until decided needs one setting",
            got=f"{len(request.recipes)} recipes, {len(request.vary)} varied keys",
            expected="one recipe, nothing varied: the claims are about its lines",
            remedy="sweep each setting with its own claims into its own --out, or leave --until out",
        )
    return read_claims(Path(request.claims)).file


def run_all(
    runs: Sequence[PlannedRun],
    out: Path,
    launcher: Local | Slurm,
    watch: Watch,
    *,
    is_final: Callable[[Status], bool] | None = None,
) -> dict[str, Status]:
    """Run what is not finished, and wait for what another sweep runs.

    Raises:
        InputError: for a run that is not the planned one, and what Slurm refuses.
        Interrupted: after a signal, once all processes have saved and ended. Jobs of Slurm are cancelled by Ctrl-C alone: where
            the terminal is closed, or the sweep ends otherwise, also by an error, they go on.
    """
    began = time.time()
    stands = [status_of(run, out) for run in runs]
    watch.begin(runs, stands)
    ended: dict[str, Status] = {}
    waiting: deque[PlannedRun] = deque()
    elsewhere: list[PlannedRun] = []
    running: dict[str, Process | SlurmJob] = {}

    def end(run: PlannedRun, status: Status) -> None:
        ended[run.name] = status
        watch.changed(run, status)

    def outcome(run: PlannedRun) -> Status | None:
        """How a run ended that another sweep made since this one began, or that need not be made."""
        status = status_of(run, out)
        if status.state == "failed" and not (is_final is not None and is_final(status)):
            status = failure(run.place(out), since=began)
        return status if status.state in ("finished", "failed") else None

    for run, status in zip(runs, stands, strict=True):
        if status.state == "finished" or (is_final is not None and is_final(status)):
            ended[run.name] = status
        else:
            waiting.append(run)
    looked = 0.0
    with _stops() as stopped:
        try:
            while waiting or running or elsewhere:
                room = launcher.slots - len(running)
                batch: list[PlannedRun] = []
                while waiting and len(batch) < room:
                    run = waiting.popleft()
                    if (status_now := outcome(run)) is not None:
                        end(run, status_now)
                    else:
                        batch.append(run)
                for run, process in zip(batch, launcher.launch(batch) if batch else [], strict=True):
                    if process is None:
                        elsewhere.append(run)
                        watch.changed(run, Status("elsewhere", epochs_done(run.place(out))))
                    else:
                        running[run.name] = process
                        watch.changed(run, process.progress())
                for name, process in list(running.items()):
                    if (status_now := process.poll()) is not None:
                        del running[name]
                        if status_now.state == "elsewhere":
                            elsewhere.append(process.run)
                        else:
                            end(process.run, status_now)
                if time.monotonic() - looked > _PROGRESS:
                    looked = time.monotonic()
                    for process in running.values():
                        watch.changed(process.run, process.progress())
                    free = [run for run in elsewhere if not is_locked(run.place(out))]
                    elsewhere = [run for run in elsewhere if run not in free]
                    waiting.extend(free)
                time.sleep(_LOOK)
        except BaseException as e:
            is_told, number = isinstance(e, KeyboardInterrupt), stopped[0] if stopped else signal.SIGINT
            if isinstance(launcher, Slurm) and not (is_told and number == signal.SIGINT):
                words = f"{len(running)} jobs go on; the same command watches them"
                if is_told:
                    raise Interrupted(f"the sweep ends here, and {words}", number) from e
                if running:
                    watch.say(words)
                raise
            _stop(list(running.values()), watch)
            if is_told:
                raise Interrupted(f"{len(running)} runs were stopped and saved; the same command goes on", number) from e
            raise
    return ended


def _stop(running: Sequence[Process | SlurmJob], watch: Watch) -> None:
    """Have all runs save and end; on a second Ctrl-C end them at once."""
    for process in running:
        process.stop()
    left = list(running)
    try:
        while left:
            time.sleep(_LOOK)
            for process in list(left):
                if (status := process.poll()) is not None:
                    left.remove(process)
                    watch.changed(process.run, status)
    except KeyboardInterrupt:
        for process in left:
            process.kill()
        raise


def _stops() -> AbstractContextManager[list[int]]:
    """Ctrl-C, SIGTERM and a closed terminal stop the sweep; the list holds the signal."""

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    return signals.noted((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), stop)
