"""Diffusion: the loss of a denoiser, sampling from it, and scores of what was sampled."""

from wfbench.diffusion.gaussian import STEPS, HybridLoss, betas, hybrid_loss, q_sample
from wfbench.diffusion.objective import HeldOut, Noising, denoising_loss, held_out_terms, noised_loss
from wfbench.diffusion.sampling import SAMPLERS, Sampler, sample

__all__ = [
    "SAMPLERS",
    "STEPS",
    "HeldOut",
    "HybridLoss",
    "Noising",
    "Sampler",
    "betas",
    "denoising_loss",
    "held_out_terms",
    "hybrid_loss",
    "noised_loss",
    "q_sample",
    "sample",
]
