"""A static depthwise convolution with a large kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, MixerError, MixerSpec, check_path, check_tokens, depthwise_conv, to_map, to_tokens
from mixers.registry import register


@register(
    MixerSpec(
        name="large-kernel",
        token="large-kernel-conv",
        complexity="linear",
        formula="X ∗ K + b, depthwise k×k, k = 7",
        source="Liu et al. 2022 (ConvNeXt), arXiv 2201.03545; Ding et al. 2022 (RepLKNet), arXiv 2203.06717",
        status="certain",
        layout="grid",
    )
)
class LargeKernelConv(nn.Module):
    """Y = X ∗ K + b: one k×k kernel per channel, zero padding (k − 1)/2, the same for every image.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; K (C, 1, k, k); b (C). The kernel may be wider than the grid.
    Cost: time k²NC MACs (products with the padding are counted, as the kernel makes them), NC elementwise; memory O(NC).
    Source: Liu et al. 2022 (ConvNeXt, arXiv 2201.03545), section 2.5, where k = 7; Ding et al. 2022 (RepLKNet, arXiv
    2203.06717), where k goes up to 31.
    Status: certain (equals the weighted sum over k² shifts, and at k = 3 the mixer `static` with the same weights).
    Deviations: the convolution alone. ConvNeXt's block has no other token mixer either; RepLKNet has 1×1 convolutions around
    the kernel and a small kernel beside it, which can be added into the large one after training. Initialised as
    `torch.nn.Conv2d`.

    Raises:
        MixerError: if ``kernel`` is even or less than 1.
    """

    #: Names as those of `torch.nn.Conv2d`.
    reference_names: ClassVar[Mapping[str, str]] = {"weight": "weight", "bias": "bias"}

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, kernel: int = 7) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise MixerError(
                "a kernel needs a middle",
                got=f"kernel = {kernel}",
                expected="an odd number from 1 on",
                remedy="use 7, 13 or 31",
            )
        self.kernel = kernel
        conv = nn.Conv2d(dim, dim, kernel, groups=dim)
        assert conv.bias is not None
        self.weight, self.bias = conv.weight, conv.bias

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        return {"dim": state["weight"].shape[0], "kernel": state["weight"].shape[-1]}

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        return depthwise_conv(x, self.weight, self.bias, grid)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """As k² shifted products."""
        (h, w), half = grid, self.kernel // 2
        padded = F.pad(to_map(x, grid), (half, half, half, half))  # (B, C, H + k − 1, W + k − 1)
        y = self.bias[:, None, None] + torch.zeros_like(padded[:, :, :h, :w])
        for i in range(self.kernel):
            for j in range(self.kernel):
                y = y + self.weight[:, 0, i, j, None, None] * padded[:, :, i : i + h, j : j + w]
        return to_tokens(y)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """k²NC per image."""
        check_path(path)
        return batch * self.kernel**2 * grid[0] * grid[1] * self.weight.shape[0]

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """The bias: NC per image."""
        return batch * grid[0] * grid[1] * self.weight.shape[0]
