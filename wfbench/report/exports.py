"""Which models leave the bench: to PyTorch's exported programs, to ONNX, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfbench.analysis.exports import FORMATS, ExportLine
from wfbench.records import ExportRow
from wfbench.records.export import Format
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.words import pixels

#: What people call the formats.
NAMES: dict[Format, str] = {"torch": "torch.export", "onnx": "ONNX"}


def export_tables(lines: Sequence[ExportLine]) -> list[Table]:
    """The table of all lines that were tried; none where none was."""
    if not lines:
        return []
    columns: list[Column[ExportLine]] = [
        Column("model", lambda line: line.model, "model", words=True),
        Column("mixer", lambda line: line.label, "mixer", words=True),
        Column("mixer_digest", lambda line: line.any_row.mixer_digest),
        *(column for to in FORMATS for column in _columns(to)),
    ]
    return [make_table("exports", "exports", "Exports", columns, lines, export_notes(lines))]


def in_words(line: ExportLine) -> str:
    """What a line exports to, for a cell among others: "torch.export, ONNX"; "torch.export (one batch), not ONNX"."""
    return ", ".join(f"not {NAMES[to]}" if not row.exports else NAMES[to] + _batch(row) for to, row in line.rows.items())


def export_notes(lines: Iterable[ExportLine]) -> list[str]:
    """What an export is held to, which do not reach it, and why."""
    lines = list(lines)
    rows = [row for line in lines for row in line.rows.values()]
    tolerances = dict.fromkeys(f"{row.tolerance:g} ({row.dtype})" for row in rows)
    sizes = dict.fromkeys(f"{pixels(row.image_size)} px" for row in rows)
    notes = [
        f"Exports: the program was read back from disk, and its outputs differed from the eager model's by at most "
        f"{', '.join(tolerances)} of the largest output, on random inputs of {', '.join(sizes)}.",
    ]
    for line in lines:
        for to, row in line.rows.items():
            if not row.exports:
                notes.append(f"{line.label} does not export to {NAMES[to]}: {row.why}.")
            elif row.why_fixed_batch:
                notes.append(f"{line.label} exports to {NAMES[to]} for one batch size at a time: {row.why_fixed_batch}.")
    return notes


def _columns(to: Format) -> list[Column[ExportLine]]:
    def of(field: str) -> Column[ExportLine]:
        return Column(f"{to}_{field}", lambda line: None if to not in line.rows else getattr(line.rows[to], field))

    def said(line: ExportLine) -> str | None:
        row = line.rows.get(to)
        return None if row is None else ("yes" + _batch(row) if row.exports else "no")

    return [
        Column("", said, f"exports to {NAMES[to]}", words=True),
        *(of(field) for field in ("exports", "why", "why_fixed_batch", "difference", "tolerance")),
    ]


def _batch(row: ExportRow) -> str:
    return " (one batch)" if row.why_fixed_batch else ""
