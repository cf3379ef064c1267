"""hop: following arrows from symbol to symbol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe, refuse_level
from wfbench.errors import InputError


@dataclass(frozen=True)
class Hop(Probe):
    """Tokens a → b of the context form chains of distinct symbols; a query names a symbol and a number k of steps to go.

    Its answer is the symbol that k arrows lead to. The level is k; every query of a canvas has the same.
    """

    symbols: int = 64
    chains: int = 4
    arrows: int = 4

    @property
    def planes(self) -> tuple[int, ...]:
        """From, to, and the number of steps, which a query has."""
        return self.symbols, self.symbols, self.arrows

    @property
    def answers(self) -> int:
        """The symbols."""
        return self.symbols

    def draws(self, layout: Layout) -> int:
        """For the order of the symbols, that of the places, and the chain and the start of each query."""
        return self.symbols + len(layout.context) + 2 * len(layout.queries)

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        context, queries = layout.context, layout.queries
        order, places, chain, start = np.split(u, np.cumsum([self.symbols, len(context), len(queries)]), axis=1)
        links = self.arrows + 1
        symbols = order.argsort(1)[:, : self.chains * links].reshape(len(u), self.chains, links)
        where = context[places.argsort(1)[:, : self.chains * self.arrows]]  # (B, chains · arrows)
        planes = np.zeros((len(u), 3, layout.tokens), dtype=np.int64)
        labels = np.full((len(u), layout.tokens), IGNORE)
        np.put_along_axis(planes[:, 0], where, 1 + symbols[:, :, :-1].reshape(len(u), -1), 1)
        np.put_along_axis(planes[:, 1], where, 1 + symbols[:, :, 1:].reshape(len(u), -1), 1)
        steps = levels[:, None].astype(np.int64)  # (B, 1)
        which, first = (chain * self.chains).astype(np.int64), (start * (links - steps)).astype(np.int64)
        rows = np.arange(len(u))[:, None]
        planes[:, 0, queries] = 1 + symbols[rows, which, first]
        planes[:, 2, queries] = steps
        labels[:, queries] = symbols[rows, which, first + steps]
        return Canvases(planes, labels)

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        least = self.chains * (self.arrows + 1)
        if not least <= self.symbols <= IGNORE:
            raise InputError(
                "hop cannot have so many symbols",
                got=f"data.probe.keys = {self.symbols}",
                expected=f"{least} to {IGNORE}: as many as the chains hold, and no more than there are labels",
                remedy=f"set data.probe.keys, and model.in_channels to twice as many and {self.arrows}",
            )
        if level != int(level) or not 1 <= level <= self.arrows:
            refuse_level("hop", level, f"a whole number of steps from 1 to {self.arrows}")
        if len(layout.context) < self.chains * self.arrows:
            refuse_level("hop", level, f"at least {self.chains * self.arrows} tokens of context, not {len(layout.context)}")

    def floors(self, level: float, layout: Layout) -> Floors:
        """The set's floor knows the symbols that so many steps can lead to: the ends of the chains."""
        return Floors(1 / self.symbols, 1 / self.symbols, 1 / (self.chains * (self.arrows + 1 - int(level))))
