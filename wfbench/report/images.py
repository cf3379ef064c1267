"""Image by image: each line against the baseline on the same held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from wfbench.analysis.image_pairs import ImageComparison, ImageSetting, LineOnImages, ModelPair
from wfbench.analysis.images import Paired
from wfbench.analysis.interval import LEVEL, Interval
from wfbench.report.columns import Column, Table, constant_columns, interval_ends, make_table
from wfbench.report.differences import signed_points
from wfbench.report.naming import flat, suffixes, title_of
from wfbench.report.words import percent, short_digest

T = TypeVar("T")
_ORDER = ("mixer", "seeds", "images", "difference over images and seeds", "verdict", "McNemar, two models")


def image_tables(results: Sequence[ImageComparison]) -> list[Table]:
    """A table for each setting."""
    shown = _shown([result.setting for result in results])
    ends = suffixes([[setting] for setting in shown])
    return [_table(f"paired{end}", setting, result) for setting, end, result in zip(shown, ends, results, strict=True)]


def _shown(settings: Sequence[ImageSetting]) -> list[ImageSetting]:
    """The settings with digests of data and models only where nothing else tells them apart."""
    plain = [setting._replace(data_digest=None, model_digest=None) for setting in settings]
    return [
        short
        if plain.count(short) == 1
        else setting._replace(
            data_digest=f"data {short_digest(setting.data_digest)}", model_digest=f"models {short_digest(setting.model_digest)}"
        )
        for setting, short in zip(settings, plain, strict=True)
    ]


def _table(name: str, shown: ImageSetting, result: ImageComparison) -> Table:
    notes = [
        f"The same held-out images, in points of accuracy over {result.baseline}. With several seeds on both sides the 95% "
        "interval is over other images and other seeds (image × seed bootstrap), for each line by itself. McNemar's exact test "
        "is between the two models of one seed each, on the images that only one of them gets right: it says which of these "
        "two models is better, and nothing of other seeds.",
        *_pairing_notes(result),
    ]
    if result.other_images:
        notes.append(f"Not compared, since they were judged on other images or labels: {', '.join(result.other_images)}.")
    title = f"Image by image: {title_of([shown])}"
    return make_table("paired", name, title, _columns(result), result.lines, notes, order=_ORDER)


def _pairing_notes(result: ImageComparison) -> list[str]:
    """Which lines share their seeds with the baseline."""
    known = [line for line in result.lines if line.difference is not None]
    paired, apart = ([line.label for line in known if line.is_paired == value] for value in (True, False))
    mixed = bool(paired and apart)
    notes = []
    if paired:
        which = f" ({', '.join(paired)})" if mixed else ""
        notes.append(f"Paired{which}: seeds are drawn jointly, since runs of one seed begin equal.")
    if apart:
        which = f" ({', '.join(apart)})" if mixed else ""
        notes.append(
            f"Unpaired{which}: seeds are drawn of each line for itself, since the lines have other seeds, or are of an older "
            "version in which runs of one seed did not begin equal."
        )
    return notes


def _columns(result: ImageComparison) -> list[Column[LineOnImages]]:
    """In the order of the CSV; differences and tests only where a line has them."""
    heading = "difference over images and seeds"
    columns: list[Column[LineOnImages]] = [
        *constant_columns(flat(result.setting)),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("mixer", lambda line: line.mixer),
        Column("compared_with", lambda line: result.baseline),
        Column("images", lambda line: line.images, "images", lambda count: f"{count:,}"),
        Column("seeds_ours", lambda line: line.seeds),
        Column("seeds_theirs", lambda line: line.baseline_seeds),
        Column("", lambda line: f"{line.seeds} and {line.baseline_seeds}", "seeds"),
        Column("", lambda line: line.difference, heading, signed_points, ranks=True),
        Column("", lambda line: _verdict(line.difference) or "not ranked: 1 seed", "verdict", words=True),
    ]
    if any(line.difference is not None for line in result.lines):
        columns += [
            Column("difference", lambda line: line.difference, ends=interval_ends("difference")),
            Column("verdict", lambda line: _verdict(line.difference)),
            Column("paired", lambda line: None if line.difference is None else line.is_paired),
        ]
    if any(line.models is not None for line in result.lines):
        columns += [
            Column("mcnemar_seed", lambda line: line.models and line.models.seed),
            Column("only_ours", lambda line: _of_test(line, lambda test: test.ours)),
            Column("only_theirs", lambda line: _of_test(line, lambda test: test.theirs)),
            Column("mcnemar_p", lambda line: _of_test(line, lambda test: test.p)),
            Column("mcnemar_detectable", lambda line: _of_test(line, lambda test: test.detectable)),
            Column("", lambda line: line.models, "McNemar, two models", _models),
        ]
    return columns


def _of_test(line: LineOnImages, field: Callable[[Paired], T]) -> T | None:
    return None if line.models is None else field(line.models.test)


def _verdict(found: Interval | None) -> str | None:
    if found is None or found.low is None or found.high is None:
        return None
    return "better" if found.low > 0 else "worse" if found.high < 0 else "not distinguishable"


def _models(pair: ModelPair) -> str:
    test = pair.test
    p = "p < 0.001" if test.p < 0.001 else f"p = {test.p:.3f}"
    finds = "" if test.detectable is None else f"; 80 % power from {percent(test.detectable)}"
    differ = "the models differ" if test.p <= 1 - LEVEL else "the models are not distinguishable"
    return f"seed {pair.seed}: {test.ours} : {test.theirs}, {p}, {differ}{finds}"
