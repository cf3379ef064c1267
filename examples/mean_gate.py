"""The mixer of my_mixer.py in the form that a pull request has: copy it to mixers/mean_gate.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixers.base import Grid, MixerSpec, check_path, check_tokens
from mixers.registry import register


@register(
    MixerSpec(
        name="mean-gate",
        token="mean-gate",
        complexity="linear",
        formula="XW₁ ⊙ sigmoid(mean(X)W₂)",
        source="docs/ADD_A_MIXER.md",
        status="certain",
        layout="set",
        doubling="invariant",
    )
)
class MeanGate(nn.Module):
    """Y = XW₁ ⊙ sigmoid(mean(X)W₂), the mean over the tokens of an image.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; W₁, W₂ (C, C).
    Cost: time NC² + C² MACs, 3NC + 2C elementwise; memory O(NC).
    Source: docs/ADD_A_MIXER.md.
    Status: certain (equals its naive form).
    Deviations: none.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        return self.value(x) * self.gate(x.mean(dim=1, keepdim=True)).sigmoid()

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The formula, image by image."""
        return torch.stack([self.value(image) * torch.sigmoid(self.gate(sum(image) / len(image))) for image in x])

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """NC² for the values, C² for the gate."""
        check_path(path)
        return batch * (grid[0] * grid[1] + 1) * self.value.in_features**2

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """The mean, the bias of the values and the product: 3NC; the bias and the sigmoid of the gate: 2C."""
        return batch * (3 * grid[0] * grid[1] + 2) * self.value.in_features
