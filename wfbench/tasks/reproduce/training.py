"""A recorded training again: by its recipe, its seed and its data, and against its final metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from mixers import MixerError
from wfbench import recipe as recipes
from wfbench import records
from wfbench.analysis.lines import label
from wfbench.analysis.reproduction import Spread, compare_draws, moderated
from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.records import FACTORS, Environment
from wfbench.records import option_values as said
from wfbench.records.identity import digest_text
from wfbench.records.run_directory import Run
from wfbench.tasks import jobs
from wfbench.tasks.common import other_machine, slug
from wfbench.tasks.identity import changes
from wfbench.tasks.reproduce.cells import Cell, TrainingCell
from wfbench.tasks.reproduce.own import in_short, predictions_of, result_of
from wfbench.tasks.reproduce.verdict import Verdict, unequal
from wfbench.tasks.run_directory import RunRow, read_recipe, recorded_row
from wfbench.training import RunError
from wfbench.training import Watch as TrainWatch


class Trains(Protocol):
    """What makes a run: `wfbench.tasks.jobs.train`, or a stand-in."""

    def __call__(self, recipe: Recipe, out: Path, watch: TrainWatch, *, device: torch.device, resume: bool) -> RunRow:
        """Train into a run directory, or go on there, or read what is finished."""
        ...


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """How a training is repeated.

    Attributes:
        cell: what was recorded.
        recipe: resolved, with the data's place here.
        device: "cpu" or "cuda".
        differs: what is other here than in the record, in words.
        equal_bits: whether code, data, environment and draws are all those of the record: then the same bits are due.
        folder: the run directory's name, which other code or other settings change.
    """

    cell: TrainingCell
    recipe: Recipe
    device: str
    differs: tuple[str, ...]
    equal_bits: bool
    folder: str


def plan_training(cell: TrainingCell, *, data: str | None, device: str | None) -> TrainingPlan | list[str]:
    """How to repeat a training, or what is missing for it, in words.

    Args:
        cell: what was recorded.
        data: where the images are here, as ``--data`` of `wfbench train` has it; None for where the recipe has them.
        device: "cpu" or "cuda"; None for the row's.
    """
    row = cell.row
    chosen = device or row.environment.device_type
    if chosen == "cuda" and not torch.cuda.is_available():
        return [f"a CUDA device: it was trained on {row.environment.device}"]
    try:
        recipe = _recipe_of(cell)
        if data is not None and recipe.data.path is not None:
            recipe = recipes.override(recipe, recipes.data_settings(data, recipe.data.source))
        job = jobs.prepare(recipe)
        identity = job.identity
    except (InputError, MixerError) as e:
        return [in_short(e)]
    if wrong := [*_other_recipe(row, recipe, job.image_size), *_other_data(row, job.dataset.name, identity.data_digest)]:
        return wrong
    with threads(row.environment.threads):
        here = records.stamp(chosen)
    digest = recipes.digest(recipe)
    differs = [*_differences(row, here), *changes(row, identity, ("mixer code", "model code"))]
    if digest != row.recipe_digest:
        differs.append(f"the recipe's digest {row.recipe_digest} (here {digest}): its draws or its settings were changed since")
    if row.processes > 1:
        differs.append(f"it was trained by {row.processes} processes, here by one")
    whole = all((row.mixer_digest, row.model_digest, row.data_digest))
    if not whole:
        differs.append("the record does not say with which code, or from which data")
    equal_bits = whole and not differs and chosen == "cpu" and not row.ways and row.code_changed is None
    made_by = f"{here.git_revision} {here.git_dirty} {sorted(here.versions.items())} {here.threads} {chosen}"
    content = f"{recipes.dump(recipe)} {identity.mixer_digest} {identity.model_digest} {identity.data_digest} {made_by}"
    folder = f"{slug(recipe.name)}-{slug(label(row).replace(' ', ''))}-s{row.seed}-{digest_text(content)[:8]}"
    return TrainingPlan(cell, recipe, chosen, tuple(differs), equal_bits, folder)


def run_training(
    plan: TrainingPlan, out: Path, watch: TrainWatch, others: Sequence[Cell], *, cells: int, train: Trains = jobs.train
) -> Verdict:
    """Train it again into a directory below ``out``, going on where an earlier call was stopped, and compare.

    Args:
        plan: how.
        out: of all that this command makes.
        watch: hears of every step and epoch.
        others: all cells of the records, for how far seeds scatter.
        cells: that were drawn.
        train: what makes the run.
    """
    cell, place = plan.cell, out / plan.folder
    try:
        with threads(cell.row.environment.threads):
            train(plan.recipe, place, watch, device=torch.device(plan.device), resume=(place / "config.yaml").is_file())
    except RunError as e:
        return Verdict("disagree", f"it was recorded as finished, and fails here: {' '.join(str(e).split())}", made=place)
    new: RunRow = recorded_row(place, cell.row.weights, type(cell.row))  # type: ignore[type-var]
    return judge_training(plan, new, _same_predictions(cell, new, place), spread_of(cell, others), cells=cells, made=place)


def judge_training(
    plan: TrainingPlan, new: RunRow, same: float | None, spread: Spread | None, *, cells: int, made: Path
) -> Verdict:
    """Whether a new run's counts and final metric agree with the recorded ones; docs/REPRODUCE.md has the rule.

    Args:
        plan: what was recorded, and whether the same bits are due.
        new: the new run's row.
        same: the share of held-out images with the same prediction; None where it is not known.
        spread: of the metric from seed to seed; None where no other run says it.
        cells: that were drawn.
        made: the new run's directory.
    """
    old, now = result_of(plan.cell.row), result_of(new)
    if wrong := unequal(plan.cell.row, new, {"parameters": "parameters", "macs": "MACs"}):
        return Verdict("disagree", "; ".join(wrong), old, now, difference=now - old, same_predictions=same, made=made)
    if abs(now - old) <= 1e-12 * max(1.0, abs(old)) and same in (None, 1.0):
        return Verdict("agree", "the same to the last digit", old, now, difference=now - old, same_predictions=same, made=made)
    due = ", though the same bits are due: code, data, environment and seed are the record's" if plan.equal_bits else ""
    if spread is None:
        answer = "disagree" if plan.equal_bits else "cannot be compared"
        why = f"not the same{due}; no other seed of this recipe says how far seeds scatter"
        return Verdict(answer, why, old, now, difference=now - old, same_predictions=same, made=made)  # type: ignore[arg-type]
    found = compare_draws(old, now, spread, cells=cells)
    within = "within" if found.agrees else "beyond"
    return Verdict(
        "agree" if found.agrees else "disagree",
        f"{within} what two draws of a seed differ by: standard deviation {spread.variance**0.5:.3g} from seed to seed{due}",
        old,
        now,
        difference=now - old,
        low=found.difference.low,
        high=found.difference.high,
        level=found.difference.level,
        found_from=found.found_from,
        same_predictions=same,
        made=made,
    )


def spread_of(cell: TrainingCell, others: Sequence[Cell]) -> Spread | None:
    """How far the final metric scatters from seed to seed in the cell's line, from all runs of its recipe but its own.

    Lines of one recipe and data set tell of one another (`moderated`). None where no line has two other seeds that differ.
    """
    lines: dict[tuple[object, ...], list[float]] = {_line(cell.row): []}
    for other in others:
        if isinstance(other, TrainingCell) and other is not cell and _setting(other.row) == _setting(cell.row):
            lines.setdefault(_line(other.row), []).append(result_of(other.row))
    own, *rest = lines.values()
    try:
        return moderated([own or [0.0], *rest])[0]
    except InputError:
        return None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch's number of threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def uncommitted(there: Environment, here: Environment) -> list[str]:
    """What says that either side's code is not that of its revision."""
    sides = [words for words, place in (("in the record", there), ("here", here)) if place.git_dirty]
    return [f"uncommitted changes of the code {' and '.join(sides)}"] if sides else []


def _setting(row: RunRow) -> tuple[object, ...]:
    return row.kind, row.recipe_digest, row.dataset, row.weights, row.image_size, row.epochs, row.batch


def _line(row: RunRow) -> tuple[object, ...]:
    return label(row, all_positions=True), row.model, row.parameters, row.steps, row.pretraining, row.mixer_digest


def _recipe_of(cell: TrainingCell) -> Recipe:
    """From the run's config.yaml; else from the recipe that the row names, with the settings of its command.

    Raises:
        InputError: where neither says it.
    """
    if cell.place is not None:
        return read_recipe(cell.place)
    row = cell.row
    recipe = recipes.load(row.recipe, [*said(row.command, "--set"), f"seed={row.seed}"])
    section = recipe.model.model_copy(update={name: getattr(row, name) for name in ("mixer", *FACTORS)})
    recipe = recipe.model_copy(update={"model": section})
    if recipes.digest(recipe) != row.recipe_digest:
        raise InputError(
            "the row does not say how it was trained: no config.yaml of its run is beside it, and its recipe is another",
            got=f"digest {row.recipe_digest} in the record",
            expected=f"{recipes.digest(recipe)}, as the recipe {row.recipe} with the settings of its command has it here",
            remedy="put the run directory, with its config.yaml, back beside the record",
        )
    return recipe


def _other_recipe(row: RunRow, recipe: Recipe, image_size: tuple[int, int]) -> list[str]:
    """What says that the recipe that is there is not that of the row."""
    pairs = {
        "seed": (row.seed, recipe.seed),
        "epochs": (row.epochs, recipe.epochs),
        "batch": (row.batch, recipe.batch_size),
        "image size": (tuple(row.image_size), tuple(image_size)),
        "mixer": (row.mixer, recipe.model.mixer or row.mixer),
    }
    return [f"its config.yaml: {name} {then} in the record, {now} there" for name, (then, now) in pairs.items() if then != now]


def _other_data(row: RunRow, name: str, digest: str | None) -> list[str]:
    """What says that the data here are others."""
    if name != row.dataset:
        return [f"its data: {row.dataset} in the record, {name} here"]
    if row.data_digest and digest and row.data_digest != digest:
        return [f"its data: digest {row.data_digest} in the record, {digest} here"]
    return []


def _differences(row: RunRow, here: Environment) -> list[str]:
    then = row.environment
    found = [machine] if (machine := other_machine(here, then)) else []
    if then.git_revision != here.git_revision or then.versions.get("wfbench") != here.versions.get("wfbench"):
        found.append(f"revision {(then.git_revision or 'unknown')[:12]} (here {(here.git_revision or 'unknown')[:12]})")
    return [*found, *uncommitted(then, here)]


def _same_predictions(cell: TrainingCell, new: RunRow, place: Path) -> float | None:
    """The share of held-out images on which both runs predict the same class; None where either did not keep predictions."""
    if not isinstance(new, records.TrainRow):
        return None
    theirs, ours = predictions_of(cell), Run(place, new).predictions()
    if theirs is None or ours is None or len(theirs) != len(ours) or not (theirs["label"] == ours["label"]).all():
        return None
    return float((theirs["top1"] == ours["top1"]).mean())
