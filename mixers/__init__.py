"""Token mixers in pure PyTorch, under one contract; importable without the bench.

>>> import torch, mixers
>>> mixer = mixers.create("linear", 48, num_heads=3)
>>> mixer(torch.randn(2, 35, 48), (5, 7)).shape
torch.Size([2, 35, 48])
"""

from mixers import linear, pool, relu_linear, softmax, static, weightformer  # noqa: F401  (each registers itself)
from mixers.base import MixerError, MixerSpec, TokenMixer
from mixers.registry import create, create_ffn_in, from_reference, names, spec, to_reference

__all__ = [
    "MixerError",
    "MixerSpec",
    "TokenMixer",
    "create",
    "create_ffn_in",
    "from_reference",
    "names",
    "spec",
    "to_reference",
]
