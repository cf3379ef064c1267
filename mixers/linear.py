"""Linear attention with the elu + 1 feature map."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mixers.base import MixerSpec, QKVAttention, Turn, in_float16_range, linear_attention, quadratic_linear_attention, stay
from mixers.registry import register


@register(
    MixerSpec(
        name="linear",
        token="linear-attention",
        complexity="linear",
        formula="φ(Q)(φ(K)ᵀV) / φ(Q)Σφ(K), φ = elu + 1",
        source="Katharopoulos et al. 2020, arXiv 2006.16236",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
class LinearAttention(QKVAttention):
    """O = φ(Q) (φ(K)ᵀ V) / (φ(Q) Σₙ φ(K)ₙ), φ(x) = elu(x) + 1, per head.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h. N is H·W, or H·W + 1 with a class token.
    Cost: time 4NC² + 2NCd + NC MACs, 10NC elementwise; memory O(NC + C·d).
    Source: Katharopoulos et al. 2020 (arXiv 2006.16236), equations 5 and 7.
    Status: certain (equals its own quadratic form).
    Deviations: the authors' code adds 1e-6 to the denominator; the paper's formula does not, and neither does this, as
    φ > 0 makes the denominator positive. The weights of a token sum to exactly 1.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, h, N, d)."""
        return linear_attention(F.elu(q) + 1, in_float16_range(F.elu(k) + 1), v, turn=turn)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """By the N×N weights."""
        return quadratic_linear_attention(F.elu(q) + 1, F.elu(k) + 1, v, turn=turn)

    def attend_macs(self, n: int, dim: int) -> int:
        """φ(K)ᵀV, φ(Q)(φ(K)ᵀV) and the denominator."""
        return 2 * n * dim * (dim // self.num_heads) + n * dim

    def attend_elementwise(self, n: int, dim: int) -> int:
        """elu and + 1 on q and on k; Σφ(K); the division."""
        return 6 * n * dim
