"""What the dynamic layers share."""

from __future__ import annotations

import difflib

from mixers.base import Grid, MixerError


def check_dynamic_grid(grid: Grid) -> None:
    """Refuse a grid that has no whole 2×2 cell to summarise.

    Raises:
        MixerError: naming the grid and the least one allowed.
    """
    if min(grid) < 2:
        raise MixerError(
            "the grid is too small for a dynamic layer",
            got=f"{grid[0]}x{grid[1]} tokens",
            expected="at least 2x2",
            remedy="use larger images or smaller patches",
        )


def check_strategy(got: str, known: tuple[str, ...], what: str) -> None:
    """Refuse a strategy that a layer does not have.

    Raises:
        MixerError: naming the near one and all there are.
    """
    if got not in known:
        near = difflib.get_close_matches(str(got), known, n=1)
        raise MixerError(
            f"unknown strategy of the {what}",
            got=repr(got),
            expected=f"one of {', '.join(known)}",
            remedy=f"did you mean {near[0]!r}?" if near else "choose one of these",
        )
