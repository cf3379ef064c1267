"""The pictures of the page: figures of claims, maps of receptive fields, samples, predictions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wfbench.analysis.lines import label
from wfbench.analysis.receptive_fields import DECADES, decode
from wfbench.analysis.results import Results
from wfbench.records import AnyRow, ErfRow, PictureRow
from wfbench.report import figures
from wfbench.report.columns import Table
from wfbench.report.figures.receptive_fields import caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: A PNG in base64, and its caption.
Picture = dict[str, str]


def pictures(rows: Iterable[AnyRow], room: int) -> tuple[dict[str, list[Picture]], list[str]]:
    """Maps of receptive fields, pictures of samples, and of predictions the newest of each line and setting.

    Args:
        rows: the records.
        room: so many bytes may they take on the page.

    Returns:
        By "maps", "samples" and "predictions", in the order of the rows, as far as there is room; and the captions of
        those that have none.
    """
    shown: dict[str, list[Picture]] = {"maps": [], "samples": [], "predictions": []}
    left = []
    newest: dict[object, ErfRow | PictureRow] = {}
    for row in rows:
        if isinstance(row, ErfRow):
            newest[label(row), row.model, row.image_size, row.weights, row.recipe_digest, row.seed] = row
        elif isinstance(row, PictureRow) and row.subject == "samples":
            newest[label(row), row.model, row.subject, row.caption] = row
        elif isinstance(row, PictureRow) and row.validation is None:  # the others are of trials, which are no results
            apart = row.recipe, row.recipe_digest, row.data_digest, row.image_size, row.decoder
            newest[label(row), row.model, row.subject, *apart] = row
    for row in newest.values():
        words = caption(row).replace("\n", ", ") if isinstance(row, ErfRow) else f"{label(row)}: {row.caption}"
        png = _coloured(row) if isinstance(row, ErfRow) else row.picture
        size = len(png) + 3 * len(words.encode()) + 200
        if size > room:
            left.append(words)
            continue
        room -= size
        shown["maps" if isinstance(row, ErfRow) else row.subject].append({"png": png, "caption": words})
    return shown, left


def claims_pictures(results: Results, tables: Sequence[Table]) -> list[Picture]:
    """The figure of each file of claims that has one."""
    found = figures.with_tables(results.claims, tables, "claims")
    return [picture for result, table in found for picture in _drawn(figures.claims(result, table), table)]


def size_pictures(results: Results, tables: Sequence[Table]) -> list[Picture]:
    """The figure of each evaluation of dense prediction by image size."""
    styles, profiles = figures.mixer_styles(tables), results.costs.profiles
    found = figures.with_tables(results.segmentation_sizes, tables, "segmentation-sizes")
    return [
        picture
        for result, table in found
        for picture in _drawn(figures.segmentation_sizes(result, table, profiles, styles), table)
    ]


def _drawn(figure: Figure | None, table: Table) -> list[Picture]:
    if figure is None:
        return []
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return [{"png": base64.b64encode(file.getvalue()).decode(), "caption": table.title}]


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
