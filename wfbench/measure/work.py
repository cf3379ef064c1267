"""Work by kind of operator: what a time is predicted from, and what the machine needs for each kind alone.

A pass over the operators of one call on the meta device gives the multiply-adds and the bytes of each kind, and the number of
operators; nothing is computed. `microbenchmarks` are single operators at several sizes, with the same figures.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry

from wfbench.measure.meter import FusedAttention, Meter, as_written, formulas
from wfbench.measure.operators import FREE, MAC_OPERATORS, NORMALISATIONS, POINTWISE, REDUCTIONS, bare_name

#: The kinds of operators. Those with multiply-adds come first; of the others only the bytes count.
WITH_MACS = ("product", "batched product", "convolution", "depthwise convolution", "attention")
KINDS = (*WITH_MACS, "function", "normalisation", "pointwise", "reduction", "move")
_PRODUCTS = frozenset({"mm", "addmm", "mv", "addmv", "dot"})
_BATCHED = frozenset({"bmm", "baddbmm"})
#: Pointwise operators that compute more than a few sums and products for each element.
_FUNCTIONS = frozenset(
    "exp exp2 expm1 log log1p log2 log10 pow float_power sigmoid tanh sin cos tan erf gelu silu elu celu selu mish softplus "
    "log_sigmoid log_sigmoid_forward logaddexp logit".split()
)
_SOFTMAXES = frozenset({"_softmax", "_safe_softmax", "_log_softmax", "logsumexp", "_logcumsumexp", "logcumsumexp"})


@dataclass(frozen=True)
class Work:
    """What the operators of one call do, views left out.

    Attributes:
        calls: how many operators run.
        macs: multiply-adds by kind.
        bytes: bytes read and written by kind, each operator for itself.
        alive: the most bytes alive at once, weights and input included.
        unknown: operators of no kind.
    """

    calls: int
    macs: Mapping[str, int]
    bytes: Mapping[str, int]
    alive: int
    unknown: tuple[str, ...] = ()


def features(work: Work) -> np.ndarray:
    """What a time is a sum of: operators, multiply-adds of the kinds that have them, bytes of every kind."""
    return np.array(
        [work.calls, *(work.macs.get(kind, 0) for kind in WITH_MACS), *(work.bytes.get(kind, 0) for kind in KINDS)], dtype=float
    )


def work_of(call: Callable[[], object], tensors: Sequence[Tensor] = (), *, fused_attention: bool = True) -> Work:
    """The work of a call whose tensors are all on the meta device.

    Args:
        call: called once, without gradients.
        tensors: that are alive before it, such as weights and input.
        fused_attention: whether attention is one operator, as in `wfbench.measure.count_flops`.
    """
    attention = FusedAttention() if fused_attention else contextlib.nullcontext()
    with torch.no_grad(), as_written(), _ByKind() as meter:
        meter.watch(tensors)
        with attention:
            call()
    return Work(meter.calls, dict(meter.macs), dict(meter.bytes), meter.peak, tuple(sorted(meter.of_no_kind)))


def work_of_model(model: nn.Module, inputs: Sequence[Tensor], *, fused_attention: bool = True) -> Work:
    """The work of a model's forward pass in evaluation; model and inputs are on the meta device."""
    state = [*model.parameters(), *model.buffers(), *inputs]
    return work_of(lambda: model.eval()(*inputs), state, fused_attention=fused_attention)


class _ByKind(Meter):
    """A meter that also tells the kinds of operators apart."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.macs: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.of_no_kind: set[str] = set()
        self._formulas = {**flop_registry, **formulas()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        before = self.moved
        out = super().__torch_dispatch__(func, types, args, kwargs)
        moved = self.moved - before
        if moved and hasattr(func, "_overloadpacket"):
            name = bare_name(str(func._overloadpacket))
            kind = _kind(name, args)
            if kind is None:
                self.of_no_kind.add(name)
                return out
            self.calls += 1
            self.bytes[kind] += moved
            if kind in WITH_MACS:
                self.macs[kind] += self._macs(func, kind, args, kwargs, out)
        return out

    def _macs(self, func: Any, kind: str, args: Sequence[Any], kwargs: Any, out: Any) -> int:
        if kind == "attention":
            q, k, v = args[:3]
            return int(q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1]))
        return int(self._formulas[func._overloadpacket](*args, **(kwargs or {}), out_val=out)) // 2


def _kind(name: str, args: Sequence[Any]) -> str | None:
    """The kind of an operator; None for one that is in no table, or has multiply-adds of another form."""
    if name in _PRODUCTS:
        return "product"
    if name in _BATCHED:
        return "batched product"
    if name == "convolution":
        groups, channels = args[8], args[0].shape[1]
        return "depthwise convolution" if groups == channels and groups > 1 else "convolution"
    if "attention" in name:
        return "attention"
    if name in _FUNCTIONS or name in _SOFTMAXES:
        return "function"
    if name in NORMALISATIONS:
        return "normalisation"
    if name in MAC_OPERATORS:
        return None
    if name in POINTWISE:
        return "pointwise"
    if name in REDUCTIONS or "pool" in name:
        return "reduction"
    return "move" if name in FREE else None


@dataclass(frozen=True)
class Microbenchmark:
    """One operator at one size.

    Attributes:
        name: of the operator and its size.
        function: from the inputs to the result.
        shapes: of the inputs.
    """

    name: str
    function: Callable[..., object]
    shapes: tuple[tuple[int, ...], ...]

    def work(self, dtype: torch.dtype) -> Work:
        """What it does."""
        inputs = [torch.empty(shape, dtype=dtype, device="meta") for shape in self.shapes]
        return work_of(lambda: self.function(*inputs), inputs)

    def call(self, dtype: torch.dtype, device: str) -> Callable[[], object]:
        """What is timed."""
        inputs = [torch.randn(shape, device=device).to(dtype) for shape in self.shapes]

        @torch.inference_mode()
        def run() -> object:
            return self.function(*inputs)

        return run


def microbenchmarks(device: str) -> Iterator[Microbenchmark]:
    """Every kind of operator at several sizes: those of a small ViT of 192 channels on a CPU, of 768 on a GPU."""
    width, tokens = (192, (196, 784, 3136)) if device == "cpu" else (768, (784, 3136, 12544))
    heads = width // 64
    for n in tokens:
        side = int(n**0.5)
        wide, square = (n, 4 * width), (heads, min(n, 3136), min(n, 3136))
        table: dict[str, tuple[Callable[..., object], tuple[tuple[int, ...], ...]]] = {
            "product": (torch.mm, ((n, width), (width, 4 * width))),
            "batched product of tall matrices": (torch.bmm, ((heads, 64, n), (heads, n, 64))),
            "batched product of flat matrices": (torch.bmm, ((heads, n, 64), (heads, 64, 64))),
            "batched product of square matrices": (torch.bmm, (square, (heads, square[1], 64))),
            "attention": (F.scaled_dot_product_attention, ((1, heads, n, 64),) * 3),
            "convolution": (lambda x, w: F.conv2d(x, w, padding=1), ((1, 64, side, side), (64, 64, 3, 3))),
            "depthwise convolution": (_depthwise, ((1, width, side, side), (width, 1, 3, 3))),
            "exponential": (torch.exp, (wide,)),
            "GELU": (F.gelu, (wide,)),
            "softmax": (lambda x: x.softmax(-1), (square,)),
            "layer norm": (lambda x: F.layer_norm(x, (width,)), ((n, width),)),
            "sum of two": (torch.add, (wide, wide)),
            "product with a row": (torch.mul, (wide, (4 * width,))),
            "mean": (lambda x: x.mean(0), (wide,)),
            "copy": (torch.clone, (wide,)),
            "transposed copy": (lambda x: x.t().contiguous(), (wide,)),
        }
        for name, (function, shapes) in table.items():
            yield Microbenchmark(f"{name}, {n} tokens", function, shapes)


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1, groups=weight.shape[0])
