"""How the time of a profile's lines grows with tokens: exponents, curves, and where a mixer overtakes the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wfbench.analysis.cells import Line, Profile, Size, line_key, line_of, owners, placed
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import CHOSEN_BACKEND, latest
from wfbench.records import CrossoverRow, FitRow, ScalingRow


@dataclass(frozen=True)
class Exponents:
    """Of one step between neighbouring resolutions: d log t / d log N, and the same of the counted MACs.

    ``macs`` is None where a count was refused.
    """

    latency: Interval
    macs: float | None


@dataclass(frozen=True)
class CurvePoint:
    """A line's curve at one of its sides.

    Attributes:
        side: height and width in pixels.
        tokens: N of one image.
        exponent: d log t / d log N of the curve.
        macs_exponent: of the counted MACs' own curve; None where a count was refused.
        shares: of overhead a, of b N and of c N² in the curve's time; None where that is 0.
    """

    side: Size
    tokens: int
    exponent: Interval
    macs_exponent: float | None
    shares: tuple[float, float, float] | None


@dataclass(frozen=True)
class LineCurve:
    """The curve t = a + b N + c N² through one line's cells; t is in seconds for one image.

    Attributes:
        line: the line.
        session: the session of its cells.
        created: when the curve was recorded.
        coefficients: a, b and c; none is negative.
        spread: typical relative distance of a cell from the curve.
        freedom: the degrees of freedom behind it.
        points: the curve at each side.
        doubts: why the curve says less than it seems to.
    """

    line: Line
    session: str
    created: str
    coefficients: tuple[float, float, float]
    spread: float
    freedom: int
    points: tuple[CurvePoint, ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scaling:
    """The curves of one profile; of several profiles where the records do not say which of them they mean."""

    profiles: tuple[Profile, ...]
    curves: tuple[LineCurve, ...]


@dataclass(frozen=True)
class Crossing:
    """The image side from which a line is faster than the baseline.

    Attributes:
        line: the line.
        session: the session of its cells.
        created: when it was recorded.
        baseline: the baseline's line.
        baseline_backends: the baseline's attention backend at each side at which both were timed, the fastest of those timed.
        backend_sides: those sides; empty where they are not known.
        verdict: "at": at ``side``; "always": faster at every side; "none": at none up to the last.
        side: in pixels; None without a crossover within the measured range.
        has_interval: whether ``side_low`` and ``side_high`` say anything.
        side_low: the lower end of the 95% interval; None where it lies below the measured sides.
        side_high: its upper end; None where it lies beyond them.
        smallest_side: of the measured sides.
        largest_side: of the measured sides.
    """

    line: Line
    session: str
    created: str
    baseline: Line
    baseline_backends: tuple[str, ...]
    backend_sides: tuple[Size, ...]
    verdict: Literal["at", "always", "none"]
    side: float | None
    has_interval: bool
    side_low: float | None
    side_high: float | None
    smallest_side: int
    largest_side: int


@dataclass(frozen=True, eq=False)
class Crossovers:
    """The crossovers of one profile; of several profiles where the records do not say which of them they mean."""

    profiles: tuple[Profile, ...]
    crossings: tuple[Crossing, ...]


def exponents_of(
    profile: Profile, profiles: Sequence[Profile], rows: Iterable[ScalingRow]
) -> tuple[Mapping[tuple[Line, Size], Exponents], bool]:
    """The exponents of a profile by the cell they end at, and whether some are left out that may be of other profiles."""
    ours, unclear = [], False
    for row in rows:
        places = owners(row, profiles) if row.session == profile.session else []
        if places == [profile]:
            ours.append(row)
        unclear |= profile in places and len(places) > 1
    found = {(line_of(row), row.high): _exponents(row) for row in latest(ours, lambda row: (line_key(row), row.high))}
    return found, unclear


def _exponents(row: ScalingRow) -> Exponents:
    low, high = row.latency_exponent_low, row.latency_exponent_high
    why = "" if low is not None else "from two cells alone"
    return Exponents(Interval(row.latency_exponent, low, high, why_none=why), row.macs_exponent)


def scalings(rows: Iterable[object], profiles: Sequence[Profile]) -> tuple[Scaling, ...]:
    """The curves through the cells of each profile that has some."""
    made = []
    for places, fits in placed((row for row in rows if isinstance(row, FitRow)), profiles):
        fits = latest(fits, line_key) if len(places) == 1 else sorted(fits, key=line_key)
        made.append(Scaling(tuple(places), tuple(map(_curve, fits))))
    return tuple(made)


def _curve(fit: FitRow) -> LineCurve:
    points = []
    sides = zip(fit.sides, fit.tokens, fit.exponents, fit.exponents_low, fit.exponents_high, fit.macs_exponents, strict=True)
    for side, tokens, exponent, low, high, macs_exponent in sides:
        a, b, c = fit.a, fit.b * tokens, fit.c * tokens**2
        total = a + b + c
        shares = (a / total, b / total, c / total) if total > 0 else None
        points.append(CurvePoint(side, tokens, Interval(exponent, low, high), macs_exponent, shares))
    coefficients = (fit.a, fit.b, fit.c)
    facts = (coefficients, fit.spread, fit.freedom, tuple(points), fit.doubts)
    return LineCurve(line_of(fit), fit.session, fit.created, *facts)


def crossovers(rows: Iterable[object], profiles: Sequence[Profile]) -> tuple[Crossovers, ...]:
    """Where each line of a profile becomes faster than the baseline."""
    made = []
    for places, crossed in placed((row for row in rows if isinstance(row, CrossoverRow)), profiles):
        if len(places) == 1:
            crossed = latest(crossed, lambda row: (line_key(row), row.baseline))
        else:
            crossed = sorted(crossed, key=line_key)
        made.append(Crossovers(tuple(places), tuple(_crossing(row, places) for row in crossed)))
    return tuple(made)


def _crossing(row: CrossoverRow, places: Sequence[Profile]) -> Crossing:
    line = line_of(row)
    return Crossing(
        line=line,
        session=row.session,
        created=row.created,
        baseline=line._replace(mixer=row.baseline, variant="", sdpa_backend=CHOSEN_BACKEND),
        baseline_backends=row.baseline_backends,
        backend_sides=_backend_sides(row, places),
        verdict=row.verdict,
        side=row.side,
        has_interval=row.interval,
        side_low=row.side_low,
        side_high=row.side_high,
        smallest_side=row.smallest_side,
        largest_side=row.largest_side,
    )


def _backend_sides(row: CrossoverRow, places: Sequence[Profile]) -> tuple[Size, ...]:
    """A crossover's record names the backends of the sides at which both were timed, and not the sides themselves."""
    if len(places) > 1:
        return ()
    cells = places[0].cells
    timed = sorted(cell.resolution for cell in cells if line_key(cell) == line_key(row) and places[0].speedup(cell))
    return tuple(timed) if len(timed) == len(row.baseline_backends) else ()
