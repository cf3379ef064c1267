"""What a probe is: a task on a grid of symbols that asks for one ability of a token mixer.

A canvas has planes of symbols; each symbol of each plane is a channel of the model's input, 1 where it stands and else 0, so
that a patch embedding of 1×1 patches is a sum of symbols' embeddings. Context stands in the left columns, a blank gap follows
that local convolutions cannot cross, and queries stand in the right columns: a model that mixes only near tokens is at the
floor.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from mixers.base import Grid
from wfbench.errors import InputError

#: The label of a token that is not asked.
IGNORE = 255


class Canvases(NamedTuple):
    """Canvases with their labels.

    Shapes: planes (B, P, N), 0 for nothing and k for the plane's k-th symbol; labels (B, N), answers from 0, or `IGNORE`;
    distances (B, N), of each question, or None where they have none. Tokens stand row by row.
    """

    planes: np.ndarray
    labels: np.ndarray
    distances: np.ndarray | None = None


class Floors(NamedTuple):
    """Accuracies that need no such ability.

    Attributes:
        chance: of guessing.
        local: of knowing what stands near the asked token alone.
        set: of knowing which answers are somewhere on the canvas, but not which one is right; None where that says nothing.
        straight: of knowing how far away the mark is in a straight line; None where there is no mark to be near to.
        by_distance: those of the questions at a distance alone.
    """

    chance: float
    local: float
    set: float | None
    straight: float | None = None
    by_distance: Mapping[int, Floors] = MappingProxyType({})


@dataclass(frozen=True)
class Layout:
    """Where context and queries stand on a grid.

    Attributes:
        grid: rows and columns.
        gap: blank columns between context and queries.
        columns: of queries.

    Raises:
        InputError: for a grid without a column of context.
    """

    grid: Grid
    gap: int
    columns: int

    def __post_init__(self) -> None:
        if self.grid[1] <= self.gap + self.columns:
            raise InputError(
                "the grid has no column for the context",
                got=f"{self.grid[0]}x{self.grid[1]} tokens with a gap of {self.gap} and {self.columns} columns of queries",
                expected=f"at least {self.gap + self.columns + 1} columns",
                remedy="set model.image_size, data.probe.gap or data.probe.query_columns",
            )

    @property
    def tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def context(self) -> np.ndarray:
        """The tokens of the left columns."""
        return self._columns(0, self.grid[1] - self.gap - self.columns)

    @property
    def queries(self) -> np.ndarray:
        """The tokens of the right columns."""
        return self._columns(self.grid[1] - self.columns, self.grid[1])

    def _columns(self, first: int, end: int) -> np.ndarray:
        return np.arange(self.tokens).reshape(self.grid)[:, first:end].ravel()


class Probe(Protocol):
    """One probe. It travels to worker processes, so it must pickle."""

    @property
    def planes(self) -> tuple[int, ...]:
        """How many symbols each plane has."""
        ...

    @property
    def answers(self) -> int:
        """How many answers there are."""
        ...

    def draws(self, layout: Layout) -> int:
        """How many uniform numbers a canvas is made of."""
        ...

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """Canvases from uniform numbers u (B, draws), with the level of each (B,)."""
        ...

    def check(self, level: float, layout: Layout) -> None:
        """Refuse a level or a grid that cannot be.

        Raises:
            InputError: saying which.
        """
        ...

    def floors(self, level: float, layout: Layout) -> Floors:
        """The floors at a level."""
        ...

    def distances(self, level: float) -> tuple[int, ...]:
        """Rising distances at which the questions of a level are also counted apart; none for most probes."""
        return ()

    def checked(self, canvases: Canvases, layout: Layout) -> np.ndarray:
        """For the leak check: labels (B, N) of the questions that a local model can but guess, else `IGNORE`. Mostly all."""
        return canvases.labels

    def sources(self, canvas: Canvases, layout: Layout) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """For the leak check: groups of checked tokens of a single canvas, each with the tokens that its answers depend on.

        Mostly the queries with the context.
        """
        return ((layout.queries, layout.context),)


@functools.cache
def most_frequent_of(symbols: int, number: int, trials: int = 20_000) -> float:
    """The expected share of the most frequent of ``number`` symbols drawn alike from ``symbols``, by simulation (seed 0)."""
    counts = np.random.default_rng(0).multinomial(number, np.full(symbols, 1 / symbols), size=trials)
    return float((counts.max(1) / number).mean())


def refuse_level(name: str, level: float, expected: str, remedy: str = "set data.probe.levels") -> None:
    """Refuse a level.

    Raises:
        InputError: always.
    """
    raise InputError(
        "the probe cannot have such a level",
        got=f"{name} at level {level:g}",
        expected=expected,
        remedy=remedy,
    )
