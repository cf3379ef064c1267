"""All tables that records give: what may stand side by side stands in one table, everything else is split.

Nothing is ranked: lines are in alphabetical order. A cell that failed and a count that was refused stay in the table, and
a note says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wfbench.analysis.asked import Asked
from wfbench.analysis.results import Results, analyse
from wfbench.records import AnyRow
from wfbench.records.run_directory import Run
from wfbench.report.ablation import ablation_tables
from wfbench.report.accuracy import accuracy_tables
from wfbench.report.capability import capability_tables, probe_tables
from wfbench.report.claims import claims_tables
from wfbench.report.columns import Table
from wfbench.report.cost import cost_tables
from wfbench.report.denoising import loss_tables, score_tables
from wfbench.report.exports import export_tables
from wfbench.report.fronts import front_tables
from wfbench.report.images import image_tables
from wfbench.report.overview import overview_tables
from wfbench.report.prediction import prediction_tables
from wfbench.report.published import published_tables
from wfbench.report.receptive_fields import receptive_field_tables
from wfbench.report.resolutions import resolution_tables
from wfbench.report.segmentation import segmentation_tables, size_tables
from wfbench.report.tuning import tuning_tables

__all__ = ["Asked", "Table", "tables", "tables_of"]


def tables(
    rows: Iterable[AnyRow], asked: Asked | None = None, *, published: bool = False, runs: Sequence[Run] = ()
) -> list[Table]:
    """All tables that the rows give: claims, accuracy and cost side by side, accuracy, cost, and what they lead to.

    Args:
        rows: the records.
        asked: what accuracies are held against; by default softmax, without a margin.
        published: also published numbers, in tables of their own.
        runs: the run directories, whose predictions are compared image by image.
    """
    return tables_of(analyse(rows, asked, runs), published=published)


def tables_of(results: Results, *, published: bool = False) -> list[Table]:
    """The tables of results that are at hand already, in the order in which people read them."""
    accuracy = accuracy_tables(results.accuracy)
    return [
        *claims_tables(results.claims),
        *([] if results.overview is None else overview_tables(results.overview)),
        *accuracy,
        *capability_tables(results.capabilities),
        *probe_tables(results.probes),
        *segmentation_tables(results.segmentation),
        *size_tables(results.segmentation_sizes),
        *tuning_tables(results.tuning),
        *resolution_tables(results.resolutions),
        *cost_tables(results.costs),
        *front_tables(results.fronts, accuracy),
        *image_tables(results.images),
        *receptive_field_tables(results.receptive_fields),
        *loss_tables(results.losses),
        *score_tables(results.scores),
        *prediction_tables(results.predictions),
        *ablation_tables(results.ablations),
        *export_tables(results.exports),
        *(published_tables() if published else []),
    ]
