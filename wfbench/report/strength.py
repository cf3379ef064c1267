"""Columns about the strength of predicted parts, of every table of training runs, and the note that explains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar, get_args

from wfbench.analysis.interval import Interval
from wfbench.analysis.strength import LineStrength, line_strength
from wfbench.records import Slot, Strength
from wfbench.records.training import TrainingRow
from wfbench.report.columns import Column, interval_ends
from wfbench.report.words import strength_in_words

L = TypeVar("L")


def strength_columns(lines: Iterable[L], runs: Callable[[L], Sequence[TrainingRow]]) -> list[Column[L]]:
    """How strong predicted parts are after training; in the CSV also before it, and the image's own; where a line has one.

    Args:
        lines: of the table.
        runs: of a line, the run of each seed; none of what is no line, such as a floor.
    """
    known = {slot for line in lines for slot in line_strength(runs(line)).after}

    def of(key: str, heading: str, slot: Slot, part: Callable[[LineStrength], Mapping[Slot, Interval]]) -> Column[L]:
        def value(line: L) -> Interval | None:
            found = runs(line)
            return part(line_strength(found)).get(slot) if found else None

        name = f"{key}_{slot}"
        return Column(name, value, heading, strength_in_words, interval_ends(name), optional=True, files_only=True)

    return [
        column
        for slot in get_args(Slot)
        if slot in known
        for column in (
            of("strength", strength_heading(slot), slot, lambda found: found.after),
            of("strength_before", "", slot, lambda found: found.before),
            of("strength_own", "", slot, lambda found: found.own),
        )
    ]


def strength_headings() -> list[str]:
    """The headings of the columns that people see."""
    return [strength_heading(slot) for slot in get_args(Slot)]


def strength_heading(slot: Slot) -> str:
    """The heading of a slot's column."""
    return f"strength, {slot}"


def strength_notes(runs: Iterable[TrainingRow]) -> list[str]:
    """What the strength of a predicted part is; nothing where no run has one."""
    found = [run for run in runs if run.strength]
    if not found:
        return []
    counts = sorted({run.strength_samples for run in found if run.strength_samples})
    return [
        f"Strength is |X Ŵ| / |X W₀| after training, of the predicted part of a slot's layers (mixer, or fc1, the FFN's first "
        f"Linear) beside the rest of them, the mean over the layers, on {'/'.join(map(str, counts))} held-out samples. Before "
        "training, and of what is each image's own: see the CSV.",
        *no_static_notes(part for run in found for of in (run.strength, run.strength_before) for part in of or ()),
    ]


def no_static_notes(strengths: Iterable[Strength]) -> list[str]:
    """What it means that a strength is no number; nothing where all are."""
    if all(strength.total is not None for strength in strengths):
        return []
    return [
        "No static part: without its prediction a layer gives nothing but its bias, so that there is no ratio (inf in the CSV)."
    ]
