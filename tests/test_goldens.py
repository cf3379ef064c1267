from __future__ import annotations

import json

import pytest
import timm
import torch
from helpers import GOLDEN, all_near, golden, gradients, near, part, run_python, scrambled
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers.base import to_map, to_tokens
from wfbench import models, recipe
from wfbench.errors import InputError
from wfbench.models.vit import VisionTransformer
from wfbench.training import TrainState


def faithful(meta: dict[str, str]) -> VisionTransformer:
    """The classifier that a golden file was made with."""
    sizes = {ours: int(meta[theirs]) for ours, theirs in {"image_size": "img_size", "num_classes": "num_classes"}.items()}
    return models.create(
        "weightformer-tiny",
        **sizes,
        patch_size=int(meta["patch_size"]),
        embed_dim=int(meta["embed_dim"]),
        depth=int(meta["depth"]),
    ).double()


def small_faithful(**overrides: object) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_classes": 5}
    return models.create("weightformer-tiny", **(sizes | overrides))


@pytest.mark.parametrize("side", [5, 6])
def test_the_dynamic_linear_equals_the_released_code(side: int) -> None:
    _, tensors = golden(f"weightformer_layers_grid{side}")
    t = part(tensors, "dyn_linear.")
    layer = mixers.from_reference("weightformer", part(t, "param."), slot="ffn_in", grid=(side, side))
    found = gradients(layer, layer, t["input"], (side, side), t["grad_output"])
    near(found["output"], t["output"])
    near(found["gradient of input"], t["grad_input"])
    layer(t["input"], (side, side)).backward(t["grad_output"])
    all_near(mixers.to_reference(layer, grads=True), part(t, "grad."), "gradient")


@pytest.mark.parametrize("side", [5, 6])
def test_the_dynamic_convolution_equals_the_released_code(side: int) -> None:
    _, tensors = golden(f"weightformer_layers_grid{side}")
    t, grid = part(tensors, "dyn_conv."), (side, side)
    layer = mixers.from_reference("weightformer", part(t, "param."), slot="token", grid=grid)
    found = gradients(layer, layer, to_tokens(t["input"]), grid, to_tokens(t["grad_output"]))
    near(to_map(found["output"], grid), t["output"])
    near(to_map(found["gradient of input"], grid), t["grad_input"])
    layer(to_tokens(t["input"]), grid).backward(to_tokens(t["grad_output"]))
    all_near(mixers.to_reference(layer, grads=True), part(t, "grad."), "gradient")


@pytest.mark.parametrize("side", [5, 6])
def test_the_naive_forms_equal_the_released_code_too(side: int) -> None:
    _, tensors = golden(f"weightformer_layers_grid{side}")
    for slot, prefix in (("ffn_in", "dyn_linear."), ("token", "dyn_conv.")):
        t = part(tensors, prefix)
        layer = mixers.from_reference("weightformer", part(t, "param."), slot=slot)
        x, y = (t["input"], t["output"]) if slot == "ffn_in" else (to_tokens(t["input"]), to_tokens(t["output"]))
        near(layer.naive(x, (side, side)), y)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("side", [7, 8])
def test_the_classifier_equals_the_released_code_in_logits_loss_and_every_gradient(side: int, checkpointing: bool) -> None:
    meta, t = golden(f"weightformer_vit_grid{side}")
    model = faithful(meta).eval()
    model.set_grad_checkpointing(checkpointing)
    models.load_released(model, part(t, "param."))
    logits = model(t["input"])
    near(logits, t["logits"])
    loss = F.cross_entropy(logits, t["target"])
    near(loss.reshape(t["loss"].shape), t["loss"])
    loss.backward()
    all_near(models.to_released(model, grads=True), part(t, "grad."), "gradient")
    all_near(models.to_released(model), part(t, "param."), "weight", tolerance=0)


@pytest.mark.parametrize(
    ("name", "more"),
    [("digits", {}), ("digits", {"compute.micro_batch": 3}), ("imagenet-weightformer", {"compute.precision": "float32"})],
)
def test_six_training_steps_equal_the_released_code(name: str, more: dict[str, object]) -> None:
    meta, t = golden("weightformer_train_steps")
    model = faithful(meta).train()
    models.load_released(model, part(t, "init."))
    settings = {
        "epochs": meta["epochs"],
        "optim.lr": meta["base_lr"],
        "optim.warmup_lr": meta["warmup_lr"],
        "optim.min_lr": meta["min_lr"],
        "optim.warmup_epochs": meta["warmup_epochs"],
        "optim.weight_decay": meta["weight_decay"],
        "optim.clip_grad": meta["clip_grad"],
        "optim.scale_lr": "false",
        **more,
    }
    recipe_ = recipe.load(name, [f"{key}={value}" for key, value in settings.items()])
    state = TrainState(model, recipe_, int(meta["steps_per_epoch"]))
    for k in range(int(meta["steps"])):
        metrics = state.step(t["inputs"][k], t["soft_targets"][k])
        assert not metrics.loss.requires_grad
        assert not metrics.grad_norm.requires_grad
        near(metrics.loss, t["losses"][k], f"loss of step {k}")
        near(metrics.grad_norm, t["grad_norms"][k], f"gradient norm of step {k}")
        assert metrics.lr == pytest.approx(t["lrs"][k].item(), rel=0, abs=1e-12)
    all_near(models.to_released(model), part(t, "final."), "weight after six steps")
    assert state.step_count == 6


def test_the_schedule_is_that_of_the_release() -> None:
    release = json.loads((GOLDEN / "schedule_lr.json").read_text())
    batch = release["world"] * release["batch_per_gpu"]
    scale = batch / 512
    settings = {
        "batch_size": batch,
        "epochs": release["epochs"],
        "optim.warmup_epochs": release["warmup_epochs"],
        "optim.lr": release["base_lr"] / scale,
        "optim.warmup_lr": 5e-7,
        "optim.min_lr": 5e-6,
        "optim.scale_lr": "true",
        "optim.reference_batch": 512,
    }
    state = TrainState(
        nn.Linear(2, 2), recipe.load("digits", [f"{k}={v}" for k, v in settings.items()]), release["steps_per_epoch"]
    )
    x, target = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    used = [state.step(x, target).lr for _ in release["lr_used_at_step"]]
    assert used == pytest.approx(release["lr_used_at_step"], rel=1e-9)
    assert used[0] == used[1]


def test_the_recipe_of_the_release_has_its_schedule_with_no_setting_but_the_length() -> None:
    release = json.loads((GOLDEN / "schedule_lr.json").read_text())
    short = [f"epochs={release['epochs']}", f"optim.warmup_epochs={release['warmup_epochs']}", "compute.precision=float32"]
    state = TrainState(nn.Linear(2, 2), recipe.load("imagenet-weightformer", short), release["steps_per_epoch"])
    assert state.recipe.batch_size == release["world"] * release["batch_per_gpu"]
    x, target = torch.randn(4, 2), torch.tensor([0, 1, 0, 1])
    used = [state.step(x, target).lr for _ in release["lr_used_at_step"]]
    assert used == pytest.approx(release["lr_used_at_step"], rel=1e-9)


def decayed(model: VisionTransformer, name: str = "digits") -> dict[float, list[str]]:
    """Weight decay to the released names that get it."""
    state = TrainState(model, recipe.load(name, ["optim.weight_decay=0.05"]), 2)
    names = models.released_names(model)
    by_id = {id(p): names[name] for name, p in model.named_parameters()}
    return {group["weight_decay"]: sorted(by_id[id(p)] for p in group["params"]) for group in state.optimizer.param_groups}


@pytest.mark.parametrize("name", ["digits", "imagenet-weightformer"])
def test_the_parameter_groups_are_those_of_the_release(name: str) -> None:
    release = json.loads((GOLDEN / "param_groups.json").read_text())
    model = small_faithful()
    assert decayed(model, name) == {group["weight_decay"]: sorted(group["names"]) for group in release}
    assert sum(len(group["names"]) for group in release) == len(list(model.parameters()))


def test_neither_position_embedding_nor_class_token_is_decayed() -> None:
    groups = decayed(models.create("vit-tiny", image_size=32, embed_dim=64, depth=1, class_token=True, pool="token"))
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias"} <= set(groups[0.0])
    assert {"head.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= set(groups[0.05])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("weightformer-tiny", 7_074_184), ("weightformer-small", 27_492_136), ("weightformer-base", 27_492_136)],
)
def test_a_preset_has_the_parameters_of_the_release(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = models.create(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


def deit() -> tuple[nn.Module, dict[str, Tensor]]:
    model = timm.create_model("deit_tiny_patch16_224", pretrained=False).eval()
    scrambled(model, 0.02)
    return model, model.state_dict()


@torch.no_grad()
def test_deit_weights_give_timms_logits() -> None:
    theirs, state = deit()
    ours = models.create("vit-tiny", class_token=True, pool="token").eval()
    models.load_released(ours, state)
    x = torch.randn(2, 3, 224, 224)
    near(ours(x), theirs(x), tolerance=1e-5)
    all_near(models.to_released(ours), dict(state), "weight", tolerance=0)


@torch.no_grad()
def test_deit_weights_give_timms_logits_at_another_resolution() -> None:
    _, state = deit()
    theirs = timm.create_model("deit_tiny_patch16_224", pretrained=False, img_size=256).eval()
    theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
    x = torch.randn(1, 3, 256, 256)
    expected = theirs(x)
    built_for_it = models.create("vit-tiny", image_size=256, class_token=True, pool="token").eval()
    built_for_224 = models.create("vit-tiny", class_token=True, pool="token").eval()
    for ours in (built_for_it, built_for_224):
        models.load_released(ours, state)
        near(ours(x), expected, tolerance=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("blocks.1.linear1.w1"), r"missing blocks\.1\.linear1\.w1; unexpected nothing"),
        (lambda s: s.update(stray=torch.zeros(1)), "missing nothing; unexpected stray"),
        (lambda s: s.update({"head.weight": torch.zeros(7, 16)}), r"head\.weight \(7, 16\) for \(5, 16\)"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_released_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(spoil, message: str) -> None:
    model, state = small_faithful(), models.to_released(scrambled(small_faithful()))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    spoil(state)
    with pytest.raises(InputError, match=message):
        models.load_released(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_weights_of_another_model_are_refused_by_name() -> None:
    deit_state = deit()[1]
    with pytest.raises(InputError, match=r"missing .*blocks\.0\.dwc.*unexpected .*blocks\.0\.attn"):
        models.load_released(small_faithful(), deit_state)
    with pytest.raises(InputError, match=r"expected: the 41 weights of VisionTransformer with mixer 'weightformer'"):
        models.load_released(small_faithful(), models.to_released(small_faithful(depth=2)))
    with pytest.raises(InputError, match="unexpected cls_token"):
        models.load_released(models.create("vit-tiny"), deit_state)


@pytest.mark.parametrize("side", [16, 32])
def test_a_position_embedding_without_class_token_is_resampled(side: int) -> None:
    at = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 1, "num_classes": 5}
    trained = scrambled(models.create("vit-tiny", image_size=24, **at)).eval()
    ours = models.create("vit-tiny", image_size=side, **at).eval()
    models.load_released(ours, models.to_released(trained))
    x = torch.randn(2, 3, side, side)
    near(ours(x), trained(x), tolerance=1e-5)


@pytest.mark.parametrize("trained_at", [(8, 12), (12, 20)])
def test_a_position_embedding_of_an_unknown_grid_is_refused(trained_at: tuple[int, int]) -> None:
    at = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 1, "num_classes": 5}
    state = models.to_released(models.create("vit-tiny", image_size=trained_at, **at))
    with pytest.raises(InputError, match="pos_embed"):
        models.load_released(models.create("vit-tiny", image_size=16, **at), state)


@pytest.mark.parametrize(("preset", "mixer"), [("weightformer-tiny", None), ("vit-tiny", "softmax"), ("vit-tiny", "static")])
def test_weights_go_to_released_names_and_back(preset: str, mixer: str | None) -> None:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_classes": 5, "num_heads": 2}
    one, two = (scrambled(models.create(preset, mixer=mixer, **sizes)).eval() for _ in range(2))
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(one(x), two(x))
    models.load_released(two, models.to_released(one))
    assert torch.equal(one(x), two(x))


def test_released_gradients_need_a_backward_pass() -> None:
    with pytest.raises(InputError, match="run backward"):
        models.to_released(small_faithful(), grads=True)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["wfbench", "timm"])
def test_timm_makes_our_models_whichever_is_imported_first(first: str) -> None:
    second = "timm" if first == "wfbench" else "wfbench"
    code = f"""
import {first}
import {second}
import timm
model = timm.create_model("weightformer_tiny", img_size=32, num_classes=7)
print(type(model).__module__, model.config.image_size, model.config.num_classes, model.config.mixer)
"""
    assert run_python(code).strip() == "wfbench.models.vit (32, 32) 7 weightformer"


def silenced(block: nn.Module) -> nn.Module:
    """A block whose two branches give 0, so that only the stream is left."""
    for name, parameter in block.named_parameters():
        if name.startswith(("mixer.", "fc2.")):
            nn.init.zeros_(parameter)
    return block


@torch.no_grad()
def test_norm1_replaces_the_stream_in_the_dynamic_blocks_of_the_faithful_model() -> None:
    model, x = scrambled(small_faithful(depth=5)).eval(), torch.randn(2, 16, 16)
    for i, block in enumerate(model.blocks):
        silenced(block)
        if i in (1, 4):
            normed = F.layer_norm(x, (16,), block.norm1.weight, block.norm1.bias, eps=1e-6)
            near(block(x, (4, 4)), normed, tolerance=1e-6)
        else:
            assert [name for name, _ in block.named_parameters() if name.startswith("norm1")] == []
            assert torch.equal(block(x, (4, 4)), x)


@torch.no_grad()
def test_the_shared_skeleton_keeps_the_stream_in_every_block() -> None:
    model = models.create("vit-tiny", mixer="weightformer", image_size=32, patch_size=8, embed_dim=16, depth=5, num_heads=2)
    x = torch.randn(2, 16, 16)
    for block in scrambled(model).eval().blocks:
        assert isinstance(block.norm1, nn.LayerNorm)
        assert torch.equal(silenced(block)(x, (4, 4)), x)
