"""Rows that follow from the cells of a session: exponents, curves, and where a mixer becomes faster than the baseline.

They are recorded with the cells, and computed anew wherever the cells are at hand: so the records of older versions get
today's intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from wfbench.analysis.cells import Line, Size, line_of
from wfbench.analysis.lines import group, scheduled
from wfbench.measure.scaling import crossover, exact_exponents, fit, local_exponents
from wfbench.records import FACTORS, CrossoverRow, FitRow, ProfileRow, ScalingRow

#: What rows computed from several cells share with them.
_SHARED = (
    *("environment", "session", "model", "mixer", *FACTORS, "variant", "sdpa_backend"),
    *("token_budget", "mode", "dtype", "compiled", "channels_last", "protocol"),
)

Derived = ScalingRow | FitRow | CrossoverRow


def derived_rows(cells: Iterable[ProfileRow], baseline: str, created: str | None = None) -> list[Derived]:
    """Exponents, curves and crossovers of cells of one session and setting.

    Args:
        cells: one row for each cell; those that failed are passed over.
        baseline: the mixer that crossovers are found against, in the fastest of its attention backends.
        created: the date that all of these rows get; None for that of the newest cell.
    """
    cells = list(cells)
    created = created or max((row.created for row in cells), default="")
    lines = group(sorted(filter(is_timed, cells), key=lambda row: row.tokens), line_of)
    found: list[Derived] = []
    for line in lines.values():
        found += [*_scaling(line, created), *_curve(line, created)]
    return [*found, *_crossovers(lines, baseline, created)]


def is_timed(row: ProfileRow) -> bool:
    """Whether a cell has a time."""
    return row.status == "ok" and row.median is not None


def _per_image(row: ProfileRow) -> float:
    return (row.median or 0.0) / row.batch


def _shared(line: Sequence[ProfileRow], created: str) -> dict[str, Any]:
    fields = {name: getattr(line[-1], name) for name in _SHARED}
    return {**fields, "created": created, "batch": None if line[-1].token_budget else line[-1].batch}


def _scaling(line: Sequence[ProfileRow], created: str) -> Iterable[ScalingRow]:
    """Between neighbours: by the curve through all cells where there are enough of them, else from the two alone."""
    curve = fit([row.tokens for row in line], [_per_image(row) for row in line])
    for low, high in zip(line, line[1:], strict=False):
        tokens = (low.tokens, high.tokens)
        macs = None if low.macs is None or high.macs is None else local_exponents(tokens, (low.macs, high.macs))[0]
        exponent, interval = local_exponents(tokens, (_per_image(low), _per_image(high)))[0], None
        if curve is not None:
            exponent, interval = curve.mean_exponent(*tokens)
        yield ScalingRow(
            **_shared(line, created),
            low=low.resolution,
            high=high.resolution,
            tokens=tokens,
            latency_exponent=exponent,
            latency_exponent_low=interval and interval.low,
            latency_exponent_high=interval and interval.high,
            macs_exponent=macs,
        )


def _curve(line: Sequence[ProfileRow], created: str) -> Iterable[FitRow]:
    tokens = [row.tokens for row in line]
    curve = fit(tokens, [_per_image(row) for row in line])
    if curve is None:
        return
    intervals = [curve.exponent_interval(n) for n in tokens]
    macs = [row.macs for row in line]
    exact = exact_exponents(tokens, [m or 0.0 for m in macs]) if all(macs) else [None] * len(macs)
    a, b, c = curve.coefficients
    yield FitRow(
        **_shared(line, created),
        sides=tuple(row.resolution for row in line),
        tokens=tuple(tokens),
        a=a,
        b=b,
        c=c,
        spread=curve.spread,
        freedom=curve.freedom,
        exponents=tuple(curve.exponent(n) for n in tokens),
        exponents_low=tuple(i.low for i in intervals),
        exponents_high=tuple(i.high for i in intervals),
        macs_exponents=tuple(exact),
        doubts=tuple(curve.doubts()),
    )


def _crossovers(lines: dict[Line, list[ProfileRow]], baseline: str, created: str) -> Iterable[CrossoverRow]:
    """Of each line but the baseline's and variants, over the sides at which both were timed; at least two are needed."""
    best = _fastest([row for name, line in lines.items() if (scheduled(name), name.variant) == (baseline, "") for row in line])
    for name, line in lines.items():
        common = [row for row in line if row.resolution in best]
        if scheduled(name) == baseline or name.variant or len(common) < 2:
            continue
        theirs = [best[row.resolution] for row in common]
        found = crossover([row.tokens for row in common], list(map(_per_image, common)), list(map(_per_image, theirs)))
        smallest, largest = common[0], common[-1]
        yield CrossoverRow(
            **_shared(line, created),
            baseline=baseline,
            baseline_backends=tuple(row.sdpa_backend for row in theirs),
            verdict=found.verdict,
            side=_side(found.tokens, smallest),
            interval=found.interval is not None,
            interval_method=None if found.interval is None else "surely slower to surely faster",
            side_low=_side(found.slower_until, smallest),
            side_high=_side(found.faster_since, smallest),
            smallest_side=smallest.resolution[0],
            largest_side=largest.resolution[0],
        )


def _fastest(rows: Iterable[ProfileRow]) -> dict[Size, ProfileRow]:
    """The fastest row of each resolution; of equals, the first."""
    found: dict[Size, ProfileRow] = {}
    for row in rows:
        if row.resolution not in found or _per_image(row) < _per_image(found[row.resolution]):
            found[row.resolution] = row
    return found


def _side(tokens: float | None, cell: ProfileRow) -> float | None:
    """The side in pixels of a square image of so many tokens, from that of a cell."""
    return None if tokens is None else math.sqrt(tokens / cell.tokens) * cell.resolution[0]
