"""Crossover tables: the image side from which each line is faster than the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from wfbench.analysis.lines import label
from wfbench.analysis.scaling import Crossing, Crossovers
from wfbench.records import CrossoverRow
from wfbench.report.cells_in_words import backends_by_side, line_columns, setting_columns
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.naming import suffixes, title_of


def crossover_tables(results: Sequence[Crossovers]) -> list[Table]:
    """A table for each profile with lines to compare with the baseline."""
    ends = suffixes([[result.profile.setting] for result in results])
    return [_table(f"crossover{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: Crossovers) -> Table:
    crossings = result.crossings
    notes = [
        "The side of a square image from which a mixer is faster than the baseline at every larger one that was measured: "
        "where the curves through their cells cross, or, for fewer than four sides, interpolated between measured ones.",
        *_backend_notes(crossings),
    ]
    if any(crossing.has_interval for crossing in crossings):
        notes.append(
            "Brackets, and what is sure, give the 95% interval of that side, from the distance of the cells to their curves. "
            "Its lower end is the last side at which the mixer is surely slower than the baseline: where there is none, the "
            "crossover may lie below the measured sides. Its upper end is the side from which the mixer is surely faster at "
            "every larger one: where there is none, the crossover may lie beyond them."
        )
    if not all(crossing.has_interval for crossing in crossings):
        notes.append(
            "From fewer than four sides there is no interval: two curves of three coefficients pass through all of them."
        )
    notes.append(f"Session {crossings[0].session}.")
    title = f"Crossover: {title_of([result.profile.setting])}"
    return replace(make_table("crossover", name, title, _columns(result), crossings, notes), result=result)


def _columns(result: Crossovers) -> list[Column[Crossing]]:
    return [
        Column("session", lambda crossing: crossing.session),
        Column("created", lambda crossing: crossing.created),
        *setting_columns(result.profile.setting),
        *line_columns(lambda crossing: crossing.line),
        Column("baseline_label", lambda crossing: label(crossing.baseline), "baseline", words=True),
        Column("baseline_backends", lambda crossing: "; ".join(crossing.baseline_backends.values())),
        Column("baseline", lambda crossing: crossing.baseline.mixer),
        Column("verdict", lambda crossing: crossing.verdict),
        Column("side", lambda crossing: crossing.side),
        Column("interval", lambda crossing: crossing.has_interval),
        Column("side_low", lambda crossing: crossing.side_low),
        Column("side_high", lambda crossing: crossing.side_high),
        Column("smallest_side", lambda crossing: crossing.smallest_side),
        Column("largest_side", lambda crossing: crossing.largest_side),
        Column("", lambda crossing: crossing, "crossover", crossing_in_words, words=True),
    ]


def _backend_notes(crossings: Iterable[Crossing]) -> list[str]:
    """The baseline's attention backends by side; the lines are named where they were not compared with the same ones."""
    lines: dict[str, list[str]] = {}
    for crossing in crossings:
        lines.setdefault(backends_by_side(crossing.baseline_backends), []).append(label(crossing.line))
    return [
        f"The baseline's backend{' (' + ', '.join(names) + ')' if len(lines) > 1 else ''}: {text}."
        for text, names in lines.items()
    ]


def crossing_in_words(crossing: Crossing) -> str:
    """A crossover with its interval: "from 437 px [402, 481]"; of one without a side, from or up to where it is sure."""
    return _side_in_words(crossing, has_interval=crossing.has_interval)


def row_in_words(row: CrossoverRow) -> str:
    """As `crossing_in_words`, of a row."""
    return _side_in_words(row, has_interval=row.interval)


def _side_in_words(crossing: Crossing | CrossoverRow, *, has_interval: bool) -> str:
    smallest, largest = crossing.smallest_side, crossing.largest_side
    low, high = crossing.side_low, crossing.side_high
    if crossing.verdict == "always":
        found = f"faster at every measured side ({smallest}–{largest} px)"
        sure = f"not sure (95 %): maybe only beyond {largest} px" if high is None else f"sure (95 %) only from {high:.0f} px on"
        if high is not None and high <= smallest:
            sure = "sure (95 %) at each"
    elif crossing.verdict == "none" or crossing.side is None:
        found = f"none up to {largest} px"
        sure = f"not sure (95 %): maybe from below {smallest} px" if low is None else f"sure (95 %) only up to {low:.0f} px"
        if low is not None and low >= largest:
            sure = "sure (95 %)"
    else:
        ends = f"below {smallest}" if low is None else f"{low:.0f}", f"beyond {largest}" if high is None else f"{high:.0f}"
        return f"from {crossing.side:.0f} px" + (f" [{', '.join(ends)}]" if has_interval else "")
    return f"{found}; {sure}" if has_interval else found


def crossing_in_short(crossing: Crossing) -> str:
    """A crossover for a narrow column: "from 437 px [402, 481]", "always (sure only from 236 px on)", "never (not sure)"."""
    if crossing.verdict == "always":
        return f"always{sure_from(crossing)}"
    if crossing.verdict == "none" or crossing.side is None:
        return f"never{sure_up_to(crossing)}"
    return crossing_in_words(crossing)


def sure_from(crossing: Crossing) -> str:
    """Of a line that is faster at every side: from where on that is sure, if not everywhere."""
    if not crossing.has_interval or (crossing.side_high is not None and crossing.side_high <= crossing.smallest_side):
        return ""
    return " (not sure)" if crossing.side_high is None else f" (sure only from {crossing.side_high:.0f} px on)"


def sure_up_to(crossing: Crossing) -> str:
    """Of a line that is faster at no side: up to where that is sure, if not everywhere."""
    if not crossing.has_interval or (crossing.side_low is not None and crossing.side_low >= crossing.largest_side):
        return ""
    return " (not sure)" if crossing.side_low is None else f" (sure only up to {crossing.side_low:.0f} px)"
