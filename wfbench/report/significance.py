"""What the seeds of an accuracy table show: each line against the baseline, in cells, raw numbers and words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from wfbench.analysis.asked import Asked
from wfbench.errors import InputError
from wfbench.report.parts import DASH, Line, percent, plural, spread_note
from wfbench.report.statistics import ENOUGH_POWER, Comparison, Family, against_baseline

K = TypeVar("K", bound=Hashable)


def judge(runs: Mapping[K, tuple[str, Sequence[float]]], asked: Asked) -> tuple[dict[K, Line], list[str]]:
    """Compare lines of one recipe with the baseline among them, and say in notes how.

    Args:
        runs: the label and the accuracies by seed of each line.
        asked: the baseline and the margin.

    Returns:
        More cells and raw numbers for each line, none where nothing can be compared.
    """
    several = {key: values for key, (_, values) in runs.items() if len(values) > 1}
    chosen = [key for key, (name, _) in runs.items() if name == asked.baseline]
    if not several or (len(several) == 1 and several.keys() == set(chosen)):
        return {}, []
    if len(chosen) != 1 or chosen[0] not in several:
        why = {0: "there is no such line", 1: "it has a single seed"}.get(len(chosen), "there are several of that name")
        return {}, [f"Nothing was compared with the baseline {asked.baseline}: {why}."]
    others = {key: values for key, values in several.items() if key != chosen[0]}
    try:
        family = against_baseline(list(others.values()), several[chosen[0]], relevant=asked.effect, margin=asked.margin)
    except InputError as e:
        return {}, [f"Nothing was compared with the baseline {asked.baseline}: {str(e).splitlines()[0]}."]
    found = dict(zip(others, family.comparisons, strict=True))
    lines = {}
    for key in runs:
        word = "baseline" if key == chosen[0] else "not ranked: 1 seed"
        lines[key] = _line(found.get(key), word, asked)
    return lines, _notes(family, asked)


def in_words(comparison: Comparison) -> str:
    """The verdict: better, worse, within the margin, or not distinguishable, which says nothing of equality."""
    within = f"within ±{percent(comparison.margin)}" if comparison.margin is not None and comparison.equivalent else ""
    if comparison.sided == "not distinguishable":
        return within or comparison.sided
    return f"{comparison.sided}, {within}" if within else comparison.sided


def _line(comparison: Comparison | None, word: str, asked: Asked) -> Line:
    c = comparison
    cells = {
        f"difference to {asked.baseline} (points)": DASH if c is None else _signed(c),
        "verdict": word if c is None else in_words(c),
        f"power at {percent(asked.effect)} points": DASH if c is None else _share(c.power),
        f"found in {ENOUGH_POWER:.0%} from (points)": DASH if c is None else percent(c.detectable),
    }
    if asked.margin is not None:
        shown = c is not None and c.power_equivalent is not None
        cells["power of equivalence"] = _share(c.power_equivalent) if shown else DASH  # type: ignore[union-attr, arg-type]
    raw: dict[str, object] = {
        "compared_with": asked.baseline,
        "verdict": cells["verdict"],
        "difference": c and c.difference,
        "difference_low": c and c.low,
        "difference_high": c and c.high,
        "p_adjusted": c and c.p,
        "relevant_difference": c and c.relevant,
        "power": c and c.power,
        "detectable_difference": c and c.detectable,
        "margin": c and c.margin,
        "p_equivalent": c and c.p_equivalent,
        "power_equivalent": c and c.power_equivalent,
    }
    return cells, raw


def _signed(c: Comparison) -> str:
    value, low, high = (f"{100 * part:+.2f}".replace("-", "−") for part in (c.difference, c.low, c.high))
    return f"{value} [{low}, {high}]"


def _share(power: float) -> str:
    """A probability in per cent, which is never rounded to certainty."""
    return "> 99 %" if power > 0.99 else "< 1 %" if power < 0.01 else f"{100 * power:.0f} %"


def _notes(family: Family, asked: Asked) -> list[str]:
    count = len(family.comparisons)
    notes = [
        f"Differences are in points of accuracy, with simultaneous 95% intervals by Dunnett's test of "
        f"{plural(count, 'line')} against {asked.baseline}, on the pooled standard deviation of {percent(family.deviation)} "
        f"points over seeds ({family.freedom} degrees of freedom). Power is the probability of finding a true difference of "
        f"{percent(asked.effect)} points with these seeds; the last column is the difference that is found in "
        f"{ENOUGH_POWER:.0%} of cases.",
    ]
    if any(c.sided == "not distinguishable" and not c.equivalent for c in family.comparisons):
        notes.append("“Not distinguishable” is no finding: it says neither that there is a difference nor that there is none.")
    if asked.margin is not None:
        notes.append(
            f"“Within ±{percent(asked.margin)}”: two one-sided tests on the pooled deviation (TOST), with Holm's correction "
            "over the lines, show that the true difference is smaller than that margin, which was given to the report. The "
            "power of equivalence is the least probability of showing it where there is no difference at all."
        )
    return notes + spread_note(family.p_spread)
