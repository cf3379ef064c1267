"""`wfbench train --dry-run`: what it says is what the run does, it writes nothing, and both refuse the same before a step."""

import json
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from helpers import Silent, image_folder, listing
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from wfbench import models
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.measure import count_flops
from wfbench.measure.flops import bytes_of_training
from wfbench.tasks import jobs
from wfbench.tasks.dry_run import dry_run
from wfbench.tasks.jobs import classify
from wfbench.tasks.run_directory import read_recipe
from wfbench.training import TrainState, checkpoint

CPU = torch.device("cpu")
SMALL = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2"]


def run(*words: object):
    return CliRunner().invoke(app, ["train", *map(str, words)])


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def recipe_of(*settings: str):
    return recipes.load("digits", [*SMALL, *settings])


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "settings",
    [
        ["epochs=5", "optim.warmup_epochs=2"],
        ["epochs=4", "optim.warmup_epochs=0"],
        ["epochs=3", "optim.warmup_epochs=1", "optim.scale_lr=true", "optim.reference_batch=16"],
        ["epochs=3", "optim.warmup_epochs=1", "optim.schedule=constant"],
        ["epochs=3", "optim.warmup_epochs=1", "optim.layer_decay=0.5"],
    ],
    ids=lambda settings: settings[-1],
)
def test_the_rates_are_those_that_the_steps_use(settings, tmp_path):
    recipe = recipe_of(*settings)
    planned = dry_run(recipe, tmp_path / "run")
    state = TrainState(classify.prepare(recipe).model, recipe, planned.steps_per_epoch)
    x, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 4])
    used = [state.step(x, y).lr for _ in range(planned.steps)]
    warm = recipe.optim.warmup_epochs * planned.steps_per_epoch
    assert planned.steps == recipe.epochs * 22
    assert {0, 1, warm, planned.steps - 1} <= set(planned.rates)
    assert len(planned.rates) >= 5
    for step, rate in planned.rates.items():
        assert rate == used[step], step
    if recipe.optim.schedule == "cosine":
        assert used[0] > used[-1] or recipe.optim.warmup_epochs


@pytest.mark.slow
def test_groups_macs_memory_and_disk_are_those_of_the_run(tmp_path):
    recipe = recipe_of("epochs=4", "ema.decay=0.9", "keep_every=2", "compute.micro_batch=16", "model.mixer=weightformer")
    planned = dry_run(recipe, tmp_path / "run")
    model = classify.prepare(recipe).model
    parameters = dict(model.named_parameters())
    assert planned.parameters == sum(p.numel() for p in parameters.values())
    plain = [p for name, p in parameters.items() if p.ndim <= 1 or name in model.no_weight_decay()]
    decayed = {group["weight_decay"]: (group["tensors"], group["parameters"]) for group in planned.groups}
    assert decayed[0.0] == (len(plain), sum(p.numel() for p in plain))
    assert decayed[0.05][0] == len(parameters) - len(plain)
    assert planned.gmacs == count_flops(model, (1, 1, 8, 8)).macs / 1e9
    assert planned.batch == (64, 64, 16)
    assert planned.step_bytes == bytes_of_training(model, (16, 1, 8, 8)) < bytes_of_training(model, (64, 1, 8, 8))
    jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    saved = tmp_path / "run" / "checkpoint"
    names = sorted(p.name for p in saved.iterdir())
    assert names[1:] == ["epoch-0002", "epoch-0004", "step-00000088"]
    one = sum(f.stat().st_size for f in (saved / "step-00000088").iterdir())
    assert planned.checkpoint_bytes <= one < planned.checkpoint_bytes + 50_000, "but for names, random states and progress"
    final = sum(f.stat().st_size for f in (tmp_path / "run").glob("*.safetensors"))
    assert planned.disk_bytes > 4 * planned.checkpoint_bytes + final - 20_000


@pytest.mark.parametrize("layer_decay", [None, 0.5])
@pytest.mark.parametrize(
    ("mixer", "exempt"),
    [("window", "relative_position_bias_table"), ("vim", "a_log"), ("softmax", ""), ("window(bias=false)", "")],
)
def test_what_a_mixer_exempts_is_not_decayed(mixer, exempt, layer_decay):
    recipe = recipe_of(f"model.mixer={mixer}", *([] if layer_decay is None else [f"optim.layer_decay={layer_decay}"]))
    model = classify.prepare(recipe).model
    state = TrainState(model, recipe, 1)
    decays = {id(p): group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
    found = {name for name, p in model.named_parameters() if p.ndim > 1 and not name.endswith(".bias") and decays[id(p)] == 0}
    expected = {name for name, _ in model.named_parameters() if exempt and name.endswith(exempt)} | model.no_weight_decay()
    assert found == expected
    assert bool(exempt) == any(name.endswith(exempt) for name in found - model.no_weight_decay())
    assert set(decays.values()) == {0.0, 0.05}


def test_layer_decay_stands_in_the_groups(tmp_path):
    scales = {group["lr_scale"] for group in dry_run(recipe_of("optim.layer_decay=0.5"), tmp_path / "run").groups}
    assert scales == {1.0, 0.5, 0.25, 0.125}  # norm and head, two blocks, what stands before them


@pytest.mark.parametrize("out", ["run", "a/b/c"])
def test_a_dry_run_prints_the_plan_and_leaves_nothing_behind(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    before = listing(tmp_path)
    result = run("--dry-run", "--out", out, *sets(*SMALL, "mix.mixup=0.8", "epochs=3"))
    assert result.exit_code == 0, result.output
    assert listing(tmp_path) == before
    recipe = recipe_of("mix.mixup=0.8", "epochs=3")
    assert recipes.dump(recipe) in result.output
    expected = ["digits (20% held out by split seed 0)", "1,437", "360", "66: 22 for each epoch", "64 images a step"]
    expected += ["GMACs an image", "weight decay 0.05", "weight decay 0:", "GB in each process", "from seed 0", out]
    assert [words for words in expected if words not in result.output] == []
    rates = dry_run(recipe, tmp_path / "x").rates
    assert ", ".join(f"{rate:.3g} at step {step}" for step, rate in rates.items()) in result.output


def test_a_dry_run_of_several_processes_stays_one_and_tells_the_share_of_each(tmp_path):
    result = run("--dry-run", "--nproc", 2, "--out", tmp_path / "run", *sets(*SMALL))
    assert result.exit_code == 0, result.output
    assert result.output.count("nothing was trained") == 1
    assert "64 images a step, 32 in each process, 32 in each forward pass" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_of_a_resume_leaves_the_run_as_it_is(tmp_path):
    jobs.train(recipe_of("epochs=1", "optim.warmup_epochs=0"), tmp_path / "run", Silent(), device=CPU)
    before = listing(tmp_path)
    result = run("--dry-run", "--resume", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "22: 22 for each epoch" in result.output
    assert listing(tmp_path) == before


# What is refused, by the dry run and by the run alike


def in_the_way(t: Path, m, old: Path) -> list[object]:
    (t / "file").write_text("")
    return ["--out", t / "file" / "run"]


def full_disk(t: Path, m, old: Path) -> list[object]:
    usage = namedtuple("usage", "total used free")
    m.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    return []


def weights(change):
    """Initial weights of the digits' small model, changed."""

    def words(t: Path, m, old: Path) -> list[object]:
        model = models.create("vit-tiny", None, 8, 10, patch_size=2, embed_dim=16, depth=2, num_heads=2, in_channels=1)
        save_file(change(dict(model.state_dict())), t / "weights.safetensors")
        return sets(f"model.init_weights={t / 'weights.safetensors'}")

    return words


def pickled(t: Path, m, old: Path) -> list[object]:
    (t / "weights.pth").write_bytes(pickle.dumps({}))
    return sets(f"model.init_weights={t / 'weights.pth'}")


def folder(*bad: str):
    """An image folder of two classes, in which the images of some parts cannot be read."""

    def words(t: Path, m, old: Path) -> list[object]:
        for part in ("train", "val"):
            image_folder(t / "images", part, ["a", "b"], 4, 8)
        for part in bad:
            for file in (t / "images" / part).rglob("*.png"):
                file.write_bytes(b"no image")
        return ["--data", f"folder:{t / 'images'}", *sets("batch_size=4", "model.in_channels=3", "data.workers=1")]

    return words


def an_empty_class(t: Path, m, old: Path) -> list[object]:
    words = folder()(t, m, old)
    shutil.rmtree(t / "images" / "val" / "b")
    (t / "images" / "val" / "b").mkdir()
    return words


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A run of two epochs, after the first."""
    out = tmp_path_factory.mktemp("old") / "run"
    recipe = recipe_of("epochs=2", "optim.warmup_epochs=0", "data.workers=0")
    jobs.train(recipe.model_copy(update={"epochs": 1}), out, Silent(), device=CPU)
    checkpoint.write_whole(out / "config.yaml", recipes.dump(recipe))
    (out / "result.json").unlink()
    return out


def a_run(*resume: object, change=lambda saved: None):
    """A run that is there already, of one epoch, with its newest checkpoint changed."""

    def words(t: Path, m, old: Path) -> list[object]:
        out = shutil.copytree(old, t / "old")
        change(out / "checkpoint" / "step-00000022")
        return ["--out", out, *resume]

    return words


def progress(text):
    def change(saved: Path) -> None:
        file = saved / "progress.json"
        file.write_text(text if isinstance(text, str) else json.dumps(json.loads(file.read_text()) | text))

    return change


RESUME = ("--resume", "--recipe", "digits", *sets("epochs=2", "optim.warmup_epochs=0", "data.workers=0"))
REFUSED = {
    "unwritable": (in_the_way, ["cannot write the ", "another --out"]),
    "no room": (full_disk, ["not enough room for the checkpoints", "1 kB free", "keep_every"]),
    "no weights": (
        lambda t, m, old: sets(f"model.init_weights={t / 'no.safetensors'}"),
        ["cannot read the weights", "no.safeten"],
    ),
    "a pickle": (pickled, ["cannot read the weights", "nothing is unpickled"]),
    "weights of another model": (
        weights(lambda w: w | {"extra": w["head.bias"].clone()}),
        ["another model", "unexpected extra"],
    ),
    "weights without a layer": (weights(lambda w: {k: v for k, v in w.items() if k != "norm.bias"}), ["missing norm.bias"]),
    "weights of another width": (
        weights(lambda w: w | {"norm.bias": torch.zeros(17)}),
        ["weights of another size", "norm.bias (17,) for (16,)"],
    ),
    "a head of other classes": (
        weights(lambda w: w | {"head.weight": torch.zeros(7, 16), "head.bias": torch.zeros(7)}),
        ["head.weight (7, 16) for (10, 16)", "init_head=fresh"],
    ),
    "no data": (lambda t, m, old: ["--data", f"folder:{t / 'none'}"], ["not a folder", "none"]),
    "no path": (lambda t, m, old: sets("data.source=folder"), ["does not say where the images are", "--data PATH"]),
    "a class without images": (an_empty_class, ["no images", "b"]),
    "bad training images": (folder("train"), ["an image cannot be read", "train"]),
    "bad held-out images": (folder("val"), ["an image cannot be read", "val"]),
    "no good image of a class": (
        lambda t, m, old: [*folder("train")(t, m, old), *sets("data.on_bad_image=skip")],
        ["no image of a class can be read"],
    ),
    "a batch beyond the data": (lambda t, m, old: sets("batch_size=1438"), ["larger than the data", "at most 1437"]),
    "an unknown policy": (
        lambda t, m, old: sets("data.augment=resized-crop", "data.auto_augment=rnd-m9"),
        ["unknown augmentation policy", "rand-m9-mstd0.5-inc1"],
    ),
    "channels": (lambda t, m, old: sets("data.mean=[0.1,0.2]", "data.std=[1.0,1.0]"), ["2 values for 1 channels"]),
    "a run is there": (a_run(), ["holds a run already", "--resume"]),
    "another recipe": (a_run(*RESUME, *sets("optim.lr=1e-4")), ["another recipe", "optim.lr: 0.002 / 0.0001"]),
    "another recipe, shortly": (
        a_run("--resume", *sets("optim.lr=1e-4", "data.workers=1")),
        ["another recipe", "got:      optim.lr: 0.002 / 0.0001 (run"],
    ),
    "another version's checkpoint": (
        a_run("--resume", change=progress({"format": 99})),
        ["the checkpoint is of another version", "format 99", "format 2"],
    ),
    "a checkpoint of before formats": (a_run("--resume", change=progress("{}")), ["another version", "format None"]),
    "a torn checkpoint": (
        a_run("--resume", change=progress('{"epoch": 1')),
        ["the checkpoint cannot be read", "progress.json"],
    ),
    "a checkpoint without its words": (
        a_run("--resume", change=lambda saved: (saved / "progress.json").unlink()),
        ["the checkpoint cannot be read", "progress.json"],
    ),
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "train"])
@pytest.mark.parametrize("case", list(REFUSED))
def test_what_would_stop_a_run_is_refused_before_its_first_step_and_nothing_is_written(case, dry, old, tmp_path, monkeypatch):
    make, expected = REFUSED[case]
    words = make(tmp_path, monkeypatch, old)
    monkeypatch.setattr(TrainState, "step", lambda *args: pytest.fail("a step was taken"))
    before = listing(tmp_path)
    short = [] if "--resume" in words and "--recipe" not in words else sets(*SMALL)
    out = [] if "--out" in words else ["--out", tmp_path / "new" / "run"]
    result = run(*out, *words, *short, *(["--dry-run"] if dry else []))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.output.count("error:") == 1
    for text in expected:
        assert text in result.output, result.output
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["batch_size=63"], ["batch_size 63 for 2", "a multiple of 2"]),
        (["batch_size=66", "mix.mixup=0.8"], ["66 for 2 processes, and mix", "a multiple of 4"]),
        (["mix.mixup=0.8", "mix.mode=pair"], ["mix.mode = pair", "mix.mode=batch"]),
    ],
)
def test_a_batch_that_the_processes_cannot_share_is_refused(settings, expected, tmp_path):
    result = run("--dry-run", "--nproc", 2, "--out", tmp_path / "run", *sets(*SMALL, *settings))
    assert result.exit_code == 2, result.output
    assert all(words in result.output for words in expected), result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "random.safetensors"])
@pytest.mark.parametrize("damage", ["torn", "gone"])
def test_a_damaged_file_of_a_checkpoint_is_refused_by_name_and_the_run_stays(name, damage, old, tmp_path):
    run_directory = shutil.copytree(old, tmp_path / "old")
    file = run_directory / "checkpoint" / "step-00000022" / name
    if damage == "torn":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    result = run("--resume", "--out", run_directory)
    assert result.exit_code == 2, result.output
    assert "the checkpoint cannot be read" in result.output
    assert f"step-00000022/{name}" in result.output
    assert len((run_directory / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_resume_needs_only_the_directory_and_may_change_what_changes_no_result(old, tmp_path):
    shutil.copytree(old, tmp_path / "old")
    result = run("--resume", "--out", tmp_path / "old", *sets("data.workers=1", "keep_every=1"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "old" / "checkpoint" / "epoch-0002").is_dir()
    recipe = recipe_of("epochs=2", "optim.warmup_epochs=0", "keep_every=1", "data.workers=1")
    assert read_recipe(tmp_path / "old") == recipe
    assert load_file(tmp_path / "old" / "checkpoint" / "epoch-0002" / "model.safetensors").keys()
