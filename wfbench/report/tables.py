"""Tables from records: what may stand side by side stands in one table, everything else is split.

Nothing is ranked: lines are in alphabetical order. A cell that failed and a count that was refused stay in the table, and
a note says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfbench.analysis.cells import profiles_of
from wfbench.analysis.fronts import fronts
from wfbench.analysis.overview import overview
from wfbench.analysis.resolutions import resolutions
from wfbench.analysis.seeds import accuracies
from wfbench.analysis.tuning import tunings
from wfbench.records import AnyRow
from wfbench.records.run_directory import Run
from wfbench.report.accuracy import accuracy_tables
from wfbench.report.claims import claims_tables
from wfbench.report.diffusion import diffusion_tables
from wfbench.report.erf import erf_tables
from wfbench.report.fronts import front_tables
from wfbench.report.overview import overview_tables
from wfbench.report.paired import paired_tables
from wfbench.report.parts import BASELINE, Table, factors, label
from wfbench.report.profiles import profile_tables
from wfbench.report.published import published_tables
from wfbench.report.resolutions import resolution_tables
from wfbench.report.significance import Asked
from wfbench.report.statistics import mean_interval
from wfbench.report.tuning import tuning_tables

__all__ = ["BASELINE", "Asked", "Table", "factors", "label", "mean_interval", "tables"]


def tables(
    rows: Iterable[AnyRow], asked: Asked | None = None, *, published: bool = False, runs: Sequence[Run] = ()
) -> list[Table]:
    """All tables that the rows give: accuracy and cost side by side, accuracy, then profiles and what they lead to.

    Args:
        rows: the records.
        asked: what accuracies are held against; by default softmax, without a margin.
        published: also published numbers, in tables of their own.
        runs: the run directories, whose predictions are compared image by image.
    """
    asked = asked or Asked()
    rows = list(rows)
    reached = accuracies(rows, asked)
    beside = overview(reached, profiles_of(rows))
    accuracy, cost = accuracy_tables(reached), profile_tables(rows)
    overviews = overview_tables(beside, accuracy[0], cost[0]) if beside is not None else []
    known = published_tables() if published else []
    pareto = front_tables(fronts(reached, beside), accuracy)
    answers, trials = claims_tables(rows, asked.claims), tuning_tables(tunings(rows))
    return [
        *answers,
        *overviews,
        *accuracy,
        *trials,
        *resolution_tables(resolutions(rows)),
        *cost,
        *pareto,
        *paired_tables(runs, asked),
        *erf_tables(rows),
        *diffusion_tables(rows),
        *known,
    ]
