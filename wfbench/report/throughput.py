"""Throughput tables: images per second, alone and at the batch from which more images gain little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from wfbench.analysis.interval import Interval
from wfbench.analysis.throughput import CellThroughput, Throughputs
from wfbench.report.cells_in_words import (
    failure_notes,
    line_columns,
    ratio_with_ends,
    session_notes,
    setting_columns,
    side_columns,
    whole,
    with_ends,
)
from wfbench.report.columns import Column, Table, interval_ends, make_table
from wfbench.report.interval_notes import lacking_notes
from wfbench.report.naming import suffixes, title_of
from wfbench.report.words import environment_notes, number

V = TypeVar("V", int, Interval)

_ORDER = (
    "mixer",
    "px",
    "tokens",
    "images/s at batch 1",
    "saturating batch",
    "images/s there",
    "gain",
    "status",
)


def throughput_tables(results: Sequence[Throughputs]) -> list[Table]:
    """A table for each setting; the batch is not part of a setting here."""
    ends = suffixes([[result.setting] for result in results])
    return [_table(f"throughput{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: Throughputs) -> Table:
    notes = [
        *_notes(result),
        *session_notes(result.sessions),
        *environment_notes(cell.row.environment for cell in result.cells),
    ]
    title = f"Throughput: {title_of([result.setting])}"
    return make_table("throughput", name, title, _columns(result), result.cells, notes, order=_ORDER)


def _columns(result: Throughputs) -> list[Column[CellThroughput]]:
    return [
        Column("session", lambda cell: cell.row.session),
        Column("created", lambda cell: cell.row.created),
        *setting_columns(result.setting),
        *line_columns(lambda cell: cell.line),
        *side_columns(lambda cell: cell.row.resolution),
        Column("tokens", lambda cell: cell.row.tokens, "tokens", whole),
        Column("status", lambda cell: cell.row.status, "status", words=True),
        Column("message", lambda cell: cell.row.message),
        Column(
            "images_per_second_alone",
            lambda cell: cell.alone,
            "images/s at batch 1",
            with_ends(number),
            ends=interval_ends("images_per_second_alone"),
        ),
        Column("saturating_batch", lambda cell: cell.row.saturating_batch),
        Column(
            "images_per_second_saturated",
            lambda cell: cell.best,
            "images/s there",
            with_ends(number),
            ends=interval_ends("images_per_second_saturated"),
        ),
        Column("gain", lambda cell: cell.gain, ends=interval_ends("gain")),
        Column("gain_threshold", lambda cell: cell.row.gain),
        Column("still_rising", lambda cell: cell.is_still_rising),
        Column("stopped_by", lambda cell: cell.row.stopped_by),
        Column("batches", lambda cell: " ".join(str(batch) for batch in cell.row.batches)),
        Column("images_per_second", lambda cell: " ".join(repr(rate) for rate in cell.row.images_per_second)),
        Column("", lambda cell: _at_least(cell, cell.row.saturating_batch, whole), "saturating batch"),
        Column("", lambda cell: _at_least(cell, cell.gain, ratio_with_ends), "gain"),
    ]


def _at_least(cell: CellThroughput, value: V | None, show: Callable[[V], str]) -> str | None:
    """A figure in words, with a sign where the rate still rose at the largest batch."""
    return None if value is None else f"{'≥ ' if cell.is_still_rising else ''}{show(value)}"


def _notes(result: Throughputs) -> list[str]:
    cells = result.cells
    timed = "training steps" if result.setting.mode == "train" else "forward passes"
    gains = " or ".join(f"{100 * gain:.0f} %" for gain in sorted({cell.row.gain for cell in cells}))
    return [
        f"Images per second of {timed}. The batch was doubled; the saturating batch is the smallest within {gains} of the "
        "best rate, and the gain is its rate over that of batch 1.",
        *(["≥: the doubling ended before the rate surely stopped rising."] if any(c.is_still_rising for c in cells) else []),
        *_interval_notes(cells),
        *failure_notes((cell.line, cell.row.resolution, cell.row.status, cell.row.message) for cell in cells),
    ]


def _interval_notes(cells: Sequence[CellThroughput]) -> list[str]:
    """How the intervals came to be, and why some rates have none."""
    rates = [(cell, rate) for cell in cells for rate in (cell.alone, cell.best) if rate is not None]
    notes = []
    if any(rate.low is not None for _, rate in rates):
        notes.append(
            "Brackets hold 95% intervals over rounds (Student's t on logarithms), the gain paired by round; all rounds ran in "
            "one process, so what differs from process to process is not in them."
        )
    return [
        *notes,
        *lacking_notes("images per second", [(cell.line, cell.row.resolution, rate) for cell, rate in rates]),
        *lacking_notes("gain", [(cell.line, cell.row.resolution, cell.gain) for cell in cells if cell.gain is not None]),
    ]
