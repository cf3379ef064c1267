"""The one training loop. Read it from top to bottom."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from wfbench.training import checkpoint
from wfbench.training.evaluate import Evaluation
from wfbench.training.state import TrainState

#: Losses are looked at every so many steps: looking at each would make a GPU wait for it.
LOOK_EVERY = 50


class RunError(RuntimeError):
    """The run itself failed (exit code 1), as opposed to its input."""


class Interrupted(Exception):
    """Ctrl-C: the step was finished and the state saved (exit code 130)."""


class Watch(Protocol):
    """Who watches a run: a progress bar, or plain lines."""

    def step(self, epoch: int, step: int, loss: float | None) -> None:
        """After each step; the loss when it was looked at."""
        ...

    def epoch(self, row: dict[str, Any]) -> None:
        """After each epoch, with its row of metrics.jsonl."""
        ...


@dataclass
class Progress:
    """Where a run is, and what it has cost, over all its sessions. All of it is in every checkpoint."""

    epoch: int = 0
    step: int = 0  # within the epoch
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    images: int = 0
    best_accuracy: float = 0.0
    losses: list[float] = field(default_factory=list)  # of the epoch's steps so far
    rows: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl so far


def fit(
    state: TrainState,
    batches: Iterator[tuple[Tensor, Tensor]],
    evaluate: Callable[[], Evaluation],
    run_dir: Path,
    progress: Progress,
    watch: Watch,
    device: torch.device,
) -> Evaluation:
    """Train from ``progress`` to the recipe's last epoch; returns the last epoch's evaluation.

    Each epoch ends with an evaluation, a line in ``metrics.jsonl`` and a checkpoint.

    Raises:
        RunError: at a loss that is not finite, naming the step; the last checkpoint stays.
        Interrupted: after Ctrl-C, once the state is saved.
    """
    epochs, steps = state.recipe.epochs, state.steps_per_epoch
    evaluation: Evaluation | None = None
    with _interrupts() as interrupted:
        while progress.epoch < epochs:
            state.model.train()
            recent: list[Tensor] = []
            while progress.step < steps:
                start = time.perf_counter()
                inputs, targets = next(batches)
                progress.wait_seconds += time.perf_counter() - start
                metrics = state.step(inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True))
                recent.append(metrics.loss)
                progress.step += 1
                progress.images += len(inputs)
                look = progress.step == steps or len(recent) == LOOK_EVERY or bool(interrupted)
                if look:
                    progress.losses += _finite(recent, state.step_count)
                    recent = []
                progress.train_seconds += time.perf_counter() - start
                watch.step(progress.epoch, progress.step, progress.losses[-1] if look else None)
                if interrupted and progress.step < steps:
                    checkpoint.save(run_dir / "checkpoint", state, asdict(progress))
                    raise Interrupted(f"stopped in epoch {progress.epoch + 1} after step {progress.step} of {steps}")
            evaluation = evaluate()
            if not math.isfinite(evaluation.loss):
                raise RunError(f"the held-out loss is not finite after step {state.step_count}; the last checkpoint is kept")
            progress.best_accuracy = max(progress.best_accuracy, evaluation.accuracy)
            row = {
                "epoch": progress.epoch + 1,
                "step": state.step_count,
                "train_loss": sum(progress.losses) / len(progress.losses),
                "lr": metrics.lr,
                "grad_norm": float(metrics.grad_norm),
                "accuracy": evaluation.accuracy,
                "loss": evaluation.loss,
                "samples": evaluation.samples,
                "train_seconds": round(progress.train_seconds, 3),
            }
            progress.rows.append(row)
            progress.losses, progress.step, progress.epoch = [], 0, progress.epoch + 1
            lines = "".join(json.dumps(past) + "\n" for past in progress.rows)
            checkpoint.write_whole(run_dir / "metrics.jsonl", lines)
            checkpoint.save(run_dir / "checkpoint", state, asdict(progress))
            watch.epoch(row)
            if interrupted and progress.epoch < epochs:
                raise Interrupted(f"stopped after epoch {progress.epoch} of {epochs}")
    return evaluation if evaluation is not None else evaluate()


def _finite(losses: list[Tensor], last_step: int) -> list[float]:
    values = [float(x) for x in torch.stack(losses).cpu()]
    for i, value in enumerate(values):
        if not math.isfinite(value):
            step = last_step - len(values) + i + 1
            raise RunError(f"the loss is not finite: {value} at step {step}; the last checkpoint is kept; lower optim.lr")
    return values


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """A list that is filled at the first Ctrl-C; the second one stops at once."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: nobody can press Ctrl-C there
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
