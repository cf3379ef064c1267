"""How the time of a profile's lines grows with tokens: exponents, curves, and where a mixer overtakes the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wfbench.analysis.cells import Line, Profile, Size, line_key, line_of
from wfbench.analysis.derived import Derived, is_timed
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import CHOSEN_BACKEND, scheduled
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
    """The curves of one profile."""

    profile: Profile
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
        verdict: "at": at ``side``; "always": faster at every side; "none": at none up to the last.
        side: the estimate, in pixels; None without a crossover within the measured range.
        has_interval: whether ``side_low`` and ``side_high`` say anything.
        side_low: lower end of the 95% interval, the last side at which the line is surely slower; None where there is none,
            so that the crossover may lie below the measured sides.
        side_high: upper end, the side from which the line is surely faster at every later one; None where there is none, so
            that the crossover may lie beyond the measured sides.
        smallest_side: of the measured sides.
        largest_side: of the measured sides.
    """

    line: Line
    session: str
    created: str
    baseline: Line
    baseline_backends: Mapping[Size, str]
    verdict: Literal["at", "always", "none"]
    side: float | None
    has_interval: bool
    side_low: float | None
    side_high: float | None
    smallest_side: int
    largest_side: int


@dataclass(frozen=True, eq=False)
class Crossovers:
    """The crossovers of one profile."""

    profile: Profile
    crossings: tuple[Crossing, ...]


#: What follows from the cells of each profile.
DerivedRows = Sequence[tuple[Profile, Sequence[Derived]]]


def exponents_of(rows: Iterable[Derived]) -> Mapping[tuple[Line, Size], Exponents]:
    """The exponents of a profile by the line and the side of the cell that they end at."""
    return {(line_of(row), row.high): _exponents(row) for row in rows if isinstance(row, ScalingRow)}


def _exponents(row: ScalingRow) -> Exponents:
    low, high = row.latency_exponent_low, row.latency_exponent_high
    why = "" if low is not None else "it is of two cells alone, and fewer than four leave nothing to judge their error by"
    return Exponents(Interval(row.latency_exponent, low, high, why_none=why), row.macs_exponent)


def scalings(derived: DerivedRows) -> tuple[Scaling, ...]:
    """The curves through the cells of each profile that has some, in the order of their lines."""
    made = []
    for profile, rows in derived:
        fits = sorted((row for row in rows if isinstance(row, FitRow)), key=line_key)
        if fits:
            made.append(Scaling(profile, tuple(map(_curve, fits))))
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


def crossovers(derived: DerivedRows) -> tuple[Crossovers, ...]:
    """Where each line of a profile becomes faster than the baseline; of each profile with lines to compare."""
    made = []
    for profile, rows in derived:
        found = sorted((row for row in rows if isinstance(row, CrossoverRow)), key=line_key)
        if found:
            made.append(Crossovers(profile, tuple(_crossing(row, profile) for row in found)))
    return tuple(made)


def _crossing(row: CrossoverRow, profile: Profile) -> Crossing:
    line = line_of(row)
    theirs = [cell for cell in profile.cells if (scheduled(cell), cell.variant) == (row.baseline, "")]
    sides = [cell.resolution for cell in theirs if is_timed(cell)]
    baseline = line._replace(mixer=row.baseline, every=None, offset=None, between=None, variant="")
    ours = [cell.resolution for cell in profile.cells if line_of(cell) == line and is_timed(cell)]
    common = sorted(set(ours) & set(sides))
    return Crossing(
        line=line,
        session=row.session,
        created=row.created,
        baseline=baseline._replace(sdpa_backend=CHOSEN_BACKEND),
        baseline_backends=dict(zip(common, row.baseline_backends, strict=True)),
        verdict=row.verdict,
        side=row.side,
        has_interval=row.interval,
        side_low=row.side_low,
        side_high=row.side_high,
        smallest_side=row.smallest_side,
        largest_side=row.largest_side,
    )
