"""Measuring: MACs by agreeing counts, latency with its spread, memory of a clean process, and what they say about scaling.

The names below are imported when they are used: a process that times one cell must not wait for the counters' libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wfbench.measure.flops import CountError, FlopCount, count_flops
    from wfbench.measure.latency import time_interleaved
    from wfbench.measure.scaling import crossover, local_exponents

__all__ = ["CountError", "FlopCount", "count_flops", "crossover", "local_exponents", "time_interleaved"]

_HOME = {"crossover": "scaling", "local_exponents": "scaling", "time_interleaved": "latency"}


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'flops')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
