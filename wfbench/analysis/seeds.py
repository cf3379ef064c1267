"""Lines over their seeds: mean accuracies with intervals, and every line against the baseline of its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wfbench.analysis import unpaired
from wfbench.analysis.asked import Asked
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, label, latest, sorted_keys
from wfbench.analysis.unpaired import Sided, against_baseline, mean_interval
from wfbench.errors import InputError
from wfbench.records import AnyRow, BaselineRow, TrainRow

SINGLE_SEED = "a single seed"


class SweepRule(NamedTuple):
    """What a sweep made equal for all lines; "" or 0 for what it did not."""

    #: "params" or "macs", and the line whose budget the others were matched to.
    match: str
    match_to: str
    #: How many learning rates were tried for each line.
    trials: int


class AccuracySetting(NamedTuple):
    """What the lines of one accuracy result share."""

    dataset: str
    recipe: str
    image_size: tuple[int, int]
    epochs: int
    device: str
    dtype: str
    #: None for runs that no sweep matched or tuned.
    rule: SweepRule | None


class LineIdentity(NamedTuple):
    """What the runs of one line share: within a mean, only the seed differs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    recipe_digest: str
    weights: str
    pretraining: str
    batch: int
    steps: int
    parameters: int
    samples: int
    #: The rate that a sweep chose for the line; None for the recipe's own.
    rate: float | None


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


@dataclass(frozen=True)
class Comparison:
    """One line against the baseline of its recipe, as one of a family.

    Attributes:
        difference: line minus baseline, a fraction; the intervals of a family hold at once with the probability of their level.
        sided: what the test says; "not distinguishable" is no evidence of equality.
        p: of the two-sided test, adjusted for the family.
        relevant: the true difference that ``power`` is given for.
        power: the probability of finding a true difference of ``relevant``.
        detectable: the true difference that is found with the probability `unpaired.ENOUGH_POWER`.
        margin: of equivalence; None where none was stated.
        p_equivalent: of the two one-sided tests within ± the margin, adjusted for the family.
        power_equivalent: the least probability of showing equivalence where there is no difference at all.
        equivalent: whether the two one-sided tests show that the true difference is smaller than the margin.
    """

    difference: Interval
    sided: Sided
    p: float
    relevant: float
    power: float
    detectable: float
    margin: float | None
    p_equivalent: float | None
    power_equivalent: float | None
    equivalent: bool


@dataclass(frozen=True, eq=False)
class RecipeFamily:
    """The lines of one recipe, and what comparing them with its baseline gave.

    Attributes:
        members: all lines of the recipe.
        baseline: the line that the others are compared with; None where nothing is compared.
        comparisons: by line; empty where nothing is compared. Lines of a single seed have none.
        why_none: why nothing is compared although some line has several seeds; "" otherwise.
        deviation: the standard deviation over seeds that all comparisons use, pooled within the lines; a fraction.
        freedom: its degrees of freedom.
        p_spread: of the test that all lines spread alike, which pooling assumes; None where it cannot be tested.
    """

    members: tuple[LineIdentity, ...]
    baseline: LineIdentity | None = None
    comparisons: Mapping[LineIdentity, Comparison] | None = None
    why_none: str = ""
    deviation: float | None = None
    freedom: int | None = None
    p_spread: float | None = None


@dataclass(frozen=True, eq=False)
class AccuracyResult:
    """The accuracies of one setting.

    Attributes:
        dataset: what was learned.
        setting: what the lines share; None where there are only simple classifiers.
        asked: the baseline and the margin.
        lines: by model, then by label.
        simple_classifiers: of the same data set, by name; the latest row of each.
        families: the comparisons within each recipe.
        repeats: how many rows were left out, since a later one is of the same line and seed.
    """

    dataset: str
    setting: AccuracySetting | None
    asked: Asked
    lines: tuple[LineResult, ...] = ()
    simple_classifiers: tuple[BaselineRow, ...] = ()
    families: tuple[RecipeFamily, ...] = ()
    repeats: int = 0

    @property
    def runs(self) -> list[TrainRow]:
        """The runs of all lines."""
        return [row for line in self.lines for row in line.seeds]

    @property
    def is_compared(self) -> bool:
        """Whether any line is compared with a baseline."""
        return any(family.comparisons for family in self.families)

    def family(self, line: LineResult) -> RecipeFamily:
        """The family that a line belongs to."""
        return next(family for family in self.families if line.identity in family.members)

    def comparison(self, line: LineResult) -> Comparison | None:
        """A line against its baseline; None where it is the baseline, or is not compared."""
        return (self.family(line).comparisons or {}).get(line.identity)


def accuracies(rows: Sequence[AnyRow], asked: Asked) -> tuple[AccuracyResult, ...]:
    """What the training runs reached: a result for each setting, then those of data sets with simple classifiers alone.

    Args:
        rows: the records; runs that were judged on validation images are trials, and left out.
        asked: the baseline and the margin of the comparisons.
    """
    trained = group((row for row in rows if isinstance(row, TrainRow) and row.validation is None), setting_of)
    simple = group((row for row in rows if isinstance(row, BaselineRow)), lambda row: row.dataset)
    settings = sorted_keys(trained)
    alone = sorted(simple.keys() - {setting.dataset for setting in settings})
    return (
        *(_result(setting, trained[setting], simple.get(setting.dataset, ()), asked) for setting in settings),
        *(AccuracyResult(dataset, None, asked, simple_classifiers=_latest_by_name(simple[dataset])) for dataset in alone),
    )


def setting_of(row: TrainRow) -> AccuracySetting:
    """The setting of a run."""
    chosen, rule = row.chosen, None
    if chosen is not None:
        rule = SweepRule(chosen.match or "", chosen.match_to or "", len(chosen.rates or ()))
    return AccuracySetting(row.dataset, row.recipe, row.image_size, row.epochs, row.environment.device, row.dtype, rule)


def identity_of(row: TrainRow) -> LineIdentity:
    """The line that a run belongs to."""
    rate = row.chosen.lr if row.chosen is not None and row.chosen.rates else None
    return LineIdentity(**{field: getattr(row, field) for field in LineIdentity._fields if field != "rate"}, rate=rate)


def over_seeds(values: Sequence[float]) -> Interval:
    """The mean with its 95% t-interval; a single value has none."""
    mean, half_width = mean_interval(values)
    return Interval(mean, why_none=SINGLE_SEED) if half_width is None else Interval.around(mean, half_width)


def _result(setting: AccuracySetting, rows: Sequence[TrainRow], simple: Sequence[BaselineRow], asked: Asked) -> AccuracyResult:
    groups = group(rows, identity_of)
    # Where positions differ all are named, but for the learned one.
    differ = len({identity.pos_embed for identity in groups}) > 1
    labels = {identity: label(identity, all_positions=differ) for identity in groups}
    order = sorted(groups, key=lambda line: (line.model, labels[line], line._replace(rate=0.0), line.rate or 0.0))
    lines = tuple(_line(identity, labels[identity], latest(groups[identity], lambda row: row.seed)) for identity in order)
    return AccuracyResult(
        setting.dataset,
        setting,
        asked,
        lines,
        _latest_by_name(simple),
        _families(lines, asked),
        len(rows) - sum(len(line.seeds) for line in lines),
    )


def _latest_by_name(rows: Sequence[BaselineRow]) -> tuple[BaselineRow, ...]:
    return tuple(latest(rows, lambda row: row.name))


def _line(identity: LineIdentity, name: str, seeds: Sequence[TrainRow]) -> LineResult:
    def mean(value: Callable[[TrainRow], float]) -> Interval:
        return over_seeds([value(row) for row in seeds])

    return LineResult(
        identity,
        name,
        tuple(seeds),
        accuracy=mean(lambda row: row.accuracy),
        top5=mean(lambda row: row.top5 or 0.0) if all(row.top5 is not None for row in seeds) else None,
        loss=mean(lambda row: row.loss),
        images_per_second=mean(lambda row: row.images_per_second),
        data_wait_share=mean(lambda row: row.data_wait_share),
        train_seconds=mean(lambda row: row.train_seconds),
    )


def _families(lines: Sequence[LineResult], asked: Asked) -> tuple[RecipeFamily, ...]:
    """Lines of another recipe, of other weights or on other samples are not compared with one another."""

    def recipe(line: LineResult) -> tuple[object, ...]:
        own = line.identity
        return own.model, own.recipe_digest, own.weights, own.pretraining, own.batch, own.steps, own.samples

    recipes = dict.fromkeys(map(recipe, lines))
    return tuple(_family([line for line in lines if recipe(line) == own], asked) for own in recipes)


def _family(lines: Sequence[LineResult], asked: Asked) -> RecipeFamily:
    """Compare lines of one recipe with the baseline among them."""
    members = tuple(line.identity for line in lines)
    several = {line.identity: line.accuracies for line in lines if len(line.seeds) > 1}
    found = [line.identity for line in lines if line.label == asked.baseline]
    if not several or (len(several) == 1 and several.keys() == set(found)):
        return RecipeFamily(members)
    if len(found) != 1 or found[0] not in several:
        why = {0: "there is no such line", 1: "it has a single seed"}.get(len(found), "there are several of that name")
        return RecipeFamily(members, why_none=why)
    others = {identity: values for identity, values in several.items() if identity != found[0]}
    try:
        family = against_baseline(list(others.values()), several[found[0]], relevant=asked.effect, margin=asked.margin)
    except InputError as e:
        return RecipeFamily(members, why_none=str(e).splitlines()[0])
    return RecipeFamily(
        members,
        found[0],
        {identity: _comparison(c) for identity, c in zip(others, family.comparisons, strict=True)},
        "",
        family.deviation,
        family.freedom,
        family.p_spread,
    )


def _comparison(c: unpaired.Comparison) -> Comparison:
    return Comparison(
        difference=Interval(c.difference, c.low, c.high),
        sided=c.sided,
        p=c.p,
        relevant=c.relevant,
        power=c.power,
        detectable=c.detectable,
        margin=c.margin,
        p_equivalent=c.p_equivalent,
        power_equivalent=c.power_equivalent,
        equivalent=c.equivalent,
    )
