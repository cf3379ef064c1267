from __future__ import annotations

import pytest
import torch
from helpers import all_near, far, golden, near, part, scrambled
from torch import Tensor
from torch.nn import functional as F

import mixers
from mixers.base import Grid
from wfbench import models
from wfbench.errors import InputError
from wfbench.measure import CountError, count_flops
from wfbench.measure.flops import bytes_of_training
from wfbench.models import DiT
from wfbench.models.vit import sincos_2d

SMALL = {"image_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}


def small(name: str = "dit-s-2", mixer: str | None = None, **overrides: object) -> DiT:
    return models.create(name, mixer, **(SMALL | overrides))


def faithful(**overrides: object) -> tuple[DiT, dict[str, Tensor], float]:
    """The release's tiny DiT with its weights, its tensors, and the guidance scale."""
    meta, tensors = golden("weightformer_dit_grid8")
    sizes = {
        "image_size": int(meta["input_size"]),
        "patch_size": int(meta["patch_size"]),
        "embed_dim": int(meta["hidden_size"]),
        "depth": int(meta["depth"]),
        "num_classes": int(meta["num_classes"]),
    }
    model = models.create("weightformer-dit-s-2", **(sizes | overrides)).double().eval()
    return model, tensors, float(meta["cfg_scale"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_dit_equals_the_released_code(checkpointing: bool) -> None:
    model, t, _ = faithful()
    model.set_grad_checkpointing(checkpointing)
    models.load_released(model, part(t, "param."))
    near(model(t["input"], t["timestep"], t["label"]), t["output"])
    all_near(models.to_released(model), part(t, "param."), "weight", tolerance=0)


def test_guidance_equals_the_released_code_on_three_channels_and_differs_on_all() -> None:
    model, t, scale = faithful()
    models.load_released(model, part(t, "param."))
    inputs = (t["cfg_input"], t["cfg_timestep"], t["cfg_label"], scale)
    near(model.forward_with_cfg(*inputs), t["cfg_output"])
    of_all = model.forward_with_cfg(*inputs, cfg_channels=None)
    near(of_all[:, :3], t["cfg_output"][:, :3])
    near(of_all[:, 4:], t["cfg_output"][:, 4:])
    assert far(of_all[:, 3], t["cfg_output"][:, 3])
    given, null = of_all[:, 3].chunk(2)
    near(given, null)  # both halves carry the guided noise
    plain = model.forward_with_cfg(*inputs[:3], 1.0, cfg_channels=None)
    half = len(plain) // 2
    near(plain[:half], model(t["cfg_input"][:half], t["cfg_timestep"][:half], t["cfg_label"][:half]))


def test_pre_norm_and_time_in_float64_are_not_the_released_code(monkeypatch: pytest.MonkeyPatch) -> None:
    model, t, _ = faithful(residual="pre-norm")
    models.load_released(model, part(t, "param."))
    assert far(model(t["input"], t["timestep"], t["label"]), t["output"])
    model, t, _ = faithful()
    models.load_released(model, part(t, "param."))
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    with pytest.raises(AssertionError, match="differs"):
        near(model(t["input"], t["timestep"].double(), t["label"]), t["output"])


def test_the_position_is_the_release_table_on_its_grid_and_exact_on_any_other() -> None:
    model, t, _ = faithful()
    near(model.pos_embed, t["param.pos_embed"], tolerance=1e-7)
    assert not model.pos_embed.requires_grad
    near(model._position((3, 5)), sincos_2d((3, 5), 32, like=model.pos_embed)[None])
    larger, _, _ = faithful(image_size=24)
    before = larger.pos_embed.clone()
    models.load_released(larger, part(t, "param."))
    near(larger.pos_embed, before, tolerance=0)


def test_every_trained_weight_has_a_gradient_under_its_released_name() -> None:
    model, t, _ = faithful()
    models.load_released(model, part(t, "param."))
    model(t["input"], t["timestep"], t["label"]).square().sum().backward()
    grads = models.to_released(model, grads=True)
    assert set(part(t, "param.")) - set(grads) == {"pos_embed"}
    assert [name for name, grad in grads.items() if not grad.any()] == []


def test_softmax_weights_go_by_the_names_of_dit() -> None:
    names = set(models.released_names(small()).values())
    assert {"blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.bias", "blocks.0.adaLN_modulation.1.weight"} <= names
    assert {"x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.bias", "pos_embed"} <= names


def test_weights_of_another_model_are_refused_by_name() -> None:
    _, t, _ = faithful()
    with pytest.raises(InputError, match=r"missing blocks.0.attn.proj.bias"):
        models.load_released(small(embed_dim=32, num_heads=1, depth=5), part(t, "param."))


@pytest.mark.parametrize(
    ("size", "patch", "dit", "weightformer"),
    [
        ("s", 8, (0.36, 33.1), (0.34, 37.8)),
        ("s", 4, (1.41, 32.9), (1.28, 37.6)),
        ("s", 2, (6.06, 33.0), (5.02, 37.7)),
        ("b", 8, (1.42, 130.9), (1.36, 149.6)),
        ("b", 4, (5.57, 130.5), (5.10, 149.2)),
        ("b", 2, (23.01, 130.5), (20.06, 149.2)),
    ],
)
def test_the_published_macs_and_parameters(
    size: str, patch: int, dit: tuple[float, float], weightformer: tuple[float, float]
) -> None:
    for name, (gmacs, millions) in ((f"dit-{size}-{patch}", dit), (f"weightformer-dit-{size}-{patch}", weightformer)):
        with torch.device("meta"):
            model = models.create(name)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions, name
        assert round(sum(model.declared_macs((32, 32)).values()) / 1e9, 2) == gmacs, name


@pytest.mark.parametrize(
    ("name", "gmacs"), [("dit-s-2", 31.4), ("dit-b-2", 106.4), ("weightformer-dit-s-2", 20.0), ("weightformer-dit-b-2", 79.9)]
)
def test_the_published_macs_at_512_pixels(name: str, gmacs: float) -> None:
    with torch.device("meta"):
        model = models.create(name, image_size=64)
    assert round(sum(model.declared_macs((64, 64)).values()) / 1e9, 1) == gmacs


@pytest.mark.sampled(40)
@pytest.mark.parametrize(("size", "batch"), [((6, 10), 3), pytest.param((8, 8), 1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mixer", mixers.names())
def test_three_counts_agree_with_any_mixer(mixer: str, size: Grid, batch: int) -> None:
    model = small(mixer=mixer, image_size=size, local_conv="dwc")
    count = count_flops(model, model.example_inputs(batch))
    assert count.counts.keys() == {"declared", "flop_counter", "fvcore"}
    assert set(count.counts.values()) == {sum(model.declared_macs(size).values())}
    assert count_flops(model, (batch, 4, *size)).macs == count.macs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit-s-2", "weightformer-dit-s-2"])
def test_the_counts_agree_on_a_released_size(name: str) -> None:
    model = models.create(name)
    count = count_flops(model, model.example_inputs(1))
    assert set(count.counts.values()) == {sum(model.declared_macs((32, 32)).values())}


def test_a_forgotten_modulation_makes_the_counts_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    true = model.declared_macs((8, 8))
    monkeypatch.setattr(model, "declared_macs", lambda *a: {k: v for k, v in true.items() if k != "blocks.1.adaLN_modulation"})
    with pytest.raises(CountError, match="outside the declared modules"):
        count_flops(model, model.example_inputs(1))


def test_bytes_of_training_take_the_models_own_inputs() -> None:
    model = small()
    least = 16 * sum(p.numel() for p in model.parameters() if p.requires_grad)  # weights, gradients, two moments
    assert bytes_of_training(model, (2, 4, 8, 8)) > least


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mixer", mixers.names())
def test_every_mixer_denoises_and_every_trained_weight_learns(mixer: str) -> None:
    model = scrambled(small(mixer=mixer, depth=3), 0.1)
    x, t, y = model.example_inputs(2)
    out = model(x, t, y)
    assert out.shape == (2, 8, 8, 8)
    F.mse_loss(out, torch.randn_like(out)).backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [name for name in idle if "embedding_table" not in name] == []


def block_with_condition(**overrides: object) -> tuple[DiT, Tensor, Tensor]:
    model = small(**overrides).double()
    return model, torch.randn(2, 16, 48).double(), torch.randn(2, 48).double()


@pytest.mark.parametrize("mixer", mixers.names())
def test_a_fresh_pre_norm_block_is_the_identity(mixer: str) -> None:
    model, x, condition = block_with_condition(mixer=mixer, local_conv="dwc")
    for block in model.blocks:
        near(block(x, (4, 4), condition), x, tolerance=0)
    assert not model(*(a.double() if a.is_floating_point() else a for a in model.example_inputs(2))).any()


def test_a_fresh_faithful_block_is_layer_norm_of_its_input_in_every_layer() -> None:
    model, x, condition = block_with_condition(name="weightformer-dit-s-2", depth=3)
    for block in model.blocks:
        near(block(x, (4, 4), condition), F.layer_norm(x, (48,), eps=1e-6), tolerance=0)
        assert not list(block.norm1.parameters())


def test_a_block_modulates_as_its_formula_says() -> None:
    model, x, condition = block_with_condition(local_conv="dwc")
    block = scrambled(model.blocks[0])
    b1, g1, a1, b2, g2, a2 = block.adaLN_modulation(condition)[:, None].chunk(6, dim=2)
    h = F.layer_norm(x, (48,), eps=1e-6) * (1 + g1) + b1
    y = x + a1 * (block.mixer(h, (4, 4)) + block.local(h, (4, 4)))
    h = F.layer_norm(y, (48,), eps=1e-6) * (1 + g2) + b2
    near(block(x, (4, 4), condition), y + a2 * block.fc2(F.gelu(block.fc1(h, (4, 4)), approximate="tanh")))


def test_the_condition_moves_the_output_by_time_class_and_null_class() -> None:
    model = scrambled(small(), 0.1)
    x = torch.randn(1, 4, 8, 8)

    def out(t: int, y: int) -> Tensor:
        return model(x, torch.tensor([t]), torch.tensor([y]))

    assert model.null_class == 10
    for t, y in ((11, 3), (10, 4), (10, model.null_class)):
        assert far(out(10, 3), out(t, y))


def test_patches_are_put_back_where_they_came_from() -> None:
    model = small(in_channels=1, patch_size=2, image_size=(4, 6))
    image = torch.arange(2 * 2 * 4 * 6).float().view(2, 2, 4, 6)  # (B, 2·in_channels, H, W)
    tokens = image.unflatten(2, (2, 2)).unflatten(4, (3, 2)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    assert torch.equal(model._unpatchify(tokens, (2, 3)), image)


@pytest.mark.parametrize("pos_embed", ["none", "learned", "rope2d"])
def test_other_positions_are_factors_here_too(pos_embed: str) -> None:
    model = scrambled(small(pos_embed=pos_embed), 0.1)
    assert (model.pos_embed is not None) == (pos_embed == "learned")
    assert model.no_weight_decay() == ({"pos_embed"} if pos_embed == "learned" else set())
    out = model(torch.randn(1, 4, 12, 8), torch.tensor([5]), torch.tensor([2]))
    assert out.shape == (1, 8, 12, 8)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"image_size": 9}, "not a multiple of the patch size"),
        ({"embed_dim": 42}, "a width that 4 divides"),
        ({"mixer": "pool", "pos_embed": "rope2d"}, "rotary position needs"),
        ({"class_token": True}, "unknown option for model 'dit-s-2'"),
        ({"depth": 0}, "impossible model"),
    ],
)
def test_what_cannot_be_built_is_refused(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(**overrides)


def test_an_input_of_other_channels_is_refused() -> None:
    with pytest.raises(InputError, match="other channels"):
        small()(torch.randn(1, 3, 8, 8), torch.tensor([1]), torch.tensor([1]))


def test_channels_classes_and_size_are_parameters() -> None:
    model = small(in_channels=1, num_classes=0, image_size=(4, 10))
    out = model(torch.randn(2, 1, 4, 10), torch.tensor([0, 999]), torch.tensor([0, 0]))
    assert out.shape == (2, 2, 4, 10)
    assert model.null_class == 0
