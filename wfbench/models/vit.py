"""The image classifier: patches, Blocks, pooling, head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates, resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mixers
from mixers.base import Grid, init_linear_
from wfbench.errors import InputError
from wfbench.models.skeleton import Block, LocalConv, Residual


@dataclass(frozen=True)
class ViTConfig:
    """What a `VisionTransformer` is made of; every preset is one of these."""

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
    pos_embed: bool = True
    pos_init_std: float = 0.02
    pool: Literal["mean", "token"] = "mean"
    local_conv: LocalConv = "none"
    init_norm: bool = False
    residual: Residual = "pre-norm"
    mixer_options: dict[str, object] = field(default_factory=dict)


class VisionTransformer(nn.Module):
    """Patch embedding → (position) → Blocks → LayerNorm → mean over tokens or class token → Linear.

    Shapes: image (B, in_channels, H, W), any H and W that the patch divides → logits (B, num_classes).
    Source: DeiT (arXiv 2012.12877) with a class token; WeightFormer (arXiv 2605.01711) with ``init_norm`` and
    ``residual="overwrite"``. Method names are timm's, so that timm's tools work on it.

    Raises:
        InputError: for an image size that the patch does not divide, a class token where the mixer takes none, or a pool
            that needs the token that is not there.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        _check(config)
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
        self.pos_embed = nn.Parameter(torch.zeros(1, n, dim)) if config.pos_embed else None
        self.init_norm = nn.LayerNorm(dim, eps=1e-6) if config.init_norm else nn.Identity()
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
                mixer_options=config.mixer_options,
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
        patch = self.config.patch_size
        if image_size[0] % patch or image_size[1] % patch or min(image_size) < patch:
            raise InputError(
                "the image size is not a multiple of the patch size",
                got=f"{image_size[0]}x{image_size[1]} with patch size {patch}",
                expected=f"a multiple of {patch} on both sides",
                remedy=f"use {' or '.join(str(s) for s in _near_multiples(image_size, patch))}",
            )
        return image_size[0] // patch, image_size[1] // patch

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


def _check(config: ViTConfig) -> None:
    if config.class_token and not mixers.spec(config.mixer).prefix_tokens:
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


def _near_multiples(image_size: Grid, patch: int) -> list[int]:
    side = max(image_size)
    return sorted({max(patch, side // patch * patch), max(patch, -(-side // patch) * patch)})
