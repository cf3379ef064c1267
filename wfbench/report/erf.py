"""Effective receptive fields: the table of shares, and the maps as one figure."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wfbench.records import AnyRow, ErfRow
from wfbench.report.parts import (
    DASH,
    Line,
    Table,
    flat,
    group,
    label,
    latest,
    make_table,
    number,
    pixels,
    sorted_keys,
    suffixes,
    title_of,
)

DECADES = 8  # of energy from the darkest to the brightest in a picture
_PER_LINE = 6  # maps in one line of the figure


class _Key(NamedTuple):
    """What maps that stand side by side share."""

    model: str
    image_size: tuple[int, int]
    patch: str
    size: str
    images: str


def encode(energy: NDArray[np.float64]) -> str:
    """A map (H, W) as an `ErfRow` keeps it: for the eye; the numbers of the row come from the map itself."""
    with np.errstate(divide="ignore"):
        levels = 1 + np.log10(energy / energy.max()) / DECADES
    file = io.BytesIO()
    Image.fromarray(np.round(255 * levels.clip(0, 1)).astype(np.uint8)).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def decode(picture: str) -> NDArray[np.float64]:
    """log10 of the energy relative to the largest, from 0 down to −8, where it is −8 or less."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return (np.asarray(image, dtype=float) / 255 - 1) * DECADES


def erf_tables(rows: Iterable[AnyRow]) -> list[Table]:
    """How far each mixer's central token sees, before and after training."""
    return [_table(name, key, maps) for name, key, maps in _groups(rows)]


def draw_erf(rows: Iterable[AnyRow], out: Path) -> Iterator[tuple[Path, str]]:
    """Write the maps of each table as ``NAME.png``, and yield each path with the table's name."""
    for name, key, maps in _groups(rows):
        path = out / f"{name}.png"
        _draw(key, maps, path)
        yield path, name


def caption(row: ErfRow) -> str:
    """What stands above one map."""
    return f"{label(row)}\n{row.weights}"


def _groups(rows: Iterable[AnyRow]) -> list[tuple[str, _Key, list[ErfRow]]]:
    found = group((row for row in rows if isinstance(row, ErfRow)), _key)
    keys = sorted_keys(found)
    ends = suffixes([[key] for key in keys])

    def line(row: ErfRow) -> tuple[object, ...]:
        return label(row), row.weights, row.recipe_digest or "", row.seed

    return [(f"erf{end}", key, latest(found[key], line)) for key, end in zip(keys, ends, strict=True)]


def _key(row: ErfRow) -> _Key:
    size = f"depth {row.depth}, width {row.embed_dim}"
    return _Key(row.model, row.image_size, f"patch {row.patch_size}", size, f"{row.image_count} images of {row.images}")


def _table(name: str, key: _Key, maps: Sequence[ErfRow]) -> Table:
    notes = [
        "Energy is the squared gradient of the central token's features with respect to the pixels, summed over channels and "
        "features and averaged over the images; all of it is 100 %. Radii are in tokens, from the centre of the token's patch. "
        "Reached are the patches that any energy falls on.",
        "The maps are one model's, of one seed: they show where its gradient comes from, not whether that helps.",
    ]
    several = len({(row.recipe, row.recipe_digest) for row in maps}) > 1
    return make_table(name, f"Effective receptive field: {title_of([key])}", [_line(key, row, several) for row in maps], notes)


def _line(key: _Key, row: ErfRow, several: bool) -> Line:
    shares = dict(zip(row.radii, row.outside, strict=True))
    cells = {
        "mixer": label(row),
        "weights": row.weights,
        "seed": str(row.seed),
        **({"recipe": f"{row.recipe or DASH} {row.recipe_digest or ''}".strip()} if several else {}),
        **{f"outside {radius:g} (%)": f"{100 * share:.3g}" for radius, share in shares.items()},
        "half within (tokens)": number(row.half_radius),
        "reached (%)": f"{100 * row.reached:.3g}",
    }
    raw = {**flat(key), "label": label(row), **row.model_dump(include={"mixer", "weights", "seed", "recipe", "recipe_digest"})}
    raw |= {f"outside_{radius:g}": share for radius, share in shares.items()}
    return cells, raw | {"half_radius": row.half_radius, "reached": row.reached}


def _draw(key: _Key, maps: Sequence[ErfRow], path: Path) -> None:
    from matplotlib.figure import Figure

    columns = min(_PER_LINE, len(maps))
    lines = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(1 + 1.9 * columns, 0.6 + 2.2 * lines), dpi=150, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for place, row in zip(axes.flat, maps, strict=False):
        shown = place.imshow(decode(row.picture), cmap="viridis", vmin=-DECADES, vmax=0, interpolation="nearest")
        place.set_title(caption(row), fontsize=8)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, ticks=range(-DECADES, 1, 2))
    bar.set_label("log₁₀ of energy / largest", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(f"Effective receptive field of the central token, {key.model} at {pixels(key.image_size)} px", fontsize=10)
    figure.savefig(path)
