"""A line's difference to the baseline of its recipe: the columns of an accuracy table about it, and the notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wfbench.analysis.asked import Asked
from wfbench.analysis.differences import Comparison, RecipeFamily
from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import LineResult
from wfbench.analysis.seeds import AccuracyResult
from wfbench.analysis.unpaired import ENOUGH_POWER
from wfbench.report.columns import Column, interval_ends
from wfbench.report.words import percent, plural, probability, spread_note


def difference_headings(asked: Asked) -> tuple[str, ...]:
    """The headings of the columns, in the order in which people read them."""
    return (
        f"difference to {asked.baseline} (points)",
        "verdict",
        f"power at {percent(asked.effect)} points",
        f"found in {ENOUGH_POWER:.0%} from (points)",
        "power of equivalence",
    )


def difference_columns(result: AccuracyResult) -> list[Column[LineResult]]:
    """What the comparisons of a result say of each line; lines of recipes in which nothing was compared have none of it."""
    asked = result.asked
    difference, verdict, power, detectable, equivalence = difference_headings(asked)

    def compared(value: Callable[[Comparison], Any]) -> Callable[[LineResult], Any]:
        """A value of lines that are compared."""

        def of_line(line: LineResult) -> Any:
            comparison = result.comparison(line)
            return None if comparison is None else value(comparison)

        return of_line

    return [
        Column("compared_with", lambda line: asked.baseline if result.family(line).comparisons else None),
        Column("verdict", lambda line: verdict_in_words(result, line), verdict, words=True),
        Column(
            "difference",
            compared(lambda c: c.difference),
            difference,
            signed_points,
            ends=interval_ends("difference"),
            ranks=True,
        ),
        Column("p_adjusted", compared(lambda c: c.p)),
        Column("relevant_difference", compared(lambda c: c.relevant)),
        Column("power", compared(lambda c: c.power), power, probability),
        Column("detectable_difference", compared(lambda c: c.detectable), detectable, percent),
        Column("margin", compared(lambda c: c.margin)),
        Column("p_equivalent", compared(lambda c: c.p_equivalent)),
        Column(
            "power_equivalent",
            compared(lambda c: c.power_equivalent),
            "" if asked.margin is None else equivalence,
            probability,
        ),
    ]


def verdict_in_words(result: AccuracyResult, line: LineResult) -> str | None:
    """What a line's comparison says; None where nothing was compared."""
    family, comparison = result.family(line), result.comparison(line)
    if not family.comparisons:
        return None
    if comparison is not None:
        return comparison_in_words(comparison)
    return "baseline" if line.identity == family.baseline else "not ranked: 1 seed"


def comparison_in_words(comparison: Comparison) -> str:
    """Better, worse, within the margin, or not distinguishable, which says nothing of equality."""
    shown = comparison.margin is not None and comparison.equivalent
    within = f"within ±{percent(comparison.margin)}" if shown and comparison.margin is not None else ""
    if comparison.sided == "not distinguishable":
        return within or comparison.sided
    return f"{comparison.sided}, {within}" if within else comparison.sided


def signed_points(difference: Interval) -> str:
    """A difference of accuracies in points with its interval, each with its sign."""
    parts = (difference.estimate, *((difference.low, difference.high) if difference.low is not None else ()))
    value, *ends = (f"{100 * part:+.2f}".replace("-", "−") for part in parts if part is not None)
    return f"{value} [{', '.join(ends)}]" if ends else value


def difference_notes(result: AccuracyResult) -> list[str]:
    """How lines were compared, or why they were not; the same note of several recipes once."""
    notes: dict[str, None] = {}
    for family in result.families:
        if family.why_none:
            notes[f"Nothing was compared with the baseline {result.asked.baseline}: {family.why_none}."] = None
        elif family.comparisons:
            notes |= dict.fromkeys(_family_notes(family, result.asked))
    return list(notes)


def _family_notes(family: RecipeFamily, asked: Asked) -> list[str]:
    assert family.comparisons is not None
    assert family.deviation is not None
    comparisons = family.comparisons.values()
    notes = [
        f"Differences are in points of accuracy, with simultaneous 95% intervals by Dunnett's test of "
        f"{plural(len(comparisons), 'line')} against {asked.baseline}, on the pooled standard deviation of "
        f"{percent(family.deviation)} points over seeds ({family.freedom} degrees of freedom). Power is the probability of "
        f"finding a true difference of {percent(asked.effect)} points with these seeds; the last column is the difference that "
        f"is found in {ENOUGH_POWER:.0%} of cases.",
    ]
    if any(c.sided == "not distinguishable" and not c.equivalent for c in comparisons):
        notes.append("“Not distinguishable” is no finding: it says neither that there is a difference nor that there is none.")
    if asked.margin is not None:
        notes.append(
            f"“Within ±{percent(asked.margin)}”: two one-sided tests on the pooled deviation (TOST), with Holm's correction "
            "over the lines, show that the true difference is smaller than that margin, which was given to the report. The "
            "power of equivalence is the least probability of showing it where there is no difference at all."
        )
    return notes + spread_note(family.p_spread)
