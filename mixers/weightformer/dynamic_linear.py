"""The dynamic Linear: a Linear layer part of whose weight is predicted from all tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Grid, MixerError, check_path, check_tokens, init_linear_, to_map, to_tokens
from mixers.registry import ffn_layer
from mixers.weightformer.common import check_dynamic_grid


def predict_bilateral(summary: Tensor, predictor: nn.Linear, expand_in: Tensor, expand_out: Tensor, n: int) -> Tensor:
    """The predicted weight Ŵ of strategy *bilateral*, normalised: (B, M, C) → (B, C, D).

    Args:
        summary: P, the pooled tokens, (B, M, C).
        predictor: the Linear Wp, bp from C to C/r + D/r.
        expand_in: W₁ (C/r, C).
        expand_out: W₂ (D/r, D).
        n: N, the number of tokens before pooling; the release divides by it, not by M.
    """
    z_in, z_out = predictor(summary).split([expand_in.shape[0], expand_out.shape[0]], dim=-1)
    # The factor C^-1/2 / N goes in before the sum over M: after it, float16 would overflow.
    a = F.silu(z_in) @ expand_in * (summary.shape[-1] ** -0.5 / n)  # (B, M, C)
    b = F.silu(z_out) @ expand_out  # (B, M, D)
    weight = a.transpose(1, 2) @ b  # (B, C, D)
    return weight / (torch.linalg.vector_norm(weight, dim=1, keepdim=True) + 1)


@ffn_layer("dynamic-linear")
class DynamicLinear(nn.Module):
    """Y = X (W₀ + Ŵ) + b₀, where Ŵ is predicted from all tokens of the same image; strategy *bilateral*.

    With reduction r = 4 and P = avg_pool2×2(X), the tokens averaged over whole 2×2 cells of the grid::

        Z  = P Wp + bp                    one Linear, split in two: Z = [Za, Zb]
        A  = silu(Za) W₁                  the input side
        B  = silu(Zb) W₂                  the output side
        Ŵ  = Aᵀ B · C^-1/2 / N            a sum over the cells of outer products
        Ŵⱼ = Ŵⱼ / (‖Ŵⱼ‖₂ + 1)             column by column: every predicted column stays shorter than 1

    Shapes: X (B, N, C) on a grid H×W; M = ⌊H/2⌋⌊W/2⌋ cells; P (B, M, C); Za (B, M, C/r), Zb (B, M, D/r);
    W₁ (C/r, C), W₂ (D/r, D); A (B, M, C), B (B, M, D); Ŵ (B, C, D); W₀ (C, D); b₀ (D); Y (B, N, D).
    Cost, order "released": per image NCD + MCD + MC(C + D)/r + M(C² + D²)/r MACs, 6.375·NC² for D = 4C on an even
    grid; 4CD + O(M(C + D) + ND) elementwise. Memory O(CD) for each image, beside the tokens.
    Source: WeightFormer (arXiv 2605.01711), dynamic Linear, strategy bilateral, and its released code.
    Status: certain (outputs and gradients equal the released code's).
    Deviations: the grid is passed (the release guesses √N × √N, and so refuses or mangles a non-square one); an odd
    last row or column still reaches Y but, as in the release, not the summary P.

    Raises:
        MixerError: for a grid under 2×2, which has no 2×2 cell, or fewer channels in or out than the reduction.
    """

    #: The release's parameter names and ours.
    reference_names: ClassVar[Mapping[str, str]] = {
        "w": "weight",
        "b": "bias",
        "wfm.weight": "predictor.weight",
        "wfm.bias": "predictor.bias",
        "w1": "expand_in",
        "w2": "expand_out",
    }

    def __init__(self, in_features: int, out_features: int, *, grid: Grid | None = None, reduction: int = 4) -> None:
        super().__init__()
        if reduction < 1 or min(in_features, out_features) < reduction:
            raise MixerError(
                f"too few channels for a dynamic Linear: got {in_features} in, {out_features} out, reduction {reduction}, "
                f"expected a reduction of at least 1 and as many channels; use more channels"
            )
        self.in_features, self.out_features = in_features, out_features
        self.rank_in, self.rank_out = in_features // reduction, out_features // reduction
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.predictor = nn.Linear(in_features, self.rank_in + self.rank_out)
        self.expand_in = nn.Parameter(torch.empty(self.rank_in, in_features))
        self.expand_out = nn.Parameter(torch.empty(self.rank_out, out_features))
        for parameter in (self.weight, self.bias, self.expand_in, self.expand_out):
            nn.init.trunc_normal_(parameter, std=0.02)
        init_linear_(self.predictor)

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the release's names."""
        (c, d), ranks = state["w"].shape, (state["w1"].shape[0], state["w2"].shape[0])
        fitting = [r for r in (4, *range(1, min(c, d) + 1)) if (c // r, d // r) == ranks]
        if not fitting:
            raise MixerError(
                f"no reduction gives ranks {ranks[0]} and {ranks[1]} for {c} in, {d} out: not weights of this layer"
            )
        return {"in_features": c, "out_features": d, "reduction": fitting[0]}

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Apply the layer to tokens (B, N, C) of a grid H×W: (B, N, D)."""
        check_tokens(x, grid)
        check_dynamic_grid(grid)
        summary = to_tokens(F.avg_pool2d(to_map(x, grid), 2))  # (B, M, C)
        predicted = predict_bilateral(summary, self.predictor, self.expand_in, self.expand_out, x.shape[1])
        return torch.baddbmm(self.bias, x, self.weight + predicted)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The formula, image by image and cell by cell."""
        (h, w), c = grid, self.in_features
        outputs = []
        for tokens in x:  # (N, C)
            cells = tokens.unflatten(0, grid)
            predicted = x.new_zeros(c, self.out_features)
            for i in range(h // 2):
                for j in range(w // 2):
                    p = (
                        cells[2 * i, 2 * j] + cells[2 * i, 2 * j + 1] + cells[2 * i + 1, 2 * j] + cells[2 * i + 1, 2 * j + 1]
                    ) / 4
                    z = self.predictor.weight @ p + self.predictor.bias
                    z = z * torch.sigmoid(z)
                    a = z[: self.rank_in] @ self.expand_in  # (C)
                    b = z[self.rank_in :] @ self.expand_out  # (D)
                    predicted = predicted + torch.outer(a, b) / (c**0.5 * h * w)
            predicted = predicted / ((predicted**2).sum(dim=0).sqrt() + 1)
            outputs.append(tokens @ (self.weight + predicted) + self.bias)
        return torch.stack(outputs)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: predictor, A, B, AᵀB, and the layer itself."""
        check_path(path)
        check_dynamic_grid(grid)
        n, m = grid[0] * grid[1], (grid[0] // 2) * (grid[1] // 2)
        c, d, rc, rd = self.in_features, self.out_features, self.rank_in, self.rank_out
        return batch * (m * c * (rc + rd) + m * rc * c + m * rd * d + m * c * d + n * c * d)

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch."""
        n, m = grid[0] * grid[1], (grid[0] // 2) * (grid[1] // 2)
        c, d, rc, rd = self.in_features, self.out_features, self.rank_in, self.rank_out
        prediction = 4 * m * c + 2 * m * (rc + rd) + m * c  # pooling; predictor bias and silu; the scale
        weight = 2 * c * d + d + c * d + c * d  # column norms; + 1; the division; W0 + Ŵ
        return batch * (prediction + weight + n * d)
