"""`wfbench ablate`: what is taken away, from which layer, and what the difference is sure of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Silent, near, scrambled
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from wfbench import models, records, report
from wfbench import recipe as recipes
from wfbench.analysis.ablation import ablations
from wfbench.analysis.paired_images import counts_change, mean_change, miou, pixel_accuracy
from wfbench.cli import app
from wfbench.errors import InputError, NotFiniteError
from wfbench.measure.strength import MeanPredictions, Place, Strengths, blocks_of, predicting_layers, seen, strengths
from wfbench.models import DiT, VisionTransformer
from wfbench.records import AblationRow, DenseRow, DiTRow, TrainRow
from wfbench.tasks import jobs
from wfbench.tasks.ablate import AblateRequest, ablate, requests_of
from wfbench.tasks.ablate.interventions import Change, changed, changes_of, recorded
from wfbench.tasks.ablate.run import _figures
from wfbench.tasks.jobs.base import Job

CPU = torch.device("cpu")
SMALL = ["model.embed_dim=16", "model.depth=3", "model.num_heads=2", "optim.warmup_epochs=0"]
RECIPES = {
    "digits": [*SMALL, "epochs=1", "ema.decay=0.9", "model.mixer=weightformer"],
    "scenes": [
        *(*SMALL, "epochs=1", "model.mixer=weightformer", "batch_size=16"),
        *("data.dense.train=16", "data.dense.held_out=6"),
    ],
    "dit-digits": [
        *(*SMALL, "epochs=1", "model.mixer=weightformer", "ema.decay=0.9"),
        *("diffusion.held_out_samples=10", "diffusion.held_out_bins=2"),
    ],
}


def train(out: Path, recipe: str, *more: str) -> Path:
    jobs.train(recipes.load(recipe, [*RECIPES[recipe], *more]), out, Silent(), device=CPU)
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny run of each kind."""
    place = tmp_path_factory.mktemp("runs")
    return {name: train(place / name, name) for name in RECIPES}


@pytest.fixture(scope="module")
def taken(trained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[AblationRow]]]:
    """Each of the runs taken apart: where, and the rows."""
    out = tmp_path_factory.mktemp("taken")
    return out, {name: ablate(AblateRequest(run, out=out), device=CPU) for name, run in trained.items()}


Taken = tuple[Path, dict[str, list[AblationRow]]]


def rewritten(run: Path, to: Path, change: Any) -> Path:
    """A copy of a run whose final weights are others."""
    import shutil

    shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoint", "ablation"))
    weights = load_file(to / "model.safetensors")
    save_file({name: change(name, tensor).contiguous() for name, tensor in weights.items()}, to / "model.safetensors")
    return to


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["ablate", *map(str, words), "--device", "cpu"])


def net(mixer: str = "weightformer", name: str = "vit-tiny", **more: Any) -> VisionTransformer:
    model = models.create(name, mixer, 32, 10, embed_dim=16, depth=3, num_heads=2, patch_size=4, seed=0, **more)
    assert isinstance(model, VisionTransformer)
    return scrambled(model.double(), 0.1).eval()  # type: ignore[return-value]


# --- what is taken away


STRATEGIES = ["weightformer", "inline", *(f"wf-linear-{s}" for s in ("gap", "deep")), *(f"wf-dwc-{s}" for s in ("gap", "conv"))]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mixer", STRATEGIES)
@pytest.mark.parametrize("path", ["auto", "released", "rank"])
@torch.no_grad()
def test_a_network_whose_predictions_are_put_in_is_the_network(mixer: str, path: str) -> None:
    from mixers.base import evaluated_by

    model, x = net(mixer), torch.randn(5, 3, 32, 32, dtype=torch.float64)
    with evaluated_by(model, path):
        plain = model(x)
        with changed(model):
            near(model(x), plain, tolerance=1e-12)
    assert torch.equal(model(x), model(x))
    assert all("forward" not in vars(module) for module in model.modules()), "nothing stays behind"


@pytest.mark.parametrize("residual", ["pre-norm", "overwrite"])
@torch.no_grad()
def test_without_its_branch_a_block_keeps_its_residual_stream(residual: str) -> None:
    model = net(residual=residual, local_conv="dwc")
    block, x = blocks_of(model)[1], torch.randn(2, 64, 16, dtype=torch.float64)
    stream = block.norm1(x) if residual == "overwrite" else x
    expected = stream + block.fc2(block.act(block.fc1(block.norm2(stream), (8, 8))))
    with changed(model, Change("branch", "mixer", 1)):
        near(block(x, (8, 8)), expected, tolerance=1e-12)
    assert not torch.allclose(block(x, (8, 8)), expected)


@torch.no_grad()
def test_a_prediction_set_to_zero_or_to_the_mean_is_that_of_the_layer_alone() -> None:
    model, x = net(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    kept: dict[Place, tuple[Tensor, tuple[int, int]]] = {}
    mean = MeanPredictions()
    with changed(model), seen(model, lambda place, layer, tokens, grid: kept.update({place: (tokens, grid)})):
        model(x)
    for part in (x[:3], x[3:]):
        with changed(model), seen(model, mean.see):
            model(part)
    means = mean.result()
    assert set(means) == {Place(1, "mixer"), Place(1, "fc1")}
    for place, (tokens, grid) in kept.items():
        layer: Any = predicting_layers(model)[place]
        near(means[place], layer.predicted(tokens, grid).mean(0), tolerance=1e-12)
        with changed(model, Change("zero", place.slot, 1)):
            assert torch.equal(layer(tokens, grid), layer.without_prediction(tokens, grid))
        with changed(model, Change("mean", place.slot, None), means):
            expected = layer.with_prediction(tokens, grid, means[place].expand(4, *means[place].shape))
            near(layer(tokens, grid), expected, tolerance=1e-12)
        with changed(model, Change("mean", place.slot, 0), means):
            near(layer(tokens, grid), layer.with_prediction(tokens, grid, layer.predicted(tokens, grid)), tolerance=1e-12)


def kinds() -> Iterator[tuple[nn.Module, tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Networks, their inputs, and the inputs of which each is another image's."""
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    yield net(), (x,), (x.roll(-1, 0),)
    dit = models.create("dit-s-2", "weightformer", 8, 10, embed_dim=16, depth=3, num_heads=2, in_channels=1, seed=0)
    assert isinstance(dit, DiT)
    z, t, y = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.arange(4), torch.arange(4)
    yield scrambled(dit.double(), 0.1).eval(), (z, t, y), (z.roll(-1, 0), t, y.roll(-1, 0))


@pytest.mark.parametrize("kind", [0, 1])
@torch.no_grad()
def test_another_images_prediction_is_the_next_ones_and_that_of_an_equal_image_changes_nothing(kind: int) -> None:
    model, inputs, others = list(kinds())[kind]
    everything = [change for change in changes_of(model) if change.what == "other"]
    assert {(change.slot, change.layer) for change in everything} == {
        (slot, layer) for slot in ("mixer", "fc1") for layer in (None, 1)
    }
    equal = tuple(part[:1].expand_as(part) for part in inputs)
    with recorded(model) as donors:
        model(*equal)
    with changed(model):
        plain = model(*equal)
    for change in everything:
        with changed(model, change, donors=donors):
            assert torch.equal(model(*equal), plain)
    with recorded(model) as donors:
        model(*others)
    layer: Any = predicting_layers(model)[Place(1, "fc1")]
    told: list[Tensor] = []
    with (
        seen(model, lambda place, _, tokens, grid: told.append(layer.predicted(tokens, grid)) if place.slot == "fc1" else None),
        changed(model),
    ):
        model(*inputs), model(*others)
    tokens = torch.randn(4, told[0].shape[1] * 4, told[0].shape[1], dtype=torch.float64)
    grid = (4, tokens.shape[1] // 4)
    with changed(model, Change("other", "fc1", 1), donors=donors):
        near(layer(tokens, grid), layer.with_prediction(tokens, grid, told[1]), tolerance=1e-12)
    if kind == 0:
        near(told[1], told[0].roll(-1, 0), "the next image's", 1e-12)


@torch.no_grad()
def test_another_images_prediction_follows_windows_and_starts_over_where_there_are_fewer() -> None:
    model, x = net(), torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with recorded(model) as donors:
        model(x[:1]), model(x[1:3])
    with recorded(model) as at_once:
        model(x[:3])
    for change in (change for change in changes_of(model) if change.what == "other"):
        with changed(model, change, donors=donors):
            parts = torch.cat([model(x[:3]), model(x[3:])])
        with changed(model, change, donors=at_once):
            near(parts, model(x), tolerance=1e-12)


def test_a_mixer_without_a_predicted_part_has_its_branch_alone_to_lose() -> None:
    model = net("softmax")
    assert changes_of(model) == [Change("branch", "mixer", layer) for layer in (None, 0, 1, 2)]
    assert predicting_layers(model) == {}


class ShowsTheImage(nn.Module):
    """A mixer whose branch alone shows the image: it gives the image's own tokens, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = torch.zeros(())

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.shown


@torch.no_grad()
def test_a_network_whose_branch_does_all_is_at_chance_without_it() -> None:
    model, classes = net("softmax"), torch.arange(40) % 10
    for block in blocks_of(model):
        nn.init.zeros_(block.fc2.weight)
        nn.init.zeros_(block.fc2.bias)
    branch = ShowsTheImage()
    blocks_of(model)[1].mixer = branch
    branch.shown = 1e3 * nn.functional.one_hot(classes, 16).double()[:, None].expand(40, 64, 16)
    model.head.weight.copy_(torch.eye(10, 16))
    same = torch.zeros(40, 3, 32, 32, dtype=torch.float64)
    right = {}
    for change in (None, *changes_of(model)):
        with changed(model, change):
            right[change] = float((model(same).argmax(1) == classes).double().mean())
    assert right[None] == right[Change("branch", "mixer", 0)] == 1
    assert right[Change("branch", "mixer", None)] == right[Change("branch", "mixer", 1)] == 0.1


# --- strength


@torch.no_grad()
def test_strength_by_hand() -> None:
    model = net("wf-linear-bilateral")
    (place, layer), x = next(iter(predicting_layers(model).items())), torch.randn(6, 64, 16, dtype=torch.float64)
    assert isinstance(layer, nn.Module)

    def run() -> None:
        for part in (x[:4], x[4:]):
            layer(part, (8, 8))

    [found] = strengths(model, run)
    own = layer.predicted(x, (8, 8))
    static = (x @ layer.weight).norm()
    assert (found.slot, found.layer) == place[::-1] == ("fc1", 1)
    assert found.total == pytest.approx(float((x @ own).norm() / static), rel=1e-9)
    assert found.common == pytest.approx(float((x @ own.mean(0)).norm() / static), rel=1e-9)
    assert found.own == pytest.approx(float((x @ (own - own.mean(0))).norm() / static), rel=1e-9)


@torch.no_grad()
def test_a_layer_whose_output_is_all_prediction_has_no_strength_and_says_so() -> None:
    model = net("wf-linear-bilateral")
    layer, x = next(iter(predicting_layers(model).values())), torch.randn(6, 64, 16, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    [found] = strengths(model, lambda: layer(x, (8, 8)))
    assert (found.total, found.common, found.own) == (None, None, None)
    assert records.Strength.model_validate_json(found.model_dump_json()) == found
    nn.init.constant_(layer.weight, math.nan)
    with pytest.raises(NotFiniteError, match="the output of a predicting layer is not finite"):
        strengths(model, lambda: layer(x, (8, 8)))


@torch.no_grad()
def test_strength_of_a_convolution_is_that_of_convolved_outputs_and_equal_images_have_nothing_of_their_own() -> None:
    model = net("wf-dwc-adaptive")
    [layer], x = predicting_layers(model).values(), torch.randn(1, 64, 16, dtype=torch.float64).expand(3, 64, 16)
    [found] = strengths(model, lambda: layer(x, (8, 8)))  # type: ignore[operator]
    k = layer.predicted(x, (8, 8))[0]
    from mixers.base import depthwise_conv

    convolved = [depthwise_conv(x, kernels, None, (8, 8)).norm() for kernels in (k.unsqueeze(1), layer.weight)]  # type: ignore[attr-defined]
    assert found.total == pytest.approx(float(convolved[0] / convolved[1]), rel=1e-9)
    assert found.common == pytest.approx(found.total, rel=1e-9)
    assert found.own < 1e-12


@torch.no_grad()
def test_strength_is_measured_in_full_precision_under_autocast() -> None:
    model, x = net().float(), torch.randn(4, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = strengths(model, lambda: model(x))
    full = strengths(model, lambda: model(x))
    for a, b in zip(half, full, strict=True):
        assert a.total == pytest.approx(b.total, rel=0.05)
    means = {place: torch.zeros_like(mean) for place, mean in _means(model, x).items()}
    meter = Strengths(means)
    with seen(model, meter.see):
        model(x)
    assert all(found.own == pytest.approx(found.total) and found.common == 0 for found in meter.result())


def _means(model: nn.Module, x: Tensor) -> dict[Place, Tensor]:
    mean = MeanPredictions()
    with seen(model, mean.see):
        model(x)
    return mean.result()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_row_of_a_run_has_strengths_before_and_after_and_a_curve(recipe: str, trained: dict[str, Path]) -> None:
    rows = [row for row in records.read(trained[recipe] / "records.jsonl")[0] if isinstance(row, TrainRow | DenseRow | DiTRow)]
    lines = [json.loads(line) for line in (trained[recipe] / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == (1 if recipe == "scenes" else 2)
    for row in rows:
        assert row.strength is not None
        assert row.strength_before is not None
        assert [(s.slot, s.layer) for s in row.strength] == [("fc1", 1), ("mixer", 1)]
        assert all(0 < s.own < s.total for s in (*row.strength, *row.strength_before))
        assert row.strength != row.strength_before
        prefix = "" if row.weights == "raw" else "ema_"
        assert lines[-1][f"{prefix}strength_fc1_1"] == row.strength[0].total
    assert len({row.strength_before for row in rows}) == 1
    assert rows[0].strength_samples == {"digits": 64, "scenes": 6, "dit-digits": 10}[recipe]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("recipe", "table"), [("digits", "accuracy"), ("scenes", "segmentation"), ("dit-digits", "denoising")])
def test_the_tables_of_every_task_have_the_strength(recipe: str, table: str, trained: dict[str, Path]) -> None:
    rows = records.read(trained[recipe] / "records.jsonl")[0]
    row = next(row for row in rows if getattr(row, "weights", None) == "raw" and getattr(row, "strength", None))
    made = next(made for made in report.tables([row]) if made.kind == table)
    for found in row.strength:
        column = f"strength_{found.slot}"
        assert made.data[column].tolist() == [pytest.approx(found.total)]
        assert made.data[f"strength_own_{found.slot}"].tolist() == [pytest.approx(found.own)]
        assert f"strength, {found.slot}" in made.to_markdown()
    assert made.to_markdown().count("Strength is ") == 1


@pytest.mark.slow
def test_training_is_bit_equal_with_and_without_the_measurement(trained: dict[str, Path], tmp_path: Path) -> None:
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(Job, "strength", lambda self, model: None)
        train(tmp_path / "without", "digits", "model.drop_path=0.2")
    train(tmp_path / "with", "digits", "model.drop_path=0.2")
    for name in ("model.safetensors", "ema.safetensors"):
        a, b = (load_file(tmp_path / out / name) for out in ("with", "without"))
        assert all(torch.equal(a[key], b[key]) for key in a)
    row = json.loads((tmp_path / "without" / "result.json").read_text())
    assert (row["strength"], row["strength_before"], row["strength_samples"]) == (None, None, None)


def test_the_random_state_is_left_as_it_was() -> None:
    job = jobs.prepare(recipes.load("digits", RECIPES["digits"]))
    state = torch.get_rng_state()
    job.model.train()
    first = job.strength(job.model)
    assert torch.equal(torch.get_rng_state(), state)
    assert job.model.training
    assert job.strength(job.model) == first
    assert jobs.prepare(recipes.load("digits", [*RECIPES["digits"], "model.mixer=softmax"])).strength(net("softmax")) is None


# --- runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "metrics"), [("digits", {"accuracy"}), ("scenes", {"miou", "pixel_accuracy"}), ("dit-digits", {"loss"})]
)
def test_a_run_of_each_kind_is_taken_apart(recipe: str, metrics: set[str], trained: dict[str, Path], taken: Taken) -> None:
    place, rows = taken[0], taken[1][recipe]
    assert {row.metric for row in rows} == metrics
    assert len(rows) == (4 + 2 * 3 * 2) * len(metrics)
    kept, torn = records.read(place / recipe / "records.jsonl")
    assert kept == rows
    assert not torn
    recorded_row = next(
        row for row in records.read(trained[recipe] / "records.jsonl")[0] if getattr(row, "weights", None) == "raw"
    )
    for row in rows:
        assert row.unchanged == pytest.approx(getattr(recorded_row, row.metric), rel=1e-4)
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.difference <= row.high
        assert (row.strength is None) == (row.strength_before is None) == (row.what == "branch" or row.layer is None)
    before = {(s.slot, s.layer): s for s in recorded_row.strength_before}
    if recipe != "digits":  # there 64 of 360 samples were measured
        for row in rows:
            if row.strength_before is not None:
                assert row.strength_before.total == pytest.approx(before[row.slot, row.layer].total, rel=1e-3)
    branch = next(row for row in rows if row.what == "branch" and row.layer is None)
    assert branch.difference != 0


@pytest.mark.slow
def test_batches_change_no_result(trained: dict[str, Path], taken: Taken, tmp_path: Path) -> None:
    for recipe in RECIPES:
        few = 100 if recipe == "digits" else 4
        found = ablate(AblateRequest(trained[recipe], batch_size=few, out=tmp_path), device=CPU)
        for a, b in zip(found, taken[1][recipe], strict=True):
            assert (a.what, a.slot, a.layer) == (b.what, b.slot, b.layer)
            assert a.value == pytest.approx(b.value, abs=1e-5)
            assert a.unchanged == pytest.approx(b.unchanged, abs=1e-5)
            assert a.strength is None or a.strength.total == pytest.approx(b.strength.total, rel=1e-3)


@pytest.mark.slow
def test_the_outcomes_of_every_sample_give_the_intervals_again(taken: Taken) -> None:
    place, rows = taken[0], taken[1]["digits"]
    table = pd.read_parquet(place / "digits" / "outcomes-raw.parquet")
    assert len(table) == 360
    for row in rows:
        ours = table[Change(row.what, row.slot, row.layer).name]
        found = mean_change(ours, table["unchanged"], 1 / 360)
        assert (found.estimate, found.low, found.high) == pytest.approx((row.difference, row.low, row.high))
    rows = taken[1]["scenes"]
    counts = pd.read_parquet(place / "scenes" / "outcomes-raw.parquet")
    sums = counts.groupby("class")[["true", "unchanged right", "unchanged predicted"]].sum()
    union = sums["true"] + sums["unchanged predicted"] - sums["unchanged right"]
    assert (sums["unchanged right"] / union).mean() == pytest.approx(next(r.unchanged for r in rows if r.metric == "miou"))


def test_a_branch_of_zeros_is_not_missed(trained: dict[str, Path], tmp_path: Path) -> None:
    def silent(name: str, tensor: Tensor) -> Tensor:
        return torch.zeros_like(tensor) if ".mixer." in name and ("weight" in name or "bias" in name) else tensor

    rows = ablate(AblateRequest(rewritten(trained["digits"], tmp_path / "silent", silent)), device=CPU)
    for row in rows:
        if row.what == "branch":
            assert (row.difference, row.low, row.high) == (0, -1 / 360, 1 / 360)


def test_several_seeds_have_an_interval_over_seeds_and_one_says_that_it_has_none(taken: Taken) -> None:
    first = taken[1]["digits"]
    shifts = np.random.default_rng(0).normal(0.01, 0.02, len(first))
    second = [row.model_copy(update={"seed": 1, "value": row.value + d}) for row, d in zip(first, shifts, strict=True)]
    rows = [*first, *second]
    [found] = ablations(rows)
    one_seed = ablations(rows[: len(rows) // 2])[0]
    assert len(found.lines) == len(one_seed.lines) == 16
    for line in found.lines:
        assert line.is_over_seeds
        differences = [row.difference for row in line.runs]
        assert line.difference.estimate == pytest.approx(np.mean(differences))
        reach = 12.706 * np.std(differences, ddof=1) / 2**0.5
        floor = np.mean([(row.high - row.low) / 2 for row in line.runs])
        assert line.difference.half_width == pytest.approx(max(reach, floor), rel=1e-3)
    for line in one_seed.lines:
        assert not line.is_over_seeds
        assert (line.difference.low, line.difference.high) == (line.runs[0].low, line.runs[0].high)
    [table] = [table for table in report.tables(rows[: len(rows) // 2]) if table.kind == "ablation"]
    assert any("nothing of other seeds" in note or "says nothing of" in note for note in table.notes)
    assert set(table.data["interval_over"]) == {"images"}
    assert table.data["strength_own"].notna().sum() == 6
    assert len(ablations([*rows, *rows])[0].lines) == 16, "of equal rows the newest counts"
    assert (found.repeats, ablations([*rows, *rows])[0].repeats) == (0, len(rows))
    [again] = [table for table in report.tables([*first, *first]) if table.kind == "ablation"]
    assert "16 earlier rows of the same cell were left out: the latest counts." in again.notes


def test_the_command_takes_runs_apart_in_their_directories_and_again(trained: dict[str, Path]) -> None:
    for times in (1, 2):
        result = command(trained["dit-digits"], "--weights", "ema")
        assert result.exit_code == 0, result.output
        assert "Ablation: held-out loss" in result.output
        rows, _ = records.read(trained["dit-digits"] / "ablation" / "records.jsonl")
        assert len(rows) == 16 * times
        assert len(ablations(rows)[0].lines) == 16
    assert (trained["dit-digits"] / "ablation" / "outcomes-ema.parquet").is_file()


@pytest.mark.slow
def test_the_report_has_the_table_its_figure_its_section_and_the_strengths(
    trained: dict[str, Path], taken: Taken, tmp_path: Path
) -> None:
    rows, torn = report.collect([taken[0], trained["digits"] / "records.jsonl"])
    report.write(rows, tmp_path / "out", torn)
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "Ablation: accuracy (%)" in text
    assert "prediction: other image" in text
    assert "strength, fc1" in text
    assert list((tmp_path / "out").glob("ablation*.png"))
    assert "What does the work" in (tmp_path / "out" / "page.html").read_text()
    [accuracy] = [table for table in report.tables(rows) if table.kind == "accuracy"]
    assert {"strength_fc1", "strength_before_fc1", "strength_own_mixer"} <= set(accuracy.data)


def test_a_table_of_accuracies_without_predictions_has_no_strength(trained: dict[str, Path]) -> None:
    rows = [row for row in records.read(trained["digits"] / "records.jsonl")[0]]
    bare = [row.model_copy(update={"strength": None, "strength_before": None}) for row in rows]
    [table] = [table for table in report.tables(bare) if table.kind == "accuracy"]
    assert not any("strength" in str(name) for name in (*table.data, *table.frame))


# --- what is refused


def test_what_cannot_be_taken_apart_is_refused_by_one_message(trained: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    (tmp_path / "empty").mkdir()
    unfinished = shutil.copytree(trained["digits"], tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    for words, says in [
        ([tmp_path / "nowhere"], "not a run directory"),
        ([tmp_path / "empty"], "not a run directory"),
        ([unfinished], "the run is not finished"),
        ([trained["scenes"], "--weights", "ema"], "no averaged weights"),
        ([trained["digits"], "--weights", "best"], "unknown weights"),
        ([trained["digits"], "--batch-size", "0"], "impossible batch"),
        ([tmp_path / "a" / "s0", tmp_path / "b" / "s0", "--out", tmp_path / "out"], "two runs would write to one place"),
    ]:
        result = command(*words)
        assert result.exit_code == 2, result.output
        assert says in result.output
        assert "Traceback" not in result.output
    assert not (trained["scenes"] / "ablation").exists()


def test_each_run_has_a_place_of_its_own(tmp_path: Path) -> None:
    ours, theirs, other = (tmp_path / name for name in ("a/s0", "b/s0", "b/s1"))
    assert [request.run for request in requests_of([ours, theirs, ours])] == [ours, theirs], "each in its own directory"
    assert len(requests_of([ours, other, ours], out=tmp_path)) == 2
    with pytest.raises(InputError, match=r"a/s0 and .*b/s0"):
        requests_of([ours, other, theirs], out=tmp_path)


def test_what_an_earlier_call_wrote_of_another_run_is_not_overwritten(
    trained: dict[str, Path], taken: Taken, tmp_path: Path
) -> None:
    other = taken[1]["digits"][0].model_copy(update={"seed": 7})
    records.append(tmp_path / "digits" / "records.jsonl", [other])
    with pytest.raises(InputError, match=r"the results of another run are there\n.*weightformer, seed 7"):
        ablate(AblateRequest(trained["digits"], out=tmp_path), device=CPU)


def test_a_run_without_held_out_samples_is_refused(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = jobs.prepare

    def without(recipe: recipes.Recipe) -> Any:
        return prepare(recipe).with_few_held_out(1)

    monkeypatch.setattr(jobs, "prepare", without)
    with pytest.raises(InputError, match="too few held-out samples"):
        ablate(AblateRequest(trained["digits"]), device=CPU)


# --- intervals


def test_a_mean_change_is_the_paired_t_interval() -> None:
    from scipy import stats

    draw = np.random.default_rng(0)
    a, b = draw.random(50), draw.random(50)
    found = mean_change(a, b)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    with pytest.raises(InputError, match="not the same images"):
        mean_change(a, b[:-1])
    with pytest.raises(InputError, match="not the same images"):
        mean_change(a[:1], b[:1])


@pytest.mark.parametrize("kind", ["train", "probe"])
def test_where_no_sample_changes_one_of_them_is_the_least_that_is_resolved(kind: str) -> None:
    same = torch.full((50,), 0.75, dtype=torch.float64)
    (value, unchanged, change) = _figures(same, same, kind)["accuracy"]
    assert (value, unchanged) == (0.75, 0.75)
    assert (change.low, change.high) == (-1 / 50, 1 / 50)


def _counts(draw: np.random.Generator, images: int, skill: float) -> np.ndarray:
    """(images, 3, 4): images that differ in what they hold and in how hard they are."""
    true = draw.multinomial(200, draw.dirichlet(np.ones(4)), size=images) if images else np.zeros((0, 4), int)
    ease = np.clip(skill + 0.2 * draw.standard_normal((images, 1)), 0, 1)
    right = draw.binomial(true, ease)
    wrong = true - right
    return np.stack([right, true, right + np.roll(wrong, 1, axis=1)], axis=1)


def test_figures_of_counts_are_those_of_the_evaluator() -> None:
    counts = _counts(np.random.default_rng(0), 5, 0.6).sum(0).astype(float)
    union = counts[1] + counts[2] - counts[0]
    assert float(miou(counts)) == pytest.approx(float(np.mean(counts[0] / union)))
    assert float(pixel_accuracy(counts)) == pytest.approx(counts[0].sum() / counts[1].sum())
    absent = np.concatenate([counts, np.zeros((3, 1))], axis=1)
    assert float(miou(absent)) == pytest.approx(float(miou(counts)))
    same = _counts(np.random.default_rng(0), 5, 0.6)
    found = counts_change(same, same, miou)
    assert (found.low, found.high) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("figure", "images"), [(miou, 40), (pixel_accuracy, 40), (miou, 150)])
def test_the_interval_of_a_change_covers_the_truth_as_often_as_it_says(figure: Any, images: int) -> None:
    def pair(draw: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        true = np.stack([draw.multinomial(200, draw.dirichlet(np.ones(4))) for _ in range(n)])
        hard, found = 0.2 * draw.standard_normal((n, 1)), []
        for skill in (0.55, 0.6):
            right = draw.binomial(true, np.clip(skill + hard + 0.1 * draw.standard_normal((n, 1)), 0, 1))
            found.append(np.stack([right, true, right + np.roll(true - right, 1, axis=1)], axis=1))
        return found[0], found[1]

    draw = np.random.default_rng(1)
    whole = [counts.sum(0).astype(float) for counts in pair(draw, 200_000)]
    truth, hits, unpaired, times = float(figure(whole[0]) - figure(whole[1])), 0, 0, 400
    for _ in range(times):
        a, b = pair(draw, images)
        interval = counts_change(a, b, figure, draws=400)
        hits += interval.low <= truth <= interval.high
        wrong = counts_change(a, draw.permutation(b), figure, draws=400)
        unpaired += wrong.half_width > 1.3 * interval.half_width
    assert 0.92 < hits / times < 0.98
    assert unpaired / times > 0.9, "images that do not belong together give a wider interval"
