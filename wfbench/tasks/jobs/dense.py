"""Training a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench.data import Batch, DenseDataset, dense_eval_batches, dense_train_batches, open_dense
from wfbench.data.dense.dataset import DenseSubset
from wfbench.data.dense.loading import REPLACEMENT
from wfbench.errors import InputError
from wfbench.models import DenseModel, create_dense
from wfbench.recipe import DenseSection, Recipe
from wfbench.records import DenseRow, Row
from wfbench.tasks.common import dtype_name, precision_of
from wfbench.tasks.jobs.base import WEIGHTS_OF, Finished, Job, load_initial, spread
from wfbench.tasks.jobs.dense_pictures import prediction_picture
from wfbench.training import DenseEvaluation, Loss, Scores, checkpoint, confusion, evaluate_dense, logits_at


@dataclass(frozen=True)
class DenseJob(Job):
    """A class for each pixel, trained by cross-entropy."""

    default_held_out_batch: ClassVar[int] = 32

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

    @property
    def replacement(self) -> str:
        """What takes the place of a training image that cannot be read."""
        return REPLACEMENT

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
    def window(self) -> tuple[int, int] | None:
        """The windows that larger images are cut into: of the model's own size; None where images are taken whole."""
        return self.image_size if self.section.inference == "slide" else None

    @property
    def stride(self) -> tuple[int, int] | None:
        """Of the windows, in pixels."""
        share = self.section.stride
        return None if self.window is None else (round(self.window[0] * share), round(self.window[1] * share))

    def try_samples(self, batch: Batch, held_out: Batch) -> None:
        """Take the training images through the loss, and the held-out one through the evaluator, with its windows.

        Raises:
            InputError, MixerError: for windows or a mixer that cannot work on such images, or labels out of range.
        """
        assert self.loss is not None
        self.model.eval()
        with torch.no_grad():
            self.loss(self.model, *batch, torch.Generator())
        self.try_evaluation(held_out, self.image_size)

    @torch.no_grad()
    def try_evaluation(self, held_out: Batch, image_size: tuple[int, int]) -> None:
        """Take held-out images of a size, on the model's device, through what `evaluation` does with each.

        Raises:
            InputError, MixerError: for windows or a mixer that cannot work on such images, or labels out of range.
        """
        self._check_windows(image_size)
        images, classes = held_out
        device = next(self.model.parameters()).device
        size = (int(classes.shape[1]), int(classes.shape[2]))
        logits = logits_at(self.model.eval(), images.to(device), size, self.window, self.stride)
        confusion(logits.argmax(1).cpu(), classes, len(self.dataset.classes), self.dataset.ignore_index)

    def _check_windows(self, image_size: tuple[int, int]) -> None:
        """See that windows fit into every image of this size, and move."""
        if self.window is None or self.stride is None:
            return
        shorter = min(image_size)
        least = (shorter, shorter) if self.resized else image_size  # an image of either orientation has these sides at least
        if any(n > side for n, side in zip(self.window, least, strict=True)):
            what = f"images whose shorter side is resized to {shorter}" if self.resized else f"images of {least[0]}x{least[1]}"
            raise InputError(
                "the windows are larger than the images",
                got=f"windows of {self.window[0]}x{self.window[1]} pixels, the model's size, and {what}",
                expected="images of at least the windows' height and width",
                remedy="set dense.inference=whole"
                + (", or data.dense.eval_size=own" if self.resized else ", or evaluate at a larger size"),
            )
        if min(self.stride) < 1:
            raise InputError(
                "the windows do not move",
                got=f"dense.stride = {self.section.stride:g} of {self.window[0]}x{self.window[1]} pixels, which rounds to "
                f"{self.stride[0]}x{self.stride[1]}",
                expected="a stride of at least a pixel",
                remedy="raise dense.stride",
            )

    @property
    def resized(self) -> Literal["bicubic", "bilinear"] | None:
        """How the shorter side of held-out images is resized; None where they keep their size."""
        data = self.recipe.data
        assert data.dense is not None  # the recipe sees to it
        return data.interpolation if data.dense.eval_size == "shorter" else None

    def evaluation(self, model: nn.Module, image_size: tuple[int, int] | None = None) -> DenseEvaluation:
        """A model of this run on the held-out images, in the precision that it was trained in.

        Args:
            model: of this run's classes.
            image_size: that scenes are composed at, and whose shorter side that of images in files is resized to; None for
                the model's own.

        Raises:
            InputError: if no held-out pixel has a label, or an image or mask cannot be evaluated.
        """
        found = self._evaluated(model, self.held_out(image_size, batch_size=self.held_out_batch))
        if not found.confusion.pixels:
            raise InputError(
                "no held-out pixel has a label",
                got=f"{found.samples:,} masks of {self.dataset.name}, all {self.dataset.ignore_index} or without a class",
                expected="a class in at least one of them",
                remedy="check the masks, data.dense.ignore_index and data.dense.reduce_zero_label",
            )
        return found

    def _evaluated(self, model: nn.Module, batches: Iterable[Batch]) -> DenseEvaluation:
        device = next(model.parameters()).device
        return evaluate_dense(
            model,
            batches,
            device,
            classes=len(self.dataset.classes),
            ignore_index=self.dataset.ignore_index,
            autocast=precision_of(self.recipe, device),
            window=self.window,
            stride=self.stride,
        )

    def outcomes(self, model: nn.Module, batches: Iterable[Batch], first: int = 0) -> Tensor:
        """Each image's pixels by class, right, true and predicted: (samples, 3, K), int64."""
        return self._evaluated(model, batches).counts

    #: Fewer than a classifier's: an image has many pixels.
    strength_samples: ClassVar[int] = 16

    def with_few_held_out(self, count: int) -> DenseJob:
        """The same with at most so many held-out images, evenly spread."""
        chosen = spread(len(self.dataset.val), count)
        return replace(self, dataset=replace(self.dataset, val=DenseSubset(self.dataset.val, chosen)))

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
        return {
            "dataset": self.dataset.name,
            "dtype": dtype_name(self.recipe),
            "weights": WEIGHTS_OF[prefix],
            "decoder": self.section.decoder,
            "frozen": self.section.frozen,
            "window": self.window if evaluation.is_cut else None,
            "stride": self.stride if evaluation.is_cut else None,
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
        raise InputError(
            "a split without an image",
            got=dataset.name,
            expected="training and held-out images",
            remedy="check --data, and what divides the data: data.limit, data.validation and data.holdout",
        )
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
    columns: dict[str, Iterable[object]] = {
        "index": torch.arange(images).repeat_interleave(number).numpy(),
        "class": list(classes) * images,
    }
    columns |= {name: counts[:, place].flatten().numpy() for place, name in enumerate(("right", "true", "predicted"))}
    checkpoint.write_columns(path, columns)
