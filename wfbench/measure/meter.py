"""One pass over a call's operators: what each one costs, what it moves, and which bytes are alive, on any device.

Nothing is computed on the meta device, so a model at 4096 pixels is metered in a second and without memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

from wfbench.measure.operators import MAC_OPERATORS, bare_name, elementwise_of

#: These read of their source only what they give back.
_LOOK_UPS = frozenset({"index", "index_select", "gather", "embedding"})


def _product_flops(added: Any, a: Any, b: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    """FLOPs of added + a @ b, from shapes."""
    return 2 * torch.Size(out_shape).numel() * a[-1]


def _attention_flops(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **more: Any) -> int:
    """FLOPs of QKᵀ and of its product with V, from shapes."""
    return 2 * torch.Size(q[:-1]).numel() * k[-2] * (q[-1] + v[-1])


#: What PyTorch's counter does not know and reads as 0: in-place variants, and, before 2.15, attention on the CPU.
UNKNOWN_TO_PYTORCH: dict[Any, Callable[..., int]] = {
    torch.ops.aten.addmm_: _product_flops,
    torch.ops.aten.baddbmm_: _product_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
COUNTED = {*flop_registry, *UNKNOWN_TO_PYTORCH}


def elementwise_of_call(func: Any, args: Sequence[Any], out: Any) -> int | None:
    """Elementwise operations of one call of a dispatched operator; None if its work is not known for sure."""
    name = str(func._overloadpacket)
    if not name.startswith("aten.") or "reduce" in func._schema.overload_name:
        return None  # scatter, say, moves data for nothing, unless it also adds
    if bare_name(name) in MAC_OPERATORS:
        if func._overloadpacket not in COUNTED:
            return None  # a variant (in place, say) that the counter would read as 0
        if any(isinstance(x, Tensor) and x.is_complex() for x in args):
            return None  # a complex multiply-add is four real ones
    return elementwise_of(name, args, out)


class FusedAttention(TorchFunctionMode):
    """Let attention be one operator on the meta device too, as it is wherever a fused kernel runs.

    There PyTorch would take it apart into products and a softmax, and the N×N weights would count as bytes that are moved
    and alive. A call that the fused kernel does not take (values of another width than the keys) is left alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].shape[-1] == args[2].shape[-1] and args[0].ndim == 4:
            mask, dropout, causal, scale = _attention_arguments(*args[3:], **kwargs)
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(*args[:3], dropout, causal, attn_mask=mask, scale=scale)[0]
        return func(*args, **kwargs)


def _attention_arguments(
    attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False
) -> tuple[Any, float, bool, float | None]:
    return attn_mask, dropout_p, is_causal, scale


class Meter(TorchDispatchMode):
    """Adds up work and bytes operator by operator, and follows which storages are alive.

    Attributes:
        elementwise: operations other than MACs, in the units of `mixers.base`.
        activations: elements that operators with MACs put out.
        moved: bytes that the operators read and wrote, each operator for itself; views are free.
        peak: the most bytes that were alive at the same time between two operators. What a kernel allocates for itself is
            not seen.
        unknown: operators that the table of elementwise work lacks, or that no MAC counter knows, each with the module in
            which it was seen first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elementwise = self.activations = self.moved = self.peak = 0
        self.unknown: dict[str, str] = {}
        self._alive = 0
        self._watched: set[int] = set()
        self._tracker = ModuleTracker()

    def __enter__(self) -> Meter:
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
        name = str(func._overloadpacket)
        work = elementwise_of_call(func, args, out)
        if work is None:
            self.unknown.setdefault(name, max(self._tracker.parents, key=len).partition(".")[2])
        self.elementwise += work or 0
        written = _tensors(out)
        if func._overloadpacket in COUNTED:
            self.activations += written[0].numel()
        self.moved += _moved(func, bare_name(name), _tensors((args, kwargs)), written)
        self.watch(written)
        return out


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
