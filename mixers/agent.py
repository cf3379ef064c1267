"""Agent attention: softmax attention through a few tokens that stand for all."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    check_path,
    check_rotary,
    check_tokens,
    depthwise_conv,
    heads_of,
    init_linear_,
    pooling_windows,
    rotary_elementwise,
    shifted_depthwise_conv,
    split_heads,
    to_map,
    to_tokens,
    turn_for,
)
from mixers.registry import register


def agent_attention(q: Tensor, k: Tensor, v: Tensor, agents: Tensor) -> Tensor:
    """Agents (B, h, n, d) gather from k and v (B, h, N, d), queries (B, h, N, d) from the agents; (B, h, N, d).

    Cost per image: 4NnC MACs; 10hNn + 2(N + n)C elementwise.
    """
    gathered = F.scaled_dot_product_attention(agents, k, v)  # (B, h, n, d)
    return F.scaled_dot_product_attention(q, agents, gathered)


def agent_weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ / √d), by its definition: (B, h, N, M)."""
    scores = (torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5).exp()
    return scores / scores.sum(dim=-1, keepdim=True)


@register(
    MixerSpec(
        name="agent",
        token="agent-attention",
        complexity="linear",
        formula="softmax(QAᵀ/√d) softmax(AKᵀ/√d) V + DWC3×3(V), A = Q pooled to 7×7",
        source="Han et al. 2023 (Agent Attention), arXiv 2312.08874",
        status="certain",
        layout="grid",
        rotary=True,
    )
)
class AgentAttention(nn.Module):
    """O = softmax(Q Aᵀ / √d) softmax(A Kᵀ / √d) V + DWC3×3(V), per head, between Linears.

    The agents A are Q, averaged over n windows of the grid (adaptive average pooling): √n×√n of them, or along an axis
    with fewer tokens than √n as many as tokens.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K, V, O (B, h, N, d), d = C/h; A (B, h, n, d); kernels (C, 1, 3, 3).
    Cost: time 4NC² + 4NnC + 9NC MACs, 8NC + 10hNn + 2nC elementwise and 1 for each element in each window of the pooling
    (NC, more where windows overlap); memory O(NC) with a fused kernel, O(hNn) otherwise.
    Source: Han et al. 2023 (Agent Attention: On the Integration of Softmax and Linear Attention, arXiv 2312.08874): the agent
    attention module; n = 49 as in its DeiT models.
    Status: certain for what is built (equals the product of its two row-stochastic matrices); the initialisation of the DWC,
    that of `torch.nn.Conv2d`, is a reconstruction.
    Deviations: the paper's position biases on both score matrices are dropped. ``local`` turns the DWC off. With ``rope``, q
    and k are turned by their place on the grid before the agents are pooled.

    Raises:
        MixerError: if the heads do not divide the dimension, ``agents`` is no square, or, with ``rope``, 4 does not divide d.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        agents: int = 49,
        local: bool = True,
        rope: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.rope = heads_of(dim, num_heads), rope
        if rope:
            check_rotary(dim // self.num_heads)
        if agents < 1 or math.isqrt(agents) ** 2 != agents:
            raise MixerError(
                "agents do not fill a square", got=f"agents = {agents}", expected="1, 4, 9, ...", remedy="use 49 for 7x7"
            )
        self.side = math.isqrt(agents)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qkv, self.proj)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim) if local else None

    def _agents_grid(self, grid: Grid) -> Grid:
        """Agents along either axis."""
        return min(grid[0], self.side), min(grid[1], self.side)

    def _project(self, x: Tensor, grid: Grid, naive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, K, V by head, (B, h, N, d) each, and V whole, (B, N, C)."""
        check_tokens(x, grid)
        q, k, whole = self.qkv(x).chunk(3, dim=-1)
        by_head, turn = [split_heads(t, self.num_heads) for t in (q, k, whole)], turn_for(self.rope, grid, naive)
        return turn(by_head[0]), turn(by_head[1]), by_head[2], whole

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        q, k, v, whole = self._project(x, grid, naive=False)
        pooled = F.adaptive_avg_pool2d(to_map(q.transpose(1, 2).flatten(2), grid), self._agents_grid(grid))
        y = agent_attention(q, k, v, split_heads(to_tokens(pooled), self.num_heads)).transpose(1, 2).flatten(2)  # (B, N, C)
        if self.dwc is not None:
            y = y + depthwise_conv(whole, self.dwc.weight, self.dwc.bias, grid)
        return self.proj(y)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The agents window by window, the N×N product of both matrices, nine shifted products."""
        q, k, v, whole = self._project(x, grid, naive=True)
        on_grid = q.unflatten(2, grid)  # (B, h, H, W, d)
        rows, columns = (pooling_windows(side, n) for side, n in zip(grid, self._agents_grid(grid), strict=True))
        agents = torch.stack([on_grid[:, :, i:j, s:t].mean(dim=(2, 3)) for i, j in rows for s, t in columns], dim=2)
        weights = torch.einsum("bhna,bham->bhnm", agent_weights(q, agents), agent_weights(agents, k))
        y = torch.einsum("bhnm,bhmd->bhnd", weights, v).transpose(1, 2).flatten(2)
        if self.dwc is not None:
            assert self.dwc.bias is not None
            y = y + shifted_depthwise_conv(whole, self.dwc.weight[None, :, 0], self.dwc.bias, grid)
        return self.proj(y)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, both attentions, the DWC."""
        check_path(path)
        n, c, agents = grid[0] * grid[1], self.proj.in_features, math.prod(self._agents_grid(grid))
        return batch * n * c * (4 * c + 4 * agents + (9 if self.dwc is not None else 0))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch; the angles are shared by the images."""
        n, c, agents = grid[0] * grid[1], self.proj.in_features, math.prod(self._agents_grid(grid))
        biases = n * c * (4 if self.qkv.bias is not None else 1)
        rows, columns = (
            sum(j - i for i, j in pooling_windows(side, n)) for side, n in zip(grid, self._agents_grid(grid), strict=True)
        )
        attention = 10 * self.num_heads * n * agents + 2 * (n + agents) * c  # the softmaxes, the scaling of both operands
        local = 2 * n * c if self.dwc is not None else 0  # its bias, the addition
        turns = 2 * rotary_elementwise(grid, batch, c, c // self.num_heads) if self.rope else 0
        return batch * (biases + rows * columns * c + attention + local) + turns
