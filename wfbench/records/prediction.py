"""Rows of `wfbench predict`: what one operator costs, how far off predictions of measured cells were, and predictions."""

from __future__ import annotations

from typing import Literal

from wfbench.records.row import ModelRow, Row

Quantity = Literal["latency", "memory"]
Question = Literal["resolution", "beyond", "mixer", "size"]


class MicrobenchmarkRow(Row):
    """One operator at one size, timed alone."""

    kind: Literal["microbenchmark"] = "microbenchmark"
    name: str
    dtype: str
    #: Of one call, by round: seconds.
    round_medians: tuple[float, ...]
    #: Operators, multiply-adds and bytes by kind, as `wfbench.measure.work.Work`.
    calls: int
    macs: dict[str, int]
    bytes: dict[str, int]


class _OfCall(Row):
    """What every row about a prediction says of its call, and of the machine of the profile, which `environment` may not be of.

    None in rows of earlier versions, and then not known.
    """

    #: One number for all rows of a call of the command.
    session: str
    device: str | None = None
    threads: int | None = None
    #: How the cells that it was predicted from were timed, and the most tokens of one of them.
    protocol: str | None = None
    measured_to: int | None = None


class HeldOutRow(_OfCall):
    """A measured cell that was left out of the calibration and predicted."""

    kind: Literal["held_out"] = "held_out"
    quantity: Quantity
    question: Question
    #: Of the cell: the mixer with all that belongs to it, the size of model and batch, tokens of one image.
    mixer: str
    size: str
    tokens: int
    #: For "beyond": the cell's tokens by the most that were left in.
    step: float
    #: Seconds of a call, or bytes.
    measured: float
    predicted: float


class PredictionRow(_OfCall, ModelRow):
    """A cell that was not measured: its time or memory with an interval, or why there is none."""

    kind: Literal["prediction"] = "prediction"
    quantity: Quantity
    #: What of the cell was not measured.
    question: Question
    variant: str = ""
    resolution: tuple[int, int]
    tokens: int
    batch: int
    dtype: str
    sdpa_backend: str
    #: How many measured cells, and how many microbenchmarks, it was predicted from.
    cells: int
    microbenchmarks: int
    #: Seconds of a call, or bytes, with a 95% interval from held-out error; None where ``why_none`` says why.
    value: float | None
    low: float | None
    high: float | None
    why_none: str = ""


class PredictedCrossoverRow(_OfCall, ModelRow):
    """From how many tokens a mixer is faster than the baseline, by predicted times of cells up to a number of tokens."""

    kind: Literal["predicted_crossover"] = "predicted_crossover"
    baseline: str
    variant: str = ""
    batch: int
    dtype: str
    #: The most tokens of the places that it was looked for at.
    looked_to: int
    #: As of `wfbench.measure.scaling.Crossover`; None where ``why_none`` says why. Where there is ``low`` and no ``high``, the
    #: interval has no upper end.
    verdict: Literal["at", "always", "none"] | None
    value: float | None
    low: float | None
    high: float | None
    why_none: str = ""
    #: What all measured cells say, where there are cells beyond ``measured_to``: the measured crossover.
    measured_verdict: Literal["at", "always", "none"] | None = None
    measured: float | None = None
    measured_low: float | None = None
    measured_high: float | None = None
