"""The dynamic depthwise convolution: kernels part of which is predicted from all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, check_path, check_tokens, shifted_depthwise_conv, to_map, to_tokens
from mixers.registry import token_layer
from mixers.weightformer.common import check_dynamic_grid


@token_layer("dynamic-depthwise-conv")
class DynamicDepthwiseConv(nn.Module):
    """Y = X ∗ (K₀ + K̂) + b₀, where K̂ is predicted from all tokens of the same image; strategy *adaptive*.

    With P = adaptive_avg_pool(X, 3×3)::

        K̂ = conv1×1(gelu(conv1×1(P)))     the first with a bias, the second without
        K̂ = K̂ / (‖K̂‖_F + 1)               for each channel, over its 3×3 entries

    Shapes: X, Y (B, N, C) on a grid H×W; P and K̂ (B, C, 3, 3); K₀ (C, 1, 3, 3); b₀ (C).
    Cost: time 9NC + 18C² MACs per image, and elementwise NC for the bias, the pooling windows
    (NC, and the rows and columns where they overlap) and 55C; memory O(NC).
    Source: WeightFormer (arXiv 2605.01711), dynamic depthwise convolution, strategy adaptive, and its released code.
    Status: certain (outputs and gradients equal the released code's); the initialisation of K₀ and b₀ is that of
    `torch.nn.Conv2d`, as in the static layers, and is a reconstruction.
    Deviations: the grid is passed, not guessed.

    Raises:
        MixerError: for a grid under 2×2.
    """

    #: The release's parameter names and ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        "w": "weight",
        "b": "bias",
        "wfm.0.weight": "predictor.0.weight",
        "wfm.0.bias": "predictor.0.bias",
        "wfm.2.weight": "predictor.2.weight",
    }

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, dim, 3, groups=dim)  # for its initialisation
        self.weight = nn.Parameter(conv.weight.detach())
        self.bias = nn.Parameter(torch.zeros(dim) if conv.bias is None else conv.bias.detach())
        self.predictor = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.GELU(), nn.Conv2d(dim, dim, 1, bias=False))

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the release's names."""
        return {"dim": state["w"].shape[0]}

    def _predicted(self, summary: Tensor) -> Tensor:
        """K̂, normalised, from the pooled tokens: (B, C, 3, 3) → (B, C, 3, 3)."""
        kernels = self.predictor(summary)
        return kernels / (torch.linalg.vector_norm(kernels, dim=(2, 3), keepdim=True) + 1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        check_dynamic_grid(grid)
        b, _, c = x.shape
        maps = to_map(x, grid)  # (B, C, H, W)
        kernels = self.weight + self._predicted(F.adaptive_avg_pool2d(maps, 3)).unsqueeze(2)  # (B, C, 1, 3, 3)
        # Each image has its own kernels: the batch goes into the groups.
        y = F.conv2d(maps.reshape(1, b * c, *grid), kernels.flatten(0, 1), self.bias.repeat(b), padding=1, groups=b * c)
        return to_tokens(y.view(b, c, *grid))

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The pooling window by window, the convolution as nine shifted products."""
        maps = to_map(x, grid)
        rows, columns = (_windows(side) for side in grid)
        pooled = torch.stack([maps[:, :, i:j, k:m].mean(dim=(2, 3)) for i, j in rows for k, m in columns], dim=-1)  # (B, C, 9)
        first, second = self.predictor[0], self.predictor[2]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert first.bias is not None
        hidden = F.gelu(torch.einsum("oc,bck->bok", first.weight.flatten(1), pooled) + first.bias[:, None])
        kernels = torch.einsum("oc,bck->bok", second.weight.flatten(1), hidden)
        kernels = kernels / ((kernels**2).sum(dim=-1, keepdim=True).sqrt() + 1)
        return shifted_depthwise_conv(x, self.weight[:, 0] + kernels.unflatten(2, (3, 3)), self.bias, grid)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: two 1×1 convolutions on 3×3, and the depthwise 3×3."""
        check_path(path)
        check_dynamic_grid(grid)
        c = self.weight.shape[0]
        return batch * (2 * 9 * c * c + 9 * grid[0] * grid[1] * c)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        c = self.weight.shape[0]
        rows, columns = (sum(end - start for start, end in _windows(side)) for side in grid)
        pooling = rows * columns * c
        prediction = 9 * c + 9 * c + 18 * c + c + 9 * c + 9 * c  # bias, gelu, norm, + 1, the division, K0 + K̂
        return batch * (pooling + prediction + grid[0] * grid[1] * c)


def _windows(side: int) -> list[tuple[int, int]]:
    """Start and end of the three windows of adaptive average pooling along one side; they overlap by at most one."""
    return [(i * side // 3, -(-(i + 1) * side // 3)) for i in range(3)]
