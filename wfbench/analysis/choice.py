"""What is known of each mixer for a choice between them: its cells by image size, its accuracy, and what it stores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wfbench.analysis.capability import ProbeLine, ProbeResult, recall_of
from wfbench.analysis.cells import Size
from wfbench.analysis.line_results import LineResult
from wfbench.analysis.lines import CHOSEN_BACKEND, group, label
from wfbench.analysis.overview import Overview, seconds_per_image_or_inf
from wfbench.analysis.profile import CellCost, ProfileCost
from wfbench.analysis.seeds import AccuracyResult


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mixer with its factors in the profiled model.

    Attributes:
        label: its name.
        cells: by image size; of several attention backends the fastest that worked, or else the first.
        trained: its accuracy in that model; None where it was not trained, or under several settings.
        recall: what it stores in the probe recall; None where that was not tried, or under several settings.
    """

    label: str
    cells: Mapping[Size, CellCost]
    trained: LineResult | None
    recall: ProbeLine | None


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidates of one profile of inference.

    Attributes:
        cost: the profile.
        sides: the image sizes that were measured, smallest first.
        candidates: in the order of the profile.
        accuracy: where the accuracies are from; None without any.
        recall: where the stored pairs are from; None without any.
    """

    cost: ProfileCost
    sides: tuple[Size, ...]
    candidates: tuple[Candidate, ...]
    accuracy: AccuracyResult | None
    recall: ProbeResult | None


def choices(profiles: Sequence[ProfileCost], beside: Overview | None, probes: Sequence[ProbeResult]) -> tuple[Choice, ...]:
    """A choice for each profile of inference with one batch for all sizes.

    Args:
        profiles: the costs.
        beside: accuracies of the lines of the only profile.
        probes: the results of all probes.
    """
    stored = recall_of(probes)
    recall = next((probe for probe in probes if stored and probe.setting.probe == "recall"), None)
    found = []
    for cost in profiles:
        setting = cost.profile.setting
        cells = group((cell for cell in cost.cells if not cell.line.variant), _name)
        if setting.mode != "infer" or setting.token_budget is not None or not cells:
            continue
        own = beside if beside is not None and beside.profile is cost else None
        trained = {} if own is None else {line.trained.label: line.trained for line in own.lines}
        candidates = tuple(
            Candidate(name, _fastest(members), trained.get(name), stored.get(name)) for name, members in cells.items()
        )
        sides = tuple(sorted({cell.row.resolution for members in cells.values() for cell in members}, key=math.prod))
        found.append(Choice(cost, sides, candidates, None if own is None else own.accuracy, recall))
    return tuple(found)


def _name(cell: CellCost) -> str:
    """The line's name, whichever attention backend ran."""
    return label(cell.line._replace(sdpa_backend=CHOSEN_BACKEND))


def _fastest(cells: Sequence[CellCost]) -> dict[Size, CellCost]:
    by_size = group(cells, lambda cell: cell.row.resolution)
    return {size: min(found, key=seconds_per_image_or_inf) for size, found in by_size.items()}
