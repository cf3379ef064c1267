"""Lines against the baseline of their recipe: which differences are sure, and what the seeds could have shown.

Lines that share all their seeds with the baseline are compared seed by seed (`paired`), where their runs are of the paired
design; the others on a deviation that is pooled over lines (`unpaired`). docs/STATISTICS.md says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wfbench.analysis import paired, unpaired
from wfbench.analysis.asked import Asked
from wfbench.analysis.design import is_paired_design
from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import LineIdentity, LineResult, Recipe, recipe_of
from wfbench.analysis.paired import Sided
from wfbench.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """One line against the baseline of its recipe, as one of a family.

    Attributes:
        difference: line minus baseline, a fraction; the intervals of a family hold at once with the probability of their level.
        sided: what the test says; "not distinguishable" is no evidence of equality.
        p: of the two-sided test, adjusted for the family; None for differences seed by seed that do not spread.
        relevant: the true difference that ``power`` is given for.
        power: the least probability of finding a true difference of ``relevant``; None like ``p``.
        detectable: the true difference that is found with the probability `power.ENOUGH_POWER`; None like ``p``.
        margin: of equivalence; None where none was stated.
        p_equivalent: of the two one-sided tests within ± the margin, adjusted for the family; None without a margin, and like
            ``p``.
        power_equivalent: the least probability of showing equivalence where there is no difference at all; None likewise.
        equivalent: whether the two one-sided tests show that the true difference is smaller than the margin.
        is_paired: whether the difference was taken seed by seed.
    """

    difference: Interval
    sided: Sided
    p: float | None
    relevant: float
    power: float | None
    detectable: float | None
    margin: float | None
    p_equivalent: float | None
    power_equivalent: float | None
    equivalent: bool
    is_paired: bool


@dataclass(frozen=True)
class PooledSpread:
    """The spread over seeds that unpaired comparisons share.

    Attributes:
        deviation: the standard deviation over seeds, pooled within the lines; a fraction.
        freedom: its degrees of freedom.
        p: of Brown and Forsythe's test that all lines spread alike, which pooling assumes; None where it cannot be made.
    """

    deviation: float
    freedom: int
    p: float | None


@dataclass(frozen=True, eq=False)
class RecipeFamily:
    """The lines of one recipe, and what comparing them with its baseline gave.

    Attributes:
        members: all lines of the recipe.
        baseline: the line that the others are compared with; None where nothing is compared.
        comparisons: by line; lines of a single seed have none. The paired ones are one family of tests, the others another.
        why_none: why nothing is compared, or not the lines that are not paired; "" otherwise, and where there is nothing to
            compare.
        pooled: the spread that unpaired comparisons share; None without one.
        paired_seeds: how many seeds the lines share that are compared seed by seed; 0 without one.
    """

    members: tuple[LineIdentity, ...]
    baseline: LineIdentity | None = None
    comparisons: Mapping[LineIdentity, Comparison] = field(default_factory=dict)
    why_none: str = ""
    pooled: PooledSpread | None = None
    paired_seeds: int = 0


def families(lines: Sequence[LineResult], asked: Asked) -> tuple[RecipeFamily, ...]:
    """The comparisons within each recipe: lines of different ones are not compared with one another."""
    groups: dict[Recipe, list[LineResult]] = {}
    for line in lines:
        groups.setdefault(recipe_of(line.identity), []).append(line)
    return tuple(_family(members, asked) for members in groups.values())


def is_paired(line: LineResult, other: LineResult) -> bool:
    """Whether two lines are compared seed by seed: all their runs are of the paired design, and the seeds are the same."""
    same_seeds = [row.seed for row in line.seeds] == [row.seed for row in other.seeds]
    return same_seeds and is_paired_design([*line.seeds, *other.seeds])


def _family(lines: Sequence[LineResult], asked: Asked) -> RecipeFamily:
    """Compare lines of one recipe with the baseline among them."""
    members = tuple(line.identity for line in lines)
    several = [line for line in lines if len(line.seeds) > 1]
    baselines = [line for line in lines if line.label == asked.baseline]
    if not several or several == baselines:
        return RecipeFamily(members)
    if len(baselines) != 1 or baselines[0] not in several:
        why = {0: "there is no such line", 1: "it has a single seed"}.get(len(baselines), "there are several of that name")
        return RecipeFamily(members, why_none=why)
    baseline = baselines[0]
    others = [line for line in several if line is not baseline]
    together = [line for line in others if is_paired(line, baseline)]
    apart = [line for line in others if not is_paired(line, baseline)]
    comparisons = _seed_by_seed(together, baseline, asked) if together else {}
    pooled, why_none = None, ""
    if apart:
        try:
            found, pooled = _pooled(apart, baseline, asked)
            comparisons |= found
        except InputError as e:
            why_none = str(e).splitlines()[0]
    compared = baseline.identity if comparisons else None
    return RecipeFamily(members, compared, comparisons, why_none, pooled, len(baseline.seeds) if together else 0)


def _seed_by_seed(lines: Sequence[LineResult], baseline: LineResult, asked: Asked) -> dict[LineIdentity, Comparison]:
    found = paired.paired_contrasts(
        [line.accuracies for line in lines],
        baseline.accuracies,
        relevant=asked.effect,
        margin=asked.margin,
        one_image=1 / baseline.identity.samples,
    )
    return {line.identity: _comparison(contrast, is_paired=True) for line, contrast in zip(lines, found, strict=True)}


def _comparison(c: paired.Contrast | unpaired.Comparison, *, is_paired: bool) -> Comparison:
    return Comparison(
        difference=c.simultaneous,
        sided=c.sided,
        p=c.p,
        relevant=c.relevant,
        power=c.power,
        detectable=c.detectable,
        margin=c.margin,
        p_equivalent=c.p_equivalent,
        power_equivalent=c.power_equivalent,
        equivalent=c.equivalent,
        is_paired=is_paired,
    )


def _pooled(
    lines: Sequence[LineResult], baseline: LineResult, asked: Asked
) -> tuple[dict[LineIdentity, Comparison], PooledSpread]:
    """Comparisons on one deviation.

    Raises:
        InputError: for accuracies without any spread.
    """
    values = [line.accuracies for line in lines]
    family = unpaired.against_baseline(values, baseline.accuracies, relevant=asked.effect, margin=asked.margin)
    found = {line.identity: _comparison(c, is_paired=False) for line, c in zip(lines, family.comparisons, strict=True)}
    return found, PooledSpread(family.deviation, family.freedom, family.p_spread)
