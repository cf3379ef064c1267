"""Performer: softmax attention approximated by positive random features (FAVOR+)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixers.base import Grid, MixerError, MixerSpec, QKVAttention, Turn, at_least_float32, linear_attention, stay
from mixers.registry import register


def orthogonal_gaussian(rows: int, dim: int) -> Tensor:
    """Random vectors (rows, dim), each as a standard normal one, and every ``dim`` of them orthogonal to one another.

    The directions are those of a random rotation, for each block of ``dim`` rows, and the lengths those of independent
    normal vectors (chi-distributed). Drawn from torch's generator.
    """
    blocks = []
    for _ in range(-(-rows // dim)):
        q, r = torch.linalg.qr(torch.randn(dim, dim))
        blocks.append(q * r.diagonal().sign())  # with these signs, Q is uniform among the rotations and reflections
    lengths = torch.linalg.vector_norm(torch.randn(rows, dim), dim=1, keepdim=True)
    return torch.cat(blocks)[:rows] * lengths


@register(
    MixerSpec(
        name="performer",
        token="favor-attention",
        complexity="linear",
        formula="φ(Q)(φ(K)ᵀV) / φ(Q)Σφ(K), φ(x) = exp(Wx − ‖x‖²/2), W random, m×d, orthogonal",
        source="Choromanski et al. 2021 (Performers), arXiv 2009.14794",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
class PerformerAttention(QKVAttention):
    """O = φ(Q') (φ(K')ᵀ V) / (φ(Q') Σₙ φ(K')ₙ), φ(x) = exp(W x − ‖x‖²/2), Q' = Q d^-¼, K' = K d^-¼, per head.

    The rows of W are random normal vectors, orthogonal in blocks of d. φ(q)·φ(k) / m then has the mean exp(q·k), so that O
    comes to softmax attention as m grows; the error falls as 1/√m.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h; W (m, d), a buffer that the heads share; φ (B, h, N, m). N is
    H·W, or H·W + 1 with a class token.
    Cost: time 4NC² + 4NCm + hNm MACs, 9NC + h(9Nm + 2N + m) elementwise; memory O(N(C + hm)).
    Source: Choromanski et al. 2021 (Rethinking Attention with Performers, arXiv 2009.14794): positive features
    (lemma 1) and orthogonal ones in section 2; m = d ln d by default, as the paper's theory asks for Θ(d log d).
    Status: certain (equals its own quadratic form, and comes to softmax attention as m grows).
    Deviations: the authors' code keeps φ in range by subtracting maxima and adds a constant to it. Here each feature's
    maximum over the keys of an image goes over to the queries, and then each query's maximum over the features is
    subtracted. All of that cancels in the quotient, as exp(−‖q‖²/2) does, which is left out; some product of features
    is then 1, so that the denominator cannot vanish and nothing needs adding. W is drawn at construction from torch's
    generator, and not redrawn in training.

    Raises:
        MixerError: if the heads do not divide the dimension, without a feature, or, with ``rope``, if 4 does not divide d.
    """

    # W decides the output and is no parameter, so no weights under timm's names make up the layer.
    reference_names = None  # type: ignore[assignment]
    projection: Tensor

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        rope: bool = False,
        features: int | None = None,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, grid=grid, qkv_bias=qkv_bias, rope=rope)
        head = dim // self.num_heads
        self.features = max(1, round(head * math.log(head))) if features is None else features
        if self.features < 1:
            raise MixerError(
                "too few random features",
                got=f"features = {features}",
                expected="at least 1",
                remedy="give such a number, or leave features out",
            )
        self.register_buffer("projection", orthogonal_gaussian(self.features, head))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """In linear time; (B, h, N, d)."""
        n, d = q.shape[-2:]
        exact = at_least_float32(q)
        q, k = turn(q) * d**-0.25, turn(k) * d**-0.25
        of_q, of_k = ((t @ self.projection.to(t.dtype).T).to(exact) for t in (q, k))  # (B, h, N, m) each
        of_k = of_k - k.to(exact).square().sum(dim=-1, keepdim=True) * 0.5
        # Maxima cancel, so no gradient goes through them. √N on either side: no sum over tokens leaves the range of 16 bits.
        root = 0.5 * math.log(n)
        high = of_k.detach().amax(dim=-2, keepdim=True)  # (B, h, 1, m)
        of_q = of_q + high
        phi_k = (of_k - (high + root)).exp().to(v.dtype)
        phi_q = (of_q - (of_q.detach().amax(dim=-1, keepdim=True) + root)).exp().to(v.dtype)
        return linear_attention(phi_q, phi_k, v)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """By the N×N weights, with φ as it is defined."""
        phi = []
        for x in (turn(q), turn(k)):
            x = x / q.shape[-1] ** 0.25
            phi.append((torch.einsum("bhnd,md->bhnm", x, self.projection) - (x * x).sum(dim=-1, keepdim=True) / 2).exp())
        weights = torch.einsum("bhnf,bhmf->bhnm", *phi) / self.features
        return torch.einsum("bhnm,bhmd->bhnd", weights / weights.sum(dim=-1, keepdim=True), v)

    def attend_macs(self, n: int, dim: int) -> int:
        """Wq and Wk; φ(K)ᵀV, φ(Q)(φ(K)ᵀV) and the denominator."""
        return 4 * n * dim * self.features + self.num_heads * n * self.features

    def attend_elementwise(self, n: int, dim: int) -> int:
        """d^-¼ twice, ‖k‖² and the division, and on each feature of a query and a key the rest; Σφ(K) is the ninth."""
        h, m = self.num_heads, self.features
        return 5 * n * dim + 9 * h * n * m + 2 * h * n + h * m
