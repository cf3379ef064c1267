"""Speed-up tables: how many times faster than the baseline each line is, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wfbench.analysis.cells import Line, Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.profile import CellCost
from wfbench.analysis.speedup import SpeedUps
from wfbench.report.cells_in_words import (
    backends_by_side,
    constant_columns,
    in_backend,
    line_columns,
    ratio_with_ends,
    setting_columns,
)
from wfbench.report.columns import Column, Table, interval_ends, make_table
from wfbench.report.interval_notes import speedup_notes
from wfbench.report.naming import suffixes, title_of
from wfbench.report.words import pixels

_Entry = tuple[Line, Mapping[Size, CellCost]]


def speedup_tables(results: Sequence[SpeedUps]) -> list[Table]:
    """A table for each profile with speed-ups at several sides: one side is the profile table's own column."""
    ends = suffixes([[result.profile.setting] for result in results])
    return [_table(f"speedup{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: SpeedUps) -> Table:
    profile, baseline = result.profile, result.profile.baseline_mixer
    same = f" with the same {profile.setting.factors}" if profile.setting.factors else ""
    timed = "times" if profile.setting.token_budget is None else "times per image"
    missing = [pixels(side) for side in result.sides if side not in result.backends]
    notes = [
        f"Ratios of the {timed}, within this session: how many times faster than {baseline}{same}{in_backend(profile)}.",
        *speedup_notes([cell for cells in result.lines.values() for cell in cells.values()]),
        f"{baseline}'s backend: {backends_by_side(result.backends)}.",
        *([f"{baseline} has no time at {', '.join(missing)} px."] if missing else []),
        f"Session {profile.session}.",
    ]
    title = f"Speed-up over {baseline}: {title_of([profile.setting])}"
    return make_table("speedup", name, title, _columns(result), list(result.lines.items()), notes)


def _columns(result: SpeedUps) -> list[Column[_Entry]]:
    profile = result.profile
    return [
        *constant_columns({"session": profile.session}),
        *setting_columns(profile.setting),
        *line_columns(lambda entry: entry[0]),
        *(column for side in result.sides for column in _side_columns(side, result.backends.get(side))),
    ]


def _side_columns(side: Size, backend: str | None) -> list[Column[Any]]:
    def ratio(entry: _Entry) -> Interval | None:
        cell = entry[1].get(side)
        return None if cell is None or cell.speedup is None else cell.speedup.ratio

    name = f"speedup_{pixels(side)}"
    return [
        Column(name, ratio, ends=interval_ends(name)),
        Column("", lambda entry: _shown(entry[1].get(side)), f"{pixels(side)} px"),
        *constant_columns({f"baseline_backend_{pixels(side)}": backend}),
    ]


def _shown(cell: CellCost | None) -> str | None:
    """A speed-up in words, the word for why the cell failed, or None where there is nothing to compare."""
    if cell is None:
        return None
    if cell.speedup is not None:
        return ratio_with_ends(cell.speedup.ratio)
    return None if cell.row.status == "ok" else cell.row.status
