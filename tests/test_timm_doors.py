"""timm's doors: intermediates, features_only, pooling, the registry, and other people's decoders behind them."""

from __future__ import annotations

from itertools import product

import pytest
import timm
import torch
from helpers import near, scrambled
from timm.data import resolve_model_data_config
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

import mixers
from mixers import MixerError
from wfbench import models
from wfbench.errors import InputError
from wfbench.measure import count_flops
from wfbench.models import VisionTransformer

SMALL = {"embed_dim": 48, "depth": 5, "num_heads": 3, "num_classes": 7, "patch_size": 8}
ODD = (40, 24)  # a grid of 5×3
MODELS = [("vit-tiny", "softmax"), ("vit-tiny", "linear"), ("vit-tiny", "static"), ("weightformer-tiny", None)]
every_model = pytest.mark.parametrize(("name", "mixer"), MODELS)


def build(name: str = "vit-tiny", mixer: str | None = None, **changes: object) -> VisionTransformer:
    return scrambled(models.create(name, mixer, **({"image_size": ODD} | SMALL | changes)), 0.1).eval()


def deit_pair(**changes: object) -> tuple[VisionTransformer, nn.Module]:
    """Our DeiT and timm's, of the same weights, in float64."""
    ours = build(image_size=32, class_token=True, **changes).double()
    sizes = SMALL | {"img_size": 32, "dynamic_img_size": True, "fc_norm": False}
    theirs = timm.create_model("deit_tiny_patch16_224", global_pool=ours.global_pool, **sizes).double().eval()
    theirs.load_state_dict(models.to_released(ours))
    return ours, theirs


# --- intermediates


@pytest.mark.sampled(4)
@pytest.mark.parametrize("indices", [None, 2, [0, 3], [-1, 1]])
@pytest.mark.parametrize("size", [(32, 32), ODD])
@torch.no_grad()
def test_intermediates_are_those_of_timm_s_model(size: tuple[int, int], indices: int | list[int] | None) -> None:
    ours, theirs = deit_pair()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for prefix, norm, early, fmt in product((False, True), (False, True), (False, True), ("NCHW", "NLC")):
        options = {"return_prefix_tokens": prefix, "norm": norm, "stop_early": early, "output_fmt": fmt}
        (last, found), (wanted_last, wanted) = (m.forward_intermediates(x, indices, **options) for m in (ours, theirs))
        near(last, wanted_last)
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            for part, wanted_part in zip(a, b, strict=True) if prefix else [(a, b)]:
                near(part, wanted_part)
        alone = ours.forward_intermediates(x, indices, intermediates_only=True, **options)
        assert isinstance(alone, list)
        first = (alone[0][0], found[0][0]) if prefix else (alone[0], found[0])
        assert torch.equal(*first)


@every_model
@torch.no_grad()
def test_the_ways_through_a_model_agree_to_the_last_bit(name: str, mixer: str | None) -> None:
    x = torch.randn(2, 3, 56, 24)
    for pool in ("mean", "none"):
        model = build(name, mixer, pool=pool)
        tokens = model.forward_features(x)
        assert torch.equal(model(x), model.forward_head(tokens))
        assert torch.equal(model(x), model.get_classifier()(model.forward_head(tokens, pre_logits=True)))
        last, found = model.forward_intermediates(x, norm=True, output_fmt="NLC")
        assert torch.equal(last, tokens)
        assert torch.equal(found[-1], tokens)
        (as_map,) = model.forward_intermediates(x, 1, norm=True, intermediates_only=True)
        assert as_map.shape == (2, 48, 7, 3)
        assert torch.equal(as_map.flatten(2).transpose(1, 2), tokens)


@torch.no_grad()
def test_blocks_after_the_last_one_asked_for_are_run_only_if_the_end_is_wanted() -> None:
    model, x = build(), torch.randn(1, 3, *ODD)
    nn.init.constant_(model.blocks[3].fc2.bias, float("nan"))
    early, (taken,) = model.forward_intermediates(x, [2], stop_early=True)
    assert early.isfinite().all()
    whole, (same,) = model.forward_intermediates(x, [2])
    assert whole.isnan().all()
    assert torch.equal(taken, same)


@torch.no_grad()
def test_checkpointed_blocks_give_the_same_intermediates() -> None:
    model, x = build(), torch.randn(1, 3, *ODD)
    plain = model.forward_intermediates(x, intermediates_only=True)
    model.set_grad_checkpointing()
    for a, b in zip(model.forward_intermediates(x, intermediates_only=True), plain, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("indices", [0, 6, [5], [-6], []])
def test_blocks_that_are_not_there_are_refused(indices: int | list[int]) -> None:
    for door in (build().prune_intermediate_layers, lambda i: build().forward_intermediates(torch.randn(1, 3, *ODD), i)):
        with pytest.raises(InputError, match=r"no such blocks\n.*got.*\n.*1 to 5, or indices from -5 to 4"):
            door(indices)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(InputError, match="'NHWC'\n.*'NCHW' or 'NLC'"):
        build().forward_intermediates(torch.randn(1, 3, *ODD), output_fmt="NHWC")


# --- pruning


@every_model
@pytest.mark.parametrize("pos_embed", ["none", "sincos"])
@torch.no_grad()
def test_a_pruned_model_gives_what_was_asked_for_and_has_no_more(name: str, mixer: str | None, pos_embed: str) -> None:
    model, x = build(name, mixer, pos_embed=pos_embed), torch.randn(2, 3, *ODD)
    before = model.forward_intermediates(x, [0, -2], intermediates_only=True)
    assert model.prune_intermediate_layers([0, -2], prune_norm=True) == [0, 3]
    for a, b in zip(model.forward_intermediates(x, [0, 3], intermediates_only=True), before, strict=True):
        assert torch.equal(a, b)
    assert len(model.blocks) == len(model.feature_info) == model.config.depth == 4
    assert not any(key.startswith(("blocks.4", "norm", "head")) for key in model.state_dict())
    assert model(x).shape == (2, 15, 48)
    assert torch.equal(model(x).transpose(1, 2).unflatten(2, (5, 3)), before[-1])


def test_pruning_keeps_norm_and_head_where_asked() -> None:
    model = build()
    assert model.prune_intermediate_layers(2, prune_head=False) == [3, 4]
    assert model(torch.randn(1, 3, *ODD)).shape == (1, 7)
    assert isinstance(model.norm, nn.LayerNorm)


# --- features


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("weightformer_tiny", {}),
        ("wfbench_weightformer_tiny", {"out_indices": (0, 5, -1)}),
        ("wfbench_vit_tiny", {"mixer": "linear", "out_indices": 2}),
        ("wfbench_vit_tiny", {"mixer": "softmax", "class_token": True, "patch_size": 8}),
    ],
)
@torch.no_grad()
def test_features_only_gives_maps_of_the_sizes_that_feature_info_says(name: str, options: dict[str, object]) -> None:
    net = timm.create_model(name, features_only=True, img_size=(112, 80), **options).eval()
    assert isinstance(net, FeatureGetterNet)
    taken = options.get("out_indices", 3)
    assert len(net.feature_info.channels()) == (taken if isinstance(taken, int) else len(taken))
    for size in ((112, 80), (48, 144)):
        sizes = [
            (2, channels, size[0] // reduction, size[1] // reduction)
            for channels, reduction in zip(net.feature_info.channels(), net.feature_info.reduction(), strict=True)
        ]
        assert [tuple(f.shape) for f in net(torch.randn(2, 3, *size))] == sizes
    modules = dict(net.model.named_modules())
    assert all(name in modules for name in net.feature_info.module_name())


# --- pooling and the head


@pytest.mark.parametrize("global_pool", ["", "avg", "token"])
@torch.no_grad()
def test_global_pool_means_what_timm_means(global_pool: str) -> None:
    pool = {"": "all", "avg": "mean", "token": "token"}[global_pool]
    ours, theirs = deit_pair(pool=pool)
    x = torch.randn(2, 3, *ODD, dtype=torch.float64)
    assert ours.global_pool == theirs.global_pool == global_pool
    near(ours(x), theirs(x))
    for model in (ours, theirs):
        model.reset_classifier(0)
    near(ours(x), theirs(x))
    assert set(count_flops(ours.float(), (1, 3, *ODD)).counts) == {"declared", "flop_counter", "fvcore"}


def test_a_new_classifier_is_of_the_model_s_dtype_and_pooling_and_is_counted() -> None:
    model = build(class_token=True).double()
    x = torch.randn(2, 3, *ODD, dtype=torch.float64)
    model.reset_classifier(11, "token")
    assert model(x).shape == (2, 11)
    assert (model.num_classes, model.config.num_classes, model.config.pool) == (11, 11, "token")
    model.reset_classifier(4, "")
    assert model(x).shape == (2, 16, 4)
    assert count_flops(model, (1, 3, *ODD)).by_module["head"] == 16 * 48 * 4
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))


def test_a_pooling_that_cannot_be_is_refused_and_changes_nothing() -> None:
    model = build()
    for arguments, words in (
        ((3, "max"), "unknown pooling"),
        ((3, "token"), "needs a class token"),
        ((-1,), "impossible head"),
    ):
        with pytest.raises(InputError, match=words):
            model.reset_classifier(*arguments)
    assert model(torch.randn(1, 3, *ODD)).shape == (1, 7)
    assert model.config.num_classes == 7


def test_drop_rate_is_of_dropout_before_the_head() -> None:
    model, x = build(drop_rate=0.5), torch.randn(2, 3, *ODD)
    assert torch.equal(model(x), build_like(model, drop_rate=0.0)(x))
    model.train()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert 0.2 < (features == 0).float().mean().item() < 0.8


def build_like(model: VisionTransformer, **changes: object) -> VisionTransformer:
    other = build(**changes)
    other.load_state_dict(model.state_dict())
    return other


# --- the registry


def test_timm_s_names_of_arguments_are_ours() -> None:
    options = {
        "img_size": (40, 24),
        "in_chans": 1,
        "drop_path_rate": 0.2,
        "drop_rate": 0.1,
        "global_pool": "",
        "num_classes": 3,
    }
    model = timm.create_model("wfbench_vit_tiny", mixer="linear", patch_size=8, pos_embed="learn", depth=2, **options)
    config = model.config
    assert (config.mixer, config.image_size, config.in_channels, config.num_classes) == ("linear", (40, 24), 1, 3)
    assert (config.drop_path, config.drop_rate, config.pool, config.pos_embed) == (0.2, 0.1, "all", "learned")
    assert model(torch.randn(1, 1, 40, 24)).shape == (1, 15, 3)


def test_a_seed_goes_through_timm() -> None:
    ours = models.create("vit-tiny", "static", 32, 3, depth=1, seed=5)
    theirs = timm.create_model("wfbench_vit_tiny", mixer="static", img_size=32, num_classes=3, depth=1, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mixr": "linear"}, r"unknown option for model 'wfbench_vit_tiny'\n.*'mixr'\n.*expected(.*\n)*.*did you mean mixer"),
        ({"drop_path_rat": 0.1}, "did you mean drop_path_rate"),
        ({"dynamic_img_size": False}, "cannot be held fixed(.*\n)*.*drop it"),
        ({"global_pool": "map"}, "unknown pooling\n.*'map'\n.*'avg'"),
        ({"img_size": 32, "image_size": 32}, "given twice\n.*img_size and image_size"),
        ({"pretrained": True}, r"no weights are downloaded\n(.*\n)*.*encoder_weights=None"),
        ({"pretrained_cfg": "in1k"}, "no pretrained weights\n.*wfbench_vit_tiny.in1k"),
        ({"features_only": True, "out_indices": (0, 12)}, "no such blocks"),
    ],
)
def test_what_timm_s_door_does_not_take_is_one_clear_error(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        timm.create_model("wfbench_vit_tiny", **options)


def test_an_unknown_mixer_is_refused_at_timm_s_door() -> None:
    with pytest.raises(MixerError, match="softmax"):
        timm.create_model("wfbench_vit_tiny", mixer="sotfmax")


@pytest.mark.parametrize("mixer", ["linear", "mlp-mixer"])
def test_the_description_is_the_model_s(mixer: str) -> None:
    made = timm.create_model(
        "wfbench_vit_tiny", mixer=mixer, img_size=(40, 24), patch_size=8, in_chans=1, num_classes=3, depth=1
    )
    for model in (made, models.create("vit-tiny", mixer, (40, 24), 3, patch_size=8, in_channels=1, depth=1)):
        assert model.default_cfg is model.pretrained_cfg
        assert model.pretrained_cfg["input_size"] == (1, 40, 24)
        assert model.pretrained_cfg["num_classes"] == 3
        assert model.pretrained_cfg["fixed_input_size"] == mixers.spec(mixer).needs_grid
        assert resolve_model_data_config(model)["input_size"] == (1, 40, 24)
        parts = dict(model.named_modules())
        assert isinstance(parts[model.pretrained_cfg["first_conv"]], nn.Conv2d)
        assert parts[model.pretrained_cfg["classifier"]] is model.get_classifier()


def test_denoisers_are_under_timm_s_registry_as_before() -> None:
    assert timm.create_model("dit_s_8", img_size=16, depth=1, in_chans=3).config.in_channels == 3
    with pytest.raises(InputError, match="unknown option for model 'dit_s_8'\n.*'drop_rate'"):
        timm.create_model("dit_s_8", drop_rate=0.1)


# --- other people's decoders, and export


def trains(model: nn.Module, images: Tensor) -> None:
    """One step of gradient descent changes every trained parameter by something finite."""
    out = model.train()(images)
    maps = out if isinstance(out, list) else [out]
    sum((m * torch.randn_like(m)).mean() for m in maps).backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    used = {name: grad for name, grad in named.items() if grad is not None}
    assert all(grad.isfinite().all() for grad in used.values())
    idle = {name for name in named if name not in used}
    assert all(".norm." in name or ".head." in name for name in idle), sorted(idle)
    assert any(grad.abs().sum() > 0 for name, grad in used.items() if "patch_embed" in name)


class MapsOfEncoder(nn.Module):
    """smp's encoder, its maps alone."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.encoder(images)[0]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("options", [{}, {"output_indices": [1, 4, 9, 16]}, {"depth": 3, "dynamic_img_size": True}])
def test_smp_s_encoder_takes_a_step(options: dict[str, object]) -> None:
    smp_vit = pytest.importorskip("segmentation_models_pytorch.encoders.timm_vit")
    encoder = smp_vit.TimmViTEncoder("weightformer_tiny", pretrained=False, img_size=(224, 160), **options)
    assert set(encoder.output_strides) == {16}
    assert set(encoder.out_channels) == {192}
    trains(MapsOfEncoder(encoder), torch.randn(2, 3, 224, 160))
    assert [tuple(m.shape[1:]) for m in encoder(torch.randn(1, 3, 112, 80))[0]] == [(192, 7, 5)] * len(encoder.out_channels)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tu-weightformer_tiny", {"decoder_readout": "ignore"}),
        ("tu-wfbench_vit_tiny", {"mixer": "softmax", "class_token": True, "embed_dim": 48, "num_heads": 3}),
    ],
)
def test_smp_s_dpt_takes_a_step(name: str, options: dict[str, object]) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    narrow = {"decoder_intermediate_channels": (16, 16, 16, 16), "decoder_fusion_channels": 16}
    model = smp.DPT(name, encoder_weights=None, classes=5, **narrow, **options)
    assert model(torch.randn(2, 3, 224, 160)).shape == (2, 5, 224, 160)
    trains(model, torch.randn(2, 3, 224, 160))


def test_timm_s_feature_getter_takes_a_step() -> None:
    model = timm.create_model("weightformer_tiny", img_size=(224, 160))
    trains(FeatureGetterNet(model, out_indices=(3, 16), norm=True), torch.randn(2, 3, 224, 160))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("pool", ["mean", "none"])
@every_model
@torch.no_grad()
def test_a_model_can_be_exported(name: str, mixer: str | None, pool: str) -> None:
    model, x = build(name, mixer, pool=pool), torch.randn(2, 3, *ODD)
    near(torch.export.export(model, (x,)).module()(x), model(x), tolerance=1e-6)
