"""WeightFormer: global mixing by layers whose weights are predicted from all tokens (arXiv 2605.01711).

Softmax attention is a two-layer MLP applied to Q whose weights, Kᵀ and V, are predicted from the input. WeightFormer
keeps "a layer whose weights are predicted from all tokens" and drops attention: it adds a predicted part to the weights
of an ordinary Linear (`dynamic_linear`) and of an ordinary depthwise convolution (`dynamic_conv`), every third layer.
The other layers are static.

The paper's figure 3 studies strategies of prediction one layer at a time: ``wf-linear-*`` keep the convolution static,
``wf-dwc-*`` keep the Linear static, and everything but the prediction is shared. Two of them were released.
"""

from collections.abc import Mapping
from typing import get_args

from mixers.base import MixerSpec
from mixers.registry import register_spec
from mixers.weightformer import dynamic_conv, dynamic_linear
from mixers.weightformer.dynamic_conv import DynamicDepthwiseConv
from mixers.weightformer.dynamic_linear import DynamicLinear

__all__ = ["DynamicDepthwiseConv", "DynamicLinear"]


def _register(
    name: str,
    formula: str,
    source: str,
    status: str,
    *,
    token: str = "depthwise-conv",
    ffn_in: str = "linear",
    token_options: Mapping[str, object] | None = None,
    ffn_options: Mapping[str, object] | None = None,
) -> None:
    """Enter a mixer that is dynamic in every third layer, in the slots that are given, and static in all others."""
    register_spec(
        MixerSpec(
            name=name,
            token=token,
            ffn_in=ffn_in,
            token_options=token_options or {},
            ffn_options=ffn_options or {},
            off_token="depthwise-conv",
            every=3,
            offset=1,
            complexity="linear",
            formula=formula,
            source=f"WeightFormer, arXiv 2605.01711, {source}",
            status=status,
            layout="grid",
        )
    )


def _status(strategy: str) -> str:
    return "certain" if strategy in ("bilateral", "adaptive") else "reconstruction"


_register(
    "weightformer",
    "X ∗ (K₀ + K̂(X)) in the mixer slot, X (W₀ + Ŵ(X)) in the FFN's first Linear, every third layer",
    "strategies bilateral + adaptive",
    "certain",
    token="dynamic-depthwise-conv",
    ffn_in="dynamic-linear",
)
for _strategy in get_args(dynamic_linear.Strategy):
    _register(
        f"wf-linear-{_strategy}",
        f"X (W₀ + Ŵ(X)), {_strategy}, in the FFN's first Linear every third layer; plain 3×3 in the mixer slot",
        "figure 3, dynamic Linear",
        _status(_strategy),
        ffn_in="dynamic-linear",
        ffn_options={"strategy": _strategy},
    )
for _strategy in get_args(dynamic_conv.Strategy):
    _register(
        f"wf-dwc-{_strategy}",
        f"X ∗ (K₀ + K̂(X)), {_strategy}, every third layer; plain FFN",
        "figure 3, dynamic depthwise convolution",
        _status(_strategy),
        token="dynamic-depthwise-conv",
        token_options={"strategy": _strategy},
    )
