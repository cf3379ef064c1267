"""The linear attention of MILA (Mamba-inspired linear attention)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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
    linear_attention,
    naive_rotary_2d,
    quadratic_linear_attention,
    rotary_2d,
    rotary_elementwise,
    shifted_depthwise_conv,
    split_heads,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: Added to the denominator.
EPSILON = 1e-6


@register(
    MixerSpec(
        name="mila-linear",
        token="mila-linear-attention",
        complexity="linear",
        formula="R(φ(Q))(R(φ(K))ᵀX) / (φ(Q)Σφ(K) + Nε) + DWC3×3(X), φ = elu + 1, R rotary",
        source="Han et al. 2024 (MILA), arXiv 2405.16605",
        status="certain",
        layout="grid",
        as_set={"rope": False, "local": False},
        doubling="invariant",
        rotary=True,
    )
)
class MILALinearAttention(nn.Module):
    """Y = R(φ(Q)) (R(φ(K))ᵀ X) / (φ(Q) Σₙ φ(K)ₙ + Nε) + DWC3×3(X), per head, φ(x) = elu(x) + 1, ε = 1e-6.

    Q and K come from X by one Linear; the values are X itself, and there is no Linear after. R turns all C features of a
    token by its place on the grid, before they are split into heads (see `mixers.base.rotary_2d`); it is in the
    numerator only, so that the denominator stays positive.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K and X by head (B, h, N, d), d = C/h; kernels (C, 1, 3, 3).
    Cost: time 2NC² + 2NCd + 10NC MACs, 18NC + hN elementwise and 3(H + W)C/2 for the angles; memory O(NC + C·d).
    Source: Han et al. 2024 (Demystify Mamba in Vision: A Linear Attention Perspective, arXiv 2405.16605), where R and
    the DWC ("lepe" in the released code) stand in for the forget gate of Mamba.
    Status: certain (a golden file of the authors' code, outputs and gradients); the initialisation of the DWC, that of
    `torch.nn.Conv2d`, is a reconstruction.
    Deviations: the attention alone. MILA's own block has a second branch that gates the attention's output, Linears and
    a convolution before it; the skeleton that all mixers share drops these, so accuracies in the paper are not this
    layer's. ``rope`` and ``local`` turn R and the DWC off.

    Raises:
        MixerError: if the heads, or, with ``rope``, 4, do not divide the dimension.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {name: name for name in ("qk.weight", "qk.bias", "lepe.weight", "lepe.bias")}

    def __init__(
        self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, local: bool = True, rope: bool = True
    ) -> None:
        super().__init__()
        self.num_heads, self.rope = heads_of(dim, num_heads), rope
        if rope and dim % 4:
            raise MixerError(
                "rotary position needs a dimension that 4 divides",
                got=f"dim = {dim}",
                expected="a multiple of 4",
                remedy="choose such a dim, or rope=False",
            )
        self.qk = nn.Linear(dim, 2 * dim)
        init_linear_(self.qk)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if local else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        return {"dim": state["qk.weight"].shape[1], "local": "lepe.weight" in state or "lepe.bias" in state}

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(rope_base=10000)
        return {}

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid)
        heads, rotate = self.num_heads, naive_rotary_2d if naive else rotary_2d

        def turn(features: Tensor) -> Tensor:
            """Turn (B, h, N, d) as the C features of each token that they are."""
            return split_heads(rotate(features.transpose(1, 2).flatten(2), grid), heads) if self.rope else features

        q, k = (split_heads(F.elu(t) + 1, heads) for t in self.qk(x).chunk(2, dim=-1))
        n, v = grid[0] * grid[1], split_heads(x, heads)
        if naive:
            y = quadratic_linear_attention(q / n, k, v, eps=EPSILON, turn=turn)
        else:
            # √N on either side, so that no sum over many tokens leaves the range of 16 bits.
            y = linear_attention(q * n**-0.5, k * n**-0.5, v, eps=EPSILON, turn=turn)
        y = y.transpose(1, 2).flatten(2)  # (B, N, C)
        return y if self.lepe is None else y + self._local(self.lepe, x, grid, naive)

    @staticmethod
    def _local(conv: nn.Conv2d, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        assert conv.bias is not None
        if naive:
            return shifted_depthwise_conv(x, conv.weight[None, :, 0], conv.bias, grid)
        return depthwise_conv(x, conv.weight, conv.bias, grid)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights, turned token by token, and nine shifted products."""
        return self._mix(x, grid, naive=True)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: the projection, the attention, the DWC."""
        check_path(path)
        n, c = grid[0] * grid[1], self.qk.in_features
        return batch * n * c * (2 * c + 2 * (c // self.num_heads) + 1 + (9 if self.lepe is not None else 0))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; the angles are shared by the images."""
        n, c = grid[0] * grid[1], self.qk.in_features
        attention = 10 * n * c + n * self.num_heads  # bias, elu, + 1, √N, twice each; Σφ(K), the division; ε
        local = 2 * n * c if self.lepe is not None else 0  # its bias, the addition
        turns = 2 * rotary_elementwise(grid, batch, c, c) if self.rope else 0
        return batch * (attention + local) + turns
