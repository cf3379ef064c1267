"""The maps of effective receptive fields, side by side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wfbench.analysis.lines import label
from wfbench.analysis.receptive_fields import DECADES, ReceptiveFields, decode
from wfbench.records import ErfRow
from wfbench.report.words import pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PER_LINE = 6  # maps in one line of the figure


def receptive_fields(result: ReceptiveFields) -> Figure:
    """The maps of one setting, each under its name."""
    from matplotlib.figure import Figure

    columns = min(_PER_LINE, len(result.maps))
    lines = math.ceil(len(result.maps) / columns)
    figure = Figure(figsize=(1 + 1.9 * columns, 0.6 + 2.2 * lines), dpi=150, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for place, row in zip(axes.flat, result.maps, strict=False):
        shown = place.imshow(decode(row.picture), cmap="viridis", vmin=-DECADES, vmax=0, interpolation="nearest")
        place.set_title(caption(row), fontsize=8)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, ticks=range(-DECADES, 1, 2))
    bar.set_label("log₁₀ of energy / largest", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    model, side = result.setting.model, pixels(result.setting.image_size)
    figure.suptitle(f"Effective receptive field of the central token, {model} at {side} px", fontsize=10)
    return figure


def caption(row: ErfRow) -> str:
    """What stands above one map."""
    return f"{label(row)}\n{row.weights}"
