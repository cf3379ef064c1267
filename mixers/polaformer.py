"""Polarity-aware linear attention (PolaFormer)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    Turn,
    beyond_float16,
    check_built_grid,
    check_path,
    check_rotary,
    check_tokens,
    depthwise_conv,
    heads_of,
    init_linear_,
    needed_grid,
    rotary_elementwise,
    shifted_depthwise_conv,
    split_heads,
    stay,
    turn_for,
    without_autocast,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Added to the mean weight of a query.
EPSILON = 1e-6


def polar(x: Tensor, power: Tensor) -> Tensor:
    """relu(x)^p and relu(-x)^p of x (B, h, N, d) with powers (1, h, 1, d): (B, h, 2, N, d). 5NC elementwise per image."""
    return torch.stack([x, -x], dim=2).relu() ** power.unsqueeze(2)


def polar_attention(q: Tensor, k: Tensor, v: Tensor, power: Tensor, turn: Turn = stay) -> Tensor:
    """Same-sign weights on the first half of the values' features, opposite-sign weights on the second.

    Shapes: q, k, v and result (B, h, N, d), power (1, h, 1, d).
    Cost per image: 4NCd + 4NC MACs; 13NC + 2hN elementwise. ``turn`` acts on both features, in the numerators alone.
    """
    n, d = v.shape[2:]
    q, k = polar(q, power), polar(k, power)  # (B, h, 2, N, d)
    kv = _side_by_side(turn(k)).mT @ v  # (B, h, 2d, d)
    # q⁻k⁺ + q⁺k⁻ is the product of (q⁺, q⁻) with (k⁻, k⁺): what is exchanged are sums over tokens, not the tokens.
    kv = torch.cat([kv[..., : d // 2], kv[..., d // 2 :].roll(d, dims=-2)], dim=-1)
    sums = k.sum(dim=3)  # (B, h, 2, d)
    sums = torch.stack([sums.flatten(2), sums.flip(2).flatten(2)], dim=-1)  # (B, h, 2d, 2)
    norm = _side_by_side(q) @ sums + n * EPSILON  # (B, h, N, 2)
    y = _side_by_side(turn(q)) @ kv  # (B, h, N, d)
    return (y.unflatten(-1, (2, -1)) / norm.unsqueeze(-1)).flatten(-2)


def _side_by_side(features: Tensor) -> Tensor:
    """(B, h, 2, N, d) as (B, h, N, 2d)."""
    return features.transpose(2, 3).flatten(3)


def naive_polar_attention(q: Tensor, k: Tensor, v: Tensor, power: Tensor, turn: Turn = stay) -> Tensor:
    """The same as `polar_attention`, by both N×N matrices of weights: the naive reference."""
    halves = []
    parts = q.relu() ** power, (-q).relu() ** power, k.relu() ** power, (-k).relu() ** power
    for opposite, values in zip((False, True), v.chunk(2, dim=-1), strict=True):
        weights, turned = _naive_weights(parts, opposite), _naive_weights([turn(t) for t in parts], opposite)
        mean = weights.mean(dim=-1, keepdim=True) + EPSILON
        halves.append(torch.einsum("bhnm,bhme->bhne", turned / v.shape[2] / mean, values))
    return torch.cat(halves, dim=-1)


def _naive_weights(parts: Sequence[Tensor], opposite: bool) -> Tensor:
    """The weights (B, h, N, N) of q⁺, q⁻, k⁺ and k⁻ with the same signs, or with opposite ones."""
    q_plus, q_minus, k_plus, k_minus = parts
    if opposite:
        k_plus, k_minus = k_minus, k_plus
    return torch.einsum("bhnd,bhmd->bhnm", q_plus, k_plus) + torch.einsum("bhnd,bhmd->bhnm", q_minus, k_minus)


@register(
    MixerSpec(
        name="polaformer",
        token="polarity-aware-attention",
        complexity="linear",
        formula="([SV₁/(Σ S + Nε), OV₂/(Σ O + Nε)] + DWC5×5(V)) ⊙ G, S = Q⁺K⁺ᵀ + Q⁻K⁻ᵀ, O = Q⁻K⁺ᵀ + Q⁺K⁻ᵀ, x± = relu(±x)^p",
        source="Meng et al. 2025 (PolaFormer), arXiv 2501.15061",
        status="certain",
        needs_grid=True,
        layout="grid",
        as_set={"local": False, "pos": False, "rope": False},
        doubling="invariant",
        rotary=True,
    )
)
class PolarityAwareAttention(nn.Module):
    """Y = Linear(([S V₁ / (S1 + Nε), O V₂ / (O1 + Nε)] + DWC5×5(V)) ⊙ G), per head, with Q, G, K and V by Linears.

    S = Q⁺K⁺ᵀ + Q⁻K⁻ᵀ are the weights of features with the same sign, O = Q⁻K⁺ᵀ + Q⁺K⁻ᵀ of those with opposite signs;
    S reads the first half of a head's values, O the second. x⁺ = relu(x)^p and x⁻ = relu(-x)^p, of Q / s and (K + P) / s
    with s = softplus(scale), and p = 1 + α sigmoid(power) learned for each channel. ε = 1e-6. 0^p is 0, and so is its
    derivative in p.

    Shapes: X, Y, G (B, N, C) on a grid H×W, N = H·W; Q, K, V (B, h, N, d), d = C/h; P (1, N, C); scale (1, 1, C); power
    (1, h, 1, d); the DWC's kernels (d, 1, 5, 5), shared by the heads.
    Cost: time 5NC² + 4NCd + 4NC + 25NC MACs, 24NC + 2hN elementwise and 4C for s and p; memory O(NC + C·d).
    Source: Meng et al. 2025 (PolaFormer: Polarity-aware Linear Attention for Vision Transformers, arXiv 2501.15061), the
    attention of its PVT models where keys are not reduced.
    Status: certain (golden files of the authors' code, outputs and gradients). P, scale and power start at zero, as the
    authors'; the DWC as `torch.nn.Conv2d`, which is a reconstruction.
    Deviations: in float16 the powers and their sums are taken in float32, as the fifth power of 10 is out of its range.
    ``local``, ``gate`` and ``pos`` turn off the DWC, G and P; ``alpha`` is α, and 0 leaves the power at 1. With ``rope``,
    x⁺ and x⁻ are turned by their place on the grid, in the numerators only.

    Raises:
        MixerError: if the heads do not divide the dimension, a head has an odd number of features, or α is negative; with
            ``pos``, without a grid, and for another one than that of P; with ``rope``, if 4 does not divide d.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        name: name
        for name in ("qg.weight", "qg.bias", "kv.weight", "kv.bias", "proj.weight", "proj.bias")
        + ("dwc.weight", "dwc.bias", "power", "scale", "positional_encoding")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        local: bool = True,
        gate: bool = True,
        pos: bool = True,
        alpha: float = 4.0,
        rope: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.gate, self.alpha, self.rope = heads_of(dim, num_heads), gate, alpha, rope
        head = dim // self.num_heads
        if head % 2:
            raise MixerError(
                "polarity-aware attention halves each head",
                got=f"dim / num_heads = {head}",
                expected="an even number",
                remedy="choose num_heads so that it is one",
            )
        if not 0 <= alpha < math.inf:
            raise MixerError(
                "a power of features below 1", got=f"alpha = {alpha}", expected="0 or more", remedy="use 4, as the authors"
            )
        if rope:
            check_rotary(head)
        self.qg = nn.Linear(dim, (2 if gate else 1) * dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qg, self.kv, self.proj)
        self.power = nn.Parameter(torch.zeros(1, self.num_heads, 1, head))
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        self.dwc = nn.Conv2d(head, head, 5, padding=2, groups=head) if local else None
        self.built = needed_grid(grid, "polarity-aware attention with a positional encoding") if pos else None
        self.positional_encoding = nn.Parameter(torch.zeros(1, self.built[0] * self.built[1], dim)) if self.built else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        local = "dwc.weight" in state or "dwc.bias" in state
        return {
            "dim": state["proj.weight"].shape[0],
            "qkv_bias": "qg.bias" in state or "kv.bias" in state,
            "gate": state["qg.weight"].shape[0] > state["qg.weight"].shape[1],
            "local": local,
            # The authors' layer has both: weights with one but not the other are incomplete.
            "pos": local or "positional_encoding" in state,
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(sr_ratio=1, eps=EPSILON, dwc_kernel=5)
        given = {name: options.read(name) for name in ("alpha", "qkv_bias")}
        return {name: value for name, value in given.items() if value is not None}

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid)
        self._check_grid(grid)
        q, *gate = self.qg(x).split(x.shape[2], dim=-1)  # (B, N, C) each
        k, v = self.kv(x).chunk(2, dim=-1)
        if self.positional_encoding is not None:
            k = k + self.positional_encoding
        scale, wide = F.softplus(self.scale), beyond_float16(v)
        q, k, by_head = (split_heads(t.to(wide), self.num_heads) for t in (q / scale, k / scale, v))
        power = (1 + self.alpha * self.power.sigmoid()).to(wide)
        with without_autocast(x):
            attend = naive_polar_attention if naive else polar_attention
            y = attend(q, k, by_head, power, turn_for(self.rope, grid, naive)).to(v.dtype)
        if self.dwc is not None:
            y = y + self._local(self.dwc, split_heads(v, self.num_heads), grid, naive)
        y = y.transpose(1, 2).flatten(2)  # (B, N, C)
        return self.proj(y * gate[0] if gate else y)

    @staticmethod
    def _local(conv: nn.Conv2d, v: Tensor, grid: Grid, naive: bool) -> Tensor:
        """The DWC on V (B, h, N, d); heads share its kernels, as images do."""
        assert conv.bias is not None
        if naive:
            kernels = conv.weight[None, :, 0]
            return torch.stack([shifted_depthwise_conv(head, kernels, conv.bias, grid) for head in v.unbind(1)], dim=1)
        return depthwise_conv(v.flatten(0, 1), conv.weight, conv.bias, grid).view_as(v)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By both N×N matrices of weights, and the neighbours one by one."""
        return self._mix(x, grid, naive=True)

    def _check_grid(self, grid: Grid) -> None:
        if self.built is not None:
            check_built_grid(grid, self.built, "polarity-aware attention with a positional encoding")

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, the attention, the DWC."""
        check_path(path)
        self._check_grid(grid)
        n, c = grid[0] * grid[1], self.proj.in_features
        projections = (5 if self.gate else 4) * c
        return batch * n * c * (projections + 4 * (c // self.num_heads) + 4 + (25 if self.dwc is not None else 0))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; s, p and the angles are shared by the images."""
        self._check_grid(grid)
        n, c = grid[0] * grid[1], self.proj.in_features
        biases = n * c * ((5 if self.gate else 4) if self.qg.bias is not None else 1)
        parts = (2 if self.dwc is not None else 0) + (self.positional_encoding is not None) + self.gate
        attention = 15 * n * c + 2 * n * self.num_heads  # over s, x⁺ and x⁻, twice each; Σ of both, the division; ε twice
        turns = 2 * rotary_elementwise(grid, batch, 2 * c, c // self.num_heads) if self.rope else 0
        return batch * (biases + n * c * parts + attention) + 4 * c + turns
