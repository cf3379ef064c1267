"""Images per second, alone and at the batch from which more images gain little."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wfbench.analysis.cells import Line, Sessions, Setting, latest_cells, line_of, setting_without_batch
from wfbench.analysis.interval import Interval
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
        gain: the rate at the saturating batch divided by that of batch 1, paired by round; None without either.
    """

    row: ThroughputRow
    line: Line
    alone: Interval | None
    best: Interval | None
    gain: Interval | None

    @property
    def is_still_rising(self) -> bool:
        """Whether a larger batch may be better: something else than small gains ended the doubling."""
        if self.row.stopped_by is not None:
            return self.row.stopped_by != "gain"
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
    why = "recorded before throughput had rounds" if not row.rate_rounds else "fewer than three rounds"
    alone = row.alone if row.alone is not None else rates.get(1)
    best = None if row.saturating_batch is None else rates[row.saturating_batch]
    gain = row.speedup if row.speedup is not None else best / alone if best and alone else None
    same = "it is a batch of one" if row.saturating_batch == 1 else why
    return CellThroughput(
        row,
        line_of(row),
        _interval(alone, row.alone_low, row.alone_high, why),
        _interval(best, row.saturated_low, row.saturated_high, why),
        _interval(gain, row.speedup_low, row.speedup_high, same),
    )


def _interval(value: float | None, low: float | None, high: float | None, why_none: str) -> Interval | None:
    return None if value is None else Interval(value, low, high, why_none="" if low is not None else why_none)
