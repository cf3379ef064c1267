"""Rows about segmentation: training runs, and evaluations of their weights at other image sizes."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from wfbench.records.row import TracedRow
from wfbench.records.training import Chosen, TrainingRow


class HeldOutSegmentation(TracedRow):
    """What every row about held-out segmentation carries: figures over every labelled pixel, at the images' own size."""

    dataset: str
    #: Of the images, in pixels; of a folder of images of several sizes, that of the model's input.
    image_size: tuple[int, int]
    #: Side and stride, in pixels, of the windows that larger images were cut into; None where each was taken whole.
    window: tuple[int, int] | None = None
    dtype: str
    weights: Literal["raw", "ema"] = "raw"
    #: "linear", "dpt", ...: what makes pixels of tokens; and whether the backbone was trained with it.
    decoder: str
    frozen: bool = False
    classes: tuple[str, ...]
    #: Intersection over union by class; None for a class that is neither in the masks nor predicted. Their mean is miou.
    iou: tuple[float | None, ...]
    miou: float
    #: The share of labelled pixels whose class is right.
    pixel_accuracy: float
    #: Mean cross-entropy over labelled pixels.
    loss: float
    samples: int
    #: Labelled pixels of all samples.
    pixels: int

    @model_validator(mode="after")
    def _one_value_for_each_class(self) -> HeldOutSegmentation:
        if len(self.iou) != len(self.classes):
            raise ValueError(f"{len(self.iou)} values of iou for {len(self.classes)} classes")
        return self


class DenseRow(HeldOutSegmentation, TrainingRow):
    """One finished training of a segmentation: the figures of its last epoch, never the best ones."""

    kind: Literal["dense"] = "dense"
    #: The best epoch's miou, for information: it is not a result.
    best_miou: float
    chosen: Chosen | None = None
    #: The share of the training images that it was evaluated on: a trial of tuning, which is no result.
    validation: float | None = None

    @property
    def result(self) -> float:
        """What claims compare: the mean intersection over union."""
        return self.miou

    @property
    def one_image(self) -> float:
        """0: one image's worth is not a fixed step of the mean intersection over union."""
        return 0.0


class DenseEvalRow(HeldOutSegmentation):
    """One evaluation of a run's weights by `wfbench eval`."""

    kind: Literal["dense-eval"] = "dense-eval"
    #: The size the model was trained at.
    trained_size: tuple[int, int]
    recipe: str
    recipe_digest: str
    seed: int
    weights_sha256: str
