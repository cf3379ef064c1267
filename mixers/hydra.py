"""Hydra attention: linear attention with as many heads as channels."""

from __future__ import annotations

import torch
from torch import Tensor

from mixers.base import Grid, MixerSpec, QKVAttention, Turn, normal_eps, stay
from mixers.registry import register

#: The least length that a token is divided by.
EPSILON = 1e-12


@register(
    MixerSpec(
        name="hydra",
        token="hydra-attention",
        complexity="linear",
        formula="Q̂ ⊙ Σₙ (K̂ₙ ⊙ Vₙ), every token of Q̂ and K̂ of length 1",
        source="Bolya et al. 2022 (Hydra Attention), arXiv 2209.07484",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="sensitive",
        rotary=True,
    )
)
class HydraAttention(QKVAttention):
    """O = Q̂ ⊙ Σₙ (K̂ₙ ⊙ Vₙ), with Q̂ₙ = Qₙ / ‖Qₙ‖₂ and K̂ₙ = Kₙ / ‖Kₙ‖₂ over the C channels of a token.

    It is linear attention without a denominator, of C heads of one channel each.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, N, C); the sum (B, 1, C). N is H·W, or H·W + 1 with a class token.
    Cost: time 4NC² MACs, all in the projections: the core is products and a sum, 13NC + 2N elementwise with the biases;
    memory O(NC).
    Source: Bolya et al. 2022 (Hydra Attention: Efficient Attention with Many Heads, arXiv 2209.07484), section 3: the
    sum, and the cosine kernel.
    Status: certain (equals linear attention with h = C by its N×N weights).
    Deviations: a token of length 0 gives 0, not NaN. ``num_heads`` is accepted and not used, there being C heads. With
    ``rope``, all C channels of Q̂ and K̂ are turned by place, as a head of one channel is no plane.

    Raises:
        MixerError: with ``rope``, if 4 does not divide the dimension.
    """

    def __init__(
        self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, qkv_bias: bool = True, rope: bool = False
    ) -> None:
        # To the frame, which splits heads to contract over their channels, it is a single head.
        super().__init__(dim, num_heads=1, grid=grid, qkv_bias=qkv_bias, rope=rope)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, 1, N, C)."""
        return turn(_unit(q)) * (turn(_unit(k)) * v).sum(dim=-2, keepdim=True)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """By the N×N weights of each channel."""
        q, k = (turn(t) / (t**2).sum(dim=-1, keepdim=True).sqrt() for t in (q, k))
        weights = torch.einsum("bhnc,bhmc->bhcnm", q, k)
        return torch.einsum("bhcnm,bhmc->bhnc", weights, v)

    def attend_macs(self, n: int, dim: int) -> int:
        """None: no step contracts."""
        return 0

    def attend_elementwise(self, n: int, dim: int) -> int:
        """Norms, their lower bound and the division, for q and for k; two products and the sum."""
        return 9 * n * dim + 2 * n


def _unit(x: Tensor) -> Tensor:
    """Tokens (..., N, C) of length 1."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(normal_eps(EPSILON, x))
