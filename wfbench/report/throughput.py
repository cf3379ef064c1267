"""Throughput tables: images per second, alone and at the batch from which more images gain little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfbench.analysis.cells import Setting, setting_without_batch
from wfbench.records import AnyRow, ThroughputRow
from wfbench.report.cells_in_words import latest_cells, raw_line
from wfbench.report.parts import (
    DASH,
    Line,
    Table,
    flat,
    group,
    height_width,
    label,
    make_table,
    number,
    pixels,
    sorted_keys,
    suffixes,
    title_of,
)


def throughput_tables(rows: Iterable[AnyRow]) -> list[Table]:
    """Images per second at batch 1 and at the batch from which more images gain little; the batch is not a setting here."""
    groups = group((row for row in rows if isinstance(row, ThroughputRow)), setting_without_batch)
    keys = sorted_keys(groups)
    ends = suffixes([[key] for key in keys])
    return [_throughput_table(f"throughput{end}", key, groups[key]) for key, end in zip(keys, ends, strict=True)]


def _throughput_table(name: str, key: Setting, rows: Sequence[ThroughputRow]) -> Table:
    cells, session = latest_cells(rows)
    lines = [_throughput_line(key, row) for row in cells]
    return make_table(name, f"Throughput: {title_of([key])}", lines, [*_throughput_notes(key.mode, cells), *session])


def _throughput_line(key: Setting, row: ThroughputRow) -> Line:
    rates = dict(zip(row.batches, row.images_per_second, strict=True))
    alone = rates.get(1)
    best = None if row.saturating_batch is None else rates[row.saturating_batch]
    gain = best / alone if best and alone else None
    open_ended = "≥ " if _still_rising(row) else ""
    cells = {
        "mixer": label(row),
        "px": pixels(row.resolution),
        "tokens": f"{row.tokens:,}",
        "images/s at batch 1": number(alone),
        "saturating batch": DASH if row.saturating_batch is None else f"{open_ended}{row.saturating_batch:,}",
        "images/s there": number(best),
        "gain": DASH if gain is None else f"{open_ended}{number(gain)}×",
        "status": row.status,
    }
    raw = {
        "session": row.session,
        "created": row.created,
        **flat(key),
        **raw_line(row),
        **height_width(row.resolution),
        "tokens": row.tokens,
        "status": row.status,
        "message": row.message,
        "images_per_second_alone": alone,
        "saturating_batch": row.saturating_batch,
        "images_per_second_saturated": best,
        "gain": gain,
        "gain_threshold": row.gain,
        "still_rising": _still_rising(row),
        "batches": " ".join(str(batch) for batch in row.batches),
        "images_per_second": " ".join(repr(rate) for rate in row.images_per_second),
    }
    return cells, raw


def _still_rising(row: ThroughputRow) -> bool:
    """Whether the largest batch was the best by far, so that a larger one may be better."""
    return row.saturating_batch is not None and row.saturating_batch == max(row.batches)


def _throughput_notes(mode: str, rows: Sequence[ThroughputRow]) -> list[str]:
    timed = "training steps" if mode == "train" else "forward passes"
    gains = " or ".join(f"{100 * gain:.0f} %" for gain in sorted({row.gain for row in rows}))
    return [
        f"Images per second of {timed}. The batch was doubled; the saturating batch is the smallest within {gains} of the "
        "best rate, and the gain is its rate over that of batch 1.",
        *(["≥: the rate still rose at the largest batch that was tried."] if any(map(_still_rising, rows)) else []),
        *(
            f"{label(row)} at {pixels(row.resolution)} px: {row.status}: {row.message or 'no message'}"
            for row in rows
            if row.status != "ok"
        ),
    ]
