"""Named models, and the one function that makes them."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from types import MappingProxyType

from mixers.base import Grid
from wfbench.errors import InputError, did_you_mean
from wfbench.models.vit import VisionTransformer, ViTConfig, check

# The faithful WeightFormer: its norm1 overwrites the stream, no position embedding, a LayerNorm after the patches.
_FAITHFUL = ViTConfig(mixer="weightformer", depth=17, pos_embed="none", init_norm=True, residual="overwrite")

PRESETS = MappingProxyType(
    {
        "vit-tiny": ViTConfig(embed_dim=192),
        "vit-small": ViTConfig(embed_dim=384),
        "vit-base": ViTConfig(embed_dim=768),
        "weightformer-tiny": replace(_FAITHFUL, embed_dim=192),
        "weightformer-small": replace(_FAITHFUL, embed_dim=384, drop_path=0.2),
        "weightformer-base": replace(_FAITHFUL, embed_dim=384, drop_path=0.2, image_size=(448, 448)),
    }
)

_OVERRIDES = tuple(f.name for f in fields(ViTConfig) if f.name not in ("mixer", "image_size", "num_classes"))


def create(
    name: str,
    mixer: str | None = None,
    image_size: int | Grid | None = None,
    num_classes: int | None = None,
    **overrides: object,
) -> VisionTransformer:
    """Build a model by name.

    Args:
        name: a preset: ``vit-{tiny,small,base}`` or ``weightformer-{tiny,small,base}``.
        mixer: any mixer (registered, installed, or ``file.py:Class``); None for the preset's own.
        image_size: side in pixels, or (height, width); None for the preset's own.
        num_classes: outputs of the head; 0 for no head; None for the preset's own.
        overrides: embed_dim, depth, patch_size, num_heads, mlp_ratio, drop_path, in_channels, class_token, pos_embed
            (none, learned, sincos, rope2d; or True for learned, False for none), pos_init_std, pool, local_conv,
            init_norm, residual, mixer_options.

    Returns:
        A model with freshly initialised weights; `torch.manual_seed` decides them.

    Raises:
        InputError: for an unknown preset or override, or values that do not go together.
        MixerError: for an unknown mixer, or heads that do not divide the dimension.
    """
    return VisionTransformer(configure(name, mixer, image_size, num_classes, **overrides))


def configure(
    name: str,
    mixer: str | None = None,
    image_size: int | Grid | None = None,
    num_classes: int | None = None,
    **overrides: object,
) -> ViTConfig:
    """What `create` would build from the same arguments; nothing is built.

    Raises:
        InputError, MixerError: as `create`, but for what only a mixer itself can tell.
    """
    if name not in PRESETS:
        raise InputError(
            "unknown model", got=repr(name), expected=f"one of {', '.join(PRESETS)}", remedy=did_you_mean(name, PRESETS)
        )
    for key in overrides:
        if key not in _OVERRIDES:
            raise InputError(
                f"unknown option for model {name!r}",
                got=repr(key),
                expected=", ".join(_OVERRIDES),
                remedy=did_you_mean(key, _OVERRIDES),
            )
    given: dict[str, object] = dict(overrides)
    if mixer is not None:
        given["mixer"] = mixer
    if image_size is not None:
        given["image_size"] = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if num_classes is not None:
        given["num_classes"] = num_classes
    config = ViTConfig(**(asdict(PRESETS[name]) | given))
    _check_numbers(config)
    check(config)
    return config


def _check_numbers(config: ViTConfig) -> None:
    positive = ("patch_size", "in_channels", "embed_dim", "depth", "mlp_ratio")
    bad = {key: getattr(config, key) for key in positive if getattr(config, key) <= 0}
    if config.num_classes < 0:
        bad["num_classes"] = config.num_classes
    if not 0 <= config.drop_path < 1:
        bad["drop_path"] = config.drop_path
    choices = {"pool": ("mean", "token"), "local_conv": ("none", "dwc"), "residual": ("pre-norm", "overwrite")}
    bad |= {key: getattr(config, key) for key, allowed in choices.items() if getattr(config, key) not in allowed}
    if bad:
        expected = (
            f"positive sizes, num_classes >= 0, 0 <= drop_path < 1, {', '.join(f'{k} in {v}' for k, v in choices.items())}"
        )
        raise InputError("impossible model", got=", ".join(f"{k} = {v!r}" for k, v in bad.items()), expected=expected)
