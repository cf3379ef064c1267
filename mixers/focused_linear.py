"""Focused linear attention (FLatten)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerSpec,
    check_built_grid,
    check_path,
    check_rotary,
    check_tokens,
    depthwise_conv,
    heads_of,
    init_linear_,
    linear_attention,
    needed_grid,
    quadratic_linear_attention,
    rotary_elementwise,
    split_heads,
    to_map,
    turn_for,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Added to the features and to the denominator.
EPSILON = 1e-6
#: The power that sharpens the features.
FOCUS = 3


def focused(x: Tensor, scale: Tensor) -> Tensor:
    """φ: the features relu(x) + ε over softplus(scale), to the third power, at their old norm.

    Shapes: x and result (B, N, C), scale (1, 1, C). Cost: 10NC + N elementwise per image, and C for the scale.
    """
    features = (x.relu() + EPSILON) / scale
    norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True)  # (B, N, 1)
    # Of unit length before they are cubed: ε³ is 0 in 16 bits, and a large feature's cube is infinite.
    sharp = (features / norm) ** FOCUS
    return sharp * (norm / torch.linalg.vector_norm(sharp, dim=-1, keepdim=True))


def naive_focused(x: Tensor, scale: Tensor) -> Tensor:
    """The same as `focused`, as the paper writes it: x³ ‖x‖ / ‖x³‖."""
    features = (x.relu() + EPSILON) / scale
    cube = features**FOCUS
    return cube * ((features**2).sum(dim=-1, keepdim=True) / (cube**2).sum(dim=-1, keepdim=True)).sqrt()


@register(
    MixerSpec(
        name="focused-linear",
        token="focused-linear-attention",
        complexity="linear",
        formula="φ(Q)(φ(K)ᵀV) / (φ(Q)Σφ(K) + Nε) + DWC5×5(V), φ(x) = x³‖x‖/‖x³‖ of relu(x) + ε",
        source="Han et al. 2023 (FLatten Transformer), arXiv 2308.00442",
        status="certain",
        needs_grid=True,
        layout="grid",
        as_set={"local": False, "pos": False},
        doubling="invariant",
        rotary=True,
    )
)
class FocusedLinearAttention(nn.Module):
    """O = φ(Q) (φ(K + P)ᵀ V) / (φ(Q) Σₙ φ(K + P)ₙ + Nε) + DWC5×5(V), per head, between Linears.

    φ(x) = z³ ‖z‖ / ‖z³‖ with z = (relu(x) + ε) / softplus(s) and norms over all C channels, before the heads; ε = 1e-6.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K, V, O (B, h, N, d), d = C/h; P (1, N, C); s (1, 1, C); the DWC's
    kernels (d, 1, 5, 5), shared by the heads.
    Cost: time 4NC² + 2NCd + 26NC MACs, 31NC + hN + 2N elementwise and C for s; memory O(NC + C·d).
    Source: Han et al. 2023 (FLatten Transformer, arXiv 2308.00442), section 4: φ in 4.1, the DWC in 4.2.
    Status: certain (a golden file of the authors' code, outputs and gradients); the initialisation (P and s zero, the DWC as
    `torch.nn.Conv2d`) is a reconstruction.
    Deviations: features are brought to unit length before they are cubed, which is the same number and does not leave
    the range of 16 bits; the gradient at a query of which a head has no positive feature, 1/ε, leaves that of float16
    all the same. ``local`` and ``pos`` turn off the DWC and P. With ``rope``, features are turned by their place
    on the grid, in the numerator only.

    Raises:
        MixerError: if the heads do not divide the dimension; with ``pos``, without a grid, and for another one than that
            of P; with ``rope``, if 4 does not divide d.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        name: name
        for name in ("q.weight", "q.bias", "kv.weight", "kv.bias", "proj.weight", "proj.bias")
        + ("dwc.weight", "dwc.bias", "scale", "positional_encoding")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        local: bool = True,
        pos: bool = True,
        rope: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.rope = heads_of(dim, num_heads), rope
        if rope:
            check_rotary(dim // self.num_heads)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.q, self.kv, self.proj)
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        head = dim // self.num_heads
        self.dwc = nn.Conv2d(head, head, 5, padding=2, groups=head) if local else None
        self.built = needed_grid(grid, "focused linear attention with a positional encoding") if pos else None
        self.positional_encoding = nn.Parameter(torch.zeros(1, self.built[0] * self.built[1], dim)) if self.built else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        local = "dwc.weight" in state or "dwc.bias" in state
        return {
            "dim": state["proj.weight"].shape[0],
            "qkv_bias": "q.bias" in state or "kv.bias" in state,
            "local": local,
            # The authors' layer has both: weights with one but not the other are incomplete.
            "pos": local or "positional_encoding" in state,
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(focusing_factor=FOCUS, dwc_kernel=5)
        return {}

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid)
        self._check_grid(grid)
        q, (k, v) = self.q(x), self.kv(x).chunk(2, dim=-1)  # (B, N, C) each
        if self.positional_encoding is not None:
            k = k + self.positional_encoding
        scale, phi = F.softplus(self.scale), naive_focused if naive else focused
        q, k, v = (split_heads(t, self.num_heads) for t in (phi(q, scale), phi(k, scale), v))
        turn = turn_for(self.rope, grid, naive)
        n = grid[0] * grid[1]
        if naive:
            y = quadratic_linear_attention(q / n, k, v, eps=EPSILON, turn=turn)
        else:
            # √N on either side, so that no sum over many tokens leaves the range of 16 bits.
            y = linear_attention(q * n**-0.5, k * n**-0.5, v, eps=EPSILON, turn=turn)  # (B, h, N, d)
        if self.dwc is not None:
            y = y + (self._naive_local(v, grid) if naive else self._local(v, grid))
        return self.proj(y.transpose(1, 2).flatten(2))

    def _local(self, v: Tensor, grid: Grid) -> Tensor:
        """The DWC on V (B, h, N, d); heads share its kernels, as images do."""
        assert self.dwc is not None
        return depthwise_conv(v.flatten(0, 1), self.dwc.weight, self.dwc.bias, grid).view_as(v)

    def _naive_local(self, v: Tensor, grid: Grid) -> Tensor:
        """The DWC as a weighted sum of 25 neighbours, head by head."""
        assert self.dwc is not None
        assert self.dwc.bias is not None
        windows = [F.unfold(to_map(head, grid), 5, padding=2).unflatten(1, (-1, 25)) for head in v.unbind(1)]  # (B, d, 25, N)
        return torch.stack([torch.einsum("bdkn,dk->bnd", w, self.dwc.weight.flatten(1)) for w in windows], 1) + self.dwc.bias

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights, the paper's φ, and the neighbours one by one."""
        return self._mix(x, grid, naive=True)

    def _check_grid(self, grid: Grid) -> None:
        if self.built is not None:
            check_built_grid(grid, self.built, "focused linear attention with a positional encoding")

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, the attention, the DWC."""
        check_path(path)
        self._check_grid(grid)
        n, c = grid[0] * grid[1], self.proj.in_features
        return batch * n * c * (4 * c + 2 * (c // self.num_heads) + 1 + (25 if self.dwc is not None else 0))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; softplus(s) is shared by the images."""
        self._check_grid(grid)
        n, c = grid[0] * grid[1], self.proj.in_features
        biases = n * c * (4 if self.q.bias is not None else 1)
        extras = n * c * ((2 if self.dwc is not None else 0) + (1 if self.positional_encoding is not None else 0))
        attention = 2 * (10 * n * c + n) + 4 * n * c + n * self.num_heads  # φ twice; √N twice, Σφ(K), the division; ε
        turns = 2 * rotary_elementwise(grid, batch, c, c // self.num_heads) if self.rope else 0
        return batch * (biases + extras + attention) + c + turns
