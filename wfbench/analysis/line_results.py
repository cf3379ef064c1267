"""Lines over their seeds: which runs are one line, and its means with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group
from wfbench.analysis.seed_differences import over_seeds
from wfbench.records import TrainRow


class LineIdentity(NamedTuple):
    """What the runs of one line share: within a mean, only the seed differs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    every: int | None
    offset: int | None
    between: str | None
    recipe_digest: str
    weights: str
    pretraining: str
    batch: int
    steps: int
    parameters: int
    samples: int
    #: The rate that a sweep chose for the line; None for the recipe's own.
    rate: float | None
    #: Of the code of the mixer's layers, and of the models around them; None where it was not recorded.
    mixer_digest: str | None
    model_digest: str | None


@dataclass(frozen=True, eq=False)
class LineResult:
    """One line: its runs, and what they give over the seeds.

    Attributes:
        identity: what its runs share.
        label: its name within the result.
        seeds: the run of each seed, in the order of the seeds; of a seed that ran twice the latest.
        accuracy: top-1 as a fraction, the mean over the seeds.
        top5: likewise; None where a run has none.
        loss: held-out loss, the mean over the seeds.
        images_per_second: of training.
        data_wait_share: the share of the training time spent waiting for data.
        train_seconds: of training, evaluation apart.
    """

    identity: LineIdentity
    label: str
    seeds: tuple[TrainRow, ...]
    accuracy: Interval
    top5: Interval | None
    loss: Interval
    images_per_second: Interval
    data_wait_share: Interval
    train_seconds: Interval

    @property
    def last(self) -> TrainRow:
        """The newest run."""
        return max(self.seeds, key=lambda row: row.created)

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each seed."""
        return [row.accuracy for row in self.seeds]


class Recipe(NamedTuple):
    """What lines share that are compared with one another."""

    model: str
    recipe_digest: str
    weights: str
    pretraining: str
    batch: int
    steps: int
    samples: int
    model_digest: str | None


def identity_of(row: TrainRow) -> LineIdentity:
    """The line that a run belongs to."""
    rate = row.chosen.lr if row.chosen is not None and row.chosen.rates else None
    return LineIdentity(**{field: getattr(row, field) for field in LineIdentity._fields if field != "rate"}, rate=rate)


def recipe_of(identity: LineIdentity) -> Recipe:
    """The recipe that a line was trained by."""
    return Recipe(*(getattr(identity, field) for field in Recipe._fields))


def line_result(identity: LineIdentity, name: str, seeds: Sequence[TrainRow]) -> LineResult:
    """A line from the runs of its seeds, in their order."""

    def mean(value: Callable[[TrainRow], float], samples: int | None = None) -> Interval:
        return over_seeds([value(row) for row in seeds], samples)

    is_top5_known = all(row.top5 is not None for row in seeds)
    return LineResult(
        identity,
        name,
        tuple(seeds),
        accuracy=mean(lambda row: row.accuracy, identity.samples),
        top5=mean(lambda row: row.top5 or 0.0, identity.samples) if is_top5_known else None,
        loss=mean(lambda row: row.loss),
        images_per_second=mean(lambda row: row.images_per_second),
        data_wait_share=mean(lambda row: row.data_wait_share),
        train_seconds=mean(lambda row: row.train_seconds),
    )


#: What distinguishes lines with the same label, in the order in which it is looked for, and the words before its value.
_APART = {
    "model": "in ",
    "weights": "weights ",
    "pretraining": "pretraining ",
    "recipe_digest": "recipe ",
    "steps": "steps ",
    "batch": "batch ",
    "rate": "rate ",
    "mixer_digest": "code ",
    "model_digest": "models' code ",
    "parameters": "parameters ",
}


def names(lines: Sequence[LineResult]) -> dict[LineResult, str]:
    """What each line is called where its label is all that is said of it: with what differs, where labels are the same."""
    called: dict[LineResult, str] = {}
    for label, same in group(lines, lambda line: line.label).items():
        apart: dict[LineResult, tuple[str, ...]] = dict.fromkeys(same, ())
        for field, words in _APART.items():
            if len(set(apart.values())) < len(same) > 1 and len({getattr(line.identity, field) for line in same}) > 1:
                apart = {line: (*parts, f"{words}{getattr(line.identity, field)}") for line, parts in apart.items()}
        called |= {line: " ".join([label, ", ".join(parts)]).strip() for line, parts in apart.items()}
    return called
