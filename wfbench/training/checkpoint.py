"""Checkpoints: whole or absent, and nothing in them is ever unpickled.

A checkpoint is a directory ``step-00000660`` of two safetensors files and one JSON file. It is written under another
name, flushed, and renamed: the newest directory with that name is always whole, whenever the process was killed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wfbench.errors import InputError, writing
from wfbench.training.state import TrainState


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: weights, the rest of the training state, and plain progress data."""

    model: dict[str, Tensor]
    state: dict[str, Tensor]
    progress: dict[str, Any]


def save(directory: Path, state: TrainState, progress: dict[str, Any]) -> None:
    """Write a checkpoint of ``state`` into ``directory`` and remove older ones.

    Raises:
        InputError: if it cannot be written; the previous checkpoint is then still there.
    """
    final = directory / f"step-{state.step_count:08d}"
    part = directory / f".{final.name}.part"
    remedy = "make room, then --resume from the previous checkpoint"
    with writing("a checkpoint", directory, expected="a writable place with room", remedy=remedy):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(contiguous(state.model.state_dict()), part / "model.safetensors")
        save_file(contiguous(state.tensors()), part / "state.safetensors")
        (part / "progress.json").write_text(json.dumps(progress))
        for file in [*part.iterdir(), part]:
            _flush(file)
        if final.exists():  # the same step saved twice
            shutil.rmtree(final)
        part.rename(final)
        _flush(directory)
    for old in _found(directory)[:-1]:
        shutil.rmtree(old, ignore_errors=True)


def load(directory: Path) -> Checkpoint | None:
    """The newest checkpoint in ``directory``; None if there is none.

    Raises:
        InputError: if it cannot be read.
    """
    found = _found(directory)
    if not found:
        return None
    newest = found[-1]
    try:
        progress = json.loads((newest / "progress.json").read_text())
        return Checkpoint(load_file(newest / "model.safetensors"), load_file(newest / "state.safetensors"), progress)
    except (OSError, ValueError, SafetensorError) as e:
        raise InputError(
            "the checkpoint cannot be read",
            got=f"{newest}: {e}",
            expected="a checkpoint of this run",
            remedy="remove it and train again",
        ) from e


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load weights that must fit the model exactly.

    Raises:
        InputError: naming what does not fit.
    """
    own = model.state_dict()
    wrong = [f"missing {k}" for k in own if k not in weights] + [f"unexpected {k}" for k in weights if k not in own]
    wrong += [
        f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}" for k, v in weights.items() if k in own and v.shape != own[k].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(
            "weights of another model",
            got=f"{where}: {', '.join(wrong[:4])}{more}",
            expected="the weights of the model in the run's config.yaml",
        )
    model.load_state_dict(weights)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a resume after a kill, finds the old one or the new one.

    Raises:
        InputError: if it cannot be written; the old one is then still there.
    """
    part = path.with_name(f".{path.name}.part")
    with writing(path.name, path, expected="a writable place with room", remedy="make room, then --resume the run"):
        part.write_text(text)
        os.replace(part, path)


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors wants them: contiguous, detached, each with memory of its own."""
    return {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}


def _found(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
