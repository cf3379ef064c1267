"""What tables about the cells of a profile share: the session in words, and the columns that name a setting and a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from wfbench.analysis.cells import Line, Profile, Sessions, Setting, Size
from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import label, scheduled
from wfbench.report.columns import Column, schedule_columns
from wfbench.report.naming import flat, height_width
from wfbench.report.words import number, pixels, plural, with_interval

L = TypeVar("L")


def in_backend(profile: Profile) -> str:
    """What to say of the baseline's attention backend, where several were timed."""
    backends = {row.sdpa_backend for row in profile.cells if (scheduled(row), row.variant) == (profile.baseline_mixer, "")}
    return " in its fastest attention backend at that resolution" if len(backends) > 1 else ""


def backends_by_side(backends: Mapping[Size, str]) -> str:
    """Attention backends with their sides: "flash at 224, 448 px; math at 672 px"."""
    sides: dict[str, list[str]] = {}
    for side, backend in sorted(backends.items()):
        sides.setdefault(backend, []).append(pixels(side))
    return "; ".join(f"{backend} at {', '.join(where)} px" for backend, where in sides.items())


def session_notes(sessions: Sessions) -> list[str]:
    """Which session a table shows, when it began, and which others were left out, with their numbers of cells."""
    notes = [f"Session {sessions.shown}, begun {sessions.begun}."]
    others = [f"{name} ({plural(count, 'cell')})" for name, count in sessions.left_out.items()]
    if others:
        notes.append(f"Earlier sessions of the same setting were left out: {', '.join(others)}.")
    return notes


def constant_columns(values: Mapping[str, object]) -> list[Column[Any]]:
    """Columns of the CSV that hold the same on every line."""

    def constant(value: object) -> Callable[[Any], object]:
        return lambda line: value

    return [Column(key, constant(value)) for key, value in values.items()]


def setting_columns(setting: Setting) -> list[Column[Any]]:
    """The columns of the CSV that name the setting which all lines of a table share."""
    return constant_columns(flat(setting))


def line_columns(line_of: Callable[[L], Line]) -> list[Column[L]]:
    """The columns that name a line: its label, which people read, and its parts."""

    def part(field: str) -> Callable[[L], object]:
        return lambda result: getattr(line_of(result), field)

    before, after = ("mixer", "local_conv", "pos_embed"), ("variant", "sdpa_backend")
    name: Column[L] = Column("label", lambda result: label(line_of(result)), "mixer", words=True)
    first, last = ([Column(field, part(field)) for field in fields] for fields in (before, after))
    return [name, *first, *schedule_columns(line_of), *last]


def side_columns(side_of: Callable[[L], Size]) -> list[Column[L]]:
    """The columns of an image's size in pixels."""

    def part(field: str) -> Callable[[L], object]:
        return lambda result: height_width(side_of(result))[field]

    return [Column("", side_of, "px", pixels), *(Column(field, part(field)) for field in ("height", "width"))]


def failure_notes(cells: Iterable[tuple[Line, Size, str, str | None]]) -> list[str]:
    """What went wrong, from (line, side, status, message) of each cell."""
    return [
        f"{label(line)} at {pixels(side)} px: {status}: {message or 'no message'}"
        for line, side, status, message in cells
        if status != "ok"
    ]


def whole(value: int) -> str:
    """A whole number for people, with separators of thousands."""
    return f"{value:,}"


def exponent(value: float) -> str:
    """An exponent for people."""
    return f"{value:.2f}"


def with_ends(show: Callable[[float], str]) -> Callable[[Interval], str]:
    """How an uncertain number is shown: as ``show`` shows it, with its interval in brackets where it has one."""
    return lambda value: with_interval(value.estimate, value.low, value.high, show)


def times(value: float) -> str:
    """A ratio for people: "2.45×"."""
    return f"{number(value)}×"


def ratio_with_ends(value: Interval) -> str:
    """A ratio with its interval for people: "6.98× [4.11, 10.2]"."""
    return f"{times(value.estimate)}{with_ends(number)(value).removeprefix(number(value.estimate))}"
