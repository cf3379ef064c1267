"""Breakdown tables: where the MACs are, by module and by operator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from wfbench.analysis.cells import Setting, setting_without_batch
from wfbench.records import AnyRow, BreakdownRow
from wfbench.report.cells_in_words import latest_cells, raw_line
from wfbench.report.parts import (
    REFUSED,
    Line,
    Table,
    flat,
    gmacs,
    group,
    height_width,
    label,
    make_table,
    pixels,
    sorted_keys,
    suffixes,
    title_of,
)

_DEPTH = 2  # so many parts has the name of a module that a table shows


def breakdown_tables(rows: Iterable[AnyRow]) -> list[Table]:
    """Where each cell's MACs are."""
    groups = group((row for row in rows if isinstance(row, BreakdownRow)), setting_without_batch)
    keys = sorted_keys(groups)
    ends = suffixes([[key] for key in keys])
    return [_breakdown_table(f"breakdown{end}", key, groups[key]) for key, end in zip(keys, ends, strict=True)]


def _breakdown_table(name: str, key: Setting, rows: Sequence[BreakdownRow]) -> Table:
    cells, session = latest_cells(rows)
    wrong = [f"{label(row)} at {pixels(row.resolution)} px" for row in cells if _total(row) is None]
    notes = [
        f"GMACs of one image's forward pass, in the modules whose names have up to {_DEPTH} parts, and by operator; the raw "
        "numbers have all modules. Modules that differ in their number alone stand on one line, each with these GMACs.",
        *([f"Shares refused ({'; '.join(wrong)}): modules and operators disagree on the MACs in all."] if wrong else []),
        *session,
    ]
    lines = [line for row in cells for line in _shown_lines(row)]
    return make_table(
        name, f"Breakdown of MACs: {title_of([key])}", lines, notes, [raw for row in cells for raw in _raw_lines(key, row)]
    )


def _shown_lines(row: BreakdownRow) -> list[Line]:
    total = _total(row)
    parts = [("module", *part) for part in _shown_modules(row.by_module)]
    parts += [("operator", *part) for part in row.by_operator.items()]
    return [
        (
            {
                "mixer": label(row),
                "px": pixels(row.resolution),
                "by": by,
                "module or operator": name,
                "GMACs": gmacs(macs),
                "share (%)": REFUSED if total is None else f"{100 * macs / total:.1f}",
            },
            {},
        )
        for by, name, macs in parts
    ]


def _raw_lines(key: Setting, row: BreakdownRow) -> list[dict[str, object]]:
    """The raw numbers of all modules and operators of one cell."""
    total = _total(row)
    start = {"session": row.session, "created": row.created, **flat(key), **raw_line(row), **height_width(row.resolution)}
    parts = [("module", *part) for part in row.by_module.items()] + [("operator", *part) for part in row.by_operator.items()]
    return [
        {**start, "tokens": row.tokens, "by": by, "name": name, "macs": macs, "share": None if total is None else macs / total}
        for by, name, macs in parts
    ]


def _total(row: BreakdownRow) -> float | None:
    """The MACs of the whole model; None where modules and operators do not agree on them, or there are none."""
    by_operator = math.fsum(row.by_operator.values())
    whole = row.by_module.get("", by_operator)
    return whole if whole and math.isclose(whole, by_operator, rel_tol=1e-9) else None


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
