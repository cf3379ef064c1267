"""Accuracy tables: what each line reached over its seeds, with its comparison and its circumstances.

Nothing is ranked: lines are in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from wfbench.analysis.interval import Interval
from wfbench.analysis.line_results import LineIdentity, LineResult
from wfbench.analysis.seeds import AccuracyResult, AccuracySetting
from wfbench.records import SCHEDULE, BaselineRow, Chosen
from wfbench.report.accuracy_notes import accuracy_notes, digits_notes, simple_notes
from wfbench.report.columns import Column, Table, interval_ends, make_table, sureness_columns
from wfbench.report.differences import difference_columns, difference_headings
from wfbench.report.naming import flat, slug, suffixes, title_of
from wfbench.report.strength import strength_columns, strength_headings
from wfbench.report.words import (
    macs_of,
    number,
    number_with_half_width,
    percent,
    plural,
    rule_in_words,
    short_digest,
    with_half_width,
)

#: The heading of the accuracies.
ACCURACY = "accuracy (%, measured)"
#: A line of an accuracy table: of a mixer, or of a simple classifier.
Entry = LineResult | BaselineRow
#: By which code a number is.
_DIGESTS = ("mixer_digest", "model_digest")


class _Key(NamedTuple):
    """A setting as title, file name and CSV show it."""

    dataset: str
    recipe: str
    image_size: tuple[int, int]
    epochs: int
    device: str
    dtype: str
    chosen: str | None
    data: str | None


def accuracy_tables(results: Sequence[AccuracyResult]) -> list[Table]:
    """A table for each result."""
    ends = iter(suffixes([[_key(result, result.setting)] for result in results if result.setting is not None]))
    return [
        _simple_table(result) if result.setting is None else _table(f"accuracy{next(ends)}", result.setting, result)
        for result in results
    ]


def accuracy_title(result: AccuracyResult) -> str:
    """The title of a result's table."""
    if result.setting is None:
        return f"Accuracy of simple classifiers: {result.dataset}"
    return f"Accuracy: {title_of([_key(result, result.setting)])}"


def accuracy_columns(result: AccuracyResult) -> list[Column[Entry]]:
    """The columns of a result with lines, in the order of the CSV."""
    assert result.setting is not None
    setting = _key(result, result.setting)
    fields = {key: value for key, value in flat(setting).items() if key not in ("dataset", "data")}
    shared: list[Column[LineResult]] = [_constant(key, value) for key, value in fields.items()]
    sweep = _sweep_columns() if result.setting.rule is not None else []
    differences = difference_columns(result) if result.is_compared else []
    simple: list[Column[Entry]] = [Column("baseline", lambda entry: entry.name if isinstance(entry, BaselineRow) else None)]
    return [
        Column("dataset", lambda entry: entry.dataset if isinstance(entry, BaselineRow) else setting.dataset),
        *map(_for_runs, shared),
        *map(_for_runs, _identity_columns(result)),
        Column("", lambda entry: entry.name if isinstance(entry, BaselineRow) else entry.label, "mixer", words=True),
        Column("samples", _samples, "samples", lambda count: f"{count:,}"),
        *map(_for_runs, _count_columns()),
        Column("accuracy", _accuracy, ACCURACY, _percent, ends=interval_ends("accuracy"), ranks=True),
        *map(
            _for_runs,
            [
                *_seed_columns(),
                *_mean_columns(),
                *strength_columns(result.lines, lambda line: line.seeds),
                *sweep,
                *differences,
            ],
        ),
        *(simple if result.simple_classifiers else []),
    ]


def _table(name: str, setting: AccuracySetting, result: AccuracyResult) -> Table:
    order = [
        *("model", "mixer", *result.varying_fields, "params (M)", "GMACs"),
        *("MLP ratio", "depth", "off the budget (%)", "rate"),
        *(ACCURACY, "top-5 (%)", "seeds", *difference_headings(result.asked)),
        *("samples", "loss", *strength_headings(), "images/s", "data wait (%)", "train (s)"),
    ]
    entries: list[Entry] = [*result.lines, *result.simple_classifiers]
    title, notes = accuracy_title(result), accuracy_notes(setting, result)
    return replace(make_table("accuracy", name, title, accuracy_columns(result), entries, notes, order=order), result=result)


def _simple_table(result: AccuracyResult) -> Table:
    """The table of a data set that nothing but simple classifiers learned."""
    columns: list[Column[BaselineRow]] = [
        Column("baseline", lambda row: row.name, "mixer", words=True),
        Column("dataset", lambda row: row.dataset),
        Column("accuracy", _accuracy, ACCURACY, _percent, ranks=True),
        Column("samples", lambda row: row.samples, "samples", lambda count: f"{count:,}"),
    ]
    name, title = f"accuracy-{slug(result.dataset)}-baselines", accuracy_title(result)
    notes = [*simple_notes(result), *digits_notes(result)]
    return replace(make_table("accuracy", name, title, columns, result.simple_classifiers, notes), result=result)


def _key(result: AccuracyResult, setting: AccuracySetting) -> _Key:
    fields = setting._asdict()
    rule, digest = fields.pop("rule"), fields.pop("data_digest")
    data = f"data {short_digest(digest)}" if result.is_data_named else None
    return _Key(**fields, chosen=None if rule is None else rule_in_words(*rule), data=data)


def _for_runs(column: Column[LineResult]) -> Column[Entry]:
    """A column that simple classifiers have nothing in."""

    def value(entry: Entry) -> Any:
        return column.value(entry) if isinstance(entry, LineResult) else None

    return cast("Column[Entry]", replace(column, value=value))


def _constant(key: str, value: object) -> Column[LineResult]:
    return Column(key, lambda line: value)


def _identity_columns(result: AccuracyResult) -> list[Column[LineResult]]:
    """What tells a line from others, but for its samples, which simple classifiers have too.

    Digests of code and data stand in the CSV where a run recorded one.
    """
    assert result.setting is not None
    varying, digest = result.varying_fields, result.setting.data_digest
    looks: dict[str, tuple[str, Callable[[Any], str]]] = {
        "model": ("model", str),
        **{field: (field, str) for field in varying},
        "parameters": ("params (M)", lambda count: number(count / 1e6)),
    }

    def column(field: str) -> Column[LineResult]:
        heading, show = looks.get(field, ("", str))
        words, sparse = field in ("model", "weights"), field in SCHEDULE
        return Column(field, lambda line: getattr(line.identity, field), heading, show, words=words, sparse=sparse)

    def code(field: str) -> Column[LineResult]:
        return Column(field, lambda line: getattr(line.identity, field))

    def code_in_words(field: str) -> Column[LineResult]:
        return Column("", lambda line: short_digest(getattr(line.identity, field)), field)

    fields = [field for field in LineIdentity._fields if field not in ("samples", "rate", *_DIGESTS)]
    is_recorded = digest is not None or any(getattr(line.identity, field) for line in result.lines for field in _DIGESTS)
    digests = [*map(code, _DIGESTS), _constant("data_digest", digest)] if is_recorded else []
    named = [code_in_words(field) for field in varying if field in _DIGESTS]
    return [Column("label", lambda line: line.label), *map(column, fields), *digests, *named]


def _samples(entry: Entry) -> int:
    return entry.samples if isinstance(entry, BaselineRow) else entry.identity.samples


def _count_columns() -> list[Column[LineResult]]:
    return [
        Column("rate", lambda line: line.identity.rate, "rate", lambda rate: f"{rate:.3g}", optional=True),
        Column("", lambda line: macs_of(line.last), "GMACs"),
        Column("macs", lambda line: line.last.macs),
        Column("macs_error", lambda line: line.last.macs_error),
        *sureness_columns(lambda line: line.last),
    ]


def _accuracy(entry: Entry) -> Interval:
    return Interval(entry.accuracy, why_none="no seeds") if isinstance(entry, BaselineRow) else entry.accuracy


def _percent(accuracy: Interval) -> str:
    return with_half_width(accuracy, percent)


def _seed_columns() -> list[Column[LineResult]]:
    top5: Column[LineResult] = Column(
        "top5",
        lambda line: line.top5,
        "top-5 (%)",
        _percent,
        ends=interval_ends("top5"),
        ranks=True,
        optional=True,
        files_only=True,
    )
    return [
        Column("accuracy_ci95", lambda line: line.accuracy.half_width),
        top5,
        Column("seed_count", lambda line: len(line.seeds), "seeds", lambda count: plural(count, "seed")),
        Column("seeds", lambda line: " ".join(str(row.seed) for row in line.seeds)),
        Column("accuracy_by_seed", lambda line: " ".join(repr(accuracy) for accuracy in line.accuracies)),
    ]


def _mean_columns() -> list[Column[LineResult]]:
    def mean(field: str, heading: str, *, ranks: bool = False) -> Column[LineResult]:
        ends = interval_ends(field)
        return Column(field, lambda line: getattr(line, field), heading, number_with_half_width, ends, ranks=ranks)

    return [
        mean("loss", "loss", ranks=True),
        mean("images_per_second", "images/s"),
        Column(
            "data_wait_share",
            lambda line: line.data_wait_share,
            "data wait (%)",
            lambda share: with_half_width(share, lambda value: f"{100 * value:.1f}"),
            ends=interval_ends("data_wait_share"),
        ),
        mean("train_seconds", "train (s)"),
        Column("train_seconds_ci95", lambda line: line.train_seconds.half_width),
    ]


def _sweep_columns() -> list[Column[LineResult]]:
    """What it took for each line to follow a sweep's rule."""

    def chosen(field: str) -> Callable[[LineResult], Any]:
        return lambda line: getattr(line.last.chosen, field)

    def matched(field: str) -> Callable[[LineResult], Any]:
        def value(line: LineResult) -> Any:
            choice = line.last.chosen
            is_matched = choice is not None and choice.match is not None and choice.residual is not None
            return getattr(choice, field) if is_matched else None

        return value

    shown: list[Column[LineResult]] = [
        Column("", matched("mlp_ratio"), "MLP ratio", lambda ratio: f"{ratio:.3g}", optional=True),
        Column("", matched("depth"), "depth", optional=True),
        Column(
            "",
            matched("residual"),
            "off the budget (%)",
            lambda residual: f"{100 * residual:+.2f}".replace("-", "−"),
            optional=True,
        ),
    ]
    fields = [field for field in Chosen.model_fields if field not in ("rates", "trial_seeds")]
    return [*shown, *(Column(field, chosen(field)) for field in fields)]
