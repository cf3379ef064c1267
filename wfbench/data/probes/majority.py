"""majority: which symbol is the most frequent one of the context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe, refuse_level


@dataclass(frozen=True)
class Majority(Probe):
    """Every token of the context has one of some colours; every query asks for the most frequent one.

    The counts are exact: the winner has a share 1/colours + δ, rounded to whole tokens, and the others have the rest in equal
    parts, up to one token. The level is δ.
    """

    colours: int = 8

    @property
    def planes(self) -> tuple[int, ...]:
        """Colours, and the mark of a query."""
        return self.colours, 1

    @property
    def answers(self) -> int:
        """The colours."""
        return self.colours

    def draws(self, layout: Layout) -> int:
        """For the order of the colours, the first of which wins, and that of the places."""
        return self.colours + len(layout.context)

    def counts(self, level: float, cells: int) -> np.ndarray:
        """The tokens of each colour (colours,), the winner first."""
        winner = round((1 / self.colours + level) * cells)
        rest, others = cells - winner, self.colours - 1
        return np.array([winner, *(rest // others + (i < rest % others) for i in range(others))])

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        context, queries = layout.context, layout.queries
        colours, places = u[:, : self.colours].argsort(1), context[u[:, self.colours :].argsort(1)]
        ranks = {level: np.repeat(np.arange(self.colours), self.counts(level, len(context))) for level in np.unique(levels)}
        rank = np.stack([ranks[level] for level in levels])  # (B, context)
        planes = np.zeros((len(u), 2, layout.tokens), dtype=np.int64)
        labels = np.full((len(u), layout.tokens), IGNORE)
        np.put_along_axis(planes[:, 0], places, 1 + np.take_along_axis(colours, rank, 1), 1)
        planes[:, 1, queries] = 1
        labels[:, queries] = colours[:, :1]
        return Canvases(planes, labels)

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        cells = len(layout.context)
        counts = self.counts(level, cells)
        if counts.min() < 0 or counts[0] <= counts[1:].max():
            refuse_level("majority", level, f"a lead by which one of {self.colours} colours wins among {cells} tokens")

    def floors(self, level: float, layout: Layout) -> Floors:
        """All colours are on the canvas, so their set says nothing."""
        return Floors(1 / self.colours, 1 / self.colours, None)
