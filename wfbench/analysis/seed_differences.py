"""Lines of any figure over seeds, each held against a baseline: losses and scores, of which less or more may be better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wfbench.analysis.interval import Interval
from wfbench.analysis.paired import Contrast, Sided, mean_interval, paired_contrasts
from wfbench.analysis.unpaired import Comparison, against_baseline
from wfbench.errors import InputError

#: Which values of a figure are better; "neither" of one that describes and does not rank.
Better = Literal["less", "more", "neither"]
Finding = Literal["better", "worse", "higher", "lower", "not distinguishable"]


@dataclass(frozen=True)
class SeedDifference:
    """One line against the baseline.

    Attributes:
        difference: line minus baseline, in the unit of the figure; all lines' intervals hold at once with probability 95%.
        finding: what the test says; "not distinguishable" is no evidence of equality.
        p: of the two-sided test, adjusted for the number of lines; None without a spread.
    """

    difference: Interval
    finding: Finding
    p: float | None


@dataclass(frozen=True)
class SeedFamily:
    """All lines against one baseline.

    Attributes:
        baseline: its name.
        differences: by line; those of a single seed have none, and neither has the baseline.
        is_paired: whether differences were taken seed by seed.
        better: which values are better.
        why_none: why nothing is compared although lines have several seeds; "" otherwise.
    """

    baseline: str
    differences: Mapping[str, SeedDifference]
    is_paired: bool
    better: Better
    why_none: str = ""


def over_seeds(values: Sequence[float], samples: int | None = None) -> Interval:
    """The mean with its 95% t-interval over seeds, or the reason why it has none.

    Args:
        values: one number per seed.
        samples: of how many images or samples they are shares; None for what is no share.
    """
    if not all(map(math.isfinite, values)):
        return Interval(math.fsum(values) / len(values), why_none="a value is not finite")
    return mean_interval(values, samples)


def compare_seeds(lines: Mapping[str, Mapping[int, float]], baseline: str, better: Better, *, is_paired: bool) -> SeedFamily:
    """Compare each line that has several seeds with the baseline.

    Seed by seed, by paired t-tests with Holm's correction, where the design is paired and all lines have the baseline's seeds;
    else by Dunnett's test on the pooled deviation.

    Args:
        lines: the values of each line by seed.
        baseline: the name of the line that the others are held against.
        better: which values are better.
        is_paired: whether the runs are of the paired design.
    """
    several = {name: dict(sorted(values.items())) for name, values in lines.items() if len(values) > 1}
    theirs = several.pop(baseline, None)
    if not several:
        return SeedFamily(baseline, {}, False, better)
    if theirs is None:
        why = "it has a single seed" if baseline in lines else "there is no such line"
        return SeedFamily(baseline, {}, False, better, why)
    is_paired = is_paired and all(values.keys() == theirs.keys() for values in several.values())
    ours = [list(values.values()) for values in several.values()]
    base = list(theirs.values())
    try:  # the power that both also give is not used, so any relevant difference does
        found: Sequence[Contrast | Comparison] = (
            paired_contrasts(ours, base, relevant=1.0) if is_paired else against_baseline(ours, base, relevant=1.0).comparisons
        )
    except InputError as e:
        return SeedFamily(baseline, {}, False, better, str(e).splitlines()[0])
    differences = {
        name: SeedDifference(c.simultaneous, _finding(c.sided, better), c.p) for name, c in zip(several, found, strict=True)
    }
    return SeedFamily(baseline, differences, is_paired, better)


def _finding(sided: Sided, better: Better) -> Finding:
    """What a test whose "better" means a larger value says of a figure of which other values may be better."""
    if sided == "not distinguishable" or better == "more":
        return sided
    if better == "neither":
        return "higher" if sided == "better" else "lower"
    return "worse" if sided == "better" else "better"
