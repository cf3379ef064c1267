"""Accuracies: the lines of each setting over their seeds, every line against the baseline of its recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from wfbench.analysis.asked import Asked
from wfbench.analysis.differences import Comparison, RecipeFamily, families
from wfbench.analysis.line_results import LineResult, identity_of, line_result
from wfbench.analysis.lines import group, label, latest, sorted_keys
from wfbench.records import AnyRow, BaselineRow, TrainRow

_USUALLY_SHARED = ("recipe_digest", "weights", "pretraining", "batch", "steps", "model_digest")


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
    #: Of the data's classes, files and split; None where it was not recorded.
    data_digest: str | None


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
        is_data_named: whether the title names the data's digest, since another result differs in it alone.
    """

    dataset: str
    setting: AccuracySetting | None
    asked: Asked
    lines: tuple[LineResult, ...] = ()
    simple_classifiers: tuple[BaselineRow, ...] = ()
    families: tuple[RecipeFamily, ...] = ()
    repeats: int = 0
    is_data_named: bool = False

    @property
    def runs(self) -> list[TrainRow]:
        """The runs of all lines."""
        return [row for line in self.lines for row in line.seeds]

    @property
    def varying_fields(self) -> list[str]:
        """The fields of their identities in which lines differ although the lines of a result usually share them.

        Mixers differ in their code as they should; it is among them where it alone tells two lines apart.
        """
        identities = [line.identity for line in self.lines]
        varying = [field for field in _USUALLY_SHARED if len({getattr(identity, field) for identity in identities}) > 1]
        apart_by_code = len({identity._replace(mixer_digest=None) for identity in identities}) < len(identities)
        return [*varying, *(["mixer_digest"] if apart_by_code else [])]

    @property
    def is_compared(self) -> bool:
        """Whether any line is compared with a baseline."""
        return any(family.comparisons for family in self.families)

    def family(self, line: LineResult) -> RecipeFamily:
        """The family that a line belongs to."""
        return next(family for family in self.families if line.identity in family.members)

    def comparison(self, line: LineResult) -> Comparison | None:
        """A line against its baseline; None where it is the baseline, or is not compared."""
        return self.family(line).comparisons.get(line.identity)


def accuracies(rows: Sequence[AnyRow], asked: Asked) -> tuple[AccuracyResult, ...]:
    """What the training runs reached: a result for each setting, then those of data sets with simple classifiers alone.

    Args:
        rows: the records; runs that were judged on validation images are trials, and left out.
        asked: the baseline and the margin of the comparisons.
    """
    trained = group((row for row in rows if isinstance(row, TrainRow) and row.validation is None), setting_of)
    simple = group((row for row in rows if isinstance(row, BaselineRow)), lambda row: row.dataset)
    settings = sorted_keys(trained)
    alike = Counter(setting._replace(data_digest=None) for setting in settings)
    alone = sorted(simple.keys() - {setting.dataset for setting in settings})
    return (
        *(
            replace(
                _result(setting, trained[setting], simple.get(setting.dataset, ()), asked),
                is_data_named=alike[setting._replace(data_digest=None)] > 1,
            )
            for setting in settings
        ),
        *(AccuracyResult(dataset, None, asked, simple_classifiers=_latest_by_name(simple[dataset])) for dataset in alone),
    )


def setting_of(row: TrainRow) -> AccuracySetting:
    """The setting of a run."""
    chosen, rule = row.chosen, None
    if chosen is not None:
        rule = SweepRule(chosen.match or "", chosen.match_to or "", len(chosen.rates or ()))
    device = row.environment.device
    return AccuracySetting(row.dataset, row.recipe, row.image_size, row.epochs, device, row.dtype, rule, row.data_digest)


def _result(setting: AccuracySetting, rows: Sequence[TrainRow], simple: Sequence[BaselineRow], asked: Asked) -> AccuracyResult:
    groups = group(rows, identity_of)
    # Where positions differ all are named, but for the learned one.
    differ = len({identity.pos_embed for identity in groups}) > 1
    labels = {identity: label(identity, all_positions=differ) for identity in groups}
    order = sorted(groups, key=lambda line: (line.model, labels[line], [(value is not None, value) for value in line]))
    lines = tuple(line_result(identity, labels[identity], latest(groups[identity], lambda row: row.seed)) for identity in order)
    return AccuracyResult(
        setting.dataset,
        setting,
        asked,
        lines,
        _latest_by_name(simple),
        families(lines, asked),
        len(rows) - sum(len(line.seeds) for line in lines),
    )


def _latest_by_name(rows: Sequence[BaselineRow]) -> tuple[BaselineRow, ...]:
    return tuple(latest(rows, lambda row: row.name))
