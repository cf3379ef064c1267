"""InLine attention: injective linear attention with local attention added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerSpec,
    Turn,
    check_path,
    check_rotary,
    check_tokens,
    depthwise_conv_by_image,
    heads_of,
    init_linear_,
    rotary_elementwise,
    shifted_depthwise_conv,
    split_heads,
    stay,
    turn_for,
)
from mixers.registry import register


def inline_attention(q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
    """Attention by subtraction in linear time: v̄ + q (kᵀ(v − v̄)) / (N√d), with v̄ the mean of v.

    A weight's own mean, taken from it, is the same as v̄ taken from every value.

    Shapes: q, k, v and result (B, h, N, d). Cost per image: 2NCd MACs; 4NC + Cd elementwise.
    """
    n, d = k.shape[-2:]
    mean = v.mean(dim=-2, keepdim=True)  # (B, h, 1, d)
    # 1/N in two halves, so that no sum over many tokens leaves the range of 16 bits.
    kv = (turn(k) * n**-0.5).transpose(-2, -1) @ (v - mean)  # (B, h, d, d)
    return turn(q) @ (kv * (n * d) ** -0.5) + mean


def inline_weights(q: Tensor, k: Tensor) -> Tensor:
    """The N×N weights of InLine attention, q·k/(N√d) less its mean over the keys, plus 1/N: (B, h, N, N)."""
    n, d = k.shape[-2:]
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / (n * d**0.5)
    return scores - scores.mean(dim=-1, keepdim=True) + 1 / n


@register(
    MixerSpec(
        name="inline",
        token="inline-attention",
        complexity="linear",
        formula="(S − mean S + 1/N) V + V ∗ K̂, S = QKᵀ/(N√d), K̂ 3×3 predicted from the mean token",
        source="Han et al. 2024 (InLine attention), arXiv 2412.06590",
        status="certain",
        layout="grid",
        as_set={"local": False},
        doubling="invariant",
        rotary=True,
    )
)
class InLineAttention(nn.Module):
    """O = (S − mean S + 1/N) V + V ∗ K̂, S = Q Kᵀ / (N√d), per head, between Linears; the mean is over the keys.

    K̂ = conv1×1(gelu(conv1×1(mean token of X))), one 3×3 kernel for each image and channel; both convolutions are grouped
    by head and have a bias.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K, V, O (B, h, N, d), d = C/h; S (B, h, N, N); K̂ (B, C, 3, 3).
    Cost: time 4NC² + 2NCd + 9NC + 10Cd MACs, 10NC + Cd + 11C elementwise; memory O(NC + C·d).
    Source: Han et al. 2024 (Bridging the Divide: Reconsidering Softmax and Linear Attention, arXiv 2412.06590), section 4:
    the weights in 4.1, with the identity as feature map, and K̂ in 4.2.
    Status: certain (a golden file of the authors' code, outputs and gradients; weights sum to 1); the initialisation of
    the two convolutions, that of `torch.nn.Conv1d`, is a reconstruction.
    Deviations: the grid is passed, not guessed. The mean is taken from V, not from S, which is the same. ``local`` turns
    K̂ off. With ``rope``, q and k are turned by their place on the grid; weights still sum to 1.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        f"{layer}.{kind}": f"{layer}.{kind}"
        for layer in ("q", "kv", "proj", "residual.0", "residual.2")
        for kind in ("weight", "bias")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        local: bool = True,
        rope: bool = False,
    ) -> None:
        super().__init__()
        heads = heads_of(dim, num_heads)
        self.num_heads, self.rope = heads, rope
        if rope:
            check_rotary(dim // heads)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.q, self.kv, self.proj)
        predictor = (nn.Conv1d(dim, dim, 1, groups=heads), nn.GELU(), nn.Conv1d(dim, 9 * dim, 1, groups=heads))
        self.residual = nn.Sequential(*predictor) if local else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        return {
            "dim": state["proj.weight"].shape[0],
            "qkv_bias": "q.bias" in state or "kv.bias" in state,
            "local": any(name.startswith("residual.") for name in state),
        }

    def _project(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, K, V by head, (B, h, N, d) each, and V whole, (B, N, C)."""
        check_tokens(x, grid)
        q, (k, v) = self.q(x), self.kv(x).chunk(2, dim=-1)
        by_head = [split_heads(t, self.num_heads) for t in (q, k, v)]
        return by_head[0], by_head[1], by_head[2], v

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, self.predicted(x, grid) if self.has_prediction else None)

    def _mix(self, x: Tensor, grid: Grid, kernels: Tensor | None) -> Tensor:
        """The output where K̂ is ``kernels`` (B, C, 3, 3); None: 0."""
        q, k, v, whole = self._project(x, grid)
        y = inline_attention(q, k, v, turn_for(self.rope, grid)).transpose(1, 2).flatten(2)
        if kernels is not None:
            y = y + depthwise_conv_by_image(whole, kernels, None, grid)
        return self.proj(y)

    @property
    def has_prediction(self) -> bool:
        """Whether there is a K̂."""
        return self.residual is not None

    def predicted(self, x: Tensor, grid: Grid) -> Tensor:
        """K̂ (B, C, 3, 3)."""
        assert self.residual is not None, "without local there is no K̂"
        return self.residual(x.mean(dim=1).unsqueeze(2)).view(len(x), -1, 3, 3)

    def with_prediction(self, x: Tensor, grid: Grid, prediction: Tensor) -> Tensor:
        """The output where K̂ is ``prediction`` (B, C, 3, 3)."""
        return self._mix(x, grid, prediction)

    def without_prediction(self, x: Tensor, grid: Grid) -> Tensor:
        """The output where K̂ is 0: the attention's."""
        return self._mix(x, grid, None)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """By the N×N weights; the prediction by head; the convolution as nine shifted products."""
        q, k, v, whole = self._project(x, grid)
        turn = turn_for(self.rope, grid, naive=True)
        y = torch.einsum("bhnm,bhmd->bhnd", inline_weights(turn(q), turn(k)), v).transpose(1, 2).flatten(2)
        if self.residual is not None:
            y = y + shifted_depthwise_conv(whole, self._naive_kernels(x), whole.new_zeros(whole.shape[2]), grid)
        return self.proj(y)

    def _naive_kernels(self, x: Tensor) -> Tensor:
        assert self.residual is not None
        hidden = x.sum(dim=1) / x.shape[1]  # (B, C)
        for layer in (self.residual[0], self.residual[2]):
            assert isinstance(layer, nn.Conv1d)
            assert layer.bias is not None
            pairs = zip(hidden.chunk(self.num_heads, 1), layer.weight.chunk(self.num_heads), strict=True)
            out = torch.cat([torch.einsum("bi,oi->bo", part, weight[:, :, 0]) for part, weight in pairs], 1) + layer.bias
            hidden = F.gelu(out) if layer is self.residual[0] else out
        return hidden.unflatten(1, (-1, 3, 3))

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, the attention, K̂ and its convolution."""
        check_path(path)
        n, c = grid[0] * grid[1], self.proj.in_features
        d = c // self.num_heads
        return batch * (4 * n * c * c + 2 * n * c * d + (9 * n * c + 10 * c * d if self.residual is not None else 0))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        n, c = grid[0] * grid[1], self.proj.in_features
        d = c // self.num_heads
        biases = n * c * (4 if self.q.bias is not None else 1)
        attention = 4 * n * c + c * d  # the mean of V, taken from V and added again, √N; the scaling of KᵀV
        local = 2 * n * c + 11 * c if self.residual is not None else 0  # the mean of X, the addition; biases and gelu
        turns = 2 * rotary_elementwise(grid, batch, c, d) if self.rope else 0
        return batch * (biases + attention + local) + turns
