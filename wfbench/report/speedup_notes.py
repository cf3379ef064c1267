"""What tables with speed-ups say of their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from wfbench.analysis.cells import Line
from wfbench.analysis.lines import label
from wfbench.analysis.profile import CellCost
from wfbench.report.words import pixels

_ONE_PROCESS = "interleaved-v1"


def speedup_notes(cells: Sequence[CellCost]) -> list[str]:
    """How the intervals of speed-ups came to be, which are wide and what would help, and why some cells have none."""
    known = [cell for cell in cells if cell.speedup is not None and cell.speedup.rounds_needed is not None]
    notes = []
    if known:
        one = " All rounds ran in one process, so what differs from process to process is not in them."
        notes.append(
            "A speed-up is the ratio of two latencies. Brackets hold its 95% interval, from the logarithms of the ratios round "
            f"by round (Student's t).{one if known[0].row.protocol == _ONE_PROCESS else ''}"
        )
    return [*notes, *_wide_notes(known), *_lacking_notes([cell for cell in cells if _is_compared(cell)])]


def _is_compared(cell: CellCost) -> bool:
    """Whether a cell has a speed-up that was measured: the baseline's own is 1."""
    return cell.speedup is not None and not cell.speedup.is_baseline


def _wide_notes(known: Sequence[CellCost]) -> list[str]:
    """The lines whose speed-ups are uncertain, with the rounds that would do at the side that needs most."""
    wide: dict[Line, list[tuple[CellCost, int]]] = {}
    for cell in known:
        if cell.speedup is not None and cell.speedup.rounds_needed is not None and cell.speedup.is_uncertain:
            wide.setdefault(cell.line, []).append((cell, cell.speedup.rounds_needed - cell.speedup.rounds))
    if not wide:
        return []
    parts = [
        f"{_place(line, [cell for cell, _ in members], known)} ({max(more for _, more in members):,} more)"
        for line, members in wide.items()
    ]
    return [
        "Speed-ups that are not known to about 10 %, with the rounds beside those measured that would do if they spread alike: "
        f"{'; '.join(parts)}."
    ]


def _lacking_notes(compared: Sequence[CellCost]) -> list[str]:
    """Why speed-ups have no interval."""
    reasons: dict[str, dict[Line, list[CellCost]]] = {}
    for cell in compared:
        if cell.speedup is not None and cell.speedup.ratio.why_none:
            reasons.setdefault(cell.speedup.ratio.why_none, {}).setdefault(cell.line, []).append(cell)
    notes = []
    for why, lines in reasons.items():
        every = sum(map(len, lines.values())) == len(compared)
        places = "; ".join(_place(line, members, compared) for line, members in lines.items())
        notes.append(f"No speed-up has an interval: {why}." if every else f"No interval of the speed-up of {places}: {why}.")
    return notes


def _place(line: Line, members: Sequence[CellCost], cells: Sequence[CellCost]) -> str:
    """A line with the sides of these of its cells: "softmax [math] at 672, 896 px", "pool at every side"."""
    if len(members) > 1 and len(members) == sum(cell.line == line for cell in cells):
        return f"{label(line)} at every side"
    return f"{label(line)} at {', '.join(pixels(cell.row.resolution) for cell in members)} px"
