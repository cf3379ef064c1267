"""Rows of `wfbench reproduce`: a recorded cell, run again here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wfbench.records.row import Count, Environment, ModelRow


class ReproductionRow(ModelRow):
    """One cell that was drawn, what its record says, what came out here, and whether the two agree.

    ``environment`` is that of the run here. Of a speed-up the figures are ratios, and ``difference`` is new / recorded; of a
    training the final metric, and ``difference`` is new - recorded.
    """

    kind: Literal["reproduction"] = "reproduction"
    #: The records that the cell was drawn from, by which draw: this seed, so many of so many cells.
    source: str
    draw_seed: int
    drawn: Count
    among: Count
    subject: Literal["profile", "training"]
    #: In words, and what it says of where it is from.
    cell: str
    recorded_created: str
    recorded_command: str
    recorded_environment: Environment
    #: Of a profile the session, of a training the seed.
    session: str | None = None
    seed: int | None = None
    #: "speed-up over softmax [flash]", "accuracy", "mIoU", "loss", "mean accuracy over levels".
    quantity: str
    recorded: float | None = None
    new: float | None = None
    difference: float | None = None
    #: Of the difference; this interval by itself holds with probability ``level``, those of all drawn cells at once with 95 %.
    low: float | None = None
    high: float | None = None
    level: float | None = None
    #: A change of this size (of a ratio, by this factor) would have been found in 80 % of calls.
    found_from: float | None = Field(None, ge=0)
    #: Of classifiers, the share of held-out images on which both runs' predictions are the same.
    same_predictions: float | None = Field(None, ge=0, le=1)
    answer: Literal["agree", "disagree", "cannot be compared"]
    reason: str
    #: Why it cannot be repeated: what is not there, or not said.
    missing: tuple[str, ...] = ()
    #: What is other here than in the record, and does not forbid the comparison.
    differs: tuple[str, ...] = ()
    #: Where the new measurements or the new run are.
    made: str | None = None
