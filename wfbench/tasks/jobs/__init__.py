"""Training by a recipe, whatever its kind.

base.py      what every kind shares; a new kind derives from `Job`
classify.py, dit.py, dense.py, probe.py     one kind each
session.py   one session of a run, from its directory to its result
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import torch

from wfbench.locks import locked
from wfbench.recipe import Recipe
from wfbench.tasks import hub
from wfbench.tasks.common import check_carried
from wfbench.tasks.jobs import classify, dense, dit, probe
from wfbench.tasks.jobs.session import identity_of, run_session
from wfbench.tasks.run_directory import RunRow, check_directory, read_result
from wfbench.training import Trackers, Watch, distributed

__all__ = ["pinned", "prepare", "train"]


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the commit of the weights that it begins from, where it names a repository of the Hub.

    So a resume begins from the same ones, and the digest of the recipe is of these.

    Raises:
        InputError: for weights that cannot be had.
    """
    name = recipe.model.init_weights
    if name is None or not hub.is_name(name):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"init_weights": hub.fetch(name).name})})


def prepare(recipe: Recipe) -> classify.ClassifyJob | dit.DiTJob | dense.DenseJob | probe.ProbeJob:
    """Open the data and build the model of a recipe's task.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be, or a model in which no layer carries the mixer.
    """
    job = _prepare(recipe)
    check_carried(job.model.config)
    return job


def _prepare(recipe: Recipe) -> classify.ClassifyJob | dit.DiTJob | dense.DenseJob | probe.ProbeJob:
    """The job of a recipe's task."""
    match recipe.task:
        case "dit":
            return dit.prepare(recipe)
        case "dense" if recipe.data.probe is not None:
            return probe.prepare(recipe)
        case "dense":
            return dense.prepare(recipe)
        case "classify":
            return classify.prepare(recipe)


def train(
    recipe: Recipe,
    out: Path,
    watch: Watch,
    *,
    device: torch.device,
    resume: bool = False,
    trackers: Trackers | None = None,
    allow_changed_code: bool = False,
) -> RunRow:
    """Train a recipe into the run directory ``out``; see `run_session`.

    With ``allow_changed_code`` a run is also resumed with other code than it was begun with, and its rows say so.

    Raises:
        InputError, RunError, Interrupted: as `run_session`.
    """
    recipe = distributed.on_main(lambda: pinned(recipe))
    distributed.on_main(lambda: check_directory(recipe, out, resume))  # before data are read
    with ExitStack() as held:
        distributed.on_main(lambda: held.enter_context(locked(out)))
        distributed.on_main(lambda: check_directory(recipe, out, resume))  # as the process that had it before left it
        if resume and (out / "result.json").is_file():
            return read_result(out)
        job = prepare(recipe)
        identity = distributed.on_main(lambda: identity_of(job, out, resume=resume, allow_changed_code=allow_changed_code))
        distributed.on_main(job.try_data)
        return run_session(job, identity, out, watch, device=device, resume=resume, trackers=trackers)
