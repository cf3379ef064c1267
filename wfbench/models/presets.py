"""Named models, and the one function that makes them."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from types import MappingProxyType
from typing import Any, get_args

from mixers.base import Grid
from wfbench.errors import InputError, did_you_mean
from wfbench.models.dit import DiT, DiTConfig
from wfbench.models.draws import draw_by_name
from wfbench.models.position import check_position
from wfbench.models.schedule import check_depth
from wfbench.models.timm_doors import Pool
from wfbench.models.vit import VisionTransformer
from wfbench.models.vit_config import ViTConfig, check

Config = ViTConfig | DiTConfig

# The faithful WeightFormer: its norm1 overwrites the stream, no position embedding, a LayerNorm after the patches.
_FAITHFUL = ViTConfig(mixer="weightformer", depth=17, pos_embed="none", init_norm=True, residual="overwrite")

# Heads of 64 channels, but in dit-xl, whose 16 have 72. Every name also has a patch size: dit-s-2, dit-s-4, dit-s-8, ...
_DITS = {
    "dit-s": DiTConfig(embed_dim=384, depth=12),
    "dit-b": DiTConfig(embed_dim=768, depth=12),
    "dit-l": DiTConfig(embed_dim=1024, depth=24),
    "dit-xl": DiTConfig(embed_dim=1152, depth=28, num_heads=16),
    "weightformer-dit-s": DiTConfig(mixer="weightformer", embed_dim=384, depth=15, residual="overwrite"),
    "weightformer-dit-b": DiTConfig(mixer="weightformer", embed_dim=768, depth=15, residual="overwrite"),
}

PRESETS: MappingProxyType[str, Config] = MappingProxyType(
    {
        "vit-tiny": ViTConfig(embed_dim=192),
        "vit-small": ViTConfig(embed_dim=384),
        "vit-base": ViTConfig(embed_dim=768),
        "weightformer-tiny": replace(_FAITHFUL, embed_dim=192),
        "weightformer-small": replace(_FAITHFUL, embed_dim=384, drop_path=0.2),
        "weightformer-base": replace(_FAITHFUL, embed_dim=384, drop_path=0.2, image_size=(448, 448)),
        **{f"{name}-{patch}": replace(config, patch_size=patch) for name, config in _DITS.items() for patch in (8, 4, 2)},
    }
)


def create(
    name: str,
    mixer: str | None = None,
    image_size: int | Grid | None = None,
    num_classes: int | None = None,
    *,
    seed: int | None = None,
    **overrides: object,
) -> Any:  # which of the two classes, the name decides, and no type checker can follow it
    """Build a model by name.

    Args:
        name: a preset: ``vit-{tiny,small,base}``, ``weightformer-{tiny,small,base}``, ``dit-{s,b,l,xl}-{8,4,2}`` or
            ``weightformer-dit-{s,b}-{8,4,2}``.
        mixer: any mixer (registered, installed, or ``file.py:Class``); None for the preset's own.
        image_size: side of the model's input, or (height, width), in pixels; of the latent, for a DiT of latents; None for
            the preset's own.
        num_classes: outputs of the head, 0 for no head; of a DiT, classes beside the null class; None for the preset's own.
        seed: each initial value then follows from it and the parameter's name, see `draw_by_name`; None: from PyTorch's random
            state, in the order of construction.
        overrides: embed_dim, depth, patch_size, num_heads, mlp_ratio, in_channels, pos_embed (none, learned, sincos, rope2d;
            or True for learned, a DiT's sincos, False for none), local_conv, residual, mixer_options; the layer schedule:
            every, offset (layer i carries the mixer when i % every == offset), between (the mixer in the other layers); of a
            classifier also drop_path, drop_rate, class_token, pos_init_std, pool (mean, token, none: logits at every token),
            init_norm.

    Returns:
        A `VisionTransformer` or `DiT` with freshly initialised weights.

    Raises:
        InputError: for an unknown preset or override, or values that do not go together.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """
    config = configure(name, mixer, image_size, num_classes, **overrides)

    def build() -> DiT | VisionTransformer:
        return DiT(config) if isinstance(config, DiTConfig) else VisionTransformer(config)

    return build() if seed is None else draw_by_name(seed, build)


def configure(
    name: str,
    mixer: str | None = None,
    image_size: int | Grid | None = None,
    num_classes: int | None = None,
    **overrides: object,
) -> Config:
    """What `create` would build from the same arguments; nothing is built.

    Raises:
        InputError, MixerError: as `create`, but for what only a mixer itself can tell.
    """
    if name not in PRESETS:
        raise InputError(
            "unknown model", got=repr(name), expected=f"one of {', '.join(PRESETS)}", remedy=did_you_mean(name, PRESETS)
        )
    preset = PRESETS[name]
    options = [f.name for f in fields(preset) if f.name not in ("mixer", "image_size", "num_classes")]
    for key in overrides:
        if key not in options:
            raise InputError(
                f"unknown option for model {name!r}",
                got=repr(key),
                expected=", ".join(options),
                remedy=did_you_mean(key, options),
            )
    given: dict[str, object] = dict(overrides)
    if mixer is not None:
        given["mixer"] = mixer
    if image_size is not None:
        given["image_size"] = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if num_classes is not None:
        given["num_classes"] = num_classes
    config = type(preset)(**(asdict(preset) | given))
    _check_numbers(config)
    if isinstance(config, ViTConfig):
        check(config)
    else:
        check_position(config.pos_embed, config.mixer, config.embed_dim)
    check_depth(config)
    return config


def _check_numbers(config: Config) -> None:
    positive = ("patch_size", "in_channels", "embed_dim", "depth", "mlp_ratio")
    bad = {key: getattr(config, key) for key in positive if getattr(config, key) <= 0}
    if config.num_classes < 0:
        bad["num_classes"] = config.num_classes
    choices: dict[str, tuple[str, ...]] = {"local_conv": ("none", "dwc"), "residual": ("pre-norm", "overwrite")}
    if isinstance(config, ViTConfig):
        choices["pool"] = get_args(Pool)
        bad |= {key: rate for key in ("drop_path", "drop_rate") if not 0 <= (rate := getattr(config, key)) < 1}
    bad |= {key: getattr(config, key) for key, allowed in choices.items() if getattr(config, key) not in allowed}
    if bad:
        among = ", ".join(f"{k} in {v}" for k, v in choices.items())
        expected = f"positive sizes, num_classes >= 0, 0 <= drop_path < 1, 0 <= drop_rate < 1, {among}"
        raise InputError(
            "impossible model",
            got=", ".join(f"{k} = {v!r}" for k, v in bad.items()),
            expected=expected,
            remedy=f"leave {' and '.join(bad)} out, for what the preset has",
        )
