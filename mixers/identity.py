"""The identity as a token mixer: the control."""

from __future__ import annotations

from torch import Tensor, nn

from mixers.base import Grid, MixerSpec, check_path, check_tokens
from mixers.registry import register


@register(
    MixerSpec(
        name="identity",
        token="identity",
        complexity="linear",
        formula="X",
        source="Yu et al. 2022 (MetaFormer baselines), arXiv 2210.13452",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
    )
)
class Identity(nn.Module):
    """Y = X: tokens are not mixed at all. What a model reaches with it, it owes to its other parts.

    Shapes: X, Y (B, N, C); N is H·W, or H·W + 1 with a class token.
    Cost: no MACs, no elementwise work, no parameters, no memory.
    Source: Yu et al. 2022 (MetaFormer baselines for vision, arXiv 2210.13452), section 3.1, IdentityFormer.
    Status: certain.
    Deviations: none in the mixer; the paper's backbone is hierarchical, this skeleton is not.

    Raises:
        MixerError: if the tokens do not fill the grid.
    """

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """The tokens (B, N, C) themselves."""
        check_tokens(x, grid, prefix_tokens=True)
        return x

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """A copy of the tokens."""
        return x.clone()

    def macs(self, grid: Grid, batch: int = 1, path: str = "released", *, prefix_tokens: int = 0) -> int:
        """0."""
        check_path(path)
        return 0

    def elementwise(self, grid: Grid, batch: int = 1, *, prefix_tokens: int = 0) -> int:
        """0."""
        return 0
