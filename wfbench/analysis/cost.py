"""All that the rows say about cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wfbench.analysis.breakdown import Breakdowns, breakdowns
from wfbench.analysis.cells import profiles_of
from wfbench.analysis.derived import derived_rows
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
    """The costs that the rows hold.

    Exponents, curves and crossovers are computed from the cells, whatever rows of them were recorded.
    """
    derived = [(profile, derived_rows(profile.cells, profile.baseline_mixer)) for profile in profiles_of(rows)]
    profiles = profile_costs(rows, derived)
    return Costs(
        profiles,
        scalings(derived),
        speed_ups(profiles),
        crossovers(derived),
        throughputs(rows),
        breakdowns(rows),
    )
