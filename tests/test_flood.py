"""Flood: walks that do not touch, fair marks, floors, questions by their distance, and the reach."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from probe_rows import probe_row
from scipy import ndimage, stats
from test_capability import answer, lines_of
from test_probes import CPU, Silent, drawn_by, opened, tiny

from wfbench.analysis.capability import Crossing, capacity
from wfbench.data import probe_canvases
from wfbench.data.draws import uniforms
from wfbench.data.probes import Canvases, Layout, flood
from wfbench.data.probes.flood import Flood
from wfbench.data.probes.probe import IGNORE
from wfbench.errors import InputError
from wfbench.records import ProbeRow
from wfbench.tasks import jobs
from wfbench.tasks.probe_checks import check_leak

LAYOUT = Layout((16, 16), 2, 2)
CROSS, SQUARE = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)


def drawn(number: int, length: int, probe: Flood | None = None, layout: Layout = LAYOUT) -> Canvases:
    probe = probe or Flood()
    u = uniforms([(5, i) for i in range(number)], probe.draws(layout))
    return probe.draw(u, np.full(number, float(length)), layout)


def faults(canvases: Canvases, length: int, layout: Layout = LAYOUT) -> list[str]:
    """What is wrong with the walks, which is looked for on the canvases alone."""
    found = []
    for planes, labels, distances in zip(*canvases, strict=True):
        cells = planes[0].reshape(layout.grid) > 0
        if ndimage.label(cells, SQUARE)[1] != 2:
            found.append("walks touch")
        neighbours = ndimage.convolve(cells.astype(int), CROSS.astype(int), mode="constant") - 1
        if sorted(neighbours[cells]) != [1] * 4 + [2] * (2 * length - 4):
            found.append("no simple paths of this length")
        for mark in (0, 1):
            (place,) = np.flatnonzero(planes[1] == 1 + mark)
            walk = (labels == mark).reshape(layout.grid)
            reached, steps = np.zeros(layout.grid, dtype=bool), np.full(layout.tokens, -1)
            reached.ravel()[place] = True
            for step in range(length):
                steps[(steps < 0) & reached.ravel()] = step
                reached = ndimage.binary_dilation(reached, CROSS, mask=cells)
            if not np.array_equal(np.where(walk.ravel(), steps, -1), np.where(labels == mark, distances, -1)):
                found.append("labels or distances are not those of the walk from its mark")
    return found


@pytest.mark.parametrize("length", [2, 4, 8, 16, 32])
def test_walks_are_simple_paths_that_do_not_touch_and_every_cell_is_asked(length: int) -> None:
    canvases = drawn(60, length)
    assert faults(canvases, length) == []
    assert np.array_equal(canvases.labels != IGNORE, canvases.planes[:, 0] > 0)
    for mark in (0, 1):
        counted = np.where(canvases.labels == mark, canvases.distances, length)
        assert np.array_equal(np.sort(counted)[:, :length], np.tile(np.arange(length), (60, 1)))


def test_walks_that_may_touch_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On purpose: walks that keep off the cells of the other alone, or off their own alone, and not off what is beside them."""
    tables = flood._tables(LAYOUT.grid)
    cell = [frozenset({token}) for token in range(256)]
    for wrong, fault in (
        (tables._replace(squares=cell), "walks touch"),
        (tables._replace(crosses=cell), "no simple paths of this length"),
    ):
        monkeypatch.setattr(flood, "_tables", lambda grid, wrong=wrong: wrong)
        assert fault in faults(drawn(60, 16), 16)


def test_which_walk_has_which_mark_is_a_fair_draw_that_knows_nothing_of_the_walks() -> None:
    canvases = drawn(2000, 8)
    first = np.array([row[row != IGNORE][0] for row in canvases.labels])
    assert stats.binomtest(int(first.sum()), 2000).pvalue > 1e-3
    # The walk that begins anywhere and the one that begins near it have other shapes. No figure of a walk tells its mark.
    at = np.stack(np.unravel_index(np.arange(256), (16, 16)), axis=-1)
    for figure in (
        lambda cells: cells.std(0).sum(),
        lambda cells: cells[:, 0].mean(),
        lambda cells: np.abs(cells - 7.5).mean(),
    ):
        pairs = [[figure(at[labels == mark]) for mark in (0, 1)] for labels in canvases.labels]
        assert stats.ttest_rel(*zip(*pairs, strict=True)).pvalue > 1e-3


@pytest.mark.slow
def test_a_mark_that_goes_with_the_shape_is_seen() -> None:
    """On purpose: the walk that was made first always has the first mark. It covers other ground than the second one."""
    u = uniforms([(5, i) for i in range(4000)], 2)
    fair, biased = (Flood().draw(v, np.full(4000, 32.0), LAYOUT) for v in (u, np.stack([u[:, 0], np.ones(4000)], axis=1)))
    at = np.stack(np.unravel_index(np.arange(256), (16, 16)), axis=-1)

    def p(canvases: Canvases) -> float:
        spread = [[at[labels == mark].std(0).sum() for mark in (0, 1)] for labels in canvases.labels]
        return float(stats.ttest_rel(*zip(*spread, strict=True)).pvalue)

    assert p(fair) > 1e-3
    assert p(biased) < 1e-6


def test_a_batch_is_drawn_in_a_small_part_of_a_training_step() -> None:
    split = opened("flood").train
    times = []
    for epoch in range(5):
        start = time.process_time()
        split.canvases([(epoch, i) for i in range(32)])
        times.append(time.process_time() - start)
    assert min(times) < 0.03, times


@pytest.mark.slow
def test_floors_are_those_of_other_canvases() -> None:
    """The floors come from pairs of walks by arithmetic; here from canvases, token by token."""
    canvases = drawn(1500, 32)
    found = Flood().floors(32, LAYOUT)
    rows, columns = np.unravel_index(np.arange(256), (16, 16))
    near: dict[int, list[float]] = {}
    crow: dict[int, list[float]] = {}
    for planes, labels, distances in zip(*canvases, strict=True):
        marks = [int(np.flatnonzero(planes[1] == 1 + mark)[0]) for mark in (0, 1)]
        apart = [(np.abs(rows - rows[m]), np.abs(columns - columns[m])) for m in marks]
        seen = np.minimum(*(np.maximum(r, c) for r, c in apart)) <= 2
        first, second = (r**2 + c**2 for r, c in apart)
        says = np.where(first == second, 0.5, second < first)
        for distance in (1, 4, 12, 31):
            for token in np.flatnonzero(distances == distance):
                near.setdefault(distance, []).append(1 if seen[token] else 0.5)
                crow.setdefault(distance, []).append(says[token] if labels[token] else 1 - says[token])
    for distance, values in near.items():
        assert found.by_distance[distance].local == pytest.approx(np.mean(values), abs=0.02)
        assert found.by_distance[distance].straight == pytest.approx(np.mean(crow[distance]), abs=0.03)
    assert found.by_distance[1].local == 1
    assert found.by_distance[31].straight < 0.6 < found.straight


def test_what_the_leak_check_asks_has_no_mark_near_it() -> None:
    canvases = drawn(50, 32)
    checked = Flood().checked(canvases, LAYOUT)
    for planes, labels, kept in zip(canvases.planes, canvases.labels, checked, strict=True):
        rows, columns = np.unravel_index(np.flatnonzero(planes[1]), (16, 16))
        for token in np.flatnonzero(labels != IGNORE):
            reach = np.maximum(np.abs(rows - token // 16), np.abs(columns - token % 16)).min()
            assert (kept[token] == labels[token]) if reach > 2 else (kept[token] == IGNORE)


def test_what_a_grid_takes_in_memory_grows_with_its_tokens_and_not_with_their_square() -> None:
    tracemalloc.start()
    try:
        flood._tables.__wrapped__((32, 32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8e6, "1,024 tokens: two numbers for each pair of them would be 17 MB"


@dataclass(frozen=True)
class Blank(Flood):
    """On purpose: on a fifth of the canvases the cells of one walk do not show."""

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        canvases = super().draw(u, levels, layout)
        canvases.planes[:, 0] *= np.where((canvases.labels == 1) & (u[:, :1] < 0.2), 0, 1)
        return canvases


@pytest.mark.slow
def test_leaks_on_purpose_are_caught() -> None:
    dataset = opened("flood")
    blank = check_leak(drawn_by(dataset, Blank()), 2)
    assert blank.readout > blank.bound
    deeper = check_leak(dataset, 3)  # three layers see a mark that stands three tokens away
    assert deeper.gradient > 0
    assert not deeper.held


def test_levels_of_near_questions_alone_are_refused() -> None:
    with pytest.raises(InputError, match="no question is out of a local model's reach"):
        check_leak(opened("flood", "data.probe.levels=[2]"), 2)


def test_questions_are_counted_by_their_distance_on_the_canvases_of_the_longest_walks() -> None:
    job = jobs.prepare(tiny("flood", "model.mixer=linear"))
    dataset = job.dataset
    cells = job.evaluation(job.model)
    canvases = dataset.val.canvases([(0, i) for i in dataset.indices(3)])
    x = next(probe_canvases(dataset, dataset.indices(3), batch_size=16))[0]
    right = (job.model(x).argmax(1).flatten(1).numpy() == canvases.labels) & (canvases.labels != IGNORE)
    assert [c.distance for c in dataset.conditions] == [None] * 4 + [1, 2, 3, 4, 6, 8, 12, 16, 24, 31]
    for condition, cell in zip(dataset.conditions[4:], cells[4:], strict=True):
        shares = (right & (canvases.distances == condition.distance)).sum(1) / 2
        assert cell.accuracy == pytest.approx(shares.mean())
        assert cell.standard_error == pytest.approx(shares.std(ddof=1) / 4)
    assert cells[3].accuracy == pytest.approx(right.sum() / 16 / 64)


def test_the_loss_of_a_batch_is_the_mean_over_questions_in_the_mean_over_levels() -> None:
    job = jobs.prepare(tiny("flood", "model.mixer=linear"))
    assert job.dataset.asked == 30
    x, y = next(job.batches((0, 0)))
    whole = job.loss(job.model, x, y, torch.Generator())
    parts = [job.loss(job.model, x[i : i + 8], y[i : i + 8], torch.Generator()) for i in range(0, 32, 8)]
    assert torch.allclose(whole, torch.stack(parts).mean())


@pytest.mark.slow
def test_a_row_says_how_far_a_run_reaches(tmp_path: Path) -> None:
    row = jobs.train(tiny("flood", "model.mixer=linear"), tmp_path / "run", Silent(), device=CPU)
    assert isinstance(row, ProbeRow)
    assert len(row.trained) == 4
    assert row.result == pytest.approx(np.mean([cell.accuracy for cell in row.cells[:4]]))
    assert capacity(row, 8) is not None


# --- the reach


def run(by_distance: dict[int, float], seed: int = 0, mixer: str = "linear") -> ProbeRow:
    """Of hand-made accuracies, written down in no order."""
    return probe_row("flood", mixer, seed, {400: [1.0, 0.7, *by_distance.values()]}, distances=tuple(by_distance))


def test_the_reach_is_where_accuracy_falls_below_90_percent_along_the_walk() -> None:
    orderly = run({1: 1, 2: 1, 4: 1, 8: 0.8, 16: 0.5})
    assert capacity(orderly, 400).value == pytest.approx(2**2.5)
    mixed = run({16: 0.5, 1: 1, 8: 0.8, 4: 1, 2: 1})
    assert capacity(mixed, 400) == capacity(orderly, 400), "distances are put in order"
    assert capacity(run({1: 1, 16: 0.95}), 400) == Crossing(16, "above")
    assert capacity(run({1: 0.89, 16: 0.95}), 400) == Crossing(1, "below")


def test_the_mean_over_levels_has_each_question_once() -> None:
    line = lines_of(run({1: 1, 16: 0.1}))["linear"]
    assert line.mean.estimate == pytest.approx(0.85)
    assert line.capacity[400].by_seed[0].value == pytest.approx(2 ** (4 * 0.1 / 0.9))


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("at_least: 3", "supported"),
        ("at_least: 8", "contradicted"),
        ("ratio: {to: static, at_least: 2}", "supported"),
        ("at_most: 16", "supported"),
    ],
)
def test_a_claim_of_the_reach(tmp_path: Path, claim: str, verdict: str) -> None:
    rows = [run({1: 1, 2: 1, 4: 1, 8: 0.8 + s / 100, 16: 0.5}, s) for s in range(3)]
    rows += [run({1: 1, 2: 0.8 + s / 50, 4: 0.5, 8: 0.5, 16: 0.5}, s, "static") for s in range(3)]
    found = answer(tmp_path, rows, f"line: linear, statistic: reach, {claim}", "flood")
    assert found.verdict == verdict
