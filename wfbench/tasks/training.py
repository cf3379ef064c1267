"""What every training task does: a run directory, a resume, the loop, and a result that is either whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import torch
import yaml
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from wfbench import recipe as recipes
from wfbench import records
from wfbench.data import positions
from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.records import Chosen, DiTRow, Environment, TrainRow
from wfbench.tasks.common import writable_dir
from wfbench.training import Loss, Mix, Progress, Scores, Trackers, TrainState, Watch, checkpoint, distributed, fit

#: What a finished run says of itself, by its task.
RunRow = TrainRow | DiTRow
_RESULT: TypeAdapter[RunRow] = TypeAdapter(Annotated[RunRow, Field(discriminator="kind")])

#: The file of the final weights, raw or averaged, in a run directory.
WEIGHTS = {"raw": "model.safetensors", "ema": "ema.safetensors"}

#: Settings that may differ between a run and its resume: they change no result.
_FREE_TO_CHANGE = ("data.workers", "data.path", "eval_every", "keep_every", "save_steps")


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind beside its weights.

    Attributes:
        state: the training state after the last step.
        progress: what the run cost.
        scores: the last evaluation.
        environment: where its last session ran, stamped at that one's beginning.
    """

    state: TrainState
    progress: Progress
    scores: Scores
    environment: Environment


class Job(Protocol):
    """A recipe made concrete: what the loop needs to know of a task."""

    @property
    def recipe(self) -> Recipe:
        """What is trained, and how."""
        ...

    @property
    def model(self) -> nn.Module:
        """What is trained: freshly made, or holding its initial weights."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        ...

    @property
    def loss(self) -> Loss | None:
        """The task's loss; None for cross-entropy."""
        ...

    @property
    def mix(self) -> Mix | None:
        """What a batch goes through on its device before a step."""
        ...

    def batches(self, start: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of every batch, from (epoch, step) to the end of training."""
        ...

    def evaluate(self, state: TrainState) -> Scores:
        """The held-out figures of the model as it is now; every process calls it."""
        ...

    def finish(self, finished: Finished, out: Path) -> Sequence[RunRow]:
        """Write the task's own files into ``out``; the run's rows, the first of which is its result.

        The first process alone calls it.
        """
        ...


def run(
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


def try_directory(out: Path) -> None:
    """Try to write where ``out`` is, or will be, and leave nothing behind.

    Raises:
        InputError: if it cannot be written.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    writable_dir(out)
    for path in made:
        path.rmdir()


def check_space(recipe: Recipe, model: nn.Module, out: Path) -> int:
    """The bytes that the run's checkpoints will take; refuses a disk that does not have them.

    The newest one, the one being written, the best one (it may be an older one), those kept for good, and the final weights.

    Raises:
        InputError: naming what is needed and what is free.
    """
    one = checkpoint.size(model, ema=recipe.ema is not None)
    kept = recipe.epochs // recipe.keep_every if recipe.keep_every else 0
    need = (3 + kept) * one + one // 2
    existing = next(path for path in (out, *out.resolve().parents) if path.exists())
    there = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if out.is_dir() else 0
    free = shutil.disk_usage(existing).free
    if free + there < need:
        raise InputError(
            "not enough room for the checkpoints",
            got=f"{free / 1e9:.2f} GB free at {out}",
            expected=f"{need / 1e9:.2f} GB: {3 + kept} checkpoints of {one / 1e9:.2f} GB, and the final weights",
            remedy="make room, choose another --out, or keep fewer (keep_every)",
        )
    return need


def check_directory(recipe: Recipe, out: Path, resume: bool) -> None:
    """Refuse a directory that holds another run, or on a resume another recipe's.

    Raises:
        InputError: naming the differences.
    """
    if resume:
        changed = recipes.differences(read_recipe(out), recipe, _FREE_TO_CHANGE)
        if changed:
            raise InputError(
                "the run has another recipe",
                got="; ".join(changed) + " (run / asked for)",
                expected="the recipe of the run",
                remedy="leave the settings out to resume as it was, or choose another --out",
            )
    elif (out / "config.yaml").exists():
        raise InputError(
            "the directory holds a run already",
            got=str(out),
            expected="a new directory",
            remedy=f"--resume to continue it, or another --out; nothing in {out} was changed",
        )


def read_recipe(out: Path) -> Recipe:
    """The recipe of a run directory.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    path = out / "config.yaml"
    if not path.is_file():
        raise InputError(
            "not a run directory",
            got=f"{out} without config.yaml",
            expected="the --out of a `wfbench train`",
            remedy="check the path",
        )
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise InputError("cannot read the run's recipe", got=f"{path}: {' '.join(str(e).split())}") from e
    return recipes.parse(data, str(path))


def read_result(out: Path) -> RunRow:
    """The result of a finished run.

    Raises:
        InputError: if the run is not finished, or is none.
    """
    read_recipe(out)
    path = out / "result.json"
    try:
        return _RESULT.validate_json(path.read_text())
    except OSError as e:
        raise InputError(
            "the run is not finished",
            got=f"{out} without result.json",
            expected="a finished run",
            remedy=f"wfbench train --resume --out {out}",
        ) from e
    except ValidationError as e:
        raise InputError(
            "cannot read the run's result", got=f"{path}: {e.errors()[0]['msg']}", expected="a result of this version"
        ) from e


def read_rows(out: Path) -> Sequence[RunRow]:
    """All training rows of a finished run: of its raw weights, and of the averaged ones where it has them."""
    rows, _ = records.read(out / "records.jsonl")
    return [row for row in rows if isinstance(row, RunRow)]


def chosen(recipe: Recipe, mlp_ratio: float, depth: int) -> Chosen | None:
    """What a sweep chose for this run, for its row, beside the model's own ratio and depth; None for a run as it is."""
    if recipe.chosen is None:
        return None
    return Chosen(**recipe.chosen.model_dump(), mlp_ratio=mlp_ratio, depth=depth, lr=recipe.optim.lr)
