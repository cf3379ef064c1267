"""Rows about a trained network with something taken away."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from wfbench.records.row import TracedRow
from wfbench.records.training import Slot, Strength

#: What was taken away: the token mixer's branch; or of a layer with a predicted part the prediction, which was set to zero,
#: replaced by its mean over the held-out images, or taken from another of them.
What = Literal["branch", "zero", "mean", "other"]
Metric = Literal["accuracy", "miou", "pixel_accuracy", "loss"]


class AblationRow(TracedRow):
    """One figure of a finished run's weights on its held-out samples, with and without something."""

    kind: Literal["ablation"] = "ablation"
    recipe: str
    recipe_digest: str
    seed: int
    dataset: str
    image_size: tuple[int, int]
    dtype: str
    weights: Literal["raw", "ema"]
    weights_sha256: str
    samples: int
    what: What
    slot: Slot
    #: The block, from 0; None for all of them that have it, at once.
    layer: int | None
    metric: Metric
    #: With the change, and without it.
    value: float
    unchanged: float
    #: Ends of the 95% interval of value − unchanged, over images, for these weights; None where there is none.
    low: float | None
    high: float | None
    #: Of a prediction in one layer: its strength on the same samples, by these weights and by the initial ones, which are None
    #: where they could not be made again.
    strength: Strength | None = None
    strength_before: Strength | None = None

    @property
    def difference(self) -> float:
        """What the change does to the figure."""
        return self.value - self.unchanged

    @model_validator(mode="after")
    def _ends_come_together(self) -> AblationRow:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"an interval has two ends or none, not {self.low} and {self.high}")
        return self
