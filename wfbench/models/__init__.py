"""One skeleton, many mixers: named models, and weights of the releases."""

from wfbench.models.compat import load_initial, load_released, released_names, to_released
from wfbench.models.dense import DenseModel, create_dense
from wfbench.models.dit import DiT, DiTConfig
from wfbench.models.draws import draw_by_name, key_of
from wfbench.models.presets import PRESETS, Config, configure, create
from wfbench.models.skeleton import patch_grid
from wfbench.models.vit import VisionTransformer
from wfbench.models.vit_config import ViTConfig

#: What a recipe may train.
AnyModel = VisionTransformer | DiT | DenseModel

__all__ = [
    "PRESETS",
    "AnyModel",
    "Config",
    "DenseModel",
    "DiT",
    "DiTConfig",
    "ViTConfig",
    "VisionTransformer",
    "configure",
    "create",
    "create_dense",
    "draw_by_name",
    "key_of",
    "load_initial",
    "load_released",
    "patch_grid",
    "released_names",
    "to_released",
]
