"""How strong the predicted parts of a line's layers are, over its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wfbench.analysis.interval import Interval
from wfbench.analysis.seed_differences import over_seeds
from wfbench.records import Slot, Strength
from wfbench.records.training import TrainingRow

#: Why a strength is infinite, and has no interval.
NO_STATIC = "no static part"


@dataclass(frozen=True)
class LineStrength:
    """The strength of a line's predicted parts, |X Ŵ| / |X W₀|, the mean over the layers of a slot, by slot.

    Infinite where a layer has no static part (`NO_STATIC`). Empty where there is no predicted part, or a run did not record it.

    Attributes:
        after: training, of the whole prediction.
        before: in the initial weights.
        own: after training, of what is each image's own.
    """

    after: Mapping[Slot, Interval]
    before: Mapping[Slot, Interval]
    own: Mapping[Slot, Interval]


def line_strength(runs: Sequence[TrainingRow]) -> LineStrength:
    """The strength of a line, from the runs of its seeds."""
    return LineStrength(
        after=_by_slot([run.strength for run in runs]),
        before=_by_slot([run.strength_before for run in runs]),
        own=_by_slot([run.strength for run in runs], "own"),
    )


def mean_strength(values: Sequence[float | None]) -> Interval:
    """The mean strength over seeds, with its interval; infinite where in a seed a layer has no static part."""
    known = [value for value in values if value is not None]
    return over_seeds(known) if len(known) == len(values) else Interval(math.inf, why_none=NO_STATIC)


def _by_slot(found: Sequence[Sequence[Strength] | None], part: Literal["total", "own"] = "total") -> dict[Slot, Interval]:
    slots = dict.fromkeys(strength.slot for of_seed in found for strength in of_seed or ())

    def mean(of_seed: Sequence[Strength], slot: Slot) -> float | None:
        values = [getattr(strength, part) for strength in of_seed if strength.slot == slot]
        return None if None in values else math.fsum(values) / len(values)

    return {} if None in found else {slot: mean_strength([mean(of_seed or (), slot) for of_seed in found]) for slot in slots}
