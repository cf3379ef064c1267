"""What every PyTorch operator costs beside MACs: the table that the operator audit holds a model against.

An operator that is not in this table and that no MAC counter knows leaves a count that is a lower bound: it never counts as 0.
The units are those of `mixers.base`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

#: Pointwise operators: 1 per output element. In-place variants (a trailing underscore) count the same.
POINTWISE = frozenset(
    "abs add sub rsub mul div neg exp exp2 expm1 log log1p log2 log10 sqrt rsqrt square pow float_power reciprocal sigmoid "
    "tanh sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh erf erfc sinc "
    "gelu silu relu elu celu selu leaky_relu hardswish hardsigmoid hardtanh mish softplus log_sigmoid log_sigmoid_forward "
    "threshold relu6 prelu _prelu_kernel softshrink hardshrink "
    "clamp clamp_min clamp_max maximum minimum fmax fmin where masked_fill floor ceil round trunc frac sign sgn remainder fmod "
    "addcmul addcdiv lerp logaddexp logaddexp2 xlogy hypot nan_to_num logit angle polar conj_physical _conj_physical "
    "eq ne lt le gt ge logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor "
    "bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ "
    "bernoulli uniform normal exponential isnan isinf isfinite tril triu glu ger outer".split()
)
#: Reductions and running sums: per input element.
REDUCTIONS = {
    **dict.fromkeys("sum mean amax amin prod nansum any all argmax argmin max min aminmax count_nonzero".split(), 1),
    **dict.fromkeys("cumsum cumprod cummax cummin _cummax_helper _cummin_helper nonzero bincount trace".split(), 1),
    **{"linalg_vector_norm": 2, "norm": 2, "var": 3, "std": 3, "var_mean": 3, "std_mean": 3},
    # The greatest, a difference, an exponential and a sum.
    **{"logsumexp": 4, "logcumsumexp": 4, "_logcumsumexp": 4},
}
#: Normalisations: 5 per element.
NORMALISATIONS = frozenset(
    "native_layer_norm native_batch_norm native_group_norm _native_batch_norm_legit_no_training _native_batch_norm_legit "
    "_batch_norm_with_update batch_norm_with_update cudnn_batch_norm _fused_rms_norm _softmax _safe_softmax "
    "_log_softmax".split()
)
#: Moves of data, shapes and constants: free.
FREE = frozenset(
    "view _unsafe_view reshape _reshape_alias transpose t permute expand slice select unbind split split_with_sizes chunk "
    "narrow squeeze unsqueeze flatten unflatten cat stack clone copy contiguous alias detach lift_fresh lift as_strided "
    "_to_copy to type_as empty empty_like empty_strided zeros zeros_like ones ones_like full full_like new_empty new_zeros "
    "new_ones new_full new_empty_strided arange linspace logspace scalar_tensor fill zero index index_select gather scatter "
    "repeat repeat_interleave roll flip rot90 constant_pad_nd pad im2col unfold diagonal tril_indices triu_indices "
    "pixel_shuffle pixel_unshuffle meshgrid movedim expand_as view_as size numel _assert_async sym_size "
    "view_as_real view_as_complex real imag complex embedding eye one_hot channel_shuffle native_channel_shuffle take "
    "take_along_dim masked_select masked_scatter index_copy index_fill slice_scatter select_scatter diagonal_scatter "
    "diagonal_copy diag_embed diag resize set _local_scalar_dense _conj _neg_view resolve_conj resolve_neg "
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d max_unpool2d max_unpool3d randperm randint rand randn rand_like randn_like randint_like "
    "unsafe_split unsafe_split_with_sizes _assert_scalar stride is_same_size sym_stride sym_numel sym_storage_offset "
    "_assert_tensor_metadata block_diag atleast_1d atleast_2d atleast_3d _linalg_check_errors promote_types result_type".split()
)
#: Names that only the tracer (fvcore's) shows, of operators above that have been decomposed elsewhere: no MACs in them.
TRACED = frozenset(
    "layer_norm softmax log_softmax batch_norm group_norm instance_norm rms_norm dropout feature_dropout alpha_dropout "
    "Int Float Bool ScalarImplicit FloatImplicit IntImplicit NumToTensor floor_divide true_divide divide multiply subtract "
    "item tensor_split hsplit vsplit dsplit swapaxes swapdims moveaxis broadcast_tensors broadcast_to unsafe_chunk tensor mT "
    "mH T H numpy_T matrix_H adjoint dim is_floating_point is_complex is_nonzero len __getitem__ __not__ __contains__ "
    "linalg_norm linalg_vecdot frobenius_norm adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices avg_pool1d cosine_similarity "
    "pairwise_distance normalize conj absolute negative clip diff concat concatenate hstack vstack "
    "dstack column_stack row_stack ravel tile arctan arctan2 argsort msort argwhere "
    "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_hfft2 fft_ihfft2 "
    "fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn fft_fftshift fft_ifftshift fft_fftfreq fft_rfftfreq "
    "stft istft hann_window hamming_window blackman_window bartlett_window kaiser_window greater less "
    "greater_equal less_equal not_equal special_expit special_logsumexp special_softmax special_log_softmax special_expm1 "
    "special_erf special_log1p special_xlogy special_logit special_round special_exp2 "
    "_cast_Float _cast_Double _cast_Half _shape_as_tensor cross "
    "vander cumulative_trapezoid trapezoid kron quantile nanquantile _weight_norm nanmean "
    "mse_loss grid_sampler fold "
    "rrelu softmin softsign tanhshrink positive fix isposinf isneginf isclose "
    "fill_diagonal ".split()
)

#: Operators with MACs that also have an entry for elementwise work below. A variant of one, in place for instance, that
#: no MAC counter knows is an unknown operator, though its bare name is here.
MAC_OPERATORS = frozenset(
    "addmm baddbmm convolution mm bmm mv addmv dot vdot addbmm _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_linalg_solve_ex linalg_inv_ex linalg_cholesky_ex linalg_solve_triangular triangular_solve cholesky_solve "
    "linalg_lu_factor_ex linalg_lu_solve linalg_lu _linalg_det _linalg_slogdet affine_grid_generator".split()
)


def bare_name(name: str) -> str:
    """``aten::add_`` or ``aten.add_`` as ``add``; operators that begin with an underscore keep it."""
    name = name.replace("::", ".").split(".")[1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _numel(tensor: Tensor) -> int:
    return tensor.numel()


def _first(out: Any) -> Tensor:
    return out[0] if isinstance(out, (tuple, list)) else out


def _pool(sides: int) -> Callable[[Sequence[Any], Any], int]:
    """1 per element inside each window: output elements times the window's."""

    def count(args: Sequence[Any], out: Any) -> int:
        window = list(args[1]) * (sides if len(args[1]) == 1 else 1)
        return _numel(_first(out)) * math.prod(window)

    return count


def _adaptive_pool(sides: int) -> Callable[[Sequence[Any], Any], int]:
    def count(args: Sequence[Any], out: Any) -> int:
        shape, pooled = args[0].shape, _first(out).shape
        covered = (_covered(shape[-i], pooled[-i]) for i in range(1, sides + 1))
        return shape[:-sides].numel() * math.prod(covered)

    return count


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
    """A fused attention does the work of the explicit one: softmax of the scores, and scaling q and k; a mask is added."""
    q, k = args[0], args[1]
    masked = any(isinstance(a, Tensor) for a in args[3:])
    return (5 + masked) * q.shape[:-1].numel() * k.shape[-2] + _numel(q) + _numel(k)


def _sort(dim: int) -> Callable[[Sequence[Any], Any], int]:
    """n log₂ n comparisons, rounded, for each row of n."""

    def count(args: Sequence[Any], out: Any) -> int:
        n = _length(args[0], args[dim] if isinstance(args[dim], int) and not isinstance(args[dim], bool) else -1)
        return _numel(args[0]) // max(n, 1) * round(n * math.log2(max(n, 1)))

    return count


def _length(tensor: Tensor, dim: int) -> int:
    return tensor.shape[dim] if tensor.ndim else 1


def _topk(args: Sequence[Any], out: Any) -> int:
    """One look at each element, and the k best of each row sorted: n + k log₂ k, rounded."""
    x, k = args[0], args[1]
    n = _length(x, args[2] if len(args) > 2 else -1)
    return _numel(x) + _numel(x) // max(n, 1) * round(k * math.log2(max(k, 1)))


def _search(args: Sequence[Any], out: Any) -> int:
    """log₂ n comparisons, rounded up, for each value looked up among n boundaries."""
    boundaries = min((a for a in args[:2] if isinstance(a, Tensor)), key=lambda t: t.ndim)
    return _numel(out) * math.ceil(math.log2(max(2, boundaries.shape[-1] + 1)))


def _added(source: int) -> Callable[[Sequence[Any], Any], int]:
    """1 for each element of the source, which is added to where it belongs."""
    return lambda args, out: _numel(args[source]) if isinstance(args[source], Tensor) else _numel(args[source - 1])


def _index_put(args: Sequence[Any], out: Any) -> int:
    """Free as a move; 1 for each value that is added."""
    accumulate = len(args) > 3 and args[3]
    return 0 if not accumulate else _indexed(args[0], args[1])


def _indexed(x: Tensor, indices: Sequence[Tensor | None]) -> int:
    """How many elements of x an index names."""
    given = [i for i in indices if i is not None]
    places = 1 if not given else max(i.numel() for i in given)
    return places * math.prod(side for side, i in zip(x.shape, [*indices, *[None] * x.ndim], strict=False) if i is None)


def _grid_sample(args: Sequence[Any], out: Any) -> int:
    """The sum of a window for every output element: 2 a side for bilinear, 4 for bicubic; nearest is a move."""
    sides = args[1].shape[-1]
    window = {0: 2, 1: 0, 2: 4}[args[2]]
    return _numel(out) * window**sides


def _window(elements: int) -> Callable[[Sequence[Any], Any], int]:
    """An interpolation is the sum of a window for every output element."""
    return lambda args, out: elements * _numel(out)


# What factorisations and solves do beside their multiply-adds (`wfbench.measure.prices`): divisions and roots.
# A is (..., n, n) with m right-hand sides.


def _matrices(a: Tensor) -> tuple[int, int]:
    """How many square matrices, and their side."""
    return a.shape[:-2].numel(), a.shape[-1]


def _divisions(a: Tensor) -> int:
    """Of a factorisation LU: each element below the diagonal is divided once."""
    count, n = _matrices(a)
    return count * n * (n - 1) // 2


def _solve(args: Sequence[Any], out: Any) -> int:
    return _divisions(args[0]) + _numel(_first(out))


def _inverse(args: Sequence[Any], out: Any) -> int:
    return _divisions(args[0]) + _numel(args[0])


def _diagonal(args: Sequence[Any], out: Any) -> int:
    """Of Cholesky's factor and of a determinant: beside the divisions one root or product for each row."""
    count, n = _matrices(args[0])
    return _divisions(args[0]) + count * n


#: Operators whose elementwise work takes more than a name to tell: (arguments, output) to a count. The arguments stand in the
#: order of the schema.
SPECIAL: dict[str, Callable[[Sequence[Any], Any], int]] = {
    "addmm": _bias(0),
    "baddbmm": _bias(0),
    "addmv": _bias(0),
    "addbmm": _bias(0),
    "convolution": _bias(2),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot"), lambda args, out: 0),
    "addr": lambda args, out: 2 * _numel(out),
    "avg_pool2d": _pool(2),
    "avg_pool3d": _pool(3),
    "max_pool2d_with_indices": _pool(2),
    "max_pool3d_with_indices": _pool(3),
    "_adaptive_avg_pool2d": _adaptive_pool(2),
    "_adaptive_avg_pool3d": _adaptive_pool(3),
    "adaptive_max_pool2d": _adaptive_pool(2),
    "adaptive_max_pool3d": _adaptive_pool(3),
    # 2 a side linear, 4 cubic. Antialiased ones take wider windows where they shrink; those count as if they did not.
    "upsample_linear1d": _window(2),
    "upsample_bilinear2d": _window(4),
    "_upsample_bilinear2d_aa": _window(4),
    "upsample_trilinear3d": _window(8),
    "_upsample_bicubic2d_aa": _window(16),
    "upsample_bicubic2d": _window(16),
    "grid_sampler_2d": _grid_sample,
    "_grid_sampler_2d_cpu_fallback": _grid_sample,
    "grid_sampler_3d": _grid_sample,
    "affine_grid_generator": lambda args, out: 0,
    # A norm, 2 per element, and a product; a division for each norm.
    "_weight_norm_interface": lambda args, out: 3 * _numel(args[0]) + _numel(args[1]),
    "col2im": lambda args, out: _numel(args[0]),
    "sort": _sort(1),
    "kthvalue": _sort(2),
    "median": _sort(1),
    "mode": _sort(1),
    "topk": _topk,
    "searchsorted": _search,
    "bucketize": _search,
    "index_put": _index_put,
    "_unsafe_index_put": _index_put,
    "_index_put_impl": _index_put,
    "index_add": _added(3),
    "index_reduce": _added(3),
    "scatter_add": _added(3),
    "scatter_reduce": _added(3),
    "_fft_r2c": _fourier,
    "_fft_c2c": _fourier,
    "_fft_c2r": _fourier,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_linalg_solve_ex": _solve,
    "linalg_inv_ex": _inverse,
    "linalg_cholesky_ex": _diagonal,
    "linalg_solve_triangular": lambda args, out: 0 if _keyword(args, 4) else _numel(out),
    "triangular_solve": lambda args, out: 0 if _keyword(args, 4) else _numel(_first(out)),
    "cholesky_solve": lambda args, out: 2 * _numel(out),
    "linalg_lu_factor_ex": lambda args, out: _divisions(args[0]),
    "linalg_lu": lambda args, out: _divisions(args[0]),
    "linalg_lu_solve": lambda args, out: _numel(out),
    "_linalg_det": _diagonal,
    "_linalg_slogdet": lambda args, out: _diagonal(args, out) + args[0].shape[:-1].numel(),  # a logarithm of each factor
}


def _keyword(args: Sequence[Any], place: int) -> bool:
    """An argument that may be missing: whether the diagonal counts as ones, and nothing is divided by it."""
    return len(args) > place and bool(args[place])


#: Every operator without a MAC, under its bare name.
NO_MACS = POINTWISE | set(REDUCTIONS) | NORMALISATIONS | FREE | TRACED | (set(SPECIAL) - MAC_OPERATORS)


def elementwise_of(name: str, args: Sequence[Any], out: Any, overload: str = "") -> int | None:
    """Elementwise operations of one call of an operator; None for an operator that is not in the table.

    Args:
        name: of the operator, ``aten.add_``.
        args: its arguments in the order of its schema, with the defaults.
        out: its output.
        overload: of several forms of the operator, which one.
    """
    bare = bare_name(name)
    if bare == "scatter" and "reduce" in overload:
        return _numel(args[2])  # as many as places: scatter moves data for nothing, unless it also adds
    if bare in ("max", "min") and overload == "other":
        return _numel(out)
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
