"""What tables say of the cells of a profile: the session, the baseline's backend, settings and lines as raw cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from wfbench.analysis.cells import LineRow, Profile, cell_key
from wfbench.analysis.lines import BASELINE, group, label, latest, latest_session
from wfbench.records import BreakdownRow, Row, ThroughputRow
from wfbench.report.naming import flat
from wfbench.report.words import environment_notes, plural

_T = TypeVar("_T", bound=ThroughputRow | BreakdownRow)


def in_backend(profile: Profile) -> str:
    """What to say of the baseline's attention backend, where several were timed."""
    backends = {row.sdpa_backend for row in profile.cells if (row.mixer, row.variant) == (BASELINE, "")}
    return " in its fastest attention backend at that resolution" if len(backends) > 1 else ""


def session_notes(session: str, sessions: Mapping[str, Sequence[Row]], cells: Mapping[str, int]) -> list[str]:
    """Which session a table shows, when it began, and which others were left out, with their numbers of ``cells``."""
    first = min(row.created for row in sessions[session])
    notes = [f"Session {session}, begun {first}."]
    others = [f"{name} ({plural(cells[name], 'cell')})" for name in sessions if name != session]
    if others:
        notes.append(f"Earlier sessions of the same setting were left out: {', '.join(others)}.")
    return notes


def latest_cells(rows: Sequence[_T]) -> tuple[list[_T], list[str]]:
    """The cells of the latest session, and what to say of it and of the others."""
    sessions = group(rows, lambda row: row.session)
    session = latest_session(sessions)
    cells = latest(sessions[session], cell_key)
    counts = {name: len({cell_key(row) for row in members}) for name, members in sessions.items()}
    notes = [*session_notes(session, sessions, counts), *environment_notes(row.environment for row in cells)]
    return cells, notes


def raw_settings(places: Sequence[Profile]) -> dict[str, object]:
    """The setting of a table as raw cells; where a table has several, all their values."""
    if len(places) == 1:
        return flat(places[0].setting)
    entries = [flat(profile.setting) for profile in places]
    return {field: "/".join(dict.fromkeys(str(entry[field]) for entry in entries)) for field in entries[0]}


def raw_line(row: LineRow) -> dict[str, object]:
    """What names a line, as raw cells."""
    fields = ("mixer", "local_conv", "pos_embed", "variant", "sdpa_backend")
    return {"label": label(row), **{field: getattr(row, field) for field in fields}}
