"""Whether runs are of the paired design, in which those of one seed begin equal and see the same draws."""

from __future__ import annotations

from collections.abc import Iterable

from wfbench.records.row import Row

#: From this version of the rows on, whatever two models share begins equal, and so do order, augmentation and all draws.
PAIRED_SCHEMA = 6


def is_paired_design(rows: Iterable[Row]) -> bool:
    """Whether all these rows are of runs of the paired design, so that those of one seed go up and down together."""
    return all(row.schema_version >= PAIRED_SCHEMA for row in rows)
