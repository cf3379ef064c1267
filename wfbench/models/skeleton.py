"""The one Block, whose two slots a layer schedule fills."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

import mixers
from mixers.base import Grid, Schedule, init_linear_
from wfbench.errors import InputError, UndeclaredError

#: How a block normalises. "pre-norm": x + mix(norm1(x)). "overwrite": the release of WeightFormer, where norm1 replaces
#: the residual stream and the mixer branch has no drop-path. There the classifier's inactive layers have no norm1; those of
#: the DiT, whose norms are modulated, have one and overwrite too.
Residual = Literal["pre-norm", "overwrite"]
LocalConv = Literal["none", "dwc"]


class _Counted(Protocol):
    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int: ...


class Block(nn.Module):
    """x ← x + mix(norm1(x)); x ← x + fc2(gelu(fc1(norm2(x)))), with two slots for layers of a mixer: mix and fc1.

    Modulated (adaLN-Zero), each branch is shifted, scaled and gated by one Linear of a condition c, zero at first::

        β₁, γ₁, α₁, β₂, γ₂, α₂ = W silu(c) + b
        x ← x + α₁ mix(norm1(x) (1 + γ₁) + β₁)
        x ← x + α₂ fc2(gelu(fc1(norm2(x) (1 + γ₂) + β₂)))

    Shapes: x (B, N, C) on a grid H×W; c and each of β, γ, α (B, C); fc1 to (B, N, mlp_ratio·C).
    Source: DiT (arXiv 2212.09748), section 3.2, for the modulation.

    Args:
        mixer: name of the mixer.
        layer: index of this block, from 0; the schedule says what fills the slots here.
        dim: C.
        hidden: width of the FFN.
        num_heads: heads, for a mixer that has them.
        grid: the grid the model is built for.
        schedule: which layers carry the mixer, and what fills the others; None for the mixer's own.
        drop_path: stochastic-depth rate of this block.
        local_conv: "dwc" adds a 3×3 depthwise convolution of the mixer's input to its output, whatever the mixer.
        residual: see `Residual`.
        modulated: whether it takes a condition; its norms then have no weights of their own.
        approximate: of the GELU: "none" is exact, "tanh" is DiT's.
        mixer_options: options of the mixer's token layer, where this block carries the mixer.
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
        schedule: Schedule | None = None,
        drop_path: float = 0.0,
        local_conv: LocalConv = "none",
        residual: Residual = "pre-norm",
        modulated: bool = False,
        approximate: Literal["none", "tanh"] = "none",
        mixer_options: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        schedule = schedule or mixers.spec(mixer).schedule
        active, (filler, as_active) = schedule.active(layer), schedule.filler(mixer, layer)
        options = (mixer_options or {}) if active else {}
        self.overwrite = residual == "overwrite"
        has_norm1 = active or modulated or not self.overwrite
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not modulated) if has_norm1 else nn.Identity()
        same = sum(schedule.filler(mixer, i) == (filler, as_active) for i in range(layer))
        self.mixer = mixers.create(filler, dim, num_heads=num_heads, grid=grid, active=as_active, layer=same, **options)
        self.local = mixers.create("static", dim) if local_conv == "dwc" else None
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=not modulated)
        self.fc1 = mixers.create_ffn_in(filler, dim, hidden, grid=grid, active=as_active)
        self.act = nn.GELU(approximate)
        self.fc2 = nn.Linear(hidden, dim)
        init_linear_(self.fc2)
        self.drop_path1 = nn.Identity() if self.overwrite else DropPath(drop_path)
        self.drop_path2 = DropPath(drop_path)
        self.adaLN_modulation = adaptive_norm(dim, 6) if modulated else None

    def forward(self, x: Tensor, grid: Grid, condition: Tensor | None = None) -> Tensor:
        """Tokens (B, N, C) of a grid H×W to (B, N, C); a modulated block takes a condition (B, C)."""
        first, second = self._modulations(condition)
        h = self.norm1(x)
        if self.overwrite:
            x = h
        h = first.enter(h)
        mixed = self.mixer(h, grid)
        if self.local is not None:
            prefix = h.shape[1] - grid[0] * grid[1]  # a class token has no neighbours
            mixed = torch.cat([mixed[:, :prefix], mixed[:, prefix:] + self.local(h[:, prefix:], grid)], dim=1)
        x = x + self.drop_path1(first.leave(mixed))
        return x + self.drop_path2(second.leave(self.fc2(self.act(self.fc1(second.enter(self.norm2(x)), grid)))))

    def _modulations(self, condition: Tensor | None) -> tuple[Modulation, Modulation]:
        """What the condition does to either branch; nothing, in a block without one."""
        assert (self.adaLN_modulation is None) == (condition is None), "a modulated block, and no other, takes a condition"
        if self.adaLN_modulation is None:
            return Modulation(), Modulation()
        parts = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, dim=2)  # six of (B, 1, C)
        return Modulation(*parts[:3]), Modulation(*parts[3:])

    def declared_macs(self, grid: Grid, batch: int, path: str, prefix_tokens: int = 0) -> dict[str, int]:
        """MACs of each part for the whole batch, by the parts' own closed forms.

        Raises:
            UndeclaredError: if the mixer declares none.
        """
        n = grid[0] * grid[1] + prefix_tokens
        extra = {"prefix_tokens": prefix_tokens} if prefix_tokens else {}
        parts = {"mixer": self.mixer, "fc1": self.fc1}
        for part in parts.values():
            if not hasattr(part, "macs"):
                raise UndeclaredError(
                    "a mixer declares no MACs",
                    got=f"{type(part).__qualname__} without a method macs(grid, batch=1, path='released')",
                    expected="the closed form of its multiply-adds, as an int",
                    remedy="add the method, so that the counters have something to agree with",
                )
        counts = {name: cast(_Counted, part).macs(grid, batch, path, **extra) for name, part in parts.items()}
        if self.local is not None:
            counts["local"] = cast(_Counted, self.local).macs(grid, batch, path)
        if self.adaLN_modulation is not None:
            counts["adaLN_modulation"] = batch * 6 * self.fc2.out_features**2
        return counts | {"fc2": batch * n * self.fc2.in_features * self.fc2.out_features}


class Modulation(NamedTuple):
    """Shift, scale and gate of one branch, (B, 1, C) each: x (1 + scale) + shift on the way in, gate · x on the way out.

    Without them the branch is left as it is.
    """

    shift: Tensor | None = None
    scale: Tensor | None = None
    gate: Tensor | None = None

    def enter(self, x: Tensor) -> Tensor:
        """The branch's normalised input, modulated."""
        return x if self.scale is None or self.shift is None else x * (1 + self.scale) + self.shift

    def leave(self, x: Tensor) -> Tensor:
        """The branch's output, gated."""
        return x if self.gate is None else self.gate * x


def adaptive_norm(dim: int, parts: int) -> nn.Sequential:
    """silu, then a Linear from a condition (B, C) to ``parts`` modulations of C channels each, all zero at first."""
    linear = nn.Linear(dim, parts * dim)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


def check_channels(images: Tensor, channels: int) -> None:
    """Refuse images (B, C, H, W) whose C is not the model's.

    Raises:
        InputError: naming both.
    """
    if images.shape[1] != channels:
        raise InputError(
            "the input has other channels than the model",
            got=f"{images.shape[1]} channels",
            expected=channels,
            remedy=f"convert the input, or create the model with in_channels={images.shape[1]}",
        )


def patch_grid(image_size: Grid, patch: int) -> Grid:
    """The grid of an image's patches.

    Raises:
        InputError: if the patch does not divide the image.
    """
    if image_size[0] % patch or image_size[1] % patch or min(image_size) < patch:
        side = max(image_size)
        near = sorted({max(patch, side // patch * patch), max(patch, -(-side // patch) * patch)})
        raise InputError(
            "the image size is not a multiple of the patch size",
            got=f"{image_size[0]}x{image_size[1]} with patch size {patch}",
            expected=f"a multiple of {patch} on both sides",
            remedy=f"use {' or '.join(map(str, near))}",
        )
    return image_size[0] // patch, image_size[1] // patch
