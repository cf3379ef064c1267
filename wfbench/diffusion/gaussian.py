"""Gaussian diffusion with a learned variance: the forward process, and the loss of DiT.

With β_t rising linearly, α_t = 1 − β_t and ᾱ_t = α_0 … α_t, the forward process is x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε. Its
posterior, of x_{t-1} given x_t and x₀, is Gaussian::

    mean   √ᾱ_{t-1} β_t / (1 − ᾱ_t) x₀ + √α_t (1 − ᾱ_{t-1}) / (1 − ᾱ_t) x_t
    var    β̃_t = β_t (1 − ᾱ_{t-1}) / (1 − ᾱ_t)

The model predicts ε, whence x₀ and the mean; and v in [−1, 1], which places the log-variance between log β̃_t and log β_t.
β̃_0 is 0, so that log β̃_1 stands in for its logarithm.

Source: DDPM (arXiv 2006.11239), equations 4 and 7; Improved DDPM (arXiv 2102.09672), equations 15 and 16; DiT (arXiv
2212.09748), section 3.1. Coefficients are float64; the arithmetic is float32 at least, whatever autocast says.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Steps of time: t = 0 is the least noise, t = STEPS − 1 nearly nothing else.
STEPS = 1000


@dataclass(frozen=True)
class HybridLoss:
    """The loss and its two terms, one value per sample (B).

    Attributes:
        loss: mse + vb.
        mse: mean over all elements of (ε̂ − ε)².
        vb: the term of the variational bound, in bits per dimension; it trains the variance alone.
    """

    loss: Tensor
    mse: Tensor
    vb: Tensor


def betas() -> Tensor:
    """β_t (STEPS), float64: from 10⁻⁴ to 0.02 in equal steps."""
    return torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)


def q_sample(x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Noise a sample: x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε.

    Shapes: x_start, noise and result (B, C, H, W); t (B), whole numbers under `STEPS`.
    """
    x_start, noise = (_exact(x) for x in (x_start, noise))
    c = _at(t, like=x_start)
    return c["sqrt_alpha_bar"] * x_start + c["sqrt_noise"] * noise


def hybrid_loss(model_output: Tensor, x_start: Tensor, x_t: Tensor, noise: Tensor, t: Tensor) -> HybridLoss:
    """DiT's loss: mean squared error of ε, plus the bound's term, whose mean sends no gradient.

    For t > 0 the term is KL(q(x_{t-1} | x_t, x₀) ‖ p(x_{t-1} | x_t)), for t = 0 it is −log p(x₀ | x_1), of x₀ as a picture
    with 256 values from −1 to 1; both in bits, as a mean over elements. It is not scaled by the number of steps.

    Shapes: model_output (B, 2C, H, W), ε̂ and v; x_start, x_t, noise (B, C, H, W); t (B).
    Source: Improved DDPM (arXiv 2102.09672), section 3.1, with weight 1 instead of λ.
    """
    model_output, x_start, x_t, noise = (_exact(x) for x in (model_output, x_start, x_t, noise))
    predicted, v = model_output.chunk(2, dim=1)
    c = _at(t, like=x_t)
    mse = _per_sample((predicted - noise) ** 2)

    x_predicted = (x_t - c["sqrt_noise"] * predicted.detach()) / c["sqrt_alpha_bar"]
    share = (v + 1) / 2
    log_var = share * c["log_beta"] + (1 - share) * c["log_beta_tilde"]

    shrink = c["log_beta_tilde"] - log_var
    # x_t has the same weight in both means; at t = 0 it has none, and the mean is x₀ itself.
    kl = 0.5 * (-1 - shrink + shrink.exp() + (c["of_start"] * (x_start - x_predicted)) ** 2 * (-log_var).exp())
    nll = -_log_probability(x_start, x_predicted, 0.5 * log_var)
    vb = torch.where(t == 0, _per_sample(nll), _per_sample(kl)) / math.log(2)
    return HybridLoss(mse + vb, mse, vb)


def _log_probability(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log of a Gaussian's mass in the bin of x, 2/255 wide; the bins at −1 and 1 reach to infinity.

    With Φ(z) ≈ (1 + tanh(√(2/π) (z + 0.044715 z³))) / 2, as in the reference, and no mass under 10⁻¹².
    Source: DDPM (arXiv 2006.11239), equation 13.
    """
    centred, rate = x - mean, (-log_std).exp()
    above, below = (_gaussian_cdf(rate * (centred + side / 255)) for side in (1, -1))
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return mass.clamp_min(1e-12).log()


def _gaussian_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


@functools.cache
def _tables(device: torch.device) -> dict[str, Tensor]:
    """Every coefficient by step, float64 (STEPS)."""
    beta = betas()
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])  # ᾱ_{t-1}
    tilde = beta * (1 - before) / (1 - alpha_bar)
    tables = {
        "sqrt_alpha_bar": alpha_bar.sqrt(),
        "sqrt_noise": (1 - alpha_bar).sqrt(),
        "of_start": before.sqrt() * beta / (1 - alpha_bar),
        "log_beta": beta.log(),
        "log_beta_tilde": torch.cat([tilde[1:2], tilde[1:]]).log(),
    }
    return {name: table.to(device) for name, table in tables.items()}


def _at(t: Tensor, like: Tensor) -> dict[str, Tensor]:
    """The coefficients at steps t, (B, 1, 1, 1) each, in the dtype and on the device of a (B, C, H, W) tensor."""
    return {name: table[t].to(like.dtype).view(-1, 1, 1, 1) for name, table in _tables(like.device).items()}


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _per_sample(x: Tensor) -> Tensor:
    """Mean over all but the batch."""
    return x.flatten(1).mean(dim=1)
