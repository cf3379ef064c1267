"""The one evaluator: the trainer's accuracy and `wfbench eval`'s are the same function's."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench.errors import check_finite
from wfbench.training import distributed


@dataclass(frozen=True)
class Evaluation:
    """Held-out results over exactly ``samples`` samples, in the order of the split.

    Attributes:
        top: the most likely classes, best first (samples, up to 5).
        confidence: the probability of the first of them (samples,).
        losses: cross-entropy, without label smoothing (samples,).
        targets: the true classes (samples,).
    """

    top: Tensor
    confidence: Tensor
    losses: Tensor
    targets: Tensor

    @property
    def samples(self) -> int:
        """How many, each counted once."""
        return len(self.targets)

    @property
    def predictions(self) -> Tensor:
        """The predicted classes (samples,)."""
        return self.top[:, 0]

    @property
    def accuracy(self) -> float:
        """Top-1, as a fraction."""
        return int((self.predictions == self.targets).sum()) / self.samples

    @property
    def top5(self) -> float | None:
        """Top-5, as a fraction; None where there are not more than five classes."""
        return int((self.top == self.targets[:, None]).any(dim=1).sum()) / self.samples if self.top.shape[1] == 5 else None

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(self.losses.mean())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    autocast: AbstractContextManager[object] | None = None,
    classes: Tensor | None = None,
) -> Evaluation:
    """Evaluate a classifier in evaluation mode; its mode is restored.

    Where several processes evaluate together, process r of W passes batches r, r + W, ... of the split, and each gets the
    whole result. The batches are those of a single process, and so are the figures.

    Args:
        model: takes images, gives logits.
        batches: (images, classes); every sample once, with no padding.
        device: where the model is.
        autocast: the precision of the forward pass; None: the model's.
        classes: the classes to choose among (their indices); None: all.

    Raises:
        NotFiniteError: for outputs that are NaN or infinite.
    """
    training = model.training
    model.eval()

    def own() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        seen = 0
        for x, y in batches:
            with autocast or nullcontext():
                logits = model(x.to(device))
            logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
            logits = logits.cpu()
            check_finite(
                logits, "the classifier's outputs are", f"the {len(y)} held-out images from {seen} on, of this process"
            )
            seen += len(y)
            if classes is not None:
                logits = _only(logits, classes)
            choices = logits.shape[1] if classes is None else len(classes)
            top = logits.topk(min(5, choices - 1), dim=1).indices if choices > 1 else logits.argmax(1, True)
            confidence = logits.double().softmax(dim=1).gather(1, top[:, :1]).squeeze(1)
            found.append((top, confidence, F.cross_entropy(logits.double(), y, reduction="none"), y))
        return found

    try:
        by_rank = distributed.gather_from(own)
    finally:
        model.train(training)
    ordered = [by_rank[k % len(by_rank)][k // len(by_rank)] for k in range(sum(map(len, by_rank)))]
    return Evaluation(*(torch.cat(parts) for parts in zip(*ordered, strict=True)))


def _only(logits: Tensor, classes: Tensor) -> Tensor:
    """Logits with all classes but these ruled out."""
    kept = torch.full_like(logits, -torch.inf)
    kept[:, classes] = logits[:, classes]
    return kept
