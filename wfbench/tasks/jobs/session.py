"""One session of a training run: begun or resumed, trained to its end or to a signal, and its result written."""

from __future__ import annotations

from pathlib import Path

import torch

from wfbench import recipe as recipes
from wfbench import records
from wfbench.data import positions
from wfbench.tasks.common import writable_dir
from wfbench.tasks.jobs.base import Finished, Job
from wfbench.tasks.run_directory import RunRow, check_directory, check_space, read_result, read_rows
from wfbench.tasks.weights import WEIGHTS
from wfbench.training import Progress, Trackers, TrainState, Watch, checkpoint, distributed, fit


def run_session(
    job: Job,
    out: Path,
    watch: Watch,
    *,
    device: torch.device,
    resume: bool = False,
    trackers: Trackers | None = None,
) -> RunRow:
    """Train a job into the run directory ``out``; with ``resume``, continue one that was interrupted or killed.

    Returns:
        The run's result, which is also in ``out/result.json`` and ``out/records.jsonl``.

    Raises:
        InputError: for bad input, a directory that holds a run already, a run of another recipe, a tracker that cannot start.
        RunError: if the loss is not finite.
        Interrupted: after a signal, with the state saved.
    """
    distributed.on_main(lambda: check_directory(job.recipe, out, resume))
    if resume and (out / "result.json").is_file():
        return read_result(out)
    environment = records.stamp(device.type)  # of the code that runs, not of a later commit
    job.model.to(device)
    places = positions(job.recipe.batch_size, distributed.rank(), distributed.world())
    state = TrainState(job.model, job.recipe, job.steps_per_epoch, loss=job.loss, positions=places)
    progress = Progress(began=records.now())
    torch.manual_seed(distributed.seed(job.recipe.seed))  # steps seed what they draw; this is for all else
    distributed.on_main(lambda: _prepare_directory(job, out))
    saved = checkpoint.load(out / "checkpoint") if resume else None
    if saved is not None:
        progress = Progress(**saved.progress)  # it began with its first session: what may be known of it may be as old
        checkpoint.load_weights(job.model, saved.model, str(out / "checkpoint"))
        if state.ema is not None:
            checkpoint.load_weights(state.ema.module, saved.ema or {}, str(out / "checkpoint"))
        state.load(saved.state, saved.random_states, progress.epoch * job.steps_per_epoch + progress.step)
    batches = job.batches((progress.epoch, progress.step))
    own = trackers if trackers is not None and distributed.is_main() else Trackers()
    with own.beside(watch, out, job.recipe, after=state.step_count) as all_watch:
        scores = fit(state, batches, lambda: job.evaluate(state), out, progress, all_watch, mix=job.mix)
    finished = Finished(state, progress, scores, environment)
    return distributed.on_main(lambda: _write_result(job, finished, out))


def _prepare_directory(job: Job, out: Path) -> None:
    check_space(job.recipe, job.model, out)
    writable_dir(out)
    checkpoint.tidy(out / "checkpoint")
    checkpoint.write_whole(out / "config.yaml", recipes.dump(job.recipe))


def _write_result(job: Job, finished: Finished, out: Path) -> RunRow:
    """The final weights, the task's files and the record; result.json comes last and says that all of it is there."""
    checkpoint.write_tensors(out / WEIGHTS["raw"], finished.state.model.state_dict())
    if finished.state.ema is not None:
        checkpoint.write_tensors(out / WEIGHTS["ema"], finished.state.ema.module.state_dict())
    rows = job.finish(finished, out)
    if not (out / "records.jsonl").is_file() or not read_rows(out):  # else it was stopped between these two lines
        records.append(out / "records.jsonl", rows)
    checkpoint.write_whole(out / "result.json", rows[0].model_dump_json(indent=2) + "\n")
    return rows[0]
