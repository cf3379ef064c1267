"""The image classifier: patches, Blocks, pooling, head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates, resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mixers
from mixers.base import Grid, at_least_float32, init_linear_
from wfbench.errors import InputError
from wfbench.models.skeleton import Block, LocalConv, Residual, patch_grid

#: How a model knows where a token is. "none": not at all, but for what its mixer knows. "learned": an embedding, added
#: once, interpolated at another resolution. "sincos": `sincos_2d`, added once. "rope2d": nothing is added; every active
#: mixer turns its q and k by their place (`mixers.base.rotary_2d`).
Position = Literal["none", "learned", "sincos", "rope2d"]


@dataclass(frozen=True)
class ViTConfig:
    """What a `VisionTransformer` is made of; every preset is one of these.

    ``pos_embed`` may be given as a bool: True is "learned", False is "none".
    """

    mixer: str = "softmax"
    image_size: Grid = (224, 224)
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 12
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    class_token: bool = False
    pos_embed: Position = "learned"
    pos_init_std: float = 0.02
    pool: Literal["mean", "token"] = "mean"
    local_conv: LocalConv = "none"
    init_norm: bool = False
    residual: Residual = "pre-norm"
    mixer_options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.pos_embed, bool):
            object.__setattr__(self, "pos_embed", "learned" if self.pos_embed else "none")


class VisionTransformer(nn.Module):
    """Patch embedding → (position) → Blocks → LayerNorm → mean over tokens or class token → Linear.

    Shapes: image (B, in_channels, H, W), any H and W that the patch divides → logits (B, num_classes).
    Source: DeiT (arXiv 2012.12877) with a class token; WeightFormer (arXiv 2605.01711) with ``init_norm`` and
    ``residual="overwrite"``. Method names are timm's, so that timm's tools work on it.

    Raises:
        InputError: for an image size that the patch does not divide, a class token where the mixer takes none, a pool
            that needs the token that is not there, or a position that the mixer or the width cannot have.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        check(config)
        self.config = config
        self.num_classes, self.embed_dim = config.num_classes, config.embed_dim
        self.num_features = self.head_hidden_size = config.embed_dim
        self.num_prefix_tokens = int(config.class_token)
        self.grad_checkpointing = False
        dim, grid = config.embed_dim, self._grid(config.image_size)
        self.patch_embed = PatchEmbed(
            img_size=None, patch_size=config.patch_size, in_chans=config.in_channels, embed_dim=dim, strict_img_size=False
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        n = grid[0] * grid[1] + self.num_prefix_tokens
        self.pos_embed = nn.Parameter(torch.zeros(1, n, dim)) if config.pos_embed == "learned" else None
        self.init_norm = nn.LayerNorm(dim, eps=1e-6) if config.init_norm else nn.Identity()
        rotary = {"rope": True} if config.pos_embed == "rope2d" else {}
        rates = cast("list[float]", calculate_drop_path_rates(config.drop_path, config.depth))
        self.blocks = nn.ModuleList(
            Block(
                config.mixer,
                layer,
                dim,
                int(dim * config.mlp_ratio),
                num_heads=config.num_heads,
                grid=grid,
                drop_path=rates[layer],
                local_conv=config.local_conv,
                residual=config.residual,
                mixer_options=config.mixer_options | rotary,
            )
            for layer in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, config.num_classes) if config.num_classes else nn.Identity()
        self._init_own_weights()

    def _init_own_weights(self) -> None:
        """The skeleton's own parameters only: a mixer initialises its own."""
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=self.config.pos_init_std)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        if isinstance(self.head, nn.Linear):
            init_linear_(self.head)

    def _grid(self, image_size: Grid) -> Grid:
        return patch_grid(image_size, self.config.patch_size)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        if x.shape[1] != self.config.in_channels:
            raise InputError(
                "the image has other channels than the model", got=f"{x.shape[1]} channels", expected=self.config.in_channels
            )
        grid = self._grid((int(x.shape[2]), int(x.shape[3])))
        x = self.patch_embed(x)  # (B, N, C)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, C)
        if self.pos_embed is not None:
            built = self._grid(self.config.image_size)
            x = x + resample_abs_pos_embed(self.pos_embed, list(grid), list(built), self.num_prefix_tokens)
        if self.config.pos_embed == "sincos":
            table = sincos_2d(grid, self.embed_dim, like=self.norm.weight)  # in the weights' dtype, as if it were one
            x = x + F.pad(table, (0, 0, self.num_prefix_tokens, 0))  # a class token has no place
        return self.init_norm(x), grid

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to normalised tokens (B, N, C)."""
        x, grid = self._embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, grid, use_reentrant=False) if self.grad_checkpointing else block(x, grid)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N, C) to logits, or to the pooled features (B, C)."""
        x = x[:, 0] if self.config.pool == "token" else x[:, self.num_prefix_tokens :].mean(dim=1)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def example_inputs(
        self, batch: int, image_size: Grid | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """A random image batch to measure with."""
        size = image_size or self.config.image_size
        return (torch.randn(batch, self.config.in_channels, *size, generator=generator),)

    def declared_macs(self, image_size: Grid, batch: int = 1, path: str = "released") -> dict[str, int]:
        """MACs of every module for the whole batch, by closed forms alone; their sum is the model's.

        Raises:
            InputError: if the mixer declares none, or the patch does not divide the image.
        """
        grid, config = self._grid(image_size), self.config
        n = grid[0] * grid[1]
        counts = {"patch_embed": batch * n * config.patch_size**2 * config.in_channels * config.embed_dim}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            parts = block.declared_macs(grid, batch, path, self.num_prefix_tokens)
            counts |= {f"blocks.{i}.{name}": macs for name, macs in parts.items()}
        return counts | {"head": batch * config.embed_dim * config.num_classes}

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed although they have more than one dimension (timm's convention)."""
        return {name for name in ("pos_embed", "cls_token") if getattr(self, name) is not None}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Layer groups for layer-wise learning-rate decay (timm's convention)."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed|^init_norm",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The last Linear."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """A new head for ``num_classes`` classes; 0 for none."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            init_linear_(self.head)


def sincos_2d(grid: Grid, dim: int, *, like: Tensor, base: float = 10000.0) -> Tensor:
    """The fixed position embedding of a grid: sines and cosines of each token's column and row.

    With ω_k = base^(-k/(C/4)), k < C/4, a token in row i and column j gets, in this order, sin(j ω), cos(j ω), sin(i ω)
    and cos(i ω), C/4 channels each.

    Shapes: result (H·W, C), row by row, in the dtype and on the device of ``like``; 4 divides C.
    Source: MAE (arXiv 2111.06377) and DiT (arXiv 2212.09748), whose code puts the column before the row.
    """
    exact, (h, w) = at_least_float32(like), grid
    speed = base ** (torch.arange(dim // 4, dtype=exact, device=like.device) / (-dim / 4))
    halves = []
    for side, shape in ((w, (1, w, -1)), (h, (h, 1, -1))):
        angle = torch.arange(side, dtype=exact, device=like.device).unsqueeze(1) * speed  # (side, C/4)
        halves.append(torch.cat([angle.sin(), angle.cos()], dim=1).view(shape).expand(h, w, dim // 2))
    return torch.cat(halves, dim=-1).flatten(0, 1).to(like.dtype)


def check(config: ViTConfig) -> None:
    """Refuse what cannot be built, before any of it is.

    Raises:
        InputError: for a class token or a position that the mixer does not take, or a pool without its token.
        MixerError: for an unknown mixer.
    """
    check_position(config.pos_embed, config.mixer, config.embed_dim)
    spec = mixers.spec(config.mixer)
    if config.class_token and not spec.prefix_tokens:
        takers = [name for name in mixers.names() if mixers.spec(name).prefix_tokens]
        raise InputError(
            "the mixer takes no class token",
            got=f"class_token=True with mixer {config.mixer!r}, which works on the grid alone",
            expected="class_token=False, or a mixer that accepts a prefix token",
            remedy=f"drop class_token, or use one of {', '.join(takers)}",
        )
    if config.pool == "token" and not config.class_token:
        raise InputError(
            "pooling needs a class token", got="pool='token', class_token=False", remedy="set class_token=True or pool='mean'"
        )


def check_position(pos_embed: str, mixer: str, embed_dim: int) -> None:
    """Refuse a position that the mixer or the width cannot have.

    Raises:
        InputError: for such a position, or an unknown one.
        MixerError: for an unknown mixer.
    """
    mixers.spec(mixer)
    if pos_embed not in get_args(Position):
        raise InputError(
            "unknown position", got=f"pos_embed = {pos_embed!r}", expected=f"one of {', '.join(get_args(Position))}"
        )
    if pos_embed == "sincos" and embed_dim % 4:
        raise InputError(
            "sine and cosine positions need a width that 4 divides",
            got=f"embed_dim = {embed_dim} with pos_embed = 'sincos'",
            expected="a multiple of 4",
            remedy=f"use embed_dim = {embed_dim // 4 * 4 + 4}, or another position",
        )
    if pos_embed == "rope2d" and not mixers.spec(mixer).rotary:
        rotary = [name for name in mixers.names() if mixers.spec(name).rotary]
        raise InputError(
            "rotary position needs a mixer with q and k to turn",
            got=f"pos_embed = 'rope2d' with mixer {mixer!r}",
            expected=f"one of the mixers {', '.join(rotary)}",
            remedy="use one of these, or another position: none, learned, sincos",
        )
