"""What every PyTorch operator costs beside MACs: the table that the operator audit holds a model against.

An operator that is not in this table and that no MAC counter knows makes a count fail: it never counts as 0.
The units are those of `mixers.base`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

#: Pointwise operators: 1 per output element. In-place variants (a trailing underscore) count the same.
POINTWISE = frozenset(
    "abs add sub rsub mul div neg exp exp2 expm1 log log1p log2 sqrt rsqrt square pow reciprocal sigmoid tanh sin cos erf "
    "gelu silu relu elu celu selu leaky_relu hardswish hardsigmoid hardtanh mish softplus log_sigmoid threshold relu6 "
    "clamp clamp_min clamp_max maximum minimum where masked_fill floor ceil round sign remainder addcmul addcdiv lerp "
    "eq ne lt le gt ge logical_not logical_and logical_or bitwise_not bitwise_and bitwise_or "
    "bernoulli uniform normal isnan isinf isfinite tril triu glu".split()
)
#: Reductions: per input element.
REDUCTIONS = {"sum": 1, "mean": 1, "amax": 1, "amin": 1, "linalg_vector_norm": 2, "norm": 2, "var": 3, "std": 3, "var_mean": 3}
#: Normalisations: 5 per element.
NORMALISATIONS = frozenset(
    "native_layer_norm native_batch_norm native_group_norm _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_fused_rms_norm _softmax _safe_softmax _log_softmax".split()
)
#: Moves of data, shapes and constants: free.
FREE = frozenset(
    "view _unsafe_view reshape _reshape_alias transpose t permute expand slice select unbind split split_with_sizes chunk "
    "narrow squeeze unsqueeze flatten unflatten cat stack clone copy contiguous alias detach lift_fresh as_strided "
    "_to_copy to type_as empty empty_like empty_strided zeros zeros_like ones ones_like full full_like new_empty new_zeros "
    "new_ones new_full new_empty_strided arange linspace scalar_tensor fill zero index index_select gather scatter "
    "repeat repeat_interleave roll flip constant_pad_nd pad reflection_pad2d replication_pad2d im2col unfold diagonal "
    "pixel_shuffle pixel_unshuffle meshgrid movedim expand_as view_as size numel _assert_async sym_size "
    "view_as_real view_as_complex real imag complex embedding".split()
)
#: Names that only the tracer (fvcore's) shows, of operators above that have been decomposed elsewhere.
TRACED = frozenset(
    "layer_norm softmax log_softmax batch_norm group_norm rms_norm dropout feature_dropout adaptive_avg_pool2d avg_pool2d "
    "_adaptive_avg_pool2d upsample_bicubic2d _upsample_bicubic2d_aa Int ScalarImplicit NumToTensor floor_divide item "
    "tensor_split swapaxes rand rand_like broadcast_tensors unsafe_split unsafe_chunk tensor mT numpy_T dim is_floating_point "
    "adaptive_max_pool2d upsample_bilinear2d linalg_norm frobenius_norm fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 "
    "fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn".split()
)

#: Operators with MACs that also have an entry for elementwise work below. A variant of one, in place for instance, that
#: no MAC counter knows is an unknown operator, though its bare name is here.
MAC_OPERATORS = frozenset(
    "addmm baddbmm convolution mm bmm _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention".split()
)

#: Every operator without a MAC, under its bare name.
NO_MACS = POINTWISE | set(REDUCTIONS) | NORMALISATIONS | FREE | TRACED


def bare_name(name: str) -> str:
    """``aten::add_`` or ``aten.add_`` as ``add``; operators that begin with an underscore keep it."""
    name = name.replace("::", ".").split(".")[1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _numel(tensor: Tensor) -> int:
    return tensor.numel()


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, (tuple, list)) else out


def _avg_pool2d(args: Sequence[Any], out: Any) -> int:
    window = args[1] if len(args[1]) == 2 else (args[1][0], args[1][0])
    return _numel(out) * window[0] * window[1]


def _adaptive_avg_pool2d(args: Sequence[Any], out: Any) -> int:
    (h, w), (rows, columns) = args[0].shape[-2:], out.shape[-2:]
    return args[0].shape[:-2].numel() * _covered(h, rows) * _covered(w, columns)


def _covered(side: int, windows: int) -> int:
    """The sum of the window lengths of adaptive pooling along one side."""
    return sum(-(-(i + 1) * side // windows) - i * side // windows for i in range(windows))


def _bias(index: int) -> Callable[[Sequence[Any], Any], int]:
    def count(args: Sequence[Any], out: Any) -> int:
        return _numel(out) if args[index] is not None else 0

    return count


def _fourier(args: Sequence[Any], out: Any) -> int:
    """5 n log₂ n, rounded, for each transform; n counts real elements, of which a half spectrum does not show all."""
    full = max(args[0], out, key=_numel)
    n = math.prod(full.shape[dim] for dim in args[1])
    return full.numel() // n * round(5 * n * math.log2(n))


def _attention(args: Sequence[Any], out: Any) -> int:
    """A fused attention does the work of the explicit one: softmax of the scores, and scaling q and k."""
    q, k = args[0], args[1]
    return 5 * q.shape[:-1].numel() * k.shape[-2] + _numel(q) + _numel(k)


#: Operators whose elementwise work takes more than a name to tell: (arguments, output) to a count.
SPECIAL: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "addmm": _bias(0),
    "baddbmm": _bias(0),
    "convolution": _bias(2),
    "mm": lambda args, out: 0,
    "bmm": lambda args, out: 0,
    "avg_pool2d": _avg_pool2d,
    "_adaptive_avg_pool2d": _adaptive_avg_pool2d,
    # An interpolation is the sum of a window for every output element: 2×2 bilinear, 4×4 bicubic.
    "upsample_bilinear2d": lambda args, out: 4 * _numel(out),
    "_upsample_bicubic2d_aa": lambda args, out: 16 * _numel(out),
    "upsample_bicubic2d": lambda args, out: 16 * _numel(out),
    "_fft_r2c": _fourier,
    "_fft_c2c": _fourier,
    "_fft_c2r": _fourier,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}


def elementwise_of(name: str, args: Sequence[Any], out: Any) -> int | None:
    """Elementwise operations of one call of an operator; None for an operator that is not in the table."""
    bare = bare_name(name)
    if bare in SPECIAL:
        return SPECIAL[bare](args, out)
    if bare in FREE:
        return 0
    if bare in POINTWISE:
        return _numel(_first(out))
    if bare in NORMALISATIONS:
        return 5 * _numel(_first(out))
    if bare in REDUCTIONS:
        return REDUCTIONS[bare] * _numel(args[0])
    return None
