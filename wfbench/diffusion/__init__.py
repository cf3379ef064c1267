"""Diffusion: the loss of a denoiser, sampling from it, and scores of what was sampled."""

from wfbench.diffusion.gaussian import STEPS, HybridLoss, betas, hybrid_loss, q_sample
from wfbench.diffusion.objective import HeldOut, denoising_loss, held_out_loss
from wfbench.diffusion.sampling import SAMPLERS, Sampler, sample

__all__ = [
    "SAMPLERS",
    "STEPS",
    "HeldOut",
    "HybridLoss",
    "Sampler",
    "betas",
    "denoising_loss",
    "held_out_loss",
    "hybrid_loss",
    "q_sample",
    "sample",
]
