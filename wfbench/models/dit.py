"""The diffusion transformer: a denoiser of latents or pixels, told the time and the class by modulation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixers.base import Grid
from mixers.options import Option, with_options
from wfbench.models.position import Position, check_position, sincos_2d
from wfbench.models.schedule import check_depth, schedule_of, settled
from wfbench.models.skeleton import Block, LocalConv, Modulation, Residual, adaptive_norm, check_channels, patch_grid


@dataclass(frozen=True)
class DiTConfig:
    """What a `DiT` is made of; every preset is one of these.

    ``image_size`` is that of the model's input: the latent's, in latent space. ``pos_embed`` may be given as a bool: True is
    "sincos", False is "none". ``every``, ``offset`` and ``between`` are as `settled` leaves them.
    """

    mixer: str = "softmax"
    image_size: Grid = (32, 32)
    patch_size: int = 2
    in_channels: int = 4
    num_classes: int = 1000
    embed_dim: int = 384
    depth: int = 12
    num_heads: int | None = None
    mlp_ratio: float = 4.0
    pos_embed: Position = "sincos"
    every: int | None = None
    offset: int | None = None
    between: str | None = None
    local_conv: LocalConv = "none"
    residual: Residual = "pre-norm"
    mixer_options: dict[str, Option] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mixer", with_options(self.mixer, self.mixer_options))
        object.__setattr__(self, "mixer_options", {})
        filler = None if self.between is None else with_options(self.between, {})
        every, offset, between = settled(self.mixer, self.every, self.offset, filler)
        object.__setattr__(self, "every", every)
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "between", between)
        if isinstance(self.pos_embed, bool):
            object.__setattr__(self, "pos_embed", "sincos" if self.pos_embed else "none")


class DiT(nn.Module):
    """Patch embedding → position → Blocks under adaLN-Zero → modulated LayerNorm → Linear → patches put back.

    The condition c = MLP(time features of t) + table[y] modulates every block and the last norm. Half of the output is ε, the
    predicted noise; the other half, v, places the log-variance between its bounds (`wfbench.diffusion.hybrid_loss`).

    Shapes: x (B, in_channels, H, W), any H and W that the patch divides; t (B), steps of time; y (B), classes; output
    (B, 2·in_channels, H, W). The class ``null_class``, the one after the last, is "no class".
    Source: DiT (arXiv 2212.09748), section 3.2; WeightFormer (arXiv 2605.01711) with its mixer and ``residual="overwrite"``.
    Parameters carry the release's names but in the blocks. Initialised as DiT is: Xavier-uniform Linears, those of the
    mixers included, and zeros wherever a modulation or the output comes from, so that a fresh model puts out 0.

    The sin-cos table is a frozen parameter, as in the release, so it counts and is saved; on another grid than the model was
    built for, the table of that grid is used. A learned position is interpolated.

    Raises:
        InputError: for an image size that the patch does not divide, a position that the mixer or the width cannot have, or
            a schedule by which no layer carries the mixer.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        check_position(config.pos_embed, config.mixer, config.embed_dim)
        check_depth(config)
        self.config = config
        self.num_classes = self.null_class = config.num_classes
        self.embed_dim = self.num_features = config.embed_dim
        self.num_prefix_tokens = 0
        self.grad_checkpointing = False
        dim, grid = config.embed_dim, self._grid(config.image_size)
        self.x_embedder = PatchEmbed(
            img_size=None, patch_size=config.patch_size, in_chans=config.in_channels, embed_dim=dim, strict_img_size=False
        )
        self.t_embedder = TimestepEmbedder(dim)
        self.y_embedder = LabelEmbedder(config.num_classes + 1, dim)
        self.pos_embed = None
        if config.pos_embed == "sincos":
            table = sincos_2d(grid, dim, like=torch.zeros((), dtype=torch.float64)).float()  # not from float32 angles
            self.pos_embed = nn.Parameter(table.unsqueeze(0), requires_grad=False)
        elif config.pos_embed == "learned":
            self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, grid[0] * grid[1], dim), std=0.02))
        rotary = {"rope": True} if config.pos_embed == "rope2d" else {}
        self.blocks = nn.ModuleList(
            Block(
                config.mixer,
                layer,
                dim,
                int(dim * config.mlp_ratio),
                num_heads=config.num_heads,
                grid=grid,
                schedule=schedule_of(config),
                local_conv=config.local_conv,
                residual=config.residual,
                modulated=True,
                approximate="tanh",
                mixer_options={**config.mixer_options, **rotary},
            )
            for layer in range(config.depth)
        )
        self.final_layer = FinalLayer(dim, config.patch_size**2 * 2 * config.in_channels)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear) and "adaLN_modulation" not in name:
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.flatten(1))  # as the Linear that it is
        nn.init.constant_(self.x_embedder.get_parameter("proj.bias"), 0.0)

    def _grid(self, image_size: Grid) -> Grid:
        return patch_grid(image_size, self.config.patch_size)

    def _position(self, grid: Grid) -> Tensor | None:
        """What is added to the tokens of a grid: (1, N, C), or nothing."""
        if self.pos_embed is None or grid == (built := self._grid(self.config.image_size)):
            return self.pos_embed
        if self.config.pos_embed == "sincos":
            return sincos_2d(grid, self.embed_dim, like=self.pos_embed).unsqueeze(0)
        return resample_abs_pos_embed(self.pos_embed, list(grid), list(built), num_prefix_tokens=0)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Noisy x (B, in_channels, H, W) at steps t (B), of classes y (B), to ε and v (B, 2·in_channels, H, W)."""
        check_channels(x, self.config.in_channels)
        grid = self._grid((int(x.shape[2]), int(x.shape[3])))
        x = self.x_embedder(x)  # (B, N, C)
        position = self._position(grid)
        x = x if position is None else x + position
        condition = self.t_embedder(t) + self.y_embedder(y)  # (B, C)
        for block in self.blocks:
            if self.grad_checkpointing:
                x = checkpoint(block, x, grid, condition, use_reentrant=False)
            else:
                x = block(x, grid, condition)
        return self._unpatchify(self.final_layer(x, condition), grid)

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, cfg_channels: int | None = 3) -> Tensor:
        """Classifier-free guidance: ε = ε(null) + s (ε(y) − ε(null)) in both halves of a doubled batch.

        The first half of y holds classes, the second ``null_class``; of x, the first half is used twice.

        Args:
            x: noisy input (2B, in_channels, H, W).
            t: steps (2B).
            y: classes (2B).
            cfg_scale: s; 1 is no guidance.
            cfg_channels: how many of the first channels are guided, 3 as released, also where there are 4; None for all.
                The other channels, and v, stay as predicted.
        """
        half = x[: len(x) // 2]
        out = self(torch.cat([half, half]), t, y)
        guided, rest = out.tensor_split([min(cfg_channels or self.config.in_channels, self.config.in_channels)], dim=1)
        given, null = guided.chunk(2)
        guided = null + cfg_scale * (given - null)
        return torch.cat([torch.cat([guided, guided]), rest], dim=1)

    def _unpatchify(self, x: Tensor, grid: Grid) -> Tensor:
        """Tokens (B, N, p·p·D) as an image (B, D, H·p, W·p)."""
        p = self.config.patch_size
        x = x.unflatten(2, (p, p, -1)).unflatten(1, grid)  # (B, H, W, p, p, D)
        return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def example_inputs(
        self, batch: int, image_size: Grid | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Random x, t and y to measure with."""
        x = torch.randn(batch, self.config.in_channels, *(image_size or self.config.image_size), generator=generator)
        t = torch.randint(1000, (batch,), generator=generator)
        return x, t, torch.randint(self.num_classes + 1, (batch,), generator=generator)

    def declared_macs(self, image_size: Grid, batch: int = 1, path: str = "released") -> dict[str, int]:
        """MACs of every module for the whole batch, by closed forms alone; their sum is the model's.

        Raises:
            InputError: if the mixer declares none, or the patch does not divide the image.
        """
        grid, config, c = self._grid(image_size), self.config, self.embed_dim
        n, patch = grid[0] * grid[1], config.patch_size**2 * config.in_channels
        counts = {"x_embedder": batch * n * patch * c, "t_embedder": batch * (TimestepEmbedder.FEATURES * c + c * c)}
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            counts |= {f"blocks.{i}.{name}": macs for name, macs in block.declared_macs(grid, batch, path).items()}
        return counts | {"final_layer": batch * (n * c * 2 * patch + 2 * c * c)}

    def no_weight_decay(self) -> set[str]:
        """Parameters that are not decayed although they have more than one dimension (timm's convention)."""
        return {"pos_embed"} if self.pos_embed is not None else set()

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Layer groups for layer-wise learning-rate decay (timm's convention)."""
        return {
            "stem": r"^[xty]_embedder|^pos_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^final_layer", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable


class TimestepEmbedder(nn.Module):
    """MLP of the time's features: cos(t ω_k) and sin(t ω_k), with ω_k = 10000^(-k/128), k < 128.

    Shapes: t (B), result (B, C). The features are float32 whatever the weights are, as in the release.
    Source: DiT (arXiv 2212.09748), appendix A; the features are those of Transformer (arXiv 1706.03762), section 3.5.
    """

    FEATURES = 256

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))
        for name, parameter in self.mlp.named_parameters():
            nn.init.normal_(parameter, std=0.02) if name.endswith("weight") else nn.init.zeros_(parameter)

    def forward(self, t: Tensor) -> Tensor:
        """Steps (B) to embeddings (B, C)."""
        half = self.FEATURES // 2
        speed = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angle = t.float().unsqueeze(1) * speed  # (B, 128)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1).to(self.mlp[0].weight.dtype))  # type: ignore[arg-type]


class LabelEmbedder(nn.Module):
    """A row of a table for each class, the null class included. Shapes: y (B), result (B, C)."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(rows, dim)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y: Tensor) -> Tensor:
        """Classes (B) to embeddings (B, C)."""
        return self.embedding_table(y)


class FinalLayer(nn.Module):
    """Linear(LayerNorm(x) (1 + γ) + β), with β, γ from the condition; all zero at first.

    Shapes: x (B, N, C), condition (B, C), result (B, N, ``width``).
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(dim, width)
        self.adaLN_modulation = adaptive_norm(dim, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens (B, N, C) to the pixels of their patches (B, N, width)."""
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, dim=2)
        return self.linear(Modulation(shift, scale).enter(self.norm(x)))
