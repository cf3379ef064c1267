"""Counting MACs so that the number can be trusted: counts that agree, or an error; where it is a bound, it says so.

1. PyTorch's `FlopCounterMode` on the meta device (on the CPU for a model that does not run there). It is right for matmuls,
   SDPA and convolutions, and silently 0 for an operator it does not know; so every operator that runs is audited against
   `wfbench.measure.operators`.
2. fvcore, on the CPU, with handlers of our own: alone it counts 0 for `scaled_dot_product_attention` and `baddbmm`
   (softmax attention then looks linear), divides a broadcast matmul by its batch, and rounds an einsum.
3. The closed form that each module declares, where it declares one.

They must agree exactly, in the total and module by module. A number that two counters and a closed form share is "proved", one
of the two counters alone "counted". An operator that a counter does not know leaves the work of all others: "at least" that.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import conv_flop_jit, get_shape
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mixers.base import evaluated_by
from mixers.counting import price_of
from wfbench.errors import InputError, UndeclaredError
from wfbench.measure.kept import put_back
from wfbench.measure.latency import is_out_of_memory
from wfbench.measure.meter import FusedAttention, Meter, as_written, formulas, named
from wfbench.measure.operators import NO_MACS, bare_name
from wfbench.measure.prices import MACS, PriceError, einsum_macs, macs_of

#: fvcore runs the model on real tensors; beyond this many input pixels it does not run, and two counts have to do. For a model
#: that declares no MACs it is the second count, and runs while the first finds no more bytes alive, and MACs, than these.
FVCORE_MOST_PIXELS = 1024 * 1024
FVCORE_MOST_BYTES = 4 * 2**30
FVCORE_MOST_MACS = 10**12

#: How sure a number of MACs is: two counters and a closed form agree; the two counters do; the sum of what is known.
Sure = Literal["proved", "counted", "at least"]


class CountError(RuntimeError):
    """The counts disagree: there is no number to report."""


@dataclass(frozen=True)
class FlopCount:
    """Work of one forward pass, per image.

    Attributes:
        macs: multiply-adds; where `sure` is "at least", of the operators that are known.
        sure: "proved" (counters and declaration agree), "counted" (two counters agree, nothing is declared) or "at least".
        unknown: of a lower bound, the operators that a counter does not know, each with the innermost module that runs it.
        why_bound: what makes it a lower bound, in words; None if it is none.
        elementwise: other operations on elements, in the units of `mixers.base`.
        elementwise_unknown: the operators that this number lacks; with one, it is a lower bound too.
        activations: elements that operators with MACs (convolutions, matrix products, attention) put out.
        bytes_least: bytes that any execution of the whole batch moves at least once, by image: weights and input read,
            output written.
        bytes_moved: bytes that the operators read and wrote, each for itself, by image; what fusing operators can save.
        bytes_alive: the most bytes alive at the same time, of the whole batch: weights, input and activations.
        by_operator: MACs by PyTorch operator.
        elementwise_by_operator: elementwise operations by PyTorch operator, without those that do none.
        by_module: MACs by module name; "" is the whole model.
        counts: the MACs by each count that was made; they are equal, but for a lower bound.
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
    sure: Sure = "proved"
    unknown: tuple[str, ...] = ()
    why_bound: str | None = None
    elementwise_unknown: tuple[str, ...] = ()
    elementwise_by_operator: Mapping[str, float] = field(default_factory=dict)

    @property
    def number(self) -> float | None:
        """The MACs, where that is a number and not a bound."""
        return None if self.sure == "at least" else self.macs

    @property
    def flops(self) -> float:
        """Floating-point operations of the MACs: two each."""
        return 2 * self.macs


def count_flops(
    model: nn.Module, inputs: Sequence[int] | tuple[Tensor, ...], path: str = "released", *, fused_attention: bool = True
) -> FlopCount:
    """Count the work of ``model``'s forward pass, as in evaluation, per image.

    Args:
        model: such as `wfbench.models.create` makes, compiled or not, in training or not; it is left as it was. Where it has
            a method ``declared_macs(image_size, batch, path)``, and its mixers ``macs``, that must agree with the counters.
        inputs: the shape of the image batch, (B, C, H, W), or a tuple of tensors, the first of that shape; what else the
            model takes follows (of a DiT: x, t, y), or comes from its ``example_inputs``.
        path: the evaluation path (see `mixers.base.PATHS`): that is the one that runs, and the one declared.
        fused_attention: whether attention is one operator, whose N×N weights are not moved, or several, of which they are.

    Raises:
        CountError: if the counts differ, naming module and operators.
        InputError: for an input that is no image batch.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile: the graph's operators are those of the module
    tensors = _as_tensors(model, inputs)
    batch, height, width = tensors[0].shape[0], *tensors[0].shape[-2:]
    declare = partial(_declared, model, (height, width), path=path)
    declared = declare(batch)
    # A large batch is traced at batch 1: the closed form, or the other counter, says what that must give.
    large = batch * height * width > FVCORE_MOST_PIXELS
    few = tuple(t[:1] for t in tensors) if large else tensors
    with _as_in_evaluation(model), evaluated_by(model, path), as_written(), torch.random.fork_rng(devices=[]):
        try:
            counted = _flop_counter(model, tensors, fused_attention, possible_on_cpu=not large)
            counted_few = counted
            if large and batch > 1 and declared is None:
                counted_few = _flop_counter(model, few, fused_attention, possible_on_cpu=False)
            traced = None
            if height * width <= FVCORE_MOST_PIXELS or (declared is None and _affordable(counted_few)):
                traced = _fvcore(model, few)
        except PriceError as e:
            raise CountError(str(e)) from e
    unknown = {op: dict(places) for op, places in counted.unknown.items()}
    for op, places in (traced.unknown if traced else {}).items():
        unknown.setdefault(op, {}).update(places)
    open_modules = {above for places in unknown.values() for place in places for above in _above(place)}
    counts = {"flop_counter": counted.macs[""] / batch}
    if declared is not None:
        _compare(declared, counted.macs, "FlopCounterMode", counted.operators, open_modules)
        counts = {"declared": sum(declared.values()) / batch, **counts}
    if traced is not None and not traced.error:
        scale = few[0].shape[0]
        if declared is not None:
            here = declared if few is tensors else declare(scale)
            assert here is not None
            _compare(here, traced.macs, "fvcore", {}, open_modules)
        elif not open_modules:
            _agree(counted_few, traced.macs)
        counts["fvcore"] = traced.macs[""] / scale
    sure: Sure = "counted" if declared is None else "proved"
    where = tuple(f"{op} in {_listed_modules(places)}" for op, places in unknown.items())
    why = f"unknown operator: {', '.join(where)}" if "" in open_modules else None
    if why is None and len(counts) == 1:
        failed = traced.error if traced is not None else "it would run the model, which is too large for that"
        why = f"one counter alone: nothing is declared, and fvcore has no count ({failed})"
    return FlopCount(
        macs=_whole(counts["flop_counter"] if why is None else max(counts["flop_counter"], counts.get("fvcore", 0))),
        elementwise=_whole(counted.meter.elementwise / batch),
        activations=_whole(counted.meter.activations / batch),
        bytes_least=_whole(counted.least / batch),
        bytes_moved=_whole(counted.meter.moved / batch),
        bytes_alive=counted.meter.peak,
        by_operator={name: _whole(macs / batch) for name, macs in counted.operators[""].items()},
        by_module={name: _whole(macs / batch) for name, macs in counted.macs.items()},
        counts=counts,
        path=path,
        sure=sure if why is None else "at least",
        unknown=where,
        why_bound=why,
        elementwise_unknown=tuple(sorted(counted.meter.unknown)),
        elementwise_by_operator={name: _whole(n / batch) for name, n in counted.meter.by_operator.most_common()},
    )


def _affordable(counted: _Counted) -> bool:
    """Whether a model that declares nothing may run for its second count, though the image is large."""
    return counted.meter.peak <= FVCORE_MOST_BYTES and counted.macs[""] <= FVCORE_MOST_MACS


def _above(module: str) -> Iterator[str]:
    """A module, those that hold it, and "" for the whole model."""
    parts = module.split(".") if module else []
    yield from (".".join(parts[:k]) for k in range(len(parts) + 1))


def _innermost(modules: Sequence[str]) -> list[str]:
    """Those of the modules that hold none of the others."""
    return [m for m in modules if not any(other != m and m in _above(other) for other in modules)]


def _listed_modules(places: Mapping[str, None]) -> str:
    """One module, and how many more."""
    first = next(iter(places)) or "the model itself"
    return first + (f" (and {len(places) - 1} modules more)" if len(places) > 1 else "")


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
        with torch.inference_mode(False), torch.enable_grad(), as_written(), put_back(model, "meta"), Meter() as meter:
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
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        batch, _, *size = (x for x in inputs if isinstance(x, int))
        example = getattr(model, "example_inputs", None)  # what a model takes beside the images: times and classes
        more = example(batch, tuple(size), torch.Generator())[1:] if example else ()
        return (torch.zeros(*inputs, dtype=dtype), *more)
    raise InputError(
        "cannot count for these inputs",
        got=repr(inputs),
        expected="a shape (B, C, H, W) or a tuple of tensors",
        remedy="for one RGB image of 224 px: (1, 3, 224, 224)",
    )


def _declared(model: nn.Module, image_size: tuple[int, int], batch: int, path: str) -> dict[str, int] | None:
    """MACs by module, by the model's closed form; None where there is none, or a mixer lacks its own."""
    declare = getattr(model, "declared_macs", None)
    if declare is None:
        return None
    try:
        return declare(image_size, batch, path)
    except UndeclaredError:
        return None


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
    unknown: dict[str, dict[str, None]]  # operators whose MACs nobody knows, each with the modules that run it


def _flop_counter(model: nn.Module, tensors: tuple[Tensor, ...], fused: bool, possible_on_cpu: bool) -> _Counted:
    """On the meta device; if the model does not run there, with it as the default device, and then on the CPU.

    What decides in Python by the values of a tensor, or makes tensors on the CPU whatever its input is on, needs the latter.
    """
    try:
        return _flop_counter_on("meta", model, tensors, fused)
    except PriceError:
        raise
    except Exception as first:
        with contextlib.suppress(Exception), torch.device("meta"):
            return _flop_counter_on("meta", model, tensors, fused)
        if not possible_on_cpu or any(p.is_meta for p in model.parameters()):
            raise
        try:
            return _flop_counter_on("cpu", model, tensors, fused)
        except PriceError:
            raise
        except Exception:
            raise first from None


def _flop_counter_on(device: str, model: nn.Module, tensors: tuple[Tensor, ...], fused: bool) -> _Counted:
    state = {name: t.detach().to(device) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    inputs = tuple(t.to(device) for t in tensors)
    attention = FusedAttention() if fused else contextlib.nullcontext()
    counting = FlopCounterMode(display=False, custom_mapping=formulas())
    with put_back(model, device), counting as counter, Meter() as meter, attention:
        meter.watch([*state.values(), *inputs])
        output = torch.func.functional_call(model, state, inputs)
    # A MAC operator may lack an elementwise entry only if the counter knows it.
    known = {named(op) for op in counter.flop_registry}
    unknown = {name: places for name, places in meter.unknown.items() if name not in known}
    least = sum(t.numel() * t.element_size() for t in tree_leaves((state, inputs, output)) if isinstance(t, Tensor))
    root = type(model).__name__
    macs, operators = {}, {}
    for name, ops in counter.get_flop_counts().items():
        own = "" if name in ("Global", root) else name.partition(".")[2]
        operators[own] = {str(op): flops // 2 for op, flops in ops.items()}
        macs[own] = sum(operators[own].values())
    macs.setdefault("", 0)
    operators.setdefault("", {})
    return _Counted(macs, operators, meter, least, unknown)


# --- count 2: fvcore with handlers of our own


def _linear(inputs: list[Any], outputs: list[Any]) -> int:
    """x (…, k) times a weight (n, k) or (k): every output element is a contraction over k."""
    return _real(math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1], outputs[0])


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    """(…, m, k) @ (…, k, n), broadcast or not: every output element is a contraction over k."""
    return _real(math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1], outputs[0])


def _baddbmm(inputs: list[Any], outputs: list[Any]) -> int:
    return _real(math.prod(_shape(outputs[0])) * _shape(inputs[1])[-1], outputs[0])


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    """Our own: fvcore's reads the rounded figure that numpy prints."""
    shapes = [_shape(x) for x in inputs[1].node().inputs()]
    path = _value(inputs[2]) if len(inputs) > 2 else None
    return _real(einsum_macs(inputs[0].toIValue(), shapes, path), outputs[0])


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """q (…, n, d), k (…, m, d), v (…, m, e) to (…, n, e): QKᵀ, then its product with V, whatever a mask leaves out."""
    q, k, v, out = (_shape(x) for x in (*inputs[:3], outputs[0]))
    return math.prod(out[:-1]) * k[-2] * (q[-1] + v[-1])


def _shape(value: Any) -> list[int]:
    shape = get_shape(value)
    if shape is None:
        raise CountError("fvcore's trace lost the shape of a tensor, so its MACs cannot be counted")
    return shape


def _real(macs: int, value: Any) -> int:
    """A complex multiply-add is four real ones."""
    return 4 * macs if str(value.type().scalarType()).startswith("Complex") else macs


#: The operators with MACs, as fvcore's trace names them. Beside them it knows those of `wfbench.measure.prices`.
FVCORE_HANDLERS: dict[str, Callable[[list[Any], list[Any]], Any]] = {
    "aten::linear": _linear,
    "aten::addmm": _baddbmm,
    "aten::mm": _matmul,
    "aten::bmm": _matmul,
    "aten::matmul": _matmul,
    "aten::linalg_matmul": _matmul,
    "aten::mv": _matmul,
    "aten::dot": _matmul,
    "aten::addmm_": _baddbmm,
    "aten::addmv": _baddbmm,
    "aten::baddbmm": _baddbmm,
    "aten::baddbmm_": _baddbmm,
    "aten::_convolution": conv_flop_jit,
    "aten::einsum": _einsum,
    "aten::scaled_dot_product_attention": _attention,
}

_DTYPES = {"ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Long": torch.int64, "Bool": torch.bool}
_SAME = ("aten::Int", "prim::NumToTensor", "aten::ScalarImplicit", "aten::IntImplicit")


def _value(value: Any) -> Any:
    """What a value of the trace stands for: a tensor as its shape on the meta device, lists, numbers; else None."""
    node = value.node()
    if node.kind() in _SAME:
        return _value(node.inputsAt(0))
    if node.kind() == "aten::size" and (of := list(node.inputs())) and len(of) == 2:
        return _shape(of[0])[_value(of[1])]
    if value.type().kind() == "TensorType" and value.type().sizes() is not None:
        dtype = _DTYPES.get(str(value.type().scalarType()), torch.float32)
        return torch.empty(value.type().sizes(), dtype=dtype, device="meta")
    if node.kind() == "prim::ListConstruct":
        return [_value(x) for x in node.inputs()]
    return value.toIValue()


def _by_our_price(name: str, inputs: list[Any], outputs: list[Any]) -> int:
    """By the table, or the word of a mixer, that the other counter reads too."""
    results = [_value(x) for x in outputs]
    macs = macs_of(name, [_value(x) for x in inputs], results[0] if len(results) == 1 else results)
    assert macs is not None
    return macs


class _Handlers(dict[str, Callable[[list[Any], list[Any]], Any]]):
    """fvcore's table of handlers: ours by name, those of our prices, and functions with a gradient of their own looked into."""

    def __init__(self) -> None:
        super().__init__(FVCORE_HANDLERS)
        self.unknown: dict[str, dict[str, None]] = {}
        self._followers = 0

    def __contains__(self, kind: object) -> bool:
        return super().__contains__(kind) or (isinstance(kind, str) and self._other(kind) is not None)

    def __getitem__(self, kind: str) -> Callable[[list[Any], list[Any]], Any]:
        if super().__contains__(kind):
            return super().__getitem__(kind)
        other = self._other(kind)
        assert other is not None
        return other

    def _other(self, kind: str) -> Callable[[list[Any], list[Any]], Any] | None:
        if kind.startswith("prim::PythonOp"):
            return self._looked_into
        ours = kind.startswith("aten::") and bare_name(kind) in MACS
        return partial(_by_our_price, kind) if ours or price_of(kind) is not None else None

    def _looked_into(self, inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        """The operators within the forward of a ``torch.autograd.Function``.

        Functions that it calls stand in its graph twice: as they are, and taken apart. In the graph of the model they follow
        it once more, and are passed over.
        """
        if self._followers:
            self._followers -= 1
            return Counter()
        node, counts = outputs[0].node(), Counter[str]()
        if not node.hasAttribute("Subgraph"):
            return self._refuse(node, f"the function {node.pyname()}")
        for inner in node.g("Subgraph").nodes():
            kind = inner.kind()
            if kind == "prim::PythonOp":
                self._followers += 1
            elif kind in self:
                found = self[kind](list(inner.inputs()), list(inner.outputs()))
                counts += found if isinstance(found, Counter) else Counter({bare_name(kind): found})
            elif not kind.startswith("prim::") and not _is_known(kind):
                self._refuse(node, kind)
        return counts

    def _refuse(self, node: Any, operator: str) -> Counter[str]:
        self.unknown.setdefault(operator, {})[node.scopeName().split("/")[-1]] = None
        return Counter()


def _is_known(kind: str) -> bool:
    """Whether an operator of the trace is known to have no MACs."""
    return kind.startswith("aten::") and bare_name(kind) in NO_MACS


@dataclass(frozen=True)
class _Traced:
    macs: dict[str, int]  # by module, "" for all
    unknown: dict[str, dict[str, None]]  # operators that nobody knows, each with the modules that run it
    error: str = ""  # why there is no trace


def _fvcore(model: nn.Module, tensors: tuple[Tensor, ...]) -> _Traced:
    """MACs by module, by a trace on the CPU; of weights on the meta device, zeros run."""
    handlers = _Handlers()
    analysis = FlopCountAnalysis(model, tensors).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis._op_handles = handlers  # instead of fvcore's own, which would add elementwise work to the MACs
    try:
        with warnings.catch_warnings(), put_back(model, "cpu", weights=True):
            warnings.simplefilter("ignore", DeprecationWarning)
            counts = analysis.by_module_and_operator()
    except (CountError, PriceError):
        raise
    except Exception as e:
        if is_out_of_memory(e):
            raise
        return _Traced({}, {}, f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")
    unknown = dict(handlers.unknown)
    for op in sorted(op for op in analysis.unsupported_ops() if not _is_known(op)):
        modules = [module for module in counts if op in analysis.unsupported_ops(module)]
        unknown[op] = dict.fromkeys(_innermost(modules))
    return _Traced({name: int(sum(Counter(ops).values())) for name, ops in counts.items()}, unknown)


# --- agreement


def _compare(
    declared: Mapping[str, int],
    counted: Mapping[str, int],
    counter: str,
    operators: Mapping[str, Mapping[str, int]],
    open_modules: Iterable[str],
) -> None:
    """The counter's MACs must equal the declared ones, in each declared module and in total.

    Of a module with an unknown operator, the declared ones may be more.
    """
    open_modules = set(open_modules)

    def differ(module: str, macs: int) -> bool:
        known = counted.get(module, 0)
        return macs < known if module in open_modules else macs != known

    wrong = [
        f"{module}: declared {macs:,}, {counter} counts {counted.get(module, 0):,}{_listed(operators.get(module, {}))}"
        for module, macs in declared.items()
        if differ(module, macs)
    ]
    total = sum(declared.values())
    if not wrong and differ("", total):
        wrong = [f"outside the declared modules: declared {total:,} in all, {counter} counts {counted['']:,}"]
    if wrong:
        more = f" (and {len(wrong) - 3} modules more)" if len(wrong) > 3 else ""
        raise CountError(f"the MAC counts disagree: {'; '.join(wrong[:3])}{more}")


def _agree(counted: _Counted, traced: Mapping[str, int]) -> None:
    """Two counters alone must give the same total; what they call the modules may differ."""
    if counted.macs[""] == traced[""]:
        return
    differing = [m for m in counted.macs if m and m in traced and counted.macs[m] != traced[m]]
    innermost = _innermost(differing)
    wrong = [
        f"{module or 'the whole model'}: FlopCounterMode counts {counted.macs[module]:,}"
        f"{_listed(counted.operators.get(module, {}))}, fvcore {traced[module]:,}"
        for module in innermost[:3] or [""]
    ]
    more = f" (and {len(innermost) - 3} modules more)" if len(innermost) > 3 else ""
    raise CountError(f"the MAC counts disagree: {'; '.join(wrong)}{more}")


def _listed(operators: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {macs:,}' for name, macs in operators.items())})" if operators else ""
