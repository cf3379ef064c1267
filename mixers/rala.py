"""Rank-augmented linear attention (RALA)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.base import (
    GatedAttention,
    Grid,
    MixerSpec,
    Turn,
    at_least_float32,
    linear_attention,
    normal_eps,
    quadratic_linear_attention,
    stay,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Added to the denominator.
EPSILON = 1e-6


def key_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmaxⱼ(mean(q)·kⱼ / √d) over the tokens, of features q and k (B, h, N, d): (B, h, N, 1).

    Cost per image: NC MACs; NC + C + 5hN elementwise.
    """
    centre = q.mean(dim=2, keepdim=True) * q.shape[-1] ** -0.5  # (B, h, 1, d)
    return (k @ centre.mT).softmax(dim=2, dtype=at_least_float32(k))


def naive_key_weights(q: Tensor, k: Tensor) -> Tensor:
    """The same as `key_weights`, as a mean over the scores of all pairs of tokens."""
    scores = (torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5).mean(dim=2).exp()  # (B, h, N)
    return (scores / scores.sum(dim=-1, keepdim=True)).unsqueeze(-1)


@register(
    MixerSpec(
        name="rala",
        token="rank-augmented-attention",
        complexity="linear",
        formula="(φ(Q)(Σⱼ aⱼφ(kⱼ)ᵀvⱼ) / φ(Q)Σ aⱼφ(kⱼ) + DWC5×5(V)) ⊙ O, a = N softmax(mean φ(Q)·φ(K) / √d), φ = elu + 1",
        source="Fan et al. 2025 (RALA), arXiv 2411.07635",
        status="certain",
        layout="grid",
        as_set={"rope": False, "local": False},
        doubling="invariant",
        rotary=True,
    )
)
class RankAugmentedAttention(GatedAttention):
    """Y = Linear((core + DWC5×5(V)) ⊙ O), core_i = Σⱼ R(φ(qᵢ))·R(k̂ⱼ) vⱼ / (Σⱼ φ(qᵢ)·k̂ⱼ + Nε), per head.

    k̂ⱼ = aⱼ φ(kⱼ) are keys with weights a = N softmaxⱼ(meanᵢ φ(qᵢ)·φ(kⱼ) / √d), which are more where a key is near the mean
    query. φ = elu + 1; R is the rotary position, in the numerator only; ε = 1e-6. Weights and gate raise the rank: of Σ k̂ᵀv
    the one, of the output the other.

    Shapes: X, Y, O (B, N, C) on a grid H×W, N = H·W; Q, K, V (B, h, N, d), d = C/h; a (B, h, N, 1); the DWC's kernels
    (C, 1, 5, 5).
    Cost: time 5NC² + 2NCd + 2NC + 25NC MACs, 17NC + 7hN + C elementwise and, with R, 6NC + 6(H + W)d/4; memory O(NC + C·d).
    Source: Fan et al. 2025 (Breaking the Low-Rank Dilemma of Linear Attention, arXiv 2411.07635). The 1/√d in the weights,
    ε and the angles of R are those of the released code.
    Status: certain (golden files of the authors' code, outputs and gradients); the initialisation is a reconstruction.
    Deviations: the attention alone, without the block's own convolutions. ``key_weights`` at False is a = 1; ``local``,
    ``gate`` and ``rope`` turn off the DWC (the authors' "lepe"), O and R. In float16 ε is its smallest normal number, 6e-5.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        local: bool = True,
        gate: bool = True,
        rope: bool = True,
        key_weights: bool = True,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, grid=grid, local=local, gate=gate, rope=rope)
        self.key_weights = key_weights

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(gate="linear, no activation", rope_base=10000, lepe_kernel=5, eps=EPSILON)
        return {"rope": options.read("rope", True)}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, h, N, d)."""
        q, k, n = F.elu(q) + 1, F.elu(k) + 1, q.shape[2]
        # √N on either side, so that no sum over many tokens leaves the range of 16 bits.
        k = k * ((key_weights(q, k) * n**0.5).to(k.dtype) if self.key_weights else n**-0.5)
        return linear_attention(q * n**-0.5, k, v, eps=normal_eps(EPSILON, q), turn=turn)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """By the N×N weights."""
        q, k, n = F.elu(q) + 1, F.elu(k) + 1, q.shape[2]
        weighted = n * naive_key_weights(q, k) * k if self.key_weights else k
        return quadratic_linear_attention(q / n, weighted, v, eps=EPSILON, turn=turn)

    def attend_macs(self, n: int, dim: int) -> int:
        """K̂ᵀV, φ(Q)(K̂ᵀV), the denominator, and the scores of the weights."""
        return 2 * n * dim * (dim // self.num_heads) + n * dim * (2 if self.key_weights else 1)

    def attend_elementwise(self, n: int, dim: int) -> int:
        """elu and + 1, on q and k; √N on q, and a or √N on k; Σk̂; ε; the division; for a the mean, the softmax, scales."""
        weights = n * dim + dim + 6 * n * self.num_heads if self.key_weights else 0
        return 8 * n * dim + n * self.num_heads + weights
