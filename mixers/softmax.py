"""Softmax attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.base import MixerSpec, QKVAttention, Turn, stay
from mixers.registry import register


@register(
    MixerSpec(
        name="softmax",
        token="softmax-attention",
        complexity="quadratic",
        formula="softmax(QKᵀ/√d) V",
        source="Vaswani et al. 2017, arXiv 1706.03762; as in DeiT, arXiv 2012.12877",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
class SoftmaxAttention(QKVAttention):
    """O = softmax(Q Kᵀ / √d) V, per head, with X → (Q, K, V) and O → Y by a Linear each.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h. N is H·W, or H·W + 1 with a class token.
    Cost: time 4NC² + 2N²C MACs, 5hN² + 6NC elementwise (softmax, biases, the scaling of q and k); memory O(N) with a
    fused kernel, O(hN²) otherwise.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2; in a vision transformer, DeiT (arXiv 2012.12877).
    Status: certain (timm's weights give timm's logits).
    Deviations: none; `scaled_dot_product_attention` chooses the kernel.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """PyTorch's fused attention; (B, h, N, d)."""
        return F.scaled_dot_product_attention(turn(q), turn(k), v)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """The explicit N×N weights."""
        scores = torch.einsum("bhnd,bhmd->bhnm", turn(q), turn(k)) / q.shape[-1] ** 0.5  # (B, h, N, N)
        weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        return torch.einsum("bhnm,bhmd->bhnd", weights, v)

    def attend_macs(self, n: int, dim: int) -> int:
        """2N²C."""
        return 2 * n * n * dim

    def attend_elementwise(self, n: int, dim: int) -> int:
        """5 for each of the hN² softmax entries, and the scaling of q and of k."""
        return 5 * self.num_heads * n * n + 2 * n * dim
