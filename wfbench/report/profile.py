"""Profile tables: what each mixer costs at each resolution, and the machine it ran on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wfbench.analysis.profile import CellCost, ProfileCost
from wfbench.records import ProfileRow
from wfbench.report.cells_in_words import (
    exponent,
    line_columns,
    ratio_with_ends,
    setting_columns,
    side_columns,
    whole,
    with_ends,
)
from wfbench.report.columns import Column, Table, interval_ends, make_table, sureness_columns
from wfbench.report.interval_notes import ONCE
from wfbench.report.naming import suffixes, title_of
from wfbench.report.profile_notes import DAGGER, is_in_doubt, needs_macs, profile_notes
from wfbench.report.words import DASH, REFUSED, macs_of, number

#: Why numbers have no intervals.
_BOUND = "the rates of the machine behind it are the best that were measured, and have none"
#: Stands for the heading of the speed-ups, which names the baseline.
_SPEED_UP = "speed-up"
#: The headings, in the order in which people read them.
_ORDER = (
    "mixer",
    "backend",
    "px",
    "tokens",
    "batch",
    "params (M)",
    "GMACs",
    "GFLOPs",
    "elementwise (G)",
    "activations (M)",
    "bytes at least (MB)",
    "bytes moved (MB)",
    "latency (ms)",
    "rounds (ms)",
    "ms per image",
    "of the bound (%)",
    "memory (MB)",
    "by shapes (MB)",
    _SPEED_UP,
    "latency exponent",
    "MACs exponent",
    "status",
)


def profile_tables(results: Sequence[ProfileCost]) -> list[Table]:
    """A table for each profile."""
    ends = suffixes([[result.profile.setting] for result in results])
    return [_table(f"profile{end}", result) for result, end in zip(results, ends, strict=True)]


def profile_columns(result: ProfileCost) -> list[Column[CellCost]]:
    """The columns of a profile's table, in the order of the CSV."""
    return [*_naming_columns(result), *_count_columns(), *_time_columns(result), *_memory_columns(), *_ratio_columns(result)]


def speed_up_heading(result: ProfileCost) -> str:
    """The heading of the speed-ups, with the mixer that others are compared with."""
    return f"speed-up over {result.profile.baseline_mixer}"


def profile_title(result: ProfileCost) -> str:
    """The title of a profile's table."""
    return f"Profile: {title_of([result.profile.setting])}"


def _table(name: str, result: ProfileCost) -> Table:
    columns = profile_columns(result)
    optional = [column for column in columns if column.optional]
    shown = {column.heading for column in optional if any(column.cell(cell) != DASH for cell in result.cells)}
    title, notes = profile_title(result), profile_notes(result, shown)
    order = [speed_up_heading(result) if heading == _SPEED_UP else heading for heading in _ORDER]
    return replace(make_table("profile", name, title, columns, result.cells, notes, order=order), result=result)


def _naming_columns(result: ProfileCost) -> list[Column[CellCost]]:
    """What the cell is: its setting, line and resolution, and whether it failed."""
    setting = result.profile.setting
    by_tokens = setting.token_budget is not None
    batch: Column[CellCost] = Column("batch", lambda cell: cell.row.batch, "batch" if by_tokens else "", whole)
    several = len({cell.row.sdpa_backend for cell in result.cells}) > 1
    backend: Column[CellCost] = Column("", lambda cell: cell.row.sdpa_backend, "backend", words=True, files_only=True)
    return [
        Column("session", lambda cell: cell.row.session),
        Column("created", lambda cell: cell.row.created),
        *(batch if column.key == "batch" else column for column in setting_columns(setting)),
        *line_columns(lambda cell: cell.line),
        *([backend] if several else []),
        *side_columns(lambda cell: cell.row.resolution),
        Column("tokens", lambda cell: cell.row.tokens, "tokens", whole),
        Column("order_seed", lambda cell: cell.row.order_seed),
        Column("status", lambda cell: cell.row.status, "status", words=True),
        Column("message", lambda cell: cell.row.message),
    ]


def _count_columns() -> list[Column[CellCost]]:
    """What is counted rather than measured."""
    return [
        Column("parameters", lambda cell: cell.row.parameters, "params (M)", _millions),
        Column("macs", lambda cell: cell.row.macs),
        Column("", lambda cell: _count(cell, 1), "GMACs"),
        Column("flops", lambda cell: None if cell.row.macs is None else 2 * cell.row.macs),
        Column("", lambda cell: _count(cell, 2), "GFLOPs", files_only=True),
        Column("counted_by", lambda cell: " ".join(cell.row.counted_by)),
        Column("macs_error", lambda cell: cell.row.macs_error),
        *sureness_columns(lambda cell: cell.row),
        Column("elementwise", lambda cell: cell.row.elementwise),
        Column("", lambda cell: _elementwise(cell.row), "elementwise (G)", files_only=True),
        Column("elementwise_at_least", lambda cell: cell.row.elementwise_at_least, sparse=True),
        _optional("activations", "activations (M)", files_only=True),
        _optional("bytes_least", "bytes at least (MB)"),
        _optional("bytes_moved", "bytes moved (MB)", files_only=True),
        Column("bytes_alive", lambda cell: cell.row.bytes_alive),
    ]


def _optional(field: str, heading: str, *, files_only: bool = False) -> Column[CellCost]:
    """A count in millions that older records lack."""
    return Column(field, lambda cell: getattr(cell.row, field), heading, _millions, optional=True, files_only=files_only)


def _time_columns(result: ProfileCost) -> list[Column[CellCost]]:
    """What the cell takes of time, in seconds in the CSV, and its share of what the machine allows."""
    per_image = "" if result.profile.setting.token_budget is None else "ms per image"
    return [
        Column("timing_samples", lambda cell: len(cell.row.samples)),
        Column("rounds", lambda cell: len(cell.row.round_medians)),
        Column(
            "median_seconds",
            lambda cell: cell.latency,
            "latency (ms)",
            with_ends(_milliseconds),
            ends=("median_low_seconds", "median_high_seconds"),
        ),
        Column("p10_seconds", lambda cell: cell.row.p10),
        Column("p25_seconds", lambda cell: cell.row.p25),
        Column("p75_seconds", lambda cell: cell.row.p75),
        Column("p90_seconds", lambda cell: cell.row.p90),
        Column("least_seconds", lambda cell: None if (ends := _spread(cell)) is None else ends[0]),
        Column("most_seconds", lambda cell: None if (ends := _spread(cell)) is None else ends[1]),
        Column("", _spread, "rounds (ms)", _range, files_only=True),
        Column(
            "seconds_per_image",
            lambda cell: cell.seconds_per_image,
            per_image,
            with_ends(_milliseconds),
            ends=interval_ends("seconds_per_image"),
            optional=True,
        ),
        Column("bound_seconds", lambda cell: cell.row.bound_seconds, why_none=_BOUND),
        Column("bound_by", lambda cell: cell.row.bound_by),
        Column("bound_share", lambda cell: cell.bound_share, why_none=_BOUND),
        Column("", _bound, "of the bound (%)", words=True, optional=True, why_none=_BOUND),
    ]


def _memory_columns() -> list[Column[CellCost]]:
    """Peak memory, in bytes in the CSV."""
    return [
        Column("memory_bytes", lambda cell: cell.row.memory_bytes, why_none=ONCE),
        Column("", _memory, "memory (MB)", optional=True, why_none=ONCE),
        Column("", _bytes_alive, "by shapes (MB)", _millions, optional=True),
        Column("memory_baseline_bytes", lambda cell: cell.row.memory_baseline_bytes, why_none=ONCE),
        Column("memory_reserved_bytes", lambda cell: cell.row.memory_reserved_bytes, why_none=ONCE),
        Column("memory_status", lambda cell: cell.row.memory_status),
        Column("memory_message", lambda cell: cell.row.memory_message),
    ]


def _ratio_columns(result: ProfileCost) -> list[Column[CellCost]]:
    """What a cell says beside others: the baseline's, and the line's own at the next smaller resolution."""
    return [
        Column(
            "speedup",
            lambda cell: None if cell.speedup is None else cell.speedup.ratio,
            speed_up_heading(result),
            ratio_with_ends,
            ends=interval_ends("speedup"),
        ),
        Column(
            "latency_exponent",
            lambda cell: None if cell.exponents is None else cell.exponents.latency,
            "latency exponent",
            with_ends(exponent),
            ends=interval_ends("latency_exponent"),
        ),
        Column(
            "macs_exponent", lambda cell: None if cell.exponents is None else cell.exponents.macs, "MACs exponent", exponent
        ),
    ]


def _count(cell: CellCost, operations: int) -> str:
    """MACs times ``operations`` in words: with a dagger in doubt, "≥" for a bound, "refused" where counts disagreed."""
    missing = REFUSED if needs_macs(cell.row) else DASH
    return macs_of(cell.row, operations * 1e-9, missing) + (DAGGER if is_in_doubt(cell.row) else "")


def _elementwise(row: ProfileRow) -> str | None:
    """Elementwise work in units of 10⁹; a lower bound where an operator is unknown."""
    if row.elementwise is None and row.elementwise_at_least is not None:
        return f"≥ {_billions(row.elementwise_at_least)}"
    return None if row.elementwise is None else _billions(row.elementwise)


def _spread(cell: CellCost) -> tuple[float, float] | None:
    """The least and the most of the sample whose median the latency is."""
    return cell.row.spread if cell.row.status == "ok" else None


def _range(ends: tuple[float, float]) -> str:
    return f"{_milliseconds(ends[0])}–{_milliseconds(ends[1])}"


def _bound(cell: CellCost) -> str | None:
    if cell.is_over_bound:
        return REFUSED
    return None if cell.bound_share is None else f"{number(cell.bound_share, 100, digits=2)} {cell.row.bound_by or ''}".strip()


def _memory(cell: CellCost) -> str | None:
    """The peak, the word for why there is none, or None where nobody looked."""
    if cell.row.memory_status == "ok":
        return number(cell.row.memory_bytes, 1e-6)
    return None if cell.row.memory_status == "not measured" else cell.row.memory_status


def _bytes_alive(cell: CellCost) -> float | None:
    return None if cell.row.memory_status == "not measured" else cell.row.bytes_alive


def _milliseconds(seconds: float) -> str:
    return number(seconds, 1e3)


def _millions(count: float) -> str:
    return number(count, 1e-6)


def _billions(count: float) -> str:
    return number(count, 1e-9)
