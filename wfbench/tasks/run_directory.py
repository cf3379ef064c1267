"""The directory of a run: what may be written into it, and what stands there of a run that is finished or was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from wfbench import recipe as recipes
from wfbench import records, strict
from wfbench.errors import InputError
from wfbench.files import in_bytes
from wfbench.recipe import Recipe
from wfbench.records import DenseRow, DiTRow, ProbeRow, TrainRow
from wfbench.tasks import hub
from wfbench.tasks.common import writable_dir
from wfbench.training import checkpoint

#: What a finished run says of itself, by its task.
RunRow = TrainRow | DiTRow | DenseRow | ProbeRow
R = TypeVar("R", TrainRow, DiTRow, DenseRow, ProbeRow)
_RESULT: TypeAdapter[RunRow] = TypeAdapter(Annotated[RunRow, Field(discriminator="kind")])

#: What to do about a file of a run that is not as `wfbench train` wrote it.
PUT_BACK = "put the run's own file back, or use the version of wfbench that wrote it"

#: Settings that may differ between a run and its resume: they change no result, or by rounding alone (then a row says so).
_FREE_TO_CHANGE = (
    *("data.workers", "data.path", "eval_every", "keep_every", "save_steps"),
    *("compute.micro_batch", "compute.eval_batch"),
)


def in_words(row: RunRow) -> str:
    """The held-out figure of a run, for people: accuracy, mIoU or loss."""
    match row:
        case TrainRow():
            return f"{100 * row.accuracy:.2f} %"
        case ProbeRow():
            levels = ", ".join(f"{cell.level:g}: {100 * (cell.accuracy or 0):.1f} %" for cell in row.trained)
            return f"accuracy by level {levels}"
        case DenseRow():
            return f"mIoU {100 * row.miou:.2f} %, pixel accuracy {100 * row.pixel_accuracy:.2f} %"
        case _:
            return f"loss {row.loss:.4f} ({row.weights} weights)"


def try_directory(out: Path) -> None:
    """Try to write where ``out`` is, or will be, and leave nothing behind.

    Raises:
        InputError: if it cannot be written.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    writable_dir(out)
    for path in made:
        path.rmdir()


def check_space(recipe: Recipe, model: nn.Module, out: Path) -> int:
    """The bytes that the run's checkpoints will take; refuses a disk that does not have them.

    The newest one, the one being written, the best one (it may be an older one), those kept for good, and the final weights.

    Raises:
        InputError: naming what is needed and what is free.
    """
    one = checkpoint.size(model, ema=recipe.ema is not None)
    kept = recipe.epochs // recipe.keep_every if recipe.keep_every else 0
    need = (3 + kept) * one + one // 2
    existing = next(path for path in (out, *out.resolve().parents) if path.exists())
    there = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if out.is_dir() else 0
    free = shutil.disk_usage(existing).free
    if free + there < need:
        raise InputError(
            "not enough room for the checkpoints",
            got=f"{in_bytes(free)} free at {out}",
            expected=f"{in_bytes(need)}: {3 + kept} checkpoints of {in_bytes(one)}, and the final weights",
            remedy="make room, choose another --out, or keep fewer (keep_every)",
        )
    return need


def check_directory(recipe: Recipe, out: Path, resume: bool) -> None:
    """Refuse a directory that holds another run, or on a resume another recipe's.

    Raises:
        InputError: naming the differences.
    """
    if resume:
        # Where a run ends once it has solved its probe, the evaluations decide when.
        free = [name for name in _FREE_TO_CHANGE if name != "eval_every" or recipe.stop_when_solved is None]
        changed = recipes.differences(read_recipe(out), recipe, free)
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


def read_recipe(out: Path) -> Recipe:
    """The recipe of a run directory, or of a folder in the Hub's layout.

    Raises:
        InputError: if there is none, or it cannot be read.
    """
    path = out / "config.yaml"
    if (folder := hub.read_config(out)) is not None:
        return recipes.parse(folder.recipe, str(out / hub.CONFIG))
    if not path.is_file():
        raise InputError(
            "not a run directory",
            got=f"{out} without config.yaml",
            expected="the --out of a `wfbench train`",
            remedy="check the path",
        )
    return recipes.parse(strict.read_yaml(path, "run's recipe", PUT_BACK), str(path), PUT_BACK)


def read_result(out: Path) -> RunRow:
    """The result of a finished run, or of a folder in the Hub's layout.

    Raises:
        InputError: if the run is not finished, or is none.
    """
    read_recipe(out)
    path = out / "result.json"
    try:
        if (folder := hub.read_config(out)) is not None:
            path = out / hub.CONFIG
            return _RESULT.validate_python(folder.result, strict=False)
        return _RESULT.validate_json(path.read_bytes())
    except OSError as e:
        raise InputError(
            "the run is not finished",
            got=f"{out} without result.json",
            expected="a finished run",
            remedy=f"wfbench train --resume --out {out}",
        ) from e
    except ValidationError as e:
        raise InputError(
            "cannot read the run's result",
            got=f"{path}: {e.errors()[0]['msg']}",
            expected="a result of this version",
            remedy=PUT_BACK,
        ) from e


def read_rows(out: Path) -> Sequence[RunRow]:
    """All training rows of a finished run: of its raw weights, and of the averaged ones where it has them."""
    if hub.is_folder(out):
        return [read_result(out)]
    rows, _ = records.read(out / "records.jsonl")
    return [row for row in rows if isinstance(row, RunRow)]


def recorded_rows(out: Path) -> list[RunRow]:
    """All that the trainer of a finished run recorded, its result first.

    Raises:
        InputError: if the run is not finished.
    """
    return [read_result(out), *read_rows(out)]


def recorded_row(out: Path, weights: str, kind: type[R]) -> R:
    """What the trainer of a finished run recorded for its "raw" or "ema" weights.

    Raises:
        InputError: if the run is not finished, or has no such row.
    """
    row = next((row for row in recorded_rows(out) if isinstance(row, kind) and row.weights == weights), None)
    if row is None:
        raise InputError(
            "the run has no record of these weights",
            got=str(out),
            expected=f"a row of {weights}",
            remedy="put the run's own records.jsonl back",
        )
    return row
