"""MLP-Mixer's token mixing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, MixerError, MixerSpec, check_built_grid, check_path, check_tokens, init_linear_, needed_grid
from mixers.registry import register


@register(
    MixerSpec(
        name="mlp-mixer",
        token="token-mlp",
        complexity="linear",
        formula="(W₂ gelu(W₁ Xᵀ + b₁) + b₂)ᵀ over tokens, at fixed N",
        source="Tolstikhin et al. 2021, arXiv 2105.01601",
        status="certain",
        needs_grid=True,
        layout="sequence",
    )
)
class TokenMLP(nn.Module):
    """Yᵀ = W₂ gelu(W₁ Xᵀ + b₁) + b₂: one MLP along the tokens, shared by all channels.

    Shapes: X, Y (B, N, C) on the grid H×W it is built for, N = H·W; W₁ (N_h, N), b₁ (N_h), W₂ (N, N_h), b₂ (N).
    Cost: time 2·N·N_h·C MACs, 2·N_h·C + N·C elementwise; 2·N·N_h + N_h + N parameters; memory O((N + N_h)·C). The width
    N_h does not follow N (section 3: the cost is linear in the number of patches).
    Source: Tolstikhin et al. 2021 (MLP-Mixer, arXiv 2105.01601), section 2, equation 1.
    Status: certain.
    Deviations: N_h = ``hidden`` is C/2 unless said otherwise, as in the paper's S, B and L models (256 of 512, 384 of 768,
    512 of 1024). Initialised as this package's other Linear layers, where the paper's code uses Lecun's normal.

    Raises:
        MixerError: without a grid, for another grid than it is built for, a width below 1, or tokens that do not fill it.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, hidden: int | None = None) -> None:
        super().__init__()
        self.dim, self.grid = dim, needed_grid(grid, "mixer 'mlp-mixer'")
        self.hidden = dim // 2 if hidden is None else hidden
        if self.hidden < 1:
            raise MixerError(
                "the token MLP has no width",
                got=f"hidden = {self.hidden} for dim = {dim}",
                expected="1 or more",
                remedy="give hidden such a number, or use more channels",
            )
        n = self.grid[0] * self.grid[1]
        self.fc1, self.fc2 = nn.Linear(n, self.hidden), nn.Linear(self.hidden, n)
        init_linear_(self.fc1, self.fc2)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_built_grid(grid, self.grid, "mixer 'mlp-mixer'")
        check_tokens(x, grid)
        return self.fc2(F.gelu(self.fc1(x.mT))).mT  # (B, C, N), (B, C, N_h), and back

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The two products as contractions over tokens, gelu by its definition."""
        a = torch.einsum("hn,bnc->bhc", self.fc1.weight, x) + self.fc1.bias[:, None]  # (B, N_h, C)
        a = a * (1 + torch.erf(a / 2**0.5)) / 2
        return torch.einsum("nh,bhc->bnc", self.fc2.weight, a) + self.fc2.bias[:, None]

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """2·N·N_h·C per image."""
        check_path(path)
        check_built_grid(grid, self.grid, "mixer 'mlp-mixer'")
        return batch * 2 * grid[0] * grid[1] * self.hidden * self.dim

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """The two biases and the activation: 2·N_h·C + N·C per image."""
        check_built_grid(grid, self.grid, "mixer 'mlp-mixer'")
        return batch * self.dim * (2 * self.hidden + grid[0] * grid[1])
