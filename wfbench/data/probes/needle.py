"""needle: one marked token among distractors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe, most_frequent_of, refuse_level


@dataclass(frozen=True)
class Needle(Probe):
    """One token of the context is marked; every query asks for its value. A share of the others has values too, without a mark.

    The level is that share.
    """

    values: int = 32

    @property
    def planes(self) -> tuple[int, ...]:
        """Values, the mark, and the mark of a query."""
        return self.values, 1, 1

    @property
    def answers(self) -> int:
        """The values."""
        return self.values

    def draws(self, layout: Layout) -> int:
        """For the order of the places, the first of which is the marked one, and for their values."""
        return 2 * len(layout.context)

    @staticmethod
    def distractors(level: float, cells: int) -> int:
        """Tokens with a value beside the marked one."""
        return round(level * (cells - 1))

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        context, queries = layout.context, layout.queries
        cells = len(context)
        where, values = context[u[:, :cells].argsort(1)], (u[:, cells:] * self.values).astype(np.int64)
        number = np.array([1 + self.distractors(level, cells) for level in levels])
        planes = np.zeros((len(u), 3, layout.tokens), dtype=np.int64)
        labels = np.full((len(u), layout.tokens), IGNORE)
        rows, places = np.nonzero(np.arange(cells) < number[:, None])
        planes[rows, 0, where[rows, places]] = 1 + values[rows, places]
        planes[np.arange(len(u)), 1, where[:, 0]] = 1
        planes[:, 2, queries] = 1
        labels[:, queries] = values[:, :1]
        return Canvases(planes, labels)

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        if not 0 <= level <= 1:
            refuse_level("needle", level, "a share of the other tokens, 0 to 1")

    def floors(self, level: float, layout: Layout) -> Floors:
        """The set's floor answers the most frequent value."""
        number = 1 + self.distractors(level, len(layout.context))
        return Floors(1 / self.values, 1 / self.values, most_frequent_of(self.values, number))
