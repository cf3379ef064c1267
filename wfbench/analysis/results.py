"""All results that the rows give, each once: what tables, plots and the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wfbench.analysis.ablation import AblationResult, ablations
from wfbench.analysis.asked import Asked
from wfbench.analysis.capability import CapabilityResult, ProbeResult, capabilities, probe_results
from wfbench.analysis.choice import Choice, choices
from wfbench.analysis.claims import ClaimsResult, claims_results
from wfbench.analysis.cost import Costs, costs
from wfbench.analysis.denoising import Losses, Scores, held_out_losses, sample_scores
from wfbench.analysis.exports import ExportLine, export_lines
from wfbench.analysis.fronts import Fronts, fronts
from wfbench.analysis.image_pairs import ImageComparison, image_comparisons
from wfbench.analysis.overview import Overview, overview
from wfbench.analysis.prediction import Predictions, predictions
from wfbench.analysis.receptive_fields import ReceptiveFields, receptive_fields
from wfbench.analysis.resolutions import ResolutionResult, resolutions
from wfbench.analysis.seeds import AccuracyResult, accuracies
from wfbench.analysis.segmentation import SegmentationResult, SizesResult, segmentation_sizes, segmentations
from wfbench.analysis.tuning import TuningResult, tunings
from wfbench.analysis.variants import with_settings
from wfbench.records import AnyRow
from wfbench.records.run_directory import Run


@dataclass(frozen=True)
class Results:
    """What the rows say, by subject; of each subject one result for each setting.

    Attributes:
        claims: answers to claims, by file.
        accuracy: lines over their seeds, by setting.
        costs: what models cost, by setting.
        overview: accuracy and cost side by side; None where there is not one result of each.
        fronts: where lines stand by accuracy and cost.
        tuning: trials of learning rates, by recipe.
        resolutions: evaluations of weights, by setting.
        images: lines against the baseline on the same images.
        receptive_fields: maps of the energy that reaches the central token.
        segmentation: mean intersection over union over the seeds, by setting.
        segmentation_sizes: the same weights on images of several sizes.
        probes: accuracies of probes over the seeds, by setting.
        capabilities: the probes of one model side by side.
        losses: held-out losses of denoisers.
        scores: scores of samples.
        predictions: cells that were not measured, by call of `wfbench predict`.
        ablations: what trained networks reach with something taken away, by setting and figure.
        exports: which lines leave the bench with the same outputs, by model.
        choices: of each profile what is known of its mixers, for a choice between them.
    """

    claims: tuple[ClaimsResult, ...]
    accuracy: tuple[AccuracyResult, ...]
    costs: Costs
    overview: Overview | None
    fronts: tuple[Fronts, ...]
    tuning: tuple[TuningResult, ...]
    resolutions: tuple[ResolutionResult, ...]
    images: tuple[ImageComparison, ...]
    receptive_fields: tuple[ReceptiveFields, ...]
    segmentation: tuple[SegmentationResult, ...]
    segmentation_sizes: tuple[SizesResult, ...]
    probes: tuple[ProbeResult, ...]
    capabilities: tuple[CapabilityResult, ...]
    losses: tuple[Losses, ...]
    scores: tuple[Scores, ...]
    predictions: tuple[Predictions, ...]
    ablations: tuple[AblationResult, ...]
    exports: tuple[ExportLine, ...]
    choices: tuple[Choice, ...]


def analyse(rows: Iterable[AnyRow], asked: Asked | None = None, runs: Sequence[Run] = ()) -> Results:
    """All results.

    Args:
        rows: the records.
        asked: what is compared; by default with softmax, without a margin.
        runs: the run directories, whose predictions are compared image by image.

    Raises:
        InputError: for recorded claims that were changed.
    """
    rows, asked = list(rows), asked or Asked()
    claims = claims_results(rows, asked.claims)  # which name recipes as their files are called
    rows = with_settings(rows)
    accuracy = accuracies(rows, asked)
    cost = costs(rows)
    exports = export_lines(rows)
    probes = probe_results(rows)
    beside = overview(accuracy, cost.profiles, exports, probes, cost.crossovers)
    return Results(
        claims=claims,
        accuracy=accuracy,
        costs=cost,
        overview=beside,
        fronts=fronts(accuracy, beside),
        tuning=tunings(rows),
        resolutions=resolutions(rows),
        images=image_comparisons(runs, asked.baseline),
        receptive_fields=receptive_fields(rows),
        segmentation=segmentations(rows, asked.baseline),
        segmentation_sizes=segmentation_sizes(rows, asked.baseline),
        probes=probes,
        capabilities=capabilities(probes),
        losses=held_out_losses(rows, asked.baseline),
        scores=sample_scores(rows, asked.baseline),
        predictions=predictions(rows),
        ablations=ablations(rows),
        exports=exports,
        choices=choices(cost.profiles, beside, probes),
    )
