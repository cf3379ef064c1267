"""Softmax attention, plain, differential, and with a gate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    MixerSpec,
    QKVAttention,
    Turn,
    at_least_float32,
    check_path,
    check_rotary,
    init_linear_,
    stay,
    without_autocast,
)
from mixers.options import AuthorOptions
from mixers.registry import register, register_spec

#: Under the roots of differential attention's RMS norms: of its output, and of q and k.
EPSILON, QK_EPSILON = 1e-5, 1e-6
#: The parameters of λ: vectors as in the paper, or with ``dual_lambda`` two numbers.
VECTORS, NUMBERS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"), ("lambda_a", "lambda_b")


def initial_lambda(depth: int) -> float:
    """λ₀ of the layer that has ``depth`` layers before it."""
    return 0.8 - 0.6 * math.exp(-0.3 * depth)


@register(
    MixerSpec(
        name="softmax",
        token="softmax-attention",
        complexity="quadratic",
        formula="softmax(QKᵀ/√d) V",
        source="Vaswani et al. 2017, arXiv 1706.03762; as in DeiT, arXiv 2012.12877",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
class SoftmaxAttention(QKVAttention):
    """O = softmax(Q Kᵀ / √d) V, per head, with X → (Q, K, V) and O → Y by a Linear each.

    With ``differential``: O = (1 − λ₀) RMSNorm(A V), A = softmax(Q₁ K₁ᵀ / √δ) − λ softmax(Q₂ K₂ᵀ / √δ), where Q₁ and Q₂ are
    the halves of a head's channels, δ = d/2, and so are K₁ and K₂. λ = exp(λ_q1 · λ_k1) − exp(λ_q2 · λ_k2) + λ₀ is learned,
    one number for all heads; λ₀ = 0.8 − 0.6 exp(−0.3 l) in the layer with l before it. The norm is over a head's channels.

    With ``gated``: O ⊙ σ(X W + b) in place of O, a gate for each channel of each head.

    Shapes: X, Y (B, N, C); Q, K, V, O (B, h, N, d), d = C/h. N is H·W, or H·W + 1 with a class token.
    Cost: time 4NC² + 2N²C MACs, 5hN² + 6NC elementwise (softmax, biases, the scaling of q and k); memory O(N) with a
    fused kernel, O(hN²) otherwise. Differential: 3N²C in place of 2N²C; 10hN² + 13NC + 2hN elementwise, and 4δ + 4 for λ.
    The gate: NC² MACs and 3NC elementwise.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2; in a vision transformer, DeiT (arXiv 2012.12877).
    Differential: Ye et al. 2024 (Differential Transformer, arXiv 2410.05258), section 2.1. The gate: Qiu et al. 2025 (Gated
    Attention for Large Language Models, arXiv 2505.06708), the elementwise gate after the attention.
    Status: certain (timm's weights give timm's logits; differential attention has golden files of timm's, outputs and
    gradients). The gate is a reconstruction from the paper, whose models compute it together with Q.
    Deviations: `scaled_dot_product_attention` chooses the kernel; differential attention calls it twice, with keys half as
    wide as values, which a kernel that wants both equal does not take. ``dual_lambda`` has λ = exp(λ_a) − exp(λ_b) + λ₀, and
    ``qk_norm`` an RMS norm of each half of a head's q and k: both are options of timm's. ``depth`` None is the number of
    layers of this kind before this one. The gate's Linear has a bias, and starts at gates of about 1/2.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d (δ, if differential);
            with ``differential``, if d is odd or ``depth`` negative; without it, for its own options.
    """

    #: The authors' parameter names are ours, but for the gate's, which has no Linear of its own in their code.
    reference_names: ClassVar[Mapping[str, str]] = {
        **QKVAttention.reference_names,
        **{name: name for name in (*VECTORS, *NUMBERS)},
        **{name: name for name in ("sub_norm.weight", "q_norm.weight", "k_norm.weight", "gate.weight", "gate.bias")},
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        layer: int = 0,
        qkv_bias: bool = True,
        rope: bool = False,
        gated: bool = False,
        differential: bool = False,
        depth: int | None = None,
        dual_lambda: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__(dim, num_heads=num_heads, grid=grid, qkv_bias=qkv_bias, rope=rope)
        self.gate = nn.Linear(dim, dim) if gated else None
        if self.gate is not None:
            init_linear_(self.gate)
        self.differential = differential
        if differential:
            self._differ(dim // self.num_heads, layer if depth is None else depth, dual_lambda, qk_norm)
        elif (depth, dual_lambda, qk_norm) != (None, False, False):
            raise MixerError(
                "options of differential attention alone",
                got=f"depth = {depth}, dual_lambda = {dual_lambda} and qk_norm = {qk_norm} with differential = False",
                expected="none of them",
                remedy="leave them out, or set differential=True",
            )

    def _differ(self, head: int, depth: int, dual_lambda: bool, qk_norm: bool) -> None:
        """The parameters of differential attention."""
        if head % 2:
            raise MixerError(
                "differential attention halves each head",
                got=f"dim / num_heads = {head}",
                expected="an even number",
                remedy="choose num_heads so that dim / num_heads is one",
            )
        if depth < 0:
            raise MixerError(
                "no layer has so many before it",
                got=f"depth = {depth}",
                expected="0, 1, ...",
                remedy="leave it out, or count from 0",
            )
        if self.rope:
            check_rotary(head // 2)
        self.lambda_init = initial_lambda(depth)
        for name in NUMBERS if dual_lambda else VECTORS:
            start = torch.zeros(()) if dual_lambda else 0.1 * torch.randn(head // 2)
            self.register_parameter(name, nn.Parameter(start))
        self.sub_norm = nn.RMSNorm(head, eps=EPSILON)
        self.q_norm = nn.RMSNorm(head // 2, eps=QK_EPSILON) if qk_norm else None
        self.k_norm = nn.RMSNorm(head // 2, eps=QK_EPSILON) if qk_norm else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        return {
            **super().reference_arguments(state),
            "gated": "gate.weight" in state or "gate.bias" in state,
            "dual_lambda": any(name in state for name in NUMBERS),
            "qk_norm": "q_norm.weight" in state or "k_norm.weight" in state,
        }

    @classmethod
    def reference_options(cls, options: AuthorOptions) -> dict[str, object]:
        """Constructor arguments from the authors' options."""
        options.expect(proj_bias=True, scale_norm=False, sub_norm_eps=EPSILON)
        options.read("head_dim")  # from the dimension and the heads
        if options.read("qk_norm_eps") is not None:
            options.expect(qk_norm_eps=QK_EPSILON)
        given = {name: options.read(name) for name in ("depth", "dual_lambda", "qk_norm", "qkv_bias")}
        depth, start = given["depth"] or 0, options.read("lambda_init")
        if start is not None and not (isinstance(depth, int) and math.isclose(float(str(start)), initial_lambda(depth))):
            raise MixerError(
                "lambda_init comes from the depth",
                got=f"lambda_init = {start} and depth = {depth}",
                expected="0.8 - 0.6 exp(-0.3 depth)",
                remedy="leave lambda_init out, or give the depth that it comes from",
            )
        return {name: value for name, value in given.items() if value is not None}

    def lambda_(self) -> Tensor:
        """λ, a number, in at least float32; 4δ + 4 elementwise, or 4 with ``dual_lambda``."""
        own = dict(self.named_parameters(recurse=False))
        with without_autocast(self.proj.weight):
            if "lambda_a" in own:
                one, two = (own[name].to(at_least_float32(own[name])) for name in NUMBERS)
            else:
                q1, k1, q2, k2 = (own[name].to(at_least_float32(own[name])) for name in VECTORS)
                one, two = (q1 * k1).sum(), (q2 * k2).sum()
            return one.exp() - two.exp() + self.lambda_init

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """PyTorch's fused attention; (B, h, N, d)."""
        if not self.differential:
            return F.scaled_dot_product_attention(turn(q), turn(k), v)
        q, k = (t.unflatten(-1, (2, -1)) for t in (q, k))  # (B, h, N, 2, δ)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        maps = zip(q.unbind(-2), k.unbind(-2), strict=True)
        first, second = (F.scaled_dot_product_attention(turn(q), turn(k), v) for q, k in maps)
        return self.sub_norm(first - self.lambda_().to(second.dtype) * second) * (1 - self.lambda_init)

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """The explicit N×N weights."""
        if not self.differential:
            return torch.einsum("bhnm,bhmd->bhnd", _weights(turn(q), turn(k)), v)
        half, own = q.shape[-1] // 2, dict(self.named_parameters())
        halves = [q[..., :half], k[..., :half], q[..., half:], k[..., half:]]
        if self.q_norm is not None:
            halves = [
                t / (t.square().mean(dim=-1, keepdim=True) + QK_EPSILON).sqrt() * own[f"{name}_norm.weight"]
                for name, t in zip("qkqk", halves, strict=True)
            ]
        q1, k1, q2, k2 = (turn(t) for t in halves)
        if "lambda_a" in own:
            more = own["lambda_a"].exp() - own["lambda_b"].exp()
        else:
            more = torch.dot(own["lambda_q1"], own["lambda_k1"]).exp() - torch.dot(own["lambda_q2"], own["lambda_k2"]).exp()
        y = torch.einsum("bhnm,bhmd->bhnd", _weights(q1, k1) - (more + self.lambda_init) * _weights(q2, k2), v)
        y = y / (y.square().mean(dim=-1, keepdim=True) + EPSILON).sqrt()
        return (1 - self.lambda_init) * own["sub_norm.weight"] * y

    def leave(self, y: Tensor, x: Tensor, naive: bool) -> Tensor:
        """The gate, if there is one."""
        if self.gate is None:
            return y
        if naive:
            return y / (1 + (-torch.einsum("bnc,dc->bnd", x, self.gate.weight) - self.gate.bias).exp())
        return y * self.gate(x).sigmoid()

    def attend_macs(self, n: int, dim: int) -> int:
        """2N²C; differential 3N²C: half as many for the scores of each map, as many for its values."""
        return (3 if self.differential else 2) * n * n * dim

    def attend_elementwise(self, n: int, dim: int) -> int:
        """5 for each of the hN² softmax entries of a map, and the scaling of q and of k.

        Differential: λ times the second map's output, the difference and the factor after the norm too, and the norms: 4 for
        each element (a square, a mean, two factors), 2 for each root.
        """
        if not self.differential:
            return 5 * self.num_heads * n * n + 2 * n * dim
        norms = 4 * n * dim + 2 * n * self.num_heads
        if self.q_norm is not None:
            norms += 2 * (4 * n * dim + 2 * n * 2 * self.num_heads)
        return 10 * self.num_heads * n * n + 5 * n * dim + norms

    def macs(self, grid: Grid, batch: int = 1, path: str = "released", *, prefix_tokens: int = 0) -> int:
        """Exact MACs of one forward pass over the batch: projections, the core's, and NC² for the gate."""
        check_path(path)
        n, c = grid[0] * grid[1] + prefix_tokens, self.proj.in_features
        return super().macs(grid, batch, path, prefix_tokens=prefix_tokens) + (
            batch * n * c * c if self.gate is not None else 0
        )

    def elementwise(self, grid: Grid, batch: int = 1, *, prefix_tokens: int = 0) -> int:
        """Exact elementwise operations of one forward pass over the batch; λ is shared by the images."""
        n, c = grid[0] * grid[1] + prefix_tokens, self.proj.in_features
        gate = 3 * batch * n * c if self.gate is not None else 0
        products = sum(2 * p.numel() for name, p in self.named_parameters() if name in ("lambda_q1", "lambda_q2"))
        own = products + 4 if self.differential else 0
        return super().elementwise(grid, batch, prefix_tokens=prefix_tokens) + gate + own


def _weights(q: Tensor, k: Tensor) -> Tensor:
    """softmax(Q Kᵀ / √d), (B, h, N, N), by its definition."""
    scores = (torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5).exp()
    return scores / scores.sum(dim=-1, keepdim=True)


register_spec(
    MixerSpec(
        name="differential",
        token="softmax-attention",
        token_options={"differential": True},
        complexity="quadratic",
        formula="(1 − λ₀) RMSNorm((softmax(Q₁K₁ᵀ/√δ) − λ softmax(Q₂K₂ᵀ/√δ)) V), δ = d/2",
        source="Ye et al. 2024 (Differential Transformer), arXiv 2410.05258",
        status="certain",
        prefix_tokens=True,
        layout="set",
        doubling="invariant",
        rotary=True,
    )
)
