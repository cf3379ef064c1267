"""Magnitude-aware linear attention (MALA)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixers.base import GatedAttention, MixerSpec, Turn, normal_eps, stay
from mixers.options import AuthorOptions
from mixers.registry import register

#: Added to the sum of a query's scores where it divides.
EPSILON = 1e-6


def magnitude_attention(q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
    """(1 + 1/(z + ε)) A V − z mean(V), with A = R(φ(q))R(φ(k))ᵀ d^-½ / N and z_i = φ(q_i) Σφ(k_j) d^-½ / N, in linear time.

    Shapes: q, k, v and result (B, h, N, d). Cost per image: 2NCd + NC MACs; 12NC + hN elementwise.
    """
    n, d = q.shape[2:]
    # Half of the scale on either side, so that no sum over many tokens leaves the range of 16 bits.
    q, k = ((F.elu(t) + 1) * (n**-0.5 * d**-0.25) for t in (q, k))
    z = q @ k.sum(dim=2, keepdim=True).mT  # (B, h, N, 1)
    y = turn(q) @ (turn(k).mT @ v)
    # Not y (1 + 1/z): where z is small, 1/z leaves the range of float16, and y/z does not.
    return y + y / (z + normal_eps(EPSILON, z)) - z * v.mean(dim=2, keepdim=True)


def magnitude_weights(q: Tensor, k: Tensor, turn: Turn = stay) -> Tensor:
    """The N×N weights of the values, (B, h, N, N), by their formula: the naive reference."""
    n, d = q.shape[2:]
    q, k = F.elu(q) + 1, F.elu(k) + 1
    z = torch.einsum("bhnd,bhmd->bhnm", q, k).sum(dim=-1, keepdim=True) / d**0.5 / n
    scores = torch.einsum("bhnd,bhmd->bhnm", turn(q), turn(k)) / d**0.5 / n
    return (1 + 1 / (z + EPSILON)) * scores - z / n


@register(
    MixerSpec(
        name="mala",
        token="magnitude-aware-attention",
        complexity="linear",
        formula="(β φ(Q)(φ(K)ᵀV) − γ ΣV + DWC5×5(V)) ⊙ O, β = 1 + 1/z, γ = z/N, z = φ(Q)Σφ(K), scores over N√d, φ = elu + 1",
        source="Fan et al. 2025 (MALA), arXiv 2507.00698",
        status="certain",
        layout="grid",
        as_set={"rope": False, "local": False},
        doubling="invariant",
        rotary=True,
    )
)
class MagnitudeAwareAttention(GatedAttention):
    """Y = Linear((core + DWC5×5(V)) ⊙ O), core_i = (1 + 1/(z_i + ε)) Σⱼ aᵢⱼ vⱼ − z_i mean(V), per head.

    aᵢⱼ = R(φ(qᵢ))·R(φ(kⱼ)) / (N√d) with φ = elu + 1 and R the rotary position; zᵢ = Σⱼ φ(qᵢ)·φ(kⱼ) / (N√d), without R;
    ε = 1e-6. Without R the weights of a query sum to one, up to ε, and may be negative. Unlike those of a normalised
    linear attention they depend on the length of φ(q): a longer one has sharper weights.

    Shapes: X, Y, O (B, N, C) on a grid H×W, N = H·W; Q, K, V (B, h, N, d), d = C/h; the DWC's kernels (C, 1, 5, 5).
    Cost: time 5NC² + 2NCd + NC + 25NC MACs, 20NC + hN elementwise and, with R, 6NC + 6(H + W)d/4; memory O(NC + C·d).
    Source: Fan et al. 2025 (Rectifying Magnitude Neglect in Linear Attention, arXiv 2507.00698): β = 1 + 1/z and γ = z/N of
    the paper, with the factor 1/(N√d) of the authors' code in the scores. The result depends on that factor.
    Status: certain (golden files of the authors' code, outputs and gradients); the initialisation is a reconstruction.
    Deviations: the attention alone, without the block's own convolutions. ``local``, ``gate`` and ``rope`` turn off the DWC
    (the authors' "lepe"), O and R. In float16 ε is its smallest normal number, 6e-5.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(gate="linear, no activation", rope_base=10000, lepe_kernel=5, eps=EPSILON)
        return {"rope": options.read("rope", True)}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, h, N, d)."""
        return magnitude_attention(q, k, v, turn)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """By the N×N weights."""
        return torch.einsum("bhnm,bhmd->bhnd", magnitude_weights(q, k, turn), v)

    def attend_macs(self, n: int, dim: int) -> int:
        """φ(K)ᵀV, φ(Q)(φ(K)ᵀV) and z."""
        return 2 * n * dim * (dim // self.num_heads) + n * dim

    def attend_elementwise(self, n: int, dim: int) -> int:
        """elu, + 1 and the scale, twice; Σφ(K); the division by z + ε, its addition; mean(V), times z, subtracted."""
        return 12 * n * dim + n * self.num_heads
