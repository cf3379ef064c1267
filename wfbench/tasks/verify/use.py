"""Checks of a layer in use: over many calls, grids, batches and weights; in training; with large weights; backward."""

from __future__ import annotations

import gc
import math
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mixers.base import Grid
from wfbench.measure import local_exponents
from wfbench.measure.meter import UNKNOWN_TO_PYTORCH, Meter
from wfbench.tasks.verify.judge import Outcome, check, fails, holds, judged, not_applicable, said
from wfbench.tasks.verify.subject import (
    GROWTH_SECONDS,
    NO_GRIDS,
    REAL_MOST,
    TOLERANCE,
    WINDOWED,
    WINDOWED_BY_EIGHT,
    Subject,
    allowed_exponent,
    batch_norms,
    cast_to,
    gap,
    gradients,
    in_double,
    in_training,
    run,
    run_in_half,
    shown,
    without_dropout,
)

#: What a used layer has served: shapes of equally many tokens among them.
SMALL: tuple[Grid, ...] = ((6, 6), (4, 9), (9, 4))
BATCHES = (2, 1, 7)
#: Weights are this much larger than as they are initialised.
LARGER = 20.0
CALLS, WARM_CALLS = 50, 10


@check(
    "used layer",
    meaning="A layer that has served other grids, batches and weights gives what a new one gives, both ways round, and a second"
    " backward pass what the first gave.",
    expected=f"differences up to {TOLERANCE.exact:.0e} from a new layer",
    compares=True,
)
def used_layer(subject: Subject) -> Outcome:
    """What is kept between calls must not show: tables, masks, grids, graphs."""
    cases = _cases(subject)
    fresh = {
        (grid, batch): run(subject.build(subject.built_for(grid), torch.float64), subject.tokens(batch, grid), grid)
        for grid, batch in cases
    }
    served = list(fresh)
    worst, where = 0.0, ""
    for order in (served, served[::-1]):
        layers: dict[Grid | None, nn.Module] = {}
        last = ""
        for grid, batch in order:
            place = f"{batch} images at {shown(grid)}{f', after {last}' if last else ''}"
            key = grid if subject.spec.needs_grid else None
            if key not in layers:
                layers[key] = subject.build(subject.built_for(grid), torch.float64)
            try:
                off = gap(run(layers[key], subject.tokens(batch, grid), grid), fresh[grid, batch])
            except Exception as e:
                return fails(f"{place}: {said(e)[:160]}", _REMEDY)
            if off > worst:
                worst, where = off, place
            last = f"{batch} at {shown(grid)}"
    for what, found in (("after its weights have changed", _reweighted), ("at the second backward pass", _second_backward)):
        try:
            off = found(subject)
        except Exception as e:
            return fails(f"{what}: {said(e)[:160]}", _REMEDY)
        if off > worst:
            worst, where = off, what
    grids = len({grid for grid, _ in served})
    measured = f"{worst:.1e}{f' ({where})' if worst > subject.exact else ''}, {len(served)} calls over {grids} grids, both ways"
    return judged(worst <= subject.exact, measured, _REMEDY, subject.within)


_REMEDY = (
    "keep no table, mask, grid or tensor between calls, or keep it by all that it depends on: the height and the width (not"
    " their product, nor a number of windows), the batch, the weights"
)


def _cases(subject: Subject) -> list[tuple[Grid, int]]:
    """(grid, batch) in the order of use: grids of several windows come first."""
    grids = subject.working_from_home(WINDOWED)
    if len(grids) < 2:
        grids += subject.working_from_home(WINDOWED_BY_EIGHT)
    grids += subject.working_from_home(SMALL)
    grids = grids or [subject.grid]
    return [(grid, BATCHES[i % len(BATCHES)]) for i, grid in enumerate(grids)] + [(grids[0], 1), (grids[0], BATCHES[-1])]


def _reweighted(subject: Subject) -> float:
    """A used layer whose weights are changed in place, as an optimiser does, against a new one with the same weights."""
    used, new, x = *(subject.build(subject.grid, torch.float64) for _ in range(2)), subject.tokens(2, subject.grid)
    run(used, x, subject.grid)
    with torch.no_grad():
        for layer in (used, new):
            layer.train()
            for p in layer.parameters():
                p.mul_(1.25)
            layer.eval()
    return gap(run(used, x, subject.grid), run(new, x, subject.grid))


def _second_backward(subject: Subject) -> float:
    """Two backward passes of one layer, as in two steps of training."""
    layer, x = subject.build(subject.grid, torch.float64), subject.tokens(2, subject.grid)
    first, second = (gradients(layer, x, subject.grid) for _ in range(2))
    return max(gap(second[name], g) for name, g in first.items() if g is not None and second[name] is not None)  # type: ignore[arg-type]


@check(
    "training",
    meaning="Training gives what evaluation gives, beyond dropout and BatchNorm, or the spec declares trains_otherwise=True.",
    expected=f"differences up to {TOLERANCE.exact:.0e}",
    compares=True,
)
def training(subject: Subject) -> Outcome:
    """The same weights and input in both modes: without dropout, and with BatchNorm's statistics of evaluation."""
    declared, worst, where = subject.spec.trains_otherwise, 0.0, ""
    for grid in dict.fromkeys([subject.grid, *subject.working(WINDOWED[1:2])]):
        layer, x = subject.build(grid, torch.float64), subject.tokens(2, grid)
        with without_dropout(layer):
            evaluated = run(layer.eval(), x, grid)
            trained = run(in_training(layer), x, grid)
            if gap(run(layer, x, grid), trained) > subject.exact:
                return not_applicable("random in training beyond dropout: two calls differ")
            if gap(run(layer, x[:1], grid), trained[:1]) > subject.exact:
                return not_applicable("in training it depends on the batch: see batch independence")
        off = gap(trained, evaluated)
        if off > worst:
            worst, where = off, f" at {shown(grid)}" if off > subject.exact else ""
    norms = batch_norms(layer)
    note = f", with BatchNorm ({', '.join(norms)}) as in evaluation" if norms else ""
    if declared and worst <= subject.exact:
        return fails(f"{worst:.1e}{note}", "declare trains_otherwise=False: both modes give the same")
    remedy = "compute the same in both modes; or, if the method asks for two, declare MixerSpec(..., trains_otherwise=True)"
    expected = "another output in training, as declared" if declared else subject.within
    return judged(declared or worst <= subject.exact, f"{worst:.1e}{where}{note}", remedy, expected)


@check(
    "large weights",
    meaning=f"With weight matrices {LARGER:.0f} and {3 * LARGER:.0f} times as large as they are initialised, as long training"
    " may leave some of them, nothing overflows in bfloat16, whose range is float32's; what float16 does is shown.",
    expected="every output finite",
)
def large_weights(subject: Subject) -> Outcome:
    """An exponential without the maximum subtracted overflows here first."""
    grid, told = subject.grid, []
    remedy = "subtract the maximum before an exponential (torch.softmax does), and take no powers that grow with the weights"
    for dtype, factor in ((torch.bfloat16, LARGER), (torch.bfloat16, 3 * LARGER), (torch.float16, LARGER)):
        name = f"{str(dtype).removeprefix('torch.')}, {factor:.0f} times"
        layer, x = cast_to(_enlarged(subject, factor), dtype), subject.tokens(2, grid, dtype)
        exact = run(in_double(layer), x.double(), grid)
        if not exact.isfinite().all():
            infinite = f"{int((~exact.isfinite()).sum()):,} of {exact.numel():,} are not finite"
            return fails(f"{factor:.0f} times: {infinite}, in float64 already", remedy)
        largest = exact.abs().max().item()
        if subject.half_error:
            return not_applicable(f"float64: finite, up to {largest:.3g}; it raises in half precision: see half precision")
        y = run_in_half(layer, x, grid)
        if isinstance(y, RuntimeError):
            told.append(f"{name}: the CPU has no such operator")
            continue
        wrong = int((~y.isfinite()).sum())
        if not wrong:
            told.append(f"{name}: finite, up to {largest:.3g}")
        elif dtype == torch.float16:  # 65,504 is soon passed by products of weights, by no fault of theirs
            told.append(f"{name}: out of its range")
        elif not run(cast_to(_enlarged(subject, 1.0), dtype), x, grid).isfinite().all():
            told.append(f"{name}: not finite with the initial weights either: see half precision")
        else:
            infinite = f"{wrong:,} of {y.numel():,} are not finite in {name}"
            return fails(f"{infinite}; in float64 they are up to {largest:.3g}", remedy)
    return holds("; ".join(told))


def _enlarged(subject: Subject, factor: float = LARGER) -> nn.Module:
    """A layer as it is initialised, its matrices and kernels larger."""
    layer = subject.build(subject.grid, noise=0.0)
    with torch.no_grad():
        for p in layer.parameters():
            if p.ndim > 1:
                p.mul_(factor)
    return layer


class _Alive(TorchDispatchMode):
    """Adds up the bytes of storages that are alive, of those that came to be while it watched."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._watched: set[int] = set()

    def watch(self, tensors: Iterable[object]) -> None:
        """Count what these tensors hold until it dies."""
        for t in tensors:
            if isinstance(t, Tensor):
                storage = t.untyped_storage()
                if storage._cdata not in self._watched:
                    self._watched.add(storage._cdata)
                    self.bytes += storage.nbytes()
                    weakref.finalize(storage, self._died, storage._cdata, storage.nbytes()).atexit = False

    def _died(self, key: int, size: int) -> None:
        self._watched.discard(key)
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.watch(tree_leaves(out))
        return out


@check(
    "memory over calls",
    meaning=f"{CALLS} calls, in evaluation and in training, leave no more memory behind than {WARM_CALLS} do.",
    expected="less than one input",
)
def memory_over_calls(subject: Subject) -> Outcome:
    """The bytes of tensors that are alive, after what is lost in cycles is collected."""
    grid, found = subject.grid, {}
    one = 2 * grid[0] * grid[1] * subject.dim * 4
    for mode in ("evaluation", "training"):
        layer = subject.build(grid).train(mode == "training")
        with _Alive() as alive:
            before = 0
            for call in range(CALLS):
                if call == WARM_CALLS:
                    before = alive.bytes
                x = subject.tokens(2, grid, torch.float32, other=call)
                alive.watch([x])
                with torch.set_grad_enabled(mode == "training"):
                    layer(x, grid)
                del x
            if alive.bytes - before >= one:
                gc.collect()  # what is only lost in cycles is no leak; collecting takes long, so not without need
            found[mode] = alive.bytes - before
    left = max(found.values())
    measured = ", ".join(f"{size:,} bytes more in {mode}" for mode, size in found.items())
    return judged(
        left < one, measured, "keep no inputs, outputs or graphs between calls", f"less than {one:,} bytes (one input)"
    )


@check(
    "growth of the backward pass",
    meaning="Multiply-adds, bytes moved and live memory of the backward pass grow with the tokens no faster than declared, or"
    " than those of the forward pass.",
    expected="a local exponent up to 1.05 (linear), 1.15 (N log N), 2.05 (quadratic)",
)
def backward_growth(subject: Subject) -> Outcome:
    """Counted on the meta device, as the growth of the forward pass is."""
    sides = subject.sides(subject.sizes.growth)
    if len(sides) < 2:
        return not_applicable(NO_GRIDS)
    try:
        found = _both_passes(subject, "meta", sides[-3:])
    except Exception:  # it does not run on the meta device: what it raises on the CPU as well is this check's failure
        found = _both_passes(subject, "cpu", [side for side in sides if side <= REAL_MOST // 2][:2] or sides[:2])
    tokens = [n for n, _ in found]
    forward, backward = ({name: _exponent(tokens, [both[i][name] for _, both in found]) for name in _COSTS} for i in (0, 1))
    name = max(backward, key=lambda name: backward[name])
    if math.isinf(-backward[name]):
        return not_applicable("there is no backward pass: see gradients")
    allowed = max(allowed_exponent(subject.spec.complexity) or 0.0, max(forward.values()) + 0.05)
    measured = f"N^{backward[name]:.3f} ({name}) from {tokens[0]:,} to {tokens[1]:,} tokens"
    remedy = "its backward pass costs more than its forward pass: look at custom gradients, and at what is saved for them"
    return judged(backward[name] <= allowed, measured, remedy, f"N^{allowed:.2f} at most")


#: Of one pass, by the names below.
_Costs = dict[str, int]
_COSTS: tuple[str, ...] = ("multiply-adds", "bytes moved", "live memory")


def _exponent(tokens: Sequence[int], values: Sequence[int]) -> float:
    return local_exponents(list(tokens), list(values))[0] if all(values) else -math.inf if not values[-1] else math.inf


def _both_passes(subject: Subject, device: str, sides: Sequence[int]) -> list[tuple[int, tuple[_Costs, _Costs]]]:
    """(N, the costs of both passes) at the two largest of growing square grids; at smaller ones where counting is slow."""
    found = []
    for side in sides:
        began = time.process_time()
        found.append((side * side, _passes(subject, device, side)))
        if len(found) > 1 and time.process_time() - began > GROWTH_SECONDS / 8:
            break
    return found[-2:]


def _passes(subject: Subject, device: str, side: int) -> tuple[_Costs, _Costs]:
    """What the forward and what the backward pass of one image cost."""
    grid = (side, side)
    layer, x = subject.bare(device, grid)
    x.requires_grad_()
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def costs(flops: FlopCounterMode, meter: Meter) -> _Costs:
        return dict(zip(_COSTS, (flops.get_total_flops() // 2, meter.moved, meter.peak), strict=True))

    held: Callable[[], list[Tensor]] = lambda: [x, *layer.parameters(), *layer.buffers()]  # noqa: E731
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_PYTORCH) as flops, Meter() as meter:
        meter.watch(held())
        y = layer(x.clone(), grid)
        forward = costs(flops, meter)
        if y.requires_grad:
            torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)
        both = costs(flops, meter)
    backward = {name: both[name] - (forward[name] if name != "live memory" else 0) for name in _COSTS}
    return forward, backward if y.requires_grad else dict.fromkeys(_COSTS, 0)
