"""Accuracy of probes against what makes them hard: pairs, tokens, the winner's lead, steps of a chain, steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wfbench.analysis.capability import PASSED, ProbeLine, ProbeResult, accuracy_at, accuracy_interval
from wfbench.analysis.interval import Interval
from wfbench.records import ProbeCell
from wfbench.report.columns import Table
from wfbench.report.figures.style import GREY, Style, empty_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Subject:
    """What a probe's figure shows.

    Attributes:
        question: that it answers.
        x: what is on the horizontal axis.
        is_log: whether that is logarithmic, with base 2.
        falls: whether smaller numbers are harder, and stand on the right.
    """

    question: str
    x: str
    is_log: bool = True
    falls: bool = False


SUBJECTS = {
    "recall": Subject("How many pairs can it store?", "pairs of key and value on the canvas"),
    "needle": Subject(
        "Among how many tokens does it find the marked one?", "tokens on the canvas, all but one of them distractors"
    ),
    "flood": Subject("How far does it follow a walk?", "steps along the walk to the mark"),
    "majority": Subject(
        "How small a majority does it notice?", "lead of the most frequent colour over an equal share", falls=True
    ),
    "shift": Subject("How soon does it learn to look half a grid away?", "steps of training", is_log=False),
    "hop": Subject("How many arrows can it follow?", "steps from symbol to symbol", is_log=False),
}

#: A point of a curve: where, and the accuracy over the seeds.
Point = tuple[float, Interval]


def places(result: ProbeResult) -> list[tuple[float, int]]:
    """Which cells a probe's curve goes through, and where each stands on the horizontal axis; none for shift."""
    own, hardest = (
        result.setting.image_size,
        [cell.level for cell in result.cells if cell.grid == result.setting.image_size][-1],
    )
    match result.setting.probe:
        case "shift":
            return []
        case "needle":
            found = [(float(cell.tokens), place) for place, cell in enumerate(result.cells) if cell.level == hardest]
        case "flood":
            found = [(float(cell.distance), place) for place, cell in enumerate(result.cells) if cell.distance is not None]
        case _:
            found = [(cell.level, place) for place, cell in enumerate(result.cells) if cell.grid == own]
    return sorted(found)


def curve(result: ProbeResult, line: ProbeLine) -> list[Point]:
    """A line's points at the end of training; of shift, those at the evaluations that all its runs have."""
    if line.leaks:
        return []
    found = [(x, line.accuracies[line.end][place]) for x, place in places(result)]
    if result.setting.probe != "shift":
        return [(x, value) for x, value in found if value is not None]
    steps = sorted({look.step for run in line.runs for look in run.curve})
    by_step = [(step, [accuracy_at(run, None, step) for run in line.runs]) for step in steps]
    known = [(step, [pair for pair in pairs if pair is not None]) for step, pairs in by_step]
    return [(step, accuracy_interval(*map(list, zip(*p, strict=True)))) for step, p in known if len(p) == len(line.runs)]


def probe_curves(result: ProbeResult, table: Table, styles: dict[str, Style]) -> Figure:
    """Accuracy against what makes the probe hard: a curve and a band for each mixer, and the floors.

    Args:
        result: the probe.
        table: its table, whose title stands above the plot.
        styles: the look of each line, by its label.
    """
    subject = SUBJECTS[result.setting.probe]
    figure, axes = empty_figure(table, gap=8, question=subject.question)
    figure.set_size_inches(9.6, 5.2)
    shown = sorted({x for line in result.lines for x, _ in curve(result, line)})
    for line in result.lines:
        if points := curve(result, line):
            x, y = [at for at, _ in points], [100 * found.estimate for _, found in points]
            low, high = ([100 * (end if end is not None else 0) for end in ends] for ends in _ends(points))
            colour = styles[line.label]["color"]
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, y, label=line.label, **styles[line.label])
    _floors(axes, [result.cells[place] for _, place in places(result)] or list(result.cells[:1]), _xs(result, shown))
    axes.axhline(100 * PASSED, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
    note: Style = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "color": GREY, "fontsize": 8}
    axes.annotate("90 %", (0, 100 * PASSED), (3, 2), **note)
    if subject.is_log:
        axes.set_xscale("log", base=2)
    if shown and (subject.is_log or len(shown) < 8):
        axes.set_xticks(shown, [f"{x:g}" for x in shown])
        axes.minorticks_off()
    if subject.falls:
        axes.invert_xaxis()
    axes.set(xlabel=f"{subject.x}{' (harder to the right)' if subject.falls else ''}", ylim=(-3, 103))
    axes.set_ylabel("right answers (%), measured\nbands: 95% interval over seeds; of one seed over canvases", fontsize=9)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, handlelength=3.6)
    return figure


def _ends(points: Sequence[Point]) -> tuple[list[float | None], list[float | None]]:
    return [found.low for _, found in points], [found.high for _, found in points]


def _xs(result: ProbeResult, shown: Sequence[float]) -> list[float]:
    """Where the floors are drawn: at the cells, or all along."""
    return [x for x, _ in places(result)] or [min(shown, default=0.0), max(shown, default=1.0)]


def _floors(axes: Axes, cells: Sequence[ProbeCell], x: Sequence[float]) -> None:
    """Chance, and what is known of the answers without the ability; the local floor where it is another than chance."""
    look: Style = {"color": GREY, "linewidth": 1.3, "marker": ""}
    cells = list(cells) if len(cells) == len(x) else [cells[0]] * len(x)
    axes.plot(x, [100 * cell.chance for cell in cells], linestyle=":", label="floor: guessing", **look)
    if any(abs(cell.local_floor - cell.chance) > 0.002 for cell in cells):
        axes.plot(x, [100 * cell.local_floor for cell in cells], linestyle="--", label="floor: near tokens", **look)
    ways: list[tuple[str, str | tuple[int, tuple[int, ...]], list[float | None]]] = [
        ("floor: set of answers", "-.", [cell.set_floor for cell in cells]),
        ("floor: straight distance", (0, (1, 1)), [cell.straight_floor for cell in cells]),
    ]
    for name, dashes, floors in ways:
        known = [(at, 100 * floor) for at, floor in zip(x, floors, strict=True) if floor is not None]
        if known:
            axes.plot(*zip(*known, strict=True), linestyle=dashes, label=name, **look)
