"""What each cell of a profile costs, and what the machine did while it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wfbench.analysis.cells import Line, Profile, Sessions, line_of, sessions_of, that_count
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, scheduled
from wfbench.analysis.ratio import SpeedUp, speed_up
from wfbench.analysis.scaling import DerivedRows, Exponents, exponents_of
from wfbench.measure.rounds import GOAL, LEAST_ROUNDS
from wfbench.records import AnyRow, HarnessRow, MachineRow, MeasurementRow, ProfileRow
from wfbench.records.profile import FORKED


@dataclass(frozen=True, eq=False)
class CellCost:
    """What one cell costs.

    Attributes:
        row: the record of the cell: its counts, its memory, and whether it failed.
        line: the line that it belongs to.
        latency: the median of the rounds' medians, in seconds for the whole batch; None if the cell failed.
        speedup: how many times faster it is than the baseline's fastest cell at this resolution; None if either failed.
        exponents: of the step from the next smaller resolution; None without one.
    """

    row: ProfileRow
    line: Line
    latency: Interval | None
    speedup: SpeedUp | None
    exponents: Exponents | None

    @property
    def seconds_per_image(self) -> Interval | None:
        """The latency divided by the batch."""
        return None if self.latency is None else self.latency.divided_by(self.row.batch)

    @property
    def is_over_bound(self) -> bool:
        """Whether the cell took less time than the bound says is possible, so that the bound is wrong."""
        bound = self.row.bound_seconds
        return self.latency is not None and bound is not None and bound > self.latency.estimate

    @property
    def bound_share(self) -> float | None:
        """The least time that the machine's rates allow, divided by the latency; None where the bound is wrong or unknown."""
        bound = self.row.bound_seconds
        return None if self.latency is None or bound is None or self.is_over_bound else bound / self.latency.estimate


@dataclass(frozen=True)
class MachineRates:
    """The best of the rates that were measured of a machine, in one number format.

    Attributes:
        dtype: the number format.
        gemm_flops: operations per second, two for each MAC, of a square matrix product.
        gemm_size: the side of that product's matrices.
        copy_bytes: bytes per second, read and written, of a large copy.
    """

    dtype: str
    gemm_flops: float
    gemm_size: int
    copy_bytes: float


@dataclass(frozen=True)
class Rounds:
    """The raw measurements of latency behind a profile's cells, of two of one round the later.

    Attributes:
        count: how many there are among the rows.
        crowded: how many of them were made while other work kept the cores busy.
        fresh: how many had a process that was begun afresh, by a protocol that forks a server.
    """

    count: int
    crowded: int
    fresh: int


@dataclass(frozen=True, eq=False)
class ProfileCost:
    """The cells of one setting, and what is said about them all.

    Attributes:
        profile: the setting, the session and the rows.
        cells: in the order of the profile's own.
        sessions: which session is shown.
        machine: the rates behind the bounds, by number format.
        calls: the calls of the profile command that worked on the session, in order.
        rounds: what is known of the measurements.
    """

    profile: Profile
    cells: tuple[CellCost, ...]
    sessions: Sessions
    machine: tuple[MachineRates, ...]
    calls: tuple[HarnessRow, ...]
    rounds: Rounds = Rounds(0, 0, 0)


def profile_costs(rows: Sequence[AnyRow], derived: DerivedRows) -> tuple[ProfileCost, ...]:
    """The costs of each profile, in the order of the profiles.

    Args:
        rows: all rows, of which those about the machine and the calls are used.
        derived: the profiles, each with what follows from its cells.
    """
    machines = [row for row in rows if isinstance(row, MachineRow)]
    harness = [row for row in rows if isinstance(row, HarnessRow)]
    measured = group(
        (row for row in rows if isinstance(row, MeasurementRow) and row.stage == "latency"),
        lambda row: (row.session, row.protocol, row.environment.device),
    )
    made = []
    for profile, computed in derived:
        exponents, calls = exponents_of(computed), _calls(profile, harness)
        goal = next((row.precision for row in reversed(calls) if row.precision is not None), GOAL)
        cells = tuple(
            CellCost(
                row, line_of(row), latency(row), speed_up(profile, row, goal), exponents.get((line_of(row), row.resolution))
            )
            for row in profile.cells
        )
        sessions = sessions_of(profile.sessions, profile.session)
        raw = measured.get((profile.session, profile.setting.protocol, profile.setting.device), [])
        made.append(ProfileCost(profile, cells, sessions, machine_rates(profile, machines), calls, _rounds(raw)))
    return tuple(made)


def latency(row: ProfileRow) -> Interval | None:
    """The time of a cell's whole batch in seconds, with its interval over rounds; None if the cell failed."""
    if row.status != "ok" or row.median is None:
        return None
    if row.median_low is not None and row.median_high is not None:
        return Interval(row.median, row.median_low, row.median_high)
    return Interval(row.median, why_none=_why_none(row))


def _why_none(row: ProfileRow) -> str:
    """Why a cell's latency has no interval."""
    if not row.round_medians:
        return "recorded before rounds were kept"
    return f"fewer than {LEAST_ROUNDS} rounds" + (f" ({row.rounds_reason})" if row.rounds_reason else "")


def machine_rates(profile: Profile, machines: Iterable[MachineRow]) -> tuple[MachineRates, ...]:
    """The best rates measured in the profile's session; autocast computes in the format that it casts to."""
    setting = profile.setting
    place = setting.device, setting.threads, setting.tf32
    ours = [
        row
        for row in machines
        if row.session == profile.session
        and row.dtype in (setting.dtype, setting.dtype.removesuffix(" autocast"))
        and (row.environment.device, row.environment.threads, row.environment.tf32) == place
    ]
    found = []
    for dtype, rows in group(ours, lambda row: row.dtype).items():
        product = max(rows, key=lambda row: row.gemm_flops)
        found.append(MachineRates(dtype, product.gemm_flops, product.gemm_size, max(row.copy_bytes for row in rows)))
    return tuple(found)


def _rounds(rows: Iterable[MeasurementRow]) -> Rounds:
    def place(row: MeasurementRow) -> tuple[object, ...]:
        return scheduled(row), row.variant, row.sdpa_backend, row.resolution, row.batch, row.round

    found = [row for row in that_count(rows, place).values() if row.status == "ok"]
    fresh = sum(row.origin == "fresh" for row in found if row.protocol == FORKED)
    return Rounds(len(found), sum(row.crowded for row in found), fresh)


def _calls(profile: Profile, harness: Iterable[HarnessRow]) -> tuple[HarnessRow, ...]:
    """The calls that measured something: one may also sum up anew what others measured, and takes no time."""
    place = profile.session, profile.setting.protocol, profile.setting.device
    ours = [row for row in harness if (row.session, row.protocol, row.environment.device) == place and row.wall_seconds]
    return tuple(sorted(ours, key=lambda row: row.created))
