"""Training and evaluating a classifier: composes model, data, loop and record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.data import Dataset, digits_arrays, eval_batches, open_dataset, steps_per_epoch, train_batches
from wfbench.errors import InputError, writing
from wfbench.models import VisionTransformer
from wfbench.recipe import Recipe
from wfbench.records import BaselineRow, Environment, TrainRow
from wfbench.tasks.common import try_count, writable_dir
from wfbench.training import Evaluation, Progress, TrainState, Watch, checkpoint, evaluate, fit

#: Settings that may differ between a run and its resume: they change no result.
_FREE_TO_CHANGE = ("data.workers",)


@dataclass(frozen=True)
class Run:
    """A recipe made concrete: its data and its freshly initialised model."""

    recipe: Recipe
    dataset: Dataset
    model: VisionTransformer
    image_size: tuple[int, int]

    @property
    def in_channels(self) -> int:
        """Channels of the images the model takes."""
        return self.model.config.in_channels

    def evaluate(self, device: torch.device) -> Evaluation:
        """The model as it is now, on every held-out sample once."""
        batches = eval_batches(
            self.dataset.val, self.recipe.data, self.image_size, self.in_channels, batch_size=max(self.recipe.batch_size, 256)
        )
        return evaluate(self.model, batches, device)


def prepare(recipe: Recipe) -> Run:
    """Open the data and build the model, whose weights follow from the recipe's seed.

    Raises:
        InputError, MixerError: for data or a model that cannot be.
    """
    dataset = open_dataset(recipe.data)
    section = recipe.model
    torch.manual_seed(recipe.seed)
    model = models.create(section.name, section.mixer, section.image_size, len(dataset.classes), **section.overrides())
    return Run(recipe, dataset, model, model.config.image_size)


def train(recipe: Recipe, out: Path, watch: Watch, *, device: torch.device, resume: bool = False) -> TrainRow:
    """Train a recipe into the run directory ``out``; with ``resume``, continue one that was interrupted or killed.

    Returns:
        The run's result, which is also in ``out/result.json`` and ``out/records.jsonl``.

    Raises:
        InputError: for bad input, a directory that holds a run already, or a run of another recipe.
        RunError: if the loss is not finite.
        Interrupted: after Ctrl-C, with the state saved.
    """
    _check_directory(recipe, out, resume)
    if resume and (out / "result.json").is_file():
        return read_result(out)
    run = prepare(recipe)
    run.model.to(device)
    environment, began = records.environment(device.type), records.now()  # of the code that runs, not of a later commit
    steps = steps_per_epoch(run.dataset.train, recipe.batch_size)
    state, progress = TrainState(run.model, recipe, steps), Progress()
    writable_dir(out)
    checkpoint.write_whole(out / "config.yaml", recipes.dump(recipe))
    saved = checkpoint.load(out / "checkpoint") if resume else None
    if saved is not None:
        progress = Progress(**saved.progress)
        checkpoint.load_weights(run.model, saved.model, str(out / "checkpoint"))
        state.load(saved.state, progress.epoch * steps + progress.step)
    batches = train_batches(
        run.dataset.train,
        recipe.data,
        run.image_size,
        run.in_channels,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        epochs=recipe.epochs,
        start=(progress.epoch, progress.step),
    )
    final = fit(state, batches, lambda: run.evaluate(device), out, progress, watch, device)
    row = _result(run, state, progress, final, environment, began)
    _write_result(run, final, row, out)
    return row


def evaluate_run(out: Path, *, device: torch.device) -> tuple[Evaluation, TrainRow]:
    """Evaluate a finished run's final weights again, with the trainer's own evaluator; and what the trainer recorded.

    Raises:
        InputError: if ``out`` is no finished run, or its weights do not fit its config.
    """
    row = read_result(out)
    run = prepare(read_recipe(out))
    weights = out / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as e:
        raise InputError("cannot read the weights", got=f"{weights}: {e}", expected="the final weights of the run") from e
    checkpoint.load_weights(run.model, tensors, str(weights))
    run.model.to(device)
    return run.evaluate(device), row


def baselines(recipe: Recipe) -> list[BaselineRow]:
    """Logistic regression and nearest neighbour on raw pixels, on the recipe's split of the digits."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    if recipe.data.source != "digits":
        raise InputError("no baselines for this data", got=recipe.data.source, expected="digits")
    train_x, val_x, train_y, val_y = digits_arrays(recipe.data.holdout, recipe.data.split_seed)
    train_x, val_x = (x.reshape(len(x), -1) / 16 for x in (train_x, val_x))
    classifiers = {
        "logistic regression on pixels": LogisticRegression(max_iter=5000),
        "nearest neighbour on pixels": KNeighborsClassifier(n_neighbors=1),
    }
    return [
        BaselineRow(
            environment=records.environment(),
            name=name,
            dataset=open_dataset(recipe.data).name,
            accuracy=float(classifier.fit(train_x, train_y).score(val_x, val_y)),
            samples=len(val_y),
        )
        for name, classifier in classifiers.items()
    ]


def read_recipe(out: Path) -> Recipe:
    """The recipe of a run directory.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    path = out / "config.yaml"
    if not path.is_file():
        raise InputError(
            "not a run directory",
            got=f"{out} without config.yaml",
            expected="the --out of a `wfbench train`",
            remedy="check the path",
        )
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise InputError("cannot read the run's recipe", got=f"{path}: {' '.join(str(e).split())}") from e
    return recipes.parse(data, str(path))


def read_result(out: Path) -> TrainRow:
    """The result of a finished run.

    Raises:
        InputError: if the run is not finished, or is none.
    """
    read_recipe(out)
    path = out / "result.json"
    try:
        return TrainRow.model_validate_json(path.read_text())
    except OSError as e:
        raise InputError(
            "the run is not finished",
            got=f"{out} without result.json",
            expected="a finished run",
            remedy=f"wfbench train --resume --out {out}",
        ) from e
    except ValidationError as e:
        raise InputError(
            "cannot read the run's result", got=f"{path}: {e.errors()[0]['msg']}", expected="a result of this version"
        ) from e


def _check_directory(recipe: Recipe, out: Path, resume: bool) -> None:
    if resume:
        changed = recipes.differences(read_recipe(out), recipe, _FREE_TO_CHANGE)
        if changed:
            raise InputError(
                "the run has another recipe",
                got="; ".join(changed) + " (run / asked for)",
                expected="the recipe of the run",
                remedy="leave the settings out to resume as it was, or choose another --out",
            )
    elif (out / "config.yaml").exists():
        raise InputError(
            "the directory holds a run already",
            got=str(out),
            expected="a new directory",
            remedy=f"--resume to continue it, or another --out; nothing in {out} was changed",
        )


def _write_result(run: Run, final: Evaluation, row: TrainRow, out: Path) -> None:
    """The final weights, predictions and record; result.json comes last and says that all of it is there."""
    remedy = "make room, then --resume: training is over and saved"
    with writing("the result", out, expected="a writable place with room", remedy=remedy):
        save_file(checkpoint.contiguous(run.model.state_dict()), out / "model.safetensors")
        save_file({"predictions": final.predictions, "targets": final.targets}, out / "predictions.safetensors")
    records.append(out / "records.jsonl", [row])
    checkpoint.write_whole(out / "result.json", row.model_dump_json(indent=2) + "\n")


def _result(
    run: Run, state: TrainState, progress: Progress, final: Evaluation, environment: Environment, began: str
) -> TrainRow:
    count, error = try_count(run.model.cpu(), (1, run.in_channels, *run.image_size))
    seconds = max(progress.train_seconds, 1e-9)
    return TrainRow(
        environment=environment,
        created=began,
        recipe=run.recipe.name,
        recipe_digest=recipes.digest(run.recipe),
        dataset=run.dataset.name,
        model=run.recipe.model.name,
        mixer=run.model.config.mixer,
        local_conv=run.model.config.local_conv,
        pos_embed=run.model.config.pos_embed,
        seed=run.recipe.seed,
        image_size=run.image_size,
        epochs=run.recipe.epochs,
        steps=state.step_count,
        batch=run.recipe.batch_size,
        dtype="float32",
        parameters=sum(p.numel() for p in run.model.parameters()),
        macs=None if count is None else count.macs,
        macs_error=error,
        accuracy=final.accuracy,
        samples=final.samples,
        loss=final.loss,
        best_accuracy=progress.best_accuracy,
        train_seconds=progress.train_seconds,
        images_per_second=progress.images / seconds,
        data_wait_share=progress.wait_seconds / seconds,
    )
