"""Moved to wfbench.analysis.asked."""

from wfbench.analysis.asked import Asked

__all__ = ["Asked"]
