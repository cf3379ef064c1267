"""The held-out loss of every denoiser against its epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfbench.analysis.denoising import Losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = 10  # of matplotlib's usual cycle; then the line's style changes


def denoising_curves(result: Losses) -> Figure:
    """A line for each run, in the colour of its mixer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(result.lines):
        style = ("-", "--", ":", "-.")[place // _COLOURS % 4]
        for count, run in enumerate(line.runs):
            epochs, losses = zip(*run.held_out_curve, strict=True)
            name = None if count else line.label
            axes.plot(epochs, losses, style, color=f"C{place % _COLOURS}", label=name, linewidth=1.4)
    setting = result.setting
    axes.set(xlabel="epoch", ylabel=f"held-out denoising loss ({setting.weights} weights)", yscale="log")
    axes.set_title(f"{setting.dataset}, recipe {setting.recipe}; a line for each seed", fontsize=9)
    axes.legend(fontsize=8)
    return figure
