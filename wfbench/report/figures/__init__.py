"""Plots of the tables' raw numbers, as PNG files.

Lines are told apart by colour, marker and line style alike, so that the plots hold in grey and for colour-blind eyes.
A mixer with the same factors looks the same in every plot of a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wfbench.analysis.profile import ProfileCost
from wfbench.report.columns import Table
from wfbench.report.figures.accuracy import accuracy, resolution
from wfbench.report.figures.claims import claims
from wfbench.report.figures.cost import latency, memory
from wfbench.report.figures.style import DPI, Style, mixer_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy", "claims", "draw", "latency", "memory", "mixer_styles", "resolution"]


def _of_profile(
    plot: Callable[[ProfileCost, Table, dict[str, Style]], Figure | None],
) -> Callable[[Table, dict[str, Style]], Figure | None]:
    """A plot of a profile's result, called with the profile's table."""

    def of_table(table: Table, styles: dict[str, Style]) -> Figure | None:
        return plot(table.result, table, styles) if isinstance(table.result, ProfileCost) else None

    return of_table


def draw(tables: Sequence[Table], out: Path) -> Iterator[tuple[Path, Table]]:
    """Write the plots of each table that has some, and yield each path with its table."""
    styles = mixer_styles(tables)
    plots: dict[str, dict[str, Callable[[Table, dict[str, Style]], Figure | None]]] = {
        "profile": {"latency": _of_profile(latency), "memory": _of_profile(memory)},
        "accuracy": {"accuracy": accuracy},
        "resolution": {"resolution": resolution},
        "claims": {"claims": claims},
    }
    for table in tables:
        kind, dash, suffix = table.name.partition("-")
        for name, plot in plots.get(kind, {}).items():
            figure, path = plot(table, styles), out / f"{name}{dash}{suffix}.png"
            if figure is not None:
                figure.savefig(path, dpi=DPI)
                yield path, table
