"""Segmentation: mean intersection over union by line over the seeds, and by the size of the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from wfbench.analysis.cells import Size
from wfbench.analysis.design import is_paired_design
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import BASELINE, group, latest, lines_by_code, sorted_keys
from wfbench.analysis.seed_differences import SeedFamily, compare_seeds, over_seeds
from wfbench.records import AnyRow, DenseEvalRow, DenseRow

H = TypeVar("H", DenseRow, DenseEvalRow)


class SegmentationSetting(NamedTuple):
    """What the lines of one table of training runs share."""

    recipe: str
    digest: str
    dataset: str
    model: str
    image_size: Size
    decoder: str
    frozen: bool
    weights: str
    epochs: int
    batch: int
    samples: int
    device: str
    dtype: str
    pretraining: str
    #: Of the models' code and of the data; None where they were not recorded.
    model_digest: str | None
    data_digest: str | None


class SizesSetting(NamedTuple):
    """What the lines of one table by image size share."""

    recipe: str
    digest: str
    model: str
    trained_size: Size
    decoder: str
    frozen: bool
    weights: str
    dataset: str
    samples: int
    #: How images are made ready: normalised by, resized by, and the stride of windows as a share of the model's size; None for
    #: images of their own size, or taken whole. At a size the windows follow from this and the model's size.
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resized: str | None
    slide: float | None
    device: str
    dtype: str
    #: Of the models' code, and of the data, which is one for scenes of all sizes; None where they were not recorded.
    model_digest: str | None
    data_digest: str | None


@dataclass(frozen=True)
class SegmentationLine:
    """One line over its seeds.

    Attributes:
        label: its name.
        runs: the newest of each seed.
        miou: mean intersection over union, a fraction.
        pixel_accuracy: a fraction.
        loss: mean cross-entropy over labelled pixels.
        iou: by class; None for a class that no seed's masks and predictions hold.
        train_seconds: of training, evaluation apart.
    """

    label: str
    runs: tuple[DenseRow, ...]
    miou: Interval
    pixel_accuracy: Interval
    loss: Interval
    iou: Mapping[str, Interval | None]
    train_seconds: Interval


@dataclass(frozen=True)
class SegmentationResult:
    """The runs of one setting.

    Attributes:
        setting: what the lines share.
        lines: one for each mixer with its factors.
        family: each line's miou against the baseline.
        repeats: how many rows were left out, since a later one is of the same line and seed.
    """

    setting: SegmentationSetting
    lines: tuple[SegmentationLine, ...]
    family: SeedFamily
    repeats: int = 0


@dataclass(frozen=True)
class SizesLine:
    """One line's miou by the size of the images, smallest first; and the evaluations behind it."""

    label: str
    miou: Mapping[Size, Interval]
    rows: Mapping[Size, tuple[DenseEvalRow, ...]]


@dataclass(frozen=True)
class SizesResult:
    """The same weights on images of several sizes.

    Attributes:
        setting: what the lines share.
        lines: by name.
        families: each line against the baseline, by size.
        repeats: how many rows were left out, since a later one is of the same line, size and seed.
    """

    setting: SizesSetting
    lines: tuple[SizesLine, ...]
    families: Mapping[Size, SeedFamily]
    repeats: int = 0

    @property
    def sizes(self) -> list[Size]:
        """All sizes, smallest first."""
        return list(self.families)


def segmentations(rows: Iterable[AnyRow], baseline: str = BASELINE) -> tuple[SegmentationResult, ...]:
    """The training runs, one result for each setting.

    Args:
        rows: the records; runs that were judged on validation images are trials, and left out.
        baseline: the name of the line that the others are held against.
    """
    groups = group((row for row in rows if isinstance(row, DenseRow) and row.validation is None), _setting)
    made = []
    for setting in sorted_keys(groups):
        runs = _newest(groups[setting])
        lines = tuple(_line(name, seeds) for name, seeds in runs.items())
        repeats = len(groups[setting]) - sum(map(len, runs.values()))
        made.append(SegmentationResult(setting, lines, _family(runs, baseline), repeats))
    return tuple(made)


def segmentation_sizes(rows: Iterable[AnyRow], baseline: str = BASELINE) -> tuple[SizesResult, ...]:
    """The evaluations of runs at other image sizes, one result for each setting; arguments as in `segmentations`."""
    groups = group((row for row in rows if isinstance(row, DenseEvalRow)), _sizes_setting)
    return tuple(_sizes_result(setting, groups[setting], baseline) for setting in sorted_keys(groups))


def _sizes_result(setting: SizesSetting, rows: Sequence[DenseEvalRow], baseline: str) -> SizesResult:
    by_size = {size: _newest(found) for size, found in sorted(group(rows, lambda row: row.image_size).items())}
    names = sorted({name for lines in by_size.values() for name in lines})
    of_line = {name: {size: lines[name] for size, lines in by_size.items() if name in lines} for name in names}
    return SizesResult(
        setting,
        tuple(
            SizesLine(name, {size: over_seeds([row.miou for row in seeds]) for size, seeds in found.items()}, found)
            for name, found in of_line.items()
        ),
        {size: _family(lines, baseline) for size, lines in by_size.items()},
        len(rows) - sum(len(seeds) for lines in by_size.values() for seeds in lines.values()),
    )


def _newest(rows: Sequence[H]) -> dict[str, tuple[H, ...]]:
    named = lines_by_code(rows)
    return {name: tuple(latest(members, lambda row: row.seed)) for name, members in sorted(named.items())}


def _family(runs: Mapping[str, Sequence[DenseRow | DenseEvalRow]], baseline: str) -> SeedFamily:
    values = {name: {row.seed: row.miou for row in seeds} for name, seeds in runs.items()}
    of_all = [row for seeds in runs.values() for row in seeds]
    return compare_seeds(values, baseline, "more", is_paired=is_paired_design(of_all))


def _line(name: str, runs: Sequence[DenseRow]) -> SegmentationLine:
    by_class = {
        found: [value for run in runs if (value := run.iou[place]) is not None] for place, found in enumerate(runs[0].classes)
    }
    return SegmentationLine(
        name,
        tuple(runs),
        miou=over_seeds([run.miou for run in runs]),
        pixel_accuracy=over_seeds([run.pixel_accuracy for run in runs]),
        loss=over_seeds([run.loss for run in runs]),
        iou={found: over_seeds(values) if values else None for found, values in by_class.items()},
        train_seconds=over_seeds([run.train_seconds for run in runs]),
    )


def _setting(row: DenseRow) -> SegmentationSetting:
    named = {name: getattr(row, name) for name in SegmentationSetting._fields if name not in ("digest", "device")}
    return SegmentationSetting(**named, digest=row.recipe_digest, device=row.environment.device)


def _sizes_setting(row: DenseEvalRow) -> SizesSetting:
    named = {name: getattr(row, name) for name in SizesSetting._fields if name not in ("digest", "device")}
    return SizesSetting(**named, digest=row.recipe_digest, device=row.environment.device)
