"""What a ViT is made of, and what does not go together."""

from __future__ import annotations

from dataclasses import dataclass, field

import mixers
from mixers.base import Grid
from mixers.options import Option, with_options
from wfbench.errors import InputError
from wfbench.models.position import Position, check_position
from wfbench.models.schedule import mixers_of, settled
from wfbench.models.skeleton import LocalConv, Residual
from wfbench.models.timm_doors import Pool


@dataclass(frozen=True)
class ViTConfig:
    """What a `VisionTransformer` is made of; every preset is one of these.

    ``pos_embed`` may be given as a bool: True is "learned", False is "none". ``every``, ``offset`` and ``between`` are as
    `settled` leaves them. ``mixer_options`` become part of the mixer's name. ``drop_rate`` is of dropout before the head.
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
    drop_rate: float = 0.0
    class_token: bool = False
    pos_embed: Position = "learned"
    pos_init_std: float = 0.02
    pool: Pool = "mean"
    every: int | None = None
    offset: int | None = None
    between: str | None = None
    local_conv: LocalConv = "none"
    init_norm: bool = False
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
            object.__setattr__(self, "pos_embed", "learned" if self.pos_embed else "none")


def check(config: ViTConfig) -> None:
    """Refuse what cannot be built, before any of it is.

    Raises:
        InputError: for a class token or a position that the mixer does not take, or a pool without its token.
        MixerError: for an unknown mixer.
    """
    check_position(config.pos_embed, config.mixer, config.embed_dim)
    refusing = [name for name in mixers_of(config) if not mixers.spec(name).prefix_tokens]
    if config.class_token and refusing:
        takers = [name for name in mixers.names() if mixers.spec(name).prefix_tokens]
        where = "" if refusing[0] == config.mixer else " between the layers of " + repr(config.mixer)
        raise InputError(
            "the mixer takes no class token",
            got=f"class_token=True with mixer {refusing[0]!r}{where}, which works on the grid alone",
            expected="class_token=False, or a mixer that accepts a prefix token",
            remedy=f"drop class_token, or use one of {', '.join(takers)}",
        )
    if config.pool == "token" and not config.class_token:
        raise InputError(
            "pooling needs a class token",
            got="pool='token', class_token=False",
            expected="class_token=True beside pool='token'",
            remedy="set class_token=True or pool='mean'",
        )
