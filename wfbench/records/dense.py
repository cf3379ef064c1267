"""Rows about segmentation: training runs, and evaluations of their weights at other image sizes."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from wfbench.records.row import Count, Share, TracedRow
from wfbench.records.training import Chosen, TrainingRow


class HeldOutSegmentation(TracedRow):
    """What every row about held-out segmentation carries: figures over every labelled pixel, at the images' own size."""

    dataset: str
    #: Of the images, in pixels; of a folder of images of several sizes, that of the model's input. Where held-out images are
    #: resized, their shorter side becomes the shorter one of this.
    image_size: tuple[int, int]
    #: Height and width, in pixels, of the windows that larger images were cut into, and their stride, down and across; None
    #: where no image was larger than a window, or each was taken whole.
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    dtype: str
    weights: Literal["raw", "ema"] = "raw"
    #: "linear", "dpt", ...: what makes pixels of tokens; and whether the backbone was trained with it.
    decoder: str
    frozen: bool = False
    classes: tuple[str, ...]
    #: Intersection over union by class; None for a class that is neither in the masks nor predicted. Their mean is miou.
    iou: tuple[Share | None, ...]
    miou: Share
    #: The share of labelled pixels whose class is right.
    pixel_accuracy: Share
    #: Mean cross-entropy over labelled pixels.
    loss: float
    samples: Count
    #: Labelled pixels of all samples.
    pixels: int

    @model_validator(mode="after")
    def _figures_fit(self) -> HeldOutSegmentation:
        if len(self.iou) != len(self.classes):
            raise ValueError(f"{len(self.iou)} values of iou for {len(self.classes)} classes")
        if (self.window is None) != (self.stride is None):
            raise ValueError(f"window {self.window} with stride {self.stride}: a row has both or neither")
        return self


class DenseRow(HeldOutSegmentation, TrainingRow):
    """One finished training of a segmentation: the figures of its last epoch, never the best ones."""

    kind: Literal["dense"] = "dense"
    #: The best epoch's miou, for information: it is not a result.
    best_miou: Share
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
    #: How images were made ready: normalised by; how the shorter side was resized, where it was, None for images of their own
    #: size; and the stride of windows that were asked for, as a share of the model's size, None for whole images.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resized: Literal["bicubic", "bilinear"] | None = None
    slide: float | None = None
