"""Bidirectional gated linear attention (ViG)."""

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
    check_tokens,
    chunk_of,
    heads_of,
    init_linear_,
    split_heads,
    without_autocast,
)
from mixers.registry import register

#: τ: gates are the sigmoid to the power 1/τ, so that they begin near 1.
TEMPERATURE = 16


def gated_scan(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chunk: int) -> Tensor:
    """What each token reads of all earlier ones: oₜ = Σ_{j<t} (qₜ ⊙ αⱼ₊₁ ⊙ … ⊙ αₜ)·kⱼ vⱼ.

    Blocks of 1, 2, 4, … tokens join in pairs until they are chunks, and a state goes from chunk to chunk. A block holds
    each query times the gates from its start to the query, each key times the gates after the key to its end, and the
    product of all its gates. These are products of numbers up to 1: nothing divides by a gate, and nothing overflows.

    Shapes: q, k, v, gate and result (B, h, N, d). Cost per image, with c = `chunk_of(N, chunk)`, P = N padded to T chunks:
    PC(c − 1) + 2(T − 1)cCd MACs; memory O(NC(log c + d/c)).
    """
    n = int(q.shape[2])  # a tracer's sizes are tensors
    chunk = chunk_of(n, chunk)
    q, k, v, gate = (F.pad(t, (0, 0, 0, -n % chunk)) for t in (q * gate, k, v, gate))
    y, size = torch.zeros_like(v), 1
    while size < chunk:
        q, k, y, values = (t.unflatten(2, (-1, 2, size)) for t in (q, k, y, v))  # (B, h, P/2s, 2, s, d)
        first, second = gate.unflatten(2, (-1, 2, 1)).unbind(3)  # (B, h, P/2s, 1, d): products over each block
        read = (q[:, :, :, 1] @ k[:, :, :, 0].mT) @ values[:, :, :, 0]  # the later block of a pair reads the earlier
        y = torch.stack([y[:, :, :, 0], y[:, :, :, 1] + read], dim=3).flatten(2, 4)
        q = torch.stack([q[:, :, :, 0], q[:, :, :, 1] * first], dim=3).flatten(2, 4)
        k = torch.stack([k[:, :, :, 0] * second, k[:, :, :, 1]], dim=3).flatten(2, 4)
        gate, size = (first * second).flatten(2, 3), 2 * size
    q, k, v, y = (t.unflatten(2, (-1, chunk)) for t in (q, k, v, y))  # (B, h, T, c, d)
    if q.shape[2] > 1:
        added = k[:, :, :-1].mT @ v[:, :, :-1]  # (B, h, T-1, d, d)
        # By unbind: the gradient of every index would be a tensor of zeros of the size of all, T of them, O(T²).
        first_state, *rest = added.unbind(2)
        states = [first_state]
        for decay, new in zip(gate.unbind(2)[1:], rest, strict=False):  # the last chunk's gate is not needed
            states.append(states[-1] * decay.unsqueeze(-1) + new)
        read = q[:, :, 1:] @ torch.stack(states, dim=2)
        y = torch.cat([y[:, :, :1], y[:, :, 1:] + read], dim=2)
    return y.flatten(2, 3)[:, :, :n]


def bidirectional(q: Tensor, k: Tensor, v: Tensor, forward: Tensor, backward: Tensor, chunk: int) -> Tensor:
    """Each token reads the earlier ones through forward gates, itself, and the later ones through backward gates."""
    both = torch.cat([forward, backward.flip(2)])
    q2, k2, v2 = (torch.cat([t, t.flip(2)]) for t in (q, k, v))  # (2B, h, N, d): both directions in one scan
    earlier, later = gated_scan(q2, k2, v2, both, chunk).chunk(2)
    return earlier + later.flip(2) + (q * k).sum(dim=-1, keepdim=True) * v


def recurrent_bidirectional(q: Tensor, k: Tensor, v: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """The same as `bidirectional`, token by token: the naive reference. Both sums have the token itself, one too many."""
    (b, h, n, d), total = q.shape, torch.zeros_like(v)
    for gate, order in ((forward, range(n)), (backward, reversed(range(n)))):
        state, read = q.new_zeros(b, h, d, d), {}
        for t in order:
            state = gate[:, :, t, :, None] * state + torch.einsum("bhd,bhe->bhde", k[:, :, t], v[:, :, t])
            read[t] = torch.einsum("bhd,bhde->bhe", q[:, :, t], state)
        total = total + torch.stack([read[t] for t in range(n)], dim=2)
    return total - torch.einsum("bhnd,bhnd,bhne->bhne", q, k, v)


@register(
    MixerSpec(
        name="bi-gla",
        token="bidirectional-gated-linear-attention",
        complexity="linear",
        formula="LN(qₜ (S→ₜ + S←ₜ − kₜᵀvₜ)/√d), S→ₜ = diag(αₜ) S→ₜ₋₁ + kₜᵀvₜ, S← likewise from the end",
        source="Liao et al. 2024 (ViG), arXiv 2405.18425; Yang et al. 2023 (GLA), arXiv 2312.06635",
        status="reconstruction",
        layout="sequence",
    )
)
class BiGLA(nn.Module):
    """oₜ = LN(qₜ (S→ₜ + S←ₜ − kₜᵀvₜ) / √d), S→ₜ = diag(α→ₜ) S→ₜ₋₁ + kₜᵀvₜ, S←ₜ = diag(α←ₜ) S←ₜ₊₁ + kₜᵀvₜ, per head.

    Gates are α = sigmoid(W₂ W₁ x + b)^(1/τ), τ = 16, with W₁ of low rank r, for each direction its own; q, k, v are shared.
    Tokens are in row-major order. LN is over the d channels of a head, with weights that the heads share.

    Shapes: X, Y (B, N, C); q, k, v, α, o (B, h, N, d), d = C/h; S (B, h, d, d); W₁ (r, C), W₂ (C, r), b (C).
    Cost, with c = the chunk and P = N padded to T chunks: time 4NC² + 4NCr + 2PC(c − 1) + 4(T − 1)cCd MACs, and elementwise
    about 3PC log₂ c + 31NC + 4TCd; memory O(NC(log c + d/c)).
    Source: Yang et al. 2023 (Gated Linear Attention, arXiv 2312.06635): the recurrence and gates in section 4; Liao et al.
    2024 (ViG, arXiv 2405.18425): both directions with gates of their own, section 3.
    Status: reconstruction (chunks equal the recurrence; gates of 1 give unnormalised linear attention). From the papers:
    the recurrence, the gates, r and τ, LN by head. Not at hand is ViG's code: that a token's own kᵀv counts once, and that
    keys are as wide as values, is chosen here (`bidirectional`).
    Deviations: no output gate, and none of ViG's gating by the image's second axis. The chunks join by halves, which is
    exact and needs no logarithms. ``norm`` turns LN off. 16-bit inputs are scanned in 32 bits.

    Raises:
        MixerError: if the heads do not divide the dimension, ``rank`` is under 1, or ``chunk`` is no power of two.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        chunk: int = 64,
        rank: int = 16,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if chunk < 1 or chunk & (chunk - 1):
            raise MixerError(
                "a chunk joins halves of halves", got=f"chunk = {chunk}", expected="a power of two", remedy="use 64"
            )
        if rank < 1:
            raise MixerError("gates need a rank", got=f"rank = {rank}", expected="at least 1", remedy="leave it out for 16")
        self.num_heads, self.chunk, self.rank = heads_of(dim, num_heads), chunk, rank
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.forward_gate, self.backward_gate = (
            nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim)) for _ in range(2)
        )
        init_linear_(self.qkv, self.proj, *self.forward_gate, *self.backward_gate)
        self.norm = nn.LayerNorm(dim // self.num_heads) if norm else None

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, h, N, d), in 32 bits at least."""
        return split_heads(x, self.num_heads).to(at_least_float32(x))

    def _output(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """LN and the last Linear: (B, h, N, d) to (B, N, C)."""
        if self.norm is not None:
            weight, bias = self.norm.weight.to(y.dtype), self.norm.bias.to(y.dtype)
            y = F.layer_norm(y, self.norm.normalized_shape, weight, bias, self.norm.eps)
        return self.proj(y.transpose(1, 2).flatten(2).to(dtype))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        q, k, v = (self._heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        # The sigmoid's logarithm, as the sigmoid of a very negative number is 0 and has no root with a gradient.
        earlier, later = (
            (F.softplus(-self._heads(gate(x))) * (-1 / TEMPERATURE)).exp() for gate in (self.forward_gate, self.backward_gate)
        )
        with without_autocast(x):
            y = bidirectional(q * q.shape[-1] ** -0.5, k, v, earlier, later, self.chunk)
        return self._output(y, x.dtype)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the recurrence, token by token."""
        check_tokens(x, grid)
        q, k, v = (self._heads(t) for t in self.qkv(x).chunk(3, dim=-1))
        earlier, later = (
            self._heads(gate(x)).sigmoid() ** (1 / TEMPERATURE) for gate in (self.forward_gate, self.backward_gate)
        )
        return self._output(recurrent_bidirectional(q, k, v, earlier, later) / q.shape[-1] ** 0.5, x.dtype)

    def _chunks(self, grid: Grid) -> tuple[int, int]:
        """The chunk, and how many of them there are."""
        n = grid[0] * grid[1]
        chunk = chunk_of(n, self.chunk)
        return chunk, -(-n // chunk)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: the Linears, and in each direction within and between chunks."""
        check_path(path)
        n, c, (chunk, count) = grid[0] * grid[1], self.proj.in_features, self._chunks(grid)
        linears = n * c * (4 * c + 4 * self.rank)
        within, between = count * chunk * c * (chunk - 1), 2 * (count - 1) * chunk * c * (c // self.num_heads)
        return batch * (linears + 2 * within + 2 * between)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        n, c, (chunk, count) = grid[0] * grid[1], self.proj.in_features, self._chunks(grid)
        biases = n * c * (6 if self.qkv.bias is not None else 3)
        gates, itself, rest = 8 * n * c, 3 * n * c, 3 * n * c  # rest: 1/√d and two additions
        padded, levels = count * chunk * c, chunk.bit_length() - 1
        within = n * c + levels * 3 * padded // 2 + padded - count * c  # a level reads, and multiplies queries and keys
        states = 2 * max(0, count - 2) * c * (c // self.num_heads)
        between = states + (count - 1) * chunk * c
        norm = 5 * n * c if self.norm is not None else 0
        return batch * (biases + gates + itself + rest + 2 * (within + between) + norm)
