"""Latency: warm first, then samples in blocks, kept raw.

Three protocols share the sampling.

- ``isolated-v1``: every cell (one model, resolution and mode) of every round runs in a fresh process, in an order that a
  recorded seed decides for each round. So heat, neighbours and the state of memory hit all cells alike, and the spread of
  the rounds has in it what differs from process to process.
- ``forked-v1``: the same, but that each process is the fork of one that has imported everything and computed nothing (see
  `wfbench.forkserver`), so that it begins in tenths of a second. It has a name of its own until it is shown that its figures
  are those of fresh processes within their intervals.
- ``interleaved-v1``: all cells in one process; each round times every cell once, in an order of its own. Much faster, and
  good for ratios within the run; what a process does to all its cells is not seen.

In all, the cells of one resolution are one block of the round: blocks come in random order, and within a block its cells do.
So two mixers at one resolution are timed one soon after the other, and their ratio is taken round by round.

Threads are stated. An isolated cell's samples are the blocks of `torch.utils.benchmark`'s ``blocked_autorange``; on CUDA each
is one call between two events, with the L2 cache flushed before it, by `triton.testing.do_bench`. An interleaved sample is the
mean of as many calls as fill a block of about 50 ms.
"""

from __future__ import annotations

import random
import time
import timeit
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from wfbench.records.profile import FORKED as FORKED
from wfbench.records.profile import INTERLEAVED as INTERLEAVED
from wfbench.records.profile import ISOLATED as ISOLATED

#: How long a block of calls takes, in this process.
BLOCK_SECONDS = 0.05
_WARM_CALLS = 2
_WARM_SECONDS = 0.1


@dataclass
class Timed:
    """One cell's outcome: samples in seconds per call, or what went wrong.

    ``call_seconds`` is the time within calls, warm-up counted.
    """

    status: str = "ok"
    message: str | None = None
    samples: list[float] = field(default_factory=list)
    call_seconds: float = 0.0


class Sampler:
    """Times one callable, whose work it waits for.

    Args:
        call: called without arguments.
        threads: intra-op threads; None for PyTorch's present number (a `torch.utils.benchmark.Timer` alone would use 1).
        device: "cpu" or "cuda".
    """

    def __init__(self, call: Callable[[], object], threads: int | None = None, device: str = "cpu") -> None:
        # Loaded here, since it looks for compilers when imported, and says so.
        from torch.utils.benchmark.utils.timer import timer

        self._call, self._device = call, device
        self._threads = threads or torch.get_num_threads()
        self._timer = timeit.Timer(call, timer=timer)  # by a clock that waits for CUDA
        self._seconds = 0.0
        self.call_seconds = 0.0

    def warm(self) -> float:
        """Run until warm, and learn how many seconds a call takes."""
        self._timeit(1)  # compiles, allocates, loads
        seconds, calls = 0.0, 0
        while calls < _WARM_CALLS - 1 or seconds < _WARM_SECONDS:
            seconds += self._timeit(1)
            calls += 1
        self._seconds = seconds / calls
        return self._seconds

    def sample(self, seconds: float = BLOCK_SECONDS) -> float:
        """Seconds per call, over one block of about ``seconds``; the sampler must be warm."""
        # Not Timer.timeit of torch.utils.benchmark: it makes two calls more before each block.
        calls = max(1, round(seconds / max(self._seconds, 1e-9)))
        return self._timeit(calls) / calls

    def samples(self, seconds: float, least: int, budget: float) -> list[float]:
        """Warm up, then sample for ``seconds`` and at least ``least`` calls, within ``budget`` seconds where calls allow it.

        Raises:
            TimeoutError: if the budget is over before there is one sample.
        """
        from torch.utils.benchmark import Timer

        began = time.perf_counter()
        self.warm()
        left = budget - (time.perf_counter() - began)
        if left < self._seconds:
            raise TimeoutError(f"warming up took {budget - left:.1f} s of a budget of {budget:.1f} s: no time for one sample")
        wanted = min(max(seconds, least * self._seconds), left)
        if self._device == "cuda":
            return self._by_events(wanted)
        done = Timer("call()", globals={"call": self._call}, num_threads=self._threads).blocked_autorange(min_run_time=wanted)
        self.call_seconds += sum(done.raw_times) + self._seconds  # it makes a call to choose its blocks
        return list(done.times)

    def _timeit(self, calls: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            seconds = self._timer.timeit(calls)
        finally:
            torch.set_num_threads(before)
        self.call_seconds += seconds
        return seconds

    def _by_events(self, seconds: float) -> list[float]:
        from triton.testing import do_bench  # type: ignore[import-untyped]

        milliseconds = do_bench(self._call, warmup=0, rep=round(1e3 * seconds), return_mode="all")
        self.call_seconds += sum(milliseconds) / 1e3
        return [ms / 1e3 for ms in milliseconds]


def time_interleaved(
    cells: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    order_seed: int,
    threads: int | None = None,
    seconds: float = BLOCK_SECONDS,
    block: Callable[[str], object] = lambda key: None,
    skip: Collection[tuple[str, int]] = (),
    done: Callable[[str, str], None] = lambda key, stage: None,
    sampled: Callable[[str, int, Timed], None] = lambda key, k, timed: None,
) -> dict[str, Timed]:
    """Time callables against one another in this process: everything warmed, then interleaved rounds in random order.

    Args:
        cells: name to callable; it is called without arguments and its work is waited for.
        rounds: samples for each cell.
        order_seed: decides the order within each round.
        threads: intra-op threads; None for PyTorch's present number.
        seconds: how long a cell is called in each round; one call at least.
        block: cells of which this gives the same are timed one after the other in each round.
        skip: cells and rounds (from 0) that have been timed before.
        done: told of each cell warmed ("warm") and timed ("round k/n").
        sampled: gets the cell, the round, and what the cell has so far, as soon as its sample is taken or it has failed.

    Returns:
        An outcome for every cell: one that runs out of memory is "oom", one that raises is "error".
    """
    samplers = {key: Sampler(call, threads) for key, call in cells.items()}
    outcome = {key: Timed() for key in cells}
    for key, sampler in samplers.items():
        with _noting(outcome[key], sampler):
            sampler.warm()
        done(key, "warm")
        if outcome[key].status != "ok":
            sampled(key, 0, outcome[key])
    for k in range(rounds):
        for key in in_random_order(list(cells), order_seed, k, block):
            if outcome[key].status == "ok" and (key, k) not in skip:
                with _noting(outcome[key], samplers[key]):
                    outcome[key].samples.append(samplers[key].sample(seconds))
                sampled(key, k, outcome[key])
                done(key, f"round {k + 1}/{rounds}")
    return outcome


def in_random_order(
    keys: list[str], order_seed: int, round_number: int, block: Callable[[str], object] = lambda key: None
) -> list[str]:
    """The order of one round: another one each round, the same for the same seed.

    Args:
        keys: what is put in order.
        order_seed, round_number: what the order follows from.
        block: keys of which this gives the same stay together. Blocks are in random order, and so are the keys within each.
    """
    blocks: dict[object, list[str]] = {}
    for key in keys:
        blocks.setdefault(block(key), []).append(key)
    draws = random.Random(f"{order_seed}-{round_number}")
    order = draws.sample(list(blocks.values()), len(blocks))
    return [key for members in order for key in draws.sample(members, len(members))]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def status_of(error: BaseException) -> tuple[str, str]:
    """The status of a cell that raised, and its message."""
    status = "oom" if is_out_of_memory(error) else "timeout" if isinstance(error, TimeoutError) else "error"
    return status, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def _noting(timed: Timed, sampler: Sampler) -> Iterator[None]:
    """A cell that fails becomes a row that says what went wrong."""
    try:
        yield
    except Exception as e:
        timed.status, timed.message = status_of(e)
        timed.samples.clear()
    timed.call_seconds = sampler.call_seconds
