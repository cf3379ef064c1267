"""One skeleton, many mixers: named models, and weights of the releases."""

from wfbench.models.compat import load_initial, load_released, released_names, to_released
from wfbench.models.dit import DiT, DiTConfig
from wfbench.models.draws import draw_by_name, key_of
from wfbench.models.presets import PRESETS, Config, configure, create
from wfbench.models.vit import VisionTransformer, ViTConfig

__all__ = [
    "PRESETS",
    "Config",
    "DiT",
    "DiTConfig",
    "ViTConfig",
    "VisionTransformer",
    "configure",
    "create",
    "draw_by_name",
    "key_of",
    "load_initial",
    "load_released",
    "released_names",
    "to_released",
]
