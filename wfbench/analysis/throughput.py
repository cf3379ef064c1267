"""Images per second, alone and at the batch from which more images gain little."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wfbench.analysis.cells import Line, Sessions, Setting, latest_cells, line_of, setting_without_batch
from wfbench.analysis.lines import group, sorted_keys
from wfbench.records import ThroughputRow


@dataclass(frozen=True, eq=False)
class CellThroughput:
    """The throughput of one cell.

    Attributes:
        row: the record: the batches that were tried, and whether the cell failed.
        line: the line that it belongs to.
        alone: images per second at batch 1; None where it was not tried.
        best: images per second at the saturating batch; None where there is none.
        gain: ``best`` divided by ``alone``.
    """

    row: ThroughputRow
    line: Line
    alone: float | None
    best: float | None
    gain: float | None

    @property
    def is_still_rising(self) -> bool:
        """Whether the largest batch was the best by far, so that a larger one may be better."""
        return self.row.saturating_batch is not None and self.row.saturating_batch == max(self.row.batches)


@dataclass(frozen=True, eq=False)
class Throughputs:
    """The throughput of the cells of one setting, of its latest session; the batch is not part of the setting here."""

    setting: Setting
    sessions: Sessions
    cells: tuple[CellThroughput, ...]


def throughputs(rows: Iterable[object]) -> tuple[Throughputs, ...]:
    """The throughput of each setting, in the settings' order."""
    groups = group((row for row in rows if isinstance(row, ThroughputRow)), setting_without_batch)
    made = []
    for setting in sorted_keys(groups):
        cells, sessions = latest_cells(groups[setting])
        made.append(Throughputs(setting, sessions, tuple(map(_throughput, cells))))
    return tuple(made)


def _throughput(row: ThroughputRow) -> CellThroughput:
    rates = dict(zip(row.batches, row.images_per_second, strict=True))
    alone = rates.get(1)
    best = None if row.saturating_batch is None else rates[row.saturating_batch]
    return CellThroughput(row, line_of(row), alone, best, best / alone if best and alone else None)
