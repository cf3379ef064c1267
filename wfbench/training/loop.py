"""The one training loop. Read it from top to bottom."""

from __future__ import annotations

import functools
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from wfbench import signals
from wfbench.errors import NotFiniteError
from wfbench.records.training import Strength
from wfbench.signals import Interrupted
from wfbench.training import checkpoint, distributed
from wfbench.training.state import StepMetrics, TrainState

#: Losses are looked at every so many steps: looking at each would make a GPU wait for it.
LOOK_EVERY = 50
#: Several processes ask one another every so many steps whether one of them was told to stop.
AGREE_EVERY = 10


class Mix(Protocol):
    """What a batch goes through on its device before a step."""

    def __call__(self, images: Tensor, classes: Tensor, *, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """The mixed batch; random draws follow from ``key``, which is (seed, epoch, step)."""
        ...


class RunError(RuntimeError):
    """The run itself failed (exit code 1), as opposed to its input."""


class Watch(Protocol):
    """Who watches a run: a progress bar, plain lines, or a tracker of experiments."""

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """After each of an epoch's ``steps`` steps; the loss when it was looked at."""
        ...

    def epoch(self, row: dict[str, Any]) -> None:
        """After each epoch, with its row of metrics.jsonl."""
        ...


@dataclass(frozen=True)
class Scores:
    """What an evaluation says: its figures by name, "loss" among them, and what makes an epoch the best one."""

    metrics: Mapping[str, float | int]
    #: Of the best epoch, it is the largest.
    headline: float
    #: What the task wants to keep of it.
    detail: Any = None
    #: Whether nothing is left to learn, by the task's rule.
    is_solved: bool = False
    #: The strength of predicted parts, by the prefix of the weights' figures; empty where there is no predicted part.
    strengths: Mapping[str, tuple[Strength, ...]] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a run is, and what it has cost, over all its sessions. All of it is in every checkpoint."""

    epoch: int = 0
    step: int = 0  # within the epoch; at its last one, the epoch is trained and not evaluated
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    images: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    lr: float = 0.0  # of the last step that was looked at, and the norm of its gradient
    grad_norm: float = 0.0
    losses: list[float] = field(default_factory=list)  # of the epoch's steps so far
    rows: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl so far
    solved: int = 0  # the last evaluations in a row that found the task solved
    began: str = ""  # when the first session did
    ways: list[str] = field(default_factory=list)  # how each session worked that did so in another way than the one before


def fit(
    state: TrainState,
    batches: Iterator[tuple[Tensor, Tensor]],
    evaluate: Callable[[], Scores],
    run_dir: Path,
    progress: Progress,
    watch: Watch,
    *,
    mix: Mix | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Scores:
    """Train from ``progress`` to the recipe's last epoch, or until the task is solved; returns that epoch's evaluation.

    Each epoch ends with a line in ``metrics.jsonl`` and a checkpoint, and, as the recipe has it, with an evaluation. The
    weights of a checkpoint carry ``metadata`` in their headers.

    Raises:
        RunError: at a loss that is not finite, naming the step; the last checkpoint stays.
        Interrupted: after a signal, once the state is saved.
    """
    recipe, steps, world = state.recipe, state.steps_per_epoch, distributed.world()
    save_to = run_dir / "checkpoint"
    scores: Scores | None = None
    layout = torch.channels_last if recipe.compute.channels_last else torch.preserve_format
    with _interrupts() as interrupted, checkpoint.Writer(save_to) as writer:
        while progress.epoch < recipe.epochs and not _is_done(progress, recipe.stop_when_solved):
            state.model.train()
            recent: list[Tensor] = []
            is_trained_now = progress.step < steps
            while progress.step < steps:
                start = time.perf_counter()
                inputs, targets = next(batches)
                progress.wait_seconds += time.perf_counter() - start
                inputs = inputs.to(state.device, non_blocking=True, memory_format=layout)
                targets = targets.to(state.device, non_blocking=True)
                if mix is not None:
                    inputs, targets = mix(inputs, targets, key=(recipe.seed, progress.epoch, progress.step))
                metrics = state.step(inputs, targets)
                recent.append(metrics.loss)
                progress.step += 1
                progress.images += len(inputs) * world
                stop = _stop(interrupted, progress.step) if progress.step < steps else 0
                save = _is_turn(progress.step, recipe.save_steps) and progress.step < steps
                look = progress.step == steps or len(recent) == LOOK_EVERY or bool(stop) or save
                if look:
                    with _naming_checkpoint(save_to):
                        progress.losses += _finite(recent, state.step_count)
                        _check_gradient(metrics, state)  # a loss of the next step would say it, but this one may be saved
                    progress.lr, progress.grad_norm = metrics.lr, float(metrics.grad_norm)
                    recent = []
                progress.train_seconds += time.perf_counter() - start
                watch.step(progress.epoch, progress.step, steps, progress.losses[-1] if look else None)
                if stop or save:
                    writer.save(state, asdict(progress), metadata=metadata)
                if stop:
                    writer.finish()
                    raise Interrupted(f"stopped in epoch {progress.epoch + 1} after step {progress.step} of {steps}", stop)
            last = progress.epoch + 1 == recipe.epochs
            is_evaluated = last or _is_turn(progress.epoch + 1, recipe.eval_every)
            if is_evaluated and is_trained_now:  # saved first: what can fail comes after it, and a resume repeats it alone
                writer.save(state, asdict(progress), metadata=metadata)
                stop = distributed.largest(interrupted[0] if interrupted else 0)
                if stop:
                    writer.finish()
                    raise Interrupted(f"stopped after epoch {progress.epoch + 1}, before its evaluation", stop)
            scores = _evaluated(evaluate, state.step_count) if is_evaluated else None
            writer.finish()
            if scores is not None:
                progress.solved = progress.solved + 1 if scores.is_solved else 0
            best = False
            if scores is not None and scores.headline > progress.best:
                best, progress.best, progress.best_epoch = True, scores.headline, progress.epoch + 1
            row = {
                "epoch": progress.epoch + 1,
                "step": state.step_count,
                "train_loss": sum(progress.losses) / len(progress.losses),
                "lr": progress.lr,
                "grad_norm": progress.grad_norm,
                **(scores.metrics if scores is not None else {}),
                "train_seconds": round(progress.train_seconds, 3),
                "images_per_second": round(progress.images / progress.train_seconds, 1),
            }
            progress.rows.append(row)
            progress.losses, progress.step, progress.epoch = [], 0, progress.epoch + 1
            lines = "".join(json.dumps(past) + "\n" for past in progress.rows)
            distributed.on_main(functools.partial(checkpoint.write_whole, run_dir / "metrics.jsonl", lines))
            name = f"epoch-{progress.epoch:04d}" if _is_turn(progress.epoch, recipe.keep_every) else None
            if is_evaluated:
                writer.amend(state, asdict(progress), best=best, keep=name)
            else:
                writer.save(state, asdict(progress), keep=name, metadata=metadata)
            watch.epoch(row)
            stop = distributed.largest(interrupted[0] if interrupted else 0)
            if stop and progress.epoch < recipe.epochs and not _is_done(progress, recipe.stop_when_solved):
                writer.finish()
                raise Interrupted(f"stopped after epoch {progress.epoch} of {recipe.epochs}", stop)
    return scores or evaluate()  # a run that was stopped when only its result was missing


@contextmanager
def _naming_checkpoint(directory: Path) -> Iterator[None]:
    """A run that fails says whether there is a checkpoint from before."""
    try:
        yield
    except RunError as e:
        there = any(directory.glob("step-*"))
        kept = "the last checkpoint, from before it, is kept" if there else "there is no checkpoint yet"
        raise RunError(f"{e}; {kept}") from e


def _evaluated(evaluate: Callable[[], Scores], step: int) -> Scores:
    """The evaluation after a step that is saved; what is not finite fails the run."""
    try:
        scores = evaluate()
    except NotFiniteError as e:
        raise RunError(f"after step {step}, whose checkpoint is kept, {e}") from e
    bad = [name for name, value in scores.metrics.items() if not math.isfinite(value)]
    if bad:
        raise RunError(f"the held-out {bad[0]} is not finite after step {step}, whose checkpoint is kept")
    return scores


def _is_done(progress: Progress, evaluations: int | None) -> bool:
    """Whether so many evaluations in a row found the task solved."""
    return evaluations is not None and progress.solved >= evaluations


def _is_turn(count: int, every: int | None) -> bool:
    return every is not None and count % every == 0


def _stop(interrupted: list[int], step: int) -> int:
    """The signal to stop at, the same in every process; 0 for none."""
    own = interrupted[0] if interrupted else 0
    if distributed.world() == 1:
        return own
    return distributed.largest(own) if step % AGREE_EVERY == 0 else 0


def _finite(losses: list[Tensor], last_step: int) -> list[float]:
    """The losses of the last steps, over all processes."""
    values = [float(x) for x in distributed.mean(torch.stack(losses))]
    for i, value in enumerate(values):
        if not math.isfinite(value):
            step = last_step - len(values) + i + 1
            raise RunError(f"the loss is not finite: {value} at step {step}; lower optim.lr")
    return values


def _check_gradient(metrics: StepMetrics, state: TrainState) -> None:
    """Fail if the last step's gradient has spoilt the weights; in float16 the scaler leaves such a step out."""
    norm = float(metrics.grad_norm)
    if not math.isfinite(norm) and not state.scaler.is_enabled():
        raise RunError(f"the gradient is not finite: its norm is {norm} at step {state.step_count}; lower optim.lr")


def _interrupts() -> AbstractContextManager[list[int]]:
    """A list that is filled at the first signal to stop; the second Ctrl-C stops at once."""
    return signals.noted(signals.STOP, lambda _: signal.signal(signal.SIGINT, signal.default_int_handler))
