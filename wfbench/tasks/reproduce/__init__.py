"""Recorded cells again: some are drawn at random, repeated here from what their rows say, and compared with their records.

    cells.py      the cells of a set of records, and the draw
    own.py        does a row agree with its own raw data?
    training.py, profile.py     what is missing to repeat a cell; its run; the comparison
    run.py        the whole of it

The rules are `wfbench.analysis.reproduction`.
"""

from __future__ import annotations

from wfbench.tasks.reproduce.cells import Cells, draw, find_cells
from wfbench.tasks.reproduce.run import Plan, ReproduceRequest, Watch, plan, reproduce

__all__ = ["Cells", "Plan", "ReproduceRequest", "Watch", "draw", "find_cells", "plan", "reproduce"]
