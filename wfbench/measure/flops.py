"""Counting MACs so that the number can be trusted: three counts that agree, or an error.

1. PyTorch's `FlopCounterMode` on the meta device. It is right for matmuls, SDPA and convolutions, and silently 0 for an
   operator it does not know; so every operator that runs is audited against `wfbench.measure.operators`.
2. fvcore, on the CPU, with handlers of our own: alone it counts 0 for `scaled_dot_product_attention` and `baddbmm`
   (softmax attention then looks linear) and divides a broadcast matmul by its batch.
3. The closed form that each module declares.

They must agree exactly, in the total and module by module.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_jit, einsum_flop_jit, get_shape, linear_flop_jit
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mixers.base import evaluated_by
from wfbench.errors import InputError
from wfbench.measure.meter import COUNTED, UNKNOWN_TO_PYTORCH, FusedAttention, Meter
from wfbench.measure.operators import NO_MACS, bare_name

#: fvcore runs the model on real tensors; beyond this many input pixels it does not run, and two counts have to do.
FVCORE_MOST_PIXELS = 1024 * 1024


class CountError(RuntimeError):
    """The counts disagree, or an operator is unknown: there is no number to report."""


@dataclass(frozen=True)
class FlopCount:
    """Work of one forward pass, per image.

    Attributes:
        macs: multiply-adds.
        elementwise: other operations on elements, in the units of `mixers.base`.
        activations: elements that operators with MACs (convolutions, matrix products, attention) put out.
        bytes_least: bytes that any execution of the whole batch moves at least once, by image: weights and input read,
            output written.
        bytes_moved: bytes that the operators read and wrote, each for itself, by image; what fusing operators can save.
        bytes_alive: the most bytes alive at the same time, of the whole batch: weights, input and activations.
        by_operator: MACs by PyTorch operator.
        by_module: MACs by module name; "" is the whole model.
        counts: the MACs by each count that was made; they are equal.
        path: the evaluation path counted.
    """

    macs: float
    elementwise: float
    activations: float
    bytes_least: float
    bytes_moved: float
    bytes_alive: int
    by_operator: Mapping[str, float]
    by_module: Mapping[str, float]
    counts: Mapping[str, float]
    path: str

    @property
    def flops(self) -> float:
        """Floating-point operations of the MACs: two each."""
        return 2 * self.macs


def count_flops(
    model: nn.Module, inputs: Sequence[int] | tuple[Tensor, ...], path: str = "released", *, fused_attention: bool = True
) -> FlopCount:
    """Count the work of ``model``'s forward pass, as in evaluation, per image.

    Args:
        model: a model with ``declared_macs(image_size, batch, path)``, such as `wfbench.models.create` makes, compiled or
            not, in training or not; it is left as it was.
        inputs: the shape of the image batch, (B, C, H, W), or a tuple of tensors, the first of that shape; what else the
            model takes follows (of a DiT: x, t, y), or comes from its ``example_inputs``.
        path: the evaluation path (see `mixers.base.PATHS`): that is the one that runs, and the one declared.
        fused_attention: whether attention is one operator, whose N×N weights are not moved, or several, of which they are.

    Raises:
        CountError: if the counts differ, naming module and operators, or an operator is unknown, naming it.
        InputError: if the model or a mixer declares no MACs.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile: the graph's operators are those of the module
    tensors = _as_tensors(model, inputs)
    batch, height, width = tensors[0].shape[0], *tensors[0].shape[-2:]
    declared = _declared(model, (height, width), batch, path)
    with _as_in_evaluation(model), evaluated_by(model, path):
        counted = _flop_counter(model, tensors, fused_attention)
        _compare(declared, counted.macs, "FlopCounterMode", counted.operators)
        counts = {"declared": sum(declared.values()) / batch, "flop_counter": counted.macs[""] / batch}
        if height * width <= FVCORE_MOST_PIXELS:
            # A large batch is traced at batch 1: the closed form says what that must give.
            few = tensors if batch * height * width <= FVCORE_MOST_PIXELS else tuple(t[:1] for t in tensors)
            traced = _fvcore(model, few)
            _compare(_declared(model, (height, width), few[0].shape[0], path), traced, "fvcore", {})
            counts["fvcore"] = traced[""] / few[0].shape[0]
    return FlopCount(
        macs=_whole(counted.macs[""] / batch),
        elementwise=_whole(counted.meter.elementwise / batch),
        activations=_whole(counted.meter.activations / batch),
        bytes_least=_whole(counted.least / batch),
        bytes_moved=_whole(counted.meter.moved / batch),
        bytes_alive=counted.meter.peak,
        by_operator={name: _whole(macs / batch) for name, macs in counted.operators[""].items()},
        by_module={name: _whole(macs / batch) for name, macs in counted.macs.items()},
        counts=counts,
        path=path,
    )


def bytes_of_training(model: nn.Module, inputs: Sequence[int] | tuple[Tensor, ...], *, fused_attention: bool = True) -> int:
    """The most bytes alive at once in a training step in the model's dtype, by the shapes alone.

    Weights, input, what the forward pass keeps for the backward pass, gradients, and the two moments of AdamW. What a kernel
    allocates for itself is not seen.
    """
    model = getattr(model, "_orig_mod", model)
    state = {name: t.detach().to("meta").requires_grad_(t.requires_grad) for name, t in model.named_parameters()}
    buffers = {name: t.to("meta") for name, t in model.named_buffers()}
    given = tuple(t.to("meta") for t in _as_tensors(model, inputs))
    attention = FusedAttention() if fused_attention else contextlib.nullcontext()
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with torch.inference_mode(False), torch.enable_grad(), Meter() as meter:
            meter.watch([*state.values(), *buffers.values(), *given])
            with attention:
                result = torch.func.functional_call(model, (state, buffers), given)
            result.sum().backward()
    finally:
        for module, mode in modes:
            module.training = mode
    return meter.peak + 2 * sum(t.numel() * t.element_size() for t in state.values() if t.requires_grad)


def _as_tensors(model: nn.Module, inputs: Sequence[int] | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if all(isinstance(x, Tensor) for x in inputs):
        return tuple(x.detach().cpu() for x in inputs if isinstance(x, Tensor))
    if all(isinstance(x, int) for x in inputs) and len(inputs) == 4:
        dtype = next((p.dtype for p in model.parameters()), torch.float32)
        batch, _, *size = (x for x in inputs if isinstance(x, int))
        example = getattr(model, "example_inputs", None)  # what a model takes beside the images: times and classes
        more = example(batch, tuple(size), torch.Generator())[1:] if example else ()
        return (torch.zeros(*inputs, dtype=dtype), *more)
    raise InputError("cannot count for these inputs", got=repr(inputs), expected="a shape (B, C, H, W) or a tuple of tensors")


def _declared(model: nn.Module, image_size: tuple[int, int], batch: int, path: str) -> dict[str, int]:
    declare = getattr(model, "declared_macs", None)
    if declare is None:
        raise InputError(
            "the model declares no MACs",
            got=type(model).__qualname__,
            expected="a method declared_macs(image_size, batch, path) -> dict of module names to MACs",
        )
    return declare(image_size, batch, path)


@contextlib.contextmanager
def _as_in_evaluation(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference mode: there, composite operators would reach the counters undecomposed.
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _whole(x: float) -> float:
    return int(x) if float(x).is_integer() else x


# --- count 1: FlopCounterMode on the meta device, audited


@dataclass(frozen=True)
class _Counted:
    macs: dict[str, int]  # by module, "" for all
    operators: dict[str, dict[str, int]]  # by module and operator
    meter: Meter
    least: int


def _flop_counter(model: nn.Module, tensors: tuple[Tensor, ...], fused: bool) -> _Counted:
    state = {name: t.detach().to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
    inputs = tuple(t.to("meta") for t in tensors)
    attention = FusedAttention() if fused else contextlib.nullcontext()
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_PYTORCH) as counter, Meter() as meter, attention:
        meter.watch([*state.values(), *inputs])
        output = torch.func.functional_call(model, state, inputs)
    # A MAC operator may lack an elementwise entry only if the counter knows it.
    known = {str(op) for op in COUNTED}
    if meter.unknown:
        listed = ", ".join(
            f"{name} in {module or 'the model itself'}"
            f"{'' if name not in known else ' (its MACs are known, its elementwise work is not)'}"
            for name, module in meter.unknown.items()
        )
        raise CountError(f"unknown operator: {listed}; no count knows what it costs, so the model has no MACs to report")
    least = sum(t.numel() * t.element_size() for t in tree_leaves((state, inputs, output)) if isinstance(t, Tensor))
    root = type(model).__name__
    macs, operators = {}, {}
    for name, ops in counter.get_flop_counts().items():
        own = "" if name in ("Global", root) else name.partition(".")[2]
        operators[own] = {str(op): flops // 2 for op, flops in ops.items()}
        macs[own] = sum(operators[own].values())
    macs.setdefault("", 0)
    operators.setdefault("", {})
    return _Counted(macs, operators, meter, least)


# --- count 2: fvcore with handlers of our own


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    """(…, m, k) @ (…, k, n), broadcast or not: every output element is a contraction over k."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    return math.prod(_shape(outputs[0])) * _shape(inputs[1])[-1]


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """q (…, n, d), k (…, m, d), v (…, m, e): QKᵀ, then its product with V."""
    q, k, v = (_shape(x) for x in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _shape(value: Any) -> list[int]:
    shape = get_shape(value)
    if shape is None:
        raise CountError("fvcore's trace lost the shape of a tensor, so its MACs cannot be counted")
    return shape


#: The operators with MACs, as fvcore's trace names them.
FVCORE_HANDLERS: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "aten::linear": linear_flop_jit,
    "aten::addmm": _baddbmm,
    "aten::mm": _matmul,
    "aten::bmm": _matmul,
    "aten::matmul": _matmul,
    "aten::addmm_": _baddbmm,
    "aten::baddbmm": _baddbmm,
    "aten::baddbmm_": _baddbmm,
    "aten::_convolution": conv_flop_jit,
    "aten::einsum": einsum_flop_jit,
    "aten::scaled_dot_product_attention": _attention,
}


def _fvcore(model: nn.Module, tensors: tuple[Tensor, ...]) -> dict[str, int]:
    """MACs by module, "" for all."""
    analysis = FlopCountAnalysis(model, tensors).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.clear_op_handles()  # fvcore's own would add elementwise work to the MACs
    analysis.set_op_handle(**FVCORE_HANDLERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        counts = analysis.by_module_and_operator()
    unknown = {op for op in analysis.unsupported_ops() if not op.startswith("aten::") or bare_name(op) not in NO_MACS}
    if unknown:
        where = {op: max((m for m in counts if op in analysis.unsupported_ops(m)), key=len) for op in sorted(unknown)}
        listed = ", ".join(f"{op} in {module or 'the model itself'}" for op, module in where.items())
        raise CountError(f"unknown operator: {listed}; fvcore has no handler for it, so the model has no MACs to report")
    return {name: int(sum(Counter(ops).values())) for name, ops in counts.items()}


# --- agreement


def _compare(
    declared: Mapping[str, int], counted: Mapping[str, int], counter: str, operators: Mapping[str, Mapping[str, int]]
) -> None:
    """The counter's MACs must equal the declared ones, in each declared module and in total."""
    wrong = [
        f"{module}: declared {macs:,}, {counter} counts {counted.get(module, 0):,}{_listed(operators.get(module, {}))}"
        for module, macs in declared.items()
        if counted.get(module, 0) != macs
    ]
    total = sum(declared.values())
    if not wrong and counted[""] != total:
        wrong = [f"outside the declared modules: declared {total:,} in all, {counter} counts {counted['']:,}"]
    if wrong:
        more = f" (and {len(wrong) - 3} modules more)" if len(wrong) > 3 else ""
        raise CountError(f"the MAC counts disagree: {'; '.join(wrong[:3])}{more}")


def _listed(operators: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {macs:,}' for name, macs in operators.items())})" if operators else ""
