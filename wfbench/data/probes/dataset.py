"""A probe with its levels and grids as a data set, and its batches. No canvas is stored: each follows from its index."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mixers.base import Grid
from wfbench.data.draws import uniforms
from wfbench.data.listing import Entry, Listing, array_entry, json_entry, list_data
from wfbench.data.probes.flood import Flood
from wfbench.data.probes.hop import Hop
from wfbench.data.probes.majority import Majority
from wfbench.data.probes.needle import Needle
from wfbench.data.probes.probe import IGNORE, Canvases, Floors, Layout, Probe
from wfbench.data.probes.recall import Recall
from wfbench.data.probes.shift import Shift
from wfbench.data.reading import Batch, Key, TrainKeys, Whole, check_shares, in_order, positions, read, warn_replaced
from wfbench.errors import InputError
from wfbench.recipe import DataSection, ProbeSection

#: Last word of the key of a draw, so that no two kinds of canvas share random numbers.
_TRAIN, _HELD_OUT, _VALIDATION = 1, 2, 3


class Condition(NamedTuple):
    """What canvases are evaluated under.

    Attributes:
        level: of the canvases.
        grid: of the canvases.
        distance: of the questions; None for all of a canvas.
    """

    level: float
    grid: Grid
    distance: int | None = None

    def __str__(self) -> str:
        far = "" if self.distance is None else f", distance {self.distance}"
        return f"{self.level:g} at {self.grid[0]}x{self.grid[1]}{far}"


@dataclass(frozen=True)
class ProbeSplit:
    """Canvases by their index: of training, others in each epoch, at a level drawn for each; or held out, by condition.

    Held-out canvases are the same for every run and mixer. Those of a trial of tuning are others again. The conditions are
    those with canvases of their own.
    """

    probe: Probe
    section: ProbeSection
    grid: Grid
    conditions: tuple[Condition, ...]
    kind: int

    def __len__(self) -> int:
        return self.section.train if self.kind == _TRAIN else self.section.held_out * len(self.conditions)

    def layout(self, grid: Grid) -> Layout:
        """Context and queries on a grid."""
        return Layout(grid, self.section.gap, self.section.query_columns)

    def grid_of(self, keys: list[Key]) -> Grid:
        """The grid of these canvases, which are all of one."""
        return self.grid if self.kind == _TRAIN else self.conditions[keys[0][1] // self.section.held_out].grid

    def canvases(self, keys: list[Key], seed: int = 0) -> Canvases:
        """Those of (epoch, index), all of one grid; held-out ones know neither epoch nor seed."""
        layout, is_training = self.layout(self.grid_of(keys)), self.kind == _TRAIN
        words = [(seed, epoch, i, _TRAIN) if is_training else (0, 0, i, self.kind) for epoch, i in keys]
        u = uniforms(words, 1 + self.probe.draws(layout))
        if is_training:
            levels = np.array(self.section.levels, dtype=np.float64)
            level = levels[(u[:, 0] * len(levels)).astype(np.int64)]
        else:
            level = np.array([self.conditions[i // self.section.held_out].level for _, i in keys])
        return self.probe.draw(u[:, 1:], level, layout)

    def label(self, i: int) -> str:
        """What to call the ``i``-th canvas."""
        return f"{'training' if self.kind == _TRAIN else 'held-out'} canvas {i}"

    def entries(self) -> tuple[Entry, ...]:
        """The settings, and a canvas, which changes with whatever else decides how it is drawn."""
        canvas = self.canvases([(0, 0)])
        settings = self.section.model_dump(mode="json", exclude={"budgets", *self.section.unsaid})
        return (
            json_entry("(probe)", settings | {"grid": self.grid, "conditions": [str(c) for c in self.conditions]}),
            array_entry("(a canvas)", np.concatenate([canvas.planes[0], canvas.labels])),
        )


@dataclass(frozen=True)
class ProbeDataset:
    """A probe at its levels.

    Attributes:
        name: for the records.
        section: the recipe's settings.
        probe: what draws the canvases.
        grid: that of training.
        conditions: those of evaluation: every level at the grid of training, then the largest level at the other grids; then
            the distances of the largest level at the grid of training, whose canvases are that level's.
    """

    name: str
    section: ProbeSection
    probe: Probe
    grid: Grid
    conditions: tuple[Condition, ...]
    train: ProbeSplit
    val: ProbeSplit

    #: The label of a token that is not asked.
    ignore_index = IGNORE

    @property
    def classes(self) -> tuple[str, ...]:
        """The answers."""
        return tuple(map(str, range(self.probe.answers)))

    @property
    def channels(self) -> int:
        """Of the model's input: a channel for each symbol of each plane."""
        return sum(self.probe.planes)

    @functools.cached_property
    def listing(self) -> Listing:
        """What it consists of; its ``digest`` tells data from other data."""
        return list_data(self.classes, self.train, self.val)

    @functools.cached_property
    def floors(self) -> tuple[Floors, ...]:
        """Of each condition."""
        found = [(c.distance, self.probe.floors(c.level, self.train.layout(c.grid))) for c in self.conditions]
        return tuple(floors if distance is None else floors.by_distance[distance] for distance, floors in found)

    @property
    def trained(self) -> int:
        """How many of the conditions are of the trained grid; they come first."""
        return len(self.section.levels)

    @property
    def drawn(self) -> int:
        """How many of the conditions have canvases of their own; they come first."""
        return len(self.val.conditions)

    def indices(self, condition: int) -> range:
        """The held-out canvases of the ``condition``-th of the conditions, one of those with canvases of their own."""
        return range(condition * self.section.held_out, (condition + 1) * self.section.held_out)

    def on_canvases_of(self, condition: int) -> list[int]:
        """The conditions that the canvases of the ``condition``-th one serve: itself, then those of its distances."""
        own = self.conditions[condition]
        return [place for place, other in enumerate(self.conditions) if other[:2] == own[:2]]

    @functools.cached_property
    def asked(self) -> float:
        """Tokens that are asked on a canvas of training, in the mean over levels; canvases of one level ask as many."""
        levels, layout = np.array(self.section.levels), self.train.layout(self.grid)
        u = uniforms([(0, 0, i, _TRAIN) for i in range(len(levels))], self.probe.draws(layout))
        return float((self.probe.draw(u, levels, layout).labels != IGNORE).sum(1).mean())


def open_probe(data: DataSection, image_size: int | Grid) -> ProbeDataset:
    """The probe of a recipe, trained on a grid of ``image_size`` tokens: rows and columns, or the side of a square.

    ``data.validation`` (trials of tuning) evaluates on canvases that are neither of training nor held out.

    Raises:
        InputError: for another source, or levels and grids that cannot be.
    """
    section = data.probe
    if section is None:
        raise InputError(
            "the source is no probe", got=f"data.source = {data.source}", expected="probe", remedy="set data.source"
        )
    probe, grid = _probe(section), (image_size, image_size) if isinstance(image_size, int) else image_size
    conditions = tuple(Condition(level, grid) for level in section.levels)
    conditions += tuple(Condition(section.levels[-1], (h, w)) for h, w in section.grids if (h, w) != grid)
    for condition in conditions:
        probe.check(condition.level, Layout(condition.grid, section.gap, section.query_columns))
    train, val = (
        ProbeSplit(probe, section, grid, conditions, kind)
        for kind in (_TRAIN, _HELD_OUT if data.validation is None else _VALIDATION)
    )
    distances = tuple(Condition(section.levels[-1], grid, distance) for distance in probe.distances(section.levels[-1]))
    if section.name != "recall" and not {"layout", "bind"} <= section.unsaid:
        raise InputError(
            "layout and bind are settings of recall alone",
            got=f"{section.name} with layout {section.layout} and bind {section.bind}",
            expected="scattered and token",
            remedy="drop data.probe.layout and data.probe.bind, or set data.probe.name to recall",
        )
    what = ", ".join([section.name, *(getattr(section, name) for name in ("layout", "bind") if name not in section.unsaid)])
    name = f"probe {what} at {grid[0]}x{grid[1]} ({len(train):,} an epoch, {section.held_out:,} held out of each level)"
    return ProbeDataset(name, section, probe, grid, conditions + distances, train, val)


def _probe(section: ProbeSection) -> Probe:
    match section.name:
        case "majority":
            return Majority(section.colours)
        case "recall":
            return Recall(section.keys, section.values, section.layout, section.bind)
        case "needle":
            return Needle(section.values)
        case "shift":
            return Shift(section.symbols)
        case "hop":
            return Hop(section.keys)
        case "flood":
            return Flood()


def one_hot(canvases: Canvases, symbols: tuple[int, ...], grid: Grid) -> Batch:
    """Canvases as a model's input (B, symbols in all, H, W), float32, 0 or 1, and their labels (B, H, W)."""
    planes = torch.from_numpy(canvases.planes)
    b, _, n = planes.shape
    parts = []
    for place, number in enumerate(symbols):
        part = torch.zeros(b, number + 1, n)
        parts.append(part.scatter_(1, planes[:, place : place + 1], 1.0)[:, 1:])
    return torch.cat(parts, dim=1).unflatten(2, grid), torch.from_numpy(canvases.labels).unflatten(1, grid)


class _Inputs:
    """Canvases as a model's inputs, a batch at a time; with distances the labels as of `probe_canvases`."""

    replace = False

    def __init__(self, split: ProbeSplit, seed: int, distances: Sequence[int | None] = (None,)) -> None:
        self.split, self.seed, self.distances = split, seed, distances

    def __getitems__(self, keys: list[Key]) -> Whole:
        canvases = self.split.canvases(keys, self.seed)
        inputs, labels = one_hot(canvases, self.split.probe.planes, self.split.grid_of(keys))
        if canvases.distances is None:
            return Whole(inputs, labels)
        far = torch.from_numpy(canvases.distances).view_as(labels)
        kept = [labels if distance is None else labels.where(far == distance, IGNORE) for distance in self.distances]
        return Whole(inputs, torch.stack(kept, dim=1).flatten(0, 1))


def probe_train_batches(
    dataset: ProbeDataset,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start: tuple[int, int] = (0, 0),
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Batches (input (B, symbols, H, W), labels (B, H, W)) from epoch and step ``start`` to the end of training.

    Arguments as of `wfbench.data.train_batches`. A canvas follows from (seed, epoch, index).

    Raises:
        InputError: for a batch that the processes cannot share.
    """
    check_shares(batch_size, world)
    keys = TrainKeys(len(dataset.train), batch_size, seed, epochs, start, positions(batch_size, rank, world))
    return read(_Inputs(dataset.train, seed), keys, workers, warn_replaced)


def probe_canvases(
    dataset: ProbeDataset,
    indices: Sequence[int],
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    distances: Sequence[int | None] = (None,),
) -> Iterator[Batch]:
    """Held-out canvases of one grid, in order. Of ``world`` processes, ``rank`` gets every world-th batch.

    The labels of a canvas stand once for each of ``distances``, one after another, with the questions at that distance alone;
    None: all questions. Inputs are then (B, symbols, H, W), and labels (B · distances, H, W).
    """
    return read(_Inputs(dataset.val, 0, distances), in_order(indices, batch_size, rank, world), 0, warn_replaced)
