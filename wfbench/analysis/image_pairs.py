"""Each line against the baseline on the same held-out images, from the predictions that runs keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wfbench.analysis.design import is_paired_design
from wfbench.analysis.images import Paired, image_seed_bootstrap, mcnemar
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, lines_by_code, sorted_keys
from wfbench.records.run_directory import Run


class ImageSetting(NamedTuple):
    """What runs share whose predictions are compared image by image."""

    dataset: str
    recipe: str
    image_size: tuple[int, int]
    model: str
    weights: str
    recipe_digest: str
    #: Of the data's classes, files and split; None where it was not recorded.
    data_digest: str | None
    model_digest: str | None


@dataclass(frozen=True, eq=False)
class Predictions:
    """A run's predictions: the name of its line, which images, their classes, and which of them it gets right."""

    line: str
    run: Run
    images: NDArray[np.int64]
    truth: NDArray[np.int64]
    right: NDArray[np.bool_]

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.run.row.seed


@dataclass(frozen=True)
class ModelPair:
    """McNemar's test between the two models of one seed."""

    seed: int
    test: Paired


@dataclass(frozen=True)
class LineOnImages:
    """A line against the baseline on the same images.

    Attributes:
        label: the line's name.
        mixer: its mixer.
        images: how many there are.
        seeds: how many the line has.
        baseline_seeds: how many the baseline has.
        difference: of the mean accuracies, a fraction, over other images and other seeds; None where either line has a single
            seed.
        is_paired: whether seeds were drawn jointly for both lines: they share all of them, and the design is paired.
        models: the test between two single models, of the first seed that both lines have; None where they share none.
    """

    label: str
    mixer: str
    images: int
    seeds: int
    baseline_seeds: int
    difference: Interval | None
    is_paired: bool
    models: ModelPair | None


@dataclass(frozen=True)
class ImageComparison:
    """The lines of one setting against the baseline.

    Attributes:
        setting: what they share.
        baseline: the name of the baseline's line.
        lines: by name.
        other_images: the lines that were judged on other images or labels, so that they do not compare.
    """

    setting: ImageSetting
    baseline: str
    lines: tuple[LineOnImages, ...]
    other_images: tuple[str, ...]


def image_comparisons(runs: Iterable[Run], baseline: str) -> tuple[ImageComparison, ...]:
    """For each setting with predictions of the baseline and of another line on the same images, the differences.

    Args:
        runs: the run directories, which keep predictions.
        baseline: the name of the line that the others are held against.
    """
    found = [_comparison(setting, kept, baseline) for setting, kept in predictions_by_setting(runs)]
    return tuple(comparison for comparison in found if comparison is not None)


def predictions_by_setting(runs: Iterable[Run]) -> Iterator[tuple[ImageSetting, list[Predictions]]]:
    """The predictions that runs kept, by what the runs share; of a seed that ran twice the newest counts.

    They are read one setting after another: those of all runs at once would fill the memory.
    """
    of_setting = group(sorted(runs, key=lambda run: run.row.created), _setting)
    for setting in sorted_keys(of_setting):
        kept: dict[tuple[str, int], Predictions] = {}
        named = lines_by_code(run.row for run in of_setting[setting])
        name_of = {id(row): name for name, rows in named.items() for row in rows}
        for run in of_setting[setting]:
            table = run.predictions()
            if table is not None:
                name = name_of[id(run.row)]
                kept[name, run.row.seed] = _predictions(name, run, table)
        if kept:
            yield setting, list(kept.values())


def _setting(run: Run) -> ImageSetting:
    row = run.row
    plain = row.dataset, row.recipe, row.image_size, row.model, row.weights, row.recipe_digest
    return ImageSetting(*plain, row.data_digest, row.model_digest)


def _predictions(line: str, run: Run, table: pd.DataFrame) -> Predictions:
    truth = table["label"].to_numpy()
    return Predictions(line, run, table["index"].to_numpy(), truth, table["top1"].to_numpy() == truth)


def _comparison(setting: ImageSetting, kept: Sequence[Predictions], baseline: str) -> ImageComparison | None:
    by_line: dict[str, list[Predictions]] = {}
    for predictions in sorted(kept, key=lambda predictions: predictions.seed):
        by_line.setdefault(predictions.line, []).append(predictions)
    theirs = by_line.pop(baseline, [])
    lines, others = [], []
    for name, ours in sorted(by_line.items() if theirs else ()):
        if all(_same_images(predictions, theirs[0]) for predictions in (*ours, *theirs)):
            lines.append(_line(name, ours, theirs))
        else:
            others.append(name)
    return ImageComparison(setting, baseline, tuple(lines), tuple(others)) if lines else None


def _same_images(a: Predictions, b: Predictions) -> bool:
    return np.array_equal(a.images, b.images) and np.array_equal(a.truth, b.truth)


def _line(name: str, ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> LineOnImages:
    difference, paired = None, _is_paired(ours, theirs)
    if min(len(ours), len(theirs)) > 1:
        difference = image_seed_bootstrap([p.right for p in ours], [p.right for p in theirs], paired=paired).interval
    pair = next(((a, b) for a in ours for b in theirs if a.seed == b.seed), None)
    models = None if pair is None else ModelPair(pair[0].seed, mcnemar(pair[0].right, pair[1].right))
    images = len(ours[0].right)
    return LineOnImages(name, ours[0].run.row.mixer, images, len(ours), len(theirs), difference, paired, models)


def _is_paired(ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> bool:
    """Whether two lines have the same seeds, and runs of one seed begin equal and see the same draws."""
    same_seeds = [p.seed for p in ours] == [p.seed for p in theirs]
    return same_seeds and is_paired_design(p.run.row for p in (*ours, *theirs))
