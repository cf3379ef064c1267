"""Checks of what a mixer costs: what it declares against what is counted, and how both grow with the tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mixers.base import PATHS, Grid, to_tokens
from wfbench.errors import UndeclaredError
from wfbench.measure import CountError, FlopCount, count_flops, local_exponents
from wfbench.measure.allocator import kept_memory
from wfbench.measure.growth import Work
from wfbench.tasks.verify.judge import Outcome, check, fails, holds, judged, not_applicable
from wfbench.tasks.verify.subject import NO_GRIDS, QUICK, TOLERANCE, Subject, allowed_exponent, paths_of, run, shown, takes

COUNT_GRIDS: tuple[Grid, ...] = ((4, 4), (5, 7), (2, 3))
NOTHING_DECLARED = "no complexity is declared"
PRICE_IT = 'say what the operator costs: @mixers.counts("namespace::name") on a function of (args, out)'


class _AsModel(nn.Module):
    """One layer as a model, on images whose pixels are its tokens."""

    def __init__(self, layer: nn.Module, prefix: int) -> None:
        super().__init__()
        self.layer, self.prefix = layer, prefix

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)  # (B, N, C)
        if self.prefix:
            tokens = torch.cat([tokens[:, : self.prefix], tokens], dim=1)
        return self.layer(tokens, (int(x.shape[2]), int(x.shape[3])))

    def declared_macs(self, image_size: Grid, batch: int = 1, path: str = "released") -> dict[str, int]:
        if not hasattr(self.layer, "macs"):
            raise UndeclaredError("the layer declares no MACs")
        extra = {"prefix_tokens": self.prefix} if self.prefix else {}
        return {"layer": self.layer.macs(image_size, batch, path, **extra)}  # type: ignore[operator]


def _cases(subject: Subject) -> list[tuple[Grid, int, int]]:
    """(grid, batch, prefix tokens)."""
    grids = subject.working(COUNT_GRIDS) or [subject.grid]
    cases = [(grid, batch, 0) for grid in grids for batch in (1, 3)]
    if subject.takes_prefix:
        cases += [(grids[-1], 3, 1)]
    return cases


def _case(grid: Grid, batch: int, prefix: int, path: str) -> str:
    words = [shown(grid), f"batch {batch}", *(["a prefix token"] if prefix else [])]
    return ", ".join(words + ([f"path {path}"] if path != "released" else []))


@check(
    "declared MACs",
    meaning="macs(grid, batch, path) is exactly what FlopCounterMode and fvcore count; without the method, the two agree. An"
    " operator that they do not know is named, and leaves a lower bound.",
    expected="equal counts",
)
def declared_macs(subject: Subject) -> Outcome:
    """On several grids and batches, for every evaluation path that the layer offers."""
    layer = subject.build(subject.grid)
    declares = hasattr(layer, "macs")
    if declares and type(declared := layer.macs(subject.grid)) is not int:  # type: ignore[operator]
        return fails(f"macs returns {type(declared).__name__} instead of int", "return an int, the MACs of the whole batch")
    cases = [(*case, "released") for case in _cases(subject)]
    cases += [(subject.grid, 2, 0, path) for path in (PATHS if declares else paths_of(layer))]
    bound: FlopCount | None = None
    least = 3
    for case in cases:
        try:
            count = _count(subject, *case)
        except CountError as e:
            return fails(f"{_case(*case)}: {e}", WRONG_COUNT if declares else DIFFERING)
        least = min(least, len(count.counts))
        bound = bound or (count if count.sure == "at least" else None)
    if bound is not None:
        return not_applicable(f"at least {bound.macs:,} an image: {bound.why_bound}", PRICE_IT if bound.unknown else "")
    if not declares:
        found = _count(subject, subject.grid, 1, 0, "released")
        return holds(f"counted: {found.macs:,} at {shown(subject.grid)}, by two counts that agree in {len(cases)} cases")
    number = {2: "two", 3: "three"}[least]
    return holds(f"{layer.macs(subject.grid):,} at {shown(subject.grid)}, {number} counts each in {len(_cases(subject))} cases")  # type: ignore[operator]


WRONG_COUNT = "count again: one multiply-add is 1, elementwise work is 0, the batch is included"
DIFFERING = "two counters read the same operators differently: this is a mistake of the bench's, please report it"


def _count(subject: Subject, grid: Grid, batch: int, prefix: int, path: str) -> FlopCount:
    return count_flops(_AsModel(subject.build(grid), prefix), (batch, subject.dim, *grid), path)


@check(
    "declared elementwise",
    meaning="Where the class has a method elementwise(grid, batch), it is exactly what the operators that run add up to, in the"
    " units of mixers.base.",
    expected="equal counts",
)
def declared_elementwise(subject: Subject) -> Outcome:
    """On the same cases, and for every evaluation path where the method takes one."""
    layer = subject.build(subject.grid)
    if not hasattr(layer, "elementwise"):
        work = subject.work(subject.grid)
        if work.unknown:
            return not_applicable(
                f"none is declared; at least {work.elementwise:,}, without {', '.join(work.unknown)}", PRICE_IT
            )
        return not_applicable(f"none is declared, and none is needed; counted: {work.elementwise:,} at {shown(subject.grid)}")
    cases = [(*case, "released") for case in _cases(subject)]
    if takes(layer.elementwise, "path"):
        cases += [(subject.grid, 2, 0, path) for path in PATHS]
    for case in cases:
        outcome = _misdeclared(subject, *case)
        if outcome is not None:
            return outcome
    return holds(f"{layer.elementwise(subject.grid):,} at {shown(subject.grid)}, equal in {len(cases)} cases")  # type: ignore[operator]


def _misdeclared(subject: Subject, grid: Grid, batch: int, prefix: int, path: str) -> Outcome | None:
    """What is wrong with one declaration of elementwise work, beside the work by operator; None if nothing is."""
    layer = subject.build(grid)
    extra = ({"prefix_tokens": prefix} if prefix else {}) | ({"path": path} if takes(layer.elementwise, "path") else {})
    declared = layer.elementwise(grid, batch, **extra)  # type: ignore[operator]
    work = subject.work(grid, batch, prefix, path)
    remedy = (
        "the units stand in mixers/base.py: 1 for each pointwise output, 5 for each element of a softmax, ...; or declare none"
    )
    if type(declared) is not int:
        return fails(f"elementwise returns {type(declared).__name__} instead of int", remedy)
    by_operator = ", ".join(f"{operator} {count:,}" for operator, count in work.by_operator.items()) or "no operator does any"
    if work.unknown and declared >= work.elementwise:
        said = f"at least {work.elementwise:,}, declared {declared:,}: unknown operator: {', '.join(work.unknown)}"
        return not_applicable(f"{_case(grid, batch, prefix, path)}: {said}", PRICE_IT)
    if declared != work.elementwise:
        return fails(
            f"{_case(grid, batch, prefix, path)}: declared {declared:,}, counted {work.elementwise:,} ({by_operator})", remedy
        )
    return None


def _growth(name: str, what: str, cost: Callable[[Work], int], counted: bool) -> None:
    @check(
        f"growth of {name}",
        meaning=f"{what} grow with the tokens no faster than the declared complexity; without one, the exponent is told.",
        expected="a local exponent up to 1.05 (linear), 1.15 (N log N), 2.05 (quadratic), k + 0.05 (N^k)",
    )
    def grow(subject: Subject) -> Outcome:
        if len(subject.sides(subject.sizes.growth)) < 2:
            return not_applicable(NO_GRIDS)
        found = subject.growth()
        unknown = sorted({op for _, work in found for op in work.unknown})
        if counted and unknown:
            return not_applicable(f"an operator without a count ({', '.join(unknown)}): see declared MACs and elementwise")
        return _judge_growth(subject, [n for n, _ in found[-2:]], [cost(work) for _, work in found[-2:]])


_growth("MACs", "Multiply-adds that FlopCounterMode counts", lambda work: work.macs, counted=True)
_growth("elementwise work", "Counted elementwise operations", lambda work: work.elementwise, counted=True)
_growth("bytes moved", "Bytes that its operators read and write", lambda work: work.moved, counted=False)
_growth("live memory", "Bytes alive at the same time", lambda work: work.live, counted=False)


def measured_complexity(mixer: str, dim: int = 48, heads: int = 3) -> str:
    """How fast a mixer's token layer grows with the tokens, "N^1.50 (measured)": the fastest of its counted costs.

    MACs, elementwise work, bytes moved and bytes alive are counted at three sizes, and the exponent is that between the two
    largest. A mixer that cannot be counted is "undeclared".

    Raises:
        MixerError: for an unknown mixer.
    """
    subject = Subject(mixer, "token", dim, heads, 0, QUICK)
    try:
        (few, less), (many, more) = subject.growth()[-2:]
    except Exception:  # what goes wrong in a mixer is a finding of `verify`
        return "undeclared"
    costs = [(getattr(less, name), getattr(more, name)) for name in ("macs", "elementwise", "moved", "live")]
    exponents = [local_exponents([few, many], pair)[0] for pair in costs if min(pair) > 0]
    return f"N^{max(exponents):.2f} (measured)" if exponents else "undeclared"


def _judge_growth(subject: Subject, tokens: list[int], values: list[int]) -> Outcome:
    if not values[-1]:
        return holds("none")
    exponent = local_exponents(tokens, values)[0] if values[0] else math.inf
    measured = f"N^{exponent:.3f} from {tokens[0]:,} to {tokens[1]:,} tokens"
    allowed = allowed_exponent(subject.spec.complexity)
    if allowed is None:
        return holds(f"measured {measured}", expected=NOTHING_DECLARED)
    declared = subject.spec.complexity
    remedy = f"it is not {declared} in the number of tokens: declare what it is, or find the operator that grows"
    return judged(exponent <= allowed, measured, remedy, f"N^{allowed} at most ({declared})")


@check(
    "time",
    meaning="Measured CPU time grows with the tokens no faster than declared; only a gross excess fails.",
    expected=f"an exponent up to {TOLERANCE.time} above the declared one",
    slow=True,
)
def measured_time(subject: Subject) -> Outcome:
    """The least of interleaved rounds on one thread, between the two largest grids, without the allocator's page faults."""
    declared = allowed_exponent(subject.spec.complexity)
    allowed = math.inf if declared is None else declared + TOLERANCE.time
    if len(subject.sides(subject.sizes.time)) < 2:
        return not_applicable(NO_GRIDS)
    best: dict[int, float] = {}
    for _ in range(2):  # a busy machine gets a second chance
        best = {n: min(seconds, best.get(n, math.inf)) for n, seconds in _times(subject).items()}
        sizes = sorted(best)[-2:]
        exponent = local_exponents(sizes, [best[n] for n in sizes])[0]
        if exponent <= allowed:
            break
    measured = f"N^{exponent:.2f} from {sizes[0]:,} to {sizes[1]:,} tokens ({1e3 * best[sizes[1]]:.2f} ms)"
    if math.isinf(allowed):
        return holds(f"measured {measured}", expected=NOTHING_DECLARED)
    return judged(exponent <= allowed, measured, "it takes longer than its counts tell", f"N^{allowed:.2f} at most")


#: Seconds of CPU time after which one size gets no further round.
_ENOUGH_SECONDS = 0.6


def _times(subject: Subject) -> dict[int, float]:
    """Seconds of CPU time by tokens: other processes do not count, nor does memory that the allocator maps afresh."""
    cells: dict[int, Callable[[], object]] = {}
    for side in subject.affordable(subject.sides(subject.sizes.time)):
        grid = (side, side)
        layer, x = subject.build(grid, noise=0.02), subject.tokens(1, grid, torch.float32)
        cells[side * side] = lambda layer=layer, x=x, grid=grid: run(layer, x, grid)  # type: ignore[misc]
    best, spent = dict.fromkeys(cells, math.inf), dict.fromkeys(cells, 0.0)
    with kept_memory():
        for call in cells.values():
            call()
        for number in range(subject.sizes.rounds):
            for n, call in cells.items():
                if number < 2 or spent[n] < _ENOUGH_SECONDS:
                    seconds = _cpu_seconds(call)
                    best[n], spent[n] = min(best[n], seconds), spent[n] + seconds
    return best


def _cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call: a mean over as many as take 10 ms."""
    began, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - began < 0.01:
        call()
        calls += 1
    return (time.process_time() - began) / calls
