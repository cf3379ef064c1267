"""Lines against the baseline of their recipe: which differences are sure, and what the seeds could have shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wfbench.analysis import unpaired
from wfbench.analysis.asked import Asked
from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import LineIdentity, LineResult, Recipe, recipe_of
from wfbench.analysis.unpaired import Sided, against_baseline
from wfbench.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """One line against the baseline of its recipe, as one of a family.

    Attributes:
        difference: line minus baseline, a fraction; the intervals of a family hold at once with the probability of their level.
        sided: what the test says; "not distinguishable" is no evidence of equality.
        p: of the two-sided test, adjusted for the family.
        relevant: the true difference that ``power`` is given for.
        power: the probability of finding a true difference of ``relevant``.
        detectable: the true difference that is found with the probability `unpaired.ENOUGH_POWER`.
        margin: of equivalence; None where none was stated.
        p_equivalent: of the two one-sided tests within ± the margin, adjusted for the family.
        power_equivalent: the least probability of showing equivalence where there is no difference at all.
        equivalent: whether the two one-sided tests show that the true difference is smaller than the margin.
    """

    difference: Interval
    sided: Sided
    p: float
    relevant: float
    power: float
    detectable: float
    margin: float | None
    p_equivalent: float | None
    power_equivalent: float | None
    equivalent: bool


@dataclass(frozen=True, eq=False)
class RecipeFamily:
    """The lines of one recipe, and what comparing them with its baseline gave.

    Attributes:
        members: all lines of the recipe.
        baseline: the line that the others are compared with; None where nothing is compared.
        comparisons: by line; empty where nothing is compared. Lines of a single seed have none.
        why_none: why nothing is compared although some line has several seeds; "" otherwise.
        deviation: the standard deviation over seeds that all comparisons use, pooled within the lines; a fraction.
        freedom: its degrees of freedom.
        p_spread: of the test that all lines spread alike, which pooling assumes; None where it cannot be tested.
    """

    members: tuple[LineIdentity, ...]
    baseline: LineIdentity | None = None
    comparisons: Mapping[LineIdentity, Comparison] | None = None
    why_none: str = ""
    deviation: float | None = None
    freedom: int | None = None
    p_spread: float | None = None


def families(lines: Sequence[LineResult], asked: Asked) -> tuple[RecipeFamily, ...]:
    """The comparisons within each recipe: lines of different ones are not compared with one another."""
    groups: dict[Recipe, list[LineResult]] = {}
    for line in lines:
        groups.setdefault(recipe_of(line.identity), []).append(line)
    return tuple(_family(members, asked) for members in groups.values())


def _family(lines: Sequence[LineResult], asked: Asked) -> RecipeFamily:
    """Compare lines of one recipe with the baseline among them."""
    members = tuple(line.identity for line in lines)
    several = {line.identity: line.accuracies for line in lines if len(line.seeds) > 1}
    found = [line.identity for line in lines if line.label == asked.baseline]
    if not several or (len(several) == 1 and several.keys() == set(found)):
        return RecipeFamily(members)
    if len(found) != 1 or found[0] not in several:
        why = {0: "there is no such line", 1: "it has a single seed"}.get(len(found), "there are several of that name")
        return RecipeFamily(members, why_none=why)
    others = {identity: values for identity, values in several.items() if identity != found[0]}
    try:
        family = against_baseline(list(others.values()), several[found[0]], relevant=asked.effect, margin=asked.margin)
    except InputError as e:
        return RecipeFamily(members, why_none=str(e).splitlines()[0])
    return RecipeFamily(
        members,
        found[0],
        {identity: _comparison(c) for identity, c in zip(others, family.comparisons, strict=True)},
        "",
        family.deviation,
        family.freedom,
        family.p_spread,
    )


def _comparison(c: unpaired.Comparison) -> Comparison:
    return Comparison(
        difference=Interval(c.difference, c.low, c.high),
        sided=c.sided,
        p=c.p,
        relevant=c.relevant,
        power=c.power,
        detectable=c.detectable,
        margin=c.margin,
        p_equivalent=c.p_equivalent,
        power_equivalent=c.power_equivalent,
        equivalent=c.equivalent,
    )
