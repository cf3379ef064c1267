"""What each network loses with something taken away, by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfbench.analysis.ablation import AblationLine, AblationResult
from wfbench.report.ablation import FIGURES, REMOVED, layer_in_words
from wfbench.report.figures.style import COLOURS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ablation(result: AblationResult) -> Figure:
    """One panel for each network: the difference by layer, all layers together first, with its interval."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(line.label for line in result.lines))
    figure = Figure(figsize=(7, 0.8 + 2.4 * len(names)), dpi=150, layout="constrained")
    kinds = list(dict.fromkeys((line.slot, line.what) for line in result.lines))
    heading, is_share = FIGURES[result.setting.metric]
    scale = 100.0 if is_share else 1.0
    for axes, name in zip(figure.subplots(len(names), 1, squeeze=False)[:, 0], names, strict=True):
        lines = [line for line in result.lines if line.label == name]
        layers = sorted({line.layer for line in lines}, key=lambda layer: -1 if layer is None else layer)
        places = {layer: place for place, layer in enumerate(layers)}
        for number, (slot, what) in enumerate(kinds):
            shown = [line for line in lines if (line.slot, line.what) == (slot, what)]
            shift = 0.7 * ((number + 0.5) / len(kinds) - 0.5)
            axes.errorbar(
                [places[line.layer] + shift for line in shown],
                [scale * line.difference.estimate for line in shown],
                yerr=[scale * _reach(line) for line in shown],
                fmt=MARKERS[number % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                markersize=4,
                linewidth=1,
                label=f"{slot}, {REMOVED[what]}",
            )
        axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_xticks(range(len(layers)), [layer_in_words(layer) for layer in layers])
        axes.set_title(name, fontsize=9)
        axes.set_ylabel(f"difference in\n{heading}", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=6, ncols=2)
    axes.set_xlabel("layer", fontsize=8)
    return figure


def _reach(line: AblationLine) -> float:
    return line.difference.half_width or 0.0
