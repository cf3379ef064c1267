"""Sampling from a denoiser, through diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from wfbench.diffusion.draws import generator_of
from wfbench.diffusion.gaussian import STEPS, betas
from wfbench.errors import InputError, did_you_mean
from wfbench.models import DiT

SamplerName = Literal["ddpm", "ddim", "dpm-solver"]
SAMPLERS: tuple[str, ...] = get_args(SamplerName)


@dataclass(frozen=True)
class Sampler:
    """How samples are made; scores of other settings are not comparable.

    Attributes:
        name: "ddpm", DiT's, with the learned variance; "ddim" and "dpm-solver", quick and without noise, for previews.
        steps: how many of the 1000 steps are taken; those of ddim divide 1000.
        cfg: scale of classifier-free guidance; 1 is none.
        cfg_channels: how many of the first channels it guides, 3 as in DiT's release (of all 4 of a latent); None for all.

    Raises:
        InputError: for an unknown sampler, steps that it cannot take, or channels that cannot be.
    """

    name: SamplerName = "ddpm"
    steps: int = 250
    cfg: float = 1.0
    cfg_channels: int | None = 3

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise InputError(
                "unknown sampler",
                got=repr(self.name),
                expected=f"one of {', '.join(SAMPLERS)}",
                remedy=did_you_mean(self.name, SAMPLERS),
            )
        possible = [steps for steps in range(1, STEPS + 1) if self.name != "ddim" or STEPS % steps == 0]
        if self.steps not in possible:
            raise InputError(
                f"steps that {self.name} cannot take",
                got=self.steps,
                expected=f"a divisor of {STEPS}" if self.name == "ddim" else f"1 to {STEPS}",
                remedy=f"use {min(possible, key=lambda steps: abs(steps - self.steps))}",
            )
        if not 0 <= self.cfg <= 100:
            raise InputError(
                "guidance of no such scale", got=f"cfg {self.cfg:g}", expected="0 to 100; 1 is none", remedy="for example 1.5"
            )
        if self.cfg_channels is not None and self.cfg_channels < 1:
            raise InputError(
                "no channel to guide",
                got=self.cfg_channels,
                expected="1 or more, or None for all",
                remedy="use 3, as in DiT's release",
            )


def scheduler_of(sampler: Sampler) -> Any:
    """The diffusers scheduler, with its steps set.

    DDPM over evenly spaced steps that include the first and the last is the sampler of DiT's release ("leading", the default
    of diffusers, is not); nothing is clipped.
    """
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    schedule = {"num_train_timesteps": STEPS, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    made: Any
    if sampler.name == "ddpm":
        made = DDPMScheduler(**schedule, variance_type="learned_range", timestep_spacing="linspace", clip_sample=False)
    elif sampler.name == "ddim":
        # Each step of this spacing ends where the next begins; those of "linspace" do not.
        made = DDIMScheduler(**schedule, timestep_spacing="trailing", clip_sample=False)
    else:
        made = DPMSolverMultistepScheduler(**schedule, timestep_spacing="linspace")
    made.alphas_cumprod = torch.cumprod(1 - betas(), dim=0)  # theirs is float32, which is too coarse for 1 − ᾱ at small t
    made.set_timesteps(sampler.steps)
    return made


@torch.no_grad()
def sample(
    model: DiT,
    labels: Tensor,
    sampler: Sampler | None = None,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    done: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Draw one sample of each class asked for, in evaluation mode; the model's mode is restored.

    All noise of a sample follows from (seed, its index), so any split into batches and processes draws the same samples, up
    to what rounding does in batches of other sizes.

    Args:
        model: the denoiser, on the device to work on.
        labels: classes (B); ``model.null_class`` for none.
        sampler: how; None for DiT's 250 steps without guidance.
        seed: decides the noise.
        indices: index of each sample in the whole set; None for 0 to B − 1.
        done: told the number of steps done, after each.

    Returns:
        Samples (B, in_channels, H, W) in float32 on the model's device, in the model's space: latents, or pixels around
        [−1, 1].
    """
    sampler = sampler or Sampler()
    device = labels.device if (p := next(model.parameters(), None)) is None else p.device
    scheduler, guided = scheduler_of(sampler), sampler.cfg != 1
    generators = [generator_of(seed, i, device=device) for i in (range(len(labels)) if indices is None else indices)]
    shape = (model.config.in_channels, *model.config.image_size)
    x = torch.stack([torch.randn(shape, generator=g, device=device) for g in generators])  # (B, C, H, W)
    y = labels.to(device)
    doubled = torch.cat([y, torch.full_like(y, model.null_class)])
    training = model.training
    model.eval()
    try:
        for step, t in enumerate(scheduler.timesteps.tolist(), 1):
            if guided:
                both = torch.cat([x, x])
                out = model.forward_with_cfg(both, _times(t, both), doubled, sampler.cfg, sampler.cfg_channels)[: len(x)]
            else:
                out = model(x, _times(t, x), y)
            out = out.float()
            if sampler.name == "ddpm":
                x = scheduler.step(out, t, x, generator=generators).prev_sample
            else:
                x = scheduler.step(out.chunk(2, dim=1)[0], t, x).prev_sample
            done(step)
    finally:
        model.train(training)
    return x


def _times(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, device=x.device)
