"""Nyströmformer: softmax attention approximated from a few landmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    at_least_float32,
    check_path,
    check_rotary,
    check_tokens,
    heads_of,
    init_linear_,
    pooling_windows,
    rotary_elementwise,
    split_heads,
    turn_for,
    without_autocast,
)
from mixers.registry import register

#: Taps of the convolution on V.
TAPS = 33


def pseudo_inverse(a: Tensor, iterations: int) -> Tensor:
    """An approximate Moore-Penrose inverse of row-stochastic matrices (..., L, L), by Z ← Z (13 − M (15 − M (7 − M))) / 4.

    M is A Z, and Z begins as Aᵀ / (‖A‖₁ ‖A‖∞), where ‖A‖∞ = 1. Cost per matrix: 4L³ MACs and 7L² elementwise an iteration;
    2L² + L elementwise to begin with.
    """
    z = a.mT / a.sum(dim=-2).amax(dim=-1)[..., None, None]
    for _ in range(iterations):
        m = a @ z
        z = (13 * z - z @ (15 * m - m @ (7 * m - m @ m))) / 4
    return z


def nystrom_attention(q: Tensor, k: Tensor, v: Tensor, landmarks: int, iterations: int) -> Tensor:
    """softmax(Q K̃ᵀ) softmax(Q̃ K̃ᵀ)⁺ (softmax(Q̃ Kᵀ) V), all scores over √d; (B, h, N, d) each, and the result.

    Cost per image, with L landmarks: 4NLC + 2L²C + 4hL³ MACs an iteration; the softmaxes, scalings and means elementwise.
    """
    d, exact = q.shape[-1], at_least_float32(q)
    q_means, k_means = (F.adaptive_avg_pool2d(t, (landmarks, d)) for t in (q, k))  # (B, h, L, d): windows of N only
    gathered = F.scaled_dot_product_attention(q_means, k, v)  # (B, h, L, d)
    with without_autocast(q):  # an inverse is large where the matrix is small: 16 bits would not do
        middle = ((q_means.to(exact) * d**-0.5) @ k_means.to(exact).mT).softmax(dim=-1)  # (B, h, L, L)
        spread = (pseudo_inverse(middle, iterations) @ gathered.to(exact)).to(v.dtype)
    return F.scaled_dot_product_attention(q, k_means, spread)


def naive_nystrom_attention(q: Tensor, k: Tensor, v: Tensor, landmarks: int, iterations: int) -> Tensor:
    """The same as `nystrom_attention`, one image and head at a time, by the N×N weights."""
    (b, h, n, d), eye, heads = q.shape, torch.eye(landmarks, dtype=q.dtype, device=q.device), []
    windows = pooling_windows(n, landmarks)
    for q1, k1, v1 in zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), strict=True):
        q_means, k_means = (torch.stack([t[i:j].sum(dim=0) / (j - i) for i, j in windows]) for t in (q1, k1))
        scores = [(s / d**0.5).exp() for s in (q1 @ k_means.T, q_means @ k_means.T, q_means @ k1.T)]
        left, a, right = (s / s.sum(dim=1, keepdim=True) for s in scores)
        z = a.T / (a.abs().sum(dim=0).max() * a.abs().sum(dim=1).max())
        for _ in range(iterations):
            z = z @ (13 * eye - a @ z @ (15 * eye - a @ z @ (7 * eye - a @ z))) / 4
        heads.append(left @ z @ right @ v1)
    return torch.stack(heads).view(b, h, n, d)


@register(
    MixerSpec(
        name="nystrom",
        token="nystrom-attention",
        complexity="linear",
        formula="softmax(QK̃ᵀ/√d) softmax(Q̃K̃ᵀ/√d)⁺ softmax(Q̃Kᵀ/√d) V + V ∗ K₃₃, Q̃ and K̃ segment means",
        source="Xiong et al. 2021 (Nyströmformer), arXiv 2102.03902",
        status="certain",
        layout="sequence",
        rotary=True,
    )
)
class NystromAttention(nn.Module):
    """O = softmax(Q K̃ᵀ / √d) softmax(Q̃ K̃ᵀ / √d)⁺ softmax(Q̃ Kᵀ / √d) V + V ∗ K₃₃, per head, between Linears.

    The landmarks Q̃ and K̃ are means of Q and K over L segments of the row-major sequence of tokens, or over the N tokens
    themselves where there are fewer. A⁺ is the pseudo-inverse by an iteration of the third order (`pseudo_inverse`). K₃₃
    is a kernel over the sequence, one to a head, with zero padding and without bias.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h; Q̃, K̃ (B, h, L, d); K₃₃ (h, 1, 33, 1).
    Cost, with i iterations: time 4NC² + 4NLC + 33NC + 2L²C + 4ihL³ MACs, 7NC + 3LC + h(10NL + (7 + 7i)L² + L) elementwise
    and 1 for each element in each segment (2NC, more where segments overlap); memory O(NC + hL²) with a fused kernel,
    O(hNL) otherwise.
    Source: Xiong et al. 2021 (Nyströmformer, arXiv 2102.03902), section 3: landmarks, the three softmaxes, the
    iteration with i = 6; the convolution in the figure of the architecture. L = 64 as in most of its experiments.
    Status: certain for the attention (L = N gives softmax attention); the convolution's width and sharing are those of the
    authors' code as described elsewhere, and its initialisation that of `torch.nn.Conv2d`: a reconstruction.
    Deviations: the iteration begins with a scale of its own for each image and head; the authors' code takes one over the
    whole batch, so that images depend on one another. Segments are as equal as N allows (adaptive pooling) and overlap by
    at most one token; the paper takes N a multiple of L. ``local`` turns the convolution off. With ``rope``, q and k are
    turned by their place on the grid before the means.

    Raises:
        MixerError: if the heads do not divide the dimension, without a landmark or an iteration, or, with ``rope``, if 4
            does not divide d.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        landmarks: int = 64,
        iterations: int = 6,
        local: bool = True,
        rope: bool = False,
    ) -> None:
        super().__init__()
        if landmarks < 1 or iterations < 1:
            raise MixerError(
                "too few landmarks or iterations",
                got=f"landmarks = {landmarks} and iterations = {iterations}",
                expected="at least 1 of each",
                remedy="give both such a number, or leave them out",
            )
        heads = heads_of(dim, num_heads)
        if rope:
            check_rotary(dim // heads)
        self.num_heads, self.landmarks, self.iterations, self.rope = heads, landmarks, iterations, rope
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qkv, self.proj)
        self.conv = nn.Conv2d(heads, heads, (TAPS, 1), padding=(TAPS // 2, 0), groups=heads, bias=False) if local else None

    def _project(self, x: Tensor, grid: Grid, naive: bool) -> list[Tensor]:
        """Q, K, V by head, (B, h, N, d) each, Q and K turned."""
        check_tokens(x, grid)
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))
        turn = turn_for(self.rope, grid, naive)
        return [turn(q), turn(k), v]

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        q, k, v = self._project(x, grid, naive=False)
        y = nystrom_attention(q, k, v, min(self.landmarks, grid[0] * grid[1]), self.iterations)
        if self.conv is not None:
            y = y + self.conv(v)
        return self.proj(y.transpose(1, 2).flatten(2))

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights, image by image and head by head; the convolution tap by tap."""
        q, k, v = self._project(x, grid, naive=True)
        n = x.shape[1]
        y = naive_nystrom_attention(q, k, v, min(self.landmarks, n), self.iterations)
        if self.conv is not None:
            padded = F.pad(v, (0, 0, TAPS // 2, TAPS // 2))
            for i in range(TAPS):
                y = y + self.conv.weight[:, 0, i, 0, None, None] * padded[:, :, i : i + n]
        return self.proj(y.transpose(1, 2).flatten(2))

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, scores and values, the inverse, the convolution."""
        check_path(path)
        n, c = grid[0] * grid[1], self.proj.in_features
        marks = min(self.landmarks, n)
        inverse = 2 * marks**2 * c + 4 * self.iterations * self.num_heads * marks**3
        return batch * (n * c * (4 * c + 4 * marks + (TAPS if self.conv is not None else 0)) + inverse)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; the angles are shared by the images."""
        n, c, h = grid[0] * grid[1], self.proj.in_features, self.num_heads
        marks = min(self.landmarks, n)
        biases = n * c * (4 if self.qkv.bias is not None else 1)
        means = 2 * c * sum(j - i for i, j in pooling_windows(n, marks))
        attention = 10 * h * n * marks + 2 * (n + marks) * c  # two softmaxes, the scaling of both operands
        inverse = marks * c + h * ((5 + 2 + 7 * self.iterations) * marks**2 + marks)  # scaling, softmax, its inverse
        local = n * c if self.conv is not None else 0
        turns = 2 * rotary_elementwise(grid, batch, c, c // h) if self.rope else 0
        return batch * (biases + means + attention + inverse + local) + turns
