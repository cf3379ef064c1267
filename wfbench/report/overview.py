"""The overview: accuracy and cost of each mixer on one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pandas as pd

from wfbench.analysis.lines import BASELINE, label
from wfbench.analysis.overview import Overview, OverviewLine
from wfbench.records import ProfileRow
from wfbench.report.accuracy import ACCURACY, Entry, accuracy_columns, digits_notes, seeds_notes
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.words import pixels

#: The columns of a profile that people see: of the cell at the fewest tokens, and of that at the most.
_FIRST = ("params (M)", "GMACs")
_LAST = ("MACs exponent", "latency exponent", f"speed-up over {BASELINE}")


def overview_tables(result: Overview, accuracy: Table, profile: Table) -> list[Table]:
    """The table of an overview.

    Args:
        result: which cells belong to which trained line.
        accuracy: the table of the trained lines.
        profile: that of the cells, one for each cell of the overview's profile, in its order.
    """
    places = {id(cell): place for place, cell in enumerate(result.profile.cells)}

    def columns_of(which: str, cell_of: Callable[[OverviewLine], ProfileRow | None]) -> list[Column[OverviewLine]]:
        """The raw columns of a cell of each line."""

        def column(name: str) -> Column[OverviewLine]:
            def value(line: OverviewLine) -> object:
                cell = cell_of(line)
                return None if cell is None else _plain(profile.data[name].iloc[places[id(cell)]])

            return Column(f"{which}.{name}", value)

        return [column(str(name)) for name in profile.data]

    def shown(heading: str, side: str, cell_of: Callable[[OverviewLine], ProfileRow | None]) -> Column[OverviewLine]:
        """A column of the profile for people."""

        def value(line: OverviewLine) -> str | None:
            cell = cell_of(line)
            return None if cell is None else str(profile.frame[heading].iloc[places[id(cell)]])

        return Column("", value, f"{heading} at {side} px")

    sides = pixels(result.first), pixels(result.last)
    columns = [
        Column("", lambda line: line.trained.label, "mixer", words=True),
        *_accuracy_columns(result),
        *(shown(heading, sides[0], lambda line: line.first) for heading in _FIRST),
        *(shown(heading, sides[1], lambda line: line.last) for heading in _LAST),
        Column("same_model", lambda line: line.same_model),
        *columns_of("first", lambda line: line.first),
        *columns_of("last", lambda line: line.last),
    ]
    notes = _notes(result, f"{accuracy.title}. {profile.title}.")
    return [replace(make_table("overview", "overview", "Mixers at a glance", columns, result.lines, notes), result=result)]


def _accuracy_columns(result: Overview) -> list[Column[OverviewLine]]:
    """The columns of the accuracy table, of which people see accuracy and seeds alone."""

    def column(own: Column[Entry]) -> Column[OverviewLine]:
        heading = own.heading if own.heading in (ACCURACY, "seeds") else ""
        ends = own.ends and (f"accuracy.{own.ends[0]}", f"accuracy.{own.ends[1]}")
        renamed = replace(own, key=own.key and f"accuracy.{own.key}", heading=heading, ends=ends)

        def value(line: OverviewLine) -> object:
            return own.value(line.trained)

        return replace(cast("Column[OverviewLine]", renamed), value=value)

    return [column(own) for own in accuracy_columns(result.accuracy)]


def _plain(value: Any) -> object:
    """A cell of a data frame as Python's own number, so that whole numbers stay whole; None for an empty one."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _notes(result: Overview, titles: str) -> Sequence[str]:
    return [
        titles,
        "Parameters, GMACs and exponents are those of the profiled model, not of the trained one; the tables below have both.",
        f"Exponents are d log / d log tokens from the resolution before to {pixels(result.last)} px.",
        *(
            f"The cost of {line.trained.label} is that of its fastest backend: {label(line.last)}."
            for line in result.lines
            if line.last is not None and line.forced
        ),
        *seeds_notes(result.accuracy),
        *digits_notes(result.accuracy),
    ]
