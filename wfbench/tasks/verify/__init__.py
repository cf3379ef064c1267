"""Verifying: the oracles that hold for every mixer, run on any mixer, the user's own included."""

# Importing them enters their checks, in the order of the table.
from wfbench.tasks.verify import behaviour, cost, grids, skeleton, use
from wfbench.tasks.verify.judge import CHECKS, Check, Finding, Outcome, Report, verify
from wfbench.tasks.verify.subject import FULL, QUICK, Sizes

CHECKS.sort(key=lambda check: check.slow)  # what takes long comes last

__all__ = [
    "CHECKS",
    "FULL",
    "QUICK",
    "Check",
    "Finding",
    "Outcome",
    "Report",
    "Sizes",
    "behaviour",
    "cost",
    "grids",
    "skeleton",
    "use",
    "verify",
]
