"""Linear attention with the ReLU feature map."""

from __future__ import annotations

from torch import Tensor

from mixers.base import (
    MixerSpec,
    QKVAttention,
    Turn,
    in_float16_range,
    linear_attention,
    normal_eps,
    quadratic_linear_attention,
    stay,
)
from mixers.registry import register

#: Added to the denominator.
EPSILON = 1e-15


@register(
    MixerSpec(
        name="relu-linear",
        token="relu-linear-attention",
        complexity="linear",
        formula="φ(Q)(φ(K)ᵀV) / (φ(Q)Σφ(K) + ε), φ = relu",
        source="Cai et al. 2022 (EfficientViT), arXiv 2205.14756",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
class ReLULinearAttention(QKVAttention):
    """O = φ(Q) (φ(K)ᵀ V) / (φ(Q) Σₙ φ(K)ₙ + ε), φ = relu, per head.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h. N is H·W, or H·W + 1 with a class token.
    Cost: time 4NC² + 2NCd + NC MACs, 8NC + hN elementwise; memory O(NC + C·d).
    Source: Cai et al. 2022 (EfficientViT, arXiv 2205.14756), section 3.1, equation 2.
    Status: certain (equals its own quadratic form).
    Deviations: the attention alone, without EfficientViT's multi-scale aggregation. A query with no positive feature
    has no weights and gets output 0 (before the last Linear); ε = 1e-15, or the smallest normal number of a dtype
    that has no 1e-15, keeps that 0 from being 0/0.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, h, N, d)."""
        return linear_attention(q.relu(), in_float16_range(k.relu()), v, eps=normal_eps(EPSILON, q), turn=turn)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """By the N×N weights."""
        return quadratic_linear_attention(q.relu(), k.relu(), v, eps=normal_eps(EPSILON, q), turn=turn)

    def attend_macs(self, n: int, dim: int) -> int:
        """φ(K)ᵀV, φ(Q)(φ(K)ᵀV) and the denominator."""
        return 2 * n * dim * (dim // self.num_heads) + n * dim

    def attend_elementwise(self, n: int, dim: int) -> int:
        """relu on q and on k; Σφ(K); ε; the division."""
        return 4 * n * dim + n * self.num_heads
