"""Test-time training (ViT³): an inner model that takes one gradient step on every image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerSpec,
    check_path,
    check_rotary,
    check_tokens,
    depthwise_conv_by_image,
    heads_of,
    init_linear_,
    rotary_elementwise,
    shifted_depthwise_conv,
    split_heads,
    to_map,
    turn_for,
)
from mixers.options import AuthorOptions
from mixers.registry import register

#: The factor of the inner losses, 1/√9 for the nine entries of a kernel, which the authors use in both branches.
INNER_SCALE = 9**-0.5


def glu_descent(k: Tensor, v: Tensor, w1: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """−∂L/∂W₁ and −∂L/∂W₂ of L = −s · meanₙ ⟨(kₙW₁) ⊙ silu(kₙW₂), vₙ⟩, by hand.

    Shapes: k, v (B, h, N, d), W₁ and W₂ (1, h, d, d); results (B, h, d, d). Cost per image: 4NCd MACs; 9NC + 2Cd elementwise.
    """
    n = k.shape[-2]
    left, right = k @ w1, k @ w2  # (B, h, N, d)
    sigmoid = right.sigmoid()
    gate = right * sigmoid
    slope = sigmoid + gate * (1 - sigmoid)  # the derivative of silu
    # 1/N in two halves, so that no sum over many tokens leaves the range of 16 bits.
    keys, rest = (k * n**-0.5).transpose(-2, -1), INNER_SCALE * n**-0.5
    return keys @ (v * gate) * rest, keys @ (v * left * slope) * rest


def conv_descent(k: Tensor, v: Tensor, grid: Grid) -> Tensor:
    """−∂L/∂W₃ of L = −s · meanₙ ⟨(k ∗ W₃)ₙ, vₙ⟩, by hand; L is linear in W₃, on which the result does not depend.

    Shapes: k, v (B, N, d); result (B, d, 3, 3). Cost per image: 9Nd MACs; Nd + 9d elementwise.
    """
    n, d = k.shape[-2:]
    neighbours = F.unfold(to_map(k, grid), 3, padding=1).unflatten(1, (d, 9))  # (B, d, 9, N)
    product = neighbours @ (v * n**-0.5).transpose(1, 2).unsqueeze(3)  # (B, d, 9, 1)
    return (product * (INNER_SCALE * n**-0.5)).view(-1, d, 3, 3)


def clipped(step: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """A step shorter than 1 along ``dim``: g / (‖g‖ + 1)."""
    return step / (torch.linalg.vector_norm(step, dim=dim, keepdim=True) + 1)


def _inner(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _naive_glu(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """f: x (B, h, N, d), W₁ and W₂ (B, h, d, d)."""
    return torch.einsum("bhnd,bhde->bhne", x, w1) * F.silu(torch.einsum("bhnd,bhde->bhne", x, w2))


@register(
    MixerSpec(
        name="ttt",
        token="test-time-training",
        complexity="linear",
        formula="(QW₁')⊙silu(QW₂') and Q₂ ∗ W₃', where W' = W − η g/(‖g‖ + 1), g the gradient of −s·mean⟨f(K), V⟩",
        source="ViT³, arXiv 2512.01643",
        status="certain",
        layout="grid",
        as_set={"local": False},
        doubling="invariant",
        rotary=True,
    )
)
class TTT(nn.Module):
    """Y = Linear([f(Q; W₁', W₂'), Q₂ ∗ W₃']), f(q; W₁, W₂) = (qW₁) ⊙ silu(qW₂), with weights W' made for the image.

    One step of gradient descent, at rate η, on how badly the inner models send keys to values, with a bounded length::

        L₁ = −s · meanₙ ⟨f(Kₙ; W₁, W₂), Vₙ⟩     L₂ = −s · meanₙ ⟨(K₂ ∗ W₃)ₙ, V₂ₙ⟩     s = 1/3
        W' = W − η g / (‖g‖ + 1)                 g = ∂L/∂W; the norm is a column's, for W₃ a channel's

    f works per head; the depthwise 3×3 convolution is one more head.

    Shapes: X, Y (B, N, C) on a grid H×W, N = H·W; Q, K, V (B, h, N, d), d = C/h; Q₂, K₂, V₂ (B, N, d); W₁, W₂ (1, h, d, d);
    W₃ (d, 1, 3, 3); W₁', W₂' (B, h, d, d); W₃' (B, d, 3, 3).
    Cost: time 4NC² + 4NCd + 6NCd + 18Nd MACs (projections, f, convolution), 15NC + 4Nd + 10Cd + 2C + 46d elementwise;
    memory O(NC + C·d).
    Source: ViT³: Unlocking Test-Time Training in Vision (arXiv 2512.01643), its two inner models.
    Status: certain (a golden file of the authors' code, outputs and gradients; the hand gradients equal autograd's); the
    initialisation (W truncated normal of std 0.02) is a reconstruction.
    Deviations: the grid is passed, not guessed. ``local`` turns the convolution's head off; with ``rope``, Q and K are
    turned by their place on the grid.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    #: The authors' parameter names are ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qkv.weight", "qkv.bias", "w1", "w2", "w3", "proj.weight", "proj.bias")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        qkv_bias: bool = True,
        inner_lr: float = 1.0,
        local: bool = True,
        rope: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.inner_lr, self.rope = heads_of(dim, num_heads), inner_lr, rope
        head = dim // self.num_heads
        if rope:
            check_rotary(head)
        width = dim + head if local else dim
        self.qkv = nn.Linear(dim, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, dim)
        init_linear_(self.qkv, self.proj)
        self.w1, self.w2 = _inner(1, self.num_heads, head, head), _inner(1, self.num_heads, head, head)
        self.w3 = _inner(head, 1, 3, 3) if local else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        dim, width = state["proj.weight"].shape
        return {"dim": dim, "qkv_bias": "qkv.bias" in state, "local": width != dim}

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        return {"inner_lr": options.read("inner_lr", 1.0)}

    def _project(self, x: Tensor, grid: Grid, naive: bool) -> tuple[Tensor, ...]:
        """Q, K, V, (B, h, N, d) each, with Q and K turned; then Q₂, K₂, V₂, (B, N, d) each."""
        check_tokens(x, grid)
        c, d = x.shape[2], x.shape[2] // self.num_heads
        parts = self.qkv(x).split([c] * 3 + ([d] * 3 if self.w3 is not None else []), dim=-1)
        q, k, v = (split_heads(t, self.num_heads) for t in parts[:3])
        turn = turn_for(self.rope, grid, naive)
        return turn(q), turn(k), v, *parts[3:]

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        q, k, v, *conv = self._project(x, grid, naive=False)
        step1, step2 = glu_descent(k, v, self.w1, self.w2)  # (B, h, d, d) each
        w1 = torch.add(self.w1, clipped(step1, -2), alpha=self.inner_lr)
        w2 = torch.add(self.w2, clipped(step2, -2), alpha=self.inner_lr)
        y = ((q @ w1) * F.silu(q @ w2)).transpose(1, 2).flatten(2)  # (B, N, C)
        if self.w3 is not None:
            q2, k2, v2 = conv
            kernels = torch.add(self.w3[:, 0], clipped(conv_descent(k2, v2, grid), (-2, -1)), alpha=self.inner_lr)
            y = torch.cat([y, depthwise_conv_by_image(q2, kernels, None, grid)], dim=-1)  # (B, N, C + d)
        return self.proj(y)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The inner gradients by autograd; the convolution as nine shifted products."""
        q, k, v, *conv = self._project(x, grid, naive=True)
        b = x.shape[0]
        w1, w2 = self._naive_step(_naive_glu, (self.w1.repeat(b, 1, 1, 1), self.w2.repeat(b, 1, 1, 1)), k, v, -2)
        y = _naive_glu(q, w1, w2).transpose(1, 2).flatten(2)
        if self.w3 is not None:
            q2, k2, v2 = conv
            convolve = partial(shifted_depthwise_conv, bias=x.new_zeros(q2.shape[2]), grid=grid)
            (w3,) = self._naive_step(convolve, (self.w3[:, 0].repeat(b, 1, 1, 1),), k2, v2, (-2, -1))
            y = torch.cat([y, convolve(q2, w3)], dim=-1)
        return self.proj(y)

    def _naive_step(
        self, model: Callable[..., Tensor], weights: tuple[Tensor, ...], k: Tensor, v: Tensor, dim: int | tuple[int, int]
    ) -> list[Tensor]:
        """The weights after a step down ``model``'s loss, its gradient by autograd; each image has its own weights."""

        def loss(*weights: Tensor) -> Tensor:
            return -INNER_SCALE * (model(k, *weights) * v).sum() / k.shape[-2]

        gradients = torch.func.grad(loss, argnums=tuple(range(len(weights))))(*weights)
        norms = [(g**2).sum(dim=dim, keepdim=True).sqrt() for g in gradients]
        return [w - self.inner_lr * g / (norm + 1) for w, g, norm in zip(weights, gradients, norms, strict=True)]

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: projections, f on keys, its gradients, f on queries; convolution."""
        check_path(path)
        n, (c, width) = grid[0] * grid[1], self.proj.weight.shape
        d = c // self.num_heads
        return batch * n * (4 * c * width + 6 * c * d + (18 * d if self.w3 is not None else 0))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        n, (c, width) = grid[0] * grid[1], self.proj.weight.shape
        d = c // self.num_heads
        biases = n * c + (3 * n * width if self.qkv.bias is not None else 0)
        descent = 9 * n * c + 2 * (5 * c * d + c)  # s, the clipping and the step are on d×d weights
        conv = n * d + 46 * d if self.w3 is not None else 0
        turns = 2 * rotary_elementwise(grid, batch, c, d) if self.rope else 0
        return batch * (biases + descent + 2 * n * c + conv) + turns
