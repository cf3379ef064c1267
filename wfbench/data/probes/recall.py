"""recall: how many pairs of key and value can be stored and asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe, most_frequent_of, refuse_level


@dataclass(frozen=True)
class Recall(Probe):
    """The context holds n pairs in tokens drawn at random, key and value in one; a query asks for the value of a stored key.

    Keys are distinct; values are drawn independently. The level is n.
    """

    keys: int = 64
    values: int = 32

    @property
    def planes(self) -> tuple[int, ...]:
        """Keys, values."""
        return self.keys, self.values

    @property
    def answers(self) -> int:
        """The values."""
        return self.values

    def draws(self, layout: Layout) -> int:
        """For the order of the keys, their values, the order of the places, and each query."""
        return 2 * self.keys + len(layout.context) + len(layout.queries)

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        context, queries = layout.context, layout.queries
        order, drawn, places, asked = np.split(u, np.cumsum([self.keys, self.keys, len(context)]), axis=1)
        keys, values = order.argsort(1), (drawn * self.values).astype(np.int64)  # (B, keys) each: the i-th pair
        where = context[places.argsort(1)]  # (B, context)
        planes = np.zeros((len(u), 2, layout.tokens), dtype=np.int64)
        labels = np.full((len(u), layout.tokens), IGNORE)
        most = int(levels.max())
        rows, pairs = np.nonzero(np.arange(most) < levels[:, None])
        planes[rows, 0, where[rows, pairs]] = 1 + keys[rows, pairs]
        planes[rows, 1, where[rows, pairs]] = 1 + values[rows, pairs]
        pair = (asked * levels[:, None]).astype(np.int64)  # (B, queries)
        planes[:, 0, queries] = 1 + np.take_along_axis(keys, pair, 1)
        labels[:, queries] = np.take_along_axis(values, pair, 1)
        return Canvases(planes, labels)

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        most = min(self.keys, len(layout.context))
        if level != int(level) or not 1 <= level <= most:
            refuse_level(
                "recall",
                level,
                f"a whole number of pairs from 1 to {most}: of {self.keys} keys in {len(layout.context)} places",
            )

    def floors(self, level: float, layout: Layout) -> Floors:
        """Without the pairs a key says nothing of its value; the set's floor answers the most frequent stored value."""
        return Floors(1 / self.values, 1 / self.values, most_frequent_of(self.values, int(level)))
