"""The one Block, and the layer schedule that fills its two slots."""

from __future__ import annotations

from typing import Literal, Protocol, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

import mixers
from mixers.base import Grid, init_linear_
from wfbench.errors import InputError

#: How a block normalises. "pre-norm": x + mix(norm1(x)). "overwrite": the release of WeightFormer, where norm1 replaces
#: the residual stream in active layers and does not exist in the others, and the mixer branch has no drop-path.
Residual = Literal["pre-norm", "overwrite"]
LocalConv = Literal["none", "dwc"]


class _Counted(Protocol):
    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int: ...


class Block(nn.Module):
    """x ← x + mix(norm1(x)); x ← x + fc2(gelu(fc1(norm2(x)))), with two slots for layers of a mixer: mix and fc1.

    Shapes: x (B, N, C) on a grid H×W; fc1 to (B, N, mlp_ratio·C).

    Args:
        mixer: name of the mixer.
        layer: index of this block, from 0; the mixer's schedule says what fills the slots here.
        dim: C.
        hidden: width of the FFN.
        num_heads: heads, for a mixer that has them.
        grid: the grid the model is built for.
        drop_path: stochastic-depth rate of this block.
        local_conv: "dwc" adds a 3×3 depthwise convolution of the mixer's input to its output, whatever the mixer.
        residual: see `Residual`.
        mixer_options: options of the mixer's token layer.
    """

    def __init__(
        self,
        mixer: str,
        layer: int,
        dim: int,
        hidden: int,
        *,
        num_heads: int | None,
        grid: Grid,
        drop_path: float = 0.0,
        local_conv: LocalConv = "none",
        residual: Residual = "pre-norm",
        mixer_options: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        active = mixers.spec(mixer).active(layer)
        options = (mixer_options or {}) if active else {}
        self.overwrite = residual == "overwrite"
        self.norm1 = nn.LayerNorm(dim, eps=1e-6) if active or not self.overwrite else nn.Identity()
        self.mixer = mixers.create(mixer, dim, num_heads=num_heads, grid=grid, active=active, **options)
        self.local = mixers.create("static", dim) if local_conv == "dwc" else None
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = mixers.create_ffn_in(mixer, dim, hidden, grid=grid, active=active)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        init_linear_(self.fc2)
        self.drop_path1 = nn.Identity() if self.overwrite else DropPath(drop_path)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, N, C) of a grid H×W to (B, N, C)."""
        h = self.norm1(x)
        if self.overwrite:
            x = h
        mixed = self.mixer(h, grid)
        if self.local is not None:
            prefix = h.shape[1] - grid[0] * grid[1]  # a class token has no neighbours
            mixed = torch.cat([mixed[:, :prefix], mixed[:, prefix:] + self.local(h[:, prefix:], grid)], dim=1)
        x = x + self.drop_path1(mixed)
        return x + self.drop_path2(self.fc2(self.act(self.fc1(self.norm2(x), grid))))

    def declared_macs(self, grid: Grid, batch: int, path: str, prefix_tokens: int = 0) -> dict[str, int]:
        """MACs of each part for the whole batch, by the parts' own closed forms.

        Raises:
            InputError: if the mixer declares none.
        """
        n = grid[0] * grid[1] + prefix_tokens
        extra = {"prefix_tokens": prefix_tokens} if prefix_tokens else {}
        parts = {"mixer": self.mixer, "fc1": self.fc1}
        for part in parts.values():
            if not hasattr(part, "macs"):
                raise InputError(
                    "a mixer declares no MACs",
                    got=f"{type(part).__qualname__} without a method macs(grid, batch=1, path='released')",
                    expected="the closed form of its multiply-adds, as an int",
                    remedy="add the method, so that the counters have something to agree with",
                )
        counts = {name: cast(_Counted, part).macs(grid, batch, path, **extra) for name, part in parts.items()}
        if self.local is not None:
            counts["local"] = cast(_Counted, self.local).macs(grid, batch, path)
        return counts | {"fc2": batch * n * self.fc2.in_features * self.fc2.out_features}
