"""How many times faster than the baseline the lines of a profile are, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wfbench.analysis.cells import Line, Profile, Size
from wfbench.analysis.profile import CellCost, ProfileCost


@dataclass(frozen=True, eq=False)
class SpeedUps:
    """The speed-ups of one profile.

    Attributes:
        profile: the profile.
        sides: all sides, ascending.
        backends: the attention backend of the baseline's fastest cell, at each side at which it was timed.
        lines: the cells of each line by side.
    """

    profile: Profile
    sides: tuple[Size, ...]
    backends: Mapping[Size, str]
    lines: Mapping[Line, Mapping[Size, CellCost]]


def speed_ups(costs: Sequence[ProfileCost]) -> tuple[SpeedUps, ...]:
    """Of each profile in which the baseline and another line were timed at several sides."""
    made = []
    for cost in costs:
        profile = cost.profile
        sides = sorted({cell.row.resolution for cell in cost.cells})
        fastest = {side: profile.baseline(side) for side in sides}
        backends = {side: row.sdpa_backend for side, row in fastest.items() if row is not None}
        lines: dict[Line, dict[Size, CellCost]] = {}
        for cell in cost.cells:
            lines.setdefault(cell.line, {})[cell.row.resolution] = cell
        if len(backends) > 1 and len(lines) > 1:
            made.append(SpeedUps(profile, tuple(sides), backends, lines))
    return tuple(made)
