"""The dynamic depthwise convolution: kernels part of which is predicted from all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    check_path,
    check_tokens,
    conv_parameters,
    depthwise_conv,
    depthwise_conv_by_image,
    init_linear_,
    pooling_windows,
    shifted_depthwise_conv,
    to_map,
)
from mixers.registry import token_layer
from mixers.weightformer.common import check_dynamic_grid, check_strategy

Strategy = Literal["gap", "adaptive", "amp-dir", "conv"]


def channels_last(x: Tensor, kernels: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    """The same as `depthwise_conv_by_image` with the B·C channels last in memory, which tokens nearly are.

    Shapes: x (B, H·W, C), kernels (B, C, 3, 3), bias (C); result (B, H·W, C).

    On 2 CPU cores faster than that, the authors' order, at every shape of `benchmarks/dynamic_layers.py`, the more the fewer
    images there are and the larger the grid; its tables stand in results/benchmarks.
    """
    b, _, c = x.shape
    maps = x.unflatten(1, grid).permute(1, 2, 0, 3).reshape(1, *grid, b * c).permute(0, 3, 1, 2)  # (1, BC, H, W)
    y = F.conv2d(maps, kernels.reshape(b * c, 1, 3, 3), bias.repeat(b), padding=1, groups=b * c)
    return y.permute(0, 2, 3, 1).reshape(*grid, b, c).permute(2, 0, 1, 3).flatten(1, 2)


@token_layer("dynamic-depthwise-conv")
class DynamicDepthwiseConv(nn.Module):
    """Y = X ∗ (K₀ + K̂) + b₀, where K̂ is predicted from all tokens of the same image.

    Strategy *adaptive*, with P = adaptive_avg_pool(X, 3×3)::

        K̂ = conv1×1(gelu(conv1×1(P)))     the first with a bias, the second without
        K̂ = K̂ / (‖K̂‖_F + 1)               for each channel, over its 3×3 entries

    The other strategies change the first line, and nothing else:

    ==========  =======================================================  ========================  ==============
    strategy    prediction                                               parameters of prediction  status
    ==========  =======================================================  ========================  ==============
    adaptive    K̂ = V₂ gelu(V₁ P + c)                                    2C² + C                   certain
    gap         K̂ = U₂ gelu(U₁ g + u₁) + u₂, g the mean token            2.5C² + 9.25C             reconstruction
    amp-dir     K̂ = softplus(U₂ gelu(U₁ g + u₁) + u₂) · D / ‖D‖_F        2.5C² + 2.25C             reconstruction
    conv        K̂ = V₂ gelu(V₁ P' + c), P' pooled from X ∗ G + g₀        2C² + 11C                 reconstruction
    ==========  =======================================================  ========================  ==============

    Here D is the prediction of adaptive, G a static depthwise 3×3 kernel, and U₁ maps C to C/4 channels; U₂ maps them
    to 9C (gap) or to an amplitude for each of C channels (amp-dir).

    Shapes: X, Y (B, N, C) on a grid H×W; P and K̂ (B, C, 3, 3); K₀ (C, 1, 3, 3); b₀ (C); g (B, C).
    Cost: time 9NC + 18C² MACs per image (gap: 2.5C² instead of 18C²; amp-dir: 18.5C²; conv: 9NC more), and elementwise
    NC for the bias, the pooling windows (NC, and the rows and columns where they overlap) and about 55C; memory O(NC).
    Source: WeightFormer (arXiv 2605.01711), dynamic depthwise convolution, figure 3 for the strategies, and the
    released code.
    Status: adaptive certain (outputs and gradients equal the released code's); the others are reconstructions from the
    paper's figure 3 and its names for them: correct them in `_raw_kernels`. The initialisation of K₀ and b₀ is that of
    `torch.nn.Conv2d`, as in the static layers, and is a reconstruction; that of the prediction too.
    Deviations: the grid is passed, not guessed. A direction D of length 0 stays 0.

    Raises:
        MixerError: for a grid under 2×2, an unknown strategy, or, with gap and amp-dir, fewer than 4 channels.
    """

    #: The release's parameter names and ours; a strategy that was not released has none.
    reference_names: Mapping[str, str] | None = {
        "w": "weight",
        "b": "bias",
        "wfm.0.weight": "predictor.0.weight",
        "wfm.0.bias": "predictor.0.bias",
        "wfm.2.weight": "predictor.2.weight",
    }

    def __init__(
        self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, strategy: Strategy = "adaptive"
    ) -> None:
        super().__init__()
        check_strategy(strategy, get_args(Strategy), "dynamic convolution")
        self.strategy = strategy
        #: The order of evaluation that `forward` takes: one of `mixers.base.PATHS`.
        self.path = "auto"
        self.weight, self.bias = conv_parameters(dim)
        self.predictor = self.global_predictor = self.detail = None
        if strategy != "gap":
            self.predictor = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.GELU(), nn.Conv2d(dim, dim, 1, bias=False))
        if strategy in ("gap", "amp-dir"):
            if dim < 4:
                raise MixerError(
                    f"too few channels for strategy {strategy!r}",
                    got=dim,
                    expected="at least 4",
                    remedy="use more channels, or another strategy",
                )
            first, second = nn.Linear(dim, dim // 4), nn.Linear(dim // 4, 9 * dim if strategy == "gap" else dim)
            init_linear_(first, second)
            self.global_predictor = nn.Sequential(first, nn.GELU(), second)
        if strategy == "conv":
            self.detail = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        if strategy != "adaptive":
            self.reference_names = None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the release's names."""
        return {"dim": state["w"].shape[0]}

    def _raw_kernels(self, x: Tensor, grid: Grid) -> Tensor:
        """K̂ before it is normalised, from the tokens: (B, N, C) → (B, C, 3, 3)."""
        if self.global_predictor is not None:
            from_mean = self.global_predictor(x.mean(dim=1))  # (B, 9C) or (B, C)
            if self.predictor is None:
                return from_mean.unflatten(1, (-1, 3, 3))
        maps = to_map(x, grid)  # (B, C, H, W)
        if self.detail is not None:
            maps = self.detail(maps)
        assert self.predictor is not None
        kernels = self.predictor(F.adaptive_avg_pool2d(maps, 3))
        if self.global_predictor is not None:
            length = torch.linalg.vector_norm(kernels, dim=(2, 3), keepdim=True).clamp_min(1e-6)
            kernels = F.softplus(from_mean)[..., None, None] * (kernels / length)
        return kernels

    def predicted(self, x: Tensor, grid: Grid) -> Tensor:
        """K̂ (B, C, 3, 3), every kernel shorter than 1."""
        kernels = self._raw_kernels(x, grid)
        return kernels / (torch.linalg.vector_norm(kernels, dim=(2, 3), keepdim=True) + 1)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        check_dynamic_grid(grid)
        check_path(self.path)
        return self.with_prediction(x, grid, self.predicted(x, grid))

    def with_prediction(self, x: Tensor, grid: Grid, prediction: Tensor) -> Tensor:
        """The output where K̂ is ``prediction`` (B, C, 3, 3)."""
        kernels = self.weight[:, 0] + prediction  # (B, C, 3, 3)
        # Measured on the CPU only: elsewhere the authors' order, channels first, stays.
        last = self.path == "auto" and x.device.type == "cpu"
        return (channels_last if last else depthwise_conv_by_image)(x, kernels, self.bias, grid)

    def without_prediction(self, x: Tensor, grid: Grid) -> Tensor:
        """X ∗ K₀ + b₀: the output where K̂ is 0."""
        return depthwise_conv(x, self.weight, self.bias, grid)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The pooling window by window, the convolution as nine shifted products."""
        maps = to_map(x, grid)
        if self.detail is not None:
            assert self.detail.bias is not None
            maps = to_map(shifted_depthwise_conv(x, self.detail.weight[None, :, 0], self.detail.bias, grid), grid)
        kernels = x.new_zeros(())
        if self.predictor is not None:
            v1, c1, v2, _ = _two_layers(self.predictor)
            rows, columns = (pooling_windows(side, 3) for side in grid)
            pooled = [maps[:, :, i:j, k:m].mean(dim=(2, 3)) for i, j in rows for k, m in columns]  # nine of (B, C)
            kernels = torch.stack([F.gelu(p @ v1.mT + c1) @ v2.mT for p in pooled], dim=-1)  # (B, C, 9)
        if self.global_predictor is not None:
            u1, b1, u2, b2 = _two_layers(self.global_predictor)
            from_mean = F.gelu(x.sum(dim=1) / x.shape[1] @ u1.mT + b1) @ u2.mT + b2
            if self.strategy == "gap":
                kernels = from_mean.unflatten(1, (-1, 9))
            else:
                kernels = (1 + from_mean.exp()).log().unsqueeze(-1) * kernels / (kernels**2).sum(-1, keepdim=True).sqrt()
        kernels = kernels / ((kernels**2).sum(dim=-1, keepdim=True).sqrt() + 1)
        return shifted_depthwise_conv(x, self.weight[:, 0] + kernels.unflatten(2, (3, 3)), self.bias, grid)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: the prediction, and the depthwise 3×3; the same on every path."""
        check_path(path)
        check_dynamic_grid(grid)
        n, c = grid[0] * grid[1], self.weight.shape[0]
        on_3x3 = 2 * 9 * c * c
        prediction = {
            "adaptive": on_3x3,
            "gap": c * (c // 4) + (c // 4) * 9 * c,
            "amp-dir": on_3x3 + 2 * c * (c // 4),
            "conv": on_3x3 + 9 * n * c,
        }[self.strategy]
        return batch * (prediction + 9 * n * c)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        n, c = grid[0] * grid[1], self.weight.shape[0]
        rows, columns = (sum(end - start for start, end in pooling_windows(side, 3)) for side in grid)
        on_3x3 = rows * columns * c + 9 * c + 9 * c  # pooling, bias, gelu
        from_mean = n * c + 2 * (c // 4)  # mean, bias, gelu
        prediction = {
            "adaptive": on_3x3,
            "gap": from_mean + 9 * c,
            "amp-dir": on_3x3 + from_mean + c + (18 + 1 + 9 + 1 + 9) * c,  # bias; norm, clamp, division, softplus, product
            "conv": on_3x3 + n * c,
        }[self.strategy]
        rest = 18 * c + c + 9 * c + 9 * c + n * c  # norm, + 1, the division, K0 + K̂, b0
        return batch * (prediction + rest)


def _two_layers(predictor: nn.Sequential) -> tuple[Tensor, ...]:
    """Weights as matrices, and biases (0 for none), of the first and the last of three layers."""
    found: list[Tensor] = []
    for layer in (predictor[0], predictor[2]):
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        found += [layer.weight.flatten(1), layer.weight.new_zeros(()) if layer.bias is None else layer.bias]
    return tuple(found)
