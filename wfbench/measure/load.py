"""What other processes took from this one while something was measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

#: A measurement is crowded if other processes kept more cores busy than it left free, by more than so many.
CROWDED = 0.1
#: The environment variable by which the load is not looked at, and nothing is measured again for it.
IGNORED = "WFBENCH_IGNORE_LOAD"


@dataclass(frozen=True)
class Load:
    """Processor time between two moments, in cores: seconds of work by seconds of the clock.

    Attributes:
        others: what other processes, and other machines on the same host, kept busy.
        wanted: what the measurement itself may keep busy, its threads.
        cores: of the machine.
    """

    others: float
    wanted: float
    cores: int

    @property
    def missing(self) -> float:
        """How many of the cores that the measurement may use were busy with other work; 0 if none were."""
        return max(0.0, self.others + self.wanted - self.cores)

    @property
    def is_crowded(self) -> bool:
        """Whether the measurement had to share its cores."""
        return self.missing > CROWDED


class LoadMeter:
    """Watches from its construction on; Linux alone tells what other processes do.

    Args:
        threads: that the measurement uses.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._before = _moment()

    def load(self) -> Load | None:
        """Since the construction; None where the system does not tell, no time has passed, or `IGNORED` is set."""
        if os.environ.get(IGNORED):
            return None
        after = _moment()
        if self._before is None or after is None:
            return None
        clock, busy, own = (b - a for a, b in zip(self._before, after, strict=True))
        if clock < 0.05:
            return None  # the system counts in hundredths of a second
        return Load(max(0.0, busy - own) / clock, self._threads, os.cpu_count() or 1)


def _moment() -> tuple[float, float, float] | None:
    """Seconds of the clock, of all cores' work (and of what the host took from them), and of this process's own."""
    try:
        with open("/proc/stat") as file:
            fields = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = fields
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    times = os.times()
    return time.perf_counter(), busy, times.user + times.system + times.children_user + times.children_system
