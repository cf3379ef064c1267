"""What a profile table says below its lines."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from wfbench.analysis.cells import Profile
from wfbench.analysis.lines import CHOSEN_BACKEND, group, label
from wfbench.analysis.profile import CellCost, ProfileCost, Rounds
from wfbench.records import HarnessRow, ProfileRow
from wfbench.report.cells_in_words import failure_notes, in_backend, session_notes
from wfbench.report.interval_notes import exponent_notes, latency_notes, speedup_notes
from wfbench.report.words import environment_notes, macs_notes, number, pixels

DAGGER = "†"
_FULL_COUNTS = 3  # so many counts of MACs have to agree before a number stands without a dagger
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


def profile_notes(result: ProfileCost, columns: Collection[str]) -> list[str]:
    """The notes of a profile's table that has these of the optional columns."""
    cells = result.cells
    rows = [cell.row for cell in cells]
    return [
        _unit_note(result.profile),
        *_column_notes(columns),
        *latency_notes(cells),
        *speedup_notes(cells),
        *exponent_notes(cells),
        _backend_note(cells),
        *failure_notes((cell.line, cell.row.resolution, cell.row.status, cell.row.message) for cell in cells),
        *_memory_notes(cells),
        *_bound_notes(cells),
        *macs_notes((label(cell.line), cell.row) for cell in cells if needs_macs(cell.row)),
        *_dagger_notes(rows),
        *_machine_notes(result),
        *_rounds_notes(result.rounds),
        *_harness_notes(result.calls),
        *session_notes(result.sessions),
        *environment_notes(row.environment for row in rows),
    ]


def needs_macs(row: ProfileRow) -> bool:
    """Whether a missing count is a refusal: a cell that failed before it was counted is not one."""
    return row.status == "ok" or row.macs_error is not None


def is_in_doubt(row: ProfileRow) -> bool:
    """Whether fewer counts of MACs agree than a number without a dagger needs."""
    return row.macs is not None and row.macs_sure != "counted" and len(row.counted_by) < _FULL_COUNTS


def _unit_note(profile: Profile) -> str:
    setting = profile.setting
    timed = "one training step" if setting.mode == "train" else "one forward pass"
    by_tokens = setting.token_budget is not None
    batch = f"as many images as hold {setting.token_budget:,} tokens" if by_tokens else f"{setting.batch}"
    counted = " in the order of evaluation that runs" if setting.path == "auto" else ""
    same = f" with the same {setting.factors}" if setting.factors else ""
    over = f"{profile.baseline_mixer}{same}{in_backend(profile)}"
    return (
        f"Latency is the median time of {timed} of the whole batch ({batch}), over the medians of rounds, whose "
        "least and most stand beside it; GMACs, "
        f"GFLOPs (2 × GMACs) and elementwise operations are of one image's forward pass{counted}. Speed-ups are ratios within "
        f"this session{' of the times per image' if by_tokens else ''}, over {over}. "
        "Exponents are local: d log / d log tokens from the next smaller resolution, of the curve through all cells where "
        "there are four or more, of the two cells alone where there are not."
    )


def _column_notes(columns: Collection[str]) -> list[str]:
    """What the optional columns mean that a table has."""
    parts = [text for name, text in _OPTIONAL.items() if name in columns]
    if any("MB" in name for name in columns):
        parts.append("1 MB is 10⁶ bytes")
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."] if text else []


def _backend_note(cells: Iterable[CellCost]) -> str:
    note = "Attention runs in the backend that PyTorch chooses, unless brackets behind a mixer name another."
    forced = (cell for cell in cells if cell.line.sdpa_backend != CHOSEN_BACKEND and cell.latency is not None)
    if any(cell.latency and cell.latency.why_none and not cell.row.rounds_reason for cell in forced):
        note += " One that took more than twice as long as another in its first round was not timed again."
    return note


def _memory_notes(cells: Iterable[CellCost]) -> list[str]:
    return [
        f"Memory of {label(cell.line)} at {pixels(cell.row.resolution)} px: {cell.row.memory_status}: "
        f"{cell.row.memory_message or 'no message'}"
        for cell in cells
        if cell.row.memory_status not in ("ok", "not measured")
    ]


def _bound_notes(cells: Iterable[CellCost]) -> list[str]:
    wrong = group((cell.row for cell in cells if cell.is_over_bound), label)
    if not wrong:
        return []
    where = "; ".join(f"{name} at {_sizes(rows)} px" for name, rows in wrong.items())
    return [
        f"Share of the bound refused ({where}): it would be over 100 %, which is impossible. The rate that was measured for "
        "the machine was lower than the cell's."
    ]


def _dagger_notes(cells: Iterable[ProfileRow]) -> list[str]:
    doubted = group((row for row in cells if is_in_doubt(row)), lambda row: row.counted_by)
    return [
        f"{DAGGER} counted by {' and '.join(counts) or 'no named count'} only, not by {_FULL_COUNTS} counts that agree: "
        + ", ".join(f"{name} at {_sizes(rows)} px" for name, rows in group(members, label).items())
        for counts, members in sorted(doubted.items())
    ]


def _sizes(rows: Iterable[ProfileRow]) -> str:
    return ", ".join(pixels(row.resolution) for row in rows)


def _machine_notes(result: ProfileCost) -> list[str]:
    """The rates behind the bounds."""
    return [
        f"This machine in this session: {number(rates.gemm_flops, 1e-9)} GFLOP/s (square product of "
        f"{rates.gemm_size:,}), {number(rates.copy_bytes, 1e-9)} GB/s copy, {rates.dtype}."
        for rates in result.machine
    ]


def _rounds_notes(rounds: Rounds) -> list[str]:
    """Which measurements other work disturbed, and which were not as the protocol has them."""
    notes = []
    if rounds.crowded:
        notes.append(
            f"Other work kept the cores busy in {rounds.crowded:,} of {rounds.count:,} measurements, also when they were made "
            "once more; they count as they are."
        )
    if rounds.fresh:
        notes.append(
            f"{rounds.fresh:,} of {rounds.count:,} measurements had a process that was begun afresh, since none could be "
            "forked: they are as those of the protocol isolated-v1."
        )
    return notes


def _harness_notes(calls: Sequence[HarnessRow]) -> list[str]:
    """What measuring cost, for each call of the profile command that worked on the session."""
    notes = []
    for place, row in enumerate(calls, 1):
        which = f", call {place} of {len(calls)}" if len(calls) > 1 else ""
        ratio = f" ({row.wall_seconds / row.call_seconds:.2f})" if row.call_seconds else ""
        fixed = ""
        if row.fixed_seconds is not None:
            processes = "1 process" if row.processes == 1 else f"{row.processes:,} processes"
            forks = f" ({row.forks:,} of them forks)" if row.forks else ""
            fixed = f" fixed {number(row.fixed_seconds)} s per process over {processes}{forks},"
        notes.append(
            f"Harness{which}: {number(row.wall_seconds)} s wall for {number(row.call_seconds)} s within calls{ratio},{fixed} "
            f"counting {number(row.count_seconds)} s; load average {row.load[0]:.2f} to {row.load[1]:.2f}."
        )
    return notes
