"""Profile tables: what each mixer costs at each resolution, the machine it ran on, and its accuracy beside the cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wfbench.analysis.cells import LineKey, Profile, Size, current, line_key, owners, profiles_of
from wfbench.records import AnyRow, HarnessRow, MachineRow, ProfileRow, ScalingRow
from wfbench.report.breakdown import breakdown_tables
from wfbench.report.cells_in_words import in_backend, session_notes
from wfbench.report.comparisons import crossover_tables, scaling_tables, speedup_tables
from wfbench.report.parts import (
    BASELINE,
    DASH,
    REFUSED,
    Line,
    Table,
    environment_notes,
    flat,
    gmacs,
    group,
    height_width,
    label,
    latest,
    make_table,
    number,
    pixels,
    refused_notes,
    suffixes,
    title_of,
    with_interval,
)
from wfbench.report.throughput import throughput_tables

_FULL_COUNTS = 3  # so many counts of MACs have to agree before a number stands without a dagger
_DAGGER = "†"
#: Columns that a table has only where they hold something, with what they mean.
_OPTIONAL = {
    "activations (M)": "activations are the elements that operators with MACs put out for one image",
    "bytes at least (MB)": "bytes at least are those that any execution moves for one image: weights and input read, output "
    "written",
    "bytes moved (MB)": "bytes moved are those that the operators read and write, each for itself, for one image",
    "ms per image": "ms per image is the latency divided by the batch",
    "of the bound (%)": "the share of the bound is the least time that the rates of this machine allow, divided by the "
    "latency, with what sets it",
    "memory (MB)": "memory is the peak of one call in a process of its own, above what the process held before the model",
    "by shapes (MB)": "by shapes stand the most bytes alive at once in theory (weights, input, activations; in training "
    "gradients and moments too), without what kernels allocate for themselves",
}


def profile_tables(rows: Sequence[AnyRow]) -> list[Table]:
    """All tables about profiles: the profiles, then scaling, speed-ups, crossovers, throughput and breakdowns."""
    rows = current(rows)
    profiles = profiles_of(rows)
    context = _Context(
        profiles,
        [row for row in rows if isinstance(row, ScalingRow)],
        [row for row in rows if isinstance(row, MachineRow)],
        [row for row in rows if isinstance(row, HarnessRow)],
    )
    ends = suffixes([[profile.setting] for profile in profiles])
    return [
        *(_profile_table(f"profile{end}", profile, context) for profile, end in zip(profiles, ends, strict=True)),
        *scaling_tables(rows, profiles),
        *speedup_tables(profiles),
        *crossover_tables(rows, profiles),
        *throughput_tables(rows),
        *breakdown_tables(rows),
    ]


@dataclass(frozen=True)
class _Context:
    """What a profile table says beside its cells."""

    profiles: Sequence[Profile]
    scaling: Sequence[ScalingRow]
    machines: Sequence[MachineRow]
    harness: Sequence[HarnessRow]


def _profile_table(name: str, profile: Profile, context: _Context) -> Table:
    setting, cells = profile.setting, profile.cells
    exponents, unclear = _exponents(profile, context)
    several = len({row.sdpa_backend for row in cells}) > 1
    lines = [_profile_line(profile, row, exponents.get((line_key(row), row.resolution)), several) for row in cells]
    lines, columns = _without_empty(lines)
    notes = [
        _unit_note(profile),
        *_column_notes(columns),
        *_interval_notes(cells, exponents.values()),
        "Attention runs in the backend that PyTorch chooses, unless brackets behind a mixer name another.",
        *_failure_notes(cells),
        *_memory_notes(cells),
        *_bound_notes(cells),
        *refused_notes((label(row), row.macs, row.macs_error) for row in cells if _needs_macs(row)),
        *_dagger_notes(cells),
        *_machine_notes(profile, context.machines),
        *_harness_notes(profile, context.harness),
        *session_notes(
            profile.session,
            profile.sessions,
            {session: len({(line_key(row), row.resolution) for row in rows}) for session, rows in profile.sessions.items()},
        ),
        *environment_notes(row.environment for row in cells),
    ]
    if unclear:
        notes.append("Some exponents are left out: their session holds several settings, and they do not say which they mean.")
    return make_table(name, f"Profile: {title_of([setting])}", lines, notes)


def _exponents(profile: Profile, context: _Context) -> tuple[dict[tuple[LineKey, Size], ScalingRow], bool]:
    """The exponents of a profile by the cell they end at, and whether some are left out that may be of other profiles."""
    ours, unclear = [], False
    for row in context.scaling:
        places = owners(row, context.profiles) if row.session == profile.session else []
        if places == [profile]:
            ours.append(row)
        unclear |= profile in places and len(places) > 1
    return {(line_key(row), row.high): row for row in latest(ours, lambda row: (line_key(row), row.high))}, unclear


def _profile_line(profile: Profile, row: ProfileRow, exponents: ScalingRow | None, several_backends: bool) -> Line:
    median = row.median if row.status == "ok" else None
    per_image = None if median is None else median / row.batch
    speedup = profile.speedup(row)
    share = None if median is None or _over_bound(row) or row.bound_seconds is None else row.bound_seconds / median
    doubled = None if row.macs is None else 2 * row.macs
    doubt = _DAGGER if _in_doubt(row) else ""
    missing = REFUSED if _needs_macs(row) else DASH
    by_tokens = profile.setting.token_budget is not None
    cells = {
        "mixer": label(row),
        **({"backend": row.sdpa_backend} if several_backends else {}),
        "px": pixels(row.resolution),
        "tokens": f"{row.tokens:,}",
        **({"batch": f"{row.batch:,}"} if by_tokens else {}),
        "params (M)": number(row.parameters, 1e-6),
        "GMACs": gmacs(row.macs, missing) + doubt,
        "GFLOPs": gmacs(doubled, missing) + doubt,
        "elementwise (G)": number(row.elementwise, 1e-9),
        "activations (M)": number(row.activations, 1e-6),
        "bytes at least (MB)": number(row.bytes_least, 1e-6),
        "bytes moved (MB)": number(row.bytes_moved, 1e-6),
        "latency (ms)": with_interval(median, row.median_low, row.median_high, _milliseconds),
        "IQR (ms)": _quartiles(row),
        "ms per image": number(per_image, 1e3) if by_tokens else DASH,
        "of the bound (%)": _bound(row, share),
        "memory (MB)": _memory(row),
        "by shapes (MB)": DASH if row.memory_status == "not measured" else number(row.bytes_alive, 1e-6),
        f"speed-up over {BASELINE}": DASH if speedup is None else f"{number(speedup)}×",
        "latency exponent": DASH if exponents is None else _latency_exponent(exponents),
        "MACs exponent": DASH if exponents is None or exponents.macs_exponent is None else _exponent(exponents.macs_exponent),
        "status": row.status,
    }
    raw = {
        "session": row.session,
        "created": row.created,
        **flat(profile.setting),
        "batch": row.batch,
        "label": label(row),
        "mixer": row.mixer,
        "local_conv": row.local_conv,
        "pos_embed": row.pos_embed,
        "variant": row.variant,
        "sdpa_backend": row.sdpa_backend,
        **height_width(row.resolution),
        "tokens": row.tokens,
        "order_seed": row.order_seed,
        "status": row.status,
        "message": row.message,
        "parameters": row.parameters,
        "macs": row.macs,
        "flops": doubled,
        "counted_by": " ".join(row.counted_by),
        "macs_error": row.macs_error,
        "elementwise": row.elementwise,
        "activations": row.activations,
        "bytes_least": row.bytes_least,
        "bytes_moved": row.bytes_moved,
        "bytes_alive": row.bytes_alive,
        "timing_samples": len(row.samples),
        "rounds": len(row.round_medians),
        "median_seconds": row.median,
        "median_low_seconds": row.median_low,
        "median_high_seconds": row.median_high,
        **{f"{name}_seconds": getattr(row, name) for name in ("p10", "p25", "p75", "p90")},
        "seconds_per_image": per_image,
        "bound_seconds": row.bound_seconds,
        "bound_by": row.bound_by,
        "bound_share": share,
        "memory_bytes": row.memory_bytes,
        "memory_baseline_bytes": row.memory_baseline_bytes,
        "memory_reserved_bytes": row.memory_reserved_bytes,
        "memory_status": row.memory_status,
        "memory_message": row.memory_message,
        "speedup": speedup,
        "latency_exponent": exponents.latency_exponent if exponents else None,
        "latency_exponent_low": exponents.latency_exponent_low if exponents else None,
        "latency_exponent_high": exponents.latency_exponent_high if exponents else None,
        "macs_exponent": exponents.macs_exponent if exponents else None,
    }
    return cells, raw


def _without_empty(lines: Sequence[Line]) -> tuple[list[Line], set[str]]:
    """The lines without optional columns that hold nothing but dashes, and the optional columns that are left."""
    left = {name for name in _OPTIONAL if any(cells[name] != DASH for cells, _ in lines)}
    dropped = _OPTIONAL.keys() - left
    return [({name: cell for name, cell in cells.items() if name not in dropped}, raw) for cells, raw in lines], left


def _milliseconds(seconds: float) -> str:
    return number(seconds, 1e3)


def _exponent(value: float) -> str:
    return f"{value:.2f}"


def _latency_exponent(row: ScalingRow) -> str:
    return with_interval(row.latency_exponent, row.latency_exponent_low, row.latency_exponent_high, _exponent)


def _quartiles(row: ProfileRow) -> str:
    if row.status != "ok" or row.p25 is None or row.p75 is None:
        return DASH
    return f"{number(row.p25, 1e3)}–{number(row.p75, 1e3)}"


def _memory(row: ProfileRow) -> str:
    """The peak, the word for why there is none, or a dash where nobody looked."""
    if row.memory_status == "ok":
        return number(row.memory_bytes, 1e-6)
    return DASH if row.memory_status == "not measured" else row.memory_status


def _over_bound(row: ProfileRow) -> bool:
    """Whether a cell took less time than the bound says is possible: then the bound is wrong, and no share is shown."""
    return row.status == "ok" and row.median is not None and row.bound_seconds is not None and row.bound_seconds > row.median


def _bound(row: ProfileRow, share: float | None) -> str:
    if _over_bound(row):
        return REFUSED
    return DASH if share is None else f"{number(share, 100, digits=2)} {row.bound_by or ''}".strip()


def _needs_macs(row: ProfileRow) -> bool:
    """Whether a missing count is a refusal: a cell that failed before it was counted is not one."""
    return row.status == "ok" or row.macs_error is not None


def _in_doubt(row: ProfileRow) -> bool:
    return row.macs is not None and len(row.counted_by) < _FULL_COUNTS


def _unit_note(profile: Profile) -> str:
    setting = profile.setting
    timed = "one training step" if setting.mode == "train" else "one forward pass"
    by_tokens = setting.token_budget is not None
    batch = f"as many images as hold {setting.token_budget:,} tokens" if by_tokens else f"{setting.batch}"
    counted = " in the order of evaluation that runs" if setting.path == "auto" else ""
    same = f" with the same {setting.factors}" if setting.factors else ""
    return (
        f"Latency is the median time of {timed} of the whole batch ({batch}), IQR its 25th to 75th percentile; GMACs, "
        f"GFLOPs (2 × GMACs) and elementwise operations are of one image's forward pass{counted}. Speed-ups are ratios within "
        f"this session{' of the times per image' if by_tokens else ''}, over {BASELINE}{same}{in_backend(profile)}. "
        "Exponents are local: d log / d log tokens from the next smaller resolution, of the curve through all cells where "
        "there are four or more, of the two cells alone where there are not, which then have no interval."
    )


def _column_notes(columns: set[str]) -> list[str]:
    """What the optional columns mean that a table has."""
    parts = [text for name, text in _OPTIONAL.items() if name in columns]
    if any("MB" in name for name in columns):
        parts.append("1 MB is 10⁶ bytes")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _interval_notes(cells: Sequence[ProfileRow], exponents: Iterable[ScalingRow]) -> list[str]:
    parts = []
    if any(row.median_low is not None for row in cells):
        parts.append("of a latency over the medians of its rounds")
    if any(row.latency_exponent_low is not None for row in exponents):
        parts.append("of an exponent from the distance of the mixer's cells to the curve t = a + b N + c N²")
    notes = [f"Brackets hold 95% intervals: {', '.join(parts)}."] if parts else []
    if any(row.median is not None and row.median_low is None for row in cells) and "isolated-v1" in {c.protocol for c in cells}:
        notes.append(
            "A latency of fewer than three rounds has no interval. A forced attention backend that took more than twice as "
            "long as another in its first round was not timed again."
        )
    return notes


def _failure_notes(cells: Iterable[ProfileRow]) -> list[str]:
    return [
        f"{label(row)} at {pixels(row.resolution)} px: {row.status}: {row.message or 'no message'}"
        for row in cells
        if row.status != "ok"
    ]


def _memory_notes(cells: Iterable[ProfileRow]) -> list[str]:
    return [
        f"Memory of {label(row)} at {pixels(row.resolution)} px: {row.memory_status}: {row.memory_message or 'no message'}"
        for row in cells
        if row.memory_status not in ("ok", "not measured")
    ]


def _bound_notes(cells: Iterable[ProfileRow]) -> list[str]:
    wrong = group((row for row in cells if _over_bound(row)), label)
    if not wrong:
        return []
    where = "; ".join(f"{name} at {_sizes(rows)} px" for name, rows in wrong.items())
    return [
        f"Share of the bound refused ({where}): it would be over 100 %, which is impossible. The rate that was measured for "
        "the machine was lower than the cell's."
    ]


def _dagger_notes(cells: Iterable[ProfileRow]) -> list[str]:
    doubted = group((row for row in cells if _in_doubt(row)), lambda row: row.counted_by)
    return [
        f"{_DAGGER} counted by {' and '.join(counts) or 'no named count'} only, not by {_FULL_COUNTS} counts that agree: "
        + ", ".join(f"{name} at {_sizes(rows)} px" for name, rows in group(members, label).items())
        for counts, members in sorted(doubted.items())
    ]


def _sizes(rows: Iterable[ProfileRow]) -> str:
    return ", ".join(pixels(row.resolution) for row in rows)


def _machine_notes(profile: Profile, machines: Iterable[MachineRow]) -> list[str]:
    """The rates behind the bounds, the best of those measured; autocast computes in the type that it casts to."""
    setting = profile.setting
    ours = [
        row
        for row in machines
        if row.session == profile.session
        and row.dtype in (setting.dtype, setting.dtype.removesuffix(" autocast"))
        and (row.environment.device, row.environment.threads, row.environment.tf32)
        == (setting.device, setting.threads, setting.tf32)
    ]
    notes = []
    for dtype, rows in group(ours, lambda row: row.dtype).items():
        product, copy = max(rows, key=lambda row: row.gemm_flops), max(row.copy_bytes for row in rows)
        notes.append(
            f"This machine in this session: {number(product.gemm_flops, 1e-9)} GFLOP/s (square product of "
            f"{product.gemm_size:,}), {number(copy, 1e-9)} GB/s copy, {dtype}."
        )
    return notes


def _harness_notes(profile: Profile, harness: Iterable[HarnessRow]) -> list[str]:
    """What measuring cost, for each call of the profile that worked on the session."""
    ours = [
        row
        for row in harness
        if (row.session, row.protocol, row.environment.device)
        == (profile.session, profile.setting.protocol, profile.setting.device)
    ]
    notes = []
    ours = [row for row in ours if row.wall_seconds]  # a call may sum up anew what others measured
    for place, row in enumerate(sorted(ours, key=lambda row: row.created), 1):
        which = f", call {place} of {len(ours)}" if len(ours) > 1 else ""
        ratio = f" ({row.wall_seconds / row.call_seconds:.2f})" if row.call_seconds else ""
        fixed = ""
        if row.fixed_seconds is not None:
            processes = "1 process" if row.processes == 1 else f"{row.processes:,} processes"
            fixed = f" fixed {number(row.fixed_seconds)} s per process over {processes},"
        notes.append(
            f"Harness{which}: {number(row.wall_seconds)} s wall for {number(row.call_seconds)} s within calls{ratio},{fixed} "
            f"counting {number(row.count_seconds)} s; load average {row.load[0]:.2f} to {row.load[1]:.2f}."
        )
    return notes
