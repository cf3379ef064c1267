"""Recall with its pairs elsewhere: one to a square, packed squares, values beside their keys; more pairs on a larger grid."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats
from test_probes import RUNNER, opened, tiny

from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.data.draws import uniforms
from wfbench.data.probes import Canvases, Layout
from wfbench.data.probes.probe import IGNORE
from wfbench.data.probes.recall import Recall
from wfbench.tasks import jobs
from wfbench.tasks.probe_checks import check_leak

LAYOUT = Layout((8, 12), 2, 2)
#: How many pairs there is room for on 8×8 tokens of context.
ROOM = {
    ("scattered", "token"): 64,
    ("lattice", "token"): 16,
    ("packed", "token"): 64,
    ("scattered", "neighbour"): 32,
    ("lattice", "neighbour"): 16,
    ("packed", "neighbour"): 32,
}
VARIANTS = pytest.mark.parametrize(("placement", "bind"), ROOM)


def drawn(placement: str, bind: str, pairs: int, number: int = 300, layout: Layout = LAYOUT, keys: int = 64) -> Canvases:
    probe = Recall(keys, 32, placement, bind)
    u = uniforms([(9, i) for i in range(number)], probe.draws(layout))
    return probe.draw(u, np.full(number, float(pairs)), layout)


def square(token: int, layout: Layout = LAYOUT) -> tuple[int, int]:
    return token // layout.grid[1] // 2, token % layout.grid[1] // 2


def faults(canvases: Canvases, placement: str, bind: str, pairs: int) -> set[str]:
    """What is wrong, looked for on the canvases alone."""
    found = set()
    right = 1 if bind == "neighbour" else 0
    for (keys, values), labels in zip(canvases.planes, canvases.labels, strict=True):
        stored = [int(token) for token in LAYOUT.context if keys[token]]
        if len(stored) != pairs or len({int(keys[token]) for token in stored}) != pairs:
            found.add("keys are not as many, or not distinct")
        if {token + right for token in stored} != {int(t) for t in LAYOUT.context if values[t]}:
            found.add("values are not where their keys say")
        value_of = {keys[token]: values[token + right] - 1 for token in stored}
        asked = np.flatnonzero(labels != IGNORE)
        if asked.tolist() != LAYOUT.queries.tolist() or any(value_of[keys[token]] != labels[token] for token in asked):
            found.add("answers are not the values")
        held = sorted(Counter(map(square, stored)).values())
        full = 2 if bind == "neighbour" else 4
        if placement == "lattice" and set(held) != {1}:
            found.add("a square has more than one pair")
        if placement == "packed" and (set(held[1:]) - {full} or len(held) != -(-pairs // full)):
            found.add("squares are not full")
    return found


@VARIANTS
@pytest.mark.parametrize("pairs", [1, 5, 16])
def test_pairs_stand_where_the_layout_says_and_answers_are_their_values(placement: str, bind: str, pairs: int) -> None:
    assert faults(drawn(placement, bind, pairs), placement, bind, pairs) == set()


@VARIANTS
def test_all_the_room_can_be_filled(placement: str, bind: str) -> None:
    room = ROOM[placement, bind]
    assert Recall(64, 32, placement, bind).most(LAYOUT) == room
    assert faults(drawn(placement, bind, room, 20), placement, bind, room) == set()


def test_other_layouts_are_seen() -> None:
    """The check of the placement fails where the layout is another one."""
    scattered = drawn("scattered", "token", 16)
    assert faults(scattered, "lattice", "token", 16) == {"a square has more than one pair"}
    assert faults(scattered, "packed", "token", 16) == {"squares are not full"}
    assert "values are not where their keys say" in faults(scattered, "scattered", "neighbour", 16)


@VARIANTS
def test_every_place_and_every_value_is_as_likely(placement: str, bind: str) -> None:
    canvases = drawn(placement, bind, 5, 4000)
    places = Recall(64, 32, placement, bind).places(LAYOUT).ravel()
    counts = (canvases.planes[:, 0] > 0).sum(0)
    assert counts[LAYOUT.context].sum() == counts[places].sum() == 5 * 4000
    # Five places of one canvas repel or attract each other, so the spread is compared with that over canvases.
    shares = (canvases.planes[:, 0] > 0)[:, places] - 5 / len(places)
    z = shares.mean(0) / (shares.std() / 4000**0.5)
    assert np.abs(z).max() < 4.5
    one = canvases.labels[:, LAYOUT.queries[0]]
    assert stats.chisquare(np.bincount(one, minlength=32)).pvalue > 1e-4


@pytest.mark.sampled(3)
@VARIANTS
def test_nothing_leaks_and_the_floors_are_those_of_the_values(placement: str, bind: str) -> None:
    settings = [f"data.probe.layout={placement}", f"data.probe.bind={bind}", "data.probe.levels=[1,4,16]"]
    dataset = opened("recall", *settings)
    assert check_leak(dataset, 2).held
    assert [(f.chance, f.local) for f in dataset.floors] == [(1 / 32, 1 / 32)] * 3
    canvases = dataset.val.canvases([(0, i) for i in dataset.indices(2)])
    shares = []
    for planes, labels in zip(canvases.planes, canvases.labels, strict=True):
        values = planes[1, LAYOUT.context]
        shares.append((labels[LAYOUT.queries] == np.bincount(values[values > 0]).argmax() - 1).mean())
    assert dataset.floors[2].set == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 512**0.5)


def test_a_key_at_the_edge_of_the_gap_has_its_value_in_the_context() -> None:
    """An odd number of columns: the last one holds no key, since its value would stand in the gap."""
    layout = Layout((4, 9), 2, 2)
    for placement in ("scattered", "lattice", "packed"):
        canvases = drawn(placement, "neighbour", 4, 200, layout)
        held = np.flatnonzero(canvases.planes.sum((0, 1))) % 9
        assert set(held.tolist()) - set(range(4)) == {7, 8}, "nothing but the queries stands right of the pairs"


def test_128_pairs_stand_on_a_larger_grid_with_as_many_keys() -> None:
    larger = ["model.image_size=16", "data.probe.keys=128", "model.in_channels=160", "data.probe.levels=[1,8,128]"]
    job = jobs.prepare(tiny("recall", "model.mixer=linear", *larger))
    canvases = job.dataset.val.canvases([(0, i) for i in job.dataset.indices(2)])
    for keys, _ in canvases.planes:
        stored = keys[job.dataset.val.layout((16, 16)).context]
        assert sorted(stored[stored > 0]) == list(range(1, 129))
    assert job.model(next(job.held_out(batch_size=2))[0]).shape == (2, 32, 16, 16)


def test_a_variant_is_other_data_and_another_recipe_and_is_named() -> None:
    plain, packed = opened("recall"), opened("recall", "data.probe.layout=packed")
    assert plain.listing.digest != packed.listing.digest
    assert recipes.digest(recipes.load("probe-recall")) != recipes.digest(
        recipes.load("probe-recall", ["data.probe.layout=packed"])
    )
    assert plain.name.startswith("probe recall at 8x12")
    beside = opened("recall", "data.probe.layout=packed", "data.probe.bind=neighbour", "data.probe.levels=[1,32]")
    assert beside.name.startswith("probe recall, packed, neighbour at 8x12")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("recall", ["data.probe.layout=lattice"], "a whole number of pairs from 1 to 16: of 64 keys in 16 places"),
        ("recall", ["data.probe.levels=[1,128]", "model.image_size=16"], "from 1 to 64: of 64 keys in 192 places"),
        ("recall", ["data.probe.levels=[1,128]", "model.image_size=16"], "for more keys data.probe.keys"),
        ("recall", ["data.probe.bind=neighbour"], "of 64 keys in 32 places"),
        ("recall", ["data.probe.bind=neighbour", "data.probe.levels=[1,4]"], "set model.pos_embed to sincos"),
        ("recall", ["data.probe.layout=lattice", "model.image_size=[1,12]", "data.probe.levels=[1]"], "in 0 places"),
        ("needle", ["data.probe.layout=packed"], "settings of recall alone"),
        ("hop", ["data.probe.bind=neighbour"], "settings of recall alone"),
    ],
)
def test_what_does_not_fit_is_said_in_one_message(name: str, settings: list[str], said: str) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    result = RUNNER.invoke(app, ["train", "--recipe", f"probe-{name}", "--mixer", "linear", "--dry-run", *words])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output
