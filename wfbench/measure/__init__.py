"""Measuring: MACs by agreeing counts, latency by interleaved rounds, and what they say about scaling."""

from wfbench.measure.flops import CountError, FlopCount, count_flops
from wfbench.measure.latency import PROTOCOL, Timed, is_out_of_memory, time_interleaved
from wfbench.measure.scaling import Crossover, crossover, local_exponents

__all__ = [
    "PROTOCOL",
    "CountError",
    "Crossover",
    "FlopCount",
    "Timed",
    "count_flops",
    "crossover",
    "is_out_of_memory",
    "local_exponents",
    "time_interleaved",
]
