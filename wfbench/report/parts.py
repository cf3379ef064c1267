"""Tables from pairs of dictionaries, until each is made of columns (columns.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from wfbench.analysis.lines import (
    BASELINE,
    CHOSEN_BACKEND,
    SMALL_SIDE,
    Key,
    factors,
    group,
    label,
    latest,
    latest_session,
    sorted_keys,
)
from wfbench.report.columns import Table
from wfbench.report.naming import flat, height_width, slug, suffixes, title_of
from wfbench.report.words import (
    DASH,
    REFUSED,
    environment_notes,
    gmacs,
    number,
    percent,
    pixels,
    plural,
    refused_notes,
    spread_note,
    with_interval,
)

__all__ = [
    "BASELINE",
    "CHOSEN_BACKEND",
    "DASH",
    "REFUSED",
    "SMALL_SIDE",
    "Key",
    "Line",
    "Table",
    "environment_notes",
    "factors",
    "flat",
    "gmacs",
    "group",
    "height_width",
    "label",
    "latest",
    "latest_session",
    "left_aligned",
    "make_table",
    "number",
    "percent",
    "pixels",
    "plural",
    "refused_notes",
    "slug",
    "sorted_keys",
    "spread_note",
    "suffixes",
    "title_of",
    "with_interval",
]

_LEFT_ALIGNED = frozenset(
    {
        "model",
        "mixer",
        "weights",
        "status",
        "baseline",
        "crossover",
        "backend",
        "of the bound (%)",
        "by",
        "module or operator",
        "verdict",
        "source",
        "metric",
        "extractor",
        "against",
        "claim",
        "says",
        "holds if",
        "why",
        "pre-registered",
    }
)
_FILES_ONLY = ("top-5 (%)", "backend", "GFLOPs", "elementwise (G)", "activations (M)", "bytes moved (MB)", "IQR (ms)")
#: Columns by which a single seed is never ranked.
_RANKS = ("accuracy", "loss", "difference", "top-5", "held-out loss", "best epoch", "mse", "proxy-FD", "FID", "value")
#: The cells that people read, and the raw numbers of the same line.
Line = tuple[dict[str, str], dict[str, object]]


def left_aligned(column: str) -> bool:
    """Whether a column holds words rather than numbers."""
    return column in _LEFT_ALIGNED or (column.startswith("by ") and not column.endswith("(MB)"))


def make_table(
    name: str, title: str, lines: Sequence[Line], notes: Iterable[str], raw: Sequence[dict[str, object]] | None = None
) -> Table:
    """A table of the lines, whose columns stand in the order in which they come first.

    ``raw`` stands for the lines' raw numbers where these have other lines than people read.
    """
    columns = list(dict.fromkeys(column for cells, _ in lines for column in cells))
    frame = pd.DataFrame([[cells.get(column, DASH) for column in columns] for cells, _ in lines], columns=columns)
    entries = [entry for _, entry in lines] if raw is None else raw
    data = pd.DataFrame(entries)
    for column in data.columns:
        values = [entry[column] for entry in entries if entry.get(column) is not None]
        if values and all(type(value) is int for value in values):
            # One empty cell turns a column of whole numbers into floats, and the CSV would show 5717416.0.
            data[column] = data[column].astype("Int64")
    headings = [str(column) for column in frame.columns]
    return Table(
        name,
        title,
        frame,
        data,
        tuple(" ".join(note.split()) for note in notes),
        name.partition("-")[0],
        frozenset(filter(left_aligned, headings)),
        frozenset(heading for heading in headings if heading.startswith(_RANKS) or heading.endswith(" px (%)")),
        tuple(heading for heading in _FILES_ONLY if heading in headings),
    )
