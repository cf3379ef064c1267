"""Probes: what is on a canvas, what is asked, the floors, and that nothing leaks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from typer.testing import CliRunner

from wfbench import recipe as recipes
from wfbench import records
from wfbench.cli import app
from wfbench.data import open_probe, probe_canvases, probe_train_batches
from wfbench.data.probes import Canvases, Layout, ProbeDataset
from wfbench.data.probes.dataset import Condition
from wfbench.data.probes.majority import Majority
from wfbench.data.probes.needle import Needle
from wfbench.data.probes.probe import IGNORE, Probe
from wfbench.data.probes.recall import Recall
from wfbench.records import ProbeRow
from wfbench.tasks import jobs
from wfbench.tasks.probe_checks import check_leak, global_layers, source_gradient
from wfbench.tasks.run_directory import read_result
from wfbench.tasks.weights import WEIGHTS
from wfbench.training import Watch

CPU = torch.device("cpu")
NAMES = ("majority", "recall", "needle", "shift", "hop", "flood")
#: By probe, of the recipe as it comes, which stand in records: its digest, that of the data, and that of some canvases.
DIGESTS = {
    "majority": ("dcab41be6d83", "c956f98fb82b", "7f7f8a8ac926"),
    "recall": ("953315256f34", "23f81bbcf18a", "964165801c0c"),
    "needle": ("49862bdfc202", "078c66bc59ca", "d3f09aded4b7"),
    "shift": ("53c0c15286e1", "62c59fb2d4ab", "f0f9ec2c47e8"),
    "hop": ("d4269a51cc81", "e32d079a9754", "36dad5ed9764"),
    "flood": ("b19d078b8971", "8bc266b2e20f", "81b7e5f13448"),
}
RUNNER = CliRunner()


class Silent(Watch):
    """Hears everything and says nothing."""


def opened(name: str, *settings: str) -> ProbeDataset:
    recipe = recipes.load(f"probe-{name}", settings)
    return open_probe(recipe.data, recipe.model.image_size)


def drawn_by(dataset: ProbeDataset, probe: Probe) -> ProbeDataset:
    """A probe's levels and grids with other canvases."""
    train, val = (replace(split, probe=probe) for split in (dataset.train, dataset.val))
    return replace(dataset, probe=probe, train=train, val=val)


def answer(name: str, planes: np.ndarray, token: int, layout: Layout) -> int:
    """What a canvas's planes (P, N) say is right at an asked token, by looking for it."""
    context = planes[:, layout.context]
    match name:
        case "majority":
            return int(np.bincount(context[0]).argmax()) - 1
        case "recall":
            (place,) = np.flatnonzero(context[0] == planes[0, token])
            return int(context[1, place]) - 1
        case "needle":
            (place,) = np.flatnonzero(context[1])
            return int(context[0, place]) - 1
        case "shift":
            h, w = layout.grid
            row, column = (token // w + h // 2) % h, (token % w + w // 2) % w
            return int(planes[0, row * w + column]) - 1
        case "flood":
            return leads_to(planes, token, layout) - 1
        case _:
            arrows = dict(zip(context[0], context[1], strict=True))
            symbol = planes[0, token]
            for _ in range(planes[2, token]):
                symbol = arrows[symbol]
            return int(symbol) - 1


def leads_to(planes: np.ndarray, token: int, layout: Layout) -> int:
    """The mark that can be reached from a token by common sides."""
    regions, _ = ndimage.label(planes[0].reshape(layout.grid))
    (mark,) = set(planes[1][regions.ravel() == regions.ravel()[token]]) - {0}
    return int(mark)


@pytest.mark.parametrize("name", DIGESTS)
def test_canvases_and_digests_are_those_of_the_records(name: str) -> None:
    dataset = opened(name)
    train, val = dataset.train.canvases([(1, i) for i in range(40)], seed=3), dataset.val.canvases([(0, i) for i in range(40)])
    bits = b"".join(part.tobytes() for canvases in (train, val) for part in (canvases.planes, canvases.labels))
    canvases = hashlib.sha256(bits).hexdigest()[:12]
    assert (recipes.digest(recipes.load(f"probe-{name}")), dataset.listing.digest, canvases) == DIGESTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_what_the_canvas_says(name: str) -> None:
    dataset = opened(name)
    for split in (dataset.train, dataset.val):
        last = dataset.drawn - 1 if split is dataset.val else 0
        for condition in {0, last}:
            keys = [(0, condition * dataset.section.held_out + i) for i in range(6)]
            canvases = split.canvases(keys, seed=3)
            layout = split.layout(dataset.conditions[condition].grid)
            for planes, labels in zip(canvases.planes, canvases.labels, strict=True):
                asked = np.flatnonzero(labels != IGNORE)
                number = {"shift": layout.tokens, "flood": (planes[0] > 0).sum()}
                assert len(asked) == number.get(name, len(layout.queries))
                assert [answer(name, planes, t, layout) for t in asked] == labels[asked].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_canvas_follows_from_seed_epoch_and_index_alone(name: str) -> None:
    split = opened(name).train
    together = split.canvases([(1, 5), (1, 6), (2, 5)], seed=7)
    alone = split.canvases([(1, 6)], seed=7)
    assert np.array_equal(together.planes[1], alone.planes[0])
    for other in (split.canvases([(1, 6)], seed=8), split.canvases([(2, 6)], seed=7), split.canvases([(1, 7)], seed=7)):
        assert not np.array_equal(other.planes, alone.planes)


def test_batches_are_those_canvases_whatever_the_start_and_the_processes() -> None:
    dataset = opened("recall", "data.probe.train=64")
    whole = list(probe_train_batches(dataset, batch_size=16, seed=1, epochs=2))
    assert len(whole) == 8
    late = list(probe_train_batches(dataset, batch_size=16, seed=1, epochs=2, start=(1, 1)))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(late, whole[5:], strict=True))
    parts = [next(probe_train_batches(dataset, batch_size=16, seed=1, epochs=2, rank=r, world=2))[0] for r in (0, 1)]
    assert sorted(map(bytes, torch.cat(parts).numpy())) == sorted(map(bytes, whole[0][0].numpy()))
    x, y = whole[0]
    assert x.shape == (16, 96, 8, 12)
    assert y.shape == (16, 8, 12)
    assert set(x.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_held_out_canvases_are_others_than_training_and_validation(name: str) -> None:
    recipe = recipes.load(f"probe-{name}")
    trial = open_probe(recipe.data.model_copy(update={"validation": 0.2}), recipe.model.image_size)
    dataset = open_probe(recipe.data, recipe.model.image_size)
    first = [next(probe_canvases(d, d.indices(0), batch_size=4))[0] for d in (dataset, trial)]
    assert not torch.equal(*first)
    assert dataset.listing.digest != trial.listing.digest
    assert dataset.listing.digest == opened(name, "model.mixer=linear", "seed=5").listing.digest


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_balanced(name: str) -> None:
    dataset = opened(name)
    labels = dataset.train.canvases([(0, i) for i in range(4000)]).labels
    one = np.array([row[row != IGNORE][0] for row in labels])  # those of one canvas are not independent
    counts = np.bincount(one, minlength=dataset.probe.answers)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_the_set_floor_of_recall_is_that_of_the_most_frequent_value() -> None:
    dataset = opened("recall")
    found = [floors.set for floors in dataset.floors]
    assert found[0] == 1
    assert found[1] == pytest.approx((1 + 1 / 32) / 2, abs=0.005)  # two values: the right one, or both the same
    canvases = dataset.val.canvases([(0, 4 * 512 + i) for i in range(512)])  # n = 16
    layout = dataset.val.layout((8, 12))
    shares = []
    for planes, labels in zip(canvases.planes, canvases.labels, strict=True):
        values = planes[1, layout.context]
        guess = np.bincount(values[values > 0]).argmax() - 1
        shares.append((labels[layout.queries] == guess).mean())
    assert found[4] == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 512**0.5)


@pytest.mark.parametrize("level", [0.2, 0.1, 0.05, 0.025])
def test_counts_of_majority_are_exact(level: float) -> None:
    counts = Majority(8).counts(level, 64)
    assert counts.sum() == 64
    assert counts[0] == round(64 * (1 / 8 + level))
    assert counts[0] > counts[1:].max()
    assert counts[1:].max() - counts[1:].min() <= 1


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_leaks(name: str) -> None:
    found = check_leak(opened(name), 2)
    assert found.gradient == 0
    assert found.readout <= found.bound
    assert found.held


@pytest.mark.slow
def test_a_gap_of_less_than_the_reach_leaks() -> None:
    narrow = opened("recall", "data.probe.gap=1")
    assert not check_leak(narrow, 2).held
    assert check_leak(narrow, 2).gradient > 0
    assert check_leak(opened("recall", "data.probe.gap=5", "data.probe.levels=[1]"), 5).gradient == 0
    assert check_leak(opened("recall", "data.probe.gap=4", "data.probe.levels=[1]"), 5).gradient > 0


@dataclass(frozen=True)
class Leaky(Recall):
    """On purpose: the queries of most canvases hold their answer too."""

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        planes, labels, _ = super().draw(u, levels, layout)
        planes[:, 1, layout.queries] = np.where(u[:, :1] < 0.1, 1 + labels[:, layout.queries], 0)
        return Canvases(planes, labels)


@dataclass(frozen=True)
class Summed(Recall):
    """On purpose: beside its key each query holds the sum of key and answer, of which either alone says nothing."""

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        planes, labels, _ = super().draw(u, levels, layout)
        at = layout.queries
        planes[:, 1, at] = 1 + (labels[:, at] + planes[:, 0, at]) % self.values
        return Canvases(planes, labels)


@dataclass(frozen=True)
class Elsewhere(Needle):
    """On purpose: on other grids than that of training the queries of most canvases hold their answer."""

    def draw(self, u: np.ndarray, levels: np.ndarray, layout: Layout) -> Canvases:
        planes, labels, _ = super().draw(u, levels, layout)
        if layout.grid != (8, 12):
            planes[:, 0, layout.queries] = np.where(u[:, :1] < 0.7, 1 + labels[:, layout.queries], 0)
        return Canvases(planes, labels)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("probe", [Leaky(), Summed(), Elsewhere()])
def test_a_generator_that_leaks_on_purpose_is_caught(probe: Probe) -> None:
    name, settings = ("needle", ["data.probe.grids=[[12,18]]"]) if isinstance(probe, Elsewhere) else ("recall", [])
    found = check_leak(drawn_by(opened(name, *settings), probe), 2)
    assert found.gradient == 0
    assert found.readout > found.bound
    assert not found.held


def test_layers_that_mix_far_tokens_are_counted() -> None:
    local = {"static": 0, "pool": 0, "identity": 0}
    far = {"softmax": 2, "weightformer": 1, "random": 2, "large-kernel": 2, "mhla": 2, "window(window=4)": 2}
    for mixer, layers in {**local, **far}.items():
        job = jobs.prepare(recipes.load("probe-recall", [f"model.mixer={mixer}"]))
        assert global_layers(job.model, (8, 12)) == layers, mixer


@pytest.mark.parametrize(
    ("name", "mixer", "reaches"),
    [
        ("recall", "static", False),
        ("recall", "window(window=4)", False),  # columns 10 and 11 share windows with 8 and 9 alone, and the context ends at 7
        ("recall", "window(window=6)", True),
        ("recall", "large-kernel", True),
        ("recall", "weightformer", True),
        ("shift", "static", False),
        ("shift", "large-kernel", True),  # two layers of 7×7 see six tokens far, and half the grid is four
        ("shift", "softmax", True),
    ],
)
def test_whether_answers_can_depend_on_what_is_asked_for(name: str, mixer: str, reaches: bool) -> None:
    job = jobs.prepare(recipes.load(f"probe-{name}", [f"model.mixer={mixer}"]))
    keys = [(0, i) for i in job.dataset.indices(0)]
    assert (source_gradient(job.model, job.dataset.val, keys, 0) > 0) is reaches


TINY = (
    "model.embed_dim=16",
    "model.num_heads=2",
    "data.probe.train=64",
    "data.probe.held_out=16",
    "data.probe.budgets=[4]",
    "epochs=4",
    "eval_every=2",
    "optim.warmup_epochs=1",
)


def tiny(name: str, *more: str) -> recipes.Recipe:
    return recipes.load(f"probe-{name}", [*TINY, *more])


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_a_row_with_every_cell_and_look(name: str, tmp_path: Path) -> None:
    row = jobs.train(tiny(name, "model.mixer=linear"), tmp_path / "run", Silent(), device=CPU)
    assert isinstance(row, ProbeRow)
    assert records.read(tmp_path / "run" / "records.jsonl")[0] == [row]
    dataset = opened(name)
    assert [(cell.level, cell.grid, cell.distance) for cell in row.cells] == [tuple(c) for c in dataset.conditions]
    assert [look.step for look in row.curve] == [4, 8]
    assert row.look(4) == row.curve[0]
    assert row.look(6) is None
    assert row.curve[-1].accuracies == tuple(cell.accuracy for cell in row.cells)
    assert row.result == pytest.approx(np.mean([cell.accuracy for cell in row.trained]))
    assert row.leak_check.held
    assert row.samples == 16 * len(row.trained)
    assert row.macs is not None
    assert not row.stopped
    result = RUNNER.invoke(app, ["eval", str(tmp_path / "run"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "the same" in result.output


def test_figures_are_those_of_the_models_answers(tmp_path: Path) -> None:
    recipe = tiny("needle", "model.mixer=softmax", "data.probe.grids=[[9,13]]")
    job = jobs.prepare(recipe)
    cells = job.evaluation(job.model)
    for place, cell in enumerate(cells):
        shares = []
        for x, y in probe_canvases(job.dataset, job.dataset.indices(place), batch_size=5):
            right, asked = job.model(x).argmax(1) == y, y != IGNORE
            shares += ((right & asked).sum((1, 2)) / asked.sum((1, 2))).tolist()
        assert len(shares) == 16
        assert cell.accuracy == pytest.approx(np.mean(shares))
        assert cell.standard_error == pytest.approx(np.std(shares, ddof=1) / 4)
    assert job.dataset.conditions[-1] == Condition(1, (9, 13))


def test_a_mixer_of_one_grid_is_not_evaluated_on_others(tmp_path: Path) -> None:
    row = jobs.train(tiny("needle", "model.mixer=mlp-mixer"), tmp_path / "run", Silent(), device=CPU)
    assert [cell.accuracy is None for cell in row.cells] == [False] * 4 + [True] * 4
    result = RUNNER.invoke(app, ["eval", str(tmp_path / "run"), "--device", "cpu"])
    assert result.exit_code == 0
    assert "built for one grid" in result.output


def test_whether_a_mixer_takes_other_grids_is_asked_of_what_is_built(tmp_path: Path) -> None:
    """Of options, and of a file that declares nothing."""
    (tmp_path / "own.py").write_text(
        "from torch import nn, ones\n"
        "from mixers.base import check_built_grid\n"
        "class Own(nn.Module):\n"
        "    def __init__(self, dim, *, num_heads=None, grid=None, bound=True):\n"
        "        super().__init__()\n"
        "        self.built = grid if bound else None\n"
        "        self.scale = nn.Parameter(ones(dim))\n"
        "    def forward(self, x, grid):\n"
        "        if self.built is not None:\n"
        "            check_built_grid(grid, self.built, 'it')\n"
        "        return x * self.scale + x.mean(1, keepdim=True)\n"
    )
    own = f"{tmp_path}/own.py:Own"
    others_taken = {"polaformer": 0, "polaformer(pos=false)": 4, own: 0, f"{own}(bound=false)": 4, "mlp-mixer": 0}
    for mixer, others in others_taken.items():
        job = jobs.prepare(tiny("needle", f'model.mixer="{mixer}"'))
        assert len(job._places) == 4 + others, mixer


def test_training_stops_once_every_level_is_solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wfbench.tasks.jobs import probe

    monkeypatch.setattr(probe, "SOLVED", 0.0)
    recipe = tiny("majority", "epochs=8", "eval_every=1", "stop_when_solved=3", "model.mixer=linear")
    row = jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    assert row.stopped
    assert row.steps == 6
    assert [look.step for look in row.curve] == [2, 4, 6]
    assert row.look(6000) == row.curve[-1]
    assert row.budgets == (4, 16), "those within the planned training, and its end"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_run_that_was_stopped_and_resumed_is_bit_equal(tmp_path: Path) -> None:
    recipe = tiny("recall", "model.mixer=weightformer", "save_steps=1")
    jobs.train(recipe, tmp_path / "a", Silent(), device=CPU)

    class Dies(Watch):
        def __init__(self) -> None:
            self.steps = 0

        def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
            self.steps += 1
            if self.steps == 5:
                raise KeyboardInterrupt

        def epoch(self, row: dict) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        jobs.train(recipe, tmp_path / "b", Dies(), device=CPU)
    jobs.train(recipe, tmp_path / "b", Silent(), device=CPU, resume=True)
    assert (tmp_path / "a" / WEIGHTS["raw"]).read_bytes() == (tmp_path / "b" / WEIGHTS["raw"]).read_bytes()
    a, b = (json.loads((tmp_path / run / "result.json").read_text()) for run in "ab")
    assert a["cells"] == b["cells"]
    assert a["curve"] == b["curve"]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("recall", ["data.probe.levels=[65]"], "whole number of pairs from 1 to 64"),
        ("recall", ["data.probe.levels=[1.5]"], "whole number of pairs"),
        ("majority", ["data.probe.levels=[0]"], "a lead by which one of 8 colours wins"),
        ("needle", ["data.probe.levels=[1.1]"], "a share of the other tokens"),
        ("hop", ["data.probe.levels=[5]"], "steps from 1 to 4"),
        ("flood", ["data.probe.levels=[2.5, 8]"], "a whole number of cells, at least 2"),
        ("flood", ["data.probe.levels=[64]"], "two walks that fit into 16x16 tokens"),
        ("hop", ["data.probe.keys=256", "model.in_channels=516"], "20 to 255: as many as the chains hold"),
        ("hop", ["data.probe.keys=19", "model.in_channels=42"], "20 to 255"),
        ("recall", ["data.probe.held_out=1"], "greater than or equal to 2"),
        ("recall", ["data.probe.levels=[4, 1]"], "of recall the smaller one is easier: [1, 4]"),
        ("needle", ["data.probe.levels=[0, 1, 0.25]"], "the smaller one is easier: [0, 0.25, 1]"),
        ("majority", ["data.probe.levels=[0.1, 0.2]"], "of majority the larger one is easier: [0.2, 0.1]"),
        ("hop", ["data.probe.levels=[1, .inf]"], "finite number"),
        ("recall", ["data.probe.budgets=[900]"], "not 900, of which the nearest is 800"),
        ("recall", ["eval_every=7"], "not 800, of which the nearest is 700. They come every 700 steps"),
        ("shift", ["epochs=5", "data.probe.budgets=[300]"], "and at the end, after 500"),
        ("shift", ["model.image_size=5"], "half is more than 2"),
        ("recall", ["model.depth=3"], "set data.probe.gap to 3"),
        ("recall", ["model.in_channels=3"], "set model.in_channels to 96"),
        ("recall", ["model.image_size=[8,4]"], "no column for the context"),
        ("recall", ["data.probe.name=recal"], "majority"),
        ("recall", ["model.patch_size=2"], "patch_size is 1"),
        ("recall", ["data.hflip=0.5"], "has no hflip"),
        ("recall", ["data.limit=5"], "has no limit"),
        ("recall", ["dense.decoder=dpt"], "linear decoder"),
        ("recall", ["ema.decay=0.9"], "neither ema"),
        ("digits", ["model.in_channels=96"], "in_channels is 1 or 3"),
        ("digits", ["stop_when_solved=2"], "needs data.source: probe"),
        ("digits", ["data.source=probe"], "needs section probe"),
    ],
)
def test_what_cannot_be_is_said_in_one_message(name: str, settings: list[str], said: str, tmp_path: Path) -> None:
    recipe = name if name == "digits" else f"probe-{name}"
    words = [word for setting in settings for word in ("--set", setting)]
    result = RUNNER.invoke(app, ["train", "--recipe", recipe, "--mixer", "linear", "--out", str(tmp_path / "x"), *words])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "x").exists()


def test_the_digest_knows_the_probe_but_not_the_budgets() -> None:
    own = recipes.digest(recipes.load("probe-recall"))
    assert own == recipes.digest(recipes.load("probe-recall", ["data.probe.budgets=[400]", "model.mixer=linear", "seed=4"]))
    for setting in ("data.probe.values=16", "data.probe.levels=[1,2]", "stop_when_solved=2", "eval_every=1"):
        assert own != recipes.digest(recipes.load("probe-recall", [setting])), setting


@pytest.mark.slow
def test_rates_are_tuned_on_canvases_of_their_own(tmp_path: Path) -> None:
    words = [word for setting in TINY for word in ("--set", setting)]
    command = ["sweep", "--recipe", "probe-majority", "--mixer", "linear", "--mixer", "static", "--seed", "1", "--tune", "lr"]
    result = RUNNER.invoke(app, [*command, "--trials", "2", "--out", str(tmp_path), "--device", "cpu", *words])
    assert result.exit_code == 0, result.output
    rows = records.read(tmp_path / "records.jsonl")[0]
    trials = [r for r in rows if r.kind == "trial"]
    runs = [read_result(place) for place in tmp_path.glob("probe-*")]
    assert len(trials) == 4
    assert all(t.accuracy is not None and t.measure == "accuracy" for t in trials)
    assert len(runs) == 2
    assert all(r.validation is None and r.chosen is not None for r in runs)

    rates = {t.mixer: {r.lr for r in trials if r.mixer == t.mixer} for t in trials}
    assert rates["linear"] == rates["static"]


def test_a_run_is_taken_apart(tmp_path: Path) -> None:
    row = jobs.train(tiny("needle", "model.mixer=weightformer"), tmp_path / "run", Silent(), device=CPU)
    assert row.strength is not None
    assert row.strength_samples == 64
    result = RUNNER.invoke(app, ["ablate", str(tmp_path / "run"), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    rows = records.read(tmp_path / "run" / "ablation" / "records.jsonl")[0]
    assert {r.what for r in rows} == {"branch", "zero", "mean", "other"}
    assert {r.metric for r in rows} == {"accuracy"}
    assert all(r.samples == 64 for r in rows)  # four levels of sixteen canvases
    assert rows[0].unchanged == pytest.approx(row.result)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["static", "pool", "identity"])
@pytest.mark.parametrize("name", NAMES)
def test_a_local_mixer_stays_at_the_local_floor(name: str, mixer: str, tmp_path: Path) -> None:
    """After training that teaches a global mixer much: the gap is as wide as a local one sees."""
    few = [f"model.mixer={mixer}", "data.probe.train=1280", "epochs=5", "eval_every=5", "optim.warmup_epochs=1"]
    recipe = recipes.load(f"probe-{name}", [*few, "data.probe.grids=[]"])
    row = jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    assert (row.global_layers, row.reaches, row.is_blind) == (0, False, True)
    for cell in row.cells:
        # All asked tokens of a canvas may have one answer, and then they count as one draw.
        bound = stats.binom.ppf(0.999, row.canvases, cell.local_floor) / row.canvases
        assert cell.accuracy <= bound, cell


@pytest.mark.slow
def test_a_global_mixer_is_above_it_after_as_many_steps(tmp_path: Path) -> None:
    few = ["model.mixer=xca", "data.probe.train=1280", "epochs=5", "eval_every=5", "optim.warmup_epochs=1"]
    row = jobs.train(recipes.load("probe-majority", few), tmp_path / "run", Silent(), device=CPU)
    assert row.cells[0].accuracy > 0.9
