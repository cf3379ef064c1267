"""A line's difference to the baseline of its recipe: the columns of an accuracy table about it, and the notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wfbench.analysis.asked import Asked
from wfbench.analysis.differences import Comparison, RecipeFamily
from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import LineIdentity, LineResult
from wfbench.analysis.power import ENOUGH_POWER
from wfbench.analysis.seeds import AccuracyResult
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
        Column("paired", compared(lambda c: c.is_paired)),
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
    labels = {line.identity: line.label for line in result.lines}
    notes: dict[str, None] = {}
    for family in result.families:
        if family.why_none:
            what = "Nothing" if not family.comparisons else "What is not paired by its seeds"
            notes[f"{what} was compared with the baseline {result.asked.baseline}: {family.why_none}."] = None
        if family.comparisons:
            notes |= dict.fromkeys(_family_notes(family, result.asked, labels))
    return list(notes)


def _family_notes(family: RecipeFamily, asked: Asked, labels: Mapping[LineIdentity, str]) -> list[str]:
    comparisons = family.comparisons.values()
    notes = [*_paired_notes(family, asked, labels), *_unpaired_notes(family, asked)]
    if family.paired_seeds and family.pooled is not None:
        notes.append("The paired and the unpaired comparisons are two families, each with an error of 5% for all its lines.")
    notes.append(
        f"Power is the probability of finding a true difference of {percent(asked.effect)} points with these seeds; the last "
        f"column is the difference that is found in {ENOUGH_POWER:.0%} of cases."
    )
    if any(c.sided == "not distinguishable" and not c.equivalent for c in comparisons):
        notes.append("“Not distinguishable” is no finding: it says neither that there is a difference nor that there is none.")
    if asked.margin is not None:
        notes.append(
            f"“Within ±{percent(asked.margin)}”: two one-sided tests (TOST) on the spread of the difference, with Holm's "
            "correction over the lines, show that the true difference is smaller than that margin, which was given to the "
            "report. The power of equivalence is the least probability of showing it where there is no difference at all."
        )
    return notes + spread_note(None if family.pooled is None else family.pooled.p)


def _paired_notes(family: RecipeFamily, asked: Asked, labels: Mapping[LineIdentity, str]) -> list[str]:
    found = {line: c for line, c in family.comparisons.items() if c.is_paired}
    if not found:
        return []
    notes = [
        f"Paired: {plural(len(found), 'line')} against {asked.baseline}, seed by seed over the same "
        f"{plural(family.paired_seeds, 'seed')}. Differences are in points of accuracy, with simultaneous 95% intervals "
        "(Bonferroni); the verdict is that of paired t-tests with Holm's correction, which now and then finds a difference "
        "whose simultaneous interval just holds 0."
    ]
    constant = sorted(labels[line] for line, c in found.items() if c.difference.why_none)
    if constant:
        names = ", ".join(constant)
        notes.append(f"No interval of the difference, which is the same for every seed and cannot be tested: {names}.")
    return notes


def _unpaired_notes(family: RecipeFamily, asked: Asked) -> list[str]:
    count = sum(not c.is_paired for c in family.comparisons.values())
    if family.pooled is None:
        return []
    return [
        f"Unpaired: {plural(count, 'line')} against {asked.baseline}, since seeds differ, or runs of one seed did not begin "
        "alike (records before schema 6). Differences are in points of accuracy, with simultaneous 95% intervals by Dunnett's "
        f"test, on the pooled standard deviation of {percent(family.pooled.deviation)} points over seeds "
        f"({family.pooled.freedom} degrees of freedom)."
    ]
