"""Average pooling as a token mixer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, MixerSpec, check_path, check_tokens, to_map, to_tokens
from mixers.registry import register


@register(
    MixerSpec(
        name="pool",
        token="average-pool",
        complexity="linear",
        formula="avg_pool3×3(X) − X",
        source="Yu et al. 2022 (PoolFormer), arXiv 2111.11418",
        status="certain",
        layout="grid",
    )
)
class Pool(nn.Module):
    """Y = avg_pool3×3(X) − X; the mean at the border is over the tokens inside the grid.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W.
    Cost: no MACs and no parameters; 10NC elementwise (nine per pooling window, one subtraction); memory O(NC).
    Source: Yu et al. 2022 (MetaFormer / PoolFormer, arXiv 2111.11418), section 3.2, equation 4.
    Status: certain (a constant input gives 0).
    Deviations: none. The subtraction is there because a block adds its input back.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        pooled = F.avg_pool2d(to_map(x, grid), 3, stride=1, padding=1, count_include_pad=False)
        return to_tokens(pooled) - x

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The mean of each token's neighbours, one token at a time."""
        h, w = grid
        cells = x.unflatten(1, grid)  # (B, H, W, C)
        means = [cells[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean(dim=(1, 2)) for i in range(h) for j in range(w)]
        return torch.stack(means, dim=1) - x

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Pooling is elementwise work: 0."""
        check_path(path)
        return 0

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Nine per token and channel for the windows, one for the subtraction."""
        return batch * 10 * grid[0] * grid[1] * self.dim
