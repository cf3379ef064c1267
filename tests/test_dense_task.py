"""Training and evaluation of a class for each pixel: from the recipe to rows, tables and claims."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import Command
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats
from torch.nn import functional as F
from typer.testing import CliRunner

from wfbench import recipe as recipes
from wfbench import records, report
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.models import create, create_dense
from wfbench.records import DenseEvalRow, DenseRow, PictureRow
from wfbench.tasks import jobs
from wfbench.tasks.evaluate_dense import evaluate_dense_run
from wfbench.tasks.jobs.dense import pixel_cross_entropy
from wfbench.tasks.sweep.match import count, match
from wfbench.training import Watch

CPU = torch.device("cpu")
TINY = [
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "data.dense.train=48",
    "data.dense.held_out=12",
    "batch_size=16",
    "epochs=2",
    "eval_every=1",
    "optim.warmup_epochs=0",
]


class Silent(Watch):
    """Hears everything and says nothing."""


def tiny(*more: str) -> recipes.Recipe:
    return recipes.load("scenes", [*TINY, *more])


def start(out: Path, *more: str) -> Command:
    return Command("train", "--device", "cpu", "--out", str(out), *more)


def finish(process: Command, code: int = 0) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def settings(*more: str) -> list[str]:
    return ["--recipe", "scenes", *(word for setting in (*TINY, *more) for word in ("--set", setting))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense") / "run"
    jobs.train(tiny("ema.decay=0.9"), out, Silent(), device=CPU)
    return out


def test_a_run_leaves_rows_of_both_weights_its_counts_and_a_picture(run: Path) -> None:
    rows, torn = records.read(run / "records.jsonl")
    raw, ema, picture = rows
    assert not torn
    assert [type(row) for row in (raw, ema, picture)] == [DenseRow, DenseRow, PictureRow]
    assert (raw.weights, ema.weights, raw.decoder, raw.samples, raw.pixels) == ("raw", "ema", "linear", 12, 12 * 64 * 64)
    assert raw.classes == ("background", *"0123456789")
    assert None not in (raw.macs, raw.data_digest, raw.mixer_digest)
    known = [value for value in raw.iou if value is not None]
    assert raw.miou == pytest.approx(sum(known) / len(known), abs=1e-12)
    counts = pd.read_parquet(run / "counts-raw.parquet")
    assert counts["true"].sum() == counts["predicted"].sum() == raw.pixels
    sums = counts.groupby("class", sort=False)[["right", "true", "predicted"]].sum()
    union = sums["true"] + sums["predicted"] - sums["right"]
    assert [pytest.approx(value) for value in (sums["right"] / union)[union > 0]] == known
    assert counts["right"].sum() / raw.pixels == raw.pixel_accuracy


def test_the_evaluation_of_a_run_repeats_what_its_trainer_recorded_and_goes_to_other_sizes(run: Path, tmp_path: Path) -> None:
    (same,) = evaluate_dense_run(run, device=CPU, out=tmp_path)
    assert same.is_same
    (large,) = evaluate_dense_run(run, "ema", (128,), device=CPU, out=tmp_path)
    assert large.recorded is None
    assert large.row.pixels == 12 * 128 * 128
    (cut,) = evaluate_dense_run(run, "ema", (128,), ("dense.inference=slide",), device=CPU, out=tmp_path)
    assert (cut.row.window, cut.row.stride) == ((64, 64), (43, 43))
    assert (large.row.window, large.row.stride) == (None, None)
    (own,) = evaluate_dense_run(run, "ema", (), ("dense.inference=slide",), device=CPU, out=tmp_path)
    assert (own.row.window, own.row.stride) == (None, None), "no image was larger than the window"
    rows, _ = records.read(tmp_path / "records.jsonl")
    assert [row.kind for row in rows] == ["dense-eval"] * 4
    assert all(isinstance(row, DenseEvalRow) and row.seed == 0 and row.trained_size == (64, 64) for row in rows)


@pytest.mark.parametrize(
    ("sides", "overrides", "says"),
    [
        ((66,), (), "not a whole number of patches"),
        ((), ("model.depth=3",), "only its data and its windows"),
        ((64, 32), ("dense.inference=slide",), r"windows are larger than the images[\s\S]*images of 32x32"),
        ((), ("dense.inference=slide", "dense.stride=0.001"), r"windows do not move[\s\S]*rounds to 0x0"),
        ((128, 20), (), r"the canvas is smaller than an object[\s\S]*20x20"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(run: Path, sides: tuple[int], overrides: tuple[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        evaluate_dense_run(run, "raw", sides, overrides, device=CPU)
    assert not (run / "eval").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_the_run_that_was_not_bit_for_bit(tmp_path: Path) -> None:
    asked = settings("model.mixer=weightformer", "model.drop_path=0.2", "ema.decay=0.9", "save_steps=2", "epochs=3")
    finish(start(tmp_path / "whole", *asked))
    process = start(tmp_path / "killed", *asked)
    while not any((tmp_path / "killed" / "checkpoint").glob("step-*")):
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    finish(process, -9)
    assert not (tmp_path / "killed" / "result.json").exists()
    finish(start(tmp_path / "killed", "--resume"))
    for name in ("model.safetensors", "ema.safetensors"):
        a, b = (load_file(tmp_path / place / name) for place in ("whole", "killed"))
        assert all(torch.equal(a[key], b[key]) for key in a | b), name
    assert (tmp_path / "whole/counts-raw.parquet").read_bytes() == (tmp_path / "killed/counts-raw.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["linear", "dpt"])
def test_two_processes_give_the_miou_of_one_exactly_and_the_evaluation_of_their_weights_does(
    decoder: str, tmp_path: Path
) -> None:
    """At a rate this small no float32 weight moves (the recipe's min_lr, which the rate decays to, has to be 0 too).

    So the processes evaluate the weights that one process does, and the figures are the same to the last bit.
    """
    if decoder == "dpt":
        pytest.importorskip("segmentation_models_pytorch")
    still = ["optim.lr=1e-30", "optim.min_lr=0", "epochs=1", "data.dense.held_out=70", "model.depth=4"]
    still += ["data.dense.train=16", f"dense.decoder={decoder}"]
    finish(start(tmp_path / "one", *settings(*still)))
    finish(start(tmp_path / "two", *settings(*still), "--nproc", "2"))
    one, two = (json.loads((tmp_path / place / "result.json").read_text()) for place in ("one", "two"))
    assert two["processes"] == 2
    for figure in ("iou", "miou", "pixel_accuracy", "loss", "samples", "pixels"):
        assert one[figure] == two[figure], figure
    (again,) = evaluate_dense_run(tmp_path / "two", device=CPU, out=tmp_path)
    assert again.is_same


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    asked = settings("model.mixer=weightformer", "model.drop_path=0.2")
    finish(start(tmp_path / "one", *asked))
    finish(start(tmp_path / "two", *asked, "--nproc", "2"))
    a, b = (load_file(tmp_path / place / "model.safetensors") for place in ("one", "two"))
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5


def test_the_loss_is_that_of_labelled_pixels_and_adds_up_over_parts_of_a_batch() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(4, 3, 5, 7, dtype=torch.float64), torch.randint(0, 3, (4, 5, 7))
    classes[0, :3] = 255
    loss, model = pixel_cross_entropy(255), torch.nn.Identity()
    whole = loss(model, logits, classes, torch.Generator())
    labelled = classes != 255
    by_hand = -F.log_softmax(logits, 1).gather(1, classes.clamp(max=2)[:, None])[:, 0][labelled].sum() / classes.numel()
    assert whole.item() == pytest.approx(by_hand.item(), abs=1e-12)
    parts = [loss(model, logits[k : k + 2], classes[k : k + 2], torch.Generator()) for k in (0, 2)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts) / 2, abs=1e-12)
    labelled_mean = [F.cross_entropy(logits[k : k + 2], classes[k : k + 2], ignore_index=255).item() for k in (0, 2)]
    assert sum(labelled_mean) / 2 != pytest.approx(F.cross_entropy(logits, classes, ignore_index=255).item(), abs=1e-6)
    nothing = loss(model, logits, torch.full_like(classes, 255), torch.Generator())
    assert nothing.item() == 0  # and not NaN


def test_a_frozen_backbone_does_not_move_and_its_decoder_does(run: Path, tmp_path: Path) -> None:
    weights = {
        key.removeprefix("backbone."): value
        for key, value in load_file(run / "model.safetensors").items()
        if key.startswith("backbone.")
    }
    save_file(weights, tmp_path / "backbone.safetensors")
    recipe = tiny("dense.frozen=true", f"model.init_weights={tmp_path / 'backbone.safetensors'}", "epochs=1")
    row = jobs.train(recipe, tmp_path / "probe", Silent(), device=CPU)
    assert isinstance(row, DenseRow)
    assert (row.frozen, row.pretraining.partition(" ")[0]) == (True, "backbone.safetensors")
    after = load_file(tmp_path / "probe/model.safetensors")
    assert all(torch.equal(after[f"backbone.{key}"], value) for key, value in weights.items())
    fresh = jobs.prepare(recipe).model.state_dict()
    assert not torch.equal(after["decoder.head.weight"], fresh["decoder.head.weight"])
    with pytest.raises(InputError, match="needs model.init_weights"):
        tiny("dense.frozen=true")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.source=digits", "section dense needs source: scenes or folder-seg"),
        ("task=classify", "section dense needs task: dense"),
        ("mix.mixup=0.5", "no mix"),
        ("dense.decoder=unet", "dense.decoder"),
        ("dense.stride=0", "dense.stride"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny(change)


def test_task_and_source_belong_together() -> None:
    with pytest.raises(InputError, match="scenes needs task: dense"):
        recipes.load("digits", ["data.source=scenes"])
    with pytest.raises(InputError, match="digits is not for task: dense"):
        recipes.load("digits", ["task=dense"])
    assert recipes.load("digits", ["task=dense", "data.source=scenes"]).dense is not None


def test_a_dense_recipe_is_matched_to_a_budget() -> None:
    own, baseline = tiny("model.mixer=pool"), tiny()
    found = match(own, "params", baseline, 11)
    assert abs(found.residual) <= 0.02
    built = jobs.prepare(recipes.override(own, found.settings("softmax"))).model
    assert (
        sum(p.numel() for p in built.parameters())
        == found.reached
        == count(recipes.override(own, found.settings("softmax")), "params", 11)
    )


def dense_row(mixer: str, seed: int, miou: float, **more: object) -> DenseRow:
    row = DENSE.model_copy(update={"mixer": mixer, "seed": seed, "miou": miou, "mixer_digest": mixer, **more})
    return row


@pytest.fixture(scope="module", autouse=True)
def _template(run: Path) -> None:
    global DENSE
    rows, _ = records.read(run / "records.jsonl")
    assert isinstance(rows[0], DenseRow)
    DENSE = rows[0]


def test_the_table_has_the_mean_over_seeds_its_interval_and_the_paired_difference() -> None:
    ours, theirs = (0.52, 0.56, 0.60), (0.50, 0.53, 0.58)
    rows = [dense_row("linear", s, v) for s, v in enumerate(ours)] + [dense_row("softmax", s, v) for s, v in enumerate(theirs)]
    (table,) = report.tables(rows)
    assert table.name == "segmentation"
    line = table.data.set_index("label").loc["linear"]
    half = stats.t.ppf(0.975, 2) * np.std(ours, ddof=1) / 3**0.5
    assert line["miou"] == pytest.approx(np.mean(ours))
    assert (line["miou_low"], line["miou_high"]) == (pytest.approx(np.mean(ours) - half), pytest.approx(np.mean(ours) + half))
    difference = np.subtract(ours, theirs)
    reach = stats.t.ppf(0.975, 2) * np.std(difference, ddof=1) / 3**0.5
    assert line["difference"] == pytest.approx(difference.mean())
    assert line["difference_high"] == pytest.approx(difference.mean() + reach)
    assert any("seed by seed" in note for note in table.notes)
    assert f"{100 * np.mean(ours):.2f} ± {100 * half:.2f}" in table.to_markdown()


def test_runs_that_do_not_compare_stand_in_tables_of_their_own() -> None:
    rows = [dense_row("softmax", 0, 0.5)]
    for change in ({"decoder": "dpt"}, {"frozen": True}, {"image_size": (128, 128)}, {"recipe_digest": "other"}):
        assert len(report.tables([*rows, dense_row("linear", 0, 0.5, **change)])) == 2
    edited = [dense_row("linear", seed, 0.5 + seed / 100, mixer_digest=str(seed)) for seed in (0, 1)]
    (table,) = report.tables(edited)
    assert len(table.data) == 2, "two versions of one file are two lines"


def test_trials_are_no_results() -> None:
    assert report.tables([dense_row("softmax", 0, 0.5, validation=0.2)]) == []


@pytest.mark.slow
def test_sizes_of_scenes_share_a_table_and_evaluations_on_other_data_do_not(run: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = [(), ("data.dense.clutter=3",), ("data.mean=[0.4]",), ("dense.inference=slide",)]
    rows = [
        result.row for some in asked for result in evaluate_dense_run(run, "raw", (64, 128), some, device=CPU, out=tmp_path)
    ]
    assert rows[0].data_digest == rows[1].data_digest == DENSE.data_digest
    assert rows[2].miou != rows[0].miou
    tables = report.tables(rows)
    assert [table.kind for table in tables] == ["segmentation-sizes"] * 4
    of_table = sorted((table.data["miou_64"][0], table.data["miou_128"][0]) for table in tables)
    assert of_table == sorted((rows[k].miou, rows[k + 1].miou) for k in (0, 2, 4, 6))
    cut = [note for table in tables for note in table.notes if "cut into windows" in note]
    assert cut == ["At 128 px, images were cut into windows of 64×64 px, every 43 px down and 43 px across."]


@pytest.mark.slow
def test_only_settings_that_change_the_data_let_an_evaluation_pass_over_data_that_changed(tmp_path: Path) -> None:
    root = palette_folder(tmp_path / "data")
    jobs.train(folder_recipe(root), tmp_path / "run", Silent(), device=CPU)
    mask = root / "masks" / "val" / "0.png"
    pixels = np.asarray(Image.open(mask)).copy()
    pixels[0] = 1
    Image.fromarray(pixels).save(mask)
    for changed in ((), ("data.dense.eval_size=shorter",), ("data.dense=null",), ("data.mean=[0.4]",)):
        with pytest.raises(InputError, match="not those that the run was trained with"):
            evaluate_dense_run(tmp_path / "run", "raw", (), changed, device=CPU)
    for named in (f"data.path={root}", "data.dense.ignore_index=254"):
        if "ignore" in named:
            for file in (root / "masks" / "val").iterdir():
                Image.fromarray(np.minimum(np.asarray(Image.open(file)), 254)).save(file)
        (found,) = evaluate_dense_run(tmp_path / "run", "raw", (), (named,), device=CPU)
        assert found.recorded is None


def test_claims_are_answered_by_miou(tmp_path: Path) -> None:
    from wfbench.analysis.claims import claims_results, read_claims

    (tmp_path / "claims.yaml").write_text(
        f"""recipe: scenes
weights: raw
seeds: [0, 1, 2, 3]
budget: {{epochs: {DENSE.epochs}, match: null, trials: 0}}
claims:
  - {{id: better, says: a test, kind: better, line: linear, than: softmax, by: 1, effect: 2}}
""",
        encoding="utf-8",
    )
    rows = [dense_row("linear", s, 0.60 + s / 100) for s in range(4)]
    rows += [dense_row("softmax", s, 0.50 + s / 100 + 0.001 * (s % 2)) for s in range(4)]
    (result,) = claims_results(rows, read_claims(tmp_path / "claims.yaml"))
    (line,) = result.answered
    assert line.answer.verdict == "supported"
    assert line.answer.estimate == pytest.approx(9.95)
    assert line.answer.is_paired


def palette_folder(root: Path) -> Path:
    """Ten images of several sizes, left half class 0 and dark, right half class 1 and bright; a column without label."""
    for part, number in (("train", 6), ("val", 4)):
        for k in range(number):
            height, width = 24 + 4 * (k % 2), 32 + 4 * (k % 3)
            mask = np.zeros((height, width), np.uint8)
            mask[:, width // 2 :] = 1
            mask[:, 0] = 255
            pixels = np.stack([np.where(mask == 1, 220, 30).astype(np.uint8)] * 3, -1)
            for folder, image in (("images", Image.fromarray(pixels)), ("masks", Image.fromarray(mask))):
                (root / folder / part).mkdir(parents=True, exist_ok=True)
                image.save(root / folder / part / f"{k}.png")
    (root / "classes.txt").write_text("dark\nbright\n")
    return root


def test_a_folder_of_images_of_several_sizes_is_learned_whole_and_in_windows(tmp_path: Path) -> None:
    root = palette_folder(tmp_path / "data")
    asked = ["data.source=folder-seg", f"data.path={root}", "model.in_channels=3", "model.image_size=[16, 20]", "batch_size=2"]
    asked += ["data.augment=scale-crop", "data.hflip=0.5", "epochs=6", "data.dense=null", "eval_every=6", "optim.lr=1e-2"]
    asked += ["dense.inference=slide"]
    recipe = recipes.load("scenes", [*TINY[:3], *asked, "optim.warmup_epochs=0"])
    row = jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    assert isinstance(row, DenseRow)
    assert row.classes == ("dark", "bright")
    sizes = [(24 + 4 * (k % 2), 32 + 4 * (k % 3)) for k in range(4)]
    assert row.pixels == sum(height * (width - 1) for height, width in sizes)
    assert row.pixel_accuracy > 0.9, "brightness alone tells the classes apart"
    assert (row.window, row.stride) == ((16, 20), (11, 13))


def folder_recipe(root: Path, *more: str) -> recipes.Recipe:
    asked = ["data.source=folder-seg", f"data.path={root}", "model.in_channels=3", "model.image_size=16", "batch_size=2"]
    return recipes.load("scenes", [*TINY[:3], *asked, "epochs=1", "data.dense=null", "optim.warmup_epochs=0", *more])


def test_images_of_their_own_sizes_are_evaluated_at_a_resolution_by_resizing_alone(tmp_path: Path) -> None:
    root = palette_folder(tmp_path / "data")
    jobs.train(folder_recipe(root), tmp_path / "run", Silent(), device=CPU)
    with pytest.raises(InputError, match=r"sizes of their own[\s\S]*--resolution 24[\s\S]*data\.dense\.eval_size=shorter"):
        evaluate_dense_run(tmp_path / "run", "raw", (24,), device=CPU)
    shorter = ("data.dense.eval_size=shorter", "dense.inference=slide")
    small, large = evaluate_dense_run(tmp_path / "run", "raw", (16, 48), shorter, device=CPU)
    assert [(found.row.image_size, found.row.resized) for found in (small, large)] == [((n, n), "bicubic") for n in (16, 48)]
    assert small.row.pixels == large.row.pixels, "masks keep their size"
    assert small.row.iou != large.row.iou
    assert (large.row.window, large.row.stride, large.row.slide) == ((16, 16), (11, 11), 2 / 3)
    done = CliRunner().invoke(
        app, ["eval", str(tmp_path / "run"), "--resolution", "48", *(f"--set={word}" for word in shorter)]
    )
    assert done.exit_code == 0, done.output
    assert "in windows of 16x16 px, every 11 px down and 11 px across" in " ".join(done.output.split())


def test_windows_that_may_not_fit_are_refused_before_the_first_step(tmp_path: Path) -> None:
    shorter = ["data.dense.eval_size=shorter", "dense.inference=slide", "model.image_size=[16, 20]"]
    with pytest.raises(InputError, match=r"windows are larger than the images[\s\S]*shorter side is resized to 16"):
        jobs.prepare(folder_recipe(palette_folder(tmp_path / "data"), *shorter)).try_data()
    with pytest.raises(InputError, match="windows do not move"):
        jobs.prepare(tiny("dense.inference=slide", "dense.stride=0.001")).try_data()


def test_the_trial_before_the_first_step_cuts_windows_and_computes_the_loss(tmp_path: Path, monkeypatch) -> None:
    job = jobs.prepare(folder_recipe(palette_folder(tmp_path / "data"), "dense.inference=slide"))
    shapes, forward = [], job.model.forward
    monkeypatch.setattr(job.model, "forward", lambda x: shapes.append(tuple(x.shape)) or forward(x))
    job.try_data()
    assert shapes[0] == (2, 3, 16, 16)  # training images
    assert shapes[1:] == [(6, 3, 16, 16)]  # the windows of a held-out image of 24x32
    monkeypatch.undo()
    wrong = torch.full((1, 24, 32), 2)
    with pytest.raises(InputError, match="a label is out of range"):
        job.try_samples(
            (torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, 16, dtype=torch.long)), (torch.zeros(1, 3, 24, 32), wrong)
        )


def test_held_out_masks_without_a_label_are_bad_input_and_no_loss_that_is_not_finite(tmp_path: Path) -> None:
    root = palette_folder(tmp_path / "data")
    for mask in (root / "masks" / "val").iterdir():
        Image.fromarray(np.full(np.asarray(Image.open(mask)).shape, 255, np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"no held-out pixel has a label[\s\S]*4 masks"):
        jobs.train(folder_recipe(root), tmp_path / "run", Silent(), device=CPU)


@pytest.mark.parametrize("eval_size", ["own", "shorter"])
def test_a_picture_shows_image_truth_and_prediction_of_one_region(eval_size: str, tmp_path: Path) -> None:
    """A model that reads brightness off the pixels: where all three show one region, they have one border."""
    from wfbench.tasks.jobs.dense_pictures import shown

    root = palette_folder(tmp_path / "data")
    job = jobs.prepare(folder_recipe(root, f"data.dense.eval_size={eval_size}", "dense.inference=slide", "data.workers=1"))
    monochrome = torch.nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        monochrome.weight[:] = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        monochrome.bias.zero_()
    found = shown(monochrome, replace(job, world=2))
    assert len(found) == 4, "all images, whatever the processes"
    for k, (image, truth, predicted) in enumerate(found):
        height, width = 24 + 4 * (k % 2), 32 + 4 * (k % 3)
        assert image.shape[:2] == truth.shape == predicted.shape
        inside = slice(0, height), slice(1, width)
        agree = (truth[inside] == predicted[inside]) & (truth[inside] == (image[inside][..., 0] > 128))
        assert agree.mean() > (0.999 if eval_size == "own" else 0.93)  # resizing blurs a column or two at the border


def test_pictures_of_other_runs_stand_beside_one_another_and_those_of_trials_do_not(run: Path) -> None:
    from wfbench.report.page.pictures import pictures

    (row,) = [row for row in records.read(run / "records.jsonl")[0] if isinstance(row, PictureRow)]
    assert row.recipe_digest == DENSE.recipe_digest
    assert "64x64 px, decoder linear, seed 0" in row.caption
    others = [
        row.model_copy(update=change) for change in ({"decoder": "dpt"}, {"image_size": (96, 96)}, {"recipe_digest": "b"})
    ]
    again, trial = row.model_copy(update={"caption": "newest"}), row.model_copy(update={"validation": 0.2, "decoder": "trial"})
    shown, left = pictures([row, *others, again, trial], 10**7)
    assert [picture["caption"].partition(": ")[2] for picture in shown["predictions"]] == ["newest", *[row.caption] * 3]
    assert not left
    old = PictureRow.model_validate(
        row.model_dump(include=PictureRow.model_fields.keys() - {"decoder", "recipe_digest", "recipe"})
    )
    assert old.decoder is None


@pytest.mark.slow
def test_a_mixer_that_sees_near_is_at_chance_where_the_label_depends_on_a_far_place() -> None:
    """Two scenes that differ in one corner, and in their labels at the other end: what does not see the corner gets half right.

    The static mixer of depth 2 sees two tokens far, so its answers there are the same for both scenes, bit for bit.
    """
    torch.manual_seed(0)
    images = torch.randn(1, 1, 24, 24).repeat(2, 1, 1, 1)
    images[0, :, :2, :2], images[1, :, :2, :2] = 1.0, -1.0
    classes = torch.full((2, 24, 24), 255)
    classes[0, 16:, 16:], classes[1, 16:, 16:] = 0, 1
    loss = pixel_cross_entropy(255)
    reached = {}
    for mixer in ("static", "softmax"):
        model = create_dense(
            "vit-tiny", mixer, 24, num_classes=2, patch_size=2, in_channels=1, embed_dim=16, depth=2, num_heads=2, seed=0
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(300):  # 150 are enough, from any of six seeds
            optimizer.zero_grad()
            value = loss(model, images, classes, torch.Generator())
            value.backward()
            optimizer.step()
            if value.detach() < 0.005:  # of log(2) / 9 at the start: a ninth of the pixels has a label
                break
        logits = model.eval()(images)
        far = logits[..., 16:, 16:]
        assert torch.equal(far[0], far[1]) == (mixer == "static")
        reached[mixer] = float((far.argmax(1) == classes[:, 16:, 16:]).float().mean())
    assert reached == {"static": 0.5, "softmax": 1.0}


@pytest.mark.slow
def test_a_decoder_of_smp_trains_like_the_linear_one(tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    asked = ["dense.decoder=dpt", "model.depth=4", "data.dense.train=8", "data.dense.held_out=4", "batch_size=4", "epochs=1"]
    row = jobs.train(tiny(*asked), tmp_path / "run", Silent(), device=CPU)
    assert isinstance(row, DenseRow)
    assert (row.decoder, row.macs is not None) == ("dpt", True)
    (again,) = evaluate_dense_run(tmp_path / "run", device=CPU, out=tmp_path)
    assert again.is_same


@pytest.mark.slow
def test_a_sweep_trains_matches_and_answers_claims_of_dense_runs(tmp_path: Path) -> None:
    (tmp_path / "claims.yaml").write_text(
        """recipe: scenes
weights: raw
seeds: [0, 1]
budget: {epochs: 2, match: params, trials: 0}
claims:
  - {id: pool, says: pool is better, kind: better, line: pool, than: softmax, effect: 1}
"""
    )
    (tmp_path / "sweep.yaml").write_text(
        f"""recipes: [scenes]
mixers: [softmax, pool]
seeds: [0, 1]
match: params
set: {json.dumps(TINY)}
claims: {tmp_path / "claims.yaml"}
"""
    )
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "out"), "--device", "cpu", "--threads", "1"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    (claim,) = pd.read_csv(tmp_path / "report/claims.csv").to_dict("records")
    read = [row for file in sorted((tmp_path / "out").glob("*/records.jsonl")) for row in records.read(file)[0]]
    miou = {(row.mixer, row.seed): row.miou for row in read if isinstance(row, DenseRow) and row.weights == "raw"}
    differences = [100 * (miou["pool", seed] - miou["softmax", seed]) for seed in (0, 1)]
    reach = stats.t.ppf(0.95, 1) * np.std(differences, ddof=1) / 2**0.5  # one look, 5% on either side
    low, high = np.mean(differences) - reach, np.mean(differences) + reach
    assert (claim["estimate"], claim["low"], claim["high"]) == pytest.approx((np.mean(differences), low, high))
    assert claim["verdict"] == ("supported" if low > 0 else "contradicted" if high < 0 else "undecidable")
    table = pd.read_csv(tmp_path / "report/segmentation.csv")
    assert sorted(table["label"]) == ["pool", "softmax"]
    assert (table["parameters"].max() / table["parameters"].min()) < 1.02


def test_a_dry_run_says_what_a_dense_run_will_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", *settings(), "--dry-run", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "scenes of digits" in done.output
    assert "6: 3 for each epoch" in " ".join(done.output.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["erf", "RUN"], "only runs of classifiers are mapped got: RUN: task: dense"),
        (["sample", "RUN"], "not the run of a denoiser got: task: dense"),
        (["eval", "RUN", "--mapping", "labels.json"], "an option that is of another kind of run got: --mapping"),
        (["eval", "RUN/model.safetensors", "--recipe", "scenes"], "weights alone are evaluated as a classifier's"),
    ],
)
def test_other_commands_refuse_a_dense_run_in_one_message(run: Path, words: list[str], says: str) -> None:
    done = CliRunner().invoke(app, [word.replace("RUN", str(run)) for word in words])
    assert done.exit_code == 2, done.output
    assert says.replace("RUN", str(run)) in " ".join(done.output.split())
    assert "set task: dense" not in done.output


def test_figures_of_another_machine_may_differ_and_are_shown(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    result = json.loads((copy / "result.json").read_text())
    result["loss"] += 1e-9
    (copy / "result.json").write_text(json.dumps(result))
    here = CliRunner().invoke(app, ["eval", str(copy), "--device", "cpu"])
    assert here.exit_code == 1, here.output
    assert "NOT the same: mIoU" in here.output
    result["environment"] |= {"device": "NVIDIA H100", "device_type": "cuda"}
    (copy / "result.json").write_text(json.dumps(result))
    there = CliRunner().invoke(app, ["eval", str(copy), "--device", "cpu"])
    assert there.exit_code == 0, there.output
    assert "where the trainer had device NVIDIA H100" in there.output


def ade20k_folder(root: Path) -> Path:
    """Three images of each part in ADE20K's layout: 0 is no label, k is class k - 1."""
    rng = np.random.default_rng(0)
    for part in ("training", "validation"):
        for folder in ("images", "annotations"):
            (root / folder / part).mkdir(parents=True)
        for k in range(3):
            mask = rng.integers(0, 151, (70, 90), dtype=np.uint8)
            Image.fromarray(rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(root / "images" / part / f"ADE_{k}.jpg")
            Image.fromarray(mask).save(root / "annotations" / part / f"ADE_{k}.png")
    names = "\n".join(f"{k}\t0.1\t0.1\t0.1\tclass {k}" for k in range(1, 151))
    (root / "objectInfo150.txt").write_text(f"Idx\tRatio\tTrain\tVal\tName\n{names}\n")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ade20k-linear", "ade20k-dpt"])
def test_the_recipes_of_ade20k_run_on_files_of_its_layout(name: str, tmp_path: Path) -> None:
    if name == "ade20k-dpt":
        pytest.importorskip("segmentation_models_pytorch")
    small: dict[str, object] = {"patch_size": 16, "embed_dim": 16, "depth": 4, "num_heads": 2}
    save_file(create("vit-tiny", "softmax", 64, 7, **small).state_dict(), tmp_path / "classifier.safetensors")
    asked = [f"model.{key}={value}" for key, value in small.items()]
    asked += ["model.image_size=64", "epochs=1", "batch_size=2", "optim.warmup_epochs=0", "data.workers=0"]
    asked += [f"data.path={ade20k_folder(tmp_path / 'ade')}", f"model.init_weights={tmp_path / 'classifier.safetensors'}"]
    row = jobs.train(recipes.load(name, asked), tmp_path / "run", Silent(), device=CPU)
    assert isinstance(row, DenseRow)
    assert (len(row.classes), row.classes[0], row.samples) == (150, "class 1", 3)
    masks = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "ade/annotations/validation").iterdir())]
    assert row.pixels == sum(int((mask > 0).sum()) for mask in masks)
    assert (row.window, row.stride) == ((64, 64), (43, 43))
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        jobs.prepare(recipes.load(name, [*asked[:-1]]))
