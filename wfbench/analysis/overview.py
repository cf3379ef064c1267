"""Accuracy and cost of each mixer side by side: which cells of a profile are those of a trained line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wfbench.analysis.capability import ProbeLine, ProbeResult, recall_of
from wfbench.analysis.cells import Line, Size
from wfbench.analysis.exports import ExportLine
from wfbench.analysis.line_results import LineIdentity, LineResult
from wfbench.analysis.lines import CHOSEN_BACKEND, scheduled
from wfbench.analysis.profile import CellCost, ProfileCost
from wfbench.analysis.scaling import Crossing, Crossovers
from wfbench.analysis.seeds import AccuracyResult
from wfbench.records import ExportRow

#: What a trained line and a profiled one have in common: mixer, local convolution, position embedding.
_Name = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class OverviewLine:
    """A trained line with its cells at the fewest and the most tokens of the profile.

    Attributes:
        trained: the line.
        first: its cell at the fewest tokens, of several attention backends the fastest; None where there is none.
        last: likewise at the most tokens.
        same_model: whether the profile is surely of the trained model: it has a cell of the line at the trained image size,
            with as many parameters.
        exports: what the line exports to, in the profiled model; None where that was not tried.
        recall: what the line stores in the probe recall, whose model is another one; None where that was not tried, or under
            several settings.
        crossing: from which side it is faster than the baseline; None where nothing says so.
    """

    trained: LineResult
    first: CellCost | None
    last: CellCost | None
    same_model: bool
    exports: ExportLine | None = None
    recall: ProbeLine | None = None
    crossing: Crossing | None = None

    @property
    def forced(self) -> bool:
        """Whether the last cell ran in an attention backend that PyTorch did not choose."""
        return self.last is not None and self.last.line.sdpa_backend != CHOSEN_BACKEND


@dataclass(frozen=True, eq=False)
class Overview:
    """Accuracy and cost, line by line.

    Attributes:
        accuracy: the result that the trained lines are from.
        profile: the profile that the cells are from.
        first: the image size with the fewest tokens.
        last: the image size with the most tokens.
        lines: those that were both trained and profiled, in the order of the accuracy result.
    """

    accuracy: AccuracyResult
    profile: ProfileCost
    first: Size
    last: Size
    lines: tuple[OverviewLine, ...]

    @property
    def same_model(self) -> bool:
        """Whether the profile is surely of the trained model, for every line."""
        return all(line.same_model for line in self.lines)

    def line(self, identity: LineIdentity) -> OverviewLine | None:
        """The line of that identity; None where it was not profiled."""
        return next((line for line in self.lines if line.trained.identity == identity), None)


def overview(
    accuracy: Sequence[AccuracyResult],
    profiles: Sequence[ProfileCost],
    exports: Sequence[ExportLine] = (),
    probes: Sequence[ProbeResult] = (),
    crossovers: Sequence[Crossovers] = (),
) -> Overview | None:
    """Accuracy and cost of each mixer, where there is one result of each; None otherwise, or where no line has both.

    Beside them stands what each line exports to, stores in the probe recall, and where it overtakes the baseline.

    There is also none where a mixer and its factors stand for two trained lines, or were trained in another model than the
    profiled one: the wrong cost would stand beside an accuracy.
    """
    if len(accuracy) != 1 or len(profiles) != 1:
        return None
    trained, profile = accuracy[0], profiles[0]
    cells = _fastest_cells(profile.cells)
    profiled = {name for name, _ in cells}
    joined = [line for line in trained.lines if _name(line.identity) in profiled]
    other = any(line.identity.model != profile.profile.setting.model for line in joined)
    if not joined or other or len({_name(line.identity) for line in joined}) < len(joined):
        return None
    sizes = {tokens: cell.row.resolution for (_, tokens), cell in cells.items()}
    first, last = min(sizes), max(sizes)
    stored, crossings = recall_of(probes), _crossings(profile, crossovers)
    exported = {_name(line.any_row): line for line in exports if line.model == profile.profile.setting.model}

    def line(trained: LineResult) -> OverviewLine:
        name = _name(trained.identity)
        own = [cell for (mixer, _), cell in cells.items() if mixer == name]
        return OverviewLine(
            trained,
            cells.get((name, first)),
            cells.get((name, last)),
            _is_same_model(trained, own),
            exported.get(name),
            stored.get(trained.label),
            crossings.get(name),
        )

    return Overview(trained, profile, sizes[first], sizes[last], tuple(map(line, joined)))


def _name(line: LineIdentity | Line | ExportRow) -> _Name:
    return scheduled(line), line.local_conv, line.pos_embed


def _crossings(profile: ProfileCost, crossovers: Sequence[Crossovers]) -> dict[_Name, Crossing]:
    """The crossovers of the profile's own lines, not of variants or forced attention backends."""
    return {
        _name(crossing.line): crossing
        for result in crossovers
        if result.profile is profile.profile
        for crossing in result.crossings
        if not crossing.line.variant and crossing.line.sdpa_backend == CHOSEN_BACKEND
    }


def _is_same_model(line: LineResult, cells: Iterable[CellCost]) -> bool:
    ours = line.last.image_size, line.identity.parameters
    return any((cell.row.resolution, cell.row.parameters) == ours for cell in cells)


def _fastest_cells(cells: Sequence[CellCost]) -> dict[tuple[_Name, int], CellCost]:
    """The cell of each mixer at each number of tokens: of several attention backends the fastest, or else the first.

    Variants are left out: they are other models than the one that was trained.
    """
    found: dict[tuple[_Name, int], list[CellCost]] = {}
    for cell in cells:
        if not cell.line.variant:
            found.setdefault((_name(cell.line), cell.row.tokens), []).append(cell)
    return {key: min(group, key=seconds_per_image_or_inf) for key, group in found.items()}


def seconds_per_image_or_inf(cell: CellCost) -> float:
    """By which cells are ordered: inf for one that failed."""
    return math.inf if cell.seconds_per_image is None else cell.seconds_per_image.estimate
