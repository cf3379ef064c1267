"""From measurements to rows: the figures of a cell."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from operator import truediv
from typing import Any

import numpy as np

from wfbench.analysis.lines import scheduled
from wfbench.measure.flops import FlopCount
from wfbench.measure.roofline import Rates, bound
from wfbench.measure.rounds import RoundsEstimate, paired_ratio, rounds_mean
from wfbench.measure.scaling import rounds_interval
from wfbench.records import (
    BreakdownRow,
    MachineRow,
    MeasurementRow,
    ProfileRow,
    ThroughputRow,
)
from wfbench.tasks.common import counted_fields

Key = tuple[str, str, str, int, int]

_BYTES = ("bytes_least", "bytes_moved", "bytes_alive")
_MACS = ("macs", "macs_error", "macs_sure", "macs_at_least")
_COUNTS = ("parameters", "elementwise", "elementwise_at_least", "activations", *_BYTES, "counted_by", *_MACS)
#: What a row of throughput takes over from its measurement.
_OF_THROUGHPUT = (set(ThroughputRow.model_fields) & set(MeasurementRow.model_fields)) - {"kind", "schema_version"}


def key_of(row: ProfileRow | MeasurementRow | BreakdownRow | ThroughputRow) -> Key:
    """What tells a cell from the others of its session, as `Cell.key`."""
    return scheduled(row), row.variant, row.sdpa_backend, row.resolution[0], row.batch


def faster(one: MachineRow | None, other: MachineRow) -> MachineRow:
    """The best of two measurements of the same machine."""
    if one is None:
        return other
    gemm = max(one, other, key=lambda row: row.gemm_flops)
    return gemm.model_copy(update={"copy_bytes": max(one.copy_bytes, other.copy_bytes)})


def counted(count: FlopCount | None, error: str | None, parameters: int | None) -> dict[str, Any]:
    """A cell's counts, or why there are none."""
    fields = {"parameters": parameters, **counted_fields(count, error)}
    if count is None:
        return fields
    fields |= {name: getattr(count, name) for name in _BYTES} | {"counted_by": tuple(sorted(count.counts))}
    work = "elementwise_at_least" if count.elementwise_unknown else "elementwise"
    # The elements that operators with MACs put out are as little known as the MACs.
    return fields | {work: count.elementwise, "activations": None if count.number is None else count.activations}


def recalled(row: ProfileRow | None) -> dict[str, Any]:
    """A cell's counts from an earlier row of the session."""
    return {} if row is None else {name: getattr(row, name) for name in _COUNTS}


def timing(rows: Sequence[MeasurementRow]) -> dict[str, Any]:
    """Status, samples, and the medians of rounds with their own median, its interval and their percentiles."""
    failed = next((row for row in rows if row.status != "ok"), None)
    if failed is not None:
        return {"status": failed.status, "message": failed.message}
    if not rows:
        return {"status": "error", "message": "it was not measured"}
    samples = [s for row in rows for s in row.samples]
    medians = [statistics.median(row.samples) for row in rows]
    interval = rounds_interval(medians)
    p10, p25, p75, p90 = (float(p) for p in np.percentile(medians, (10, 25, 75, 90)))
    return {
        "status": "ok",
        "samples": tuple(samples),
        "round_medians": tuple(medians),
        "round_numbers": tuple(row.round for row in rows),
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
    """Images per second by batch, the smallest batch that is nearly as fast as the best, and how much faster than one image."""
    fields = {name: getattr(row, name) for name in _OF_THROUGHPUT}
    rates = tuple(_rates(batch, seconds) for batch, seconds in zip(row.batches, row.batch_rounds, strict=True))
    alone = tuple(_rates(1, seconds) for seconds in row.alone_rounds)
    fields |= {"rate_rounds": rates, "alone_rounds": alone, "images_per_second": tuple(map(statistics.geometric_mean, rates))}
    if rates:
        gain = ThroughputRow.model_fields["gain"].default
        # By the speed-up, not the rate: the machine may have been slower while one batch was timed than while another was.
        speedups = [statistics.geometric_mean(map(truediv, ours, one)) for ours, one in zip(rates, alone, strict=True)]
        place = next(i for i, speedup in enumerate(speedups) if speedup * (1 + gain) >= max(speedups))
        one = row.batches[place] == 1  # then it is the same sample, and the ratio is not a measurement
        fields |= {
            "saturating_batch": row.batches[place],
            "alone": statistics.geometric_mean(alone[place]),
            "speedup": 1.0 if one else speedups[place],
            **_ends("saturated", rounds_mean(rates[place])),
            **_ends("alone", rounds_mean(alone[place])),
            **_ends("speedup", None if one else paired_ratio(alone[place], rates[place])),
        }
    return ThroughputRow(**fields)


def _rates(batch: int, seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(batch / s for s in seconds)


def _ends(name: str, interval: RoundsEstimate | None) -> dict[str, float | None]:
    """The ends of an interval as a row's fields."""
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {f"{name}_low": low, f"{name}_high": high}
