"""What a denoiser is trained on, and what it is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wfbench.diffusion.draws import generator_of
from wfbench.diffusion.gaussian import STEPS, hybrid_loss, q_sample
from wfbench.errors import InputError


def denoising_loss(
    null_class: int, label_dropout: float = 0.1
) -> Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]:
    """The loss that a training step takes: (model, inputs, targets, generator) to the mean hybrid loss of the batch.

    Each sample gets a step t, noise, and with probability ``label_dropout`` the null class, all from the generator and from
    nothing else, in that order; it may be on another device than the batch.

    Args:
        null_class: the class that means none (`wfbench.models.DiT.null_class`); a wrapped model would not tell it.
        label_dropout: 0 trains without the null class, and then guidance cannot be used.
    """

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        drawn = generator.device
        t = torch.randint(STEPS, (len(inputs),), generator=generator, device=drawn).to(inputs.device)
        noise = torch.randn(inputs.shape, generator=generator, device=drawn).to(inputs)
        dropped = torch.rand(len(inputs), generator=generator, device=drawn).to(inputs.device) < label_dropout
        x_t = q_sample(inputs, t, noise)
        output = model(x_t, t, targets.masked_fill(dropped, null_class))
        return hybrid_loss(output, inputs, x_t, noise, t).loss.mean()

    return loss


@dataclass(frozen=True)
class HeldOut:
    """Denoising loss on held-out samples with fixed noise: exact, so that models can be compared by it.

    Attributes:
        edges: bounds of the bins of t; bin k has edges[k] ≤ t < edges[k + 1].
        mse, vb: means over samples by bin; vb in bits per dimension.
        samples: how many, each seen once in every bin.
        seed: of steps and noise; losses of other seeds are not comparable.
    """

    edges: tuple[int, ...]
    mse: tuple[float, ...]
    vb: tuple[float, ...]
    samples: int
    seed: int

    @property
    def loss(self) -> float:
        """Mean of mse + vb over t."""
        return (sum(self.mse) + sum(self.vb)) / len(self.mse)


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    seed: int = 0,
    bins: int = 10,
    device: torch.device | str = "cpu",
) -> HeldOut:
    """Denoise every sample once in each bin of t, given its class.

    Step and noise follow from (seed, bin, index of the sample), so neither the batch size nor the process matters.

    Args:
        model: a denoiser; it is evaluated in evaluation mode, and its mode is restored.
        batches: (samples (B, C, H, W), classes (B)), always in the same order.
        seed: decides steps and noise.
        bins: equal bins of t; they divide `STEPS`.
        device: where the model is.

    Raises:
        InputError: for bins that do not divide the steps, or no samples.
    """
    if bins < 1 or STEPS % bins:
        raise InputError("bins do not divide the steps", got=bins, expected=f"a divisor of {STEPS}")
    width, training, samples = STEPS // bins, model.training, 0
    sums = torch.zeros(2, bins, dtype=torch.float64)
    model.eval()
    try:
        for x, y in batches:
            for k in range(bins):
                own = [generator_of(seed, k, samples + i) for i in range(len(x))]
                t = torch.cat([torch.randint(k * width, (k + 1) * width, (1,), generator=g) for g in own])
                noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in own])
                x_start, t = x.to(device), t.to(device)
                noise = noise.to(x_start)
                x_t = q_sample(x_start, t, noise)
                terms = hybrid_loss(model(x_t, t, y.to(device)), x_start, x_t, noise, t)
                sums[:, k] += torch.stack([terms.mse, terms.vb]).double().sum(dim=1).cpu()
            samples += len(x)
    finally:
        model.train(training)
    if not samples:
        raise InputError("no held-out samples", got="0 samples", expected="at least one")
    mse, vb = (sums / samples).tolist()
    return HeldOut(tuple(range(0, STEPS + 1, width)), tuple(mse), tuple(vb), samples, seed)
