"""Where the MACs of each cell are, by module and by operator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from wfbench.analysis.cells import Line, Sessions, Setting, latest_cells, line_of, setting_without_batch
from wfbench.analysis.lines import group, sorted_keys
from wfbench.records import BreakdownRow


@dataclass(frozen=True, eq=False)
class CellBreakdown:
    """The MACs of one cell, for one image's forward pass.

    Attributes:
        row: the record, with the MACs by module and by operator.
        line: the line that it belongs to.
        total: the MACs of the whole model; None where modules and operators do not agree on them, or there are none.
    """

    row: BreakdownRow
    line: Line
    total: float | None

    def share(self, macs: float) -> float | None:
        """A part of the total; None where there is no total."""
        return None if self.total is None else macs / self.total


@dataclass(frozen=True, eq=False)
class Breakdowns:
    """The breakdowns of one setting, of its latest session; they are of one image, whatever the batch."""

    setting: Setting
    sessions: Sessions
    cells: tuple[CellBreakdown, ...]


def breakdowns(rows: Iterable[object]) -> tuple[Breakdowns, ...]:
    """The breakdowns of each setting, in the settings' order."""
    groups = group((row for row in rows if isinstance(row, BreakdownRow)), setting_without_batch)
    made = []
    for setting in sorted_keys(groups):
        cells, sessions = latest_cells(groups[setting])
        made.append(Breakdowns(setting, sessions, tuple(CellBreakdown(row, line_of(row), _total(row)) for row in cells)))
    return tuple(made)


def _total(row: BreakdownRow) -> float | None:
    by_operator = math.fsum(row.by_operator.values())
    whole = row.by_module.get("", by_operator)
    return whole if whole and math.isclose(whole, by_operator, rel_tol=1e-9) else None
