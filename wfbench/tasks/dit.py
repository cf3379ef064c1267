"""Training a denoiser: composes model, data or latents, diffusion, loop and record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from wfbench import models
from wfbench import recipe as recipes
from wfbench.data import (
    Batch,
    Dataset,
    Latents,
    Subset,
    eval_batches,
    held_out_latents,
    latent_batches,
    open_dataset,
    open_latents,
    positions,
    steps_per_epoch,
    train_batches,
)
from wfbench.diffusion import HeldOut, Noising, held_out_terms, noised_loss
from wfbench.errors import InputError
from wfbench.models import DiT
from wfbench.recipe import DataSection, DiffusionSection, Recipe
from wfbench.records import DiTRow
from wfbench.tasks.classify import read_weights
from wfbench.tasks.common import precision_of, try_count
from wfbench.tasks.training import Finished
from wfbench.training import Loss, Mix, Scores, TrainState, distributed

_WEIGHTS = {"": "raw", "ema_": "ema"}


@dataclass(frozen=True)
class Run:
    """A recipe made concrete: its data and its freshly initialised model. It is the `training.Job` of a denoiser."""

    recipe: Recipe
    dataset: Dataset | Latents
    model: DiT
    #: What the weights began from, for the record.
    pretraining: str = "none"
    #: Training images that could not be read and were replaced, each with the reason.
    bad_images: dict[str, str] = field(default_factory=dict)
    #: Which of how many processes this is.
    rank: int = field(default_factory=distributed.rank)
    world: int = field(default_factory=distributed.world)

    @property
    def section(self) -> DiffusionSection:
        """What the recipe says of diffusion."""
        assert self.recipe.diffusion is not None  # the recipe sees to it
        return self.recipe.diffusion

    @property
    def image_size(self) -> tuple[int, int]:
        """Of the model's input."""
        return self.model.config.image_size

    @property
    def in_channels(self) -> int:
        """Channels of the model's input."""
        return self.model.config.in_channels

    @property
    def space(self) -> str:
        """What the model sees: "pixel", or "latent" and the start of the autoencoder's SHA-256."""
        if isinstance(self.dataset, Dataset):
            return "pixel"
        return f"latent {self.dataset.train.manifest['codec_sha256'][:12]}"

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return steps_per_epoch(self.dataset.train, self.recipe.batch_size)

    @property
    def loss(self) -> Loss | None:
        """The hybrid loss of what `mix` has noised."""
        return noised_loss

    @property
    def mix(self) -> Mix | None:
        """Steps, noise and dropped labels of every batch: those of one process, however many there are."""
        own = positions(self.recipe.batch_size, self.rank, self.world)
        return Noising(self.model.null_class, self.section.label_dropout, self.recipe.batch_size, tuple(own))

    def batches(self, start: tuple[int, int]) -> Iterator[Batch]:
        """This process's part of every training batch: images from -1 to 1, or latents."""
        recipe, data = self.recipe, self.recipe.data
        if isinstance(self.dataset, Latents):
            return latent_batches(
                self.dataset.train,
                data,
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                epochs=recipe.epochs,
                start=start,
                rank=self.rank,
                world=self.world,
            )
        return train_batches(
            self.dataset.train,
            data,
            self.image_size,
            self.in_channels,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epochs=recipe.epochs,
            start=start,
            rank=self.rank,
            world=self.world,
            told=self._replaced,
        )

    def _replaced(self, name: str, reason: str) -> None:
        self.bad_images[name] = reason
        warnings.warn(f"{name} cannot be read and was replaced by another image of its class: {reason}", stacklevel=2)

    def evaluate(self, state: TrainState) -> Scores:
        """The held-out loss of the raw weights, and that of the averaged ones, which then decide the best epoch."""
        for bad in distributed.gather(self.bad_images):
            self.bad_images.update(bad)
        found = {"": self.evaluation(state.model)}
        if state.ema is not None:
            found["ema_"] = self.evaluation(state.ema.module)
        metrics: dict[str, float | int] = {f"{prefix}loss": held_out.loss for prefix, held_out in found.items()}
        return Scores(metrics | {"samples": found[""].samples}, -found[max(found)].loss, found)

    @torch.no_grad()
    def evaluation(self, model: nn.Module) -> HeldOut:
        """A model of this run on the held-out samples, in the precision that it was trained in.

        Where several processes evaluate together, each gets the whole result, which is that of a single one.
        """
        device = next(model.parameters()).device
        size, bins = self.recipe.compute.micro_batch or 256, self.section.held_out_bins
        training, own = model.training, []
        model.eval()
        try:
            for k, (x, y) in enumerate(self.held_out(batch_size=size)):
                with precision_of(self.recipe, device):
                    own.append(held_out_terms(model, x, y, (k * self.world + self.rank) * size, bins=bins, device=device))
        finally:
            model.train(training)
        by_rank = distributed.gather(own)
        ordered = [by_rank[k % len(by_rank)][k // len(by_rank)] for k in range(sum(map(len, by_rank)))]
        return HeldOut.of(torch.cat(ordered, dim=2))

    def held_out(self, *, batch_size: int) -> Iterator[Batch]:
        """This process's batches of the held-out samples, as many as the recipe says, evenly spread."""
        split, data = self.dataset.val, self.recipe.data
        asked = self.section.held_out_samples
        chosen = range(len(split)) if asked is None else [k * len(split) // asked for k in range(asked)]
        if isinstance(self.dataset, Latents):
            own = {"batch_size": batch_size, "rank": self.rank, "world": self.world}
            return held_out_latents(self.dataset.val, data, chosen, **own)
        some = Subset(self.dataset.val, chosen)
        return eval_batches(
            some, data, self.image_size, self.in_channels, batch_size=batch_size, rank=self.rank, world=self.world
        )

    def try_data(self) -> None:
        """Take a few training samples and one held-out one through their transforms, so that none of these fails in an hour.

        Raises:
            InputError: for a batch that the processes cannot share, settings that do not fit, or images that cannot be read.
        """
        self.batches((0, 0))  # it is not begun, but refuses what does not fit
        data = self.recipe.data.model_copy(update={"workers": 0})
        few = self.recipe.model_copy(update={"batch_size": min(self.recipe.batch_size, 2 * self.world), "data": data})
        first = replace(self, recipe=few)
        next(first.batches((0, 0)))
        next(first.held_out(batch_size=1))

    def finish(self, finished: Finished, out: Path) -> list[DiTRow]:
        """Rows of the averaged weights, if there are any, and of the raw ones; no files beside the weights."""
        return [self._row(finished, prefix) for prefix in sorted(finished.scores.detail, reverse=True)]

    def _row(self, finished: Finished, prefix: str) -> DiTRow:
        held_out: HeldOut = finished.scores.detail[prefix]
        recipe, progress, config = self.recipe, finished.progress, self.model.config
        count, error = try_count(self.model.cpu(), (1, self.in_channels, *self.image_size))
        seconds = max(progress.train_seconds, 1e-9)
        curve = tuple((row["epoch"], row[f"{prefix}loss"]) for row in progress.rows if f"{prefix}loss" in row)
        return DiTRow(
            environment=finished.environment,
            created=finished.progress.began,
            model=recipe.model.name,
            mixer=config.mixer,
            local_conv=config.local_conv,
            pos_embed=config.pos_embed,
            **self.held_out_figures(held_out, prefix),
            recipe=recipe.name,
            recipe_digest=recipes.digest(recipe),
            seed=recipe.seed,
            epochs=recipe.epochs,
            steps=finished.state.step_count,
            batch=recipe.batch_size,
            parameters=sum(p.numel() for p in self.model.parameters()),
            macs=None if count is None else count.macs,
            macs_error=error,
            ema_decay=recipe.ema.decay if recipe.ema is not None and prefix else None,
            pretraining=self.pretraining,
            best_loss=min(loss for _, loss in curve),
            train_curve=tuple((row["epoch"], row["train_loss"]) for row in progress.rows),
            held_out_curve=curve,
            bad_images=len(self.bad_images),
            processes=distributed.world(),
            compiled=recipe.compute.compile,
            channels_last=recipe.compute.channels_last,
            grad_checkpointing=recipe.compute.grad_checkpointing,
            micro_batch=recipe.compute.micro_batch,
            train_seconds=progress.train_seconds,
            images_per_second=progress.images / seconds,
            data_wait_share=progress.wait_seconds / seconds,
        )

    def held_out_figures(self, held_out: HeldOut, prefix: str) -> dict[str, object]:
        """What every row with a held-out loss says of it; ``prefix`` tells whose weights: "" or "ema_"."""
        precision = self.recipe.compute.precision
        return {
            "dataset": self.dataset.name,
            "space": self.space,
            "image_size": self.image_size,
            "dtype": "float32" if precision == "float32" else f"{precision} autocast",
            "weights": _WEIGHTS[prefix],
            "loss": held_out.loss,
            "edges": held_out.edges,
            "mse": held_out.mse,
            "vb": held_out.vb,
            "samples": held_out.samples,
            "noise_seed": held_out.seed,
        }


def prepare(recipe: Recipe) -> Run:
    """Open the data and build the model, whose weights follow from the recipe's seed, or its initial weights.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be.
    """
    dataset: Dataset | Latents
    if recipe.data.source == "latents":
        dataset = open_latents(_directory(recipe.data), verify=distributed.is_main())
    else:
        dataset = open_dataset(recipe.data)
    asked = recipe.diffusion.held_out_samples if recipe.diffusion is not None else None
    if asked is not None and asked > len(dataset.val):
        raise InputError(
            "so many held-out samples cannot be taken",
            got=f"diffusion.held_out_samples = {asked:,}",
            expected=f"at most {len(dataset.val):,}, in {dataset.name}",
        )
    section, pretraining = recipe.model, "none"
    latent_channels = dataset.shape[0] if isinstance(dataset, Latents) else None
    model = build(recipe, len(dataset.classes), latent_channels, seed=recipe.seed)
    if isinstance(dataset, Latents) and dataset.shape[1:] != model.config.image_size:
        raise InputError(
            "the model has another size than the latents",
            got=f"model.image_size = {list(model.config.image_size)}",
            expected=f"{list(dataset.shape[1:])}, as in {dataset.name}",
        )
    if section.init_weights is not None:
        tensors, sha256 = read_weights(Path(section.init_weights))
        models.load_initial(model, tensors)
        pretraining = f"{Path(section.init_weights).name} {sha256[:12]}"
    return Run(recipe, dataset, model, pretraining)


def build(recipe: Recipe, classes: int, latent_channels: int | None, *, seed: int | None = None) -> DiT:
    """The recipe's model for so many classes, with the channels of a latent where it sees latents.

    Its initial values follow from ``seed``, if there is one (see `models.create`).

    Raises:
        InputError, MixerError: for a model that is no denoiser, or cannot be.
    """
    section = recipe.model
    if section.init_head != "load":
        raise InputError("a denoiser has no head", got=f"model.init_head = {section.init_head}", expected="load")
    overrides = section.overrides()
    if latent_channels is not None:
        given = overrides.setdefault("in_channels", latent_channels)
        if given != latent_channels:
            raise InputError(
                "the model has other channels than the latents", got=f"model.in_channels = {given}", expected=latent_channels
            )
    model = models.create(section.name, section.mixer, section.image_size, classes, seed=seed, **overrides)
    if not isinstance(model, DiT):
        raise InputError("not a denoiser", got=f"model.name = {section.name}", expected="dit-* or weightformer-dit-*")
    return model


def _directory(data: DataSection) -> Path:
    if data.path is None:
        raise InputError(
            "the recipe does not say where the latents are",
            got="data.source = latents, data.path = null",
            expected="a folder with train/ and val/, each of a `wfbench data extract-latents`",
            remedy="--data PATH",
        )
    return Path(data.path)
