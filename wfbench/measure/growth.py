"""How work grows with the number of tokens: what one call does, counted operator by operator, on any device.

Two MAC counters and a closed form can agree on 0 for attention that is written as products and sums. So a claim of linear
cost is held against four counts: MACs, elementwise work, bytes moved, and memory that is alive at the same time. On the
meta device none of them needs memory or arithmetic, whatever the number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wfbench.measure.meter import Meter, as_written, formulas


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
        by_operator: elementwise operations by PyTorch operator, the most first.
    """

    macs: int
    elementwise: int
    moved: int
    live: int
    unknown: tuple[str, ...] = ()
    by_operator: Mapping[str, int] = field(default_factory=dict)


def work_of(call: Callable[[], object], held: Iterable[Tensor] = ()) -> Work:
    """Count the work of a call, without gradients.

    Args:
        call: what to count; its result is dropped.
        held: tensors that are there before and after it (weights, inputs): they count as alive.
    """
    meter = Meter()
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        as_written(),
        FlopCounterMode(display=False, custom_mapping=formulas()) as counter,
        meter,
    ):
        meter.watch(held)
        call()
    by_operator = dict(meter.by_operator.most_common())
    unknown = tuple(sorted(meter.unknown))
    return Work(counter.get_total_flops() // 2, meter.elementwise, meter.moved, meter.peak, unknown, by_operator)
