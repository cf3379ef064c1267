"""Rows about exports: whether a model leaves PyTorch's eager code with the same outputs."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from wfbench.records.row import Share, TracedRow

#: What a model is exported to.
Format = Literal["torch", "onnx"]


class ExportRow(TracedRow):
    """One export of one model, read back from disk and held against the eager model; or why there is none."""

    kind: Literal["export"] = "export"
    to: Format
    exports: bool
    #: Why it does not export; "" where it does.
    why: str = ""
    #: Of the model's input, in its own unit: pixels, or places of a latent.
    image_size: tuple[int, int]
    #: Images in a call of what was exported; None: any number.
    batch: int | None
    #: Where any number was asked for and the model takes one alone: why; else "".
    why_fixed_batch: str = ""
    dtype: str
    #: None of a model that cannot be made.
    parameters: int | None
    #: The largest difference of an output from the eager model's, in units of the largest output or of 1 if that is less, over
    #: random inputs in batches of these sizes; what is allowed. None and none where it does not export.
    difference: float | None = None
    tolerance: Share
    batches: tuple[int, ...] = ()
    #: Of a run's weights; "random" are initial values of ``seed`` with noise on top, so that no branch is zero.
    weights: Literal["raw", "ema", "random"]
    weights_sha256: str | None = None
    recipe: str | None = None
    recipe_digest: str | None = None
    seed: int
    #: The versions of the packages that read and write the format beside PyTorch, and ONNX's set of operators.
    packages: dict[str, str] = {}
    opset: int | None = None

    @model_validator(mode="after")
    def _is_said(self) -> ExportRow:
        if self.exports == bool(self.why) or self.exports != (self.difference is not None):
            raise ValueError("an export has a difference, or a reason why there is none")
        return self
