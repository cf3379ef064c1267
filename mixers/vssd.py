"""VSSD: non-causal state space duality."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    check_path,
    check_tokens,
    depthwise_conv,
    heads_of,
    init_linear_,
    shifted_depthwise_conv,
)
from mixers.registry import register


def state_space(v: Tensor, b: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    """C (Bᵀ (dA ⊙ V)): every token reads one state that all tokens have written.

    Shapes: v (B, N, C); b and c (B, N, S); weight (B, N, h), one for each token and head; result (B, N, C).
    Cost per image: 2NSC MACs; NC + 2NS elementwise.
    """
    n, heads = v.shape[1], weight.shape[2]
    written = (v.unflatten(2, (heads, -1)) * weight.unsqueeze(-1)).flatten(2)
    # √N off the sum over tokens and back on C: in 16 bits the state stays in range where the result does.
    state = (b * n**-0.5).mT @ written  # (B, S, C)
    return (c * n**0.5) @ state


def quadratic_state_space(v: Tensor, b: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    """The same as `state_space`, by the N×N weights of each head: the naive reference, O(N²)."""
    weights = torch.einsum("bns,bms->bnm", c, b).unsqueeze(1) * weight.mT.unsqueeze(2)  # (B, h, N, N)
    return torch.einsum("bhnm,bmhd->bnhd", weights, v.unflatten(2, (weight.shape[2], -1))).flatten(2)


@register(
    MixerSpec(
        name="vssd",
        token="non-causal-state-space",
        complexity="linear",
        formula="LN(C (Bᵀ (dA ⊙ V)) + D V), (V, B, C) = silu(DWC3×3(XW)), dA = A softplus(XW + b)",
        source="Shi et al. 2024 (VSSD), arXiv 2407.18559",
        status="reconstruction",
        layout="grid",
        as_set={"local": False},
        doubling="sensitive",
    )
)
class VSSD(nn.Module):
    """O = LN(C (Bᵀ (dA ⊙ V)) + D ⊙ V), Y = O Wₒ + bₒ, with dA = A softplus(T + b), A = exp(a), and D, A, b one per head.

    (V, B, C) = silu(DWC3×3(X Wᵢ)) and T = X Wₜ, from one Linear without bias. B and C are shared by the heads, as in Mamba-2
    with one group. LN is over the channels.

    Shapes: X, Y, V, O (B, N, C) on a grid H×W, N = H·W; B, C (B, N, S); T, dA (B, N, h); kernels (C + 2S, 1, 3, 3).
    Cost: time NC(2C + 2S + h) + 2NCS + 9N(C + 2S) MACs, 11NC + 6NS + 3hN elementwise and h for A; memory O(NC + SC).
    Source: Shi et al. 2024 (VSSD: Vision Mamba with Non-Causal State Space Duality, arXiv 2407.18559), non-causal SSD, where
    the state is the sum over all tokens, each weighted by a scalar of its own; Mamba-2 (arXiv 2405.21060) for the rest.
    Status: reconstruction (the core equals its quadratic form, and with ``local`` off is permutation equivariant). From the
    paper's text: one state, a positive scalar for each token and head, B, C, D V, the 3×3 convolution with silu. Not at
    hand is the released form of the scalar: the paper has 1/A of a token's decay, here it is A times the step, correct it
    in `_inputs`. LN before the last Linear is that of Mamba-2's block, and so is the initialisation: steps from 0.001 to
    0.1, A from 1 to 16, D = 1.
    Deviations: no expansion of the channels and no gate, which the paper's block has beside the core. The sum over tokens
    is not divided by N, as in the paper; ``norm`` turns LN off. ``local`` turns the convolution off; silu stays.

    Raises:
        MixerError: if the heads do not divide the dimension, or without a state.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        state: int = 64,
        local: bool = True,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if state < 1:
            raise MixerError(
                "too small a state",
                got=f"state = {state}",
                expected="at least 1",
                remedy="give such a number, or leave state out",
            )
        self.num_heads, self.state = heads_of(dim, num_heads), state
        mixed = dim + 2 * state
        self.in_proj = nn.Linear(dim, mixed + self.num_heads, bias=False)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.in_proj, self.proj)
        self.conv = nn.Conv2d(mixed, mixed, 3, padding=1, groups=mixed) if local else None
        self.norm = nn.LayerNorm(dim) if norm else None
        step = 10 ** (-3 + 2 * torch.rand(self.num_heads))
        self.step_bias = nn.Parameter(step.expm1().log())  # softplus of it is the step
        self.log_a = nn.Parameter((1 + 15 * torch.rand(self.num_heads)).log())
        self.skip = nn.Parameter(torch.ones(self.num_heads))

    def _inputs(self, x: Tensor, grid: Grid, naive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """V, B and C, and dA, from the tokens."""
        check_tokens(x, grid)
        mixed, step = self.in_proj(x).split([x.shape[2] + 2 * self.state, self.num_heads], dim=2)
        if self.conv is not None:
            if naive:
                assert self.conv.bias is not None
                mixed = shifted_depthwise_conv(mixed, self.conv.weight[None, :, 0], self.conv.bias, grid)
            else:
                mixed = depthwise_conv(mixed, self.conv.weight, self.conv.bias, grid)
        v, b, c = F.silu(mixed).split([x.shape[2], self.state, self.state], dim=2)
        return v, b, c, F.softplus(step + self.step_bias) * self.log_a.exp()

    def _output(self, y: Tensor, v: Tensor) -> Tensor:
        """The skip connection of V, LN, the last Linear."""
        heads = (self.num_heads, -1)
        y = y + (v.unflatten(2, heads) * self.skip.unsqueeze(-1)).flatten(2)
        return self.proj(y if self.norm is None else self.norm(y))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        v, b, c, weight = self._inputs(x, grid, naive=False)
        return self._output(state_space(v, b, c, weight), v)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights of each head, and nine shifted products."""
        v, b, c, weight = self._inputs(x, grid, naive=True)
        return self._output(quadratic_state_space(v, b, c, weight), v)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: both Linears, the core, the DWC."""
        check_path(path)
        n, c, s = grid[0] * grid[1], self.proj.in_features, self.state
        local = 9 * (c + 2 * s) if self.conv is not None else 0
        return batch * n * (c * (2 * c + 2 * s + self.num_heads) + 2 * c * s + local)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; A is shared by the images."""
        n, c, s = grid[0] * grid[1], self.proj.in_features, self.state
        mixed = (c + 2 * s) * (2 if self.conv is not None else 1)  # the convolution's bias, silu
        core = 3 * self.num_heads + c + 2 * s  # dA; its product with V, and √N twice
        after = 3 * c + (5 * c if self.norm is not None else 0)  # D V, the addition, the bias; LN
        return batch * n * (mixed + core + after) + self.num_heads
