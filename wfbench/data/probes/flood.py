"""flood: which of two marks a walk leads to."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mixers.base import Grid
from wfbench.data.draws import uniforms
from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe, refuse_level

#: Pairs of walks by which the floors are computed, and on which a level is tried; of a key of their own.
_SIMULATED, _TRIED, _KEY = 2000, 400, 2**60
#: A level is refused where fewer pairs than this share of the attempts come out.
_LEAST = 0.02
#: Doubles in [0, 1) have so many bits.
_BITS = 53
#: A second walk begins at most so many rows and columns from the first one's beginning.
_NEAR = 3


@dataclass(frozen=True)
class Flood(Probe):
    """Two walks of equal length, with marks of two kinds where they begin; every token of both is asked to which mark it leads.

    A walk goes from cell to cell with a common side. Cells of a walk that do not follow one another have no common side, so
    that the way along the walk is the only one; cells of different walks have not even a common corner. The level is the length
    L in cells. The walks begin near one another, so that which mark is nearer as the crow flies says little of a far token.
    Which walk has which mark is a fair draw that knows nothing of the walks.

    A question's distance is the number of steps along its walk to the mark, 0 to L - 1; there are two at every distance, one
    with either answer. If only one walk were marked, the questions of the other would have no distance: where nothing is known
    of them they could all be guessed right, or all wrong, and accuracy would fall with that habit and not with the distance.
    """

    @property
    def planes(self) -> tuple[int, ...]:
        """Cells of walks, and the marks of two kinds."""
        return 1, 2

    @property
    def answers(self) -> int:
        """The marks."""
        return 2

    def draws(self, layout: Layout) -> int:
        """The key of the walks, and which of them has which mark."""
        return 2

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        keys, lengths = (u[:, 0] * 2.0**_BITS).astype(np.uint64), levels.astype(np.int64)
        planes = np.zeros((len(u), 2, layout.tokens), dtype=np.int64)
        labels = np.full((len(u), layout.tokens), IGNORE)
        distances = np.full((len(u), layout.tokens), -1)
        for row, (walks, swaps) in enumerate(zip(two_walks(keys, lengths, layout.grid), u[:, 1] < 0.5, strict=True)):
            for mark, walk in enumerate(walks[::-1] if swaps else walks):
                planes[row, 0, walk] = 1
                planes[row, 1, walk[0]] = 1 + mark
                labels[row, walk] = mark
                distances[row, walk] = np.arange(len(walk))
        return Canvases(planes, labels, distances)

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        if level != int(level) or level < 2:
            refuse_level("flood", level, "a whole number of cells, at least 2")
        if _acceptance(int(level), layout.grid) < _LEAST:
            refuse_level("flood", level, f"two walks that fit into {layout.grid[0]}x{layout.grid[1]} tokens without touching")

    def distances(self, level: float) -> tuple[int, ...]:
        """1, 2, 3, 4, 6, 8, 12, ... and the far end, L - 1."""
        halves = {m << k for k in range(int(level).bit_length()) for m in (1, 3)}
        return (*sorted(d for d in halves if d < level - 1), int(level) - 1)

    def floors(self, level: float, layout: Layout) -> Floors:
        """By the simulation of two thousand pairs of walks.

        The local floor is of seeing the marks within reach, and guessing where there is none. That of straight distance answers
        the mark that is nearer as the crow flies, and guesses where both are as near.
        """
        return _floors(int(level), self.distances(level), layout)

    def checked(self, canvases: Canvases, layout: Layout) -> np.ndarray:
        """Questions with no mark within reach."""
        marks = (canvases.planes[:, 1] > 0).reshape(-1, *layout.grid)
        near = ndimage.maximum_filter(marks, (1, 2 * layout.gap + 1, 2 * layout.gap + 1), mode="constant")
        return np.where(near.reshape(canvases.labels.shape), IGNORE, canvases.labels)

    def sources(self, canvas: Canvases, layout: Layout) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """The marks."""
        asked = np.flatnonzero(self.checked(canvas, layout)[0] != IGNORE)
        return ((asked, np.flatnonzero(canvas.planes[0, 1])),)


def two_walks(keys: np.ndarray, lengths: np.ndarray, grid: Grid) -> list[tuple[list[int], list[int]]]:
    """Two walks that neither touch one another nor themselves, for each key.

    The first begins anywhere, the second at most three cells from there, both go on to any free cell. Where one is caught, both
    begin again, with the key's next draws.

    Args:
        keys: whole numbers (B,), from which all follows.
        lengths: of the walks, in cells (B,).
        grid: rows and columns, on which such walks must be frequent enough.

    Returns:
        Tokens of the first and of the second walk, in order.
    """
    found: dict[int, tuple[list[int], list[int]]] = {}
    attempt = 0
    while missing := [i for i in range(len(keys)) if i not in found]:
        draws = uniforms([(int(keys[i]), attempt) for i in missing], 2 * int(lengths.max()))
        for i, u in zip(missing, draws.tolist(), strict=True):
            if pair := _pair(u[: 2 * int(lengths[i])], grid):
                found[i] = pair
        attempt += 1
    return [found[i] for i in range(len(keys))]


def _pair(u: list[float], grid: Grid) -> tuple[list[int], list[int]] | None:
    """Two walks of as many cells together as there are draws; None if one is caught."""
    tables = _tables(grid)
    length, tokens = len(u) // 2, grid[0] * grid[1]
    first = _walk(int(u[0] * tokens), u[1:length], frozenset(), grid)
    if first is None:
        return None
    blocked = frozenset[int]().union(*(tables.squares[token] for token in first))
    begins = [token for token in tables.around[first[0]] if token not in blocked]
    second = _walk(begins[int(u[length] * len(begins))], u[length + 1 :], blocked, grid) if begins else None
    return None if second is None else (first, second)


def _walk(here: int, u: list[float], blocked: frozenset[int], grid: Grid) -> list[int] | None:
    """A walk of a step for each draw, off the blocked tokens; None if it is caught."""
    neighbours, crosses = _tables(grid)[:2]
    walk, closed = [here], {here, *blocked}
    for draw in u:
        free = [token for token in neighbours[here] if token not in closed]
        if not free:
            return None
        closed |= crosses[here]
        here = free[int(draw * len(free))]
        walk.append(here)
    return walk


class _Tables(NamedTuple):
    """Of each token of a grid; what a table holds grows with the tokens, and not with their square.

    Attributes:
        neighbours: with a common side, in their order.
        crosses: it and its neighbours.
        squares: all within 3x3 tokens.
        around: all at which a second walk may begin, in their order.
    """

    neighbours: list[list[int]]
    crosses: list[frozenset[int]]
    squares: list[frozenset[int]]
    around: list[list[int]]


@functools.cache
def _tables(grid: Grid) -> _Tables:
    h, w = grid

    def within(token: int, reach: int) -> list[int]:
        """The tokens at most so many rows and columns away, itself too."""
        row, column = divmod(token, w)
        columns = range(max(0, column - reach), min(w, column + reach + 1))
        return [r * w + c for r in range(max(0, row - reach), min(h, row + reach + 1)) for c in columns]

    squares = [within(token, 1) for token in range(h * w)]
    crosses = [
        [other for other in square if other // w == token // w or other % w == token % w]
        for token, square in enumerate(squares)
    ]
    return _Tables(
        [[other for other in cross if other != token] for token, cross in enumerate(crosses)],
        [frozenset(cross) for cross in crosses],
        [frozenset(square) for square in squares],
        [within(token, _NEAR) for token in range(h * w)],
    )


@functools.cache
def _acceptance(length: int, grid: Grid) -> float:
    """The share of attempts that give two walks."""
    draws = uniforms([(_KEY, i) for i in range(_TRIED)], 2 * length).tolist()
    return sum(_pair(u, grid) is not None for u in draws) / _TRIED


@functools.cache
def _floors(length: int, distances: tuple[int, ...], layout: Layout) -> Floors:
    pairs = two_walks(_KEY + np.arange(_SIMULATED, dtype=np.uint64), np.full(_SIMULATED, length), layout.grid)
    at = np.stack(np.unravel_index(np.array(pairs), layout.grid), axis=-1)  # (pairs, walk, step, row and column)
    own, other = (np.abs(at - begins[:, :, None]) for begins in (at[:, :, 0], at[:, ::-1, 0]))
    local = np.where(np.minimum(own.max(-1), other.max(-1)) <= layout.gap, 1, 0.5).mean((0, 1))  # (step,)
    straight = (1 + np.sign((other**2).sum(-1) - (own**2).sum(-1)).mean((0, 1))) / 2

    def floors(steps: slice | int) -> Floors:
        """Of some distances."""
        return Floors(0.5, float(local[steps].mean()), None, float(straight[steps].mean()))

    by_distance = {distance: floors(distance) for distance in distances}
    return floors(slice(None))._replace(by_distance=by_distance)
