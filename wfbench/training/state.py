"""The training step: loss, gradient, clip, optimiser, schedule, average."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from wfbench.recipe import OptimSection, Recipe
from wfbench.training import distributed
from wfbench.training.drop import TrainingDraws

#: (model, inputs, targets, generator) to the mean loss of the batch; random draws come from the generator alone.
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StepMetrics:
    """What one step did: tensors, detached and not waited for, and the learning rate that was used.

    Attributes:
        loss: mean loss of this process's part of the batch.
        grad_norm: 2-norm of the whole gradient before clipping.
        lr: learning rate of this step's update.
    """

    loss: Tensor
    grad_norm: Tensor
    lr: float


class TrainState:
    """All that changes during training, and the one way to change it: `step`.

    AdamW without decay on biases, 1-D parameters and what `not_decayed` finds; linear warm-up, then
    cosine or a constant rate, per step; gradient clipping. The schedule moves after each update, so the first step's rate
    is used twice, as in the Swin-style training code that WeightFormer's release uses.

    Where several processes train together, each holds one of these, steps on its part of the batch, and ends each step
    with the same weights. All of them are built at the same time, on the device that the model is on.

    What the model's layers draw follows from (seed, epoch, step, layer, sample), see `TrainingDraws`.

    Args:
        model: trained in place.
        recipe: decides everything else.
        steps_per_epoch: optimiser steps of an epoch.
        loss: the task's loss; None for cross-entropy against class indices or probabilities.
        positions: of this process's samples in the batch of all processes; None: the parts of the processes stand one after
            the other, by rank.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        *,
        loss: Loss | None = None,
        positions: Sequence[int] | None = None,
    ) -> None:
        compute = recipe.compute
        self.model, self.recipe, self.steps_per_epoch = model, recipe, steps_per_epoch
        self.loss = loss or _cross_entropy(recipe.label_smoothing)
        self.step_count, self.positions = 0, positions
        self.device = next(model.parameters()).device
        if compute.channels_last:
            model.to(memory_format=torch.channels_last)
        if compute.grad_checkpointing:
            model.set_grad_checkpointing()  # type: ignore[operator]
        self.ema = ModelEmaV3(model, decay=recipe.ema.decay, use_warmup=recipe.ema.warmup) if recipe.ema else None
        self.draws = TrainingDraws(model, recipe.seed)
        self.parallel = DistributedDataParallel(model) if distributed.world() > 1 else None
        whole = self.parallel or model
        #: What the loss calls: the model, in as many wrappings as the recipe asks for.
        self.runner: nn.Module = torch.compile(whole) if compute.compile else whole  # type: ignore[assignment]
        self.generator = torch.Generator().manual_seed(distributed.seed(recipe.seed))
        groups = _parameter_groups(model, recipe.optim)
        self.optimizer = create_optimizer_v2(groups, "adamw", **_optimizer_settings(recipe.optim, recipe.batch_size))
        self.scheduler = _scheduler(self.optimizer, recipe, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=compute.precision == "float16")

    @property
    def lr(self) -> float:
        """The learning rate of the next step; with layer decay, that of the last layers."""
        return max(float(group["lr"]) / group.get("lr_scale", 1.0) for group in self.optimizer.param_groups)

    def step(self, inputs: Tensor, targets: Tensor) -> StepMetrics:
        """One optimiser step on a whole batch: inputs (B, …), targets class indices (B) or probabilities (B, classes).

        The batch is already mixed; it goes through the model in parts of ``compute.micro_batch``, whose gradients add up
        to the whole batch's.
        """
        lr, losses = self.lr, []
        self.optimizer.zero_grad(set_to_none=True)
        epoch, step = divmod(self.step_count, self.steps_per_epoch)
        places = self.positions or range(distributed.rank() * len(inputs), (distributed.rank() + 1) * len(inputs))
        for part, goal, own, last in self._parts(inputs, targets, places):
            with self._gradients_travel(last), self.draws.of_pass(epoch, step, own, self.device), self.autocast():
                loss = self.loss(self.runner, part, goal, self.generator) * (len(part) / len(inputs))
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.optim.clip_grad
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step_update(self.step_count)
        if self.ema is not None:
            # timm copies the weights at the first two steps that it is told the number of.
            self.ema.update(self.model, step=self.step_count if self.ema.use_warmup else None)
        self.step_count += 1
        return StepMetrics(torch.stack(losses).sum(), grad_norm.detach(), lr)

    def autocast(self) -> AbstractContextManager[object]:
        """The recipe's precision for what runs inside; without one, the model's dtype rules."""
        dtype = _PRECISIONS[self.recipe.compute.precision]
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype)

    def _parts(
        self, inputs: Tensor, targets: Tensor, places: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor, Sequence[int], bool]]:
        size = self.recipe.compute.micro_batch or len(inputs)
        for start in range(0, len(inputs), size):
            own = slice(start, start + size)
            yield inputs[own], targets[own], places[own], start + size >= len(inputs)

    def _gradients_travel(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients once for each step, with its last part."""
        return nullcontext() if last or self.parallel is None else self.parallel.no_sync()

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments and the loss's scale, by name: with weights and random states, all that a resume needs."""
        by_id = {id(p): name for name, p in self.model.named_parameters()}
        state = {f"scaler.{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()}
        for parameter, moments in self.optimizer.state.items():
            state |= {f"optim.{by_id[id(parameter)]}:{key}": value for key, value in moments.items()}
        return state

    def random_states(self) -> dict[str, Tensor]:
        """This process's random states: PyTorch's own, and the generator that losses draw from."""
        states = {"torch": torch.get_rng_state(), "generator": self.generator.get_state()}
        return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})

    def load(self, tensors: Mapping[str, Tensor], random_states: Mapping[str, Tensor], step_count: int) -> None:
        """Take up what `tensors` and `random_states` gave after ``step_count`` steps; weights are loaded apart."""
        parameters = dict(self.model.named_parameters())
        for key, value in tensors.items():
            if key.startswith("optim."):
                name, _, moment = key.removeprefix("optim.").rpartition(":")
                on = parameters[name].device if value.ndim else value.device
                self.optimizer.state[parameters[name]][moment] = value.to(on)
        scaler = {key.removeprefix("scaler."): value.item() for key, value in tensors.items() if key.startswith("scaler.")}
        if scaler:
            self.scaler.load_state_dict(scaler)
        self.step_count = step_count
        if step_count:
            self.scheduler.step_update(step_count - 1)
        torch.set_rng_state(random_states["torch"])
        self.generator.set_state(random_states["generator"])
        if "cuda" in random_states and torch.cuda.is_available():
            torch.cuda.set_rng_state(random_states["cuda"])


def rates(optim: OptimSection, batch_size: int) -> tuple[float, float, float]:
    """lr, warmup_lr and min_lr as they are used: times batch_size / reference_batch where the recipe says ``scale_lr``."""
    scale = batch_size / optim.reference_batch if optim.scale_lr else 1.0
    return optim.lr * scale, optim.warmup_lr * scale, optim.min_lr * scale


def _optimizer_settings(optim: OptimSection, batch_size: int) -> dict[str, Any]:
    lr, _, _ = rates(optim, batch_size)
    return {
        "lr": lr,
        "weight_decay": optim.weight_decay,
        "betas": optim.betas,
        "eps": optim.eps,
    }


def not_decayed(model: nn.Module) -> set[str]:
    """Names of parameters of more than one dimension that are not decayed all the same.

    Those that ``no_weight_decay()`` of the model or of a module in it names (timm's convention, there of whole models): a
    position embedding, or a mixer's table of relative positions.
    """
    found = set()
    for prefix, module in model.named_modules():
        of_module = getattr(module, "no_weight_decay", None)
        if of_module is not None:
            found |= {f"{prefix}.{name}" if prefix else name for name in of_module()}
    return found


def _parameter_groups(model: nn.Module, optim: OptimSection) -> list[dict[str, Any]]:
    names = not_decayed(model)
    if optim.layer_decay is None:
        return param_groups_weight_decay(model, optim.weight_decay, no_weight_decay_list=names)
    return param_groups_layer_decay(model, optim.weight_decay, layer_decay=optim.layer_decay, no_weight_decay_list=names)


def _scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> Scheduler:
    optim = recipe.optim
    _, warmup_lr, min_lr = rates(optim, recipe.batch_size)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        # timm's constant schedule is a step decay that never comes to its first step.
        sched="cosine" if optim.schedule == "cosine" else "step",
        decay_epochs=recipe.epochs + 1,
        num_epochs=recipe.epochs,
        warmup_epochs=optim.warmup_epochs,
        warmup_lr=warmup_lr,
        min_lr=min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    assert scheduler is not None
    return scheduler


def _cross_entropy(label_smoothing: float) -> Loss:
    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        # Mixed targets are probabilities, and smooth already.
        smoothing = label_smoothing if targets.ndim == 1 else 0.0
        return F.cross_entropy(model(inputs), targets, label_smoothing=smoothing)

    return loss
