"""Moved to wfbench.analysis."""

from wfbench.analysis.fronts import Place, pareto
from wfbench.analysis.images import ImageDifference, Paired, image_seed_bootstrap, mcnemar, mcnemar_power
from wfbench.analysis.interval import LEVEL
from wfbench.analysis.unpaired import (
    ENOUGH_POWER,
    Comparison,
    Family,
    against_baseline,
    dunnett_critical,
    equivalence_power,
    holm,
    power_of,
    spread_p,
)

__all__ = [
    "ENOUGH_POWER",
    "LEVEL",
    "Comparison",
    "Family",
    "ImageDifference",
    "Paired",
    "Place",
    "against_baseline",
    "dunnett_critical",
    "equivalence_power",
    "holm",
    "image_seed_bootstrap",
    "mcnemar",
    "mcnemar_power",
    "pareto",
    "power_of",
    "spread_p",
]
