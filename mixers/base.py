"""What a mixer is: the contract, its description, and the few pieces that all mixers share.

A **MAC** is one multiply-add inside a matmul, bmm, einsum contraction, SDPA or convolution. Everything else is
**elementwise work**, counted as

- 1 per output element of a pointwise operation (an addition, an exponential, an activation, a bias),
- 1 per input element of a sum or mean, 2 per input element of a 2-norm,
- 5 per element of a normalisation or a softmax,
- 1 per element inside each window of a pooling.

Reshapes, copies and indexing are free in both. Standard symbols: B batch, N tokens, C channels, H×W grid, h heads,
d = C/h head dimension, D output features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Grid = tuple[int, int]

#: Named orders of evaluation. "auto" is the one that runs; a mixer with a single order ignores the name.
PATHS = ("released", "auto")


class MixerError(ValueError):
    """Bad input to a mixer: one message that says what was wrong, what was got, what is allowed, and the remedy."""


@runtime_checkable
class TokenMixer(Protocol):
    """The contract of a token mixer; ``torch.nn.Module`` supplies ``__call__``."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix the tokens ``x: (B, N, C)`` of a grid H×W (N = H·W, row by row) into ``(B, N, C)``."""
        ...

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """MACs of one forward pass over the whole batch, exactly, by arithmetic alone."""
        ...

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Elementwise operations of one forward pass over the whole batch (see this module's docstring)."""
        ...


@dataclass(frozen=True)
class MixerSpec:
    """How a mixer fills the skeleton's two slots, layer by layer, and what its docstring promises.

    Layer i is active when ``i % every == offset``. ``token`` and ``ffn_in`` name the layers that fill the token-mixer
    slot and the FFN's first Linear in an active layer, ``off_token`` and ``off_ffn_in`` those of the other layers. A
    token layer may also be given as the class itself, which is how a mixer from outside the package comes in.
    """

    name: str
    token: str | type[nn.Module]
    complexity: str
    formula: str
    source: str
    status: str
    ffn_in: str = "linear"
    off_token: str | None = None
    off_ffn_in: str = "linear"
    every: int = 1
    offset: int = 0
    prefix_tokens: bool = False
    needs_grid: bool = False

    def active(self, layer: int) -> bool:
        """Whether layer ``layer`` (from 0) carries the mixer."""
        return layer % self.every == self.offset


def check_path(path: str) -> None:
    """Refuse an evaluation path that does not exist.

    Raises:
        MixerError: naming the paths there are.
    """
    if path not in PATHS:
        raise MixerError(f"unknown evaluation path: got {path!r}, expected one of {', '.join(PATHS)}; choose one of these")


def check_tokens(x: Tensor, grid: Grid, *, prefix_tokens: bool = False) -> None:
    """Refuse tokens that do not fill the grid: N must be H·W (or H·W + 1 where ``prefix_tokens``).

    Raises:
        MixerError: naming N, the grid and what would fit.
    """
    h, w = grid
    n = x.shape[1]
    if n == h * w or (prefix_tokens and n == h * w + 1):
        return
    allowed = f"{h * w} or {h * w + 1} (with a prefix token)" if prefix_tokens else f"{h * w}"
    raise MixerError(
        f"tokens do not fill the grid: got N = {n} tokens for a {h}x{w} grid, expected {allowed}; "
        "pass the grid the tokens came from, without prefix tokens where the mixer takes none"
    )


def heads_of(dim: int, num_heads: int | None) -> int:
    """The number of heads: as given, or one per 64 channels.

    Raises:
        MixerError: if the heads do not divide ``dim``.
    """
    heads = max(1, dim // 64) if num_heads is None else num_heads
    if heads < 1 or dim % heads:
        divisors = [k for k in range(1, dim + 1) if dim % k == 0 and k <= 64]
        raise MixerError(
            f"heads do not divide the dimension: got num_heads = {heads} for dim = {dim}, "
            f"expected a divisor of {dim}; use one of {divisors}"
        )
    return heads


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, H·W, C), row by row, as a feature map (B, C, H, W)."""
    return x.transpose(1, 2).unflatten(2, grid)


def to_tokens(x: Tensor) -> Tensor:
    """A feature map (B, C, H, W) as tokens (B, H·W, C)."""
    return x.flatten(2).transpose(1, 2)


def init_linear_(*layers: nn.Module) -> None:
    """The ViT initialisation of Linear layers: truncated normal of std 0.02, zero bias."""
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Linear(nn.Linear):
    """Y = X Wᵀ + b: the plain filling of the FFN-input slot.

    Shapes: X (B, N, C), W (D, C), b (D), Y (B, N, D). Cost: N·C·D MACs, N·D elementwise.
    The grid is accepted, as every filling of this slot must, and not used.
    """

    def __init__(self, in_features: int, out_features: int, *, grid: Grid | None = None) -> None:
        super().__init__(in_features, out_features)
        init_linear_(self)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:  # noqa: D102
        return super().forward(x)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released", *, prefix_tokens: int = 0) -> int:
        """Exact MACs of one forward pass over the batch."""
        check_path(path)
        return batch * (grid[0] * grid[1] + prefix_tokens) * self.in_features * self.out_features

    def elementwise(self, grid: Grid, batch: int = 1, *, prefix_tokens: int = 0) -> int:
        """Exact elementwise operations of one forward pass over the batch (the bias)."""
        return batch * (grid[0] * grid[1] + prefix_tokens) * self.out_features


class QKVAttention(nn.Module):
    """The frame of every attention: one Linear to q, k and v, heads, a core, one Linear out.

    A subclass supplies the core as functions of tensors: ``attend`` (fast), ``naive_attend`` (obvious), and their
    closed forms ``attend_macs`` and ``attend_elementwise`` for one image of n tokens. Parameters carry timm's names.

    Raises:
        MixerError: if the heads do not divide the dimension.
    """

    reference_names: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
    }

    def __init__(self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = heads_of(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qkv, self.proj)

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        return {"dim": state["proj.weight"].shape[0], "qkv_bias": "qkv.bias" in state}

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The core: q, k, v (B, h, N, d) to (B, h, N, d)."""
        raise NotImplementedError

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The core, written the slow and obvious way."""
        raise NotImplementedError

    def attend_macs(self, n: int, dim: int) -> int:
        """MACs of ``attend`` for one image of n tokens."""
        raise NotImplementedError

    def attend_elementwise(self, n: int, dim: int) -> int:
        """Elementwise operations of ``attend`` for one image of n tokens."""
        raise NotImplementedError

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid, prefix_tokens=True)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, h, N, d)
        y = self.naive_attend(q, k, v) if naive else self.attend(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The same, through the naive core: the reference that tests compare with."""
        return self._mix(x, grid, naive=True)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released", *, prefix_tokens: int = 0) -> int:
        """Exact MACs of one forward pass over the batch: 4NC² for the projections, and the core's."""
        check_path(path)
        n, c = grid[0] * grid[1] + prefix_tokens, self.proj.in_features
        return batch * (4 * n * c * c + self.attend_macs(n, c))

    def elementwise(self, grid: Grid, batch: int = 1, *, prefix_tokens: int = 0) -> int:
        """Exact elementwise operations of one forward pass over the batch: the biases, and the core's."""
        n, c = grid[0] * grid[1] + prefix_tokens, self.proj.in_features
        biases = n * c * (4 if self.qkv.bias is not None else 1)
        return batch * (biases + self.attend_elementwise(n, c))


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 0.0) -> Tensor:
    """Normalised attention without softmax, in linear time: q (kᵀv) / (q Σk + eps).

    Shapes: non-negative features q, k and values v, all (B, h, N, d); result (B, h, N, d).
    Cost per image: 2NCd + NC MACs; 2NC elementwise (Σk and the division), N·h more with eps.
    Source: Katharopoulos et al. 2020, arXiv 2006.16236, equation 5.
    """
    kv = k.transpose(-2, -1) @ v  # (B, h, d, d)
    norm = q @ k.sum(dim=-2, keepdim=True).transpose(-2, -1)  # (B, h, N, 1)
    return (q @ kv) / (norm + eps if eps else norm)


def quadratic_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 0.0) -> Tensor:
    """The same as `linear_attention`, by its N×N weights: the naive reference, O(N²)."""
    weights = torch.einsum("bhnd,bhmd->bhnm", q, k)  # (B, h, N, N)
    return torch.einsum("bhnm,bhmd->bhnd", weights / (weights.sum(dim=-1, keepdim=True) + eps), v)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
    """Depthwise convolution of tokens (B, H·W, C) with kernels (C, 1, k, k), zero padding k//2; (B, H·W, C)."""
    return to_tokens(F.conv2d(to_map(x, grid), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]))


def shifted_depthwise_conv(x: Tensor, kernels: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    """Depthwise 3×3 convolution as nine shifted products: the naive reference.

    Shapes: x (B, H·W, C), kernels (B or 1, C, 3, 3), bias (C); result (B, H·W, C).
    """
    (h, w), padded = grid, F.pad(to_map(x, grid), (1, 1, 1, 1))  # (B, C, H+2, W+2)
    y = bias[:, None, None].expand(x.shape[0], -1, h, w)
    for i in range(3):
        for j in range(3):
            y = y + kernels[:, :, i, j, None, None] * padded[:, :, i : i + h, j : j + w]
    return to_tokens(y)
