"""What a denoiser is trained on, and what it is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        t, noise, dropped = (d.to(inputs.device) for d in _draw(inputs.shape, label_dropout, generator))
        return _mean_loss(model, inputs, noise.to(inputs), t, targets.masked_fill(dropped, null_class))

    return loss


@dataclass(frozen=True)
class Noising:
    """Gives each sample of a training batch its step t, its noise and, now and then, the null class.

    The draws are those of the whole batch, of all processes together, and follow from ``key`` alone; each process takes those
    at its own positions. So neither the number of processes nor a split into smaller passes changes them. What comes out goes
    to `noised_loss`.

    Attributes:
        null_class: the class that means none.
        label_dropout: the probability that a sample gets it.
        batch: samples of a step, over all processes.
        positions: of this process's samples in that batch.
    """

    null_class: int
    label_dropout: float
    batch: int
    positions: tuple[int, ...]

    def __call__(self, images: Tensor, classes: Tensor, *, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Samples (B, C, H, W) and classes (B) to samples and noise (B, 2C, H, W), and t and class (B, 2).

        Args:
            images: samples at this process's positions.
            classes: of these samples.
            key: (seed, epoch, step).
        """
        # The last word keeps these draws apart from held-out losses and samples, whose keys have fewer.
        drawn = _draw((self.batch, *images.shape[1:]), self.label_dropout, generator_of(*key, 1))
        t, noise, dropped = (d[list(self.positions)].to(images.device) for d in drawn)
        return torch.cat([images, noise.to(images)], dim=1), torch.stack([t, classes.masked_fill(dropped, self.null_class)], 1)


def noised_loss(model: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """The mean hybrid loss of a batch that went through `Noising`; it draws nothing."""
    x_start, noise = inputs.chunk(2, dim=1)
    t, classes = targets.unbind(1)
    return _mean_loss(model, x_start, noise, t, classes)


def _draw(shape: Sequence[int], label_dropout: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Steps (B), noise (B, C, H, W), and whether the label is dropped (B), on the generator's device."""
    device = generator.device
    t = torch.randint(STEPS, (shape[0],), generator=generator, device=device)
    noise = torch.randn(*shape, generator=generator, device=device)
    return t, noise, torch.rand(shape[0], generator=generator, device=device) < label_dropout


def _mean_loss(model: nn.Module, x_start: Tensor, noise: Tensor, t: Tensor, classes: Tensor) -> Tensor:
    x_t = q_sample(x_start, t, noise)
    return hybrid_loss(model(x_t, t, classes), x_start, x_t, noise, t).loss.mean()


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

    @classmethod
    def of(cls, terms: Tensor, seed: int = 0) -> HeldOut:
        """The means of `held_out_terms` (2, bins, N) of all samples, in their order."""
        bins, samples = terms.shape[1:]
        mse, vb = terms.mean(dim=2).tolist()
        return cls(tuple(range(0, STEPS + 1, STEPS // bins)), tuple(mse), tuple(vb), samples, seed)


@torch.no_grad()
def held_out_terms(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    first: int,
    *,
    seed: int = 0,
    bins: int = 10,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Denoise each sample of a batch once in each bin of t, given its class; the model is used in the mode that it is in.

    Step and noise follow from (seed, bin, index of the sample), so neither the batch size nor the process matters.

    Args:
        model: a denoiser, on ``device``.
        x: samples (B, C, H, W).
        y: their classes (B).
        first: index of the batch's first sample; the others follow.
        seed: decides steps and noise.
        bins: equal bins of t; they divide `STEPS`.
        device: where the model is.

    Returns:
        mse and vb (2, bins, B), float64 on the CPU.

    Raises:
        InputError: for bins that do not divide the steps.
    """
    if bins < 1 or STEPS % bins:
        raise InputError("bins do not divide the steps", got=bins, expected=f"a divisor of {STEPS}", remedy="use 10")
    width, found = STEPS // bins, []
    for k in range(bins):
        own = [generator_of(seed, k, first + i) for i in range(len(x))]
        t = torch.cat([torch.randint(k * width, (k + 1) * width, (1,), generator=g) for g in own]).to(device)
        noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in own])
        x_start = x.to(device)
        noise = noise.to(x_start)
        x_t = q_sample(x_start, t, noise)
        terms = hybrid_loss(model(x_t, t, y.to(device)), x_start, x_t, noise, t)
        found.append(torch.stack([terms.mse, terms.vb]).double().cpu())
    return torch.stack(found, dim=1)
