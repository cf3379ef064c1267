"""All tables about cost: the profiles, then scaling, speed-ups, crossovers, throughput and breakdowns."""

from __future__ import annotations

from wfbench.analysis.cost import Costs
from wfbench.report.breakdown import breakdown_tables
from wfbench.report.columns import Table
from wfbench.report.crossover import crossover_tables
from wfbench.report.profile import profile_tables
from wfbench.report.scaling import scaling_tables
from wfbench.report.speedup import speedup_tables
from wfbench.report.throughput import throughput_tables


def cost_tables(costs: Costs) -> list[Table]:
    """The tables of all costs, in the order of a report."""
    return [
        *profile_tables(costs.profiles),
        *scaling_tables(costs.scalings),
        *speedup_tables(costs.speed_ups),
        *crossover_tables(costs.crossovers),
        *throughput_tables(costs.throughputs),
        *breakdown_tables(costs.breakdowns),
    ]
