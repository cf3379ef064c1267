"""From measurements to rows: a cell's figures, and what the cells of a session say together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from wfbench.measure.flops import FlopCount
from wfbench.measure.roofline import Rates, bound
from wfbench.measure.scaling import rounds_interval
from wfbench.records import (
    BreakdownRow,
    MachineRow,
    MeasurementRow,
    ProfileRow,
    ThroughputRow,
)

Key = tuple[str, str, str, int, int]

_BYTES = ("bytes_least", "bytes_moved", "bytes_alive")
_COUNTS = ("parameters", "macs", "elementwise", "activations", *_BYTES, "counted_by", "macs_error")
#: What rows computed from several cells share with them.
_SETTING = ("token_budget", "mode", "dtype", "compiled", "channels_last", "protocol")
_OF_CELLS = ("environment", "created", "session", "model", "mixer", "local_conv", "pos_embed", "variant", "sdpa_backend")


def key_of(row: ProfileRow | MeasurementRow | BreakdownRow | ThroughputRow) -> Key:
    """What tells a cell from the others of its session, as `Cell.key`."""
    return row.mixer, row.variant, row.sdpa_backend, row.resolution[0], row.batch


def faster(one: MachineRow | None, other: MachineRow) -> MachineRow:
    """The best of two measurements of the same machine."""
    if one is None:
        return other
    gemm = max(one, other, key=lambda row: row.gemm_flops)
    return gemm.model_copy(update={"copy_bytes": max(one.copy_bytes, other.copy_bytes)})


def counted(count: FlopCount | None, error: str | None, parameters: int | None) -> dict[str, Any]:
    """A cell's counts, or why there are none."""
    if count is None:
        return {"parameters": parameters, "macs_error": error}
    fields = {name: getattr(count, name) for name in _COUNTS if hasattr(count, name)}
    return {**fields, "parameters": parameters, "counted_by": tuple(sorted(count.counts))}


def recalled(row: ProfileRow | None) -> dict[str, Any]:
    """A cell's counts from an earlier row of the session."""
    return {} if row is None else {name: getattr(row, name) for name in _COUNTS}


def timing(rows: Sequence[MeasurementRow]) -> dict[str, Any]:
    """Status, samples, median with interval, and percentiles."""
    failed = next((row for row in rows if row.status != "ok"), None)
    if failed is not None:
        return {"status": failed.status, "message": failed.message}
    if not rows:
        return {"status": "error", "message": "it was not measured"}
    samples = [s for row in rows for s in row.samples]
    medians = [statistics.median(row.samples) for row in rows]
    interval = rounds_interval(medians)
    p10, p25, p75, p90 = (float(p) for p in np.percentile(samples, (10, 25, 75, 90)))
    return {
        "status": "ok",
        "samples": tuple(samples),
        "round_medians": tuple(medians),
        "median": statistics.median(medians),
        "median_low": interval and interval.low,
        "median_high": interval and interval.high,
        "p10": p10,
        "p25": p25,
        "p75": p75,
        "p90": p90,
    }


def memory(rows: Sequence[MeasurementRow]) -> dict[str, Any]:
    """Peak memory, what it stands above, and what the allocator held."""
    if not rows:
        return {}
    row = rows[-1]
    return {
        "memory_status": row.status,
        "memory_message": row.message,
        "memory_bytes": row.bytes.get("peak"),
        "memory_baseline_bytes": row.bytes.get("baseline"),
        "memory_reserved_bytes": row.bytes.get("reserved"),
    }


def roofline(cell: dict[str, Any], machine: MachineRow | None) -> dict[str, Any]:
    """The least time that the machine allows; a training step's is taken to be three forward passes' work."""
    if machine is None or cell.get("macs") is None or cell.get("bytes_least") is None:
        return {}
    passes = 3 if cell["mode"] == "train" else 1
    rates = Rates(machine.gemm_flops, machine.gemm_size, machine.copy_bytes)
    seconds, by = bound(passes * cell["batch"] * cell["macs"], cell["batch"] * cell["bytes_least"], rates)
    return {"bound_seconds": seconds, "bound_by": by}


def throughput(row: MeasurementRow) -> ThroughputRow:
    """Images per second by batch, and the smallest batch that is nearly as good as the best."""
    names = set(ThroughputRow.model_fields) - {"kind", "saturating_batch", "images_per_second", "gain"}
    fields = {name: getattr(row, name) for name in names}
    rates = [b / s for b, s in zip(row.batches, row.samples, strict=True)]
    gain = ThroughputRow.model_fields["gain"].default
    good = [b for b, rate in zip(row.batches, rates, strict=True) if rate * (1 + gain) >= max(rates)]
    return ThroughputRow(**fields, images_per_second=tuple(rates), saturating_batch=good[0] if good else None)
