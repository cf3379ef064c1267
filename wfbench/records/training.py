"""Rows about trainings: what those of all kinds share; of classifiers also evaluations, simple classifiers and trials."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wfbench.records.row import Count, Row, Share, Strict, TracedRow


class Chosen(Strict):
    """What a sweep chose for this mixer by one rule for all mixers: the budget it was matched to, the rate it was tuned to."""

    match: Literal["params", "macs"] | None = None
    match_to: str | None = None
    #: Of the baseline, in parameters or in MACs, and (own − baseline's) / baseline's.
    budget: int | None = None
    residual: float | None = None
    mlp_ratio: float
    depth: int
    lr: float
    #: The rates that were tried, with which seeds, on which share of the training images.
    rates: tuple[float, ...] | None = None
    trial_seeds: tuple[int, ...] | None = None
    validation: float | None = None


#: A slot of a block: the token mixer, or the FFN's first Linear.
Slot = Literal["mixer", "fc1"]


class Strength(Strict):
    """How strong the predicted part of a layer is: |X Ŵ| / |X W₀|, see `wfbench.measure.strength`.

    ``common`` is of the prediction's mean over the samples, ``own`` of what is left of each sample's prediction without it. All
    are None where the layer has no static part: without its prediction it gives nothing, so that there is no ratio.
    """

    slot: Slot
    layer: int
    total: float | None
    common: float | None
    own: float | None


class TrainingRow(TracedRow):
    """What the rows of all kinds of training share: the settings of one finished run, and what it cost."""

    recipe: str
    #: Hash of the resolved recipe but for seed, mixer and the factors (of a denoiser also but for how samples are drawn): rows
    #: with different ones are never averaged.
    recipe_digest: str
    dataset: str
    seed: int
    image_size: tuple[int, int]
    epochs: int
    steps: int
    batch: int
    dtype: str
    parameters: int
    #: MACs of one image's forward pass; None where the counts did not agree, and then macs_error says why.
    macs: float | None
    macs_error: str | None = None
    #: How sure the MACs are: "proved" where two counters and the declared closed form agree, "counted" where nothing is
    #: declared and the two counters do, "at least" where an operator is unknown. None in older rows: proved, as all were.
    macs_sure: Literal["proved", "counted", "at least"] | None = None
    #: Where they are "at least": the MACs of the operators that are known. Then macs is None, and macs_error names the others.
    macs_at_least: float | None = None
    weights: Literal["raw", "ema"] = "raw"
    #: What the weights began from: "none", or a file and the start of its SHA-256; a file of the Hub is "hf:ORG/NAME@COMMIT".
    pretraining: str = "none"
    #: Training images that could not be read, each replaced by another of its class in every epoch.
    bad_images: int = 0
    #: Processes that trained together, and how each of them ran.
    processes: int = 1
    compiled: bool = False
    channels_last: bool = False
    grad_checkpointing: bool = False
    micro_batch: int | None = None
    #: Wall seconds of training, evaluation apart; summed over the sessions of a resumed run.
    train_seconds: float = Field(ge=0)
    images_per_second: float = Field(ge=0)
    #: The share of train_seconds spent waiting for data.
    data_wait_share: Share
    #: Where sessions differed in device, processes or the sizes of parts of a batch, which changes sums by rounding: how each
    #: such session worked, and from which step on.
    ways: tuple[str, ...] = ()
    #: Whether it was resumed with other code: which, with both digests.
    code_changed: str | None = None
    #: Of each layer with a predicted part, its strength after training and in the initial weights, on so many held-out samples;
    #: None where the mixer has no predicted part, and in rows of earlier versions.
    strength: tuple[Strength, ...] | None = None
    strength_before: tuple[Strength, ...] | None = None
    strength_samples: int | None = None


class TrainRow(TrainingRow):
    """One finished training run of a classifier: the accuracy of its last epoch, never the best one."""

    kind: Literal["train"] = "train"
    #: Top-1 and top-5, as fractions of samples, over exactly this many held-out samples. Top-5 needs more classes than five.
    accuracy: Share
    top5: Share | None = None
    samples: Count
    loss: float
    #: The best epoch's accuracy, for information: it is not a result.
    best_accuracy: Share
    chosen: Chosen | None = None
    #: The share of the training images that it was evaluated on: a trial of tuning, which is no result.
    validation: float | None = None

    @property
    def result(self) -> float:
        """What claims compare: the accuracy."""
        return self.accuracy

    @property
    def one_image(self) -> float:
        """What one held-out image more or less changes in the result."""
        return 1 / self.samples


class EvalRow(TracedRow):
    """One evaluation of trained weights by `wfbench eval`: of a run, perhaps at another resolution, or of a file."""

    kind: Literal["eval"] = "eval"
    #: Of a run: its recipe, digest and seed, as in its training row. Of a file: none.
    recipe: str | None = None
    recipe_digest: str | None = None
    seed: int | None = None
    weights: Literal["raw", "ema", "file"]
    #: The SHA-256 of the weights' file.
    weights_sha256: str
    #: The repository of the Hub that they are from, with its commit: "hf:ORG/NAME@COMMIT"; None for others.
    weights_source: str | None = None
    dataset: str
    #: The size the model was built for, and that of the images it was evaluated on.
    trained_size: tuple[int, int]
    image_size: tuple[int, int]
    eval_resize: Literal["squash", "shorter"]
    eval_crop: float
    #: Of input channels, as the images were normalised.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str
    #: Of the resizing; None in rows of earlier versions.
    interpolation: str | None = None
    #: The file of other labels, the SHA-256 of what it holds, and the samples that it has none for, which were left out.
    mapping: str | None = None
    mapping_sha256: str | None = None
    unlabelled: int = 0
    accuracy: Share
    top5: Share | None = None
    samples: Count
    #: None where a sample may have several labels.
    loss: float | None


class BaselineRow(Row):
    """A simple classifier on the same split, to calibrate how easy a data set is."""

    kind: Literal["baseline"] = "baseline"
    name: str
    dataset: str
    #: As in `TracedRow`.
    data_digest: str | None = None
    accuracy: Share
    samples: Count


class TrialRow(TracedRow):
    """One trial of a sweep's tuning: a rate, judged on images held out of the training images."""

    kind: Literal["trial"] = "trial"
    recipe: str
    #: That of the final runs which follow from the trials.
    recipe_digest: str
    dataset: str
    image_size: tuple[int, int]
    epochs: int
    seed: int
    lr: float
    #: All rates that were to be tried, and the recipe's own.
    rates: tuple[float, ...]
    recipe_lr: float
    #: "diverged": a loss that is not finite, or at the end more than twice that of guessing.
    status: Literal["ok", "diverged"]
    message: str | None = None
    #: On the images held out of the training images, so many of them; of a trial that is ok. Of segmentations it is the mIoU;
    #: denoisers have none, and are compared by their loss.
    accuracy: Share | None = None
    #: Of the optimiser; a trial that had solved its probe ended early. None in rows of earlier versions.
    steps: int | None = None
    measure: Literal["accuracy", "mIoU", "loss"] = "accuracy"
    loss: float | None = None
    samples: int | None = None
    validation: float
