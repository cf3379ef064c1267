"""Measuring: MACs by agreeing counts, latency by interleaved rounds, and what they say about scaling."""

from wfbench.measure.flops import CountError, FlopCount, count_flops

__all__ = ["CountError", "FlopCount", "count_flops"]
