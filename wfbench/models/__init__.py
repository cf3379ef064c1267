"""One skeleton, many mixers: named models, and weights of the releases."""

from wfbench.models.compat import load_released, released_names, to_released
from wfbench.models.presets import PRESETS, create
from wfbench.models.vit import VisionTransformer, ViTConfig

__all__ = ["PRESETS", "ViTConfig", "VisionTransformer", "create", "load_released", "released_names", "to_released"]
