"""``wfbench train --dry-run``: all that a run will do, and all that could stop it later, before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from wfbench import recipe as recipes
from wfbench.data.what_counts import in_few_words
from wfbench.measure.flops import bytes_of_training
from wfbench.recipe import Recipe
from wfbench.tasks import run_directory
from wfbench.tasks.common import try_count
from wfbench.tasks.jobs import pinned, prepare
from wfbench.tasks.jobs.session import identity_of
from wfbench.training import TrainState, checkpoint, distributed


@dataclass(frozen=True)
class DryRun:
    """What a run will do.

    Attributes:
        recipe: the resolved recipe, as YAML.
        data: what was found: name, images and classes.
        steps_per_epoch: optimiser steps of an epoch.
        steps: of the whole run.
        batch: images of a step: over all processes, of one process, and of one forward pass.
        rates: learning rates by step, where the schedule turns and between.
        groups: for each of the optimiser's groups, weight decay, tensors and parameters.
        parameters: of the model.
        gmacs: of one image's forward pass, on the order of evaluation that is quoted; None, and then why_no_macs says why.
        why_no_macs: the counts' disagreement, or what makes them a lower bound, and that bound.
        step_bytes: most bytes alive at once in a step of one process, in float32, by the shapes alone.
        checkpoint_bytes: of one checkpoint.
        disk_bytes: that the run's checkpoints take at the most.
        out: the run directory.
    """

    recipe: str
    data: Mapping[str, str]
    steps_per_epoch: int
    steps: int
    batch: tuple[int, int, int]
    rates: Mapping[int, float]
    groups: tuple[Mapping[str, float], ...]
    parameters: int
    gmacs: float | None
    why_no_macs: str | None
    step_bytes: int
    checkpoint_bytes: int
    disk_bytes: int
    out: Path


def dry_run(
    recipe: Recipe, out: Path, *, resume: bool = False, processes: int | None = None, allow_changed_code: bool = False
) -> DryRun:
    """Check a run and say what it will do; nothing is written but a file that is removed at once.

    Opens the data, reads the initial weights, builds the model, takes a few training images through their transforms and
    a first one of evaluation through the model too, tries the directory, and asks for the room on its disk.

    Raises:
        InputError, MixerError: for whatever would stop the run.
    """
    recipe = pinned(recipe)
    run_directory.check_directory(recipe, out, resume)
    world = processes or distributed.world()
    checkpoint.check(out / "checkpoint")
    run = prepare(recipe)
    if resume:
        identity_of(run, out, resume=True, allow_changed_code=allow_changed_code)
    replace(run, world=world).try_data()
    run_directory.try_directory(out)
    disk_bytes = run_directory.check_space(recipe, run.model, out)
    state = TrainState(run.model, run.recipe, run.steps_per_epoch)
    own = recipe.batch_size // world
    part = min(recipe.compute.micro_batch or own, own)
    count, why = try_count(run.model, (1, run.in_channels, *run.image_size))
    return DryRun(
        recipe=recipes.dump(recipe),
        data={
            "data": run.dataset.name,
            "training images": f"{len(run.dataset.train):,}",
            "held-out images": f"{len(run.dataset.val):,}",
            "classes": f"{len(run.dataset.classes):,}",
            "passed over": in_few_words(run.passed_over),
            "weights begin": f"from {run.pretraining if recipe.model.init_weights else f'seed {recipe.seed}'}",
        },
        steps_per_epoch=run.steps_per_epoch,
        steps=run.steps_per_epoch * recipe.epochs,
        batch=(recipe.batch_size, own, part),
        rates=_rates(state),
        groups=_groups(state.optimizer),
        parameters=sum(p.numel() for p in run.model.parameters()),
        gmacs=None if count is None or count.number is None else count.number / 1e9,
        why_no_macs=f"at least {count.macs / 1e9:.4g} GMACs: {count.why_bound}" if count and count.why_bound else why,
        step_bytes=bytes_of_training(run.model, (part, run.in_channels, *run.image_size)),
        checkpoint_bytes=checkpoint.size(run.model, ema=recipe.ema is not None),
        disk_bytes=disk_bytes,
        out=out,
    )


def _rates(state: TrainState) -> dict[int, float]:
    """The learning rate at the first step, the end of warm-up, quarters of the rest, and the last step."""
    recipe, steps = state.recipe, state.steps_per_epoch
    last, warm = recipe.epochs * steps - 1, recipe.optim.warmup_epochs * steps
    found = {0: state.lr}
    for step in sorted({1, warm, *(warm + (last - warm) * k // 4 for k in range(5))} - {0}):
        if step <= last:
            state.scheduler.step_update(step - 1)
            found[step] = state.lr
    return found


def _groups(optimizer: torch.optim.Optimizer) -> tuple[Mapping[str, float], ...]:
    def of(group: dict) -> Mapping[str, float]:
        tensors: list[nn.Parameter] = group["params"]
        scale = {"lr_scale": group["lr_scale"]} if "lr_scale" in group else {}
        return {
            "weight_decay": group["weight_decay"],
            "tensors": len(tensors),
            "parameters": sum(p.numel() for p in tensors),
        } | scale

    return tuple(of(group) for group in optimizer.param_groups)
