"""mIoU against tokens, beside the time of one image against tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wfbench.analysis.cells import Setting, Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import label
from wfbench.analysis.profile import CellCost, ProfileCost
from wfbench.analysis.segmentation import SizesResult
from wfbench.report.columns import Table
from wfbench.report.figures.style import Style, empty_figure
from wfbench.report.words import plural

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
        profiles: of which one is taken, of this recipe's model with its decoder in inference: its latest setting, and the axis
            says which that is.
        styles: the look of each line, by its label.
    """
    if len(result.sizes) == 1:
        return None
    setting, timed = times(result, profiles)
    figure, axes = empty_figure(table, gap=8)
    panels = [axes]
    if setting is not None:
        figure.set_size_inches(12.5, 5.2)
        places = figure.add_gridspec(1, 2)
        axes.set_subplotspec(places[0])
        panels.append(figure.add_subplot(places[1]))
        _curves(panels[1], timed, styles)
        label = f"time of one image (ms), measured; bars: 95% interval over rounds\n{_how(setting)}"
        panels[1].set(ylabel=label, yscale="log")
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


def times(result: SizesResult, profiles: Sequence[ProfileCost]) -> tuple[Setting | None, Points]:
    """The time of one image by line and size, in milliseconds, of the lines and sizes that were evaluated too.

    Returns:
        The setting that all of them were measured in, the one with the newest cell, and the times; None without any.
    """
    names, by_setting = {line.label for line in result.lines}, dict[Setting, list[tuple[str, CellCost]]]()
    for profile in profiles:
        for cell in profile.cells:
            name = label(cell.row).partition(" [")[0]
            if _is_of(result, profile, cell) and name in names:
                shared = profile.profile.setting._replace(factors="")  # lines differ in these
                by_setting.setdefault(shared, []).append((name, cell))
    if not by_setting:
        return None, {}
    setting = max(reversed(by_setting), key=lambda found: max(cell.row.created for _, cell in by_setting[found]))
    points = Points()
    for name, cell in by_setting[setting]:
        time = cell.seconds_per_image
        assert time is not None
        found, ms = points.setdefault(name, {}), time.divided_by(0.001)
        if cell.row.resolution not in found or ms.estimate < found[cell.row.resolution].estimate:
            found[cell.row.resolution] = ms  # the fastest of the backends that were forced
    return setting, points


def _is_of(result: SizesResult, profile: ProfileCost, cell: CellCost) -> bool:
    """Whether a cell's time is one image's forward pass of the model that was evaluated, at one of the sizes."""
    setting, row = result.setting, cell.row
    is_model = row.model == f"{setting.model} of {setting.recipe}" and row.decoder in (None, setting.decoder)
    is_shown = row.resolution in result.sizes and not row.variant and cell.seconds_per_image is not None
    return is_model and is_shown and profile.profile.setting.mode == "infer"


def _how(setting: Setting) -> str:
    """What the times were measured on, in words."""
    batch = f"batches of {setting.token_budget} tokens" if setting.batch is None else f"batch {setting.batch}"
    compiled = ", compiled" if setting.compiled else ""
    return f"{setting.device}, {setting.dtype}, {batch}, {plural(setting.threads, 'thread')}{compiled}"
