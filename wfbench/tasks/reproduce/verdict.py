"""What came of one cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wfbench.analysis.reproduction import Answer


@dataclass(frozen=True)
class Verdict:
    """The answer about one cell, and the figures behind it.

    Attributes:
        answer, reason: in words.
        recorded, new: ratios, or final metrics; None where there is none.
        difference, low, high: of ratios new / recorded, else new - recorded; with the interval at ``level``.
        found_from: a change of this size (of ratios, by this factor) is found in 80 % of calls.
        same_predictions: the share of held-out images that both runs predict alike.
        missing: why the cell cannot be repeated.
        differs: what is other here.
        made: where the new measurements or the new run are.
    """

    answer: Answer
    reason: str
    recorded: float | None = None
    new: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    found_from: float | None = None
    same_predictions: float | None = None
    missing: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    made: Path | None = None


def unequal(old: object, new: object, counts: Mapping[str, str]) -> list[str]:
    """Which counts of two rows differ, in words; one that either row lacks is not compared.

    Args:
        old, new: the recorded row, and the one made here.
        counts: the rows' fields, and what they are called.
    """
    pairs = {words: (getattr(old, name), getattr(new, name)) for name, words in counts.items()}
    return [
        f"{words}: {a:,.0f} in the record, {b:,.0f} here" for words, (a, b) in pairs.items() if None not in (a, b) and a != b
    ]
