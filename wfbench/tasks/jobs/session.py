"""One session of a training run: begun or resumed, trained to its end or to a signal, and its result written."""

from __future__ import annotations

from pathlib import Path

import torch

from wfbench import recipe as recipes
from wfbench import records
from wfbench.data import positions
from wfbench.errors import InputError
from wfbench.tasks.common import writable_dir
from wfbench.tasks.identity import Identity, check_code_and_data, write_identity
from wfbench.tasks.jobs.base import Finished, Job
from wfbench.tasks.run_directory import RunRow, check_space, read_rows
from wfbench.tasks.weights import WEIGHTS, WeightsMetadata
from wfbench.training import Progress, Trackers, TrainState, Watch, checkpoint, distributed, fit


def identity_of(job: Job, out: Path, *, resume: bool, allow_changed_code: bool = False) -> Identity | None:
    """The code and the data that a run's rows will name: the job's own, or on a resume those that it was begun with.

    Returns:
        None for the resume of a run that was begun by an earlier version, which did not record it.

    Raises:
        InputError: for a resume with other data, or with other code unless that is allowed.
    """
    if not resume:
        return job.identity
    return check_code_and_data(out, job.identity, job.dataset.listing, allow_changed_code=allow_changed_code)


def run_session(
    job: Job,
    identity: Identity | None,
    out: Path,
    watch: Watch,
    *,
    device: torch.device,
    resume: bool = False,
    trackers: Trackers | None = None,
) -> RunRow:
    """Train a job into the run directory ``out``; with ``resume``, continue one that was interrupted or killed.

    Args:
        job: what is trained.
        identity: of the run, as `identity_of` gives it.
        out: the run directory.
        watch: hears of every step and epoch.
        device: where it is trained.
        resume: go on from the newest checkpoint in ``out``.
        trackers: hear of it beside ``watch``.

    Returns:
        The run's result, which is also in ``out/result.json`` and ``out/records.jsonl``.

    Raises:
        InputError: for a disk without room, a checkpoint that cannot be read, a tracker that cannot start.
        RunError: if the loss is not finite.
        Interrupted: after a signal, with the state saved.
    """
    environment = records.stamp(device.type)  # of the code that runs, not of a later commit
    job.model.to(device)
    before = job.strength(job.model)  # of the initial weights, which a resume has made again; every process measures
    places = positions(job.recipe.batch_size, distributed.rank(), distributed.world())
    state = TrainState(job.model, job.recipe, job.steps_per_epoch, loss=job.loss, positions=places)
    progress = Progress(began=records.now())
    torch.manual_seed(distributed.seed(job.recipe.seed))  # steps seed what they draw; this is for all else
    distributed.on_main(lambda: _prepare_directory(job, identity, out))
    saved = checkpoint.load(out / "checkpoint") if resume else None
    if saved is not None:
        progress = _take_up(saved, state, job, out)  # it began with its first session: what is known of it may be as old
    way = _way(job, device)
    if not progress.ways or not progress.ways[-1].endswith(f": {way}"):
        progress.ways.append(f"from step {state.step_count}: {way}")
    about = WeightsMetadata.of(job.recipe, job.model.config.mixer, job.dataset.classes, identity, job.grid).dump()
    batches = job.batches((progress.epoch, progress.step))
    own = trackers if trackers is not None and distributed.is_main() else Trackers()
    with own.beside(watch, out, job.recipe, after=state.step_count) as all_watch:
        scores = fit(state, batches, lambda: job.evaluate(state), out, progress, all_watch, mix=job.mix, metadata=about)
    finished = Finished(state, progress, scores, environment, identity, before)
    return distributed.on_main(lambda: _write_result(job, finished, about, out))


def _take_up(saved: checkpoint.Checkpoint, state: TrainState, job: Job, out: Path) -> Progress:
    """Load a checkpoint into the training state; where the run is.

    Raises:
        InputError: for a checkpoint that this run cannot have written.
    """
    place = str(out / "checkpoint")
    try:
        progress = Progress(**saved.progress)
        whole = progress.epoch * job.steps_per_epoch + progress.step
        if not (0 <= progress.epoch <= job.recipe.epochs and 0 <= progress.step <= job.steps_per_epoch):
            raise ValueError(f"epoch {progress.epoch}, step {progress.step} of {job.steps_per_epoch}")
        checkpoint.load_weights(job.model, saved.model, place)
        if state.ema is not None:
            checkpoint.load_weights(state.ema.module, saved.ema or {}, place)
        state.load(saved.state, saved.random_states, whole)
    except InputError:
        raise
    except (TypeError, KeyError, ValueError, AttributeError, RuntimeError) as e:
        raise InputError(
            "the checkpoint cannot be taken up",
            got=f"{place}: {type(e).__name__}: {' '.join(str(e).split())[:200]}",
            expected="a checkpoint that this run wrote",
            remedy="put its files back; or remove it, and the run begins again (best-* and epoch-* keep their weights)",
        ) from e
    return progress


def _way(job: Job, device: torch.device) -> str:
    """What may change from session to session, and changes sums by rounding."""
    part, processes = job.recipe.compute.micro_batch, distributed.world()
    micro = "whole batches" if part is None else f"micro-batches of {part}"
    return f"{device.type}, {processes} process{'es' if processes > 1 else ''}, {micro}, evaluation by {job.held_out_batch}"


def _prepare_directory(job: Job, identity: Identity | None, out: Path) -> None:
    check_space(job.recipe, job.model, out)
    writable_dir(out)
    checkpoint.tidy(out / "checkpoint")
    if identity is not None:
        write_identity(out, identity, job.dataset.listing)  # before config.yaml, by which a directory is a run's
    checkpoint.write_whole(out / "config.yaml", recipes.dump(job.recipe))


def _write_result(job: Job, finished: Finished, about: dict[str, str], out: Path) -> RunRow:
    """The final weights, the task's files and the record; result.json comes last and says that all of it is there."""
    checkpoint.write_tensors(out / WEIGHTS["raw"], finished.state.model.state_dict(), about)
    if finished.state.ema is not None:
        checkpoint.write_tensors(out / WEIGHTS["ema"], finished.state.ema.module.state_dict(), about)
    rows = job.finish(finished, out)
    if not (out / "records.jsonl").is_file() or not read_rows(out):  # else it was stopped between these two lines
        records.append(out / "records.jsonl", rows)
    result = rows[0]
    assert isinstance(result, RunRow)
    checkpoint.write_whole(out / "result.json", result.model_dump_json(indent=2) + "\n")
    return result
