"""What every kind of training shares: its data, its batches, its trial before the first step, and most of its row.

A new kind is one file with a class derived from `Job`, which says how it evaluates and what its rows hold, and a function
``prepare`` that makes one of a recipe.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wfbench import models
from wfbench import recipe as recipes
from wfbench.data import (
    Batch,
    Dataset,
    DenseDataset,
    Latents,
    ProbeDataset,
    Subset,
    eval_batches,
    steps_per_epoch,
    train_batches,
)
from wfbench.data.what_counts import in_few_words
from wfbench.errors import InputError
from wfbench.measure.strength import predicting_layers, strengths
from wfbench.models import DiT, VisionTransformer
from wfbench.recipe import Recipe
from wfbench.records import Chosen, Environment, Row, Strength
from wfbench.tasks.common import counted_fields, dtype_name, factors_of, try_count
from wfbench.tasks.identity import Identity, identify
from wfbench.tasks.weights import located_file, read_metadata, read_weights
from wfbench.training import Loss, Mix, Progress, Scores, TrainState, distributed

#: Names of the weights in rows, by the prefix of their figures in metrics.jsonl.
WEIGHTS_OF = {"": "raw", "ema_": "ema"}


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind beside its weights.

    Attributes:
        state: the training state after the last step.
        progress: what the run cost.
        scores: the last evaluation.
        environment: where its last session ran, stamped at that one's beginning.
        identity: the code and the data that it was made with; None for a run that was begun by an earlier version.
        strength_before: the strength of predicted parts in the initial weights; None where there is none.
    """

    state: TrainState
    progress: Progress
    scores: Scores
    environment: Environment
    identity: Identity | None
    strength_before: tuple[Strength, ...] | None = None


@dataclass(frozen=True)
class Job(ABC):
    """A recipe made concrete: its data and its freshly initialised model."""

    #: Samples that are evaluated at once where the recipe does not say.
    default_held_out_batch: ClassVar[int] = 256

    recipe: Recipe
    dataset: Dataset | Latents | DenseDataset | ProbeDataset
    model: Any
    #: What the weights began from, for the record.
    pretraining: str = "none"
    #: Training images that could not be read and were replaced, each with the reason.
    bad_images: dict[str, str] = field(default_factory=dict)
    #: Which of how many processes this is.
    rank: int = field(default_factory=distributed.rank)
    world: int = field(default_factory=distributed.world)

    @property
    def image_size(self) -> tuple[int, int]:
        """Of the model's input."""
        return self.model.config.image_size

    @property
    def in_channels(self) -> int:
        """Channels of the model's input."""
        return self.model.config.in_channels

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Files of the data that look like samples and are not read."""
        return getattr(self.dataset, "passed_over", ())

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the model's tokens."""
        return models.patch_grid(self.image_size, self.model.config.patch_size)

    @functools.cached_property
    def identity(self) -> Identity:
        """The code, the data and the initial weights of this job, as they are now; archives of images are read for it."""
        found = identify(self.model.config.mixer, self.dataset, self.model.config.between)
        return found.model_copy(update={"pretraining": self.pretraining})

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch: its whole batches."""
        return steps_per_epoch(self.dataset.train, self.recipe.batch_size)

    @property
    def loss(self) -> Loss | None:
        """The task's loss; None for cross-entropy."""
        return None

    @property
    def mix(self) -> Mix | None:
        """What a batch goes through on its device before a step; None for nothing."""
        return None

    def batches(self, start: tuple[int, int]) -> Iterator[Batch]:
        """This process's part of every training batch, from (epoch, step) to the end of training."""
        assert isinstance(self.dataset, Dataset)
        return train_batches(
            self.dataset.train,
            self.recipe.data,
            self.image_size,
            self.in_channels,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epochs=self.recipe.epochs,
            start=start,
            rank=self.rank,
            world=self.world,
            on_replaced=self._note_bad_image,
        )

    def _note_bad_image(self, name: str, reason: str) -> None:
        self.bad_images[name] = reason
        warnings.warn(f"{name} cannot be read and was replaced by {self.replacement}: {reason}", stacklevel=2)

    @property
    def replacement(self) -> str:
        """What takes the place of a training image that cannot be read, in words."""
        return "another image of its class"

    def held_out(self, image_size: tuple[int, int] | None = None, *, batch_size: int) -> Iterator[Batch]:
        """This process's batches of the held-out images; at the model's own size, if no other is given."""
        assert isinstance(self.dataset, Dataset)
        return eval_batches(
            self.dataset.val,
            self.recipe.data,
            image_size or self.image_size,
            self.in_channels,
            batch_size=batch_size,
            rank=self.rank,
            world=self.world,
        )

    @property
    def held_out_batch(self) -> int:
        """Samples that are evaluated at once."""
        return self.recipe.compute.eval_batch or self.recipe.compute.micro_batch or self.default_held_out_batch

    def try_data(self) -> None:
        """Take a few training samples and a held-out one through their transforms, so that none of these fails in an hour.

        Raises:
            InputError: for a batch that the processes cannot share, settings that do not fit, or images that cannot be read.
            MixerError: for a mixer that cannot work on such images.
        """
        _ = self.steps_per_epoch  # before anything as large as a batch is made
        self.batches((0, 0))  # it is not begun, but refuses what does not fit
        data = self.recipe.data.model_copy(update={"workers": 0})
        size = min(self.recipe.batch_size, 2 * self.world)
        few = replace(self, recipe=self.recipe.model_copy(update={"batch_size": size, "data": data}))
        self.try_samples(next(few.batches((0, 0))), next(few.held_out(batch_size=1)))

    def try_samples(self, batch: Batch, held_out: Batch) -> None:  # noqa: B027 (by default there is no more to try)
        """What else a kind of training tries on a few training samples and on a held-out one; by itself nothing.

        Raises:
            InputError, MixerError: as `try_data`.
        """

    def evaluate(self, state: TrainState) -> Scores:
        """The held-out figures of raw and of averaged weights, each under names of their own; every process calls it."""
        for bad in distributed.gather(self.bad_images):
            self.bad_images.update(bad)
        found = {"": self.evaluation(state.model)}
        if state.ema is not None:
            found["ema_"] = self.evaluation(state.ema.module)
        scores = self.scores(found)
        of_weights = {"": state.model} | ({} if state.ema is None else {"ema_": state.ema.module})
        measured = {prefix: self.strength(model) for prefix, model in of_weights.items()}
        strong = {prefix: strength for prefix, strength in measured.items() if strength is not None}
        curves = {name: value for prefix, strength in strong.items() for name, value in _curves(prefix, strength).items()}
        return replace(scores, metrics={**scores.metrics, **curves}, strengths=strong)

    def strength(self, model: nn.Module) -> tuple[Strength, ...] | None:
        """How strong the predicted part of each layer is on a few held-out samples; None where the mixer has none.

        Every process measures the same samples. No random number is drawn, and the random states stay as they are.
        """
        if not predicting_layers(model):
            return None
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return strengths(model, lambda: self.outcomes(model, self.few_samples))

    #: How many held-out samples, evenly spread, the strength of predicted parts is measured on, if there are as many.
    strength_samples: ClassVar[int] = 64

    @functools.cached_property
    def few_samples(self) -> list[Batch]:
        """Those samples, the same ones in every process."""
        data = self.recipe.data.model_copy(update={"workers": 0})
        alone = replace(self, recipe=self.recipe.model_copy(update={"data": data}), rank=0, world=1)
        return list(alone.with_few_held_out(self.strength_samples).held_out(batch_size=self.held_out_batch))

    def with_few_held_out(self, count: int) -> Job:
        """The same with at most so many held-out samples, evenly spread."""
        assert isinstance(self.dataset, Dataset)
        chosen = spread(len(self.dataset.val), count)
        return replace(self, dataset=replace(self.dataset, val=Subset(self.dataset.val, chosen)))

    @abstractmethod
    def outcomes(self, model: nn.Module, batches: Iterable[Batch], first: int = 0) -> Tensor:
        """What each sample of some held-out batches gives, by the evaluator of this kind of training: (samples, ...).

        Args:
            model: of this run's classes, in evaluation or not; its mode is restored.
            batches: held-out samples.
            first: the place of their first one among all of them.
        """

    @abstractmethod
    def evaluation(self, model: nn.Module) -> Any:
        """A model of this run on the held-out samples, in the precision that it was trained in."""

    @abstractmethod
    def scores(self, found: Mapping[str, Any]) -> Scores:
        """What the loop is to know of evaluations: those of the raw weights under "", of the averaged ones under "ema_"."""

    @abstractmethod
    def finish(self, finished: Finished, out: Path) -> Sequence[Row]:
        """Write the task's own files into ``out``; the run's rows, the first of which is its result, a `RunRow`.

        The first process alone calls it.
        """

    @property
    def chosen(self) -> Chosen | None:
        """What a sweep chose for this run, beside the model's own ratio and depth; None for a run as it is."""
        chosen, config = self.recipe.chosen, self.model.config
        if chosen is None:
            return None
        return Chosen(**chosen.model_dump(), mlp_ratio=config.mlp_ratio, depth=config.depth, lr=self.recipe.optim.lr)

    def run_fields(self, recipe_digest: str) -> dict[str, Any]:
        """What rows of evaluations, scores and ablations say of the run, whose own row has this digest."""
        return {
            "mixer_digest": self.identity.mixer_digest,
            "model_digest": self.identity.model_digest,
            "data_digest": self.identity.data_digest,
            "passed_over": len(self.passed_over),
            "model": self.recipe.model.name,
            **factors_of(self.model.config),
            "recipe": self.recipe.name,
            "recipe_digest": recipe_digest,
            "seed": self.recipe.seed,
        }

    def row_fields(self, finished: Finished, prefix: str) -> dict[str, Any]:
        """What the rows of all kinds of training hold; ``prefix`` says of which weights: "" or "ema_"."""
        recipe, progress, config = self.recipe, finished.progress, self.model.config
        count, error = try_count(self.model.cpu(), (1, self.in_channels, *self.image_size))
        seconds = max(progress.train_seconds, 1e-9)
        traced = {} if finished.identity is None else finished.identity.model_dump()
        return traced | {
            "environment": finished.environment,
            "created": progress.began,
            "recipe": recipe.name,
            "recipe_digest": recipes.digest(recipe),
            "dataset": self.dataset.name,
            "model": recipe.model.name,
            **factors_of(config),
            "seed": recipe.seed,
            "image_size": self.image_size,
            "epochs": recipe.epochs,
            "steps": finished.state.step_count,
            "batch": recipe.batch_size,
            "dtype": dtype_name(recipe),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **counted_fields(count, error),
            "weights": WEIGHTS_OF[prefix],
            "pretraining": self.pretraining,
            "bad_images": len(self.bad_images),
            "passed_over": len(self.passed_over),
            "processes": distributed.world(),
            "compiled": recipe.compute.compile,
            "channels_last": recipe.compute.channels_last,
            "grad_checkpointing": recipe.compute.grad_checkpointing,
            "micro_batch": recipe.compute.micro_batch,
            "ways": tuple(progress.ways) if len(progress.ways) > 1 else (),
            "train_seconds": progress.train_seconds,
            "images_per_second": progress.images / seconds,
            "data_wait_share": progress.wait_seconds / seconds,
            "strength": finished.scores.strengths.get(prefix),
            "strength_before": finished.strength_before,
            "strength_samples": sum(len(x) for x, _ in self.few_samples) if finished.scores.strengths else None,
        }


def spread(size: int, count: int) -> list[int]:
    """At most so many places of a list of this size, evenly spread."""
    count = min(size, count)
    return [k * size // count for k in range(count)]


def _curves(prefix: str, found: Iterable[Strength]) -> dict[str, float]:
    """Strengths as an epoch's figures, where they are numbers: of the whole predicted part and of the image's own, by layer."""
    named: dict[str, float | None] = {}
    for strength in found:
        name = f"{prefix}strength_{strength.slot}_{strength.layer}"
        named |= {name: strength.total, f"{name}_own": strength.own}
    return {name: value for name, value in named.items() if value is not None}


def load_initial(
    recipe: Recipe, model: VisionTransformer | DiT, *, fresh_head: bool = False, classes: Sequence[str] | None = None
) -> str:
    """Load the weights that the recipe begins from, if it names any; without their head if ``fresh_head``, or the recipe asks.

    A head, and a denoiser's table of classes, is loaded with its rows in the order of ``classes``, where the weights name their
    own; they must be the same.

    Returns:
        For the record, what they are: a file's name, or a repository of the Hub with its commit, and the start of the file's
        SHA-256; or "none".

    Raises:
        InputError: for a file that cannot be read, or weights that do not fit.
    """
    section = recipe.model
    if section.init_weights is None:
        return "none"
    path, called = located_file(section.init_weights)
    (tensors, sha256), about = read_weights(path), read_metadata(path)
    fresh = fresh_head or section.init_head == "fresh"
    if about is not None and classes is not None and not fresh:
        tensors |= _in_order(tensors, about.classes, tuple(classes), path)
    models.load_initial(model, tensors, fresh_head=fresh, grid=None if about is None else about.grid)
    return f"{called} {sha256[:12]}"


#: The tensors with a row for each class: of a head, and of a denoiser's table, where the null class follows.
_BY_CLASS = ("head.weight", "head.bias", "y_embedder.embedding_table.weight")


def _in_order(tensors: Mapping[str, Tensor], then: tuple[str, ...], now: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """The tensors with a row for each class, in the order of the classes now."""
    if then == now:
        return {}
    if set(then) != set(now):
        raise InputError(
            "the initial weights have other classes than the data",
            got=f"{path}: {in_few_words(then)}",
            expected=f"the classes of the data, in any order: {in_few_words(now)}",
            remedy="data with the classes of the weights"
            + ("" if _BY_CLASS[2] in tensors else ", or model.init_head=fresh to train a new head"),
        )
    rows = [then.index(name) for name in now]
    return {key: torch.cat([t[rows], t[len(rows) :]]) for key, t in tensors.items() if key in _BY_CLASS}
