"""``wfbench eval``: trained weights on held-out images, by the trainer's own evaluator, at any resolution."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from wfbench import files, models, records
from wfbench import recipe as recipes
from wfbench.data import Dataset, Split, open_dataset
from wfbench.data.listing import Entry
from wfbench.errors import InputError, writing
from wfbench.recipe import Recipe
from wfbench.records import EvalRow, TrainRow
from wfbench.strict import read_object
from wfbench.tasks import hub
from wfbench.tasks.common import dtype_name, factors_of, other_machine, writable_dir
from wfbench.tasks.identity import changes, check_data, read_identity
from wfbench.tasks.jobs.classify import ClassifyJob, write_predictions
from wfbench.tasks.run_directory import read_recipe, read_result, recorded_row, try_directory
from wfbench.tasks.weights import check_weights, read_metadata, read_weights, weights_file
from wfbench.training import Evaluation

#: Settings by which other data are asked for than those of the run.
OTHER_DATA = ("data.source", "data.path", "data.limit", "data.validation", "data.holdout", "data.split_seed")


#: Of weights without class names: foreign ones, or of an earlier version.
_UNNAMED = "the weights do not name their classes: the data's classes are taken to be in the same order"


@dataclass(frozen=True)
class EvalRequest:
    """What is evaluated, and on what.

    Attributes:
        path: a run directory, or a safetensors file.
        weights: of a run: "raw" or "ema".
        recipe: of a file: the recipe whose model and data it is evaluated with.
        overrides: settings of the data to change, as of a recipe.
        resolutions: sides of the images in pixels; none: the model's own size.
        mapping: a JSON file of other labels (see `relabel`).
        out: where results go; None: beside the weights, in ``eval/``.
    """

    path: Path
    weights: str = "raw"
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
    mapping: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
        row: its figures.
        where: its files.
        recorded: for the unchanged evaluation of a run, what its trainer recorded; else None.
        notes: what is other than when the run was trained, in words.
    """

    row: EvalRow
    where: Path
    recorded: TrainRow | None = None
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool | None:
        """Whether these figures are exactly the trainer's; None if there are none to compare with."""
        return None if self.recorded is None else _figures(self.row) == _figures(self.recorded)

    @property
    def elsewhere(self) -> str:
        """How the trainer's machine differs from this one, so that figures may differ by rounding; empty if it does not."""
        return "" if self.recorded is None else other_machine(self.row.environment, self.recorded.environment)


def evaluate_weights(request: EvalRequest, *, device: torch.device) -> list[Result]:
    """Evaluate weights at every resolution asked for, and write result, predictions and figures by class.

    Raises:
        InputError: for weights, data, a mapping or a resolution that do not fit; nothing is written then.
        MixerError: for a mixer that cannot work at another resolution.
    """
    of_run = request.path.is_dir()
    recipe = _recipe(request, of_run)
    file = weights_file(request.path, request.weights) if of_run else request.path
    tensors, sha256 = read_weights(file)
    run, labels, notes = _open_job(recipe, tensors, request, file)
    notes += _compare(request, run) if of_run else ()
    sizes = [(side, side) for side in request.resolutions] or [run.image_size]
    check_sizes(sizes, run.model.config.patch_size)
    run.model.to(device).eval()
    for size in sizes:  # a mixer that is made for one grid says so now
        with torch.no_grad():
            run.model(torch.zeros(1, run.in_channels, *size, device=device))
    unchanged = of_run and not request.overrides and request.mapping is None
    recorded = recorded_row(request.path, request.weights, TrainRow) if unchanged else None
    out = request.out or hub.results_of(request.path if of_run else request.path.parent, "eval")
    try_directory(out)
    results = []
    for size in sizes:
        classes = torch.tensor(labels.chosen_among) if labels is not None and labels.chosen_among else None
        evaluation = run.evaluation(run.model, size, classes)
        row = _row(request, run, evaluation, size, sha256, labels, device, of_run)
        where = out / _name(request, row)
        _write(row, evaluation, labels, run.dataset, where)
        records.append(out / "records.jsonl", [row])
        results.append(Result(row, where, recorded if size == run.image_size else None, notes))
    return results


def _recipe(request: EvalRequest, of_run: bool) -> Recipe:
    if not request.path.exists():
        raise InputError(
            "no such run or weights",
            got=request.path,
            expected="a run directory, or a safetensors file",
            remedy="check the path",
        )
    if of_run and request.recipe is not None:
        raise InputError(
            "a run has a recipe of its own",
            got=f"--recipe {request.recipe}",
            expected="no --recipe beside a run",
            remedy="leave --recipe out",
        )
    if not of_run and request.recipe is None:
        raise InputError(
            "weights alone do not say their model",
            got=str(request.path),
            expected="a run directory, or --recipe with the recipe they were trained by",
            remedy="for the WeightFormer release: --recipe imagenet-weightformer",
        )
    wrong = [setting for setting in request.overrides if of_run and not setting.startswith("data.")]
    if wrong:
        raise InputError(
            "only its data can be changed for a run",
            got=wrong[0],
            expected="data.…=…",
            remedy=f"leave it out, or train another run with it: wfbench train --set {wrong[0]}",
        )
    if not of_run:
        found = recipes.load(request.recipe or "", request.overrides)
        if found.task != "classify":
            raise InputError(
                "weights alone are evaluated as a classifier's",
                got=f"--recipe {request.recipe}, task: {found.task}",
                expected="the recipe of a classifier, or a run directory",
                remedy="evaluate the run: wfbench eval RUN",
            )
        return found
    read_result(request.path)
    recipe = read_recipe(request.path)
    check_weights(request.path, request.weights, recipe)
    return recipes.override(recipe, request.overrides)


def _open_job(
    recipe: Recipe, tensors: dict[str, Tensor], request: EvalRequest, file: Path
) -> tuple[ClassifyJob, Labels | None, tuple[str, ...]]:
    """The job, a mapping's labels, and what is not sure of the labels, in words."""
    about = read_metadata(file)
    names = None if about is None or request.mapping is not None else about.classes
    dataset = open_dataset(recipe.data, train=False, classes=names)
    head = next((t for key, t in tensors.items() if key in ("head.weight", "head.bias")), None)
    classes = len(dataset.classes) if head is None else head.shape[0]
    labels = relabel(request.mapping, dataset, classes) if request.mapping is not None else None
    if labels is None and classes != len(dataset.classes):
        raise InputError(
            "the data have other classes than the weights",
            got=f"{len(dataset.classes)} classes in {dataset.name}",
            expected=f"{classes}, as the head of {request.path} has",
            remedy="give the data it was trained for, or a --mapping from these classes to the model's",
        )
    section = recipe.model
    model = models.create(section.name, section.mixer, section.image_size, classes, **section.overrides())
    grid = None if about is None else about.grid
    if grid is None and request.path.is_dir():  # the run's recipe says it
        grid = models.patch_grid(model.config.image_size, model.config.patch_size)
    models.load_initial(model, tensors, grid=grid)
    unsure = () if names is not None or labels is not None else (_UNNAMED,)
    dataset = dataset if labels is None else replace(dataset, val=labels.split)
    return ClassifyJob(recipe, dataset, model), labels, unsure


def _compare(request: EvalRequest, run: ClassifyJob) -> tuple[str, ...]:
    """See that the held-out data are the run's, unless others were asked for; what is other and may be, in words.

    Raises:
        InputError: naming how the classes or the held-out data differ.
    """
    then = read_identity(request.path)
    if then is None:
        return ()
    changed = changes(then, run.identity, ("mixer code", "model code"))
    notes = [f"evaluated with other code than the run's: {line}" for line in changed]
    if not any(setting.partition("=")[0] in OTHER_DATA for setting in request.overrides):
        check_data(request.path, run.dataset, "val")
        if changes(then, run.identity, ("data",)) and len(run.dataset.train):
            notes.append("the training images are not those that the run was trained with; the held-out ones are")
    return tuple(notes)


def check_sizes(sizes: Sequence[tuple[int, int]], patch: int) -> None:
    """Refuse sizes that are no whole number of patches.

    Raises:
        InputError: naming the nearest that is.
    """
    bad = [side for size in sizes for side in size if side % patch or side < patch]
    if bad:
        raise InputError(
            "the resolution is not a whole number of patches",
            got=f"{bad[0]} px with patches of {patch}",
            expected=f"a multiple of {patch}",
            remedy=f"use {max(1, round(bad[0] / patch)) * patch}",
        )


# --- other labels for the same images


class _OtherLabels:
    """A split of some samples of another, each with another class."""

    def __init__(self, split: Split, kept: Sequence[int], targets: Sequence[int]) -> None:
        self.split, self.kept, self.targets = split, tuple(kept), tuple(targets)

    def __len__(self) -> int:
        return len(self.kept)

    def load(self, i: int) -> Image.Image:
        return self.split.load(self.kept[i])

    def label(self, i: int) -> str:
        return self.split.label(self.kept[i])

    def entries(self) -> tuple[Entry, ...]:
        return self.split.entries()  # the mapping is named beside the data


@dataclass(frozen=True)
class Labels:
    """A mapping applied to a split.

    Attributes:
        file: its name.
        sha256: of what it holds.
        split: the samples that have a label.
        every: all right classes of each of them.
        unlabelled: how many have none, and are left out.
        chosen_among: the classes that the model may choose; none: all.
    """

    file: str
    sha256: str
    split: Split
    every: tuple[tuple[int, ...], ...]
    unlabelled: int
    chosen_among: tuple[int, ...]

    @property
    def several(self) -> bool:
        """Whether a sample has more than one right class."""
        return any(len(classes) > 1 for classes in self.every)

    def right(self, evaluation: Evaluation) -> Tensor:
        """For each of the most likely classes whether it is right (samples, up to 5)."""
        return torch.tensor(
            [[c in set(right) for c in top] for top, right in zip(evaluation.top.tolist(), self.every, strict=True)]
        )


def relabel(path: Path, dataset: Dataset, classes: int) -> Labels:
    """Other labels for a data set's held-out images, from a JSON object.

    Its keys are class folders, or file names; its values are the model's classes: an index, or a list of those that are all
    right (an empty one leaves the image out, as in ImageNet-ReaL). With class folders the model chooses among the classes that
    are mapped to, as is usual for sets of some of ImageNet's classes (ImageNet-A, ImageNet-R).

    Raises:
        InputError: for a file that is no such mapping, or does not name every class or image.
    """
    expected = 'a JSON object such as {"n01440764": 0} or {"ILSVRC2012_val_00000001.JPEG": [65, 66]}'
    remedy = "write one object in braces, each key once, and neither a list nor a single value"
    mapping = read_object(path, "mapping", expected, remedy)
    table = {key: tuple(value) if isinstance(value, list) else (value,) for key, value in mapping.items()}
    bad = {key: value for key, value in table.items() if not all(type(c) is int and 0 <= c < classes for c in value)}
    if bad:
        key, value = next(iter(bad.items()))
        raise InputError(
            "the mapping names a class that the model has not",
            got=f"{key}: {value}",
            expected=f"0 to {classes - 1}",
            remedy="count the model's classes from 0; an empty list, [], leaves the image out",
        )
    by_class = set(dataset.classes) <= set(table)
    split = dataset.val
    keys = [dataset.classes[c] if by_class else Path(split.label(i)).name for i, c in enumerate(split.targets)]
    unknown = [key for key in keys if key not in table]
    if unknown:
        raise InputError(
            "the mapping does not name every image",
            got=f"no label for {unknown[0]} ({len(unknown)} of {len(keys)} images)",
            expected="a key for each class folder, or for each file name",
            remedy=f'add "{unknown[0]}" with its class, or with [] to leave it out',
        )
    twice = [] if by_class else [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise InputError(
            "the mapping names files, and several files have one name",
            got=f"{twice[0]}: {' and '.join(split.label(i) for i, key in enumerate(keys) if key == twice[0])}",
            expected="file names that occur once, or a key for each class folder",
            remedy="rename the files, or map class folders",
        )
    kept = [i for i, key in enumerate(keys) if table[key]]
    every = tuple(table[keys[i]] for i in kept)
    if not kept:
        raise InputError(
            "the mapping leaves no image",
            got=f"{path}: every list is empty",
            expected="a class for one image or more",
            remedy=f'write the classes that are right, such as "{keys[0]}": [0]',
        )
    chosen = tuple(sorted({c for classes_ in every for c in classes_})) if by_class else ()
    first = _OtherLabels(split, kept, [c[0] for c in every])
    return Labels(path.name, files.sha256(path), first, every, len(keys) - len(kept), chosen)


# --- what is written


def _row(
    request: EvalRequest,
    run: ClassifyJob,
    evaluation: Evaluation,
    size: tuple[int, int],
    sha256: str,
    labels: Labels | None,
    device: torch.device,
    of_run: bool,
) -> EvalRow:
    recipe, config = run.recipe, run.model.config
    accuracy, top5 = evaluation.accuracy, evaluation.top5
    if labels is not None:
        right = labels.right(evaluation)
        accuracy = float(right[:, 0].double().mean())
        top5 = float(right.any(dim=1).double().mean()) if right.shape[1] == 5 else None
    trained: dict[str, Any] = {}
    if of_run:
        digest = read_result(request.path).recipe_digest  # of the training, whatever the evaluation's data are
        trained = {"recipe": recipe.name, "recipe_digest": digest, "seed": recipe.seed}
    return EvalRow(
        environment=records.stamp(device.type),
        **trained,
        model=recipe.model.name,
        **factors_of(config),
        weights=request.weights if of_run else "file",
        weights_sha256=sha256,
        weights_source=hub.name_of(request.path if of_run else request.path.parent),
        mixer_digest=run.identity.mixer_digest,
        model_digest=run.identity.model_digest,
        data_digest=run.identity.data_digest,
        passed_over=len(run.passed_over),
        dataset=run.dataset.name,
        trained_size=run.image_size,
        image_size=size,
        eval_resize=recipe.data.eval_resize,
        eval_crop=recipe.data.eval_crop,
        mean=recipe.data.mean,
        std=recipe.data.std,
        dtype=dtype_name(recipe),
        interpolation=recipe.data.interpolation,
        mapping=None if labels is None else labels.file,
        mapping_sha256=None if labels is None else labels.sha256,
        unlabelled=0 if labels is None else labels.unlabelled,
        accuracy=accuracy,
        top5=top5,
        samples=evaluation.samples,
        loss=None if labels is not None and labels.several else evaluation.loss,
    )


def _name(request: EvalRequest, row: EvalRow) -> str:
    """The directory of an evaluation; other settings and other labels have others."""
    height, width = row.image_size
    parts = [request.path.stem if row.weights == "file" else row.weights]
    parts += [str(height) if height == width else f"{height}x{width}"]
    parts += [Path(row.mapping).stem, (row.mapping_sha256 or "")[:6]] if row.mapping else []
    changed = " ".join([request.recipe or "", *request.overrides]).strip()
    return "-".join([*parts, *([hashlib.sha256(changed.encode()).hexdigest()[:6]] if changed else [])])


def _write(row: EvalRow, evaluation: Evaluation, labels: Labels | None, dataset: Dataset, where: Path) -> None:
    writable_dir(where)
    write_predictions(where / "predictions.parquet", evaluation)
    right = labels.right(evaluation) if labels is not None else evaluation.top == evaluation.targets[:, None]
    named = labels is None
    table = pd.DataFrame(
        {
            "class": [dataset.classes[t] if named else t for t in evaluation.targets.tolist()],
            "samples": 1,
            "right": right[:, 0].int().numpy(),
            "right_in_top5": right.any(dim=1).int().numpy(),
        }
    )
    by_class = table.groupby("class", sort=True).sum()
    by_class["accuracy"] = by_class["right"] / by_class["samples"]
    with writing("the evaluation", where, expected="a writable place with room", remedy="make room, or choose another --out"):
        (by_class if right.shape[1] == 5 else by_class.drop(columns="right_in_top5")).to_csv(where / "by_class.csv")
        (where / "result.json").write_text(row.model_dump_json(indent=2) + "\n")


def _figures(row: EvalRow | TrainRow) -> tuple[object, ...]:
    return row.accuracy, row.top5, row.samples, row.loss
