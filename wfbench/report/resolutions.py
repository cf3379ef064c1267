"""Tables of evaluations: what trained weights reach at other resolutions than their own, on other data or labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from wfbench.analysis.cells import Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import label
from wfbench.analysis.resolutions import EvaluatedLine, ResolutionLine, ResolutionResult, SizeResult
from wfbench.records import SCHEDULE
from wfbench.report.accuracy_notes import repeats_notes
from wfbench.report.columns import Column, Table, interval_ends, make_table
from wfbench.report.naming import flat, suffixes, title_of
from wfbench.report.words import environment_notes, percent, pixels, plural, short_digest, with_half_width

_HALF_WIDTH = (
    "± is the half-width of the 95% t-interval of the mean over the seeds, no smaller than the binomial interval of the "
    "held-out images allows."
)
#: By which code a number is.
_DIGESTS = ("mixer_digest", "model_digest")


class _Key(NamedTuple):
    """A setting as title, file name and CSV show it."""

    dataset: str
    recipe: str | None
    trained: str
    weights: str
    resize: str
    normalised: str | None
    interpolation: str | None
    mapping: str | None
    device: str
    dtype: str
    data: str | None


def resolution_tables(results: Sequence[ResolutionResult]) -> list[Table]:
    """For each kind of evaluation: accuracy by the side of the test images."""
    keys = [_key(result, results) for result in results]
    names = suffixes([[key] for key in keys])
    made = zip(keys, names, results, strict=True)
    return [_table(f"resolution{suffix}", key, result) for key, suffix, result in made]


def _key(result: ResolutionResult, results: Sequence[ResolutionResult]) -> _Key:
    """Of a result beside others: how images were normalised and resized is named where they differ in it."""
    setting = result.setting
    varying = {field for field in setting._fields if len({getattr(other.setting, field) for other in results}) > 1}
    words = {field: " ".join(f"{part:g}" for part in getattr(setting, field)) for field in ("mean", "std")}
    mapping = f"labels of {setting.mapping}" if setting.mapping else None
    if setting.mapping and setting.mapping_sha256 and _is_named_twice(setting.mapping, results):
        mapping = f"{mapping} {short_digest(setting.mapping_sha256)}"
    resize, crop = setting.eval_resize, setting.eval_crop
    return _Key(
        dataset=setting.dataset,
        recipe=setting.recipe,
        trained=f"built for {pixels(setting.trained_size)} px",
        weights=f"{setting.weights} weights",
        resize=f"{resize} to 1/{crop:g}, centre" if crop < 1 else f"{resize}, no crop",
        normalised=f"mean {words['mean']}, std {words['std']}" if varying & {"mean", "std"} else None,
        interpolation=setting.interpolation if "interpolation" in varying else None,
        mapping=mapping,
        device=setting.device,
        dtype=setting.dtype,
        data=f"data {short_digest(setting.data_digest)}" if result.is_data_named else None,
    )


def _is_named_twice(mapping: str, results: Sequence[ResolutionResult]) -> bool:
    """Whether several files of labels have this name."""
    return len({other.setting.mapping_sha256 for other in results if other.setting.mapping == mapping}) > 1


def _table(name: str, key: _Key, result: ResolutionResult) -> Table:
    counts = {count for line in result.lines for count in line.seed_counts}
    notes = [
        "Top-1 of the weights after the last epoch on held-out images of other sizes, measured here; nothing was trained "
        "again. A learned position embedding is interpolated.",
        *([_HALF_WIDTH] if max(counts) > 1 else []),
        *(["A single seed has no interval, so it ranks nothing."] if 1 in counts else []),
        *repeats_notes(result.repeats),
        *environment_notes(row.environment for row in result.rows),
    ]
    title = f"Accuracy by test resolution: {title_of([key])}"
    raw = _raw_columns(key, result), [found for line in result.lines for found in line.sizes.values()]
    return replace(make_table("resolution", name, title, _columns(result), result.lines, notes, raw=raw), result=result)


def _columns(result: ResolutionResult) -> list[Column[ResolutionLine]]:
    """The columns for people: an accuracy for each size."""

    def names(line: ResolutionLine) -> tuple[str, str]:
        return line.identity.model, line.label

    def apart(field: str, heading: str, show: Callable[[Any], str] = str) -> Column[ResolutionLine]:
        """What may tell lines of one name apart."""

        def value(line: ResolutionLine) -> str | None:
            own = [other.identity for other in result.lines if names(other) == names(line)]
            differs = len({getattr(identity, field) for identity in own}) > 1
            return show(getattr(line.identity, field)) if differs else None

        return Column("", value, heading, optional=True)

    def of_size(line: ResolutionLine, size: Size) -> Interval | None:
        return None if (found := line.sizes.get(size)) is None else found.accuracy

    def accuracy(size: Size) -> Column[ResolutionLine]:
        return Column("", lambda line: of_size(line, size), f"{pixels(size)} px (%)", _percent, ranks=True)

    return [
        Column("", lambda line: line.identity.model, "model", words=True),
        Column("", lambda line: line.label, "mixer", words=True),
        apart("trained_as", "trained as"),
        *(apart(field, field, short_digest) for field in _DIGESTS),
        *map(accuracy, result.sizes),
        Column("", lambda line: "/".join(plural(count, "seed") for count in line.seed_counts), "seeds"),
    ]


def _raw_columns(key: _Key, result: ResolutionResult) -> list[Column[SizeResult]]:
    """The columns of the CSV, which has a line for each size; digests where an evaluation recorded one."""
    lines, digest = [line.identity for line in result.lines], result.setting.data_digest
    is_recorded = digest is not None or any(getattr(line, field) for line in lines for field in _DIGESTS)
    unnamed = {"data", *(field for field in ("normalised", "interpolation") if getattr(key, field) is None)}

    def constant(name: str, value: object) -> Column[SizeResult]:
        return Column(name, lambda found: value)

    def identity(field: str) -> Column[SizeResult]:
        return Column(field, lambda found: getattr(found.line, field), sparse=field in SCHEDULE)

    return [
        *(constant(name, value) for name, value in flat(key).items() if name not in unnamed),
        Column("label", lambda found: label(found.line)),
        *map(identity, [field for field in EvaluatedLine._fields if field not in _DIGESTS or is_recorded]),
        *([constant("data_digest", digest)] if is_recorded else []),
        Column("height", lambda found: found.size[0]),
        Column("width", lambda found: found.size[1]),
        Column("accuracy", lambda found: found.accuracy, ends=interval_ends("accuracy")),
        Column("accuracy_ci95", lambda found: found.accuracy.half_width),
        Column("top5", lambda found: found.top5, ends=interval_ends("top5")),
        Column("seed_count", lambda found: len(found.seeds)),
    ]


def _percent(accuracy: Interval) -> str:
    return with_half_width(accuracy, percent)
