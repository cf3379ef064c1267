"""Profiling: mixers × resolutions, each cell a row, with exponents, crossovers and throughput beside them."""

from wfbench.tasks.profile.cell import Cell
from wfbench.tasks.profile.request import ProfileRequest
from wfbench.tasks.profile.run import Lines, Watch, profile

__all__ = ["Cell", "Lines", "ProfileRequest", "Watch", "profile"]
