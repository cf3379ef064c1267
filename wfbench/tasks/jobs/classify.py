"""Training a classifier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from wfbench import models
from wfbench.data import Batch, Dataset, mixer_of, open_dataset
from wfbench.models import VisionTransformer
from wfbench.recipe import Recipe
from wfbench.records import TrainRow
from wfbench.tasks.common import precision_of
from wfbench.tasks.jobs.base import WEIGHTS_OF, Finished, Job, load_initial
from wfbench.training import Evaluation, Mix, Scores, checkpoint, evaluate


@dataclass(frozen=True)
class ClassifyJob(Job):
    """A classifier, trained by cross-entropy."""

    dataset: Dataset
    model: VisionTransformer

    @property
    def mix(self) -> Mix | None:
        """Mixup and CutMix, as the recipe has them."""
        section, classes = self.recipe.mix, len(self.dataset.classes)
        if section is None:
            return None
        size = self.recipe.batch_size
        return mixer_of(section, self.recipe.label_smoothing, classes, batch_size=size, world=self.world)

    def try_samples(self, batch: Batch, held_out: Batch) -> None:
        """Mix the training images, and take the held-out one through the model.

        Raises:
            InputError, MixerError: for settings or a mixer that cannot work on such images.
        """
        if self.mix is not None:
            self.mix(*batch, key=(0, 0, 0))
        with torch.no_grad():
            self.model.eval()(held_out[0])

    def evaluation(
        self, model: nn.Module, image_size: tuple[int, int] | None = None, classes: Tensor | None = None
    ) -> Evaluation:
        """A model of this run on the held-out samples, in the precision that it was trained in.

        Args:
            model: of this run's classes.
            image_size: of the images; None for the model's own.
            classes: the classes to choose among (their indices); None for all.
        """
        device = next(model.parameters()).device
        batches = self.held_out(image_size, batch_size=self.held_out_batch)
        return evaluate(model, batches, device, autocast=precision_of(self.recipe, device), classes=classes)

    def outcomes(self, model: nn.Module, batches: Iterable[Batch], first: int = 0) -> Tensor:
        """Whether each sample's class is found: 1 or 0 (samples,), in float64."""
        device = next(model.parameters()).device
        found = evaluate(model, batches, device, autocast=precision_of(self.recipe, device))
        return (found.predictions == found.targets).double()

    def scores(self, found: Mapping[str, Evaluation]) -> Scores:
        """Accuracy, loss and top-5 of raw and averaged weights; the raw ones' accuracy decides the best epoch."""
        metrics: dict[str, float | int] = {}
        for prefix, evaluation in found.items():
            metrics |= {f"{prefix}accuracy": evaluation.accuracy, f"{prefix}loss": evaluation.loss}
            metrics |= {} if evaluation.top5 is None else {f"{prefix}top5": evaluation.top5}
        return Scores(metrics | {"samples": found[""].samples}, found[""].accuracy, found)

    def finish(self, finished: Finished, out: Path) -> list[TrainRow]:
        """Write the predictions; rows of the raw weights and of the averaged ones."""
        for prefix, evaluation in finished.scores.detail.items():
            write_predictions(out / f"predictions-{WEIGHTS_OF[prefix]}.parquet", evaluation)
        return [self._row(finished, prefix) for prefix in finished.scores.detail]

    def _row(self, finished: Finished, prefix: str) -> TrainRow:
        evaluation: Evaluation = finished.scores.detail[prefix]
        return TrainRow(
            **self.row_fields(finished, prefix),
            accuracy=evaluation.accuracy,
            top5=evaluation.top5,
            samples=evaluation.samples,
            loss=evaluation.loss,
            best_accuracy=max(row.get(f"{prefix}accuracy", 0.0) for row in finished.progress.rows),
            chosen=self.chosen,
            validation=self.recipe.data.validation,
        )


def prepare(recipe: Recipe) -> ClassifyJob:
    """Open the data and build the model, whose weights follow from the recipe's seed, or its initial weights.

    Raises:
        InputError, MixerError: for data, a model or weights that cannot be.
    """
    dataset, section = open_dataset(recipe.data), recipe.model
    model = models.create(
        section.name, section.mixer, section.image_size, len(dataset.classes), seed=recipe.seed, **section.overrides()
    )
    return ClassifyJob(recipe, dataset, model, load_initial(recipe, model, classes=dataset.classes))


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Every sample's class, its most likely classes and the confidence, as Parquet.

    Raises:
        InputError: if it cannot be written.
    """
    top = evaluation.top.to(torch.int32)
    columns: dict[str, Iterable[object]] = {
        "index": range(evaluation.samples),
        "label": evaluation.targets.to(torch.int32).numpy(),
    }
    columns |= {f"top{k + 1}": top[:, k].numpy() for k in range(top.shape[1])}
    columns["confidence"] = evaluation.confidence.float().numpy()
    checkpoint.write_columns(path, columns)
