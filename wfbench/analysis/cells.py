"""Which cells of a profile stand side by side, and what is known of a session."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from wfbench.analysis.lines import BASELINE, CHOSEN_BACKEND, factors, group, latest, latest_session, scheduled, sorted_keys
from wfbench.records import (
    AnyRow,
    BreakdownRow,
    CrossoverRow,
    FitRow,
    HarnessRow,
    MeasurementRow,
    ProfileRow,
    ScalingRow,
    ThroughputRow,
)

#: Height and width, in pixels.
Size = tuple[int, int]
#: What tells the lines of one setting apart, in the order of a table: mixer with its schedule, variant, attention backend.
LineKey = tuple[str, str, str]
#: A row that belongs to a line.
LineRow = ProfileRow | ThroughputRow | BreakdownRow | ScalingRow | FitRow | CrossoverRow
_T = TypeVar("_T", bound=ProfileRow | ThroughputRow | BreakdownRow)
_K = TypeVar("_K", bound=Hashable)


class Line(NamedTuple):
    """What one line of a profile is: a model with a mixer and its schedule, the factors beside it, how its attention runs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    every: int | None
    offset: int | None
    between: str | None
    #: What differs from the named model beside the factors: "patch 32", "depth 6"; empty for the model itself.
    variant: str
    sdpa_backend: str


def line_of(row: LineRow) -> Line:
    """The line that a row belongs to."""
    return Line(*(getattr(row, field) for field in Line._fields))


class Setting(NamedTuple):
    """What the lines of one profile table share. ``batch`` is None where a token budget sets it."""

    model: str
    downsample: int
    factors: str
    device: str
    dtype: str
    threads: int
    batch: int | None
    token_budget: int | None
    mode: str
    protocol: str
    compiled: bool
    channels_last: bool
    tf32: bool
    path: str


def setting_of(row: ProfileRow | ThroughputRow | BreakdownRow) -> Setting:
    """The setting of a cell."""
    place = row.environment
    return Setting(
        model=row.model,
        downsample=row.downsample,
        factors=factors(row),
        device=place.device,
        dtype=row.dtype,
        threads=place.threads,
        batch=row.batch if row.token_budget is None else None,
        token_budget=row.token_budget,
        mode=row.mode,
        protocol=row.protocol,
        compiled=row.compiled,
        channels_last=row.channels_last,
        tf32=place.tf32,
        path=row.path,
    )


def setting_without_batch(row: ThroughputRow | BreakdownRow) -> Setting:
    """The setting of a cell whose row is about several batches, or about one image whatever the batch."""
    return setting_of(row)._replace(batch=None, token_budget=None)


def line_key(row: LineRow | Line) -> LineKey:
    """The line that a row belongs to; the backend that PyTorch chooses comes first."""
    return scheduled(row), row.variant, "" if row.sdpa_backend == CHOSEN_BACKEND else row.sdpa_backend


def cell_key(row: ProfileRow | ThroughputRow | BreakdownRow) -> tuple[LineKey, int, Size]:
    """What one cell of one setting and session is known by: rows with the same one are measurements of the same thing."""
    return line_key(row), row.tokens, row.resolution


def that_count(rows: Iterable[MeasurementRow], key: Callable[[MeasurementRow], _K]) -> dict[_K, MeasurementRow]:
    """Of measurements of one thing (a repeat, two writers) the last one; of those that failed only where none succeeded."""
    found: dict[_K, MeasurementRow] = {}
    for row in rows:
        before = found.get(key(row))
        if before is None or row.status == "ok" or before.status != "ok":
            found[key(row)] = row
    return found


@dataclass(frozen=True)
class Sessions:
    """Which session of a setting is shown.

    Attributes:
        shown: the session with the newest row.
        begun: when its first row was made.
        left_out: the other sessions, each with its number of cells.
    """

    shown: str
    begun: str
    left_out: Mapping[str, int]


def sessions_of(sessions: Mapping[str, Sequence[_T]], shown: str) -> Sessions:
    """Facts about the session that is shown, from the rows of each session of one setting."""
    cells = {name: len({cell_key(row) for row in rows}) for name, rows in sessions.items() if name != shown}
    return Sessions(shown, min(row.created for row in sessions[shown]), cells)


def latest_cells(rows: Sequence[_T]) -> tuple[tuple[_T, ...], Sessions]:
    """The cells of the latest session of one setting, the newest row of each, and which session that is."""
    sessions = group(rows, lambda row: row.session)
    shown = latest_session(sessions)
    return tuple(latest(sessions[shown], cell_key)), sessions_of(sessions, shown)


@dataclass(frozen=True, eq=False)
class Profile:
    """The cells of one setting, as its latest session left them.

    Attributes:
        setting: what the cells share.
        session: their session.
        cells: the newest row of each.
        sessions: the rows of this session and of the earlier ones.
        baseline_mixer: what the others are compared with, in speed-ups and crossovers: that of the session's newest call.
    """

    setting: Setting
    session: str
    cells: tuple[ProfileRow, ...]
    sessions: Mapping[str, Sequence[ProfileRow]]
    baseline_mixer: str = BASELINE

    def seconds(self, row: ProfileRow) -> float | None:
        """The time by which cells compare: of the whole batch, or of one image where batches differ; None if it failed."""
        if row.status != "ok" or row.median is None:
            return None
        return row.median if self.setting.token_budget is None else row.median / row.batch

    def baseline(self, resolution: Size) -> ProfileRow | None:
        """The baseline's fastest cell at a resolution, of all its attention backends; None if none was timed there."""
        timed = [
            (seconds, row)
            for row in self.cells
            if (scheduled(row), row.variant, row.resolution) == (self.baseline_mixer, "", resolution)
            and (seconds := self.seconds(row)) is not None
        ]
        return min(timed, key=lambda pair: pair[0])[1] if timed else None


def profiles_of(rows: Iterable[AnyRow]) -> list[Profile]:
    """The profiles that the rows hold, one for each setting, in the settings' order."""
    rows = list(rows)
    groups = group((row for row in rows if isinstance(row, ProfileRow)), setting_of)
    baselines = _baselines(rows)
    made = []
    for setting in sorted_keys(groups):
        sessions = group(groups[setting], lambda row: row.session)
        session = latest_session(sessions)
        cells = tuple(latest(sessions[session], cell_key))
        made.append(Profile(setting, session, cells, sessions, baselines.get(session, BASELINE)))
    return made


def _baselines(rows: Iterable[AnyRow]) -> dict[str, str]:
    """The mixer that each session compares with: that of the newest call that worked on it."""
    named = [row for row in rows if isinstance(row, HarnessRow | CrossoverRow)]
    return {row.session: row.baseline for row in sorted(named, key=lambda row: row.created)}
