"""A static 3×3 depthwise convolution: WeightFormer's skeleton with nothing dynamic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from mixers.base import Grid, MixerSpec, check_path, check_tokens, conv_parameters, depthwise_conv, shifted_depthwise_conv
from mixers.registry import register


@register(
    MixerSpec(
        name="static",
        token="depthwise-conv",
        complexity="linear",
        formula="X ∗ K₀ + b₀, depthwise 3×3",
        source="the static baseline of WeightFormer, arXiv 2605.01711, figure 3",
        status="certain",
        layout="grid",
    )
)
class DepthwiseConv(nn.Module):
    """Y = X ∗ K₀ + b₀: one 3×3 kernel per channel, zero padding 1, the same for every image.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; K₀ (C, 1, 3, 3); b₀ (C).
    Cost: time 9NC MACs, NC elementwise; memory O(NC).
    Source: the static layers of WeightFormer (arXiv 2605.01711), whose figure 3 calls the network made of them "Static".
    Status: certain (released code).
    Deviations: none. Initialised as `torch.nn.Conv2d`.
    """

    reference_names: ClassVar[Mapping[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        self.weight, self.bias = conv_parameters(dim)

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        return {"dim": state["weight"].shape[0]}

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        return depthwise_conv(x, self.weight, self.bias, grid)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """As nine shifted products."""
        return shifted_depthwise_conv(x, self.weight[None, :, 0], self.bias, grid)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """9NC per image."""
        check_path(path)
        return batch * 9 * grid[0] * grid[1] * self.weight.shape[0]

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """The bias: NC per image."""
        return batch * grid[0] * grid[1] * self.weight.shape[0]
