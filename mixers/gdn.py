"""Gated delta networks, in both directions along the row order."""

from __future__ import annotations

import math

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
    without_autocast,
)
from mixers.registry import register

#: Taps of the causal convolution, ε of the unit length and of the RMS norm.
TAPS, UNIT_EPSILON, NORM_EPSILON = 4, 1e-6, 1e-5
#: A_log is held below it: its exponential is near the end of float32's range, and every decay 0 anyway.
LOG_BOUND = 80.0


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, chunk: int = 64, last: bool = True
) -> tuple[Tensor, Tensor]:
    """Sₜ = e^gₜ (I − βₜ kₜkₜᵀ) Sₜ₋₁ + βₜ kₜvₜᵀ and oₜ = Sₜᵀ qₜ / √K, chunk by chunk; the o, and the last S.

    Token t writes kₜ uₜᵀ, with uₜ = βₜ (vₜ − e^gₜ Sₜ₋₁ᵀ kₜ). With G the sum of g from the start of the chunk, and S₀ the state
    before it, Sₜ = e^Gₜ S₀ + Σ_{j≤t} e^(Gₜ−Gⱼ) kⱼ uⱼᵀ. So the u of a chunk solve a triangular system,
    (I + L) U = β (V − e^G K S₀) with Lₜⱼ = βₜ e^(Gₜ−Gⱼ) kₜᵀkⱼ for j < t. It is solved for V and for e^G K, before S₀ is known,
    for all chunks at the same time; then S₀ goes from chunk to chunk. Exponentials are of numbers up to 0 only.

    Shapes: q, k (B, N, h, K), v and o (B, N, h, V), g and beta (B, N, h), g ≤ 0; S (B, h, K, V). k has unit length.
    Without ``last``, the state that is returned is the one before the last chunk, and the last chunk's writes cost nothing.

    Cost per image, with c = `chunk_of(N, chunk)`, P = N padded to T chunks, and K = V = d: Phd(3d + 4c − 1) MACs, and chd²
    fewer without ``last``; memory O(NC(1 + d/c) + Nhc).
    """
    n = int(q.shape[1])  # a tracer's sizes are tensors
    chunk = chunk_of(n, chunk)
    # (B, h, T, c, ...); what is added at the end writes nothing and does not decay.
    q, k, v = (F.pad(t, (0, 0, 0, 0, 0, -n % chunk)).unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4) for t in (q, k, v))
    g, beta = (F.pad(t, (0, 0, 0, -n % chunk)).unflatten(1, (-1, chunk)).permute(0, 3, 1, 2) for t in (g, beta))
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    # g from j + 1 to t, summed for each j alone: the difference of two sums from the chunk's start would have lost its digits
    # after a token that forgets nearly everything. Masked before the exponential: that of the rest is 1, and no decay.
    between = torch.where(lower.tril(-1), g.unsqueeze(-1), 0.0).cumsum(dim=-2)  # (B, h, T, c, c), of t and j
    decay = torch.where(lower, between, -math.inf).exp()
    start, end = g.cumsum(dim=-1).exp().unsqueeze(-1), decay[..., -1, :].unsqueeze(-1)  # from the chunk's start, to its end
    by_beta = k * beta.unsqueeze(-1)
    system = (by_beta @ k.mT) * decay  # I + L, whose diagonal and upper half are not read
    # U = own − seen S₀.
    both = torch.cat([v * beta.unsqueeze(-1), by_beta * start], dim=-1)
    own, seen = torch.linalg.solve_triangular(system, both, upper=False, unitriangular=True).split(
        [int(v.shape[-1]), int(k.shape[-1])], dim=-1
    )
    to_end, whole = (k * end).mT, start[..., -1:, :]
    state = q.new_zeros(*q.shape[:2], k.shape[-1], v.shape[-1])
    states, writes = [], []
    for once, mine, other, out in zip(*(t.unbind(2) for t in (whole, own, seen, to_end)), strict=True):
        states.append(state)
        writes.append(mine - other @ state)
        if last or len(states) < own.shape[2]:
            state = state * once + out @ writes[-1]
    q = q * k.shape[-1] ** -0.5
    o = (q * start) @ torch.stack(states, dim=2) + ((q @ k.mT) * decay) @ torch.stack(writes, dim=2)
    return o.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :n], state


def naive_gated_delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `gated_delta`, token by token: the naive reference."""
    (b, n, h, d), o = q.shape, []
    state = q.new_zeros(b, h, d, v.shape[3])
    for t in range(n):
        old = g[:, t, :, None, None].exp() * state
        wrong = v[:, t] - torch.einsum("bhkv,bhk->bhv", old, k[:, t])
        state = old + torch.einsum("bh,bhk,bhv->bhkv", beta[:, t], k[:, t], wrong)
        o.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]) / d**0.5)
    return torch.stack(o, dim=1), state


def unit(x: Tensor) -> Tensor:
    """x / √(Σ x² + ε), over the last dimension."""
    return x * (x.square().sum(dim=-1, keepdim=True) + UNIT_EPSILON).rsqrt()


class Direction(nn.Module):
    """What one direction has of its own: the causal convolution of q, k and v, and the gates."""

    def __init__(self, dim: int, heads: int, local: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3 * dim, 3 * dim, TAPS, groups=3 * dim, bias=False) if local else None
        self.gates = nn.Linear(dim, 2 * heads, bias=False)  # the logits of β, and a
        init_linear_(self.gates)
        self.a_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        step = torch.empty(heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.step_bias = nn.Parameter(step.expm1().log())  # softplus of it is the step

    def mixed(self, qkv: Tensor) -> Tensor:
        """SiLU of the convolution: (B, N, 3C)."""
        if self.conv is not None:
            qkv = self.conv(F.pad(qkv.mT, (TAPS - 1, 0))).mT
        return F.silu(qkv)

    def naive_mixed(self, qkv: Tensor) -> Tensor:
        """The same, tap by tap."""
        if self.conv is not None:
            padded, taps = F.pad(qkv, (0, 0, TAPS - 1, 0)), self.conv.weight[:, 0].unbind(1)
            qkv = torch.stack([tap * padded[:, i : i + qkv.shape[1]] for i, tap in enumerate(taps)]).sum(dim=0)
        return qkv * qkv.sigmoid()

    def gated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """g, the logarithm of the decay, and β: (B, N, h) each."""
        logits, step = self.gates(x).chunk(2, dim=2)
        exact = at_least_float32(x)
        rate = self.a_log.to(exact).clamp(max=LOG_BOUND).exp()
        return -rate * F.softplus(step.to(exact) + self.step_bias.to(exact)), logits.to(exact).sigmoid()

    def naive_gated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same, head by head, by the formulas of the gates: log(1 + e^s) for softplus."""
        heads, exact = len(self.a_log), at_least_float32(x)
        g, beta = [], []
        for head in range(heads):
            logit, s = (torch.einsum("bnc,c->bn", x, self.gates.weight[row]).to(exact) for row in (head, heads + head))
            step = torch.logaddexp(s + self.step_bias[head].to(exact), s.new_zeros(()))
            g.append(-self.a_log[head].to(exact).exp() * step)
            beta.append(1 / (1 + (-logit).exp()))
        return torch.stack(g, dim=2), torch.stack(beta, dim=2)


@register(
    MixerSpec(
        name="gdn",
        token="bidirectional-gated-delta",
        complexity="linear",
        formula="(RMS((S→ₜᵀqₜ + S←ₜᵀqₜ)/√d) ⊙ SiLU(XW)) Wₒ, S→ₜ = αₜ (I − βₜkₜkₜᵀ) S→ₜ₋₁ + βₜkₜvₜᵀ, S← likewise from the end",
        source="Yang et al. 2024 (Gated Delta Networks), arXiv 2412.06464",
        status="reconstruction",
        layout="sequence",
    )
)
class GDN(nn.Module):
    """Y = (RMS(o→ + o←) ⊙ SiLU(X W_g)) Wₒ; per head oₜ = Sₜᵀ qₜ / √d, Sₜ = αₜ (I − βₜ kₜkₜᵀ) Sₜ₋₁ + βₜ kₜvₜᵀ.

    (q, k, v) = X W, shared by the directions. Each direction goes through the tokens in row-major order, or against it, with a
    causal depthwise convolution of 4 taps of its own on q, k and v, then SiLU; q and k are brought to unit length. Its gates
    are its own too: β = sigmoid(X W_β), log α = −e^a softplus(X W_α + b), one for each head. RMS is by head, with weights
    that the heads share. No Linear and no convolution has a bias.

    Shapes: X, Y (B, N, C); q, k, v, o (B, N, h, d), d = C/h; α, β (B, N, h); S (B, h, d, d).
    Cost, with c = the chunk and P = N padded to T chunks: time 5NC² (4NC² without the gate) + 4NCh, 24NC for the
    convolutions, and in each direction PC(3d + 4c − 1) − cCd MACs; elementwise about 12Pch + 4TCd + 41NC;
    memory O(NC(1 + d/c) + Nhc).
    Source: Yang et al. 2024 (Gated Delta Networks: Improving Mamba2 with Delta Rule, arXiv 2412.06464): the recurrence, its
    chunks (there the inverse of I + L is formed; here the system is solved, PC(d + c) fewer MACs), and the block.
    Status: reconstruction. The core is certain (golden files of a published implementation; chunks equal the recurrence).
    The layer is causal there; the second direction, that both share q, k, v, norm and gate and are added, is chosen here.
    Deviations: values are as wide as keys, not twice as wide, and β stays below 1. ``local`` turns the convolutions off,
    SiLU stays; ``gate`` turns the gate off. Linears start as the bench's. 16-bit inputs are scanned in 32 bits.

    Raises:
        MixerError: if the heads do not divide the dimension, or ``chunk`` is no power of two.
    """

    def __init__(
        self, dim: int, *, num_heads: int | None = None, chunk: int = 64, local: bool = True, gate: bool = True
    ) -> None:
        super().__init__()
        if chunk < 1 or chunk & (chunk - 1):
            raise MixerError("a chunk is a power of two here", got=f"chunk = {chunk}", expected="1, 2, 4, ...", remedy="use 64")
        self.num_heads, self.chunk = heads_of(dim, num_heads), chunk
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(dim, dim, bias=False) if gate else None
        init_linear_(self.qkv, self.proj, *([self.gate] if self.gate is not None else []))
        self.onward, self.back = (Direction(dim, self.num_heads, local) for _ in range(2))
        self.norm = nn.Parameter(torch.ones(dim // self.num_heads))

    def _core(self, x: Tensor, naive: bool) -> Tensor:
        """Both directions, added: (B, N, h, d)."""
        qkv, exact = self.qkv(x), at_least_float32(x)
        found = []
        for direction, turned in ((self.onward, False), (self.back, True)):
            x_, qkv_ = (t.flip(1) if turned else t for t in (x, qkv))
            mixed = direction.naive_mixed(qkv_) if naive else direction.mixed(qkv_)
            q, k, v = mixed.to(exact).unflatten(2, (3, self.num_heads, -1)).unbind(2)  # (B, N, h, d)
            found.append((q, k, v, *(direction.naive_gated(x_) if naive else direction.gated(x_))))
        with without_autocast(x):
            if naive:
                onward, back = (
                    naive_gated_delta(*(t / (t.square().sum(-1, keepdim=True) + UNIT_EPSILON).sqrt() for t in (q, k)), *more)[0]
                    for q, k, *more in found
                )
            else:
                q, k, v, g, beta = (torch.cat(t) for t in zip(*found, strict=True))  # (2B, N, h, d): both in one scan
                onward, back = gated_delta(unit(q), unit(k), v, g, beta, self.chunk, last=False)[0].chunk(2)
            return onward + back.flip(1)

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        """RMS norm by head, the gate, the last Linear: (B, N, h, d) to (B, N, C)."""
        y = y * (y.square().mean(dim=-1, keepdim=True) + NORM_EPSILON).rsqrt() * self.norm.to(y.dtype)
        y = y.flatten(2).to(x.dtype)
        return self.proj(y if self.gate is None else y * F.silu(self.gate(x)))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        return self._output(self._core(x, naive=False), x)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the recurrence, token by token, one direction after the other; the norm head by head."""
        check_tokens(x, grid)
        y = self._core(x, naive=True)
        roots = [(head.square().sum(dim=2) / head.shape[2] + NORM_EPSILON).sqrt() for head in y.unbind(2)]  # (B, N) each
        y = torch.cat([head / root.unsqueeze(2) * self.norm for head, root in zip(y.unbind(2), roots, strict=True)], dim=2)
        if self.gate is not None:
            z = torch.einsum("bnc,dc->bnd", x, self.gate.weight)
            y = y * (z / (1 + (-z).exp()))
        return torch.einsum("bnc,dc->bnd", y.to(x.dtype), self.proj.weight)

    def _chunks(self, grid: Grid) -> tuple[int, int]:
        """The chunk, and how many of them there are."""
        n = grid[0] * grid[1]
        chunk = chunk_of(n, self.chunk)
        return chunk, -(-n // chunk)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: Linears, convolutions, and the core of each direction."""
        check_path(path)
        n, c, h, (chunk, count) = grid[0] * grid[1], self.proj.in_features, self.num_heads, self._chunks(grid)
        local = 6 * TAPS if self.onward.conv is not None else 0
        linears = (5 if self.gate is not None else 4) * c + 4 * h
        d = c // h
        core = count * chunk * c * (2 * d + 3 * chunk + chunk - 1) + (count - 1) * chunk * c * d
        return batch * (n * c * (linears + local) + 2 * core)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; e^a and the mask are shared by the images."""
        n, c, h, (chunk, count) = grid[0] * grid[1], self.proj.in_features, self.num_heads, self._chunks(grid)
        padded = count * chunk
        before = 3 * n * c + 4 * n * h  # SiLU; sigmoid, the bias, softplus, the product
        units = 2 * (3 * n * c + 2 * n * h)  # squares, sums, products; ε and the root
        decays = padded * h * (2 + 4 * chunk)  # from the start; the mask, sums, the mask and the exponential between tokens
        keys = 4 * padded * c  # βk, βv, both from the start, to the end
        system = 2 * padded * h * chunk  # I + L and qkᵀ, times the decays
        states = padded * c + 2 * (count - 1) * c * (c // h)  # what is written; decay and addition
        reading = 3 * padded * c  # 1/√d, from the start, the addition
        after = n * c * (5 + (2 if self.gate is not None else 0)) + 2 * n * h  # the addition, RMS, SiLU and the product
        return (
            batch * (2 * (before + units + decays + keys + system + states + reading) + after) + 2 * 3 * h + 2 * chunk * chunk
        )
