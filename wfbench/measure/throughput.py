"""Throughput: images per second by batch, doubled until more images surely gain little.

Each step adds one batch. In each of its rounds three batches are timed in random order: one image, the batch of the step
before, and the new one. So the gain of the doubling and the gain over one image are both paired by round: what slows the
machine for a while slows all three. One process times all batches with one model; what differs from process to process is not
seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from wfbench.measure.latency import in_random_order, status_of
from wfbench.measure.rounds import paired_ratio

if TYPE_CHECKING:
    from wfbench.records.profile import StoppedBy

#: Doublings in a row that must surely gain little: one alone may be a batch whose size suits the kernels badly.
_IN_A_ROW = 2
#: Calls that warming a batch up takes at least.
_WARM_CALLS = 2


class Timer(Protocol):
    """What `wfbench.measure.latency.Sampler` offers."""

    call_seconds: float

    def warm(self) -> float:
        """Run until warm; the seconds of a call."""

    def sample(self) -> float:
        """Seconds per call, once more."""


@dataclass
class Doubling:
    """Batches in ascending order, each with its rounds; all times are seconds per call on the whole batch.

    Attributes:
        batches: 1, 2, 4, ….
        seconds: of each batch, by round.
        alone: of a batch of one image in the same rounds.
        before: of half the batch in the same rounds; empty for the first.
        stopped_by: why there are no more batches.
        spent: seconds within calls of each batch, warm-up counted.
        warming: seconds that warming up the last batch took; of a compiled model most of it is the compiler's.
    """

    batches: list[int] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)
    alone: list[list[float]] = field(default_factory=list)
    before: list[list[float]] = field(default_factory=list)
    stopped_by: StoppedBy | None = None
    spent: dict[int, float] = field(default_factory=dict)
    warming: float = 0.0

    @property
    def call_seconds(self) -> float:
        """Seconds within calls, of all batches."""
        return sum(self.spent.values())

    def saturated(self, gain: float) -> bool:
        """Whether the last two doublings surely gained less: each interval of the ratio of rates ends below 1 + gain."""
        if len(self.batches) <= _IN_A_ROW:
            return False
        ratios = [
            # By image, the new batch takes seconds / 2: so much faster is it than the batch before.
            paired_ratio([s / 2 for s in seconds], before)
            for seconds, before in list(zip(self.seconds, self.before, strict=True))[-_IN_A_ROW:]
        ]
        return all(ratio is not None and ratio.high < 1 + gain for ratio in ratios)

    def seconds_of_next(self, rounds: int) -> float:
        """About what the next doubling takes, if its batch takes twice as long as the last one."""
        alone, last = max(self.seconds[0]), max(self.seconds[-1])
        return max(_WARM_CALLS * 2 * last, self.warming) + rounds * (alone + last + 2 * last)


def double(timer_of: Callable[[int], Timer], *, rounds: int, gain: float, most: int, budget: float) -> Doubling:
    """Double the batch until two doublings in a row surely gain less than ``gain``, memory or time runs out, or at ``most``.

    Args:
        timer_of: makes the timer of a batch; its model must be the same for all.
        rounds: of each step. The first step takes fewer if the budget holds no more.
        gain: relative gain in images per second under which a doubling is not worth it.
        most: the largest batch to try.
        budget: seconds within calls; a step that would exceed it is not begun.

    Raises:
        TimeoutError: if the budget holds no round of one image.
        Exception: whatever a single image raises; of a larger batch, whatever is no lack of memory.
    """
    found, timers = Doubling(), {1: timer_of(1)}
    second = timers[1].warm()
    found.spent[1] = found.warming = timers[1].call_seconds
    possible = min(rounds, int((budget - found.call_seconds) / max(second, 1e-9)))
    if possible < 1:
        raise TimeoutError(f"warming up took {found.call_seconds:.1f} s of a budget of {budget:.1f} s: no time for one round")
    _step(found, timers, 1, possible)
    while found.stopped_by is None:
        batch = 2 * found.batches[-1]
        if found.saturated(gain):
            found.stopped_by = "gain"
        elif batch > most:
            found.stopped_by = "limit"
        elif found.call_seconds + found.seconds_of_next(rounds) > budget:
            found.stopped_by = "time"
        else:
            try:
                timers[batch] = timer_of(batch)
                timers[batch].warm()
                found.warming = timers[batch].call_seconds
                _step(found, timers, batch, rounds)
            except Exception as e:
                if status_of(e)[0] != "oom":
                    raise
                found.stopped_by = "memory"
    return found


def _step(found: Doubling, timers: dict[int, Timer], batch: int, rounds: int) -> None:
    """Time the newest batch beside one image and the batch before; then forget what the next step does not need."""
    seconds: dict[int, list[float]] = {size: [] for size in timers}
    for k in range(rounds):
        for name in in_random_order([str(size) for size in timers], batch, k):
            seconds[int(name)].append(timers[int(name)].sample())
    found.batches.append(batch)
    found.seconds.append(seconds[batch])
    found.alone.append(seconds[1])
    found.before.append(seconds[batch // 2] if batch > 1 else [])
    found.spent |= {size: timer.call_seconds for size, timer in timers.items()}
    for size in timers.keys() - {1, batch}:
        del timers[size]
