"""How work grows with the number of tokens: what one call does, counted operator by operator, on any device.

Two MAC counters and a closed form can agree on 0 for attention that is written as products and sums. So a claim of linear
cost is held against four counts: MACs, elementwise work, bytes moved, and memory that is alive at the same time. On the
meta device none of them needs memory or arithmetic, whatever the number of tokens.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from wfbench.measure.flops import IN_PLACE, elementwise_of_call
from wfbench.measure.operators import bare_name

#: These read of their source only what they give back.
_LOOK_UPS = frozenset({"index", "index_select", "gather", "embedding"})


@dataclass(frozen=True)
class Work:
    """What one call did.

    Attributes:
        macs: multiply-adds, by PyTorch's `FlopCounterMode`; 0 for an operator that it does not know.
        elementwise: other operations on elements, in the units of `mixers.base`.
        moved: bytes that the operators read and wrote, each operator for itself; views are free.
        live: the most bytes that were alive at the same time between two operators. What a kernel allocates for itself
            is not seen.
        unknown: operators that the table of elementwise work lacks, or that no MAC counter knows.
    """

    macs: int
    elementwise: int
    moved: int
    live: int
    unknown: tuple[str, ...] = ()


def work_of(call: Callable[[], object], held: Iterable[Tensor] = ()) -> Work:
    """Count the work of a call, without gradients.

    Args:
        call: what to count; its result is dropped.
        held: tensors that are there before and after it (weights, inputs): they count as alive.
    """
    meter = _Meter()
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter,
        meter,
    ):
        meter.watch(held)
        call()
    return Work(counter.get_total_flops() // 2, meter.elementwise, meter.moved, meter.peak, tuple(sorted(meter.unknown)))


class _Meter(TorchDispatchMode):
    """Adds up elementwise work and bytes, and follows which storages are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.elementwise = self.moved = self.alive = self.peak = 0
        self.unknown: set[str] = set()
        self._watched: set[int] = set()

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count the tensors' storages as alive until they die."""
        for storage in (t.untyped_storage() for t in tensors):
            if storage._cdata not in self._watched:
                self._watched.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._died, storage._cdata, storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.alive)

    def _died(self, key: int, size: int) -> None:
        self._watched.discard(key)
        self.alive -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = str(func._overloadpacket)
        work = elementwise_of_call(func, args, out)
        if work is None:
            self.unknown.add(name)
        self.elementwise += work or 0
        self.moved += _moved(func, bare_name(name), _tensors((args, kwargs)), _tensors(out))
        self.watch(_tensors(out))
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
