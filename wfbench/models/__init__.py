"""One skeleton, many mixers: named models, and weights of the releases."""

from wfbench.models.compat import load_initial, load_released, released_names, to_released
from wfbench.models.presets import PRESETS, configure, create
from wfbench.models.vit import VisionTransformer, ViTConfig

__all__ = [
    "PRESETS",
    "ViTConfig",
    "VisionTransformer",
    "configure",
    "create",
    "load_initial",
    "load_released",
    "released_names",
    "to_released",
]
