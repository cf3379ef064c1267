"""The presets under timm's registry: ``timm.create_model("weightformer_tiny")``, ``("wfbench_vit_tiny", mixer="linear")``.

Every preset is ``wfbench_`` and its name with underscores, and that name alone where timm has no model of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from timm.models import build_model_with_cfg, is_model, register_model

from wfbench.errors import InputError, did_you_mean
from wfbench.models.dit import DiTConfig
from wfbench.models.presets import PRESETS, Config, configure, create
from wfbench.models.schedule import mixers_of
from wfbench.models.timm_doors import describe, pool_of
from wfbench.models.vit_config import ViTConfig

#: timm's argument names and ours, where they differ.
_TIMM_ARGUMENTS = {
    "img_size": "image_size",
    "in_chans": "in_channels",
    "drop_path_rate": "drop_path",
    "global_pool": "pool",
}
#: Those that the builder sets itself where they are not given, and so must find under its names.
_BUILDER_ARGUMENTS = {"image_size": "img_size", "in_channels": "in_chans"}
#: timm's names of values and ours.
_TIMM_VALUES = {"pos_embed": {"learn": "learned", "": "none"}}
#: What timm's builder takes for itself.
_BUILDER = {"features_only", "out_indices", "feature_cls", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}


def _entry(preset: str, name: str) -> Callable[..., Any]:
    config = PRESETS[preset]

    def build(pretrained: bool = False, **arguments: Any) -> Any:
        if pretrained:
            raise InputError(
                "no weights are downloaded",
                got=f"pretrained=True for {name!r}",
                expected="pretrained=False: weights come from a local file",
                remedy="pass pretrained=False (to segmentation-models-pytorch, encoder_weights=None), and load a local file: "
                "wfbench.models.load_released(model, safetensors.torch.load_file(path))",
            )
        if isinstance(config, DiTConfig):
            return create(preset, **_ours(name, config, {k: v for k, v in arguments.items() if k not in _BUILDER}))
        return _classifier(preset, name, config, arguments)

    build.__name__ = name
    build.__doc__ = f"wfbench's {preset}."
    build.__module__ = __name__
    return build


def _classifier(preset: str, name: str, config: ViTConfig, arguments: dict[str, Any]) -> Any:
    """A classifier, or its features, through timm's builder."""
    builders = {key: arguments.pop(key) for key in _BUILDER & set(arguments)}
    if isinstance(tag := builders.get("pretrained_cfg"), str):
        raise InputError("no pretrained weights", got=f"{name}.{tag}", expected=name, remedy="drop the tag")
    ours = _ours(name, config, arguments)
    made = configure(preset, **{key: value for key, value in ours.items() if key != "seed"})
    description = describe(mixers_of(made), made.in_channels, made.image_size, made.num_classes) | {"architecture": name}
    builders["pretrained_cfg"] = builders.get("pretrained_cfg") or description
    return build_model_with_cfg(
        lambda **given: create(preset, **_ours(name, config, given)),
        name,
        pretrained=False,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **builders,
        **{_BUILDER_ARGUMENTS.get(key, key): value for key, value in ours.items()},
    )


def _ours(name: str, config: Config, arguments: dict[str, Any]) -> dict[str, Any]:
    """timm's arguments as those of `create`.

    Raises:
        InputError: for an argument that neither of the two has, one that is given twice, or a size held fixed.
    """
    own = {"seed", *(field.name for field in fields(config))}
    known = own | {theirs for theirs, ours in _TIMM_ARGUMENTS.items() if ours in own} | {"dynamic_img_size"}
    result: dict[str, Any] = {}
    given: dict[str, str] = {}
    for key, value in arguments.items():
        if key not in known:
            raise InputError(
                f"unknown option for model {name!r}",
                got=repr(key),
                expected=", ".join(sorted(known)),
                remedy=did_you_mean(key, known),
            )
        if key == "dynamic_img_size":
            if not value:
                raise InputError(
                    "the image size cannot be held fixed",
                    got="dynamic_img_size=False",
                    expected="True, which is what every model here does",
                    remedy="drop it",
                )
            continue
        value = pool_of(value) if key == "global_pool" else value
        ours = _TIMM_ARGUMENTS.get(key, key)
        if ours in given:
            twice = f"{given[ours]} and {key}"
            raise InputError(
                f"an option of model {name!r} is given twice",
                got=twice,
                expected="one of the two names",
                remedy=f"leave {key} out",
            )
        given[ours] = key
        result[ours] = _TIMM_VALUES.get(ours, {}).get(value, value) if isinstance(value, str) else value
    return result


for _preset in PRESETS:
    for _name in (_preset.replace("-", "_"), f"wfbench_{_preset.replace('-', '_')}"):
        if not is_model(_name):
            register_model(_entry(_preset, _name))
