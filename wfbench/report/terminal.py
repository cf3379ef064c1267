"""Plots for a terminal: what mixers store, and how their time grows."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from wfbench.analysis.results import Results
from wfbench.report.figures.capability import curve

#: Lines of one plot; of more mixers there is none.
_MOST = 6
_COLOURS = ("blue", "orange", "green", "red", "magenta", "cyan")
_HEIGHT = 14
#: Name, x and y of a line.
_Curve = tuple[str, list[float], list[float]]


def plots(results: Results, width: int) -> list[str]:
    """The plots that there are: right answers against pairs in the probe recall, and latency against the image side.

    Args:
        results: of one report.
        width: of the terminal, in characters.
    """
    recall = next((probe for probe in results.probes if probe.setting.probe == "recall"), None)
    found = []
    if recall is not None:
        curves = [
            (line.label, [float(x) for x, _ in points], [100 * y.estimate for _, y in points])
            for line in recall.lines
            if (points := curve(recall, line))
        ]
        found.append(_plot("recall: right answers (%) against pairs on a canvas", curves, width, is_log=False))
    for choice in results.choices[:1]:
        curves = []
        for candidate in choice.candidates:
            timed = [
                (float(side[0]), 1e3 * cell.latency.estimate)
                for side in choice.sides
                if (cell := candidate.cells.get(side)) is not None and cell.latency is not None
            ]
            curves.append((candidate.label, [side for side, _ in timed], [ms for _, ms in timed]))
        found.append(_plot("latency of one call (ms) against image side (px)", curves, width, is_log=True))
    return [plot for plot in found if plot]


def _plot(title: str, curves: Sequence[_Curve], width: int, *, is_log: bool) -> str:
    """Lines whose points are letters, so that they can be told apart without colours; empty without any or of too many."""
    curves = [one for one in curves if one[1]]
    if not curves or len(curves) > _MOST:
        return ""
    import plotext

    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(width, 76), _HEIGHT)
    plotext.title(title)
    plotext.xscale("log")
    plotext.yscale("log" if is_log else "linear")
    for letter, colour, (name, x, y) in zip(ascii_uppercase, _COLOURS, curves, strict=False):
        plotext.plot(x, y, marker="dot", color=colour)
        plotext.scatter(x, y, marker=letter, color=colour, label=name)
    ticks = sorted({value for _, x, _ in curves for value in x})
    plotext.xticks(ticks, [f"{value:g}" for value in ticks])
    if is_log:
        low, high = min(min(y) for *_, y in curves), max(max(y) for *_, y in curves)
        marks = [base * 10**power for power in range(-3, 7) for base in (1, 2, 5)]
        marks = [mark for mark in marks if low * 0.8 <= mark <= high * 1.25]
        plotext.yticks(marks, [f"{mark:g}" for mark in marks])
    return str(plotext.build())
