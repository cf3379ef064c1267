"""Latency of several models, so that they can be compared: everything warmed, then interleaved rounds in random order.

Protocol "interleaved-v1": one process; every cell (one callable) is run until warm before any is timed; then rounds, each
of which times every cell once, in an order of its own. A sample is the mean of as many calls as fill a block of about 50
ms. Raw samples are kept. Heat, memory state and neighbours so hit all cells alike, and ratios within a run can be trusted
further than the times themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

PROTOCOL = "interleaved-v1"
_BLOCK_SECONDS = 0.05
_WARM_CALLS = 3


@dataclass
class Timed:
    """One cell's outcome: samples in seconds per call, or what went wrong."""

    status: str = "ok"
    message: str | None = None
    samples: list[float] = field(default_factory=list)


def time_interleaved(
    cells: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    order_seed: int,
    threads: int | None = None,
    done: Callable[[str, str], None] = lambda key, stage: None,
) -> dict[str, Timed]:
    """Time callables against one another.

    Args:
        cells: name to callable; it is called without arguments and its work is waited for.
        rounds: samples for each cell.
        order_seed: decides the order within each round.
        threads: intra-op threads; None for PyTorch's present number (its Timer alone would use 1).
        done: told of each cell warmed ("warm") and timed ("round k/n").

    Returns:
        An outcome for every cell: one that runs out of memory is "oom", one that raises is "error".
    """
    from torch.utils.benchmark import Timer  # looks for compilers when imported, and says so

    threads = threads or torch.get_num_threads()
    timers = {key: Timer("call()", globals={"call": call}, num_threads=threads) for key, call in cells.items()}
    outcome = {key: Timed() for key in cells}
    number = {}
    for key, timer in timers.items():
        try:
            timer.timeit(1)
            seconds = timer.timeit(_WARM_CALLS - 1).mean
        except Exception as e:  # the cell becomes a row that says so
            _fail(outcome[key], e)
        else:
            number[key] = max(1, round(_BLOCK_SECONDS / max(seconds, 1e-9)))
        done(key, "warm")
    order = random.Random(order_seed)
    for k in range(rounds):
        for key in order.sample(list(number), len(number)):
            if outcome[key].status != "ok":
                continue
            try:
                outcome[key].samples.append(timers[key].timeit(number[key]).mean)
            except Exception as e:
                _fail(outcome[key], e)
            done(key, f"round {k + 1}/{rounds}")
    return outcome


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _fail(timed: Timed, error: Exception) -> None:
    timed.status = "oom" if is_out_of_memory(error) else "error"
    timed.message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    timed.samples.clear()
