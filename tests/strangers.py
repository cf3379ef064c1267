"""Mixers as strangers write them: sound ones, many of them thin wrappers around timm's own modules, and broken ones.

None of them declares more than it must. Each broken one is a small change to a sound one.
"""

from __future__ import annotations

import torch
from timm.layers import DiffAttention, DropPath
from timm.models.convnext import ConvNeXtBlock
from timm.models.efficientvit_mit import LiteMLA
from timm.models.maxxvit import AttentionCl, MaxxVitTransformerCfg, get_rel_pos_cls, grid_partition, grid_reverse
from timm.models.mlp_mixer import SpatialGatingUnit
from timm.models.pvt_v2 import Attention as PVTAttention
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from timm.models.volo import OutlookAttention
from torch import Tensor, nn
from torch.nn import functional as F

from mixers import MixerSpec
from mixers.base import check_built_grid, check_tokens, to_map, to_tokens


def declared(complexity: str, layout: str, **more: object) -> MixerSpec:
    return MixerSpec("stranger", "stranger", complexity, "as it is", "a stranger", "unverified", layout=layout, **more)


# --- sound: by hand


class ExplicitSoftmax(nn.Module):
    """Attention as textbooks write it, with its N×N weights."""

    spec = declared("quadratic", "set")

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        self.heads = num_heads or 1
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def weights(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=-1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.weights(q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class Float32Inside(ExplicitSoftmax):
    """The softmax in float32, whatever the input is."""

    def weights(self, scores: Tensor) -> Tensor:
        return scores.float().softmax(dim=-1).to(scores.dtype)


class Conv(nn.Module):
    """A depthwise convolution between Linears."""

    spec = declared("linear", "grid")

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.more(dim)

    def more(self, dim: int) -> None:
        pass

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return to_tokens(self.conv(to_map(x, grid)))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return self.after(self.mix(self.before(x), grid))


class WithBatchNorm(Conv):
    """BatchNorm after the convolution, and dropout: training depends on the batch, and is random, by design."""

    def more(self, dim: int) -> None:
        self.norm, self.drop, self.path = nn.BatchNorm2d(dim), nn.Dropout(0.1), DropPath(0.1)

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = self.norm(self.conv(to_map(x, grid)))
        return to_tokens(self.path(F.dropout(self.drop(y), 0.1, self.training)))


class Windows(nn.Module):
    """Shifted windows of 7×7, padded, with a mask that is made at every call."""

    spec = declared("linear", "grid")
    side = 7

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        self.attention = WindowAttention(dim, num_heads or 1, window_size=self.side)
        self.kept: dict[object, Tensor] = {}

    def mask(self, h: int, w: int, like: Tensor) -> Tensor:
        """(windows, 49, 49): tokens of another side of the shift, or of the padding, are not seen."""
        s = self.side
        rows, columns = -(-h // s) * s, -(-w // s) * s
        places = torch.zeros(1, rows, columns, 1)
        label = 0
        for a in (slice(0, -s), slice(-s, -(s // 2)), slice(-(s // 2), None)):
            for b in (slice(0, -s), slice(-s, -(s // 2)), slice(-(s // 2), None)):
                places[:, a, b] = label
                label += 1
        places = places.roll((s // 2, s // 2), (1, 2))
        places[:, h:] = places[:, :, w:] = -1
        places = window_partition(places.roll((-(s // 2), -(s // 2)), (1, 2)), (s, s)).flatten(1)
        other = places[:, :, None] != places[:, None]
        return torch.zeros(other.shape, dtype=like.dtype).masked_fill(other, -100.0).to(like.device)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        (h, w), s = grid, self.side
        y = F.pad(x.unflatten(1, grid), (0, 0, 0, -w % s, 0, -h % s))
        y = y.roll((-(s // 2), -(s // 2)), (1, 2))
        size = y.shape[1:3]
        y = window_partition(y, (s, s)).flatten(1, 2)
        y = self.attention(y, self.mask(h, w, x)).unflatten(1, (s, s))
        y = window_reverse(y, (s, s), *size) if window_reverse.__code__.co_argcount == 4 else window_reverse(y, (s, s), size)
        return y.roll((s // 2, s // 2), (1, 2))[:, :h, :w].flatten(1, 2)


# --- sound: timm's


class ConvNeXtBranch(nn.Module):
    """ConvNeXt's 7×7 depthwise convolution and its LayerNorm."""

    spec = declared("linear", "grid")

    def __init__(self, dim: int) -> None:
        super().__init__()
        block = ConvNeXtBlock(dim)
        self.conv, self.norm = block.conv_dw, block.norm

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return self.norm(to_tokens(self.conv(to_map(x, grid))))


class GMLP(nn.Module):
    """gMLP's spatial gating unit, for one number of tokens."""

    spec = declared("quadratic", "sequence", needs_grid=True)

    def __init__(self, dim: int, *, grid: tuple[int, int]) -> None:
        super().__init__()
        self.built = grid
        self.wide, self.unit = nn.Linear(dim, 2 * dim), SpatialGatingUnit(2 * dim, grid[0] * grid[1])

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_built_grid(grid, self.built, "gMLP")
        check_tokens(x, grid)
        return self.unit(self.wide(x))


class PVTv2(nn.Module):
    """PVTv2's attention to keys of a 7×7 pool."""

    spec = declared("linear", "grid")

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        self.attention = PVTAttention(dim, num_heads or 1, linear_attn=True)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return self.attention(x, grid)


class PVTv2Reduced(nn.Module):
    """PVTv2's attention to keys of a convolution of stride 2."""

    spec = declared("quadratic", "grid")

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        self.attention = PVTAttention(dim, num_heads or 1, sr_ratio=2)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return self.attention(x, grid)


class EfficientViT(nn.Module):
    """EfficientViT's LiteMLA: linear attention in float32, and BatchNorm."""

    spec = declared("linear", "grid")

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = LiteMLA(dim, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return to_tokens(self.attention(to_map(x, grid)))


class VOLO(nn.Module):
    """VOLO's outlook attention."""

    spec = declared("linear", "grid")

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        self.attention = OutlookAttention(dim, num_heads or 1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return self.attention(x.unflatten(1, grid)).flatten(1, 2)


class Diff(nn.Module):
    """Differential attention."""

    spec = declared("quadratic", "set")

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        self.attention = DiffAttention(dim, num_heads or 1)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        return self.attention(x)


class MaxViTGrid(nn.Module):
    """MaxViT's attention over a sparse grid of 7×7, with its relative positions."""

    spec = declared("linear", "grid")

    def __init__(self, dim: int, *, num_heads: int | None = None) -> None:
        super().__init__()
        positions = get_rel_pos_cls(MaxxVitTransformerCfg(), (7, 7))
        self.attention = AttentionCl(dim, dim, dim_head=dim // (num_heads or 1), rel_pos_cls=positions)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        check_tokens(x, grid)
        if grid[0] % 7 or grid[1] % 7:
            raise ValueError(f"MaxViT's grid of 7x7 does not divide {grid[0]}x{grid[1]} tokens: take multiples of 7")
        cells = self.attention(grid_partition(x.unflatten(1, grid), (7, 7)))
        return grid_reverse(cells, (7, 7), grid).flatten(1, 2)


SOUND: tuple[type[nn.Module], ...] = (
    ExplicitSoftmax, Float32Inside, Conv, WithBatchNorm, Windows, ConvNeXtBranch, GMLP, PVTv2, PVTv2Reduced, EfficientViT, VOLO,
    Diff, MaxViTGrid,
)  # fmt: skip


# --- broken


class TableByTokens(Conv):
    """A table of positions that is kept by the number of tokens."""

    def more(self, dim: int) -> None:
        self.tables: dict[int, Tensor] = {}

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        n = x.shape[1]
        if n not in self.tables:
            rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
            self.tables[n] = (rows / grid[0] + 2 * columns / grid[1]).flatten()
        return super().mix(x, grid) + self.tables[n].to(x)[None, :, None]


class MaskOfTheFirstCall(Windows):
    """The mask of the first grid, for all."""

    def mask(self, h: int, w: int, like: Tensor) -> Tensor:
        if "mask" not in self.kept:
            self.kept["mask"] = super().mask(h, w, like)
        return self.kept["mask"].to(like)


class MaskByWindows(Windows):
    """A mask that is kept by the number of windows."""

    def mask(self, h: int, w: int, like: Tensor) -> Tensor:
        windows = -(-h // self.side) * -(-w // self.side)
        if windows not in self.kept:
            self.kept[windows] = super().mask(h, w, like)
        return self.kept[windows].to(like)


class CutInTraining(Conv):
    """No gradient of the input, in training."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().mix(x, grid)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().forward(x.detach() if self.training else x, grid)


class HalfCutInTraining(Conv):
    """Half of the input's gradient is missing, in training."""

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().forward(x, grid) + (x.detach() if self.training else x)


class StatisticsBehindDropout(Conv):
    """Statistics over the batch in training, by hand; dropout hides that images are not apart."""

    def more(self, dim: int) -> None:
        self.drop = nn.Dropout(0.1)
        self.register_buffer("mean", torch.zeros(dim))

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = super().mix(x, grid)
        mean = y.mean((0, 1)) if self.training else self.mean
        return self.drop(y - mean)


class StatisticsInEvaluation(Conv):
    """BatchNorm that takes the statistics of the batch in evaluation too."""

    def more(self, dim: int) -> None:
        self.norm, self.drop = nn.BatchNorm2d(dim, track_running_stats=False), nn.Dropout(0.1)

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return to_tokens(self.drop(self.norm(self.conv(to_map(x, grid)))))


class StatisticsUpdatedInEvaluation(Conv):
    """Running statistics that evaluation goes on to update."""

    def more(self, dim: int) -> None:
        self.register_buffer("mean", torch.zeros(dim))

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = super().mix(x, grid)
        out = y - self.mean
        self.mean.copy_(0.9 * self.mean + 0.1 * y.detach().mean((0, 1)))
        return out


class RememberedGrid(Conv):
    """The grid of the first call, wherever it has as many tokens."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        known = getattr(self, "known", grid)
        self.known = known if known[0] * known[1] == x.shape[1] else grid
        return super().mix(x, self.known)


class NoMaximum(ExplicitSoftmax):
    """A softmax without its maximum subtracted."""

    def weights(self, scores: Tensor) -> Tensor:
        weights = scores.exp()
        return weights / weights.sum(dim=-1, keepdim=True)


class KeepsInputs(Conv):
    """A list of every input."""

    def more(self, dim: int) -> None:
        self.seen: list[Tensor] = []

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        self.seen.append(x)
        return super().mix(x, grid)


class LargeBatches(Conv):
    """A fast path for more than five images, which is another function."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = super().mix(x, grid)
        return y if len(x) <= 5 else y + 0.01 * x.mean(dim=1, keepdim=True)


class VeryLargeBatches(Conv):
    """The same, above a hundred."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = super().mix(x, grid)
        return y if len(x) <= 100 else y + 0.01 * x.mean(dim=1, keepdim=True)


class OtherEvaluation(Conv):
    """Twice as much in training."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().mix(x, grid) * (2 if self.training else 1)


class _QuadraticBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        n = grad.shape[1]
        return grad + 0 * grad.new_ones(n, n) @ grad


class QuadraticBackward(Conv):
    """A backward pass with an N×N matrix."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return super().mix(_QuadraticBackward.apply(x), grid)


class KeptWeights(Conv):
    """A product of weights that is kept when they change."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if not self.training and not torch.is_grad_enabled():
            if not hasattr(self, "product"):
                self.product = self.conv.weight.detach().clone()
            return to_tokens(F.conv2d(to_map(x, grid), self.product.to(x), self.conv.bias, padding=1, groups=x.shape[2]))
        return super().mix(x, grid)


class KeptGraph(Conv):
    """A table made from a parameter, with its graph, at the first call."""

    def more(self, dim: int) -> None:
        self.scale = nn.Parameter(torch.ones(dim))

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if not hasattr(self, "table"):
            self.table = self.scale.exp()
        return super().mix(x, grid) * self.table


class RaisesOnUnusualGrids(Conv):
    """An obscure error at grids that are twice as wide as high."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid == (2, 18):
            raise KeyError(grid[1])
        return super().mix(x, grid)


class RaisesInHalf(Conv):
    """Half precision, which it could do, is not served."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            raise NotImplementedError("half precision")
        return super().mix(x, grid)


#: Each broken one, and the check meant for it.
BROKEN: dict[type[nn.Module], str] = {
    TableByTokens: "used layer",
    MaskOfTheFirstCall: "used layer",
    MaskByWindows: "used layer",
    RememberedGrid: "used layer",
    KeptWeights: "used layer",
    KeptGraph: "used layer",
    CutInTraining: "gradients",
    HalfCutInTraining: "gradients",
    StatisticsBehindDropout: "batch independence",
    StatisticsInEvaluation: "batch independence",
    StatisticsUpdatedInEvaluation: "determinism",
    LargeBatches: "batch independence",
    VeryLargeBatches: "batch independence",
    NoMaximum: "large weights",
    KeepsInputs: "memory over calls",
    OtherEvaluation: "training",
    QuadraticBackward: "growth of the backward pass",
    RaisesOnUnusualGrids: "grids",
    RaisesInHalf: "half precision",
}
