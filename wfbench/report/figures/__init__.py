"""Plots of results, as PNG files.

Lines are told apart by colour, marker and line style alike, so that the plots hold in grey and for colour-blind eyes.
A mixer with the same factors looks the same in every plot of a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wfbench.analysis.results import Results
from wfbench.report.columns import Table
from wfbench.report.figures.ablation import ablation
from wfbench.report.figures.accuracy import accuracy, resolution
from wfbench.report.figures.capability import probe_curves
from wfbench.report.figures.claims import claims
from wfbench.report.figures.cost import latency, memory
from wfbench.report.figures.denoising import denoising_curves
from wfbench.report.figures.receptive_fields import receptive_fields
from wfbench.report.figures.segmentation import segmentation_sizes
from wfbench.report.figures.speedup import speedup
from wfbench.report.figures.style import DPI, Style, mixer_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ablation",
    "accuracy",
    "claims",
    "denoising_curves",
    "draw",
    "latency",
    "memory",
    "mixer_styles",
    "probe_curves",
    "receptive_fields",
    "resolution",
    "segmentation_sizes",
    "speedup",
    "with_tables",
]

R = TypeVar("R")


def draw(results: Results, tables: Sequence[Table], out: Path) -> Iterator[tuple[Path, Table]]:
    """Write the plots of the results, and yield the path of each with the table of the same result."""
    for stem, table, figure in _figures(results, tables, mixer_styles(tables)):
        if figure is not None:
            path = out / f"{stem}{table.name.removeprefix(table.kind)}.png"
            figure.savefig(path, dpi=DPI)
            yield path, table


def with_tables(found: Sequence[R], tables: Sequence[Table], kind: str) -> Iterator[tuple[R, Table]]:
    """The results of one subject, each with its table: a subject's tables stand in the order of its results."""
    return zip(found, (table for table in tables if table.kind == kind), strict=True)


def _figures(results: Results, tables: Sequence[Table], styles: dict[str, Style]) -> Iterator[tuple[str, Table, Figure | None]]:
    """The stem of each plot's name, the table that it belongs to, and the plot; None where there is nothing to plot."""
    for profile, table in with_tables(results.costs.profiles, tables, "profile"):
        yield "latency", table, latency(profile, table, styles)
        yield "memory", table, memory(profile, table, styles)
    for ratios, table in with_tables(results.costs.speed_ups, tables, "speedup"):
        yield "speedup", table, speedup(ratios, table, styles)
    for reached, table in with_tables(results.accuracy, tables, "accuracy"):
        yield "accuracy", table, accuracy(reached, table, styles)
    for evaluated, table in with_tables(results.resolutions, tables, "resolution"):
        yield "resolution", table, resolution(evaluated, table, styles)
    for sizes, table in with_tables(results.segmentation_sizes, tables, "segmentation-sizes"):
        yield "segmentation-sizes", table, segmentation_sizes(sizes, table, results.costs.profiles, styles)
    for probe, table in with_tables(results.probes, tables, "probe"):
        yield "probe", table, probe_curves(probe, table, styles)
    for answers, table in with_tables(results.claims, tables, "claims"):
        yield "claims", table, claims(answers, table)
    for fields, table in with_tables(results.receptive_fields, tables, "erf"):
        yield "erf", table, receptive_fields(fields)
    for losses, table in with_tables(results.losses, tables, "denoising"):
        yield "denoising", table, denoising_curves(losses)
    for taken, table in with_tables(results.ablations, tables, "ablation"):
        yield "ablation", table, ablation(taken)
