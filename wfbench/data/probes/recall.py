"""recall: how many pairs of key and value can be stored and asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe, most_frequent_of, refuse_level


@dataclass(frozen=True)
class Recall(Probe):
    """The context holds n pairs of key and value at places drawn at random; a query asks for the value of a stored key.

    Keys are distinct; values are drawn independently. The level is n.

    Attributes:
        keys, values: how many symbols there are.
        placement: "scattered": anywhere; "lattice": one pair in an aligned square of 2×2 tokens, at any place of it; "packed":
            as many as the square holds, and only one square may hold fewer.
        bind: "token": key and value in one token; "neighbour": the value in the token to the right of its key, whose column is
            counted evenly from the left, so that pairs do not overlap.
    """

    keys: int = 64
    values: int = 32
    placement: Literal["scattered", "lattice", "packed"] = "scattered"
    bind: Literal["token", "neighbour"] = "token"

    @property
    def planes(self) -> tuple[int, ...]:
        """Keys, values."""
        return self.keys, self.values

    @property
    def answers(self) -> int:
        """The values."""
        return self.values

    def places(self, layout: Layout) -> np.ndarray:
        """Where keys may stand: tokens (squares, places in each); scattered, every place is a square of its own."""
        step = 2 if self.bind == "neighbour" else 1  # columns of a pair
        context = layout.context.reshape(layout.grid[0], -1)
        columns = context.shape[1]
        if self.placement == "scattered":
            return context[:, : columns // step * step : step].reshape(-1, 1)
        h, w = layout.grid[0] // 2, columns // 2
        squares = context[: 2 * h, : 2 * w].reshape(h, 2, w, 2).transpose(0, 2, 1, 3)  # (rows, columns, 2, 2) of squares
        return squares[..., ::step].reshape(h * w, 4 // step)

    def most(self, layout: Layout) -> int:
        """How many pairs there is room for."""
        places = self.places(layout)
        return len(places) if self.placement == "lattice" else places.size

    def draws(self, layout: Layout) -> int:
        """For the order of the keys, their values, the order of the places, and each query."""
        return 2 * self.keys + self.places(layout).size + len(layout.queries)

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        places, queries = self.places(layout), layout.queries
        order, drawn, ranks, asked = np.split(u, np.cumsum([self.keys, self.keys, places.size]), axis=1)
        keys, values = order.argsort(1), (drawn * self.values).astype(np.int64)  # (B, keys) each: the i-th pair
        ranks = ranks.reshape(len(u), *places.shape)
        # The least draw of a square ranks it among the squares, and says nothing of the order of places in it.
        by_square = np.take_along_axis(places[None].repeat(len(u), 0), ranks.argsort(2), 2)
        ordered = np.take_along_axis(by_square, ranks.min(2).argsort(1)[..., None], 1)
        where = (ordered[:, :, :1] if self.placement == "lattice" else ordered).reshape(len(u), -1)  # (B, most)
        planes = np.zeros((len(u), 2, layout.tokens), dtype=np.int64)
        labels = np.full((len(u), layout.tokens), IGNORE)
        most = int(levels.max())
        rows, pairs = np.nonzero(np.arange(most) < levels[:, None])
        planes[rows, 0, where[rows, pairs]] = 1 + keys[rows, pairs]
        planes[rows, 1, where[rows, pairs] + (self.bind == "neighbour")] = 1 + values[rows, pairs]
        pair = (asked * levels[:, None]).astype(np.int64)  # (B, queries)
        planes[:, 0, queries] = 1 + np.take_along_axis(keys, pair, 1)
        labels[:, queries] = np.take_along_axis(values, pair, 1)
        return Canvases(planes, labels)

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        room = self.most(layout)
        most = min(self.keys, room)
        if level != int(level) or not 1 <= level <= most:
            refuse_level(
                "recall",
                level,
                f"a whole number of pairs from 1 to {most}: of {self.keys} keys in {room} places",
                "set data.probe.levels; for more keys data.probe.keys and model.in_channels, for more places model.image_size",
            )

    def floors(self, level: float, layout: Layout) -> Floors:
        """Without the pairs a key says nothing of its value; the set's floor answers the most frequent stored value."""
        return Floors(1 / self.values, 1 / self.values, most_frequent_of(self.values, int(level)))
