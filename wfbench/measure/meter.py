"""One pass over a call's operators: what each one costs, what it moves, and which bytes are alive, on any device.

Nothing is computed on the meta device, so a model at 4096 pixels is metered in a second and without memory.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import flex_attention as flex
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from mixers.counting import priced_operators
from wfbench.measure.operators import MAC_OPERATORS, bare_name, elementwise_of
from wfbench.measure.prices import MACS, macs_of, said_of

#: These read of their source only what they give back.
_LOOK_UPS = frozenset({"index", "index_select", "gather", "embedding"})


def _attention_flops(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    """FLOPs of QKᵀ and of its product with V, from shapes."""
    return 2 * torch.Size(q[:-1]).numel() * k[-2] * (q[-1] + v[-1])


def _by_our_price(packet: Any) -> Callable[..., int]:
    """FLOPs of an operator by `wfbench.measure.prices`."""

    def flops(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return 2 * (macs_of(str(packet), in_order(packet, args, kwargs), out_val) or 0)

    flops._get_raw = True  # type: ignore[attr-defined]  # the tensors, not their shapes: whether they are complex matters
    return flops


def _packet(name: str) -> Any:
    """The operator of a name, "aten::mv"; None if there is none."""
    namespace, _, bare = name.partition("::")
    return getattr(getattr(torch.ops, namespace), bare, None)


#: What PyTorch's counter does not know and reads as 0 (in-place variants, solves, products with vectors, and, before 2.15,
#: attention on the CPU), and products, of which it takes complex ones for real.
UNKNOWN_TO_PYTORCH: dict[Any, Callable[..., int]] = {
    packet: _by_our_price(packet)
    for name in MACS
    for variant in (name, f"{name}_")
    if name in MAC_OPERATORS and (packet := _packet(f"aten::{variant}")) is not None
} | {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
COUNTED = {*flop_registry, *UNKNOWN_TO_PYTORCH}


def formulas() -> dict[Any, Callable[..., int]]:
    """What `FlopCounterMode` has to be told: `UNKNOWN_TO_PYTORCH`, and what mixers said of operators of theirs."""
    said = {packet: _by_our_price(packet) for name in priced_operators() if (packet := _packet(name)) is not None}
    return {packet: formula for packet, formula in said.items() if packet not in COUNTED} | UNKNOWN_TO_PYTORCH


def named(operator: Any) -> str:
    """An operator's name as `mixers.counts` takes it: "aten::add_"."""
    return str(operator).replace(".", "::", 1)


def in_order(func: Any, args: Sequence[Any], kwargs: Any) -> list[Any]:
    """The arguments of one call in the order of the operator's schema, with its defaults."""
    kwargs = kwargs or {}
    return [*args, *(kwargs.get(name, default) for name, default in _schema(func)[len(args) :])]


@cache
def _schema(func: Any) -> list[tuple[str, Any]]:
    """Names and defaults of an operator's arguments; of a packet, those of its first overload."""
    overload = getattr(func, func.overloads()[0]) if hasattr(func, "overloads") else func
    return [(argument.name, argument.default_value) for argument in overload._schema.arguments]


def elementwise_of_call(func: Any, args: Sequence[Any], out: Any) -> int | None:
    """Elementwise operations of one call of a dispatched operator; None if its work is not known for sure."""
    name = str(func._overloadpacket)
    if not name.startswith("aten."):
        said = said_of(name, args, out)
        return None if said is None else said[1]
    if bare_name(name) in MAC_OPERATORS:
        if func._overloadpacket not in COUNTED:
            return None  # a variant (in place, say) that the counter would read as 0
        if bare_name(name) not in MACS and any(isinstance(x, Tensor) and x.is_complex() for x in args):
            return None  # a complex multiply-add is four real ones
    known = elementwise_of(name, args, out, func._schema.overload_name)
    if known is None and (said := said_of(name, args, out)) is not None:
        return said[1]
    return known


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Let everything run as it is written, operator by operator, so that there is something to count.

    A compiled function runs as the Python it was made from; `torch.nn.MultiheadAttention` and recurrent layers take no fused
    path of the CPU; flex attention is dense attention, whatever its mask leaves out, as any masked attention counts here.
    """
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    replaced = {
        "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG": True,
        "flex_attention_hop": _dense_attention,
        "_validate_device": lambda *tensors: None,  # it knows no meta device
        **{name: _untraced(getattr(flex, name)) for name in _MASK_MAKERS if hasattr(flex, name)},
    }
    kept = {name: getattr(flex, name) for name in replaced if hasattr(flex, name)}
    # Without the compiler's module nothing has been compiled, and importing it takes seconds.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        for name in kept:
            setattr(flex, name, replaced[name])
        with eager:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(onednn)
        for name, value in kept.items():
            setattr(flex, name, value)


#: What makes the block masks of flex attention, by maps of functions that no trace can hold.
_MASK_MAKERS = ("create_mask", "_ordered_to_dense")


def _untraced(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose result is a constant in a trace."""

    def made(*args: Any, **kwargs: Any) -> Any:
        state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return make(*args, **kwargs)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]

    return made


def _dense_attention(q: Tensor, k: Tensor, v: Tensor, *more: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """In the place of flex attention: q (B, h, N, d) attends to all of k and v; with the shape of its other two results."""
    k, v = (t.expand(q.shape[0], *t.shape[1:]) for t in (k, v))
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=int(q.shape[1]) != int(k.shape[1]))
    return out, q.new_empty(q.shape[:-1]), q.new_empty(q.shape[:-1])


class FusedAttention(TorchFunctionMode):
    """Let attention be one operator on the meta device too, as it is wherever a fused kernel runs.

    There PyTorch would take it apart into products and a softmax, and the N×N weights would count as bytes that are moved
    and alive. A call that the fused kernel does not take (values of another width than the keys, another batch) is left alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and _fits_fused_kernel(*args[:3]):
            mask, dropout, causal, scale = _attention_arguments(*args[3:], **kwargs)
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(*args[:3], dropout, causal, attn_mask=mask, scale=scale)[0]
        return func(*args, **kwargs)


def _fits_fused_kernel(q: Any = None, k: Any = None, v: Any = None) -> bool:
    given = isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)
    return given and q.ndim == 4 and q.shape[-1] == v.shape[-1] and q.shape[0] == k.shape[0] == v.shape[0]


def _attention_arguments(
    attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False
) -> tuple[Any, float, bool, float | None]:
    return attn_mask, dropout_p, is_causal, scale


class Meter(TorchDispatchMode):
    """Adds up work and bytes operator by operator, and follows which storages are alive.

    Attributes:
        elementwise: operations other than MACs, in the units of `mixers.base`.
        by_operator: these operations by PyTorch operator, without those that did none.
        activations: elements that operators with MACs put out.
        moved: bytes that the operators read and wrote, each operator for itself; views are free.
        peak: the most bytes that were alive at the same time between two operators. What a kernel allocates for itself is
            not seen.
        unknown: operators that the table of elementwise work lacks, or that no MAC counter knows, each with the modules in
            which it was seen, the innermost alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elementwise = self.activations = self.moved = self.peak = 0
        self.by_operator: Counter[str] = Counter()
        self.unknown: dict[str, dict[str, None]] = {}
        self._alive = 0
        self._watched: set[int] = set()
        self._tracker = ModuleTracker()

    def __enter__(self) -> Self:
        self._tracker.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._tracker.__exit__(*error)

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count the tensors' storages as alive until they die."""
        for storage in (t.untyped_storage() for t in tensors):
            if storage._cdata not in self._watched:
                self._watched.add(storage._cdata)
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._died, storage._cdata, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self._alive)

    def _died(self, key: int, size: int) -> None:
        self._watched.discard(key)
        self._alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not hasattr(func, "_overloadpacket"):  # a function of functions, such as a compiled kernel
            self._unknown(str(func))
            return out
        name = str(func._overloadpacket)
        work = elementwise_of_call(func, in_order(func, args, kwargs), out)
        if work is None:
            self._unknown(name)
        elif work:
            self.by_operator[name] += work
        self.elementwise += work or 0
        written = _tensors(out)
        if func._overloadpacket in COUNTED and written:
            self.activations += written[0].numel()
        self.moved += _moved(func, bare_name(name), _tensors((args, kwargs)), written)
        self.watch(written)
        return out

    def _unknown(self, operator: str) -> None:
        self.unknown.setdefault(named(operator), {})[max(self._tracker.parents, key=len).partition(".")[2]] = None


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _moved(func: Any, name: str, read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes read and written by one operator; none if it only looks at its input in another way."""
    sources = {t.untyped_storage()._cdata for t in read}
    if not func._schema.is_mutable and all(t.untyped_storage()._cdata in sources for t in written):
        return 0
    output = sum(map(_size, written))
    if name in _LOOK_UPS:
        return 2 * output + sum(map(_size, read[1:]))
    return sum(map(_size, read)) + output


def _size(tensor: Tensor) -> int:
    """Bytes behind a tensor; an expanded one holds fewer than its elements."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
