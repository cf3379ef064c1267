"""Token mixers in pure PyTorch, under one contract; importable without the bench.

>>> import torch, mixers
>>> mixer = mixers.create("linear", 48, num_heads=3)
>>> mixer(torch.randn(2, 35, 48), (5, 7)).shape
torch.Size([2, 35, 48])
"""

import importlib
import pkgutil

from mixers.base import MixerError, MixerSpec, TokenMixer
from mixers.counting import counts
from mixers.registry import create, create_ffn_in, defaults, from_reference, layers, names, spec, to_reference

# Every module of this package registers its mixers when it is imported: a new file needs no other edit.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "MixerError",
    "MixerSpec",
    "TokenMixer",
    "counts",
    "create",
    "create_ffn_in",
    "defaults",
    "from_reference",
    "layers",
    "names",
    "spec",
    "to_reference",
]
