"""The chart of the probes: accuracy against what makes each one hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wfbench.analysis.capability import ProbeResult
from wfbench.report.capability import FLOORS
from wfbench.report.columns import Table
from wfbench.report.figures.capability import SUBJECTS, curve, places
from wfbench.report.page.charts import Chart, Choice, Point, lines_spec

_GREY = "#888888"
#: The look of the floors.
_LOOKS = {
    floor.label: {"color": _GREY, "marker": "o", "linestyle": (0, dashes)}
    for floor, dashes in zip(FLOORS, ((1, 3), (6, 3), (6, 3, 1, 3), (1, 1)), strict=True)
}


def probe_chart(results: Sequence[ProbeResult], tables: Sequence[Table], looks: Mapping[str, Any]) -> Chart | None:
    """Accuracy against what makes a probe hard, with a choice of the probe; None where there is none.

    Args:
        results: of the probes.
        tables: theirs, in the same order.
        looks: the look of each line, by its label.
    """
    points: list[Point] = []
    choices, notes = [], dict[str, None]()
    for number, (result, table) in enumerate(zip(results, tables, strict=True)):
        field, subject = f"probe_{number}", SUBJECTS[result.setting.probe]
        found = _points(result, field)
        if found:
            points += found
            name = table.name.removeprefix("probe-")
            choices.append(Choice(field, f"{name}: {subject.x}", scale="log" if subject.is_log else "linear"))
            notes |= dict.fromkeys(table.notes)
    if not choices:
        return None
    spec = lines_spec({**looks, **_LOOKS}, [str(point["mixer"]) for point in points], band=True)
    y = [Choice("accuracy", "right answers (%); band: 95% interval over seeds, of one seed over canvases", "low", "high")]
    return Chart("probes", "Probes: what can it do?", spec, points, choices, y, (), tuple(notes))


def _points(result: ProbeResult, field: str) -> list[Point]:
    points: list[Point] = []
    for line in result.lines:
        for x, found in curve(result, line):
            low, high = (None if end is None else 100 * end for end in (found.low, found.high))
            ends = {} if low is None or high is None else {"low": low, "high": high}
            who = {"mixer": line.label, "run": f"{field} {line.label}", "seeds": len(line.runs)}
            points.append({**who, field: float(x), "accuracy": 100 * found.estimate, **ends})
    for floor in FLOORS:
        for x, place in places(result):
            value = floor.value(result.cells[place])
            if value is not None:
                points.append({"mixer": floor.label, "run": f"{field} {floor.label}", field: x, "accuracy": 100 * value})
    return points
