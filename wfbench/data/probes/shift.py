"""shift: what stands half a grid away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wfbench.data.probes.probe import Canvases, Floors, Layout, Probe, most_frequent_of, refuse_level


@dataclass(frozen=True)
class Shift(Probe):
    """Every token has a symbol and is asked for the one half a grid away, down and across, wrapped around.

    There is no gap: half a grid must be more than a local model sees. The only level is 0.
    """

    symbols: int = 16

    @property
    def planes(self) -> tuple[int, ...]:
        """Symbols."""
        return (self.symbols,)

    @property
    def answers(self) -> int:
        """The symbols."""
        return self.symbols

    def draws(self, layout: Layout) -> int:
        """A symbol for each token."""
        return layout.tokens

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        """As `Probe.draw`."""
        symbols = (u * self.symbols).astype(np.int64)  # (B, N)
        return Canvases(1 + symbols[:, None], symbols[:, self.source(layout)])

    @staticmethod
    def source(layout: Layout) -> np.ndarray:
        """Of each token, the one that it is asked for (N,)."""
        h, w = layout.grid
        return np.roll(np.arange(h * w).reshape(h, w), (-(h // 2), -(w // 2)), (0, 1)).ravel()

    def check(self, level: float, layout: Layout) -> None:
        """As `Probe.check`."""
        if level != 0:
            refuse_level("shift", level, "0: it has one level")
        if min(layout.grid) // 2 <= layout.gap:
            refuse_level("shift", level, f"a grid of which half is more than {layout.gap} tokens, which local layers see")

    def floors(self, level: float, layout: Layout) -> Floors:
        """The set's floor answers the most frequent symbol of the canvas."""
        return Floors(1 / self.symbols, 1 / self.symbols, most_frequent_of(self.symbols, layout.tokens, 2000))

    def sources(self, canvas: Canvases, layout: Layout) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Of some tokens each, the one that it is asked for."""
        source = self.source(layout)
        some = range(0, layout.tokens, max(1, layout.tokens // 8))
        return tuple((np.array([t]), source[[t]]) for t in some)
