"""Training a denoiser, of images or of latents."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from wfbench import models
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
)
from wfbench.diffusion import HeldOut, Noising, held_out_terms, noised_loss
from wfbench.errors import InputError, check_finite
from wfbench.models import DiT
from wfbench.recipe import DataSection, DiffusionSection, Recipe
from wfbench.records import DiTRow
from wfbench.tasks.common import dtype_name, precision_of
from wfbench.tasks.jobs.base import WEIGHTS_OF, Finished, Job, load_initial
from wfbench.training import Loss, Mix, Scores, distributed


@dataclass(frozen=True)
class DiTJob(Job):
    """A denoiser, trained by the hybrid loss."""

    dataset: Dataset | Latents
    model: DiT

    @property
    def section(self) -> DiffusionSection:
        """What the recipe says of diffusion."""
        assert self.recipe.diffusion is not None  # the recipe sees to it
        return self.recipe.diffusion

    @property
    def space(self) -> str:
        """What the model sees: "pixel", or "latent" and the start of the autoencoder's SHA-256."""
        if isinstance(self.dataset, Dataset):
            return "pixel"
        return f"latent {self.dataset.train.manifest['codec_sha256'][:12]}"

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
        if isinstance(self.dataset, Dataset):
            return super().batches(start)
        return latent_batches(
            self.dataset.train,
            self.recipe.data,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epochs=self.recipe.epochs,
            start=start,
            rank=self.rank,
            world=self.world,
        )

    def held_out(self, image_size: tuple[int, int] | None = None, *, batch_size: int) -> Iterator[Batch]:
        """This process's batches of the held-out samples, as many as the recipe says, evenly spread."""
        split, data = self.dataset.val, self.recipe.data
        asked = self.section.held_out_samples
        chosen = range(len(split)) if asked is None else [k * len(split) // asked for k in range(asked)]
        if isinstance(self.dataset, Latents):
            own = {"batch_size": batch_size, "rank": self.rank, "world": self.world}
            return held_out_latents(self.dataset.val, data, chosen, **own)
        some, size = Subset(self.dataset.val, chosen), image_size or self.image_size
        return eval_batches(some, data, size, self.in_channels, batch_size=batch_size, rank=self.rank, world=self.world)

    @torch.no_grad()
    def evaluation(self, model: nn.Module) -> HeldOut:
        """A model of this run on the held-out samples, in the precision that it was trained in.

        Where several processes evaluate together, each gets the whole result, which is that of a single one.
        """
        size = self.held_out_batch
        batches = enumerate(self.held_out(batch_size=size))
        places = (((k * self.world + self.rank) * size, batch) for k, batch in batches)
        by_rank = distributed.gather_from(lambda: self._terms(model, places))
        ordered = [by_rank[k % len(by_rank)][k // len(by_rank)] for k in range(sum(map(len, by_rank)))]
        return HeldOut.of(torch.cat(ordered, dim=2))

    @torch.no_grad()
    def _terms(self, model: nn.Module, batches: Iterable[tuple[int, Batch]]) -> list[Tensor]:
        """mse and vb (2, bins, samples) of each of this process's batches, which come with the place of their first sample."""
        device, bins = next(model.parameters()).device, self.section.held_out_bins
        training, own = model.training, []
        model.eval()
        try:
            for first, (x, y) in batches:
                with precision_of(self.recipe, device):
                    own.append(held_out_terms(model, x, y, first, bins=bins, device=device))
                check_finite(own[-1], "the held-out loss is", f"the {len(x)} samples from {first} on")
        finally:
            model.train(training)
        return own

    def outcomes(self, model: nn.Module, batches: Iterable[Batch], first: int = 0) -> Tensor:
        """The loss of each sample, mse + vb, the mean over the bins of t: (samples,), in float64."""
        given = list(batches)
        places = itertools.accumulate((len(x) for x, _ in given), initial=first)
        terms = torch.cat(self._terms(model, zip(places, given, strict=False)), dim=2)
        return terms.sum(dim=0).mean(dim=0)

    #: Fewer than a classifier's: each is seen in every bin of t.
    strength_samples: ClassVar[int] = 16

    def with_few_held_out(self, count: int) -> DiTJob:
        """The same with at most so many held-out samples, evenly spread."""
        asked = min(count, self.section.held_out_samples or len(self.dataset.val))
        section = self.section.model_copy(update={"held_out_samples": asked})
        return replace(self, recipe=self.recipe.model_copy(update={"diffusion": section}))

    def scores(self, found: Mapping[str, HeldOut]) -> Scores:
        """The held-out loss of raw and averaged weights; the averaged ones, where there are any, decide the best epoch."""
        metrics: dict[str, float | int] = {f"{prefix}loss": held_out.loss for prefix, held_out in found.items()}
        return Scores(metrics | {"samples": found[""].samples}, -found[max(found)].loss, found)

    def finish(self, finished: Finished, out: Path) -> list[DiTRow]:
        """Rows of the averaged weights, if there are any, and of the raw ones; no files beside the weights."""
        return [self._row(finished, prefix) for prefix in sorted(finished.scores.detail, reverse=True)]

    def _row(self, finished: Finished, prefix: str) -> DiTRow:
        recipe, rows = self.recipe, finished.progress.rows
        curve = tuple((row["epoch"], row[f"{prefix}loss"]) for row in rows if f"{prefix}loss" in row)
        figures = self.held_out_figures(finished.scores.detail[prefix], prefix)
        return DiTRow(
            **self.row_fields(finished, prefix) | figures,
            ema_decay=recipe.ema.decay if recipe.ema is not None and prefix else None,
            best_loss=min(loss for _, loss in curve),
            train_curve=tuple((row["epoch"], row["train_loss"]) for row in rows),
            held_out_curve=curve,
            chosen=self.chosen,
            validation=recipe.data.validation,
        )

    def held_out_figures(self, held_out: HeldOut, prefix: str) -> dict[str, object]:
        """What every row with a held-out loss says of it; ``prefix`` says of which weights: "" or "ema_"."""
        return {
            "dataset": self.dataset.name,
            "space": self.space,
            "image_size": self.image_size,
            "dtype": dtype_name(self.recipe),
            "weights": WEIGHTS_OF[prefix],
            "loss": held_out.loss,
            "edges": held_out.edges,
            "mse": held_out.mse,
            "vb": held_out.vb,
            "samples": held_out.samples,
            "noise_seed": held_out.seed,
        }


def prepare(recipe: Recipe) -> DiTJob:
    """Open the data and build the model, whose weights follow from the recipe's seed, or its initial weights.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be.
    """
    dataset: Dataset | Latents
    if recipe.data.source == "latents":
        dataset = open_latents(latents_directory(recipe.data), verify=distributed.is_main())
    else:
        dataset = open_dataset(recipe.data)
    asked = recipe.diffusion.held_out_samples if recipe.diffusion is not None else None
    if asked is not None and asked > len(dataset.val):
        raise InputError(
            "so many held-out samples cannot be taken",
            got=f"diffusion.held_out_samples = {asked:,}",
            expected=f"at most {len(dataset.val):,}, in {dataset.name}",
            remedy="set it to such a number, or leave it out to take all",
        )
    latent_channels = dataset.shape[0] if isinstance(dataset, Latents) else None
    model = build(recipe, len(dataset.classes), latent_channels, seed=recipe.seed)
    if isinstance(dataset, Latents) and dataset.shape[1:] != model.config.image_size:
        raise InputError(
            "the model has another size than the latents",
            got=f"model.image_size = {list(model.config.image_size)}",
            expected=f"{list(dataset.shape[1:])}, as in {dataset.name}",
            remedy=f"set model.image_size to {list(dataset.shape[1:])}",
        )
    return DiTJob(recipe, dataset, model, load_initial(recipe, model, classes=dataset.classes))


def build(recipe: Recipe, classes: int, latent_channels: int | None, *, seed: int | None = None) -> DiT:
    """The recipe's model for so many classes, with the channels of a latent where it sees latents.

    Its initial values follow from ``seed``, if there is one (see `models.create`).

    Raises:
        InputError, MixerError: for a model that is no denoiser, or cannot be.
    """
    section = recipe.model
    if section.init_head != "load":
        raise InputError(
            "a denoiser has no head",
            got=f"model.init_head = {section.init_head}",
            expected="load",
            remedy="leave model.init_head out",
        )
    overrides = section.overrides()
    if latent_channels is not None:
        given = overrides.setdefault("in_channels", latent_channels)
        if given != latent_channels:
            raise InputError(
                "the model has other channels than the latents",
                got=f"model.in_channels = {given}",
                expected=latent_channels,
                remedy="leave model.in_channels out: the latents decide it",
            )
    model = models.create(section.name, section.mixer, section.image_size, classes, seed=seed, **overrides)
    if not isinstance(model, DiT):
        raise InputError(
            "not a denoiser",
            got=f"model.name = {section.name}",
            expected="dit-* or weightformer-dit-*",
            remedy="for example model.name=dit-s-2",
        )
    return model


def latents_directory(data: DataSection) -> Path:
    """Where the recipe's latents are.

    Raises:
        InputError: if it does not say.
    """
    if data.path is None:
        raise InputError(
            "the recipe does not say where the latents are",
            got="data.source = latents, data.path = null",
            expected="a folder with train/ and val/, each of a `wfbench data extract-latents`",
            remedy="--data PATH",
        )
    return Path(data.path)
