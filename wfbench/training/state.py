"""The training step: loss, gradient, clip, optimiser, schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench.recipe import Recipe

#: (model, inputs, targets, generator) to the mean loss of the batch; random draws come from the generator alone.
Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class StepMetrics:
    """What one step did: tensors, detached and not waited for, and the learning rate that was used.

    Attributes:
        loss: mean loss of the batch.
        grad_norm: 2-norm of the whole gradient before clipping.
        lr: learning rate of this step's update.
    """

    loss: Tensor
    grad_norm: Tensor
    lr: float


class TrainState:
    """All that changes during training, and the one way to change it: `step`.

    AdamW without decay on biases, 1-D parameters and what the model's ``no_weight_decay`` names; linear warm-up, then
    cosine, both per step; gradient clipping. The schedule moves after each update, so the first step's rate is used twice,
    as in the Swin-style training code that WeightFormer's release uses.

    Args:
        model: trained in place.
        recipe: decides everything else.
        steps_per_epoch: optimiser steps of an epoch.
        loss: the task's loss; None for cross-entropy against class indices or probabilities.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps_per_epoch: int, *, loss: Loss | None = None) -> None:
        optim = recipe.optim
        scale = recipe.batch_size / optim.reference_batch if optim.scale_lr else 1.0
        self.model, self.recipe, self.steps_per_epoch = model, recipe, steps_per_epoch
        self.loss = loss or _cross_entropy(recipe.label_smoothing)
        self.step_count = 0
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = create_optimizer_v2(
            model, opt="adamw", lr=optim.lr * scale, weight_decay=optim.weight_decay, betas=optim.betas, eps=optim.eps
        )
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched="cosine",
            num_epochs=recipe.epochs,
            warmup_epochs=optim.warmup_epochs,
            warmup_lr=optim.warmup_lr * scale,
            min_lr=optim.min_lr * scale,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, inputs: Tensor, targets: Tensor) -> StepMetrics:
        """One optimiser step on a whole batch: inputs (B, …), targets class indices (B) or probabilities (B, classes)."""
        lr = self.lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model, inputs, targets, self.generator)
        loss.backward()
        limit = self.recipe.optim.clip_grad
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        self.optimizer.step()
        self.scheduler.step_update(self.step_count)
        self.step_count += 1
        return StepMetrics(loss.detach(), grad_norm.detach(), lr)

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments and the random states, by name: with the weights, all that a resume needs."""
        by_id = {id(p): name for name, p in self.model.named_parameters()}
        state = {"rng.torch": torch.get_rng_state(), "rng.generator": self.generator.get_state()}
        if torch.cuda.is_available():
            state["rng.cuda"] = torch.cuda.get_rng_state()
        for parameter, moments in self.optimizer.state.items():
            state |= {f"optim.{by_id[id(parameter)]}:{key}": value for key, value in moments.items()}
        return state

    def load(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Take up what `tensors` gave after ``step_count`` steps; the weights are the model's own affair."""
        parameters = dict(self.model.named_parameters())
        for key, value in tensors.items():
            if key.startswith("optim."):
                name, _, moment = key.removeprefix("optim.").rpartition(":")
                on = parameters[name].device if value.ndim else value.device
                self.optimizer.state[parameters[name]][moment] = value.to(on)
        self.step_count = step_count
        if step_count:
            self.scheduler.step_update(step_count - 1)
        torch.set_rng_state(tensors["rng.torch"])
        self.generator.set_state(tensors["rng.generator"])
        if "rng.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["rng.cuda"])


def _cross_entropy(label_smoothing: float) -> Loss:
    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(inputs), targets, label_smoothing=label_smoothing)

    return loss
