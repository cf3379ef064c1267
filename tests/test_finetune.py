"""Weights to begin from: of a run, of the WeightFormer release, of timm's DeiT; at another resolution, for other classes."""

import hashlib
import json
from pathlib import Path

import pytest
import timm
import torch
from helpers import Silent, image_folder, scrambled
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from wfbench import models
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.tasks import jobs
from wfbench.tasks.jobs import classify
from wfbench.training import TrainState

CPU = torch.device("cpu")
SMALL = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=1", "optim.warmup_epochs=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on the digits, with averaged weights."""
    out = tmp_path_factory.mktemp("trained") / "run"
    torch.manual_seed(0)
    jobs.train(recipes.load("digits", [*SMALL, "ema.decay=0.9"]), out, Silent(), device=CPU)
    return out


def prepared(*settings: str, recipe: str = "digits"):
    return classify.prepare(recipes.load(recipe, list(settings)))


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors"])
def test_a_run_s_weights_are_taken_up_whole_and_named_in_the_record(name, trained, tmp_path):
    file = trained / name
    run = prepared(*SMALL, f"model.init_weights={file}")
    begun = run.model.state_dict()
    assert all(torch.equal(begun[key], value) for key, value in load_file(file).items())
    named = f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    assert run.pretraining == named
    recipe = recipes.load("digits", [*SMALL, f"model.init_weights={file}", "optim.lr=1e-9", "optim.min_lr=0"])
    row = jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    assert row.pretraining == named
    assert json.loads((tmp_path / "run" / "result.json").read_text())["pretraining"] == named
    before = json.loads((trained / "metrics.jsonl").read_text())[{"m": "accuracy", "e": "ema_accuracy"}[name[0]]]
    assert row.accuracy == before, "at this rate nothing moves"
    assert prepared(*SMALL).pretraining == "none"


def test_the_average_begins_at_the_initial_weights(trained):
    recipe = recipes.load("digits", [*SMALL, "ema.decay=0.9", f"model.init_weights={trained / 'model.safetensors'}"])
    state = TrainState(classify.prepare(recipe).model, recipe, 22)
    averaged = state.ema.module.state_dict()
    assert all(torch.equal(averaged[key], value) for key, value in load_file(trained / "model.safetensors").items())


def test_the_names_of_the_weightformer_release_are_understood(tmp_path):
    image_folder(tmp_path / "images", "train", ["a", "b", "c"], 4)
    image_folder(tmp_path / "images", "val", ["a", "b", "c"], 2)
    options = {"embed_dim": 16, "depth": 3, "num_heads": 2}
    source = scrambled(models.create("weightformer-tiny", None, 32, 3, **options), 0.1)
    save_file(models.to_released(source), tmp_path / "release.safetensors")
    settings = ["model.embed_dim=16", "model.depth=3", "model.num_heads=2", "model.image_size=64", "batch_size=4"]
    settings += [f"model.init_weights={tmp_path / 'release.safetensors'}", f"data.path={tmp_path / 'images'}"]
    run = prepared(*settings, recipe="imagenet-finetune-384")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(run.model.eval()(x), source.eval()(x))


def deit(**options):
    torch.manual_seed(2)
    sizes = {"patch_size": 2, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 10, "in_chans": 1, "img_size": 8}
    return scrambled(timm.create_model("deit_tiny_patch16_224", **(sizes | options)), 0.1)


DEIT = ["model.embed_dim=64", "model.depth=2", "model.num_heads=1", "model.class_token=true", "model.pool=token"]


@pytest.mark.parametrize("side", [8, 12, 6])
def test_timm_s_deit_is_taken_up_at_another_resolution_as_timm_does_it(side, tmp_path):
    save_file(deit().state_dict(), tmp_path / "deit.safetensors")
    run = prepared(*DEIT, f"model.image_size={side}", f"model.init_weights={tmp_path / 'deit.safetensors'}")
    theirs = deit(img_size=side)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(load_file(tmp_path / "deit.safetensors"), theirs)
    theirs.load_state_dict(filtered)
    assert torch.equal(run.model.pos_embed, theirs.pos_embed)
    x = torch.randn(2, 1, side, side)
    with torch.no_grad():
        assert (run.model.eval()(x) - theirs.eval()(x)).abs().max() < 1e-5
    if side != 8:
        plain = timm.layers.resample_abs_pos_embed(deit().pos_embed, [side // 2] * 2, interpolation="bilinear")
        assert (plain - theirs.pos_embed).abs().max() > 1e-3, "another interpolation would not be seen"


@pytest.mark.parametrize("kind", ["run", "timm"])
def test_a_fresh_head_leaves_all_else_and_is_the_seed_s(kind, tmp_path):
    """For other classes: what the head of the weights holds does not matter, not even its shape."""
    if kind == "timm":
        weights, settings = deit(num_classes=7).state_dict(), DEIT
    else:
        weights = prepared("model.embed_dim=32", "model.depth=1", "seed=5").model.state_dict()
        weights |= {"head.weight": torch.zeros(7, 32), "head.bias": torch.zeros(7)}
        settings = ["model.embed_dim=32", "model.depth=1"]
    save_file(weights, tmp_path / "weights.safetensors")
    chosen = [*settings, f"model.init_weights={tmp_path / 'weights.safetensors'}", "model.init_head=fresh"]
    begun, unlike = prepared(*chosen).model, prepared(*chosen, "seed=1").model
    assert torch.equal(begun.head.weight, prepared(*settings).model.head.weight)
    assert not torch.equal(begun.head.weight, unlike.head.weight)
    theirs = {"run": "blocks.0.fc1.weight", "timm": "blocks.0.mlp.fc1.weight"}[kind]
    for model in (begun, unlike):
        assert torch.equal(model.state_dict()["blocks.0.fc1.weight"], weights[theirs])
        assert torch.equal(model.pos_embed, weights["pos_embed"])


def test_weights_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    model = prepared(*SMALL).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = {key: value + 1 for key, value in before.items()}
    with pytest.raises(ValueError, match="unexpected extra"):
        models.load_initial(model, weights | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"head.bias \(7,\) for \(10,\)"):
        models.load_initial(model, weights | {"head.bias": torch.zeros(7)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_with_layer_decay_the_first_layers_move_least():
    recipe = recipes.load("digits", ["optim.layer_decay=0.5", "optim.weight_decay=0", "optim.warmup_epochs=0", "optim.lr=1e-3"])
    model = classify.prepare(recipe).model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    TrainState(model, recipe, 5).step(torch.randn(16, 1, 8, 8), torch.arange(16) % 10)
    moved = {name: (p - before[name]).abs().max().item() for name, p in model.named_parameters()}
    # AdamW's first step moves each weight by the rate, where its gradient is not all but 0.
    for layer in range(4):
        assert moved[f"blocks.{layer}.fc2.weight"] == pytest.approx(1e-3 * 0.5 ** (4 - layer), rel=1e-3)
    assert moved["patch_embed.proj.weight"] == pytest.approx(1e-3 * 0.5**5, rel=1e-3)
    assert moved["head.weight"] == pytest.approx(1e-3, rel=1e-3)


def test_fine_tuning_by_the_recipe_from_the_command_line(tmp_path):
    """All of it but its size: weights of the release, another resolution, other classes, layer decay."""
    for part, each in (("train", 4), ("val", 2)):
        image_folder(tmp_path / "images", part, ["a", "b"], each, 40)
    source = models.create("weightformer-tiny", None, 32, 7, embed_dim=16, depth=3, num_heads=2)
    save_file(models.to_released(source), tmp_path / "release.safetensors")
    settings = ["model.embed_dim=16", "model.depth=3", "model.num_heads=2", "model.image_size=48", "model.init_head=fresh"]
    settings += ["optim.layer_decay=0.75", "epochs=2", "optim.warmup_epochs=1", "batch_size=4", "data.workers=0"]
    settings += [f"model.init_weights={tmp_path / 'release.safetensors'}", "compute.precision=float32"]
    words = [word for setting in settings for word in ("--set", setting)]
    words = [
        "train",
        "--recipe",
        "imagenet-finetune-384",
        "--data",
        str(tmp_path / "images"),
        "--out",
        str(tmp_path / "r"),
    ] + words
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    row = json.loads((tmp_path / "r" / "result.json").read_text())
    assert row["pretraining"].startswith("release.safetensors ")
    assert (row["image_size"], row["samples"], row["steps"]) == ([48, 48], 4, 4)
    planned = CliRunner().invoke(app, [*words, "--dry-run", "--out", str(tmp_path / "other")])
    assert f"weights begin:    from {row['pretraining']}" in planned.output
