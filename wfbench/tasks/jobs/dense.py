"""Training a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench.data import Batch, DenseDataset, dense_eval_batches, dense_train_batches, open_dense
from wfbench.errors import InputError
from wfbench.models import DenseModel, create_dense
from wfbench.recipe import DenseSection, Recipe
from wfbench.records import DenseRow, Row
from wfbench.tasks.common import dtype_name, precision_of
from wfbench.tasks.jobs.base import WEIGHTS_OF, Finished, Job, load_initial
from wfbench.tasks.jobs.dense_pictures import prediction_picture
from wfbench.training import DenseEvaluation, Loss, Scores, checkpoint, evaluate_dense


@dataclass(frozen=True)
class DenseJob(Job):
    """A class for each pixel, trained by cross-entropy."""

    dataset: DenseDataset
    model: DenseModel

    @property
    def section(self) -> DenseSection:
        """What the recipe says of dense prediction."""
        assert self.recipe.dense is not None  # the recipe sees to it
        return self.recipe.dense

    @property
    def loss(self) -> Loss | None:
        """Cross-entropy of the labelled pixels."""
        return pixel_cross_entropy(self.dataset.ignore_index, self.recipe.label_smoothing)

    def batches(self, start: tuple[int, int]) -> Iterator[Batch]:
        """This process's part of every training batch: images (B, C, H, W) and classes (B, H, W)."""
        return dense_train_batches(
            self.dataset,
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

    def held_out(self, image_size: tuple[int, int] | None = None, *, batch_size: int) -> Iterator[Batch]:
        """This process's batches of the held-out images."""
        size = image_size or self.image_size
        return dense_eval_batches(
            self.dataset,
            self.recipe.data,
            size,
            self.in_channels,
            batch_size=batch_size,
            multiple=self.model.config.patch_size,
            rank=self.rank,
            world=self.world,
        )

    @property
    def held_out_batch(self) -> int:
        """Images that are evaluated at once."""
        return self.recipe.compute.micro_batch or 32

    @property
    def window(self) -> tuple[int, int] | None:
        """The windows that larger images are cut into: of the model's own size; None where images are taken whole."""
        return self.image_size if self.section.inference == "slide" else None

    @property
    def stride(self) -> tuple[int, int] | None:
        """Of the windows, in pixels."""
        share = self.section.stride
        return None if self.window is None else (round(self.window[0] * share), round(self.window[1] * share))

    def try_samples(self, batch: Batch, held_out: Batch) -> None:
        """Take a held-out image through the model, and the training images through the loss.

        Raises:
            InputError, MixerError: for a mixer that cannot work on such images.
        """
        with torch.no_grad():
            self._whole_or_windows(held_out[0])

    def _whole_or_windows(self, images: Tensor) -> Tensor:
        self.model.eval()
        if self.window is not None:
            images = images[..., : self.window[0], : self.window[1]]
        found: Tensor = self.model(images)
        return found

    def evaluation(self, model: nn.Module, image_size: tuple[int, int] | None = None) -> DenseEvaluation:
        """A model of this run on the held-out images, in the precision that it was trained in.

        Args:
            model: of this run's classes.
            image_size: that scenes are composed at; None for the model's own.
        """
        device = next(model.parameters()).device
        return evaluate_dense(
            model,
            self.held_out(image_size, batch_size=self.held_out_batch),
            device,
            classes=len(self.dataset.classes),
            ignore_index=self.dataset.ignore_index,
            autocast=precision_of(self.recipe, device),
            window=self.window,
            stride=self.stride,
        )

    def scores(self, found: Mapping[str, DenseEvaluation]) -> Scores:
        """mIoU, pixel accuracy and loss of raw and averaged weights; the raw ones' mIoU decides the best epoch."""
        metrics: dict[str, float | int] = {}
        for prefix, evaluation in found.items():
            whole = evaluation.confusion
            metrics |= {
                f"{prefix}miou": whole.miou,
                f"{prefix}pixel_accuracy": whole.accuracy,
                f"{prefix}loss": evaluation.loss,
            }
        return Scores(metrics | {"samples": found[""].samples}, found[""].confusion.miou, found)

    def finish(self, finished: Finished, out: Path) -> Sequence[Row]:
        """Write each image's counts; rows of raw and averaged weights, and a picture of predictions beside the truth."""
        for prefix, evaluation in finished.scores.detail.items():
            write_counts(out / f"counts-{WEIGHTS_OF[prefix]}.parquet", evaluation, self.dataset.classes)
        rows = [self._row(finished, prefix) for prefix in finished.scores.detail]
        return [*rows, prediction_picture(self.model.eval(), self, finished)]

    def _row(self, finished: Finished, prefix: str) -> DenseRow:
        evaluation: DenseEvaluation = finished.scores.detail[prefix]
        return DenseRow(
            **self.row_fields(finished, prefix) | self.held_out_figures(evaluation, prefix),
            best_miou=max(row.get(f"{prefix}miou", 0.0) for row in finished.progress.rows),
            chosen=self.chosen,
            validation=self.recipe.data.validation,
        )

    def held_out_figures(self, evaluation: DenseEvaluation, prefix: str) -> dict[str, Any]:
        """What every row about held-out segmentation says; ``prefix`` says of which weights: "" or "ema_"."""
        stride = self.stride
        return {
            "dataset": self.dataset.name,
            "dtype": dtype_name(self.recipe),
            "weights": WEIGHTS_OF[prefix],
            "decoder": self.section.decoder,
            "frozen": self.section.frozen,
            "window": None if self.window is None or stride is None else (self.window[0], stride[0]),
            "classes": self.dataset.classes,
            "iou": tuple(evaluation.confusion.iou),
            "miou": evaluation.confusion.miou,
            "pixel_accuracy": evaluation.confusion.accuracy,
            "loss": evaluation.loss,
            "samples": evaluation.samples,
            "pixels": evaluation.confusion.pixels,
        }


def prepare(recipe: Recipe) -> DenseJob:
    """Open the data and build the model, whose weights follow from the recipe's seed, or its initial weights.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be.
    """
    assert recipe.dense is not None  # the recipe sees to it
    dataset = open_dense(recipe.data)
    if not len(dataset.val) or not len(dataset.train):
        raise InputError("a split without an image", got=dataset.name, expected="training and held-out images")
    model = build(recipe, len(dataset.classes), seed=recipe.seed)
    pretraining = load_initial(recipe, model.backbone, fresh_head=True)
    return DenseJob(recipe, dataset, model, pretraining)


def build(recipe: Recipe, classes: int, *, seed: int | None = None) -> DenseModel:
    """The recipe's model for so many classes; its initial values follow from ``seed``, if there is one.

    Raises:
        InputError, MixerError: for a model that is no ViT, or cannot be.
    """
    assert recipe.dense is not None
    section = recipe.model
    return create_dense(
        section.name,
        section.mixer,
        section.image_size,
        num_classes=classes,
        decoder=recipe.dense.decoder,
        frozen=recipe.dense.frozen,
        seed=seed,
        **section.overrides(),
    )


def pixel_cross_entropy(ignore_index: int, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the labelled pixels, divided by the number of all pixels of the batch.

    Training crops are all of one size, so the loss of a batch is the mean of its parts' losses, whatever the parts: a batch in
    several parts, or over several processes, gives the gradient of the whole. (Divided by the labelled pixels it would not.)
    """

    def loss(model: nn.Module, images: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        total = F.cross_entropy(
            model(images), classes, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="sum"
        )
        return total / classes.numel()

    return loss


def write_counts(path: Path, evaluation: DenseEvaluation, classes: Sequence[str]) -> None:
    """Each image's pixels by class, right, true and predicted, as Parquet: a line for each image and class.

    Raises:
        InputError: if it cannot be written.
    """
    counts = evaluation.counts  # (images, 3, classes)
    images, _, number = counts.shape
    columns = {"index": torch.arange(images).repeat_interleave(number).numpy(), "class": list(classes) * images}
    columns |= {name: counts[:, place].flatten().numpy() for place, name in enumerate(("right", "true", "predicted"))}
    with checkpoint.whole(path) as part:
        pd.DataFrame(columns).to_parquet(part, index=False, compression="zstd")
