"""Linear attention whose blocks of tokens read one another by learned weights (MHLA)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    at_least_float32,
    beyond_float16,
    check_built_grid,
    check_path,
    check_tokens,
    depthwise_conv,
    heads_of,
    init_linear_,
    needed_grid,
    shifted_depthwise_conv,
    split_heads,
    without_autocast,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Added to the features and to the denominator.
EPSILON = 1e-6
#: How the weight between two blocks starts, by their distance δ in blocks, and by the greatest one.
TRANSFORMS: Mapping[str, Callable[[float, float], float]] = {
    "linear": lambda distance, most: 1 - distance / most,
    "cos": lambda distance, most: math.cos(math.pi * distance / (4 * most)),
    "exp": lambda distance, most: math.exp(-distance / 3),
    "local": lambda distance, most: float(distance <= 1.5),
    "gaussian": lambda distance, most: math.exp(-((distance / 3) ** 2) / 2),
}
NORMALISERS = ("paper", "released")


def block_sides(grid: Grid, blocks: int) -> tuple[Grid, Grid]:
    """How many blocks there are along either axis, at most √blocks, and the sides of a block."""
    sides = [-(-side // math.isqrt(blocks)) for side in grid]
    counts = [-(-side // length) for side, length in zip(grid, sides, strict=True)]
    return (counts[0], counts[1]), (sides[0], sides[1])


def starting_weights(counts: Grid, transform: str) -> Tensor:
    """Weights between blocks by the distance of their centres, columns that sum to one (not for "gaussian"); (m, m)."""
    places = [(i, j) for i in range(counts[0]) for j in range(counts[1])]
    distances = [[math.dist(a, b) for b in places] for a in places]
    most = max(max(map(max, distances)), 1.0)
    weights = torch.tensor([[TRANSFORMS[transform](distance, most) for distance in row] for row in distances])
    return weights if transform == "gaussian" else weights / weights.sum(dim=0)


def to_blocks(x: Tensor, grid: Grid, counts: Grid, sides: Grid) -> Tensor:
    """Tokens (B, h, N, d) by block, (B, h, m, s, d); places beyond the grid hold zeros."""
    x = x.unflatten(2, grid)
    rows, columns = (n * side - length for n, side, length in zip(counts, sides, grid, strict=True))
    if rows or columns:
        x = F.pad(x, (0, 0, 0, columns, 0, rows))
    x = x.unflatten(3, (counts[1], sides[1])).unflatten(2, (counts[0], sides[0]))  # (B, h, rows, s₁, columns, s₂, d)
    return x.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def from_blocks(x: Tensor, grid: Grid, counts: Grid, sides: Grid) -> Tensor:
    """The inverse of `to_blocks`: (B, h, m, s, d) to (B, h, N, d)."""
    x = x.unflatten(3, sides).unflatten(2, counts).transpose(3, 4)  # (B, h, rows, s₁, columns, s₂, d)
    return x.flatten(4, 5).flatten(2, 3)[:, :, : grid[0], : grid[1]].flatten(2, 3)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., C) over its root mean square, times weight (C); ε is the machine epsilon of x's dtype. 4 a feature and 2.

    Not PyTorch's, which takes other steps on other devices, so that its work has no one number.
    """
    exact = x.to(at_least_float32(x))
    scale = (exact.square().mean(dim=-1, keepdim=True) + torch.finfo(x.dtype).eps).rsqrt()
    return (exact * scale).to(x.dtype) * weight


def block_attention(q: Tensor, k: Tensor, v: Tensor, mix: Tensor, released: bool = False) -> Tensor:
    """Linear attention by block: block i reads Σ_c mix[i, c] KV_c, the weighted states of all blocks.

    Shapes: features q and k, values v and result (B, h, m, s, d), mix (m, m).
    Cost per image of P = ms places: 2PCd + PC + m²Cd MACs, and m²C for the normaliser, or mPh for the released one; 2PC + Ph
    elementwise.
    """
    kv, sums = k.mT @ v, k.sum(dim=3)  # (B, h, m, d, d), (B, h, m, d)
    mixed = (mix @ kv.flatten(3)).view_as(kv)
    # (B, h, m, s) either way: the released one mixes what other blocks' queries make of their own keys.
    norm = mix @ (q @ sums.unsqueeze(-1)).squeeze(-1) if released else (q @ (mix @ sums).unsqueeze(-1)).squeeze(-1)
    return (q @ mixed) / (norm + EPSILON).unsqueeze(-1)


@register(
    MixerSpec(
        name="mhla",
        token="block-mixing-attention",
        complexity="linear",
        formula="φ(Q)(Σ_c M_bc φ(K_c)ᵀV_c) / (φ(Q)Σ_c M_bc Σφ(K_c) + ε) + DWC5×5(V), blocks b and c, φ = relu + ε",
        source="DAGroup-PKU 2026 (MHLA), ICLR 2026",
        status="certain",
        needs_grid=True,
        layout="grid",
    )
)
class BlockMixingAttention(nn.Module):
    """Y = Linear(core + DWC5×5(V)), core_i = Σⱼ M_b(i)b(j) φ(qᵢ)·φ(kⱼ) vⱼ / (Σⱼ M_b(i)b(j) φ(qᵢ)·φ(kⱼ) + ε), per head.

    The grid is cut into m blocks, b(i) is the block of token i, and M (m, m) is learned, the same for all heads. Q, K, V =
    Linear(LayerNorm(X)), Q and K divided by their root mean square over all C channels with ``qk_norm``; φ(x) = relu(x) + ε,
    ε = 1e-6.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K, V (B, h, N, d), d = C/h; the DWC's kernels (C, 1, 5, 5).
    Cost: with P places in the blocks, N where they tile the grid: time 4NC² + 2PCd + PC + m²Cd + m²C + 25NC MACs (mPh for
    m²C with the released normaliser), 20NC + 4N + 2PC + hP elementwise; memory O(PC + mCd). m is at most ``blocks``,
    whatever the grid; were the side of a block fixed instead, m would grow with N, and m²Cd with its square.
    Source: DAGroup-PKU 2026 (MHLA: token-level multi-head linear attention, ICLR 2026), the module for image classification;
    16 blocks and ``transform`` "linear" as in its training on a 16×16 grid.
    Status: certain for the attention with either normaliser (golden files, outputs and gradients; the paper's normaliser by
    the authors' module with that line changed). The start of M by ``transform`` is the authors', but for "gaussian", of which
    we know only that its columns are not divided by their sum; this and the other initial values are reconstructions.
    Deviations: ``normaliser`` is the paper's, as above, by default. "released" is that of the authors' code: its sum takes,
    for the terms of another block, the query at the same place in that block instead of qᵢ. The authors need a square grid
    in square blocks; here √blocks pieces along each axis have ceil(side / √blocks) tokens, the last one what is left, so
    that blocks may be oblong, of unequal size, and fewer ("released" needs equal ones). ``block_side`` decides nothing: it
    is held against the side that follows. Nothing keeps M positive, here or there. In float16 the core is computed in
    float32, as its sums leave the range. ``local`` turns off the DWC.

    Raises:
        MixerError: if the heads do not divide the dimension, ``blocks`` is no square, an option is unknown, ``block_side``
            is not the side that follows, or the released normaliser has blocks of unequal size; without a grid, and for
            another one than it is built for.
    """

    reference_names: ClassVar[Mapping[str, str]] = {
        **{name: name for name in ("norm.weight", "norm.bias", "lepe.weight", "lepe.bias")},
        "q_norm.weight": "q_norm",
        "k_norm.weight": "k_norm",
        "to_qkv.weight": "qkv.weight",
        "piece_attn.conv.weight": "mix",
        "to_out.0.weight": "proj.weight",
        "to_out.0.bias": "proj.bias",
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        blocks: int = 16,
        block_side: int | None = None,
        normaliser: str = "paper",
        transform: str = "linear",
        qk_norm: bool = True,
        local: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.built = heads_of(dim, num_heads), needed_grid(grid, "attention with weights between blocks")
        if blocks < 1 or math.isqrt(blocks) ** 2 != blocks:
            raise MixerError(
                "blocks do not fill a square", got=f"blocks = {blocks}", expected="1, 4, 9, ...", remedy="use 16 for 4x4"
            )
        if normaliser not in NORMALISERS:
            raise MixerError(
                "unknown normaliser", got=repr(normaliser), expected=f"one of {', '.join(NORMALISERS)}", remedy="use 'paper'"
            )
        if transform not in TRANSFORMS:
            raise MixerError(
                "unknown transform", got=repr(transform), expected=f"one of {', '.join(TRANSFORMS)}", remedy="use 'linear'"
            )
        self.counts, self.sides = block_sides(self.built, blocks)
        if block_side is not None and self.sides != (block_side, block_side):
            raise MixerError(
                "blocks of other sides",
                got=f"block_side = {block_side} for {blocks} blocks of a {self.built[0]}x{self.built[1]} grid",
                expected=f"{self.sides[0]}x{self.sides[1]}",
                remedy="leave block_side out: it follows from the grid and from blocks",
            )
        self.released = normaliser == "released"
        if self.released and any(side % length for side, length in zip(self.built, self.sides, strict=True)):
            raise MixerError(
                "the released normaliser needs blocks of one size",
                got=f"a {self.built[0]}x{self.built[1]} grid in blocks of {self.sides[0]}x{self.sides[1]}",
                expected="a grid that they tile",
                remedy="use normaliser='paper', or other blocks",
            )
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qkv, self.proj)
        self.q_norm, self.k_norm = (nn.Parameter(torch.ones(dim)) if qk_norm else None for _ in range(2))
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim) if local else None
        self.mix = nn.Parameter(starting_weights(self.counts, transform)[:, :, None, None])

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        blocks = int(state["piece_attn.conv.weight"].shape[0])
        square = math.isqrt(blocks) ** 2 == blocks  # where the grid has as many blocks along both axes
        return {
            "dim": state["to_out.0.weight"].shape[0],
            **({"blocks": blocks} if square else {}),
            "qk_norm": "q_norm.weight" in state or "k_norm.weight" in state,
            "local": "lepe.weight" in state or "lepe.bias" in state,
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options, and ``normaliser``."""
        options.expect(eps=EPSILON, lepe_kernel=5, layer_norm_eps=1e-5, qkv_bias=False)
        eps = options.read("qk_norm_eps", "finfo")
        if not str(eps).startswith("finfo"):
            raise MixerError(
                "mhla has no choice of qk_norm_eps", got=repr(eps), expected="'finfo(dtype).eps'", remedy="leave it out"
            )
        given = {name: options.read(name) for name in ("blocks", "block_side", "normaliser", "transform", "qk_norm")}
        return {name: value for name, value in given.items() if value is not None}

    def _project(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K and V, (B, N, C) each, before they are divided by their root mean square."""
        check_tokens(x, grid)
        check_built_grid(grid, self.built, "attention with weights between blocks")
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return q, k, v

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        q, k, v = self._project(x, grid)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = rms_norm(q, self.q_norm), rms_norm(k, self.k_norm)
        wide = beyond_float16(v)
        with without_autocast(x):
            # Zeros beyond the grid come after the ε of φ.
            features = (t.to(wide).relu() + EPSILON for t in (q, k))
            blocks = [self._to_blocks(split_heads(t, self.num_heads)) for t in (*features, v.to(wide))]
            y = block_attention(blocks[0], blocks[1], blocks[2], self.mix.to(wide).flatten(1), self.released)
        y = from_blocks(y, grid, self.counts, self.sides).transpose(1, 2).flatten(2).to(v.dtype)  # (B, N, C)
        if self.lepe is not None:
            y = y + depthwise_conv(v, self.lepe.weight, self.lepe.bias, grid)
        return self.proj(y)

    def _to_blocks(self, x: Tensor) -> Tensor:
        return to_blocks(x, self.built, self.counts, self.sides)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights, the block of each token by its row and column, and shifted products."""
        q, k, v = self._project(x, grid)
        if self.q_norm is not None and self.k_norm is not None:
            scales = [(t.square().mean(dim=-1, keepdim=True) + torch.finfo(t.dtype).eps).sqrt() for t in (q, k)]
            q, k = q / scales[0] * self.q_norm, k / scales[1] * self.k_norm
        q, k, by_head = (split_heads(t, self.num_heads) for t in (q.relu() + EPSILON, k.relu() + EPSILON, v))
        places = [divmod(n, grid[1]) for n in range(x.shape[1])]
        block = [row // self.sides[0] * self.counts[1] + column // self.sides[1] for row, column in places]
        within = [row % self.sides[0] * self.sides[1] + column % self.sides[1] for row, column in places]
        mix = self.mix.flatten(1)[block][:, block]  # (N, N)
        weights = mix * torch.einsum("bhnd,bhmd->bhnm", q, k)
        norm_weights = weights
        if self.released:
            token = {(b, place): n for n, (b, place) in enumerate(zip(block, within, strict=True))}
            swapped = [torch.stack([q[:, :, token[b, place]] for b in block], dim=2) for place in within]  # (B, h, N, d) each
            norm_weights = mix * torch.stack([(other * k).sum(dim=-1) for other in swapped], dim=2)
        y = torch.einsum("bhnm,bhmd->bhnd", weights / (norm_weights.sum(dim=-1, keepdim=True) + EPSILON), by_head)
        y = y.transpose(1, 2).flatten(2)
        if self.lepe is not None:
            assert self.lepe.bias is not None
            y = y + shifted_depthwise_conv(v, self.lepe.weight[None, :, 0], self.lepe.bias, grid)
        return self.proj(y)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, blocks and their mixing, the normaliser, the DWC."""
        check_path(path)
        check_built_grid(grid, self.built, "attention with weights between blocks")
        n, c, m, places = grid[0] * grid[1], self.proj.in_features, math.prod(self.counts), self._places()
        normaliser = m * places * self.num_heads if self.released else m * m * c
        core = places * c * (2 * (c // self.num_heads) + 1) + m * m * c * (c // self.num_heads) + normaliser
        return batch * (n * c * (4 * c + (25 if self.lepe is not None else 0)) + core)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        check_built_grid(grid, self.built, "attention with weights between blocks")
        n, c, places = grid[0] * grid[1], self.proj.in_features, self._places()
        each = 10 + (2 if self.lepe is not None else 0)  # LayerNorm, φ twice, the last bias; the DWC's bias and addition
        qk_norm = 2 * (4 * n * c + 2 * n) if self.q_norm is not None else 0
        return batch * (n * c * each + qk_norm + 2 * places * c + places * self.num_heads)

    def _places(self) -> int:
        """P, the tokens and the empty places of all blocks."""
        return math.prod(self.counts) * math.prod(self.sides)
