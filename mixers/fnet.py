"""FNet: a Fourier transform as a token mixer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mixers.base import Grid, MixerSpec, at_least_float32, check_path, check_tokens
from mixers.registry import register


@register(
    MixerSpec(
        name="fnet",
        token="fourier",
        complexity="N log N",
        formula="Re FFT(X) over tokens and channels",
        source="Lee-Thorp et al. 2021 (FNet), arXiv 2105.03824",
        status="certain",
        layout="sequence",
    )
)
class Fourier(nn.Module):
    """Y = Re(F_N X F_C): the real part of the discrete Fourier transform over tokens and over channels.

    Shapes: X, Y (B, N, C), N = H·W; F_n (n, n) with entries exp(-2πi jk/n), never formed.
    Cost: no MACs and no parameters; 5 n log₂ n elementwise, n = N·C, rounded, per image; memory O(NC).
    Source: Lee-Thorp et al. 2021 (FNet, arXiv 2105.03824), section 3.2, equation 3.
    Status: certain (equal to the DFT matrices).
    Deviations: none in the mixer; the paper's tokens are words, here they are patches, row by row. Half precision is
    transformed in float32, since PyTorch has no such transform on the CPU, and cast back.

    Raises:
        MixerError: if the tokens do not fill the grid.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        return torch.fft.fft2(x.to(at_least_float32(x))).real.to(x.dtype)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By explicit DFT matrices: Re((A - iB) X (A' - iB')) = A X A' - B X B', cosines and sines."""
        (cos_n, sin_n), (cos_c, sin_c) = (_dft(size, x) for size in x.shape[1:])
        return cos_n @ x @ cos_c - sin_n @ x @ sin_c

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """A Fourier transform is elementwise work: 0."""
        check_path(path)
        return 0

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """5 n log₂ n per image, n = N·C."""
        n = grid[0] * grid[1] * self.dim
        return batch * round(5 * n * math.log2(n))


def _dft(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2πjk/size, (size, size) each."""
    places = torch.arange(size, dtype=like.dtype, device=like.device)
    angle = 2 * math.pi / size * torch.outer(places, places)
    return angle.cos(), angle.sin()
