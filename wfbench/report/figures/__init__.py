"""Plots of the tables' raw numbers, as PNG files.

Lines are told apart by colour, marker and line style alike, so that the plots hold in grey and for colour-blind eyes.
A mixer with the same factors looks the same in every plot of a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wfbench.analysis.resolutions import ResolutionResult
from wfbench.analysis.seeds import AccuracyResult
from wfbench.report.columns import Table
from wfbench.report.figures.accuracy import accuracy, resolution
from wfbench.report.figures.claims import claims
from wfbench.report.figures.cost import latency, memory
from wfbench.report.figures.style import DPI, mixer_styles

__all__ = ["accuracy", "claims", "draw", "latency", "memory", "mixer_styles", "resolution"]


def draw(tables: Sequence[Table], out: Path) -> Iterator[tuple[Path, Table]]:
    """Write the plots of each table that has some, and yield each path with its table."""
    styles = mixer_styles(tables)
    plots = {"profile": {"latency": latency, "memory": memory}, "claims": {"claims": claims}}
    for table in tables:
        kind, dash, suffix = table.name.partition("-")
        drawn = {name: plot(table, styles) for name, plot in plots.get(kind, {}).items()}
        if isinstance(table.result, AccuracyResult):
            drawn = {"accuracy": accuracy(table.result, table, styles)}
        elif isinstance(table.result, ResolutionResult):
            drawn = {"resolution": resolution(table.result, table, styles)}
        for name, figure in drawn.items():
            path = out / f"{name}{dash}{suffix}.png"
            if figure is not None:
                figure.savefig(path, dpi=DPI)
                yield path, table
