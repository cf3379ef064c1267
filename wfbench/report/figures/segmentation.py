"""mIoU against tokens, beside the time of one image against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wfbench.analysis.cells import Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import label
from wfbench.analysis.profile import ProfileCost
from wfbench.analysis.segmentation import SizesResult
from wfbench.report.columns import Table
from wfbench.report.figures.style import Style, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = dict[str, dict[Size, Interval]]


def segmentation_sizes(
    result: SizesResult, table: Table, profiles: Sequence[ProfileCost], styles: dict[str, Style]
) -> Figure | None:
    """mIoU by the side of the images; on its right, where a profile of these models is at hand, the time of one image.

    Args:
        result: the evaluations; None is drawn for a single size.
        table: their table, whose title stands above the plot.
        profiles: of which those of this recipe's model are taken, in inference.
        styles: the look of each line, by its label.
    """
    if len(result.sizes) == 1:
        return None
    times = _times(result, profiles)
    figure, axes = empty_figure(table, gap=8)
    panels = [axes]
    if times:
        figure.set_size_inches(12.5, 5.2)
        places = figure.add_gridspec(1, 2)
        axes.set_subplotspec(places[0])
        panels.append(figure.add_subplot(places[1]))
        _curves(panels[1], times, styles)
        panels[1].set(ylabel="time of one image (ms), measured; bars: 95% interval over rounds", yscale="log")
    _curves(
        axes, {line.label: {size: found.divided_by(0.01) for size, found in line.miou.items()} for line in result.lines}, styles
    )
    axes.set(ylabel="mIoU (%), measured; bars: 95% interval over seeds")
    for panel in panels:
        panel.set(xlabel="height of the images (px); the number of tokens grows with its square")
        panel.set_xticks([height for height, _ in result.sizes])
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _curves(axes: Axes, lines: Points, styles: dict[str, Style]) -> None:
    for name, found in lines.items():
        points = sorted(found.items())
        ends = [(point.low, point.high) if point.is_known else (point.estimate, point.estimate) for _, point in points]
        middle = [point.estimate for _, point in points]
        reach = [[abs(m - (end[side] or m)) for m, end in zip(middle, ends, strict=True)] for side in (0, 1)]
        axes.errorbar([height for (height, _), _ in points], middle, yerr=reach, capsize=4, label=name, **styles[name])


def _times(result: SizesResult, profiles: Sequence[ProfileCost]) -> Points:
    """The time of one image by line and size, in milliseconds, of the lines and sizes that were evaluated too."""
    setting = result.setting
    names, found = {line.label for line in result.lines}, Points()
    for profile in profiles:
        if profile.profile.setting.mode != "infer":
            continue
        for cell in profile.cells:
            is_same = cell.row.model == f"{setting.model} of {setting.recipe}" and cell.row.resolution in result.sizes
            name, seconds = label(cell.row).partition(" [")[0], cell.seconds_per_image
            if is_same and name in names and seconds is not None and not cell.row.variant:
                best = found.setdefault(name, {}).get(cell.row.resolution)
                time = seconds.divided_by(0.001)
                if best is None or time.estimate < best.estimate:  # the fastest of the backends that were forced
                    found[name][cell.row.resolution] = time
    return found
