"""A frozen random matrix as a token mixer: the control that mixes without learning how."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixers.base import Grid, MixerSpec, check_built_grid, check_path, check_tokens, needed_grid
from mixers.registry import register


@register(
    MixerSpec(
        name="random",
        token="random-matrix",
        complexity="quadratic",
        formula="R X, R frozen, softmax of normal rows",
        source="Yu et al. 2022 (MetaFormer baselines), arXiv 2210.13452",
        status="certain",
        needs_grid=True,
        layout="sequence",
    )
)
class RandomMatrix(nn.Module):
    """Y = R X with R = softmax(G) row by row, G standard normal: drawn once, never trained, the same for every image.

    Shapes: X, Y (B, N, C) on the grid H×W it is built for, N = H·W; R (N, N), a buffer that is saved with the weights.
    Cost: time N²C MACs, no elementwise work; no parameters; memory N² for R.
    Source: Yu et al. 2022 (MetaFormer baselines for vision, arXiv 2210.13452), section 3.1, RandFormer.
    Status: certain.
    Deviations: none in the mixer; the paper uses it in the last two stages of a hierarchical backbone. R is drawn from
    PyTorch's generator at construction, so the seed of the weights decides it.

    Raises:
        MixerError: without a grid, for another grid than it is built for, or if the tokens do not fill it.
    """

    weight: Tensor

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.dim, self.grid = dim, needed_grid(grid, "mixer 'random'")
        n = self.grid[0] * self.grid[1]
        self.register_buffer("weight", torch.randn(n, n).softmax(dim=-1))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_built_grid(grid, self.grid, "mixer 'random'")
        check_tokens(x, grid)
        return self.weight @ x

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """Each token as its weighted mean of all tokens."""
        return torch.stack([(row[:, None] * x).sum(dim=1) for row in self.weight], dim=1)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """N²C per image."""
        check_path(path)
        check_built_grid(grid, self.grid, "mixer 'random'")
        return batch * (grid[0] * grid[1]) ** 2 * self.dim

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """0."""
        check_built_grid(grid, self.grid, "mixer 'random'")
        return 0
