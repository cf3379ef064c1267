"""Cross-covariance attention (XCiT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixers.base import Grid, MixerSpec, QKVAttention, Turn, normal_eps, stay
from mixers.registry import register

#: The least norm that a channel is divided by.
EPSILON = 1e-12


@register(
    MixerSpec(
        name="xca",
        token="cross-covariance-attention",
        complexity="linear",
        formula="V softmax(τ Q̂ᵀK̂)ᵀ, Q̂ and K̂ of norm 1 over the tokens",
        source="El-Nouby et al. 2021 (XCiT), arXiv 2106.09681",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
class CrossCovarianceAttention(QKVAttention):
    """O = V softmax(τ Q̂ᵀ K̂)ᵀ, per head; attention among channels, with Q̂ and K̂ of norm 1 over the tokens.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h; the weights (B, h, d, d), whose rows sum to 1; τ (h, 1, 1).
    N is H·W, or H·W + 1 with a class token.
    Cost: time 4NC² + 2NCd MACs, 10NC + 6Cd + 2C elementwise; memory O(NC + C·d).
    Source: El-Nouby et al. 2021 (XCiT, arXiv 2106.09681), section 3.2; τ multiplies, as in the authors' code.
    Status: certain (a golden file of the authors' code, outputs and gradients).
    Deviations: the attention alone, without XCiT's local patch interaction, class attention and convolutional stem. A
    channel that is 0 in every token is divided by 1e-12, or by the smallest normal number of a dtype that has no 1e-12.
    With ``rope``, q and k are turned before they are normalised; what mixes here are channels, so nothing depends on
    differences of places.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {**QKVAttention.reference_names, "temperature": "temperature"}

    def __init__(
        self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, qkv_bias: bool = True, rope: bool = False
    ) -> None:
        super().__init__(dim, num_heads=num_heads, grid=grid, qkv_bias=qkv_bias, rope=rope)
        self.temperature = nn.Parameter(torch.ones(self.num_heads, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, h, N, d)."""
        covariance = _unit(turn(q)).transpose(-2, -1) @ _unit(turn(k))  # (B, h, d, d)
        return v @ (covariance * self.temperature).softmax(dim=-1).transpose(-2, -1)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """Sums over the tokens, divided by both norms afterwards; the softmax by its definition."""
        q, k = turn(q), turn(k)
        across, of_q, of_k = (torch.einsum("bhni,bhnj->bhij", a, b) for a, b in ((q, k), (q, q), (k, k)))
        least = normal_eps(EPSILON, q)
        norms = [of.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(least) for of in (of_q, of_k)]  # (B, h, d) each
        scores = (self.temperature * across / norms[0].unsqueeze(-1) / norms[1].unsqueeze(-2)).exp()
        return torch.einsum("bhij,bhnj->bhni", scores / scores.sum(dim=-1, keepdim=True), v)

    def attend_macs(self, n: int, dim: int) -> int:
        """Q̂ᵀK̂ and its product with V."""
        return 2 * n * dim * (dim // self.num_heads)

    def attend_elementwise(self, n: int, dim: int) -> int:
        """Norms, their lower bound and the division, for q and for k; τ; the softmax."""
        return 6 * n * dim + 2 * dim + 6 * dim * (dim // self.num_heads)


def _unit(x: Tensor) -> Tensor:
    """Channels (B, h, N, d) of norm 1 over the tokens."""
    return x / torch.linalg.vector_norm(x, dim=-2, keepdim=True).clamp_min(normal_eps(EPSILON, x))
