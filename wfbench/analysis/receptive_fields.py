"""Effective receptive fields: which maps stand side by side, and how a map is kept in a row."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wfbench.analysis.lines import group, label, latest, sorted_keys
from wfbench.records import AnyRow, ErfRow

#: Powers of ten of energy from the darkest to the brightest in a picture.
DECADES = 8


class FieldSetting(NamedTuple):
    """What maps that stand side by side share."""

    model: str
    image_size: tuple[int, int]
    patch: str
    size: str
    images: str


@dataclass(frozen=True)
class ReceptiveFields:
    """The maps of one setting: of each line, weights, recipe and seed the newest one, in this order."""

    setting: FieldSetting
    maps: tuple[ErfRow, ...]


def receptive_fields(rows: Iterable[AnyRow]) -> tuple[ReceptiveFields, ...]:
    """How far each mixer's central token sees, before and after training; one result for each setting."""
    found = group((row for row in rows if isinstance(row, ErfRow)), _setting)
    return tuple(ReceptiveFields(setting, tuple(latest(found[setting], _line))) for setting in sorted_keys(found))


def encode(energy: NDArray[np.float64]) -> str:
    """A map as an `ErfRow` keeps it.

    Args:
        energy: (H, W), not negative, with a largest value above 0.

    Returns:
        A PNG in base64 whose byte is 255 (1 + log10(energy / largest) / 8), and 0 from 1e-8 on down. It is for the eye: the
        numbers of the row come from the map itself.
    """
    from PIL import Image

    with np.errstate(divide="ignore"):
        levels = 1 + np.log10(energy / energy.max()) / DECADES
    file = io.BytesIO()
    Image.fromarray(np.round(255 * levels.clip(0, 1)).astype(np.uint8)).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decode(picture: str) -> NDArray[np.float64]:
    """log10 of the energy relative to the largest, (H, W), from 0 down to −8, where it is −8 or less."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return (np.asarray(image, dtype=float) / 255 - 1) * DECADES


def _setting(row: ErfRow) -> FieldSetting:
    size = f"depth {row.depth}, width {row.embed_dim}"
    return FieldSetting(row.model, row.image_size, f"patch {row.patch_size}", size, f"{row.image_count} images of {row.images}")


def _line(row: ErfRow) -> tuple[str, str, str, int]:
    return label(row), row.weights, row.recipe_digest or "", row.seed
