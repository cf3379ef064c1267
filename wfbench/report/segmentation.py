"""Tables of segmentation: mean intersection over union by line, and by the size of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wfbench.analysis.cells import Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.segmentation import SegmentationLine, SegmentationResult, SizesLine, SizesResult
from wfbench.report.accuracy_notes import repeats_notes
from wfbench.report.columns import (
    Column,
    Table,
    constant_columns,
    interval_ends,
    make_table,
    schedule_columns,
    sureness_columns,
)
from wfbench.report.naming import flat, suffixes
from wfbench.report.seed_differences import difference_columns, difference_heading, difference_notes, interval_notes
from wfbench.report.strength import strength_columns, strength_headings, strength_notes
from wfbench.report.words import (
    environment_notes,
    macs_notes,
    macs_of,
    number,
    percent,
    pixels,
    plural,
    rule_notes,
    with_half_width,
)

_MEASURE = "mIoU (%)"
_PERCENT = 100.0


def segmentation_tables(results: Sequence[SegmentationResult]) -> list[Table]:
    """A table of training runs for each setting."""
    ends = suffixes([[result.setting] for result in results])
    return [_table(f"segmentation{end}", result) for result, end in zip(results, ends, strict=True)]


def size_tables(results: Sequence[SizesResult]) -> list[Table]:
    """A table of evaluations by image size for each setting."""
    ends = suffixes([[result.setting] for result in results])
    return [_size_table(f"segmentation-sizes{end}", result) for result, end in zip(results, ends, strict=True)]


def _table(name: str, result: SegmentationResult) -> Table:
    setting = result.setting
    runs = [(line.label, run) for line in result.lines for run in line.runs]
    first = result.lines[0].runs[0]
    notes = [
        "mIoU is the mean over classes of intersection over union, in per cent, over every labelled pixel of "
        f"{setting.samples:,} held-out images after the last of {plural(setting.epochs, 'epoch')}; decoder {setting.decoder}"
        f"{', on a backbone that was not trained' if setting.frozen else ''}.",
        *interval_notes([line.miou for line in result.lines]),
        *_no_interval_notes(result),
        *difference_notes([result.family]),
        *_difference_unit(result.family.differences),
        *_absent_notes(result),
        *rule_notes(run.chosen for _, run in runs),
        *strength_notes(run for _, run in runs),
        *repeats_notes(result.repeats),
        *macs_notes(runs),
        *(f"{label}, seed {run.seed}: resumed with other code: {run.code_changed}." for label, run in runs if run.code_changed),
        *environment_notes(run.environment for _, run in runs),
    ]
    title = segmentation_title(result)
    order = ["mixer", "params (M)", "GMACs", _MEASURE, "seeds", difference_heading(result.family.baseline), "verdict"]
    order += [
        "pixel accuracy (%)",
        *(_class_heading(found) for found in first.classes),
        "loss",
        *strength_headings(),
        "train (s)",
    ]
    return make_table("segmentation", name, title, _columns(result), result.lines, notes, order=order)


def segmentation_title(result: SegmentationResult) -> str:
    """The title of a result's table."""
    setting = result.setting
    return f"Segmentation: {setting.dataset}, {setting.model} at {pixels(setting.image_size)} px, recipe {setting.recipe}"


def _columns(result: SegmentationResult) -> list[Column[SegmentationLine]]:
    """In the order of the CSV."""
    return [
        *constant_columns(flat(result.setting)),
        *_line_columns(),
        Column("parameters", lambda line: line.runs[0].parameters, "params (M)", lambda count: number(count / 1e6)),
        Column("macs", lambda line: line.runs[0].macs),
        *sureness_columns(lambda line: line.runs[0]),
        Column("", lambda line: macs_of(line.runs[0]), "GMACs"),
        _share("miou", _MEASURE, lambda line: line.miou),
        *difference_columns(result.family.baseline, lambda line: result.family, lambda line: line.label, lambda line: _PERCENT),
        Column("seed_count", lambda line: len(line.runs), "seeds", lambda count: plural(count, "seed")),
        Column("seeds", lambda line: " ".join(str(run.seed) for run in line.runs)),
        Column("miou_by_seed", lambda line: " ".join(repr(run.miou) for run in line.runs)),
        _share("pixel_accuracy", "pixel accuracy (%)", lambda line: line.pixel_accuracy),
        *(_class_column(found) for found in result.lines[0].runs[0].classes),
        _mean("loss", "loss", lambda line: line.loss),
        *strength_columns(result.lines, lambda line: line.runs),
        _mean("train_seconds", "train (s)", lambda line: line.train_seconds),
    ]


def _line_columns() -> list[Column[SegmentationLine]]:
    return [
        Column("mixer", lambda line: line.runs[0].mixer),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("local_conv", lambda line: line.runs[0].local_conv),
        Column("pos_embed", lambda line: line.runs[0].pos_embed),
        *schedule_columns(lambda line: line.runs[0]),
        Column("mixer_digest", lambda line: line.runs[0].mixer_digest),
    ]


def _share(key: str, heading: str, value: Callable[[SegmentationLine], Interval | None]) -> Column[SegmentationLine]:
    return Column(key, value, heading, _shown_share, ends=interval_ends(key), ranks=True)


def _mean(key: str, heading: str, value: Callable[[SegmentationLine], Interval]) -> Column[SegmentationLine]:
    return Column(key, value, heading, lambda found: with_half_width(found, number), ends=interval_ends(key))


def _class_column(found: str) -> Column[SegmentationLine]:
    key = f"iou_{found}"
    return Column(key, lambda line: line.iou[found], _class_heading(found), _shown_share, interval_ends(key), files_only=True)


def _class_heading(found: str) -> str:
    return f"IoU {found} (%)"


def _shown_share(found: Interval) -> str:
    return with_half_width(found, percent)


def _difference_unit(differences: object) -> list[str]:
    return ["Differences are in points of mIoU."] if differences else []


def _no_interval_notes(result: SegmentationResult) -> list[str]:
    """Why a mean over several seeds has no interval: a class that no seed of a line found, for one."""
    lines: dict[str, dict[str, list[str]]] = {}
    for line in result.lines:
        named = {f"IoU {found}": value for found, value in line.iou.items() if value is not None}
        named |= {"pixel accuracy": line.pixel_accuracy, "loss": line.loss, "train (s)": line.train_seconds}
        for heading, value in named.items():
            if len(line.runs) > 1 and value.why_none:
                lines.setdefault(value.why_none, {}).setdefault(line.label, []).append(heading)
    said = []
    for why, of_line in lines.items():
        listed = "; ".join(f"{', '.join(headings)} ({label})" for label, headings in of_line.items())
        said.append(f"No interval of {listed}: {why}.")
    return said


def _absent_notes(result: SegmentationResult) -> list[str]:
    """Classes that are in no mask and were never predicted."""
    absent = dict.fromkeys(found for line in result.lines for found, value in line.iou.items() if value is None)
    return [f"In no mask and never predicted, and so left out of the mean: {', '.join(absent)}."] if absent else []


def _size_table(name: str, result: SizesResult) -> Table:
    setting = result.setting
    rows = [row for line in result.lines for found in line.rows.values() for row in found]
    compared = [family for family in result.families.values() if family.differences]
    notes = [
        f"Weights trained at {pixels(setting.trained_size)} px ({setting.weights}), evaluated on {setting.samples:,} held-out "
        f"images of each size; mIoU in per cent; data: {setting.dataset}, digest {setting.data_digest or 'not recorded'}.",
        *interval_notes([found for line in result.lines for found in line.miou.values()]),
        *difference_notes(list(result.families.values())),
        *_difference_unit(compared),
        *(["The correction for the number of lines is within each size."] if compared else []),
        *_size_notes(result),
        *repeats_notes(result.repeats),
        *environment_notes(row.environment for row in rows),
    ]
    title = (
        f"Segmentation by image size: {setting.model}, trained at {pixels(setting.trained_size)} px, recipe {setting.recipe}"
    )
    return make_table("segmentation-sizes", name, title, _size_columns(result), result.lines, notes)


def _size_notes(result: SizesResult) -> list[str]:
    """What was done to images of some sizes: resized, cut into windows."""
    notes = []
    if result.setting.resized is not None:
        notes.append(f"The shorter side of each image was resized to the size's ({result.setting.resized}); masks were not.")
    for size in result.sizes:
        rows = [row for line in result.lines for row in line.rows.get(size, ())]
        for (height, width), (down, across) in sorted({(row.window, row.stride) for row in rows if row.window and row.stride}):
            cut = f"windows of {height}×{width} px, every {down} px down and {across} px across"
            notes.append(f"At {pixels(size)} px, images were cut into {cut}.")
    return notes


def _size_columns(result: SizesResult) -> list[Column[SizesLine]]:
    baseline = next(iter(result.families.values())).baseline

    def of_size(size: Size) -> list[Column[SizesLine]]:
        key, px = f"miou_{pixels(size)}", pixels(size)
        family = result.families[size]
        miou: Column[SizesLine] = Column(
            key, lambda line: line.miou.get(size), f"{px} px {_MEASURE}", _shown_share, interval_ends(key), ranks=True
        )
        differences = difference_columns(baseline, lambda line: family, lambda line: line.label, lambda line: _PERCENT)
        return [miou, *(_of_size(column, px) for column in differences)]

    return [
        *constant_columns(flat(result.setting)),
        Column("mixer", lambda line: next(iter(line.rows.values()))[0].mixer),
        *schedule_columns(lambda line: next(iter(line.rows.values()))[0]),
        Column("label", lambda line: line.label, "mixer", words=True),
        Column("seed_count", lambda line: min(map(len, line.rows.values())), "seeds", lambda count: plural(count, "seed")),
        *(column for size in result.sizes for column in of_size(size)),
    ]


def _of_size(column: Column[SizesLine], px: str) -> Column[SizesLine]:
    """A column of a comparison with the size in its names."""
    key = f"{column.key}_{px}" if column.key else ""
    ends = None if column.ends is None else interval_ends(key)
    return replace(column, key=key, heading=f"{px} px {column.heading}" if column.heading else "", ends=ends)
