"""Sweeps: mixers × seeds × recipes as resumable runs, each made by `wfbench train` in a process of its own."""

from wfbench.tasks.sweep.combinations import match_lines
from wfbench.tasks.sweep.dispatch import Dispatch, Sweep, Watch, sweep
from wfbench.tasks.sweep.request import Line, SweepRequest, Tune, load_request
from wfbench.tasks.sweep.single_run import PlannedRun, Status, status_of
from wfbench.tasks.sweep.slurm import SlurmOptions

__all__ = [
    "Dispatch",
    "Line",
    "PlannedRun",
    "SlurmOptions",
    "Status",
    "Sweep",
    "SweepRequest",
    "Tune",
    "Watch",
    "load_request",
    "match_lines",
    "status_of",
    "sweep",
]
