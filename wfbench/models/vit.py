"""The image classifier: patches, Blocks, pooling, head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates, resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mixers.base import Grid, init_linear_
from wfbench.errors import InputError
from wfbench.models.position import sincos_2d
from wfbench.models.schedule import check_depth, mixers_of, schedule_of
from wfbench.models.skeleton import Block, check_channels, patch_grid
from wfbench.models.timm_doors import describe, global_pool_of, pool_of, taken_blocks
from wfbench.models.vit_config import ViTConfig, check


class VisionTransformer(nn.Module):
    """Patch embedding → (position) → Blocks → LayerNorm → mean over tokens, class token or every token → dropout → Linear.

    Shapes: image (B, in_channels, H, W), any H and W that the patch divides → logits (B, num_classes); with ``pool="none"``
    (B, N, num_classes), a row for each token of the grid, row by row, and none for the class token.
    Source: DeiT (arXiv 2012.12877) with a class token; WeightFormer (arXiv 2605.01711) with ``init_norm`` and
    ``residual="overwrite"``. Method and attribute names are timm's, so that timm's tools work on it; `config` follows what
    they change.

    Raises:
        InputError: for an image size that the patch does not divide, a class token where the mixer takes none, a pool
            that needs the token that is not there, a position that the mixer or the width cannot have, or a schedule by
            which no layer carries the mixer.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        check(config)
        check_depth(config)  # of what is built: afterwards `prune_intermediate_layers` may leave any blocks
        self.config = config
        self.num_classes, self.embed_dim = config.num_classes, config.embed_dim
        self.num_features = self.head_hidden_size = config.embed_dim
        self.in_chans, self.has_class_token = config.in_channels, config.class_token
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
                schedule=schedule_of(config),
                drop_path=rates[layer],
                local_conv=config.local_conv,
                residual=config.residual,
                mixer_options={**config.mixer_options, **rotary},
            )
            for layer in range(config.depth)
        )
        self.feature_info: list[dict[str, Any]] = [
            {"module": f"blocks.{layer}", "num_chs": dim, "reduction": config.patch_size} for layer in range(config.depth)
        ]
        self.pretrained_cfg = describe(mixers_of(config), config.in_channels, config.image_size, config.num_classes)
        self.default_cfg = self.pretrained_cfg  # timm's former name of it
        self.norm: nn.Module = nn.LayerNorm(dim, eps=1e-6)
        self.head_drop = nn.Dropout(config.drop_rate)
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

    @property
    def global_pool(self) -> str:
        """timm's word for the pooling: "avg", "token", or "" for every token."""
        return global_pool_of(self.config.pool)

    def _grid(self, image_size: Grid) -> Grid:
        return patch_grid(image_size, self.config.patch_size)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        check_channels(x, self.config.in_channels)
        grid = self._grid((int(x.shape[2]), int(x.shape[3])))
        x = self.patch_embed(x)  # (B, N, C)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, C)
        if self.pos_embed is not None:
            built = self._grid(self.config.image_size)
            x = x + resample_abs_pos_embed(self.pos_embed, list(grid), list(built), self.num_prefix_tokens)
        if self.config.pos_embed == "sincos":
            weight = self.patch_embed.proj.weight
            table = sincos_2d(grid, self.embed_dim, like=weight)  # in the weights' dtype, as if it were one
            x = x + F.pad(table, (0, 0, self.num_prefix_tokens, 0))  # a class token has no place
        return self.init_norm(x), grid

    def _through(self, block: nn.Module, x: Tensor, grid: Grid) -> Tensor:
        return checkpoint(block, x, grid, use_reentrant=False) if self.grad_checkpointing else block(x, grid)

    def forward_features(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to normalised tokens (B, N, C), the class token first."""
        x, grid = self._embed(x)
        for block in self.blocks:
            x = self._through(block, x, grid)
        return self.norm(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: Literal["NCHW", "NLC"] = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:  # which of the results, the flags decide
        """The tokens of the grid after some of the blocks, in the order of the blocks (timm's door).

        Args:
            x: image (B, in_channels, H, W).
            indices: the last n blocks, or those of these indices; None for all.
            return_prefix_tokens: give a pair for each block, of a model with a class token: its tokens of the grid, and the
                class token (B, 1, C).
            norm: normalise them as the final norm does.
            stop_early: compute no block after the last one asked for; the first result is then of that block.
            output_fmt: "NCHW": maps (B, C, H/patch, W/patch); "NLC": tokens (B, N, C).
            intermediates_only: give the list alone.

        Returns:
            The normalised tokens after the last block (B, N, C), the class token first, and the list; or the list alone.

        Raises:
            InputError: for blocks that are not there, another format, or an image size that the patch does not divide.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise InputError(
                "unknown format of the intermediates",
                got=repr(output_fmt),
                expected="'NCHW' or 'NLC'",
                remedy="use 'NCHW' for maps, 'NLC' for tokens",
            )
        wanted = taken_blocks(len(self.blocks), indices)
        x, grid = self._embed(x)
        prefix, taken = self.num_prefix_tokens, []
        for i, block in enumerate(self.blocks[: max(wanted) + 1] if stop_early else self.blocks):
            x = self._through(block, x, grid)
            if i in wanted:
                taken.append(self.norm(x) if norm else x)
        found: list[Any] = [tokens[:, prefix:] for tokens in taken]
        if output_fmt == "NCHW":
            found = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in found]  # (B, C, H, W)
        if return_prefix_tokens and prefix:
            found = [(tokens, whole[:, :prefix]) for tokens, whole in zip(found, taken, strict=True)]
        return found if intermediates_only else (self.norm(x), found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks after the last one asked for and, as asked, the final norm and the head (timm's door).

        Returns:
            The indices that were asked for, counted from the first block.

        Raises:
            InputError: for blocks that are not there.
        """
        wanted = taken_blocks(len(self.blocks), indices)
        depth = max(wanted) + 1
        self.blocks, self.feature_info = self.blocks[:depth], self.feature_info[:depth]
        self.config = replace(self.config, depth=depth)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N, C) of `forward_features` to logits, or to what the head reads, (B, C) or (B, N, C)."""
        if self.config.pool == "token":
            x = x[:, 0]
        elif self.config.pool != "all":
            x = x[:, self.num_prefix_tokens :]
            x = x.mean(dim=1) if self.config.pool == "mean" else x
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, in_channels, H, W) to logits (B, num_classes), or those of every token (B, N, num_classes)."""
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
        rows = {"mean": 1, "token": 1, "none": n, "all": n + self.num_prefix_tokens}[config.pool]  # that the head reads
        return counts | {"head": batch * rows * config.embed_dim * config.num_classes}

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

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for ``num_classes`` classes, 0 for none, and another pooling, in timm's words; None leaves it.

        Raises:
            InputError: for a negative number, an unknown pooling, or one whose token is not there.
        """
        if num_classes < 0:
            raise InputError(
                "impossible head",
                got=f"num_classes = {num_classes}",
                expected="0 or more",
                remedy="use the number of your classes, or 0 for no head",
            )
        pool = self.config.pool if global_pool is None else pool_of(global_pool)
        config = replace(self.config, num_classes=num_classes, pool=pool)
        check(config)
        self.config, self.num_classes = config, num_classes
        like = self.patch_embed.proj.weight
        self.head = nn.Linear(self.embed_dim, num_classes).to(like) if num_classes else nn.Identity()
        if isinstance(self.head, nn.Linear):
            init_linear_(self.head)
