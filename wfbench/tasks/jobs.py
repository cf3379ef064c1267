"""Which job a recipe is: a classifier, or a denoiser."""

from __future__ import annotations

from pathlib import Path

import torch

from wfbench.recipe import Recipe
from wfbench.records import DiTRow, TrainRow
from wfbench.tasks import classify, dit, training
from wfbench.training import Trackers, Watch, distributed


def prepare(recipe: Recipe) -> classify.Run | dit.Run:
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
) -> TrainRow | DiTRow:
    """Train a recipe into the run directory ``out``; see `training.run`.

    Raises:
        InputError, RunError, Interrupted: as `training.run`.
    """
    distributed.on_main(lambda: training.check_directory(recipe, out, resume))  # before data are read
    run = prepare(recipe)
    distributed.on_main(run.try_data)
    return training.run(run, out, watch, device=device, resume=resume, trackers=trackers)
