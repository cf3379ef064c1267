"""GFNet: a learned filter over the frequencies of the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixers.base import (
    Grid,
    MixerSpec,
    at_least_float32,
    check_built_grid,
    check_path,
    check_tokens,
    needed_grid,
    without_autocast,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: What the filter is said to be in messages.
FILTER = "a global filter"


@register(
    MixerSpec(
        name="gfnet",
        token="global-filter",
        complexity="N log N",
        formula="F⁻¹(W ⊙ F(X)), F the Fourier transform over the grid",
        source="Rao et al. 2021 (GFNet), arXiv 2107.00645",
        status="certain",
        needs_grid=True,
        layout="grid",
    )
)
class GlobalFilter(nn.Module):
    """Y = F⁻¹(W ⊙ F(X)): the two-dimensional Fourier transform of each channel, times a learned complex filter, and back.

    That is a circular convolution of each channel with a kernel as large as the grid. X is real, so half of the
    frequencies tell the others, and W is kept for columns 0 to ⌊W/2⌋ alone. In column 0, and in column W/2 of an even
    width, the frequencies (u, v) and (−u, v) are both kept; there the transform back is real only for the mean of W and
    its mirrored conjugate, and it takes that.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; W (H, ⌊W/2⌋ + 1, C, 2), real and imaginary part last.
    Cost: no MACs; two transforms of 5 N log₂ N elementwise (rounded) for each channel, and H(⌊W/2⌋ + 1)C complex products;
    memory O(NC).
    Source: Rao et al. 2021 (Global Filter Networks for Image Classification, arXiv 2107.00645), section 3.2.
    Status: certain (golden files of the authors' code, outputs and gradients; equals the circular convolution by sums).
    Deviations: none in the filter. In the authors' block it has no residual connection of its own; in the skeleton that
    all mixers share it has one. Half precision is transformed in float32, since most sizes have no transform in it, and
    cast back.

    Raises:
        MixerError: without a grid, and for another one than that of W.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {"complex_weight": "complex_weight"}

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        h, w = self.built = needed_grid(grid, FILTER)
        self.complex_weight = nn.Parameter(0.02 * torch.randn(h, w // 2 + 1, dim, 2))

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        return {"dim": state["complex_weight"].shape[2]}

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(fft_norm="ortho")
        return {}

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        check_built_grid(grid, self.built, FILTER)
        exact = at_least_float32(x)
        with without_autocast(x):
            frequencies = torch.fft.rfft2(x.to(exact).unflatten(1, grid), dim=(1, 2), norm="ortho")  # (B, H, ⌊W/2⌋+1, C)
            frequencies = frequencies * torch.view_as_complex(self.complex_weight.to(exact))
            y = torch.fft.irfft2(frequencies, s=grid, dim=(1, 2), norm="ortho")
        return y.flatten(1, 2).to(x.dtype)

    def kernel(self) -> Tensor:
        """K (H, W, C), whose circular convolution with X is Y, by sums of cosines and sines: O(N²C), for comparison."""
        h, w = self.built
        real, imaginary = self.complex_weight.unbind(-1)  # (H, ⌊W/2⌋+1, C)
        # A column that stands for its mirror image too counts twice.
        twice = [1 if 2 * v in (0, w) else 2 for v in range(w // 2 + 1)]
        times = real.new_tensor(twice)[:, None]
        rows, columns = (torch.arange(side, dtype=real.dtype, device=real.device) for side in (h, w))
        places = []
        for y in range(h):
            for x in range(w):
                angle = 2 * math.pi * (y * rows[:, None] / h + x * columns[None, : w // 2 + 1] / w)[..., None]
                places.append((times * (real * angle.cos() - imaginary * angle.sin())).sum(dim=(0, 1)) / (h * w))
        return torch.stack(places).view(h, w, -1)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The circular convolution: a sum over all N shifts of the grid, which wraps around."""
        check_tokens(x, grid)
        check_built_grid(grid, self.built, FILTER)
        on_grid, kernel, y = x.unflatten(1, grid), self.kernel(), torch.zeros_like(x).unflatten(1, grid)
        for i in range(grid[0]):
            for j in range(grid[1]):
                y = y + kernel[i, j] * on_grid.roll((i, j), dims=(1, 2))
        return y.flatten(1, 2)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Fourier transforms and products of elements are elementwise work: 0."""
        check_path(path)
        check_built_grid(grid, self.built, FILTER)
        return 0

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch: two transforms, and the filter between."""
        check_built_grid(grid, self.built, FILTER)
        (h, w), c = grid, self.complex_weight.shape[2]
        return batch * c * (2 * round(5 * h * w * math.log2(h * w)) + h * (w // 2 + 1))
