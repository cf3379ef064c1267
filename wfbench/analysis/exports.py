"""Which models leave the bench with the same outputs: the newest row of each line and format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wfbench.analysis.lines import label, latest
from wfbench.records import AnyRow, ExportRow
from wfbench.records.export import Format

#: The formats, in the order in which they are named.
FORMATS: tuple[Format, ...] = ("torch", "onnx")


@dataclass(frozen=True, eq=False)
class ExportLine:
    """One line of a model, by format.

    Attributes:
        label: its name in tables.
        model: the model that the mixer stands in.
        rows: by format, of those that were tried.
    """

    label: str
    model: str
    rows: Mapping[Format, ExportRow]

    @property
    def any_row(self) -> ExportRow:
        """A row of the line, for what all of them share."""
        return next(iter(self.rows.values()))


def export_lines(rows: Sequence[AnyRow]) -> tuple[ExportLine, ...]:
    """The lines whose export was tried, by model and then by name; of several rows of a line and format the newest counts."""
    found: dict[tuple[str, str], dict[Format, list[ExportRow]]] = {}
    for row in rows:
        if isinstance(row, ExportRow):
            found.setdefault((row.model, label(row)), {}).setdefault(row.to, []).append(row)
    return tuple(
        ExportLine(name, model, {to: latest(by_format[to], lambda row: row.to)[0] for to in FORMATS if to in by_format})
        for (model, name), by_format in sorted(found.items())
    )
