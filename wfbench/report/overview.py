"""The overview: accuracy and cost of each mixer on one line."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, cast

from wfbench.analysis.lines import label
from wfbench.analysis.overview import Overview, OverviewLine
from wfbench.analysis.profile import CellCost
from wfbench.report.accuracy import ACCURACY, accuracy_columns, accuracy_title
from wfbench.report.accuracy_notes import digits_notes, seeds_notes
from wfbench.report.capability import crossing_columns
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.crossover import crossing_in_short
from wfbench.report.exports import export_notes, in_words
from wfbench.report.interval_notes import exponent_notes, latency_notes, speedup_notes
from wfbench.report.profile import profile_columns, profile_title, speed_up_heading
from wfbench.report.words import pixels

#: The columns of a profile that people see: of the cell at the fewest tokens, and of that at the most.
_FIRST = ("params (M)", "GMACs")
_LAST = ("MACs exponent", "latency exponent")
_EXPORTS = "exports"
RECALL = "recall: pairs (90 %)"


def overview_tables(result: Overview) -> list[Table]:
    """The table of an overview: in the CSV all columns of the accuracy table and of the profile's, of two cells."""
    sides = pixels(result.first), pixels(result.last)
    at_last, faster = (*_LAST, speed_up_heading(result.profile)), _faster(result)
    columns = [
        Column("", lambda line: line.trained.label, "mixer", words=True),
        *_accuracy_columns(result),
        Column("same_model", lambda line: line.same_model),
        *_cell_columns(result, "first", lambda line: line.first, _FIRST, sides[0]),
        *_cell_columns(result, "last", lambda line: line.last, at_last, sides[1]),
        *crossing_columns(
            "recall", RECALL, "recall", lambda line: line.recall, lambda own: own.capacity.get(own.end), optional=True
        ),
        *_crossover_columns(faster),
        Column(
            "exports", lambda line: line.exports and in_words(line.exports), _EXPORTS, words=True, optional=True, sparse=True
        ),
    ]
    order = [
        *("mixer", RECALL, ACCURACY, "seeds"),
        *(f"{heading} at {sides[0]} px" for heading in _FIRST),
        *(f"{heading} at {sides[1]} px" for heading in at_last),
        faster,
        _EXPORTS,
    ]
    made = make_table("overview", "overview", "Mixers at a glance", columns, result.lines, _notes(result), order=order)
    return [replace(made, result=result)]


def _accuracy_columns(result: Overview) -> list[Column[OverviewLine]]:
    """The columns of the accuracy table, of which people see accuracy and seeds alone."""
    own = accuracy_columns(result.accuracy)
    return [_renamed(column, "accuracy", (ACCURACY, "seeds"), "", lambda line: line.trained) for column in own]


def _faster(result: Overview) -> str:
    """The heading of the crossovers."""
    return f"faster than {result.profile.profile.baseline_mixer}"


def _crossover_columns(faster: str) -> list[Column[OverviewLine]]:
    """From which side a line is faster than the baseline."""

    def end(field: str) -> Column[OverviewLine]:
        return Column(
            "crossover" if field == "verdict" else field,
            lambda line: line.crossing and getattr(line.crossing, field),
            sparse=True,
        )

    words = Column[OverviewLine]("", lambda line: line.crossing, faster, crossing_in_short, words=True, optional=True)
    return [end("verdict"), end("side"), end("side_low"), end("side_high"), words]


def _cell_columns(
    result: Overview, which: str, cell: Callable[[OverviewLine], CellCost | None], shown: Collection[str], side: str
) -> list[Column[OverviewLine]]:
    """The columns of the profile, of one cell of each line; people see those with the headings ``shown``."""
    seen = [column for column in profile_columns(result.profile) if column.key or column.heading in shown]
    return [_renamed(column, which, shown, f" at {side} px", cell) for column in seen]


def _renamed(
    column: Column[Any], prefix: str, shown: Collection[str], suffix: str, part: Callable[[OverviewLine], Any]
) -> Column[OverviewLine]:
    """A column about a part of a line, of which people see those with the headings ``shown``."""

    def value(line: OverviewLine) -> object:
        own = part(line)
        return None if own is None else column.value(own)

    return cast(
        "Column[OverviewLine]",
        replace(
            column,
            key=column.key and f"{prefix}.{column.key}",
            value=value,
            heading=f"{column.heading}{suffix}" if column.heading in shown else "",
            ends=column.ends and (f"{prefix}.{column.ends[0]}", f"{prefix}.{column.ends[1]}"),
        ),
    )


def _notes(result: Overview) -> list[str]:
    # Latencies are in the CSV alone, which has those of both sides.
    exports = [line.exports for line in result.lines if line.exports is not None]
    cells = [cell for line in result.lines for cell in dict.fromkeys((line.first, line.last)) if cell is not None]
    return [
        f"{accuracy_title(result.accuracy)}. {profile_title(result.profile)}.",
        "Parameters, GMACs and exponents are those of the profiled model, not of the trained one; the tables below have both.",
        f"Exponents are d log / d log tokens from the resolution before to {pixels(result.last)} px.",
        *(
            f"The cost of {line.trained.label} is that of its fastest backend: {label(line.last.line)}."
            for line in result.lines
            if line.last is not None and line.forced
        ),
        *latency_notes(cells, in_csv=True),
        *speedup_notes(cells),
        *(export_notes(exports) if exports else []),
        *exponent_notes(cells),
        *seeds_notes(result.accuracy),
        *digits_notes(result.accuracy),
        *_recall_notes(result),
        *_crossover_notes(result),
    ]


def _recall_notes(result: Overview) -> list[str]:
    """What the pairs are of."""
    stored = [line.recall for line in result.lines if line.recall is not None]
    if not stored:
        return []
    run = stored[0].runs[0]
    seeds = "a single seed has none" if any(len(line.runs) == 1 for line in stored) else "over seeds"
    return [
        f"{RECALL}: how many pairs of key and value the mixer gives back in the probe recall, of {run.model} with {run.depth} "
        f"layers, after up to {max(line.end for line in stored):,} steps of training; brackets are 95% intervals ({seeds})."
    ]


def _crossover_notes(result: Overview) -> list[str]:
    """What the sides of the crossovers mean."""
    found = [line.crossing for line in result.lines if line.crossing is not None]
    if not found:
        return []
    sides = f"{found[0].smallest_side} to {found[0].largest_side} px"
    faster = _faster(result)
    interval = (
        "in brackets, or as “sure”, its 95% interval"
        if any(one.has_interval for one in found)
        else "without an interval from fewer than four sides"
    )
    return [
        f"{faster[0].upper()}{faster[1:]}: the image side from which a line is faster at every larger side measured ({sides}), "
        f"{interval}; always and never are said of these sides alone. The crossover table has the rest."
    ]
