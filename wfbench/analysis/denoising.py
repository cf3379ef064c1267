"""Denoisers: held-out losses, and scores of samples, which stand together by protocol alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wfbench.analysis.lines import group, label, latest, sorted_keys
from wfbench.records import AnyRow, DiTRow, ScoreRow


class LossSetting(NamedTuple):
    """What the lines of one table of held-out losses share."""

    recipe: str
    digest: str
    dataset: str
    space: str
    model: str
    image_size: tuple[int, int]
    weights: str
    noise_seed: int
    samples: int
    dtype: str
    pretraining: str


class Protocol(NamedTuple):
    """What the lines of one table of scores share: no two protocols stand in one table."""

    recipe: str
    digest: str
    dataset: str
    model: str
    image_size: tuple[int, int]
    weights: str
    sampler: str
    steps: int
    cfg: float
    cfg_channels: int | None
    decoder: str
    dtype: str
    sample_seed: int


class Metric(NamedTuple):
    """What lines of one protocol must also share to be compared."""

    name: str
    #: How many samples were scored.
    samples: int
    extractor_sha256: str
    reference: str


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and the standard deviation of more than one."""

    value: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of one value or more."""
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None)
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)))


class Bin(NamedTuple):
    """The steps of noise ``first`` ≤ t ≤ ``last`` over which a part of the loss is averaged."""

    first: int
    last: int


@dataclass(frozen=True)
class LossLine:
    """The held-out losses of one line.

    Attributes:
        label: the line's name.
        runs: the newest of each seed.
        loss: after the last epoch, mse + vb.
        best_loss: the mean of each run's best epoch, for information.
        mse: by bin of t, mean over the seeds.
        vb: by bin of t, mean over the seeds, in bits per dimension.
        train_seconds: mean over the seeds.
    """

    label: str
    runs: tuple[DiTRow, ...]
    loss: Mean
    best_loss: float
    mse: dict[Bin, float]
    vb: dict[Bin, float]
    mean_vb: float
    train_seconds: float


@dataclass(frozen=True)
class Losses:
    """The held-out losses of one setting, a line for each mixer with its factors."""

    setting: LossSetting
    lines: tuple[LossLine, ...]

    @property
    def runs(self) -> list[DiTRow]:
        """All runs, line by line."""
        return [run for line in self.lines for run in line.runs]


@dataclass(frozen=True)
class ScoreLine:
    """One score of one line: the newest row of each seed, and the mean of their values."""

    label: str
    metric: Metric
    rows: tuple[ScoreRow, ...]
    value: Mean


@dataclass(frozen=True)
class Scores:
    """The scores of one protocol, metric by metric."""

    protocol: Protocol
    lines: tuple[ScoreLine, ...]


def held_out_losses(rows: Iterable[AnyRow]) -> tuple[Losses, ...]:
    """The losses of the trained denoisers, one result for each setting."""
    groups = group((row for row in rows if isinstance(row, DiTRow)), _loss_setting)
    made = []
    for setting in sorted_keys(groups):
        newest = latest(groups[setting], lambda row: (label(row), row.seed))
        lines = tuple(_loss_line(name, runs) for name, runs in sorted(group(newest, label).items()))
        made.append(Losses(setting, lines))
    return tuple(made)


def sample_scores(rows: Iterable[AnyRow]) -> tuple[Scores, ...]:
    """The scores of samples, one result for each protocol."""
    groups = group((row for row in rows if isinstance(row, ScoreRow)), _protocol)
    made = []
    for protocol in sorted_keys(groups):
        newest = latest(groups[protocol], lambda row: (_metric(row), label(row), row.seed))
        lines = [
            ScoreLine(name, metric, tuple(seeds), Mean.of([row.value for row in seeds]))
            for metric, scores in group(newest, _metric).items()
            for name, seeds in sorted(group(scores, label).items())
        ]
        made.append(Scores(protocol, tuple(lines)))
    return tuple(made)


def _loss_line(name: str, runs: Sequence[DiTRow]) -> LossLine:
    edges = runs[0].edges
    bins = [Bin(low, high - 1) for low, high in zip(edges, edges[1:], strict=False)]
    return LossLine(
        label=name,
        runs=tuple(runs),
        loss=Mean.of([run.loss for run in runs]),
        best_loss=Mean.of([run.best_loss for run in runs]).value,
        mse={found: Mean.of([run.mse[place] for run in runs]).value for place, found in enumerate(bins)},
        vb={found: Mean.of([run.vb[place] for run in runs]).value for place, found in enumerate(bins)},
        mean_vb=Mean.of([sum(run.vb) / len(bins) for run in runs]).value,
        train_seconds=Mean.of([run.train_seconds for run in runs]).value,
    )


def _loss_setting(row: DiTRow) -> LossSetting:
    return LossSetting(
        row.recipe,
        row.recipe_digest,
        row.dataset,
        row.space,
        row.model,
        row.image_size,
        row.weights,
        row.noise_seed,
        row.samples,
        row.dtype,
        row.pretraining,
    )


def _protocol(row: ScoreRow) -> Protocol:
    return Protocol(
        row.recipe,
        row.recipe_digest,
        row.dataset,
        row.model,
        row.image_size,
        row.weights,
        row.sampler,
        row.steps,
        row.cfg,
        row.cfg_channels,
        row.decoder,
        row.dtype,
        row.sample_seed,
    )


def _metric(row: ScoreRow) -> Metric:
    return Metric(row.metric, row.samples, row.extractor_sha256, row.reference)
