"""All that the rows say about cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wfbench.analysis.breakdown import Breakdowns, breakdowns
from wfbench.analysis.cells import current, profiles_of
from wfbench.analysis.profile import ProfileCost, profile_costs
from wfbench.analysis.scaling import Crossovers, Scaling, crossovers, scalings
from wfbench.analysis.speedup import SpeedUps, speed_ups
from wfbench.analysis.throughput import Throughputs, throughputs
from wfbench.records import AnyRow


@dataclass(frozen=True, eq=False)
class Costs:
    """What the models cost, by setting.

    Attributes:
        profiles: time, memory and counts of each cell.
        scalings: curves of time against tokens.
        speed_ups: ratios to the baseline's time.
        crossovers: where a mixer becomes faster than the baseline.
        throughputs: images per second by batch.
        breakdowns: MACs by module and by operator.
    """

    profiles: tuple[ProfileCost, ...]
    scalings: tuple[Scaling, ...]
    speed_ups: tuple[SpeedUps, ...]
    crossovers: tuple[Crossovers, ...]
    throughputs: tuple[Throughputs, ...]
    breakdowns: tuple[Breakdowns, ...]


def costs(rows: Sequence[AnyRow]) -> Costs:
    """The costs that the rows hold."""
    rows = current(rows)
    profiles = profiles_of(rows)
    found = profile_costs(rows, profiles)
    return Costs(
        found,
        scalings(rows, profiles),
        speed_ups(found),
        crossovers(rows, profiles),
        throughputs(rows),
        breakdowns(rows),
    )
