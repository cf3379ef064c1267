"""Breakdown tables: where the MACs are, by module and by operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from wfbench.analysis.breakdown import Breakdowns, CellBreakdown
from wfbench.analysis.lines import label
from wfbench.report.cells_in_words import line_columns, session_notes, setting_columns, side_columns
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.naming import suffixes, title_of
from wfbench.report.words import REFUSED, environment_notes, gmacs, pixels

_DEPTH = 2  # so many parts has the name of a module that a table shows


@dataclass(frozen=True)
class _Part:
    """One line: a module or an operator of a cell, with its MACs."""

    cell: CellBreakdown
    by: str
    name: str
    macs: float

    @property
    def share(self) -> float | None:
        return self.cell.share(self.macs)


def breakdown_tables(results: Sequence[Breakdowns]) -> list[Table]:
    """A table for each setting."""
    ends = suffixes([[result.setting] for result in results])
    return [_table(f"breakdown{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: Breakdowns) -> Table:
    cells = result.cells
    wrong = [f"{label(cell.line)} at {pixels(cell.row.resolution)} px" for cell in cells if cell.total is None]
    notes = [
        f"GMACs of one image's forward pass, in the modules whose names have up to {_DEPTH} parts, and by operator; the raw "
        "numbers have all modules. Modules that differ in their number alone stand on one line, each with these GMACs.",
        *([f"Shares refused ({'; '.join(wrong)}): modules and operators disagree on the MACs in all."] if wrong else []),
        *session_notes(result.sessions),
        *environment_notes(cell.row.environment for cell in cells),
    ]
    columns = _columns(result)
    raw = [column for column in columns if column.key], [part for cell in cells for part in _all_parts(cell)]
    shown = [part for cell in cells for part in _shown_parts(cell)]
    return make_table("breakdown", name, f"Breakdown of MACs: {title_of([result.setting])}", columns, shown, notes, raw=raw)


def _columns(result: Breakdowns) -> list[Column[_Part]]:
    return [
        Column("session", lambda part: part.cell.row.session),
        Column("created", lambda part: part.cell.row.created),
        *setting_columns(result.setting),
        *line_columns(lambda part: part.cell.line),
        *side_columns(lambda part: part.cell.row.resolution),
        Column("tokens", lambda part: part.cell.row.tokens),
        Column("by", lambda part: part.by, "by", words=True),
        Column("name", lambda part: part.name, "module or operator", words=True),
        Column("macs", lambda part: part.macs, "GMACs", gmacs),
        Column("share", lambda part: part.share),
        Column("", lambda part: REFUSED if part.share is None else f"{100 * part.share:.1f}", "share (%)"),
    ]


def _all_parts(cell: CellBreakdown) -> list[_Part]:
    modules = [_Part(cell, "module", name, macs) for name, macs in cell.row.by_module.items()]
    return modules + _operators(cell)


def _shown_parts(cell: CellBreakdown) -> list[_Part]:
    return [_Part(cell, "module", name, macs) for name, macs in _shown_modules(cell.row.by_module)] + _operators(cell)


def _operators(cell: CellBreakdown) -> list[_Part]:
    return [_Part(cell, "operator", name, macs) for name, macs in cell.row.by_operator.items()]


def _shown_modules(by_module: Mapping[str, float]) -> list[tuple[str, float]]:
    """The modules near the top with their MACs, parents first; numbered ones with equal MACs as one: "blocks.0, 2–5 (each)"."""
    tops = ["", *dict.fromkeys(name.partition(".")[0] for name in by_module if name)]
    near = [name for name in by_module if name.count(".") < _DEPTH]
    near.sort(key=lambda name: (tops.index(name.partition(".")[0]), name.count(".")))
    numbered: dict[tuple[str, float], list[int]] = {}
    for name in near:
        parent, _, last = name.rpartition(".")
        if parent and last.isdigit():
            numbered.setdefault((parent, by_module[name]), []).append(int(last))
    shown = []
    for name in near:
        parent, _, last = name.rpartition(".")
        macs = by_module[name]
        numbers = numbered.get((parent, macs), []) if parent and last.isdigit() else []
        if len(numbers) < 2:
            shown.append((name or "whole model", macs))
        elif int(last) == numbers[0]:
            shown.append((f"{parent}.{_ranges(numbers)} (each)", macs))
    return shown


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers with runs drawn together: "0, 2–5, 7"."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
