"""Vision Mamba: a selective state space along the row order, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    at_least_float32,
    check_path,
    check_tokens,
    chunk_of,
    init_linear_,
    without_autocast,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Inner channels for each channel, and taps of the causal convolution.
EXPAND, TAPS = 2, 4
#: Tokens of a chunk, and the most chunks that are in memory with all their states.
CHUNK, CHUNKS = 16, 8
#: A_log is held below it: its exponential is near the end of float32's range.
LOG_BOUND = 80.0


def scan_chunks(step: Tensor, x: Tensor, b: Tensor, c: Tensor, a: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The recurrence over a few chunks, from the state before them; what the tokens read, and the state after them.

    All chunks go through their tokens at the same time: first from nothing, which gives what each chunk adds to the state;
    then the states go from chunk to chunk; then all chunks go through their tokens again, from the state before them.
    Decays are exponentials of numbers up to 0, and nothing is divided by them.

    Shapes: step, x = step·u and the result (G, B, L, D) of G directions; b, c (G, B, L, S); a (G, S, D); states (G, B, S, D).
    """
    a = a.unsqueeze(1).unsqueeze(1)  # (G, 1, 1, S, D)
    # The place in the chunk first: (c, G, B, T, ...).
    step, x, b, c = (t.unflatten(2, (-1, chunk)).movedim(3, 0) for t in (step, x, b, c))
    decays = (step.unsqueeze(-2) * a).exp().unbind(0)  # c times (G, B, T, S, D)
    added = (b.unsqueeze(-1) * x.unsqueeze(-2)).unbind(0)
    own = added[0]
    for decay, new in zip(decays[1:], added[1:], strict=True):
        own = torch.addcmul(new, decay, own)
    whole = (step.sum(dim=0).unsqueeze(-2) * a).exp()  # (G, B, T, S, D): of a chunk
    before = []
    for decay, new in zip(whole.unbind(2), own.unbind(2), strict=True):
        before.append(state)
        state = torch.addcmul(new, decay, state)
    at, states = torch.stack(before, dim=2), []
    for decay, new in zip(decays, added, strict=True):
        at = torch.addcmul(new, decay, at)
        states.append(at)
    y = (c.unsqueeze(-2) @ torch.stack(states)).squeeze(-2)  # (c, G, B, T, D)
    return y.movedim(0, 3).flatten(2, 3), state


def scan(step: Tensor, u: Tensor, b: Tensor, c: Tensor, a: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """hₜ = e^(stepₜ a) hₜ₋₁ + stepₜ bₜ uₜ, yₜ = Σₛ cₜ hₜ, for each channel; the y, and the last h.

    The states of all tokens would be S times the tokens: they exist for a few chunks at a time, and the backward pass
    computes them again.

    Shapes: step, u, y (G, B, N, D) of G directions; b, c (G, B, N, S); a (G, S, D); h (G, B, S, D).
    """
    n = int(step.shape[2])  # a tracer's sizes are tensors
    chunk = chunk_of(n, chunk)
    padded = [F.pad(t, (0, 0, 0, -n % chunk)) for t in (step, step * u, b, c)]  # a step of 0 leaves the state alone
    state = step.new_zeros(*step.shape[:2], *a.shape[1:])
    again, outputs = torch.is_grad_enabled(), []
    for part in zip(*(t.split(chunk * CHUNKS, dim=2) for t in padded), strict=True):
        given = (*part, a, state, chunk)
        if again:
            y, state = checkpoint(scan_chunks, *given, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state = scan_chunks(*given)
        outputs.append(y)
    return torch.cat(outputs, dim=2)[:, :, :n], state


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The selective state space of Mamba along a sequence, channels first, as its authors call it.

    With Δ = softplus(delta + delta_bias): hₜ = e^(Δₜ A) hₜ₋₁ + Δₜ Bₜ uₜ and y = (Σₛ Cₜ hₜ + D u) SiLU(z).

    Shapes: u, delta, z, y (B, D, N); B, C (B, S, N); A (D, S); D, delta_bias (D); the last h (B, D, S).
    Cost: time O(NDS), memory O(ND).
    """
    step = F.softplus(delta if delta_bias is None else delta + delta_bias.unsqueeze(-1))
    step, inner, b, c = (t.mT.unsqueeze(0) for t in (step, u, B, C))
    y, state = scan(step, inner, b, c, A.mT.unsqueeze(0), chunk)
    y = y.squeeze(0).mT
    if D is not None:
        y = y + D.unsqueeze(-1) * u
    return y if z is None else y * F.silu(z), state.squeeze(0).mT


def naive_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same as `selective_scan`, token by token: the naive reference."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    step = (1 + delta.exp()).log()
    h, y = u.new_zeros(u.shape[0], *A.shape), []
    for t in range(u.shape[2]):
        decay = torch.einsum("bd,ds->bds", step[:, :, t], A).exp()
        h = decay * h + torch.einsum("bd,bs,bd->bds", step[:, :, t], B[:, :, t], u[:, :, t])
        y.append(torch.einsum("bds,bs->bd", h, C[:, :, t]))
    read = torch.stack(y, dim=2)
    if D is not None:
        read = read + torch.einsum("d,bdn->bdn", D, u)
    return (read if z is None else read * z / (1 + (-z).exp())), h


class Direction(nn.Module):
    """What one direction has of its own: the causal convolution, the way to step, B and C, and A and D."""

    def __init__(self, width: int, rank: int, state: int, local: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, TAPS, groups=width) if local else None
        self.x_proj = nn.Linear(width, rank + 2 * state, bias=False)
        init_linear_(self.x_proj)
        self.dt_proj = nn.Linear(rank, width)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        step = torch.empty(width).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.dt_proj.bias = nn.Parameter(step.expm1().log())  # softplus of it is the step
        self.a_log = nn.Parameter(torch.arange(1.0, state + 1).log().repeat(width, 1))
        self.skip = nn.Parameter(torch.ones(width))

    def no_weight_decay(self) -> set[str]:
        """A, as in the authors' training; D has one dimension, and is not decayed anyway."""
        return {"a_log"}

    def inner(self, x: Tensor) -> Tensor:
        """SiLU of the convolution: (B, N, D)."""
        if self.conv is not None:
            x = self.conv(F.pad(x.mT, (TAPS - 1, 0))).mT
        return F.silu(x)

    def naive_inner(self, x: Tensor) -> Tensor:
        """The same, tap by tap."""
        if self.conv is not None:
            assert self.conv.bias is not None
            padded, taps = F.pad(x, (0, 0, TAPS - 1, 0)), self.conv.weight[:, 0].unbind(1)
            x = self.conv.bias + sum(tap * padded[:, i : i + x.shape[1]] for i, tap in enumerate(taps))
        return x * x.sigmoid()

    def selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """delta without its bias (B, N, D), B and C (B, N, S)."""
        s = int(self.a_log.shape[1])
        delta, b, c = self.x_proj(u).split([self.dt_proj.in_features, s, s], dim=2)
        return F.linear(delta, self.dt_proj.weight), b, c

    def negative_a(self) -> Tensor:
        """A = -exp(A_log): (D, S), and finite: beyond the bound every decay is 0 anyway."""
        return -self.a_log.to(at_least_float32(self.a_log)).clamp(max=LOG_BOUND).exp()


_OF_A_DIRECTION = {
    "conv1d{}.weight": "conv.weight",
    "conv1d{}.bias": "conv.bias",
    "x_proj{}.weight": "x_proj.weight",
    "dt_proj{}.weight": "dt_proj.weight",
    "dt_proj{}.bias": "dt_proj.bias",
    "A{}_log": "a_log",
    "D{}": "skip",
}


@register(
    MixerSpec(
        name="vim",
        token="bidirectional-selective-scan",
        complexity="linear",
        formula="(y→ + y←)/2 ⊙ SiLU(z) Wₒ, hₜ = e^(Δₜ A) hₜ₋₁ + Δₜ Bₜ uₜ, yₜ = Cₜ hₜ + D uₜ, y← likewise from the end",
        source="Zhu et al. 2024 (Vision Mamba), arXiv 2401.09417; Gu and Dao 2023 (Mamba), arXiv 2312.00752",
        status="certain",
        layout="sequence",
    )
)
class Vim(nn.Module):
    """Y = ((y→ + y←) / 2 ⊙ SiLU(z)) Wₒ; in each direction hₜ = e^(Δₜ A) hₜ₋₁ + Δₜ Bₜ uₜ and yₜ = Σₛ Cₜ hₜ + D uₜ.

    (x, z) = X Wᵢ, each of 2C channels. Each direction goes through the tokens in row-major order, or against it, with weights
    of its own: u = SiLU(conv(x)), a causal depthwise convolution of 4 taps; (δ, B, C) = u Wₓ, δ of r = ⌈C/16⌉ numbers;
    Δ = softplus(δ W + b); A = -exp(A_log). Every channel has a state h of S numbers.

    Shapes: X, Y (B, N, C); x, z, u, Δ, y (B, N, 2C); δ (B, N, r); B, C (B, N, S); A (2C, S); D (2C); h (B, 2C, S).
    Cost: time 6NC² + 4NC(r + 2S) + 4NCr MACs, 16NC for the convolutions and 4PCS for what the tokens read of the states (a
    matrix product here, so that it counts), P = N padded to chunks of 16; elementwise about 20PCS + 40NC, which is the
    recurrence; memory O(NC), as the states of a few chunks exist at a time (see `scan`).
    Source: Zhu et al. 2024 (Vision Mamba, arXiv 2401.09417), bidirectional block, with Gu and Dao 2023 (Mamba, arXiv
    2312.00752) for the selective state space.
    Status: certain (golden files of the authors' code, whole and core; chunks equal the recurrence).
    Deviations: no class token amid the sequence. The sum of both directions is multiplied by SiLU(z) once, which is the
    same. ``local`` turns the convolutions off, SiLU stays; ``divide`` off leaves the sum of both directions unhalved, and
    ``gate`` off leaves out z, 2NC² MACs and 4NC elementwise. The first, the last and the x Linears start as the bench's
    Linears do. 16-bit inputs are scanned in 32 bits.

    Raises:
        MixerError: if ``state`` or ``rank`` is under 1.
    """

    reference_names: ClassVar[Mapping[str, str]] = {
        "in_proj.weight": "in_proj.weight",
        "out_proj.weight": "proj.weight",
        **{theirs.format(""): f"onward.{ours}" for theirs, ours in _OF_A_DIRECTION.items()},
        **{theirs.format("_b"): f"back.{ours}" for theirs, ours in _OF_A_DIRECTION.items()},
    }

    def __init__(
        self,
        dim: int,
        *,
        state: int = 16,
        rank: int | None = None,
        local: bool = True,
        divide: bool = True,
        gate: bool = True,
    ) -> None:
        super().__init__()
        rank = -(-dim // 16) if rank is None else rank
        if state < 1 or rank < 1:
            raise MixerError(
                "too small a state space",
                got=f"state = {state} and rank = {rank}",
                expected="at least 1",
                remedy="use state=16",
            )
        self.state, self.rank, self.divide, self.gate = state, rank, divide, gate
        width = EXPAND * dim
        self.in_proj = nn.Linear(dim, (2 if gate else 1) * width, bias=False)
        self.proj = nn.Linear(width, dim, bias=False)
        init_linear_(self.in_proj, self.proj)
        self.onward, self.back = (Direction(width, rank, state, local) for _ in range(2))

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        dim, width = state["out_proj.weight"].shape
        return {
            "dim": dim,
            "gate": state["in_proj.weight"].shape[0] != width,
            "state": state["A_log"].shape[1],
            "rank": state["dt_proj.weight"].shape[1],
            "local": any(name.startswith("conv1d") for name in state),
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """What the authors call these options; d_inner follows from expand."""
        options.expect(expand=EXPAND, d_conv=TAPS, bimamba_type="v2")
        options.read("d_inner")
        found = {"state": options.read("d_state"), "rank": options.read("dt_rank"), "divide": options.read("if_divide_out")}
        return {key: value for key, value in found.items() if value is not None and value != "auto"}

    def _input(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the directions go through, and the logits of the gate, if there is one: (B, N, 2C) each."""
        if not self.gate:
            return self.in_proj(x), None
        inner, z = self.in_proj(x).chunk(2, dim=2)
        return inner, z

    def _output(self, y: Tensor, z: Tensor | None) -> Tensor:
        """The gate and the last Linear."""
        y = y / 2 if self.divide else y
        return self.proj(y if z is None else y * F.silu(z))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        check_tokens(x, grid)
        inner, z = self._input(x)
        directions, exact = (self.onward, self.back), at_least_float32(x)
        u = [direction.inner(t) for direction, t in zip(directions, (inner, inner.flip(1)), strict=True)]
        chosen = [direction.selection(t) for direction, t in zip(directions, u, strict=True)]
        both = torch.stack(u).to(exact)  # (2, B, N, 2C)
        delta, b, c = (torch.stack(t).to(exact) for t in zip(*chosen, strict=True))
        bias = torch.stack([d.dt_proj.bias for d in directions])[:, None, None].to(exact)
        skip = torch.stack([d.skip for d in directions])[:, None, None].to(exact)
        a = torch.stack([d.negative_a().mT for d in directions]).to(exact)  # (2, S, 2C)
        with without_autocast(x):
            y, _ = scan(F.softplus(delta + bias), both, b, c, a, CHUNK)
            onward, back = (y + skip * both).unbind(0)
        return self._output((onward + back.flip(1)).to(x.dtype), z)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the recurrence, token by token, one direction after the other."""
        check_tokens(x, grid)
        inner, z = self._input(x)
        results = []
        for direction, t in ((self.onward, inner), (self.back, inner.flip(1))):
            u = direction.naive_inner(t)
            delta, b, c = (part.mT for part in direction.selection(u))
            a, skip, bias = -direction.a_log.exp(), direction.skip, direction.dt_proj.bias
            results.append(naive_selective_scan(u.mT, delta, a, b, c, skip, None, bias)[0].mT)
        return self._output(results[0] + results[1].flip(1), z)

    def _padded(self, grid: Grid) -> tuple[int, int]:
        """The chunk, and the tokens with padding."""
        n = grid[0] * grid[1]
        chunk = chunk_of(n, CHUNK)
        return chunk, -(-n // chunk) * chunk

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: Linears, convolutions, and what is read of the states."""
        check_path(path)
        n, c, s, r = grid[0] * grid[1], self.proj.out_features, self.state, self.rank
        local = 16 if self.onward.conv is not None else 0
        linears = (6 if self.gate else 4) * c + 4 * (r + 2 * s) + 4 * r
        return batch * c * (n * (linears + local) + 4 * self._padded(grid)[1] * s)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; A is shared by the images."""
        n, width, s, (chunk, padded) = grid[0] * grid[1], self.proj.in_features, self.state, self._padded(grid)
        # In each direction: the convolution's bias, SiLU, the bias of Δ, softplus, Δu, D u and its addition.
        tokens = n * width * (7 if self.onward.conv is not None else 6)
        states = padded * width * s * 5 + padded * width  # decays (2), what is added, twice through the chunks; ΣΔ
        chunks = padded // chunk * width * s * (3 - 1)  # decays of chunks, from chunk to chunk; the first token of each once
        after = n * width * (1 + self.divide + 2 * self.gate)  # both directions together, halved; SiLU and the product
        return batch * (2 * (tokens + states + chunks) + after) + 6 * width * s
