"""``wfbench eval`` of a run of dense prediction: mIoU on held-out images, at any resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from wfbench import recipe as recipes
from wfbench import records
from wfbench.data.what_counts import in_few_words
from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.records import DenseEvalRow, DenseRow
from wfbench.tasks import hub
from wfbench.tasks.common import other_machine
from wfbench.tasks.evaluate_weights import OTHER_DATA, check_sizes
from wfbench.tasks.identity import changes, check_data, read_identity
from wfbench.tasks.jobs import dense
from wfbench.tasks.run_directory import read_recipe, read_result, recorded_row, try_directory
from wfbench.tasks.weights import check_weights, read_metadata, read_weights, weights_file
from wfbench.training import checkpoint

#: Settings of `data.dense` by which the images and masks are the same.
_SAME_DATA = {"scale", "max_class_share", "eval_size"}


@dataclass(frozen=True)
class DenseResult:
    """One evaluation.

    Attributes:
        row: its figures.
        recorded: for the unchanged evaluation of a run, what its trainer recorded; else None.
        notes: what is other than when the run was trained, in words.
    """

    row: DenseEvalRow
    recorded: DenseRow | None
    notes: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool | None:
        """Whether these figures are exactly the trainer's; None if there are none to compare with."""
        if self.recorded is None:
            return None
        return _figures(self.row) == _figures(self.recorded)

    @property
    def elsewhere(self) -> str:
        """How the trainer's machine differs from this one, so that figures may differ by rounding; empty if it does not."""
        return "" if self.recorded is None else other_machine(self.row.environment, self.recorded.environment)


def evaluate_dense_run(
    run: Path,
    weights: str = "raw",
    resolutions: tuple[int, ...] = (),
    overrides: tuple[str, ...] = (),
    *,
    device: torch.device,
    out: Path | None = None,
) -> list[DenseResult]:
    """Evaluate a finished run at every resolution asked for; rows go to ``out``, by default see `hub.results_of`.

    Args:
        run: the run directory.
        weights: "raw" or "ema".
        resolutions: sides in pixels, of scenes, or of images in files the shorter one that they are resized to; none: the
            model's own size.
        overrides: settings of ``data.`` and of ``dense.inference`` and ``dense.stride`` to change.
        device: where to.
        out: where results go.

    Raises:
        InputError: for a run that is not finished or has no such weights, data or a resolution that do not fit; nothing is
            written then.
        MixerError: for a mixer that cannot work at another resolution.
    """
    final, recipe = read_result(run), _recipe(run, weights, overrides)
    tensors, sha256 = read_weights(weights_file(run, weights))
    job = dense.prepare(recipe.model_copy(update={"model": recipe.model.model_copy(update={"init_weights": None})}))
    checkpoint.load_weights(job.model, tensors, str(run))
    job.model.to(device).eval()
    sizes = [(side, side) for side in resolutions] or [job.image_size]
    check_sizes(sizes, job.model.config.patch_size)
    if resolutions and job.resized is None and recipe.data.source != "scenes":
        raise InputError(
            "the images have sizes of their own",
            got=f"--resolution {resolutions[0]} for {job.dataset.name}, evaluated at these",
            expected="no --resolution, or images that are resized to it",
            remedy="--set data.dense.eval_size=shorter resizes their shorter side",
        )
    notes = _compare(run, weights, job, overrides)
    for size in sizes:  # what does not fit one of them says so before the first is evaluated
        job.try_evaluation(next(job.held_out(size, batch_size=1)), size)
    unchanged = not overrides
    recorded = recorded_row(run, weights, DenseRow) if unchanged else None
    place = out or hub.results_of(run, "eval")
    try_directory(place)
    results = []
    for size in sizes:
        found = job.evaluation(job.model, size)
        row = DenseEvalRow(
            environment=records.stamp(device.type),
            **job.run_fields(final.recipe_digest),
            weights_sha256=sha256,
            trained_size=job.image_size,
            image_size=size,
            mean=recipe.data.mean,
            std=recipe.data.std,
            resized=job.resized,
            slide=None if job.window is None else job.section.stride,
            **job.held_out_figures(found, "ema_" if weights == "ema" else ""),
        )
        results.append(DenseResult(row, recorded if size == job.image_size else None, notes))
    records.append(place / "records.jsonl", [result.row for result in results])
    return results


def _recipe(run: Path, weights: str, overrides: tuple[str, ...]) -> Recipe:
    recipe = read_recipe(run)
    check_weights(run, weights, recipe)
    allowed = ("data.", "dense.inference=", "dense.stride=")
    wrong = [setting for setting in overrides if not setting.startswith(allowed)]
    if wrong:
        raise InputError(
            "only its data and its windows can be changed for a run",
            got=wrong[0],
            expected="data.…=…, dense.inference=… or dense.stride=…",
            remedy=f"leave it out, or train another run with it: wfbench train --set {wrong[0]}",
        )
    return recipes.override(recipe, overrides)


def _compare(run: Path, weights: str, job: dense.DenseJob, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """See that the held-out data are the run's, unless others were asked for; what is other and may be, in words."""
    then = read_identity(run)
    if then is None:
        return ()
    if not _are_others_asked_for(read_recipe(run), job.recipe, overrides):
        check_data(run, job.dataset, "val")
    elif (about := read_metadata(weights_file(run, weights))) is not None and about.classes != job.dataset.classes:
        raise InputError(
            "the data have other classes than the weights, or in another order",
            got=f"{job.dataset.name}: {in_few_words(job.dataset.classes)}",
            expected=f"{in_few_words(about.classes)}, in this order, by which masks number them",
            remedy="list and number the classes as the training data did",
        )
    return tuple(
        f"evaluated with other code than the run's: {line}"
        for line in changes(then, job.identity, ("mixer code", "model code"))
    )


def _are_others_asked_for(own: Recipe, asked: Recipe, overrides: tuple[str, ...]) -> bool:
    """Whether settings name other data than the run's, and not only another way to crop or resize them."""
    if any(setting.partition("=")[0] in OTHER_DATA for setting in overrides):
        return True
    of_own, of_asked = (recipe.data.model_dump(include={"dense"}, exclude={"dense": _SAME_DATA}) for recipe in (own, asked))
    return of_own != of_asked


def _figures(row: DenseRow | DenseEvalRow) -> tuple[object, ...]:
    return row.iou, row.pixel_accuracy, row.loss, row.samples, row.pixels
