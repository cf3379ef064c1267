"""Rows beside the figures: receptive fields, pictures, and claims as they were registered."""

from __future__ import annotations

from typing import Literal

from wfbench.records.row import ModelRow, Row


class ErfRow(ModelRow):
    """The effective receptive field of the central token: where in the image its features get their gradient from."""

    kind: Literal["erf"] = "erf"
    #: "fresh" as initialised, or "trained".
    weights: Literal["fresh", "trained"]
    seed: int
    #: The recipe of a run, None for a model that is none's, and what the images are: a data set, or noise.
    recipe: str | None = None
    recipe_digest: str | None = None
    images: str
    image_count: int
    image_size: tuple[int, int]
    patch_size: int
    depth: int
    embed_dim: int
    #: The token's row and column.
    token: tuple[int, int]
    #: Share of the gradient's energy outside circles about the token's centre, of these radii in tokens.
    radii: tuple[float, ...]
    outside: tuple[float, ...]
    #: The radius in tokens within which half of the energy lies.
    half_radius: float
    #: The share of the tokens' patches that any energy falls on.
    reached: float
    #: The map as a PNG in base64, one byte per pixel: 255 (1 + log10(energy / largest) / 8), 0 from 1e-8 on down.
    picture: str


class PictureRow(ModelRow):
    """A picture that a run made, such as a grid of samples; the report shows it and takes no number from it."""

    kind: Literal["picture"] = "picture"
    #: The section of the report, and what stands under the picture: sampler, steps, seed; or the images.
    subject: Literal["samples", "predictions"] = "samples"
    caption: str
    #: A PNG in base64.
    picture: str
    #: Of predictions, what tells runs apart beside the model's line; None in rows that did not record it. ``validation`` is
    #: None but for trials of tuning.
    recipe: str | None = None
    recipe_digest: str | None = None
    data_digest: str | None = None
    image_size: tuple[int, int] | None = None
    decoder: str | None = None
    validation: float | None = None


class ClaimsRow(Row):
    """A file of claims as it stood when a sweep recorded it; ``created`` is when."""

    kind: Literal["claims"] = "claims"
    sha256: str
    text: str
    #: Runs of the sweep that had begun by then: where there are any, nothing was stated before the runs.
    begun: int
