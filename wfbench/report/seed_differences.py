"""Losses and scores over seeds, and their differences to a baseline, in cells and in notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wfbench.analysis.interval import Interval
from wfbench.analysis.seed_differences import SeedFamily
from wfbench.report.columns import Column, interval_ends
from wfbench.report.words import number, plural

_SIGNED = 2  # significant digits of the ends of a difference's interval


def with_half_width(found: Interval, digits: int, scale: float = 1.0) -> str:
    """A mean with the half-width of its interval where there is one: "12.3 ± 0.4"."""
    half = found.half_width
    return number(found.estimate * scale, digits=digits) + ("" if half is None else f" ± {number(half * scale, digits=2)}")


def difference_heading(baseline: str) -> str:
    """The heading of the differences."""
    return f"difference to {baseline}"


def difference_columns(
    baseline: str,
    family: Callable[[Any], SeedFamily],
    name: Callable[[Any], str],
    scale: Callable[[Any], float] = lambda line: 1.0,
) -> list[Column[Any]]:
    """The columns of each line's difference to the baseline; people do not see them where nothing is compared.

    Args:
        baseline: the name of the baseline's line.
        family: the comparisons that a line belongs to.
        name: of a line.
        scale: by what a line's differences are multiplied to be shown.
    """

    def difference(line: Any) -> Interval | None:
        found = family(line).differences.get(name(line))
        return None if found is None else found.difference

    def shown(line: Any) -> str | None:
        found = difference(line)
        return None if found is None else signed_number(found, scale(line))

    return [
        Column("compared_with", lambda line: baseline if family(line).differences else None),
        Column("", shown, difference_heading(baseline), optional=True, ranks=True),
        Column("difference", difference, ends=interval_ends("difference")),
        Column("verdict", lambda line: _verdict(family(line), name(line)), "verdict", words=True, optional=True),
    ]


def interval_notes(intervals: Sequence[Interval]) -> list[str]:
    """What ± is, and why some means have none."""
    notes = []
    if any(found.half_width is not None for found in intervals):
        notes.append("± is the half-width of the 95% t-interval of the mean over training seeds.")
    notes += [
        f"No interval, since there is {why}." if why == "a single seed" else f"No interval where {why}."
        for why in dict.fromkeys(found.why_none for found in intervals if found.why_none)
    ]
    return notes


def difference_notes(families: Sequence[SeedFamily]) -> list[str]:
    """How lines were compared, or why they were not."""
    notes: dict[str, None] = {}
    for family in families:
        if family.why_none:
            notes[f"Nothing was compared with the baseline {family.baseline}: {family.why_none}."] = None
        elif family.differences:
            count = plural(len(family.differences), "line")
            how = (
                f"seed by seed, by paired t-tests with Holm's correction for {count}"
                if family.is_paired
                else f"unpaired, by Dunnett's test of {count} on the pooled standard deviation over seeds"
            )
            notes[
                f"Differences are the line's mean minus that of {family.baseline}, with simultaneous 95% intervals: {how}."
            ] = None
    return list(notes)


def _verdict(family: SeedFamily, name: str) -> str | None:
    if not family.differences:
        return None
    found = family.differences.get(name)
    return ("baseline" if name == family.baseline else "not ranked: 1 seed") if found is None else found.finding


def signed_number(found: Interval, scale: float = 1.0) -> str:
    """A difference with its interval, each with its sign."""

    def show(value: float) -> str:
        return ("+" if value > 0 else "") + number(value * scale, digits=_SIGNED).replace("-", "−")

    if found.low is None or found.high is None:
        return show(found.estimate)
    return f"{show(found.estimate)} [{show(found.low)}, {show(found.high)}]"
