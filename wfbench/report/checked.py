"""A table's file against the records that it was made from: the cells that are not what the records give."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wfbench.records import AnyRow
from wfbench.records.run_directory import Run
from wfbench.report.tables import tables

#: Numbers of a CSV are the same within this: another machine may round a sum otherwise.
_CLOSE = 1e-9
#: The columns that name a line, the first that a table has.
_NAMES = ("label", "line", "mixer", "claim")
_Lines = list[list[str]]


def unlike(path: Path, rows: Iterable[AnyRow], runs: Sequence[Run] = ()) -> list[str] | None:
    """What a table's file says otherwise than its records do, cell by cell in words; None where they give no such table.

    Args:
        path: of the table, as `wfbench report` writes it without options: CSV, Markdown or LaTeX.
        rows, runs: that the report is made from.

    Raises:
        InputError: for recorded claims that were changed, or runs that cannot be read.
    """
    table = next((table for table in tables(rows, runs=runs) if table.name == path.stem), None)
    if table is None:
        return None
    there = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".csv":
        return list(_differences(_of_csv(there), _of_csv(table.data.to_csv(index=False))))
    made = table.to_markdown() if path.suffix == ".md" else table.to_latex()
    read = _of_markdown if path.suffix == ".md" else _of_latex
    (theirs, text), (ours, expected) = read(there), read(made)
    found = list(_differences(theirs, ours))
    if not found and text != expected:
        found.append("title or notes: not those that its records give")
    return found


def lines_of(path: Path, rows: Iterable[AnyRow], runs: Sequence[Run] = ()) -> list[dict[str, str]]:
    """The lines of a table by the columns of its CSV: of the one beside the file, else of what the records give.

    Args:
        path: of the table.
        rows, runs: as for `unlike`.

    Raises:
        InputError: as `unlike`.
    """
    beside = path.with_suffix(".csv")
    if beside.is_file():
        text = beside.read_text(encoding="utf-8", errors="replace")
    else:
        text = next((table.data.to_csv(index=False) for table in tables(rows, runs=runs) if table.name == path.stem), "")
    heads, *lines = _of_csv(text) or [[]]
    return [dict(zip(heads, line, strict=False)) for line in lines]


def _differences(theirs: _Lines, ours: _Lines) -> Iterator[str]:
    """What lines of cells, the headings first, have otherwise than ours."""
    heads, own = (lines[0] if lines else [] for lines in (theirs, ours))
    if heads != own:
        extra = [f"{name!r} is not one of them" for name in heads if name not in own]
        lacking = [f"{name!r} is missing" for name in own if name not in heads]
        yield f"columns: {'; '.join([*extra, *lacking]) or 'in another order'}"
        return
    if len(theirs) != len(ours):
        yield f"rows: {len(theirs) - 1}, and {len(ours) - 1} from its records"
        return
    name = next((own.index(heading) for heading in _NAMES if heading in own), 0)
    for number, (line, expected) in enumerate(zip(theirs[1:], ours[1:], strict=True), 1):
        if len(line) != len(expected):
            yield f"row {number}: {len(line)} cells, and {len(expected)} from its records"
            continue
        for heading, cell, right in zip(own, line, expected, strict=True):
            if not _same(cell, right):
                said, due = cell or "nothing", right or "nothing"
                yield f"row {number} ({expected[name]}), column {heading}: {said}, and {due} from its records"


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=_CLOSE)
    except ValueError:
        return False


def _of_csv(text: str) -> _Lines:
    return list(csv.reader(io.StringIO(text)))


def _of_markdown(text: str) -> tuple[_Lines, list[str]]:
    """The cells, and the lines beside them."""
    cells, others = [], []
    for line in text.splitlines():
        if line.startswith("|") and not re.fullmatch(r"\|( :?-+:? \|)+", line):
            cells.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif not line.startswith("|"):
            others.append(line)
    return cells, others


def _of_latex(text: str) -> tuple[_Lines, list[str]]:
    """The cells, and the lines beside them."""
    end = r" \\"
    cells = [line.removesuffix(end).split(" & ") for line in text.splitlines() if line.endswith(end)]
    return cells, [line for line in text.splitlines() if not line.endswith(end)]
