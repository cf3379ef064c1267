"""Training and evaluating a classifier: composes model, data, loop and record."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wfbench import files, models, records
from wfbench import recipe as recipes
from wfbench.data import (
    Batch,
    Dataset,
    Split,
    eval_batches,
    mixer_of,
    open_dataset,
    steps_per_epoch,
    train_batches,
)
from wfbench.errors import InputError
from wfbench.models import VisionTransformer
from wfbench.recipe import Recipe
from wfbench.records import BaselineRow, TrainRow
from wfbench.tasks import training
from wfbench.tasks.common import try_count
from wfbench.tasks.training import Finished, read_recipe, read_result
from wfbench.training import Evaluation, Loss, Mix, Scores, TrainState, checkpoint, distributed, evaluate

__all__ = ["Run", "baselines", "prepare", "read_recipe", "read_result"]


@dataclass(frozen=True)
class Run:
    """A recipe made concrete: its data and its freshly initialised model. It is the `training.Job` of a classifier."""

    recipe: Recipe
    dataset: Dataset
    model: VisionTransformer
    image_size: tuple[int, int]
    #: What the weights began from, for the record.
    pretraining: str = "none"
    #: Training images that could not be read and were replaced, each with the reason.
    bad_images: dict[str, str] = field(default_factory=dict)
    #: Which of how many processes this is.
    rank: int = field(default_factory=distributed.rank)
    world: int = field(default_factory=distributed.world)

    @property
    def in_channels(self) -> int:
        """Channels of the images the model takes."""
        return self.model.config.in_channels

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return steps_per_epoch(self.dataset.train, self.recipe.batch_size)

    @property
    def loss(self) -> Loss | None:
        """Cross-entropy, the default."""
        return None

    @property
    def mix(self) -> Mix | None:
        """Mixup and CutMix, as the recipe has them."""
        section, classes = self.recipe.mix, len(self.dataset.classes)
        if section is None:
            return None
        size = self.recipe.batch_size
        return mixer_of(section, self.recipe.label_smoothing, classes, batch_size=size, world=self.world)

    def batches(self, start: tuple[int, int]) -> Iterator[Batch]:
        """This process's part of every training batch."""
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
            told=self._replaced,
        )

    def try_data(self) -> None:
        """Take a few training images through their transforms and one held-out image through the model too.

        So none of these fails in an hour.

        Raises:
            InputError: for a batch that the processes cannot share, settings that do not fit, or images that cannot be read.
            MixerError: for a mixer that cannot work on such images.
        """
        self.batches((0, 0))  # it is not begun, but refuses what does not fit
        mix, size = self.mix, min(self.recipe.batch_size, 2 * self.world)
        data = self.recipe.data.model_copy(update={"workers": 0})
        few = replace(self, recipe=self.recipe.model_copy(update={"batch_size": size, "data": data}))
        inputs, targets = next(few.batches((0, 0)))
        if mix is not None:
            mix(inputs, targets, key=(0, 0, 0))
        image, _ = next(few.held_out(batch_size=1))
        with torch.no_grad():
            self.model.eval()(image)

    def _replaced(self, name: str, reason: str) -> None:
        self.bad_images[name] = reason
        warnings.warn(f"{name} cannot be read and was replaced by another image of its class: {reason}", stacklevel=2)

    def evaluate(self, state: TrainState) -> Scores:
        """The raw weights' figures on every held-out sample once, and those of the averaged ones under names of their own."""
        for bad in distributed.gather(self.bad_images):
            self.bad_images.update(bad)
        found = {"": self.evaluation(state.model)}
        if state.ema is not None:
            found["ema_"] = self.evaluation(state.ema.module)
        metrics: dict[str, float | int] = {}
        for prefix, evaluation in found.items():
            metrics |= {f"{prefix}accuracy": evaluation.accuracy, f"{prefix}loss": evaluation.loss}
            metrics |= {} if evaluation.top5 is None else {f"{prefix}top5": evaluation.top5}
        return Scores(metrics | {"samples": found[""].samples}, found[""].accuracy, found)

    def evaluation(
        self, model: nn.Module, image_size: tuple[int, int] | None = None, classes: Tensor | None = None
    ) -> Evaluation:
        """A model of this run on the held-out samples, in the precision that it was trained in."""
        device = next(model.parameters()).device
        batches = self.held_out(image_size, batch_size=self.recipe.compute.micro_batch or 256)
        precision = self.recipe.compute.precision
        autocast = None if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
        return evaluate(model, batches, device, autocast=autocast, classes=classes)

    def held_out(self, image_size: tuple[int, int] | None = None, *, batch_size: int) -> Iterator[Batch]:
        """This process's batches of the held-out images."""
        return eval_batches(
            self.dataset.val,
            self.recipe.data,
            image_size or self.image_size,
            self.in_channels,
            batch_size=batch_size,
            rank=self.rank,
            world=self.world,
        )

    def finish(self, finished: Finished, out: Path) -> list[TrainRow]:
        """Write the predictions; rows of the raw weights and of the averaged ones."""
        names = {"": "raw", "ema_": "ema"}
        for prefix, evaluation in finished.scores.detail.items():
            write_predictions(out / f"predictions-{names[prefix]}.parquet", evaluation)
        return [self._row(finished, prefix, names[prefix]) for prefix in finished.scores.detail]

    def _row(self, finished: Finished, prefix: str, weights: str) -> TrainRow:
        evaluation: Evaluation = finished.scores.detail[prefix]
        recipe, progress, config = self.recipe, finished.progress, self.model.config
        count, error = try_count(self.model.cpu(), (1, self.in_channels, *self.image_size))
        seconds = max(progress.train_seconds, 1e-9)
        return TrainRow(
            environment=finished.environment,
            created=finished.progress.began,
            recipe=recipe.name,
            recipe_digest=recipes.digest(recipe),
            dataset=self.dataset.name,
            model=recipe.model.name,
            mixer=config.mixer,
            local_conv=config.local_conv,
            pos_embed=config.pos_embed,
            seed=recipe.seed,
            image_size=self.image_size,
            epochs=recipe.epochs,
            steps=finished.state.step_count,
            batch=recipe.batch_size,
            dtype="float32" if recipe.compute.precision == "float32" else f"{recipe.compute.precision} autocast",
            parameters=sum(p.numel() for p in self.model.parameters()),
            macs=None if count is None else count.macs,
            macs_error=error,
            weights=weights,
            pretraining=self.pretraining,
            accuracy=evaluation.accuracy,
            top5=evaluation.top5,
            samples=evaluation.samples,
            loss=evaluation.loss,
            best_accuracy=max(row.get(f"{prefix}accuracy", 0.0) for row in progress.rows),
            bad_images=len(self.bad_images),
            processes=distributed.world(),
            compiled=recipe.compute.compile,
            channels_last=recipe.compute.channels_last,
            grad_checkpointing=recipe.compute.grad_checkpointing,
            micro_batch=recipe.compute.micro_batch,
            train_seconds=progress.train_seconds,
            images_per_second=progress.images / seconds,
            data_wait_share=progress.wait_seconds / seconds,
            chosen=training.chosen(recipe, config.mlp_ratio, config.depth),
            validation=recipe.data.validation,
        )


def prepare(recipe: Recipe) -> Run:
    """Open the data and build the model, whose weights follow from the recipe's seed, or its initial weights.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be.
    """
    dataset = open_dataset(recipe.data)
    section, pretraining = recipe.model, "none"
    model = models.create(
        section.name, section.mixer, section.image_size, len(dataset.classes), seed=recipe.seed, **section.overrides()
    )
    if section.init_weights is not None:
        tensors, sha256 = read_weights(Path(section.init_weights))
        models.load_initial(model, tensors, fresh_head=section.init_head == "fresh")
        pretraining = f"{Path(section.init_weights).name} {sha256[:12]}"
    return Run(recipe, dataset, model, model.config.image_size, pretraining)


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and its SHA-256.

    Raises:
        InputError: if it is no such file.
    """
    try:
        return load_file(path), files.sha256(path)
    except (OSError, SafetensorError) as e:
        raise InputError(
            "cannot read the weights",
            got=f"{path}: {getattr(e, 'strerror', None) or e}",
            expected="a safetensors file; nothing is downloaded, and nothing is unpickled",
            remedy="check the path; other formats can be converted with the package safetensors",
        ) from e


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Every sample's class, its most likely classes and the confidence, as Parquet.

    Raises:
        InputError: if it cannot be written.
    """
    top = evaluation.top.to(torch.int32)
    columns: dict[str, object] = {"index": range(evaluation.samples), "label": evaluation.targets.to(torch.int32).numpy()}
    columns |= {f"top{k + 1}": top[:, k].numpy() for k in range(top.shape[1])}
    columns["confidence"] = evaluation.confidence.float().numpy()
    with checkpoint.whole(path) as part:
        pd.DataFrame(columns).to_parquet(part, index=False, compression="zstd")


def baselines(recipe: Recipe) -> list[BaselineRow]:
    """Logistic regression and nearest neighbour on raw pixels, on the recipe's split."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    dataset = open_dataset(recipe.data)
    (train_x, train_y), (val_x, val_y) = _pixels(dataset.train), _pixels(dataset.val)
    classifiers = {
        "logistic regression on pixels": LogisticRegression(max_iter=5000),
        "nearest neighbour on pixels": KNeighborsClassifier(n_neighbors=1),
    }
    return [
        BaselineRow(
            environment=records.stamp(),
            name=name,
            dataset=dataset.name,
            accuracy=float(classifier.fit(train_x, train_y).score(val_x, val_y)),
            samples=len(val_y),
        )
        for name, classifier in classifiers.items()
    ]


def _pixels(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """A split as (images × pixels in 0..1, classes)."""
    images = [np.asarray(split.load(i)).reshape(-1) for i in range(len(split))]
    if len({len(image) for image in images}) > 1:
        raise InputError(
            "no baselines for images of several sizes", got=split.label(0), expected="images that are all of one size"
        )
    return np.stack(images) / 255, np.array(split.targets)
