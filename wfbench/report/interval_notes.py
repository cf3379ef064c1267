"""What tables of costs say of intervals: how they came to be, which are wide, and why some numbers have none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfbench.analysis.cells import Line, Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import label, scheduled
from wfbench.analysis.profile import CellCost
from wfbench.report.words import pixels

_ONE_PROCESS = "interleaved-v1"
#: Why a peak of memory has no interval.
ONCE = "measured once per cell"
#: A number of a line at a side.
_At = tuple[Line, Size, Interval]


def latency_notes(cells: Sequence[CellCost], *, in_csv: bool = False) -> list[str]:
    """What the interval of a latency is, and why some have none; of latencies in the CSV alone, why some have none."""
    found = _numbers((cell, cell.latency) for cell in cells)
    how = "Brackets behind a latency hold its 95% interval over the medians of its rounds (Student's t on logarithms)."
    what = "latency in the CSV" if in_csv else "latency"
    return [*([how] if _is_any_known(found) and not in_csv else []), *lacking_notes(what, found)]


def memory_notes(cells: Iterable[CellCost]) -> list[str]:
    """Why the memory of cells has no interval."""
    return [f"No interval of memory: {ONCE}."] if any(cell.row.memory_bytes is not None for cell in cells) else []


def exponent_notes(cells: Sequence[CellCost]) -> list[str]:
    """What the interval of a latency exponent is, and why some have none."""
    found = _numbers((cell, None if cell.exponents is None else cell.exponents.latency) for cell in cells)
    how = "Brackets behind a latency exponent hold its 95% interval, from the distance of the mixer's cells to the curve."
    return [*([how] if _is_any_known(found) else []), *lacking_notes("latency exponent", found)]


def speedup_notes(cells: Sequence[CellCost]) -> list[str]:
    """How the intervals of speed-ups came to be, which are wide and what would help, and why some cells have none."""
    known = [cell for cell in cells if cell.speedup is not None and cell.speedup.rounds_needed is not None]
    notes = []
    if known:
        one = " All rounds ran in one process, so what differs from process to process is not in them."
        notes.append(
            "A speed-up is the ratio of two latencies. Brackets hold its 95% interval, from the logarithms of the ratios round "
            f"by round (Student's t), and widened where needed to hold the ratio.{one if _ran_in_one_process(known) else ''}"
        )
    # The baseline's own is 1, which nothing measured.
    compared = _numbers((cell, cell.speedup.ratio) for cell in cells if cell.speedup and not cell.speedup.is_baseline)
    notes += [*_wide_notes(known, compared), *lacking_notes("speed-up", compared)]
    baseline = next((cell for cell in cells if cell.speedup is not None and cell.speedup.is_baseline), None)
    if baseline is not None:
        notes.append(f"{scheduled(baseline.line)} has a speed-up of 1 without an interval: it is the baseline.")
    return notes


def lacking_notes(what: str, found: Sequence[_At]) -> list[str]:
    """Why some of these numbers have no interval, the lines and sides of one reason together.

    Args:
        what: what the numbers are, in words and in the singular.
        found: all of them, those with an interval too.
    """
    reasons: dict[str, dict[Line, dict[Size, None]]] = {}
    for line, side, value in found:
        if value.why_none:
            reasons.setdefault(value.why_none, {}).setdefault(line, {})[side] = None
    every = all(value.why_none for _, _, value in found) and len(reasons) == 1
    notes = []
    for why, lines in reasons.items():
        places = "; ".join(_place(line, list(sides), found) for line, sides in lines.items())
        notes.append(f"No {what} has an interval: {why}." if every else f"No interval of the {what} of {places}: {why}.")
    return notes


def _numbers(found: Iterable[tuple[CellCost, Interval | None]]) -> list[_At]:
    return [(cell.line, cell.row.resolution, value) for cell, value in found if value is not None]


def _is_any_known(found: Sequence[_At]) -> bool:
    return any(not value.why_none for _, _, value in found)


def _ran_in_one_process(cells: Sequence[CellCost]) -> bool:
    return cells[0].row.protocol == _ONE_PROCESS


def _wide_notes(known: Sequence[CellCost], compared: Sequence[_At]) -> list[str]:
    """The lines whose speed-ups are uncertain, with the rounds that would do at the side that needs most."""
    wide: dict[Line, list[tuple[CellCost, int]]] = {}
    for cell in known:
        if cell.speedup is not None and cell.speedup.rounds_needed is not None and cell.speedup.is_uncertain:
            wide.setdefault(cell.line, []).append((cell, cell.speedup.rounds_needed - cell.speedup.rounds))
    if not wide:
        return []
    goal = next(cell.speedup.goal for cell in known if cell.speedup is not None)
    parts = [
        f"{_place(line, [cell.row.resolution for cell, _ in members], compared)} ({max(more for _, more in members):,} more)"
        for line, members in wide.items()
    ]
    return [
        f"Speed-ups that are not known to about {100 * goal:g} %, with the rounds beside those measured that would do if they "
        f"spread alike: {'; '.join(parts)}."
    ]


def _place(line: Line, sides: Sequence[Size], found: Sequence[_At]) -> str:
    """A line with the sides of these of its numbers: "softmax [math] at 672, 896 px", "pool at every side"."""
    if len(sides) > 1 and len(sides) == len({side for other, side, _ in found if other == line}):
        return f"{label(line)} at every side"
    return f"{label(line)} at {', '.join(map(pixels, sides))} px"
