"""Spatial-reduction attention (PVT): keys and values from a coarser grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    check_path,
    check_tokens,
    heads_of,
    init_linear_,
    split_heads,
    to_map,
    to_tokens,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Under the root of the LayerNorm, as in the authors' code.
EPSILON = 1e-5


@register(
    MixerSpec(
        name="pvt-sra",
        token="spatial-reduction-attention",
        complexity="quadratic",
        formula="softmax(QK̃ᵀ/√d) Ṽ, K̃ and Ṽ from LN(X ∗ᵣ R), a convolution r×r of stride r, r = 2",
        source="Wang et al. 2021 (PVT), arXiv 2102.12122; Wang et al. 2022 (PVT v2), arXiv 2106.13797",
        status="certain",
        layout="grid",
        as_set={"ratio": 1},
        doubling="invariant",
    )
)
class SpatialReductionAttention(nn.Module):
    """O = softmax(Q K̃ᵀ / √d) Ṽ, per head, between Linears; K̃ and Ṽ come from X on a grid with sides r times shorter.

    X̃ = LN(X ∗ᵣ R + b): a convolution with kernels r×r and stride r over the cells of the grid, each cell giving one token,
    and a LayerNorm. (K̃, Ṽ) come from X̃ by one Linear, Q from X by another. Rows and columns beyond a multiple of r have
    queries but reach no key. With r = 1 there is neither convolution nor norm, and this is softmax attention.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, O (B, h, N, d), d = C/h; X̃ (B, n, C), n = ⌊H/r⌋⌊W/r⌋; K̃, Ṽ
    (B, h, n, d); R (C, C, r, r).
    Cost: time 2NC² + 2nC² + nr²C² + 2NnC MACs, 5hNn + 3NC + 9nC elementwise; memory O(NC) with a fused kernel, O(hNn)
    otherwise. n is N/r²: quadratic in N all the same.
    Source: Wang et al. 2021 (Pyramid Vision Transformer, arXiv 2102.12122), section 3.3, equations 1 to 3; as in PVT v2
    (arXiv 2106.13797), whose models differ from the first only around this layer.
    Status: certain (golden files of timm's PVT v2, outputs and gradients; r = 1 equals the mixer `softmax`).
    Deviations: PVT gives each stage a ratio of its own (8, 4, 2, 1); the skeleton that all mixers share has one stage and
    one ratio. The variant of PVT v2 that pools to 7×7 is another mixer. ``norm`` turns the LayerNorm off. Linears are
    initialised as in a ViT, R as `torch.nn.Conv2d`.

    Raises:
        MixerError: if the heads do not divide the dimension, ``ratio`` is less than 1, or a side of the grid is shorter
            than the ratio.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        f"{part}.{what}": f"{part}.{what}" for part in ("q", "kv", "proj", "sr", "norm") for what in ("weight", "bias")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        ratio: int = 2,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if ratio < 1:
            raise MixerError(
                "a grid cannot be reduced by this", got=f"ratio = {ratio}", expected="1, 2, ...", remedy="use 1 for none"
            )
        self.num_heads, self.ratio = heads_of(dim, num_heads), ratio
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.q, self.kv, self.proj)
        self.sr = nn.Conv2d(dim, dim, ratio, stride=ratio) if ratio > 1 else None
        self.norm = nn.LayerNorm(dim, eps=EPSILON) if norm and ratio > 1 else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        reduced = "sr.weight" in state or "sr.bias" in state
        return {
            "dim": state["proj.weight"].shape[0],
            "qkv_bias": "q.bias" in state or "kv.bias" in state,
            "ratio": state["sr.weight"].shape[-1] if reduced else 1,
            "norm": "norm.weight" in state or "norm.bias" in state,
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(linear_attn=False, layer_norm_eps=EPSILON)
        given = {"ratio": options.read("sr_ratio"), "qkv_bias": options.read("qkv_bias")}
        return {name: value for name, value in given.items() if value is not None}

    def _reduced(self, grid: Grid) -> Grid:
        """The grid of the keys."""
        if min(grid) < self.ratio:
            raise MixerError(
                "the grid has no whole cell to reduce",
                got=f"{grid[0]}x{grid[1]} tokens",
                expected=f"at least {self.ratio}x{self.ratio} for ratio = {self.ratio}",
                remedy="use a smaller ratio, a smaller patch or larger images",
            )
        return grid[0] // self.ratio, grid[1] // self.ratio

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        self._reduced(grid)
        coarse = x if self.sr is None else to_tokens(self.sr(to_map(x, grid)))  # (B, n, C)
        k, v = self.kv(coarse if self.norm is None else self.norm(coarse)).chunk(2, dim=-1)
        q, k, v = (split_heads(t, self.num_heads) for t in (self.q(x), k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """Each cell's r² tokens times r² matrices, and the explicit N×n weights."""
        check_tokens(x, grid)
        (h, w), r, coarse = self._reduced(grid), self.ratio, x
        if self.sr is not None:
            assert self.sr.bias is not None
            cells = x.unflatten(1, grid)[:, : h * r, : w * r].unflatten(2, (w, r)).unflatten(1, (h, r))  # (B, h, r, w, r, C)
            coarse = torch.einsum("byixjc,ocij->byxo", cells, self.sr.weight).flatten(1, 2) + self.sr.bias
        if self.norm is not None:
            centred = coarse - coarse.mean(dim=-1, keepdim=True)
            coarse = centred / (centred.square().mean(dim=-1, keepdim=True) + EPSILON).sqrt()
            coarse = coarse * self.norm.weight + self.norm.bias
        q = split_heads(self.q(x), self.num_heads)
        k, v = (split_heads(t, self.num_heads) for t in self.kv(coarse).chunk(2, dim=-1))
        scores = (torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5).exp()
        y = torch.einsum("bhnm,bhmd->bhnd", scores / scores.sum(dim=-1, keepdim=True), v)
        return self.proj(y.transpose(1, 2).flatten(2))

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, the convolution, scores and values."""
        check_path(path)
        rows, columns = self._reduced(grid)
        n, few, c = grid[0] * grid[1], rows * columns, self.proj.in_features
        conv = few * self.ratio**2 * c * c if self.sr is not None else 0
        return batch * (2 * n * c * c + 2 * few * c * c + conv + 2 * n * few * c)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        rows, columns = self._reduced(grid)
        n, few, c = grid[0] * grid[1], rows * columns, self.proj.in_features
        biases = n * c + (n + 2 * few) * c * (self.q.bias is not None)
        coarse = few * c * ((self.sr is not None) + 5 * (self.norm is not None))
        attention = 5 * self.num_heads * n * few + (n + few) * c  # the softmax, the scaling of both operands
        return batch * (biases + coarse + attention)
