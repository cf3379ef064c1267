"""Crossover tables: the image side from which each line is faster than the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from wfbench.analysis.lines import label
from wfbench.analysis.scaling import Crossing, Crossovers
from wfbench.report.cells_in_words import backends_by_side, constant_columns, line_columns, raw_settings
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.naming import suffixes, title_of


def crossover_tables(results: Sequence[Crossovers]) -> list[Table]:
    """A table for each profile with lines to compare with the baseline."""
    ends = suffixes([[profile.setting for profile in result.profiles] for result in results])
    return [_table(f"crossover{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: Crossovers) -> Table:
    crossings = result.crossings
    notes = [
        "The side of a square image from which a mixer is faster than the baseline: where the curves through their cells "
        "cross, or, for fewer than four sides, interpolated between measured ones."
    ]
    if len(result.profiles) == 1:
        notes += _backend_notes(crossings)
    else:
        notes.append("The session holds several settings, and a crossover does not say which of them it means.")
    if any(crossing.has_interval for crossing in crossings):
        notes.append("Brackets and 95% give the interval of that side, from the distance of the cells to their curves.")
    notes.append(f"Session {crossings[0].session}.")
    title = f"Crossover: {title_of([profile.setting for profile in result.profiles])}"
    return replace(make_table("crossover", name, title, _columns(result), crossings, notes), result=result)


def _columns(result: Crossovers) -> list[Column[Crossing]]:
    return [
        Column("session", lambda crossing: crossing.session),
        Column("created", lambda crossing: crossing.created),
        *constant_columns(raw_settings(result.profiles)),
        *line_columns(lambda crossing: crossing.line),
        Column("baseline_label", lambda crossing: label(crossing.baseline), "baseline", words=True),
        Column("baseline_backends", lambda crossing: "; ".join(crossing.baseline_backends)),
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
        if crossing.baseline_backends:
            lines.setdefault(_backends(crossing), []).append(label(crossing.line))
    return [
        f"The baseline's backend{' (' + ', '.join(names) + ')' if len(lines) > 1 else ''}: {text}."
        for text, names in lines.items()
    ]


def _backends(crossing: Crossing) -> str:
    if not crossing.backend_sides:
        return f"{', '.join(crossing.baseline_backends)}, in the order of the sides"
    return backends_by_side(dict(zip(crossing.backend_sides, crossing.baseline_backends, strict=True)))


def crossing_in_words(crossing: Crossing) -> str:
    """A crossover with its interval: "from 437 px [402, 481]"."""
    smallest, largest = crossing.smallest_side, crossing.largest_side
    if crossing.verdict == "always":
        where = "by the curves, faster at every side" if crossing.has_interval else "faster at every measured side"
        found, unsure = f"{where} ({smallest}–{largest} px)", _always_interval(crossing)
    elif crossing.verdict == "none" or crossing.side is None:
        found, unsure = f"none up to {largest} px", _none_interval(crossing)
    else:
        low = f"below {smallest}" if crossing.side_low is None else f"{crossing.side_low:.0f}"
        high = f"beyond {largest}" if crossing.side_high is None else f"{crossing.side_high:.0f}"
        return f"from {crossing.side:.0f} px" + (f" [{low}, {high}]" if crossing.has_interval else "")
    return f"{found}; 95%: {unsure}" if crossing.has_interval else found


def _always_interval(crossing: Crossing) -> str:
    """The interval of a crossover that lies below the measured sides: only its upper end says something."""
    if crossing.side_high is None:
        return f"maybe only beyond {crossing.largest_side} px"
    return f"from at most {crossing.side_high:.0f} px"


def _none_interval(crossing: Crossing) -> str:
    """The interval of a crossover that lies beyond the measured sides: only its lower end says something."""
    if crossing.side_high is not None:  # from there on the mixer is surely slower, as far as was measured
        return f"beyond {crossing.largest_side} px"
    if crossing.side_low is None:
        return f"maybe from below {crossing.smallest_side} px"
    return f"from at least {crossing.side_low:.0f} px"
