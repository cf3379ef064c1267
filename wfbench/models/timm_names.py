"""The presets under timm's registry: ``timm.create_model("weightformer_tiny")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.models import is_model, register_model

from wfbench.errors import InputError
from wfbench.models.presets import PRESETS, create

#: timm's argument names and ours, where they differ.
_TIMM_ARGUMENTS = {"img_size": "image_size", "in_chans": "in_channels", "drop_path_rate": "drop_path"}


def _entry(preset: str) -> Callable[..., Any]:
    def build(pretrained: bool = False, **arguments: object) -> Any:
        if pretrained:
            raise InputError(
                "no weights are downloaded",
                got=f"pretrained=True for {preset!r}",
                remedy="load a local file: wfbench.models.load_released(model, safetensors.torch.load_file(path))",
            )
        ours = {_TIMM_ARGUMENTS.get(key, key): value for key, value in arguments.items()}
        for passed_by_timm in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            ours.pop(passed_by_timm, None)
        return create(preset, **ours)  # type: ignore[arg-type]

    build.__name__ = preset.replace("-", "_")
    build.__doc__ = f"wfbench's {preset}."
    build.__module__ = __name__
    return build


for _preset in PRESETS:
    if not is_model(_preset.replace("-", "_")):
        register_model(_entry(_preset))
