"""Denoisers: held-out losses, and scores of samples, which stand together by protocol alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from wfbench.analysis.design import is_paired_design
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import BASELINE, group, latest, lines_by_code, sorted_keys
from wfbench.analysis.seed_differences import Better, SeedFamily, compare_seeds, over_seeds
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
    #: Of the models' code and of the data; None where they were not recorded.
    model_digest: str | None
    data_digest: str | None


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
    model_digest: str | None
    data_digest: str | None


class Metric(NamedTuple):
    """What lines of one protocol must also share to be compared."""

    name: str
    #: How many samples were scored.
    samples: int
    extractor_sha256: str
    reference: str


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
        loss: after the last epoch, mse + vb: the mean over the seeds.
        loss_deviation: its standard deviation over the seeds; None of a single one.
        best_loss: the mean of each run's best epoch, for information.
        mse: by bin of t, mean over the seeds.
        vb: by bin of t, mean over the seeds, in bits per dimension.
        train_seconds: mean over the seeds.
    """

    label: str
    runs: tuple[DiTRow, ...]
    loss: Interval
    loss_deviation: float | None
    best_loss: float
    mse: dict[Bin, Interval]
    vb: dict[Bin, Interval]
    mean_vb: Interval
    train_seconds: Interval


@dataclass(frozen=True)
class Losses:
    """The held-out losses of one setting.

    Attributes:
        setting: what the lines share.
        lines: one for each mixer with its factors.
        family: each line against the baseline; less is better.
    """

    setting: LossSetting
    lines: tuple[LossLine, ...]
    family: SeedFamily

    @property
    def runs(self) -> list[DiTRow]:
        """All runs, line by line."""
        return [run for line in self.lines for run in line.runs]


@dataclass(frozen=True)
class ScoreLine:
    """One score of one line.

    Attributes:
        label: the line's name.
        metric: the score.
        rows: the newest of each seed.
        value: the mean over the seeds.
        deviation: its standard deviation over the seeds; None of a single one.
        family: the lines of this metric against the baseline.
    """

    label: str
    metric: Metric
    rows: tuple[ScoreRow, ...]
    value: Interval
    deviation: float | None
    family: SeedFamily


@dataclass(frozen=True)
class Scores:
    """The scores of one protocol, metric by metric."""

    protocol: Protocol
    lines: tuple[ScoreLine, ...]


#: Which values of a score are better. Of copies of training images neither: few are as suspicious of a bad model as many.
_BETTER: dict[str, Better] = {
    **dict.fromkeys(("FID", "proxy-FD"), "less"),
    **dict.fromkeys(("IS", "precision", "recall", "proxy precision", "proxy recall", "class agreement"), "more"),
    **dict.fromkeys(("memorisation ratio", "memorised share"), "neither"),
}
#: Scores that are shares of the samples: their intervals are never narrower than the binomial one of so many samples.
SHARES_OF_SAMPLES = ("precision", "proxy precision", "class agreement", "memorised share")


def held_out_losses(rows: Iterable[AnyRow], baseline: str = BASELINE) -> tuple[Losses, ...]:
    """The losses of the trained denoisers, one result for each setting.

    Args:
        rows: the records; runs that were judged on validation images are trials, and left out.
        baseline: the name of the line that the others are held against.
    """
    groups = group((row for row in rows if isinstance(row, DiTRow) and row.validation is None), _loss_setting)
    made = []
    for setting in sorted_keys(groups):
        named = lines_by_code(groups[setting])
        runs = {name: latest(members, lambda row: row.seed) for name, members in sorted(named.items())}
        values = {name: {run.seed: run.loss for run in seeds} for name, seeds in runs.items()}
        paired = is_paired_design(run for seeds in runs.values() for run in seeds)
        family = compare_seeds(values, baseline, "less", is_paired=paired)
        made.append(Losses(setting, tuple(_loss_line(name, seeds) for name, seeds in runs.items()), family))
    return tuple(made)


def sample_scores(rows: Iterable[AnyRow], baseline: str = BASELINE) -> tuple[Scores, ...]:
    """The scores of samples, one result for each protocol. Arguments as in `held_out_losses`."""
    groups = group((row for row in rows if isinstance(row, ScoreRow)), _protocol)
    made = []
    for protocol in sorted_keys(groups):
        metrics = group(groups[protocol], _metric)
        lines = [line for metric in sorted(metrics) for line in _score_lines(metric, metrics[metric], baseline)]
        made.append(Scores(protocol, tuple(lines)))
    return tuple(made)


def _score_lines(metric: Metric, rows: Sequence[ScoreRow], baseline: str) -> Iterator[ScoreLine]:
    """The lines of one score, in the order of their names."""
    named = {name: latest(members, lambda row: row.seed) for name, members in sorted(lines_by_code(rows).items())}
    values = {name: {row.seed: row.value for row in seeds} for name, seeds in named.items()}
    # The version of a score's row is that of the scoring: that of the training shows in the digest, which older runs lack.
    of_runs = [row for seeds in named.values() for row in seeds]
    paired = is_paired_design(of_runs) and all(row.mixer_digest is not None for row in of_runs)
    family = compare_seeds(values, baseline, _BETTER[metric.name], is_paired=paired)
    samples = metric.samples if metric.name in SHARES_OF_SAMPLES else None
    for name, seeds in named.items():
        found = [row.value for row in seeds]
        yield ScoreLine(name, metric, tuple(seeds), over_seeds(found, samples), _deviation(found), family)


def _loss_line(name: str, runs: Sequence[DiTRow]) -> LossLine:
    edges = runs[0].edges
    bins = [Bin(low, high - 1) for low, high in zip(edges, edges[1:], strict=False)]
    losses = [run.loss for run in runs]
    return LossLine(
        label=name,
        runs=tuple(runs),
        loss=over_seeds(losses),
        loss_deviation=_deviation(losses),
        best_loss=_mean([run.best_loss for run in runs]),
        mse={found: over_seeds([run.mse[place] for run in runs]) for place, found in enumerate(bins)},
        vb={found: over_seeds([run.vb[place] for run in runs]) for place, found in enumerate(bins)},
        mean_vb=over_seeds([sum(run.vb) / len(bins) for run in runs]),
        train_seconds=over_seeds([run.train_seconds for run in runs]),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of several values."""
    if len(values) == 1:
        return None
    return math.sqrt(math.fsum((value - _mean(values)) ** 2 for value in values) / (len(values) - 1))


def _loss_setting(row: DiTRow) -> LossSetting:
    return LossSetting(digest=row.recipe_digest, **_shared(row, LossSetting))


def _protocol(row: ScoreRow) -> Protocol:
    return Protocol(digest=row.recipe_digest, **_shared(row, Protocol))


def _shared(row: DiTRow | ScoreRow, key: type[LossSetting] | type[Protocol]) -> dict[str, Any]:
    """The fields of a key that the row has under the same name: all but the digest."""
    return {name: getattr(row, name) for name in key._fields if name != "digest"}


def _metric(row: ScoreRow) -> Metric:
    return Metric(row.metric, row.samples, row.extractor_sha256, row.reference)
