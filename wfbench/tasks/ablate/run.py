"""A finished run is evaluated again with something taken away, one thing at a time, on the same held-out samples."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from wfbench import recipe as recipes
from wfbench import records
from wfbench.analysis.interval import Interval
from wfbench.analysis.paired_images import counts_change, mean_change, miou, pixel_accuracy
from wfbench.data import Batch
from wfbench.errors import InputError
from wfbench.measure.strength import MeanPredictions, Place, Strengths, predicting_layers, seen
from wfbench.recipe import Recipe
from wfbench.records import AblationRow, Metric, Strength
from wfbench.tasks import hub, jobs
from wfbench.tasks.ablate.interventions import Change, changed, changes_of, recorded
from wfbench.tasks.common import dtype_name, slug, writable_dir
from wfbench.tasks.identity import check_data
from wfbench.tasks.jobs.base import Job
from wfbench.tasks.run_directory import RunRow, read_recipe, read_result, try_directory
from wfbench.tasks.weights import check_weights, located_file, read_weights, weights_file
from wfbench.training import checkpoint

#: What tells a run from another.
_OF_A_RUN = ("mixer", "local_conv", "pos_embed", "every", "offset", "between", "seed", "recipe_digest")
#: Hears how many samples are done.
Progress = Callable[[int], None]


@dataclass(frozen=True)
class AblateRequest:
    """What is taken apart.

    Attributes:
        run: a finished run's directory.
        weights: "raw" or "ema".
        batch_size: samples that are evaluated at once; None: as many as the trainer's evaluations take.
        out: where results go, in a directory of the run's name; None: ``ablation/`` of the run.
    """

    run: Path
    weights: str = "raw"
    batch_size: int | None = None
    out: Path | None = None

    @property
    def place(self) -> Path:
        """Where results go."""
        return hub.results_of(self.run, "ablation") if self.out is None else self.out / slug(self.run.resolve().name)


def requests_of(
    runs: Sequence[Path], weights: str = "raw", batch_size: int | None = None, out: Path | None = None
) -> list[AblateRequest]:
    """A request for each of several runs; one that is named twice is taken apart once.

    Raises:
        InputError: for runs whose results would go to the same place.
    """
    by_place: dict[Path, AblateRequest] = {}
    for run in runs:
        request = AblateRequest(run, weights, batch_size, out)
        other = by_place.setdefault(request.place.resolve(), request)
        if other.run.resolve() != run.resolve():
            raise InputError(
                "two runs would write to one place",
                got=f"{other.run} and {run}, both to {request.place}",
                expected="under --out runs whose directories have different names",
                remedy="leave --out out, so that each has its own ablation/, or give them in two calls with two --out",
            )
    return list(by_place.values())


@dataclass(frozen=True)
class _Network:
    """A run's network by its trained weights, and as it began; None where that cannot be made again."""

    job: Job
    result: RunRow
    sha256: str
    initial: nn.Module | None

    @property
    def model(self) -> nn.Module:
        return self.job.model


@dataclass(frozen=True)
class _Found:
    """What the samples gave, (samples, ...), unchanged and by each change; the strength of predictions, after and before."""

    unchanged: Tensor
    by_change: dict[Change, Tensor]
    strength: dict[Place, Strength]
    before: dict[Place, Strength]


def ablate(request: AblateRequest, *, device: torch.device, progress: Progress | None = None) -> list[AblationRow]:
    """Take a finished run apart: a row for each thing taken away and each figure of its kind of training.

    What every sample gave is written beside the rows (``outcomes-raw.parquet``), a column for each thing taken away. A second
    call evaluates anew; of equal rows the newest counts.

    Raises:
        InputError: for a run that is not finished, is none, or has no such weights; for held-out data that changed, or are
            fewer than two samples; nothing is written then.
    """
    network = _open(request, device)
    batch_size = network.job.held_out_batch if request.batch_size is None else request.batch_size
    if batch_size < 1:
        raise InputError(
            "impossible batch",
            got=f"--batch-size {batch_size}",
            expected="1 or more",
            remedy="leave --batch-size out, for that of the trainer's evaluations",
        )
    _check_place(request, network.result)
    try_directory(request.place)
    found = _measure(network, batch_size, progress or (lambda done: None))
    rows = [row for change in found.by_change for row in _rows(request, network, found, change, device)]
    place = writable_dir(request.place)
    _write_outcomes(place / f"outcomes-{request.weights}.parquet", found, network.job.dataset.classes)
    records.append(place / "records.jsonl", rows)
    return rows


def _check_place(request: AblateRequest, result: RunRow) -> None:
    """Refuse a place under ``out`` that an earlier call gave to another run: what every sample gave would be overwritten."""
    if request.out is None or not (request.place / "records.jsonl").is_file():
        return
    rows = [row for row in records.read(request.place / "records.jsonl")[0] if isinstance(row, AblationRow)]
    others = [row for row in rows if any(getattr(row, name) != getattr(result, name) for name in _OF_A_RUN)]
    if others:
        raise InputError(
            "the results of another run are there",
            got=f"{request.place}: {others[0].mixer}, seed {others[0].seed}, recipe {others[0].recipe}",
            expected=f"a place for {result.mixer}, seed {result.seed}, recipe {result.recipe}",
            remedy="give another --out, or leave it out, so that the run has its own ablation/",
        )


def _open(request: AblateRequest, device: torch.device) -> _Network:
    result, recipe = read_result(request.run), read_recipe(request.run)
    check_weights(request.run, request.weights, recipe)
    path = weights_file(request.run, request.weights)
    tensors, sha256 = read_weights(path)
    job, is_as_it_began = _prepare(request.run, recipe, result)
    if len(job.dataset.val) < 2:
        raise InputError(
            "too few held-out samples",
            got=f"{len(job.dataset.val)} in {job.dataset.name}",
            expected="two or more",
            remedy="take a run whose data hold out more samples",
        )
    check_data(request.run, job.dataset, "val")
    initial = copy.deepcopy(job.model).to(device) if is_as_it_began and predicting_layers(job.model) else None
    checkpoint.load_weights(job.model, tensors, str(path))
    job.model.to(device)
    return _Network(job, result, sha256, initial)


def _prepare(run: Path, recipe: Recipe, result: RunRow) -> tuple[Job, bool]:
    """The run's job, and whether its model is as the run began."""
    if result.recipe_digest != recipes.digest(recipe):
        warnings.warn(f"{run} began with values that this version does not draw: its first strength is not known", stacklevel=2)
        return jobs.prepare(recipe), False
    weights = recipe.model.init_weights
    if weights is not None and not _is_at_hand(weights):
        warnings.warn(f"{run} began with {weights}, which is gone: its first strength is not known", stacklevel=2)
        return jobs.prepare(recipe.model_copy(update={"model": recipe.model.model_copy(update={"init_weights": None})})), False
    return jobs.prepare(recipe), True


def _is_at_hand(weights: str) -> bool:
    """Whether the weights that a run began from are there still."""
    try:
        return located_file(weights)[0].is_file()
    except InputError:
        return False


def _measure(network: _Network, batch_size: int, progress: Progress) -> _Found:
    """All evaluations, batch by batch: once over the samples for the mean predictions, and once for all else."""
    job, model, initial = network.job, network.model, network.initial
    changes, predicts = changes_of(model), bool(predicting_layers(model))
    models = [model, *([] if initial is None else [initial])]
    means = [MeanPredictions() for _ in models]
    if predicts:
        for first, batch in _placed(job.held_out(batch_size=batch_size)):
            for each, mean in zip(models, means, strict=True):
                with changed(each), seen(each, mean.see):
                    job.outcomes(each, [batch], first)
    predictions = means[0].result()
    meters = [Strengths(mean.result()) for mean in means]
    unchanged: list[Tensor] = []
    by_change: dict[Change, list[Tensor]] = {change: [] for change in changes}
    for first, batch, others in _with_others(job.held_out(batch_size=batch_size)):
        for each, meter in zip(models, meters, strict=True):
            with changed(each), seen(each, meter.see):
                outcomes = job.outcomes(each, [batch], first)
            if each is model:
                unchanged.append(outcomes)
        with recorded(model) as donors:
            if predicts:
                job.outcomes(model, [others], first)
        for change in changes:
            with changed(model, change, predictions, donors):
                by_change[change].append(job.outcomes(model, [batch], first))
        progress(first + len(batch[0]))
    strength = [{Place(found.layer, found.slot): found for found in meter.result()} for meter in meters]
    return _Found(
        torch.cat(unchanged),
        {change: torch.cat(parts) for change, parts in by_change.items()},
        strength[0],
        strength[1] if initial is not None else {},
    )


def _placed(batches: Iterator[Batch]) -> Iterator[tuple[int, Batch]]:
    """Each batch with the place of its first sample."""
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch[0])


def _with_others(batches: Iterator[Batch]) -> Iterator[tuple[int, Batch, Batch]]:
    """Each batch with its place, and beside each of its samples the next one of all; beside the last the first."""
    before: tuple[int, Batch] | None = None
    head: Batch | None = None
    for first, batch in _placed(batches):
        head = (batch[0][:1], batch[1][:1]) if head is None else head
        if before is not None:
            yield *before, _shifted(before[1], (batch[0][:1], batch[1][:1]))
        before = (first, batch)
    if before is not None and head is not None:
        yield *before, _shifted(before[1], head)


def _shifted(batch: Batch, following: Batch) -> Batch:
    """The batch without its first sample, and with the one that follows it."""
    if len(batch[0]) == 1:
        return following
    return torch.cat([batch[0][1:], following[0]]), torch.cat([batch[1][1:], following[1]])


def _figures(outcomes: Tensor, unchanged: Tensor, kind: str) -> dict[Metric, tuple[float, float, Interval]]:
    """Of each figure of a kind of training its value, that of the unchanged network, and the interval of their difference."""
    ours, theirs = outcomes.numpy(), unchanged.numpy()
    if kind == "dense":
        of: dict[Metric, Any] = {"miou": miou, "pixel_accuracy": pixel_accuracy}
        sums = [counts.sum(axis=0).astype(float) for counts in (ours, theirs)]
        return {
            name: (float(figure(sums[0])), float(figure(sums[1])), counts_change(ours, theirs, figure))
            for name, figure in of.items()
        }
    metric: Metric = "accuracy" if kind in ("train", "probe") else "loss"
    least = 1 / len(ours) if metric == "accuracy" else 0.0  # one image, or one canvas
    return {metric: (float(ours.mean()), float(theirs.mean()), mean_change(ours, theirs, least))}


def _rows(
    request: AblateRequest, network: _Network, found: _Found, change: Change, device: torch.device
) -> Iterator[AblationRow]:
    job, result = network.job, network.result
    is_one = change.what != "branch" and change.layer is not None
    place = Place(change.layer, change.slot) if is_one and change.layer is not None else None
    for metric, (value, unchanged, interval) in _figures(found.by_change[change], found.unchanged, result.kind).items():
        yield AblationRow(
            environment=records.stamp(device.type),
            **job.run_fields(result.recipe_digest),
            dataset=job.dataset.name,
            image_size=job.image_size,
            dtype=dtype_name(job.recipe),
            weights="raw" if request.weights == "raw" else "ema",
            weights_sha256=network.sha256,
            samples=len(found.unchanged),
            what=change.what,
            slot=change.slot,
            layer=change.layer,
            metric=metric,
            value=value,
            unchanged=unchanged,
            low=interval.low,
            high=interval.high,
            strength=None if place is None else found.strength[place],
            strength_before=None if place is None else found.before.get(place),
        )


def _write_outcomes(path: Path, found: _Found, classes: tuple[str, ...]) -> None:
    """What every sample gave: a column for each change, and one for the unchanged network.

    Of dense prediction there is a line for each image and class with a pixel, and of each network two columns, pixels that are
    right and predicted, beside one of the true ones.
    """
    named = {"unchanged": found.unchanged} | {change.name: outcomes for change, outcomes in found.by_change.items()}
    images = len(found.unchanged)
    if found.unchanged.dim() == 1:
        table = pd.DataFrame({"index": np.arange(images)} | {name: outcomes.numpy() for name, outcomes in named.items()})
    else:
        columns: dict[str, Any] = {
            "index": np.repeat(np.arange(images), len(classes)),
            "class": list(classes) * images,
            "true": found.unchanged[:, 1].flatten().numpy(),
        }
        for name, counts in named.items():
            columns |= {f"{name} right": counts[:, 0].flatten().numpy(), f"{name} predicted": counts[:, 2].flatten().numpy()}
        table = pd.DataFrame(columns)
        table = table[table.drop(columns=["index", "class"]).any(axis=1)]
    with checkpoint.whole(path) as part:
        table.to_parquet(part, index=False, compression="zstd")
