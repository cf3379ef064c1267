"""What the dynamic layers share."""

from __future__ import annotations

from mixers.base import Grid, MixerError


def check_dynamic_grid(grid: Grid) -> None:
    """Refuse a grid that has no whole 2×2 cell to summarise.

    Raises:
        MixerError: naming the grid and the least one allowed.
    """
    if min(grid) < 2:
        raise MixerError(
            f"the grid is too small for a dynamic layer: got {grid[0]}x{grid[1]} tokens, expected at least 2x2; "
            "use larger images or smaller patches"
        )
