"""The cells of a set of records that can be drawn: of profiles a mixer at a size, of trainings a line with a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wfbench.analysis.cells import Profile, profiles_of
from wfbench.analysis.lines import label, scheduled
from wfbench.analysis.reproduction import log_speed_ups
from wfbench.errors import InputError
from wfbench.files import walk
from wfbench.measure.rounds import LEAST_ROUNDS
from wfbench.records import FACTORS, AnyRow, DenseRow, DiTRow, MeasurementRow, ProbeRow, ProfileRow, TrainRow
from wfbench.tasks.profile import summary
from wfbench.tasks.run_directory import RunRow, read_rows

#: What a table is about, by the beginning of its name; of others, both kinds of cells are drawn.
_PROFILE_TABLES = ("profile", "speedup", "scaling", "crossover", "throughput", "breakdown")
_TRAINING_TABLES = ("accuracy", "paired", "resolution", "segmentation", "denoising", "tuning", "seeds")
#: The columns of a table that say which cells it shows: of profiles, and of trainings.
_OF_BOTH: tuple[str, ...] = ("model", "mixer", *FACTORS, "device", "dtype", "batch", "height", "width")
_OF_PROFILES: tuple[str, ...] = (
    *(*_OF_BOTH, "session", "downsample", "threads", "token_budget", "mode", "protocol", "compiled", "channels_last"),
    *("tf32", "path", "variant", "sdpa_backend"),
)
_OF_TRAININGS: tuple[str, ...] = (
    *(*_OF_BOTH, "dataset", "recipe", "recipe_digest", "digest", "weights", "pretraining", "epochs"),
    *("mixer_digest", "model_digest", "data_digest"),
)
Subject = Literal["profile", "training"]


@dataclass(frozen=True, eq=False)
class ProfileCell:
    """A cell of a profile, and the baseline's fastest cell at its size, over which its speed-up is.

    ``measurements`` are those of the cell itself that the records hold, ``baseline_measurements`` those of the baseline's.
    """

    row: ProfileRow
    baseline: ProfileRow
    profile: Profile
    measurements: tuple[MeasurementRow, ...] = ()
    baseline_measurements: tuple[MeasurementRow, ...] = ()
    subject: Literal["profile"] = "profile"

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.row.model}, {label(self.row)} at {self.row.resolution[0]} px"

    @property
    def order(self) -> tuple[str, ...]:
        """Its place among all cells, whatever the order in which files are found."""
        return self.subject, self.name, self.row.session, str(self.row.batch), self.row.mode, self.row.dtype, self.row.protocol


@dataclass(frozen=True, eq=False)
class TrainingCell:
    """A finished training: its row, every row that claims to be of the same run, and the run's directory, if it is there."""

    row: RunRow
    place: Path | None = None
    others: tuple[RunRow, ...] = ()
    subject: Literal["training"] = "training"

    @property
    def name(self) -> str:
        """In words."""
        weights = "" if self.row.weights == "raw" else f", {self.row.weights} weights"
        return f"{self.row.recipe}, {label(self.row)}, seed {self.row.seed}{weights}"

    @property
    def order(self) -> tuple[str, ...]:
        """As of a `ProfileCell`."""
        return self.subject, self.name, self.row.created, self.row.recipe_digest


Cell = ProfileCell | TrainingCell


@dataclass(frozen=True, eq=False)
class Cells:
    """What can be drawn from records, in order, and how many rows cannot, by the reason.

    ``others`` are not drawn, and tell how far seeds scatter.
    """

    cells: tuple[Cell, ...]
    left_out: dict[str, int]
    others: tuple[Cell, ...] = ()


def find_cells(rows: Sequence[AnyRow], root: Path, subject: Subject | None = None) -> Cells:
    """The cells of records.

    Args:
        rows: the records.
        root: the directory in and below which their run directories may be.
        subject: cells of this kind alone.

    Raises:
        InputError: if there is none.
    """
    left_out: dict[str, int] = {}
    cells: list[Cell] = []
    if subject != "training":
        cells += _profile_cells(rows, left_out)
    if subject != "profile":
        cells += _training_cells(rows, root, left_out)
    if not cells:
        timed, trained = "timed cell with a baseline at its size", "finished training"
        wanted = {None: f"{timed}, or a {trained}", "profile": timed, "training": trained}
        raise InputError(
            "no cell to reproduce",
            got=f"{root}: {len(rows)} rows, none of them a {wanted[subject]}",
            expected="records of a profile with its baseline, or of trainings",
            remedy="name records or a results directory that holds some",
        )
    return Cells(tuple(sorted(cells, key=lambda cell: cell.order)), left_out)


def subject_of(table: Path) -> Subject | None:
    """What a table is about, by its name; None where it is about both, or neither."""
    if table.stem.startswith(_PROFILE_TABLES):
        return "profile"
    return "training" if table.stem.startswith(_TRAINING_TABLES) else None


def of_table(found: Cells, lines: Iterable[Mapping[str, str]]) -> Cells | None:
    """Of cells those that a table shows; None where its columns do not say which ones these are.

    Args:
        found: the cells of all records.
        lines: of the table's CSV, by its columns. ``first.model`` is the column ``model`` of a part of the line.
    """
    parts = [part for line in lines for part in _parts(line)]
    named = {cell: _named(cell) for cell in found.cells}
    shown = tuple(cell for cell, own in named.items() if any(part.items() <= own.items() for part in parts))
    if not shown:
        return None
    others = tuple(cell for cell in found.cells if cell not in shown)
    return Cells(shown, found.left_out | ({"cells of other tables": len(others)} if others else {}), others)


def _parts(line: Mapping[str, str]) -> list[dict[str, str]]:
    """The columns of a line that say which cells it is about, by the parts of the line."""
    parts: dict[str, dict[str, str]] = {}
    for column, text in line.items():
        part, _, name = column.rpartition(".")
        if name in _OF_PROFILES or name in _OF_TRAININGS:
            parts.setdefault(part, {})[name] = text
    for named in parts.values():
        if not named.get("batch") and not named.get("token_budget"):  # of a table of several batches
            named.pop("batch", None)
            named.pop("token_budget", None)
    return list(parts.values())


def _named(cell: Cell) -> dict[str, str]:
    """A cell by the columns of tables, as a CSV has them; a column of the other kind is not among them."""
    row = cell.row
    if isinstance(cell, ProfileCell):
        names, (height, width) = _OF_PROFILES, cell.row.resolution
        other: dict[str, object] = {"threads": row.environment.threads, "tf32": row.environment.tf32}
        other["batch"] = None if cell.row.token_budget is not None else cell.row.batch
    else:
        names, (height, width) = _OF_TRAININGS, cell.row.image_size
        other = {"digest": cell.row.recipe_digest}
    other |= {"device": row.environment.device, "height": height, "width": width}
    values = {name: other[name] if name in other else getattr(row, name) for name in names}
    return {name: "" if value is None else str(value) for name, value in values.items()}


def draw(cells: Cells, count: int, seed: int) -> tuple[Cell, ...]:
    """So many cells at random, or all where there are fewer, as a function of the seed and the cells alone.

    Raises:
        InputError: for a number below 1, or a seed below 0.
    """
    if count < 1:
        raise InputError("--cells must be positive", got=count, expected="1 or more", remedy="--cells 3 repeats three")
    if seed < 0:
        raise InputError("--seed must not be negative", got=seed, expected="0 or more", remedy="--seed 0 is the default")
    return tuple(random.Random(seed).sample(cells.cells, min(count, len(cells.cells))))


def _profile_cells(rows: Iterable[AnyRow], left_out: dict[str, int]) -> list[Cell]:
    """Of the sessions that a report shows: every timed cell but those that the others are compared with."""
    rows = list(rows)
    measured: dict[tuple[str, summary.Key], list[MeasurementRow]] = {}
    for row in rows:
        if isinstance(row, MeasurementRow):
            measured.setdefault((row.session, summary.key_of(row)), []).append(row)
    found: list[Cell] = []
    for profile in profiles_of(rows):
        for row in profile.cells:
            baseline = profile.baseline(row.resolution)
            if row.status != "ok" or row.median is None:
                _count(left_out, "cells of a profile that failed when they were recorded")
            elif baseline is None:
                _count(left_out, "cells of a profile without a baseline at their size")
            elif baseline is row:
                _count(left_out, "baselines, with which the others are compared")
            elif len(log_speed_ups(row, baseline)) < LEAST_ROUNDS:
                _count(left_out, f"cells of a profile with fewer than {LEAST_ROUNDS} rounds, which have no interval")
            else:
                own, theirs = (tuple(measured.get((r.session, summary.key_of(r)), ())) for r in (row, baseline))
                found.append(ProfileCell(row, baseline, profile, own, theirs))
    return found


def _training_cells(rows: Iterable[AnyRow], root: Path, left_out: dict[str, int]) -> list[Cell]:
    groups: dict[tuple[object, ...], list[RunRow]] = {}
    for row in rows:
        if not isinstance(row, TrainRow | DenseRow | ProbeRow | DiTRow):
            continue
        if getattr(row, "validation", None) is not None:
            _count(left_out, "trials of tuning, which are no results")
        else:
            groups.setdefault(_run_key(row), []).append(row)
    places = _places(root) if groups else {}
    return [TrainingCell(same[0], places.get(key), tuple(same[1:])) for key, same in groups.items()]


def _run_key(row: RunRow) -> tuple[object, ...]:
    """What tells a run from others, whatever came out of it."""
    factors = tuple(getattr(row, name) for name in FACTORS)
    return row.kind, row.created, row.recipe, row.recipe_digest, row.model, scheduled(row), factors, row.seed, row.weights


def _places(root: Path) -> dict[tuple[object, ...], Path]:
    """Run directories in and below a directory, by the runs that their records name."""
    found: dict[tuple[object, ...], Path] = {}
    for place, names in walk(root):
        if {"config.yaml", "records.jsonl"} <= set(names):
            for row in read_rows(place):
                found.setdefault(_run_key(row), place)
    return found


def _count(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1
