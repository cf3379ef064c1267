"""The pictures of the page: figures of claims, maps of receptive fields, samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np

from wfbench.analysis.lines import label
from wfbench.analysis.receptive_fields import DECADES, decode
from wfbench.analysis.results import Results
from wfbench.records import AnyRow, ErfRow, PictureRow
from wfbench.report import figures
from wfbench.report.columns import Table
from wfbench.report.figures.receptive_fields import caption

#: A PNG in base64, and its caption.
Picture = dict[str, str]


def pictures(rows: Iterable[AnyRow], room: int) -> tuple[list[Picture], list[Picture], list[str]]:
    """Maps of receptive fields and pictures of samples.

    Args:
        rows: the records.
        room: so many bytes may they take on the page.

    Returns:
        Maps and samples in the order of the rows, as far as there is room, and the captions of those that have none.
    """
    maps: list[Picture] = []
    samples: list[Picture] = []
    left = []
    newest: dict[object, ErfRow | PictureRow] = {}
    for row in rows:
        if isinstance(row, ErfRow):
            newest[label(row), row.model, row.image_size, row.weights, row.recipe_digest, row.seed] = row
        elif isinstance(row, PictureRow):
            newest[label(row), row.model, row.caption] = row
    for row in newest.values():
        is_map = isinstance(row, ErfRow)
        words = caption(row).replace("\n", ", ") if isinstance(row, ErfRow) else f"{label(row)}: {row.caption}"
        png = _coloured(row) if isinstance(row, ErfRow) else row.picture
        size = len(png) + 3 * len(words.encode()) + 200
        if size > room:
            left.append(words)
            continue
        room -= size
        (maps if is_map else samples).append({"png": png, "caption": words})
    return maps, samples, left


def claims_pictures(results: Results, tables: Sequence[Table]) -> list[Picture]:
    """The figure of each file of claims that has one."""
    made = []
    for result, table in figures.with_tables(results.claims, tables, "claims"):
        figure = figures.claims(result, table)
        if figure is not None:
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=110)
            made.append({"png": base64.b64encode(file.getvalue()).decode(), "caption": table.title})
    return made


def _coloured(row: ErfRow) -> str:
    """A map in the colours of the figure, as PNG in base64."""
    from matplotlib import colormaps
    from PIL import Image

    levels = np.round(255 * (1 + decode(row.picture) / DECADES)).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette((np.asarray(colormaps["viridis"](np.arange(256)))[:, :3] * 255).astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
