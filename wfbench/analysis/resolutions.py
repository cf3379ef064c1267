"""What trained weights reach on images of other sizes than their own, on other data or with other labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from wfbench.analysis.cells import Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, label, latest, sorted_keys
from wfbench.analysis.seed_differences import over_seeds
from wfbench.records import AnyRow, EvalRow


class EvaluationSetting(NamedTuple):
    """What the evaluations of one result share."""

    dataset: str
    #: None for a file of weights.
    recipe: str | None
    #: The image size that the model was built for.
    trained_size: Size
    #: "raw", "ema" or "file".
    weights: str
    eval_resize: str
    #: The share of the resized image's side that is left after the crop of its centre.
    eval_crop: float
    #: As the images were normalised, and resized; the latter is None where it was not recorded.
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None
    #: The file of other labels, and the SHA-256 of what it holds; None for the data set's own, or where it was not recorded.
    mapping: str | None
    mapping_sha256: str | None
    device: str
    dtype: str
    #: Of the data's classes, files and split; None where it was not recorded.
    data_digest: str | None


class EvaluatedLine(NamedTuple):
    """What the evaluations of one line share: within a mean, only the seed differs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    every: int | None
    offset: int | None
    between: str | None
    #: Of a run its recipe's digest, of a file the start of the hash of its weights.
    trained_as: str
    samples: int
    #: Of the code of the mixer's layers, and of the models around them; None where it was not recorded.
    mixer_digest: str | None
    model_digest: str | None


@dataclass(frozen=True, eq=False)
class SizeResult:
    """A line's accuracy at one image size.

    Attributes:
        line: the line.
        size: of the images.
        seeds: the evaluation of each seed; of the same weights evaluated twice the newest. A file of weights has no seed.
        accuracy: top-1 as a fraction, the mean over the seeds.
        top5: likewise; None where an evaluation has none.
    """

    line: EvaluatedLine
    size: Size
    seeds: tuple[EvalRow, ...]
    accuracy: Interval
    top5: Interval | None


@dataclass(frozen=True, eq=False)
class ResolutionLine:
    """A line's accuracy by image size, smallest first.

    Attributes:
        identity: what its evaluations share.
        label: its name.
        sizes: its accuracy at each size that it was evaluated at.
    """

    identity: EvaluatedLine
    label: str
    sizes: Mapping[Size, SizeResult]

    @property
    def seed_counts(self) -> list[int]:
        """The numbers of seeds at the sizes, each once, in order."""
        return sorted({len(found.seeds) for found in self.sizes.values()})


@dataclass(frozen=True, eq=False)
class ResolutionResult:
    """The evaluations of one setting.

    Attributes:
        setting: what they share.
        lines: in the order of their identities.
        sizes: all image sizes, in order.
        rows: all evaluations.
        repeats: how many rows were left out, since a later one is of the same weights and size.
        is_data_named: whether the title names the data's digest, since another result differs in it alone.
    """

    setting: EvaluationSetting
    lines: tuple[ResolutionLine, ...]
    sizes: tuple[Size, ...]
    rows: tuple[EvalRow, ...]
    repeats: int = 0
    is_data_named: bool = False


def resolutions(rows: Sequence[AnyRow]) -> tuple[ResolutionResult, ...]:
    """Accuracy by the size of the images: a result for each kind of evaluation."""
    groups = group((row for row in rows if isinstance(row, EvalRow)), evaluation_setting_of)
    alike = Counter(setting._replace(data_digest=None) for setting in groups)
    return tuple(
        replace(_result(setting, groups[setting]), is_data_named=alike[setting._replace(data_digest=None)] > 1)
        for setting in sorted_keys(groups)
    )


def evaluation_setting_of(row: EvalRow) -> EvaluationSetting:
    """The setting of an evaluation."""
    plain = {field: getattr(row, field) for field in EvaluationSetting._fields if field != "device"}
    return EvaluationSetting(**plain, device=row.environment.device)


def _result(setting: EvaluationSetting, rows: Sequence[EvalRow]) -> ResolutionResult:
    groups = group(rows, _line_of)
    lines = []
    for identity in sorted_keys(groups):
        by_size = group(groups[identity], lambda row: row.image_size)
        sizes = {size: _at_size(identity, size, by_size[size]) for size in sorted(by_size)}
        lines.append(ResolutionLine(identity, label(identity), sizes))
    repeats = len(rows) - sum(len(found.seeds) for line in lines for found in line.sizes.values())
    return ResolutionResult(setting, tuple(lines), tuple(sorted({row.image_size for row in rows})), tuple(rows), repeats)


def _line_of(row: EvalRow) -> EvaluatedLine:
    trained_as = row.recipe_digest or row.weights_sha256[:12]
    own = row.model, row.mixer, row.local_conv, row.pos_embed, row.every, row.offset, row.between, trained_as, row.samples
    return EvaluatedLine(*own, row.mixer_digest, row.model_digest)


def _at_size(line: EvaluatedLine, size: Size, rows: Sequence[EvalRow]) -> SizeResult:
    seeds = latest(rows, lambda row: -1 if row.seed is None else row.seed)
    top5 = [row.top5 for row in seeds if row.top5 is not None]
    return SizeResult(
        line,
        size,
        tuple(seeds),
        accuracy=over_seeds([row.accuracy for row in seeds], line.samples),
        top5=over_seeds(top5, line.samples) if len(top5) == len(seeds) else None,
    )
