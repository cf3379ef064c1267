"""The one evaluator: the trainer's accuracy and `wfbench eval`'s are the same function's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Evaluation:
    """Held-out results over exactly ``samples`` samples.

    Attributes:
        accuracy: top-1, as a fraction.
        loss: mean cross-entropy, without label smoothing.
        samples: how many, each counted once.
        predictions: the predicted classes, in the order of the split (samples,).
        targets: the true classes (samples,).
    """

    accuracy: float
    loss: float
    samples: int
    predictions: Tensor
    targets: Tensor


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Evaluation:
    """Evaluate a classifier in evaluation mode; its mode is restored."""
    training = model.training
    model.eval()
    losses, predictions, targets = [], [], []
    try:
        for x, y in batches:
            logits = model(x.to(device)).cpu()
            losses.append(F.cross_entropy(logits.double(), y, reduction="none"))
            predictions.append(logits.argmax(dim=1))
            targets.append(y)
    finally:
        model.train(training)
    predicted, true = torch.cat(predictions), torch.cat(targets)
    correct = int((predicted == true).sum())
    return Evaluation(correct / len(true), float(torch.cat(losses).mean()), len(true), predicted, true)
