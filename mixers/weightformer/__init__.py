"""WeightFormer: global mixing by layers whose weights are predicted from all tokens (arXiv 2605.01711).

Softmax attention is a two-layer MLP applied to Q whose weights, Kᵀ and V, are predicted from the input. WeightFormer
keeps "a layer whose weights are predicted from all tokens" and drops attention: it adds a predicted part to the weights
of an ordinary Linear (`dynamic_linear`) and of an ordinary depthwise convolution (`dynamic_conv`), every third layer.
The other layers are static.

The paper's figure 3 studies strategies of prediction one layer at a time: ``wf-linear-*`` keep the convolution static,
``wf-dwc-*`` keep the Linear static, and everything but the prediction is shared. Two of them were released.
"""

from typing import get_args

from mixers.base import MixerSpec
from mixers.registry import register_spec
from mixers.weightformer import dynamic_conv, dynamic_linear
from mixers.weightformer.dynamic_conv import DynamicDepthwiseConv
from mixers.weightformer.dynamic_linear import DynamicLinear

__all__ = ["DynamicDepthwiseConv", "DynamicLinear"]

_SOURCE = "WeightFormer, arXiv 2605.01711"
_RELEASED = ("bilateral", "adaptive")


def _status(strategy: str) -> str:
    return "certain" if strategy in _RELEASED else "reconstruction"


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
        source=f"{_SOURCE}, strategies bilateral + adaptive",
        status="certain",
        layout="grid",
    )
)

for _strategy in get_args(dynamic_linear.Strategy):
    register_spec(
        MixerSpec(
            name=f"wf-linear-{_strategy}",
            token="depthwise-conv",
            ffn_in="dynamic-linear",
            ffn_options={"strategy": _strategy},
            off_token="depthwise-conv",
            every=3,
            offset=1,
            complexity="linear",
            formula=f"X (W₀ + Ŵ(X)), {_strategy}, in the FFN's first Linear every third layer; plain 3×3 in the mixer slot",
            source=f"{_SOURCE}, figure 3, dynamic Linear",
            status=_status(_strategy),
            layout="grid",
        )
    )

for _strategy in get_args(dynamic_conv.Strategy):
    register_spec(
        MixerSpec(
            name=f"wf-dwc-{_strategy}",
            token="dynamic-depthwise-conv",
            token_options={"strategy": _strategy},
            off_token="depthwise-conv",
            every=3,
            offset=1,
            complexity="linear",
            formula=f"X ∗ (K₀ + K̂(X)), {_strategy}, every third layer; plain FFN",
            source=f"{_SOURCE}, figure 3, dynamic depthwise convolution",
            status=_status(_strategy),
            layout="grid",
        )
    )
