"""Training by a recipe, whatever its kind.

base.py      what every kind shares; a new kind derives from `Job`
classify.py, dit.py     one kind each
session.py   one session of a run, from its directory to its result
"""

from __future__ import annotations

from pathlib import Path

import torch

from wfbench.recipe import Recipe
from wfbench.tasks.jobs import classify, dit
from wfbench.tasks.jobs.session import run_session
from wfbench.tasks.run_directory import RunRow, check_directory
from wfbench.training import Trackers, Watch, distributed

__all__ = ["prepare", "train"]


def prepare(recipe: Recipe) -> classify.ClassifyJob | dit.DiTJob:
    """Open the data and build the model of a recipe's task.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be.
    """
    return dit.prepare(recipe) if recipe.task == "dit" else classify.prepare(recipe)


def train(
    recipe: Recipe,
    out: Path,
    watch: Watch,
    *,
    device: torch.device,
    resume: bool = False,
    trackers: Trackers | None = None,
) -> RunRow:
    """Train a recipe into the run directory ``out``; see `run_session`.

    Raises:
        InputError, RunError, Interrupted: as `run_session`.
    """
    distributed.on_main(lambda: check_directory(recipe, out, resume))  # before data are read
    job = prepare(recipe)
    distributed.on_main(job.try_data)
    return run_session(job, out, watch, device=device, resume=resume, trackers=trackers)
