"""The dynamic Linear: a Linear layer part of whose weight is predicted from all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import (
    Grid,
    MixerError,
    at_least_float32,
    check_path,
    check_tokens,
    init_linear_,
    to_map,
    to_tokens,
    without_autocast,
)
from mixers.registry import ffn_layer
from mixers.weightformer.common import check_dynamic_grid, check_strategy

Strategy = Literal["gap", "linear", "nonlinear", "deep", "bilateral"]

# --- five exact evaluations of Y = X (W₀ + Ŵ) + b₀, with Ŵ the normalised (E Wa)ᵀ (F Wb) · scale
#
# Symbols: codes E (B, M, p) and F (B, M, q); expansions Wa (p, C) and Wb (q, D); W₀ (C, D); b₀ (D).
# The scale multiplies E (in the authors' order E Wa), before the sum over the M cells: after it, float16 would overflow.


def released(x: Tensor, e: Tensor, f: Tensor, wa: Tensor, wb: Tensor, w0: Tensor, b0: Tensor, scale: float) -> Tensor:
    """The authors' order: both sides are expanded to M×C and M×D, then multiplied."""
    weight = (e @ wa * scale).transpose(1, 2) @ (f @ wb)  # (B, C, D)
    weight = weight / (torch.linalg.vector_norm(weight, dim=1, keepdim=True) + 1)
    return torch.baddbmm(b0, x, w0 + weight)


def core(x: Tensor, e: Tensor, f: Tensor, wa: Tensor, wb: Tensor, w0: Tensor, b0: Tensor, scale: float) -> Tensor:
    """Ŵ = Waᵀ T with the small core T = (Eᵀ F) Wb: the C×D weight is formed once, whatever the number of cells."""
    weight = wa.mT @ core_factor(e, f, wb, scale)  # (B, C, D)
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return torch.baddbmm(b0, x, torch.addcdiv(w0, weight, norm + 1))


def fold(x: Tensor, t: Tensor, wa: Tensor, w0: Tensor, b0: Tensor) -> Tensor:
    """W₀ + Waᵀ T' by one product that accumulates: nothing elementwise touches a C×D weight."""
    weight = torch.baddbmm(w0, wa.mT.expand(len(x), -1, -1), shortened(t, wa))  # (B, C, D)
    return torch.baddbmm(b0, x, weight)


def rank(x: Tensor, t: Tensor, wa: Tensor, w0: Tensor, b0: Tensor) -> Tensor:
    """X W₀ + b₀ + (X Waᵀ) T': no C×D weight for an image; one product for the batch, and one of rank p for each image.

    With the expanded sides A (B, M, C) for Wa and F Wb (B, M, D) for T it is the order *token*: (X Aᵀ) B', of rank M.
    """
    static, reduced = F.linear(x, w0.mT, b0), x @ wa.mT  # (B, N, D), (B, N, p)
    if torch.is_grad_enabled():
        return torch.baddbmm(static, reduced, shortened(t, wa))
    return static.baddbmm_(reduced, shortened(t, wa))  # saves a pass over the output, which autograd would not allow


def core_factor(e: Tensor, f: Tensor, wb: Tensor, scale: float) -> Tensor:
    """T = scale · (Eᵀ F) Wb, (B, p, D)."""
    return (scaled(e, scale).transpose(1, 2) @ f) @ wb


def scaled(e: Tensor, scale: float) -> Tensor:
    """The codes of the input side, scaled; a rank-1 prediction has scale 1."""
    return e if scale == 1 else e * scale


def shortened(t: Tensor, wa: Tensor) -> Tensor:
    """T' = T / (n + 1), where nⱼ² = tⱼᵀ (Wa Waᵀ) tⱼ is the squared norm of column j of Waᵀ T, which need not be formed.

    Shapes: T (B, k, D), Wa (k, C) or (B, k, C); result (B, k, D).

    The norms are computed in float32 at least, under autocast too: n² leaves the range of float16 long before n does.
    """
    exact = at_least_float32(t)
    with without_autocast(t):
        full, wide = t.to(exact), wa.to(exact)
        squared = ((wide @ wide.mT) @ full * full).sum(dim=1, keepdim=True)  # (B, 1, D)
        # The clamp is for rounding below 0; it also keeps the root's gradient finite at 0.
        norm = squared.clamp_min(1e-30).sqrt()
    return t / (norm + 1).to(t.dtype)


def cheapest(n: int, m: int, c: int, d: int, p: int, q: int) -> str:
    """The measured rule of path "auto": of *fold*, *rank* and *token*, the one with the fewest MACs beside X W₀.

    But fold's MACs for Waᵀ T' count 1.5 times, since it writes a C×D weight for each image. The factor is rough: at
    (32, 196, 192), where it decides (rank has 1.3 times fold's MACs), the two take the same time on 2 CPU cores within noise
    and rank needs less memory; from 2.5 times on fold is faster. Measured by `benchmarks/dynamic_layers.py`, whose tables
    stand in results/benchmarks; on other devices it is not measured yet.
    """
    core = p * q * (m + d) + p * p * d  # T, and its norms
    costs = {
        "fold": core + 1.5 * p * c * d,
        "rank": core + p * n * (c + d),
        "token": m * (p * c + q * d) + m * (m + n) * (c + d),
    }
    return min(costs, key=lambda form: costs[form])


@ffn_layer("dynamic-linear")
class DynamicLinear(nn.Module):
    """Y = X (W₀ + Ŵ) + b₀, where Ŵ is predicted from all tokens of the same image.

    Strategy *bilateral*, with reduction r = 4 and P = avg_pool2×2(X), the tokens averaged over whole 2×2 cells::

        Z  = P Wp + bp                    one Linear, split in two: Z = [Za, Zb]
        A  = silu(Za) W₁                  the input side
        B  = silu(Zb) W₂                  the output side
        Ŵ  = Aᵀ B · C^-1/2 / N            a sum over the cells of outer products
        Ŵⱼ = Ŵⱼ / (‖Ŵⱼ‖₂ + 1)             column by column: every predicted column stays shorter than 1

    The other strategies change the codes E = silu(Za) and F = silu(Zb), and nothing else (p and q are their widths):

    ============  =========================================================  ==========================  ==============
    strategy      codes                                                      parameters of prediction    status
    ============  =========================================================  ==========================  ==============
    bilateral     E = silu(Za), F = silu(Zb)                                 (C+1)(p+q) + pC + qD        certain
    linear        E = Za, F = Zb                                             (C+1)(p+q) + pC + qD        reconstruction
    nonlinear     E = silu(Za), F = Zb                                       (C+1)(p+q) + pC + qD        reconstruction
    deep          E = silu(silu(Za) W' + b'), F = Zb                         the same + p² + p           reconstruction
    gap           E = F = gelu(g U), g the mean token; no C^-1/2 / N: M = 1  Cp + pC + pD                reconstruction
    ============  =========================================================  ==========================  ==============

    Shapes: X (B, N, C) on a grid H×W; M = ⌊H/2⌋⌊W/2⌋ cells; P (B, M, C); E, Za (B, M, p), F, Zb (B, M, q), p = C/r and
    q = D/r (gap: M = 1, q = p); W₁ (p, C), W₂ (q, D); W' (p, p); U (C, p); A (B, M, C), B (B, M, D); Ŵ (B, C, D);
    W₀ (C, D); b₀ (D); Y (B, N, D).
    Cost: per image, D = 4C, even grid, bilateral: *released* 6.375 NC² MACs; *core* 4.375 NC² + 2 C³; *rank*
    5.625 NC² + 1.25 C³, and C³/16 for the batch; *fold* as core, + C³/4, and C³/16 for the batch; *token*
    5.375 NC² + 1.25 N²C + 5 (N/4)² C, good for few tokens. Elementwise O(N(C + D)) and, but for rank and token, a few CD.
    Memory beside the tokens: CD for each image, pD with rank, MD with token.
    "auto" takes the cheapest of fold, rank and token (`cheapest`).
    Source: WeightFormer (arXiv 2605.01711), dynamic Linear, figure 3 for the strategies, and the released code.
    Status: bilateral certain (outputs and gradients equal the released code's); the others are reconstructions from the
    paper's figure 3 and its names for them: correct them in `_codes`.
    Deviations: the grid is passed (the release guesses √N × √N, and so refuses or mangles a non-square one); an odd
    last row or column still reaches Y but, as in the release, not the summary P.

    Raises:
        MixerError: for a grid under 2×2, which has no 2×2 cell, fewer channels in or out than the reduction, or an
            unknown strategy.
    """

    #: The release's parameter names and ours; a strategy that was not released has none.
    reference_names: Mapping[str, str] | None = {
        "w": "weight",
        "b": "bias",
        "wfm.weight": "predictor.weight",
        "wfm.bias": "predictor.bias",
        "w1": "expand_in",
        "w2": "expand_out",
    }

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        grid: Grid | None = None,
        strategy: Strategy = "bilateral",
        reduction: int = 4,
    ) -> None:
        super().__init__()
        check_strategy(strategy, get_args(Strategy), "dynamic Linear")
        if reduction < 1 or min(in_features, out_features) < reduction:
            raise MixerError(
                "too few channels for a dynamic Linear",
                got=f"{in_features} in, {out_features} out, reduction {reduction}",
                expected="a reduction of at least 1 and as many channels",
                remedy="use more channels",
            )
        self.in_features, self.out_features, self.strategy = in_features, out_features, strategy
        #: The order of evaluation that `forward` takes: one of `mixers.base.PATHS`.
        self.path = "auto"
        gap = strategy == "gap"
        self.rank_in = in_features // reduction
        self.rank_out = self.rank_in if gap else out_features // reduction
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.predictor = nn.Linear(in_features, self.rank_in if gap else self.rank_in + self.rank_out, bias=not gap)
        self.deepen = nn.Linear(self.rank_in, self.rank_in) if strategy == "deep" else None
        self.expand_in = nn.Parameter(torch.empty(self.rank_in, in_features))
        self.expand_out = nn.Parameter(torch.empty(self.rank_out, out_features))
        for parameter in (self.weight, self.bias, self.expand_in, self.expand_out):
            nn.init.trunc_normal_(parameter, std=0.02)
        init_linear_(self.predictor, *([self.deepen] if self.deepen is not None else []))
        if strategy != "bilateral":
            self.reference_names = None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the release's names."""
        (c, d), ranks = state["w"].shape, (state["w1"].shape[0], state["w2"].shape[0])
        fitting = [r for r in (4, *range(1, min(c, d) + 1)) if (c // r, d // r) == ranks]
        if not fitting:
            raise MixerError(
                "not weights of this layer",
                got=f"ranks {ranks[0]} and {ranks[1]} for {c} in, {d} out",
                expected="ranks that a whole reduction gives",
                remedy="load weights of a dynamic Linear",
            )
        return {"in_features": c, "out_features": d, "reduction": fitting[0]}

    def _codes(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """E (B, M, p) and F (B, M, q) from the tokens (B, N, C)."""
        if self.strategy == "gap":
            code = F.gelu(self.predictor(x.mean(dim=1, keepdim=True)))  # (B, 1, p)
            return code, code
        z = self.predictor(to_tokens(F.avg_pool2d(to_map(x, grid), 2)))  # (B, M, p + q)
        if self.strategy == "bilateral":
            z = F.silu(z)
        z_in, z_out = z.split([self.rank_in, self.rank_out], dim=-1)
        if self.strategy in ("nonlinear", "deep"):
            z_in = F.silu(z_in)
        return (z_in if self.deepen is None else F.silu(self.deepen(z_in))), z_out

    def _scale(self, n: int) -> float:
        """The release divides by N, not by the number of cells; a rank-1 prediction has no sum to divide."""
        return 1.0 if self.strategy == "gap" else self.in_features**-0.5 / n

    def _cells(self, grid: Grid) -> int:
        return 1 if self.strategy == "gap" else (grid[0] // 2) * (grid[1] // 2)

    def _form(self, n: int, m: int, path: str) -> str:
        if path != "auto":
            return path
        return cheapest(n, m, self.in_features, self.out_features, self.rank_in, self.rank_out)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Apply the layer to tokens (B, N, C) of a grid H×W: (B, N, D)."""
        check_tokens(x, grid)
        check_dynamic_grid(grid)
        check_path(self.path)
        (e, f), n = self._codes(x, grid), x.shape[1]
        form = self._form(n, e.shape[1], self.path)
        wa, wb, w0, b0, scale = self.expand_in, self.expand_out, self.weight, self.bias, self._scale(n)
        if form == "released":
            return released(x, e, f, wa, wb, w0, b0, scale)
        if form == "core":
            return core(x, e, f, wa, wb, w0, b0, scale)
        if form == "token":
            return rank(x, f @ wb, scaled(e, scale) @ wa, w0, b0)
        t = core_factor(e, f, wb, scale)
        return rank(x, t, wa, w0, b0) if form == "rank" else fold(x, t, wa, w0, b0)

    def predicted(self, x: Tensor, grid: Grid) -> Tensor:
        """Ŵ (B, C, D), every column shorter than 1; formed here, which most orders of evaluation avoid."""
        check_tokens(x, grid)
        check_dynamic_grid(grid)
        e, f = self._codes(x, grid)
        weight = self.expand_in.mT @ core_factor(e, f, self.expand_out, self._scale(x.shape[1]))
        return weight / (torch.linalg.vector_norm(weight, dim=1, keepdim=True) + 1)

    def with_prediction(self, x: Tensor, grid: Grid, prediction: Tensor) -> Tensor:
        """X (W₀ + Ŵ) + b₀ where Ŵ is ``prediction`` (B, C, D)."""
        return torch.baddbmm(self.bias, x, self.weight + prediction)

    def without_prediction(self, x: Tensor, grid: Grid) -> Tensor:
        """X W₀ + b₀: the output where Ŵ is 0."""
        return F.linear(x, self.weight.mT, self.bias)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The formula, image by image and cell by cell."""
        c, wp, outputs = self.in_features, self.predictor.weight, []
        for tokens in x:  # (N, C)
            predicted = x.new_zeros(c, self.out_features)
            for p in [tokens.sum(dim=0) / len(tokens)] if self.strategy == "gap" else _cell_means(tokens, grid):
                z = wp @ p if self.predictor.bias is None else wp @ p + self.predictor.bias
                e, f = z[: self.rank_in], z[-self.rank_out :]
                if self.strategy == "gap":
                    e = f = z * (1 + torch.erf(z / 2**0.5)) / 2
                if self.strategy in ("nonlinear", "deep", "bilateral"):
                    e = e * torch.sigmoid(e)
                if self.deepen is not None:
                    e = self.deepen.weight @ e + self.deepen.bias
                    e = e * torch.sigmoid(e)
                if self.strategy == "bilateral":
                    f = f * torch.sigmoid(f)
                outer = torch.outer(e @ self.expand_in, f @ self.expand_out)
                predicted = predicted + (outer if self.strategy == "gap" else outer / (c**0.5 * len(tokens)))
            predicted = predicted / ((predicted**2).sum(dim=0).sqrt() + 1)
            outputs.append(tokens @ (self.weight + predicted) + self.bias)
        return torch.stack(outputs)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch."""
        check_path(path)
        check_dynamic_grid(grid)
        n, m = grid[0] * grid[1], self._cells(grid)
        c, d, p, q = self.in_features, self.out_features, self.rank_in, self.rank_out
        codes = m * c * (p if self.strategy == "gap" else p + q) + (m * p * p if self.deepen is not None else 0)
        form = self._form(n, m, path)
        if form == "released":
            return batch * (codes + m * p * c + m * q * d + m * c * d + n * c * d)
        if form == "token":
            return batch * (codes + m * p * c + m * q * d + m * (m + n) * (c + d) + n * c * d)
        factor = m * p * q + p * q * d
        if form == "core":
            return batch * (codes + factor + p * c * d + n * c * d)
        norms = p * p * d
        product = n * c * p + n * p * d if form == "rank" else p * c * d
        return batch * (codes + factor + norms + product + n * c * d) + p * p * c

    def elementwise(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        check_path(path)
        n, m = grid[0] * grid[1], self._cells(grid)
        c, d, p, q = self.in_features, self.out_features, self.rank_in, self.rank_out
        codes = {
            "gap": n * c + p,  # mean; gelu
            "linear": 4 * m * c + m * (p + q),  # pooling; bias
            "nonlinear": 4 * m * c + m * (p + q) + m * p,  # silu
            "deep": 4 * m * c + m * (p + q) + 3 * m * p,  # silu; bias; silu
            "bilateral": 4 * m * c + 2 * m * (p + q),
        }[self.strategy]
        form, scaled = self._form(n, m, path), 0 if self.strategy == "gap" else m * p
        if form == "released":
            return batch * (codes + m * c + 2 * c * d + d + c * d + c * d + n * d)  # scale; norms; + 1; division; W0; b0
        if form == "core":
            return batch * (codes + scaled + 2 * c * d + d + c * d + n * d)  # scale; norms; + 1; W0 + quotient; b0
        k = m if form == "token" else p
        norms = 2 * k * d + 3 * d + k * d  # squares and their sum; clamp, root, + 1; division
        return batch * (codes + scaled + norms + (c * d if form == "fold" else n * d) + n * d)


def _cell_means(tokens: Tensor, grid: Grid) -> list[Tensor]:
    """The mean of each whole 2×2 cell: tokens (N, C) to a list of (C)."""
    cells = tokens.unflatten(0, grid)
    starts = [(2 * i, 2 * j) for i in range(grid[0] // 2) for j in range(grid[1] // 2)]
    return [(cells[i, j] + cells[i, j + 1] + cells[i + 1, j] + cells[i + 1, j + 1]) / 4 for i, j in starts]
