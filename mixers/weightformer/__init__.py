"""WeightFormer: global mixing by layers whose weights are predicted from all tokens (arXiv 2605.01711).

Softmax attention is a two-layer MLP applied to Q whose weights, Kᵀ and V, are predicted from the input. WeightFormer
keeps "a layer whose weights are predicted from all tokens" and drops attention: it adds a predicted part to the weights
of an ordinary Linear (`dynamic_linear`) and of an ordinary depthwise convolution (`dynamic_conv`), every third layer.
The other layers are static.
"""

from mixers.base import MixerSpec
from mixers.registry import register_spec
from mixers.weightformer.dynamic_conv import DynamicDepthwiseConv
from mixers.weightformer.dynamic_linear import DynamicLinear

__all__ = ["DynamicDepthwiseConv", "DynamicLinear"]

register_spec(
    MixerSpec(
        name="weightformer",
        token="dynamic-depthwise-conv",
        ffn_in="dynamic-linear",
        off_token="depthwise-conv",
        off_ffn_in="linear",
        every=3,
        offset=1,
        complexity="linear",
        formula="X ∗ (K₀ + K̂(X)) in the mixer slot, X (W₀ + Ŵ(X)) in the FFN's first Linear, every third layer",
        source="WeightFormer, arXiv 2605.01711, strategies bilateral + adaptive",
        status="certain",
    )
)
