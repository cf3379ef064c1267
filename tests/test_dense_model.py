"""Logits at every token, and decoders from there to the pixels."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers import near, scrambled
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from wfbench import models
from wfbench.errors import InputError
from wfbench.measure import count_flops
from wfbench.models import DenseModel, VisionTransformer, create_dense
from wfbench.models.dpt import DPTDecoder

SMALL = {"embed_dim": 48, "depth": 5, "num_heads": 3, "patch_size": 8}
ODD = (40, 24)  # a grid of 5×3
MODELS = [("vit-tiny", "softmax"), ("vit-tiny", "linear"), ("vit-tiny", "static"), ("weightformer-tiny", None)]
ALL_THREE = {"declared", "flop_counter", "fvcore"}
every_model = pytest.mark.parametrize(("name", "mixer"), MODELS)
decoders = pytest.mark.parametrize("decoder", ["linear", "dpt"])


def vit(name: str = "vit-tiny", mixer: str | None = None, **changes: object) -> VisionTransformer:
    return scrambled(models.create(name, mixer, **({"image_size": ODD, "num_classes": 7} | SMALL | changes)), 0.1).eval()


def dense(name: str = "vit-tiny", mixer: str | None = None, **changes: object) -> DenseModel:
    if changes.get("decoder") == "dpt":
        pytest.importorskip("segmentation_models_pytorch")
    return create_dense(name, mixer, **({"image_size": ODD, "num_classes": 7} | SMALL | changes))


# --- pool none


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("size", [ODD, (16, 56)])
@torch.no_grad()
def test_logits_at_every_token_are_the_head_of_each_and_their_mean_that_of_the_mean(
    size: tuple[int, int], class_token: bool
) -> None:
    each, mean = (vit(class_token=class_token, pool=pool).double() for pool in ("none", "mean"))
    mean.load_state_dict(each.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    logits = each(x)
    assert logits.shape == (2, size[0] * size[1] // 64, 7)
    tokens = each.forward_features(x)[:, int(class_token) :]
    near(logits, torch.einsum("bnc,kc->bnk", tokens, each.head.weight) + each.head.bias)
    near(logits.mean(dim=1), mean(x))


@torch.no_grad()
def test_logits_are_row_by_row() -> None:
    model, x = vit(mixer="identity", pos_embed="none", pool="none"), torch.zeros(1, 3, *ODD)
    base = model(x)
    x[:, :, 8:16, 16:24] = 1  # row 1, column 2
    changed = (model(x) != base).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [1 * 3 + 2]


@pytest.mark.sampled(30)
@pytest.mark.parametrize("name", mixers.names())
def test_the_head_at_every_token_is_counted(name: str) -> None:
    each, mean = (count_flops(vit(mixer=name, pool=pool, depth=2), (2, 3, *ODD)) for pool in ("none", "mean"))
    assert each.counts.keys() == ALL_THREE
    assert len(set(each.counts.values())) == 1
    assert each.macs - mean.macs == 14 * 48 * 7


def test_the_class_token_has_no_logits_to_count() -> None:
    count = count_flops(vit(class_token=True, pool="none"), (1, 3, *ODD))
    assert count.counts.keys() == ALL_THREE
    assert count.by_module["head"] == 15 * 48 * 7


def seen_from_the_centre(mixer: str, depth: int) -> Tensor:
    """Where on a grid of 9×9 the central token's logits have a gradient: (9, 9), the largest of each patch."""
    torch.manual_seed(0)
    model = vit(mixer=mixer, pool="none", depth=depth, image_size=36, patch_size=4)
    x = torch.randn(1, 3, 36, 36, requires_grad=True)
    (model(x)[0, 40] * torch.randn(7)).sum().backward()
    return F.max_pool2d(x.grad.abs().amax(dim=1), 4)[0]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_static_mixer_sees_no_further_than_its_depth_and_softmax_sees_all(depth: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    distance = torch.maximum((rows - 4).abs(), (columns - 4).abs())  # in tokens; the kernel's radius is 1
    static = seen_from_the_centre("static", depth)
    assert (static[distance > depth] == 0).all()
    assert (static[distance <= depth] > 0).all()
    assert (seen_from_the_centre("softmax", depth) > 0).all()


def test_pool_none_needs_no_class_token_and_an_unknown_pool_is_refused() -> None:
    with pytest.raises(InputError, match="pool = 'max'(.*\n)*.*'none'"):
        models.create("vit-tiny", pool="max")


# --- decoders


@every_model
@torch.no_grad()
def test_the_linear_decoder_is_the_classifier_s_head_at_every_token_brought_to_the_pixels(name: str, mixer: str | None) -> None:
    classifier = models.create(name, mixer, ODD, 7, pool="none", seed=3, **SMALL).eval()
    model = dense(name, mixer, seed=3).eval()
    x = torch.randn(2, 3, 56, 24)
    at_tokens = classifier(x).transpose(1, 2).unflatten(2, (7, 3))
    assert torch.equal(model(x), F.interpolate(at_tokens, (56, 24), mode="bilinear", align_corners=False))


@pytest.mark.sampled(4)
@decoders
@pytest.mark.parametrize("size", [ODD, (64, 96), (8, 136)])
@pytest.mark.parametrize("class_token", [False, True])
@torch.no_grad()
def test_every_pixel_gets_logits(decoder: str, size: tuple[int, int], class_token: bool) -> None:
    model = dense("vit-tiny", "softmax", decoder=decoder, class_token=class_token).eval()
    assert isinstance(model.backbone, VisionTransformer)
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 7, *size)
    assert logits.isfinite().all()


@decoders
def test_a_size_that_the_patch_does_not_divide_is_refused(decoder: str) -> None:
    with pytest.raises(InputError, match=r"not a multiple of the patch size\n.*44x24"):
        dense(decoder=decoder)(torch.randn(1, 3, 44, 24))


@pytest.mark.sampled(16)
@decoders
@pytest.mark.parametrize(("size", "patch"), [(ODD, 8), ((64, 96), 16), (ODD, 4), ((24, 40), 2), ((64, 128), 64)])
@pytest.mark.parametrize("class_token", [False, True])
def test_three_counts_of_a_dense_model_agree(decoder: str, size: tuple[int, int], patch: int, class_token: bool) -> None:
    model = dense("vit-tiny", "softmax", decoder=decoder, patch_size=patch, class_token=class_token, depth=4, image_size=size)
    count = count_flops(model, (2, 3, *size))
    assert count.counts.keys() == ALL_THREE
    assert len(set(count.counts.values())) == 1
    if decoder == "linear":
        n = size[0] * size[1] // patch**2
        assert count.by_module["decoder"] == n * 48 * 7
        without = models.create("vit-tiny", "softmax", size, 0, pool="none", **(SMALL | {"patch_size": patch, "depth": 4}),
                                class_token=class_token)  # fmt: skip
        alone = count_flops(without, (2, 3, *size))
        assert count.macs == alone.macs + n * 48 * 7
        # A bias for each logit of a token, and a window of 2×2 for each logit of a pixel.
        assert count.elementwise == alone.elementwise + n * 7 + 4 * 7 * size[0] * size[1]


@pytest.mark.slow
@pytest.mark.parametrize("class_token", [False, True])
@torch.no_grad()
def test_dpt_is_smp_s_where_its_maps_fit(class_token: bool) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    # smp takes "depth" for itself, so both have the preset's.
    options = {"mixer": "softmax", "class_token": class_token, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
    readout = "cat" if class_token else "ignore"
    theirs = smp.DPT(
        "tu-wfbench_vit_tiny", encoder_weights=None, decoder_readout=readout, classes=7, img_size=(64, 96), **options
    )
    ours = dense(decoder="dpt", image_size=(64, 96), depth=12, **options)
    ours.decoder = DPTDecoder(ours.config, 7, norm="batch")  # the one difference from smp's
    scrambled(theirs, 0.01)
    for name, module in (("fuse", theirs.decoder), ("head", theirs.segmentation_head)):
        ours.decoder.get_submodule(name).load_state_dict(module.state_dict())
    backbone = {key: value for key, value in theirs.encoder.model.state_dict().items() if not key.startswith("head.")}
    ours.backbone.load_state_dict(backbone)
    x = torch.randn(2, 3, 64, 96)
    expected = theirs.eval()(x)
    assert expected.std() > 1e-3
    assert torch.equal(ours.eval()(x), expected)


@torch.no_grad()
def test_dpt_continues_the_maps_by_their_last_row_and_column_where_they_do_not_fit() -> None:
    decoder = dense(decoder="dpt").eval().decoder
    maps = [torch.randn(2, 48, 5, 3) for _ in range(4)]
    continued = [m[:, :, [0, 1, 2, 3, 4, 4, 4, 4]][:, :, :, [0, 1, 2, 2]] for m in maps]
    assert torch.equal(decoder(maps, ODD), decoder(continued, (64, 32))[:, :, :40, :24])


@decoders
@pytest.mark.sampled(2)
def test_an_image_s_logits_depend_on_no_other_image_of_its_batch(decoder: str) -> None:
    model = dense("vit-tiny", "softmax", decoder=decoder).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    x = torch.randn(4, 3, *ODD)
    together, alone = model(x), torch.cat([model(image[None]) for image in x])
    near(together, alone, tolerance=1e-5)
    assert not dict(model.named_buffers()), "nothing that each process would keep for itself"
    near(model.eval()(x), together, tolerance=1e-5)


@decoders
def test_layer_decay_gives_each_parameter_the_rate_that_it_has_in_a_classifier(decoder: str) -> None:
    from timm.optim import param_groups_layer_decay

    def scales(model: nn.Module) -> dict[str, float]:
        names = {id(p): name for name, p in model.named_parameters()}
        groups = param_groups_layer_decay(model, layer_decay=0.5)
        return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}

    options = {"class_token": True, "mixer": "linear"}
    of_classifier, found = scales(vit(**options)), scales(dense(decoder=decoder, **options))
    assert len(set(of_classifier.values())) == SMALL["depth"] + 2
    assert {name for name in found if name.startswith("decoder.")}
    for name, scale in found.items():
        assert scale == of_classifier[name.removeprefix("backbone.") if name.startswith("backbone.") else "head.weight"], name


@pytest.mark.sampled(2)
@decoders
def test_a_frozen_backbone_is_as_in_evaluation_and_the_decoder_alone_is_trained(decoder: str) -> None:
    model = dense("vit-tiny", "linear", decoder=decoder, frozen=True, drop_path=0.5).train()
    assert model.training
    assert all(module.training for module in model.decoder.modules())
    assert not any(module.training for module in model.backbone.modules())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(4, 3, *ODD)
    features = model.decoder.read(model.backbone, x)
    again = model.decoder.read(model.backbone, x)
    for a, b in zip(features, again, strict=True):
        assert torch.equal(a, b)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    F.cross_entropy(model(x), torch.randint(7, (4, *ODD))).backward()
    optimizer.step()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert trained == {key for key in before if key.startswith("decoder.")} & set(dict(model.named_parameters()))
    assert trained & changed
    assert not any(key.startswith("backbone.") for key in changed)


@decoders
@pytest.mark.sampled(2)
def test_a_whole_model_takes_a_step(decoder: str) -> None:
    model = dense("weightformer-tiny", decoder=decoder).train()
    assert model.backbone.training
    F.cross_entropy(model(torch.randn(4, 3, *ODD)), torch.randint(7, (4, *ODD))).backward()
    # dpt reads the blocks before the final norm, which so is not trained.
    assert {name for name, p in model.named_parameters() if p.grad is None} == (
        {"backbone.norm.weight", "backbone.norm.bias"} if decoder == "dpt" else set()
    )
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.sampled(4)
@decoders
def test_initial_values_follow_from_the_seed_and_the_backbone_s_are_the_classifier_s(decoder: str) -> None:
    first, second, other = (dense(mixer="linear", decoder=decoder, seed=seed) for seed in (1, 1, 2))
    classifier = models.create("vit-tiny", "linear", ODD, 7, seed=1, **SMALL).state_dict()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key])
        if key.startswith("backbone."):
            assert torch.equal(value, classifier[key.removeprefix("backbone.")])
    weights = [p.dim() > 1 and not torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True)]
    assert sum(weights) >= 5 * 4


@torch.no_grad()
def test_a_classifier_s_weights_are_a_backbone_s() -> None:
    classifier, model = vit(mixer="linear"), dense(mixer="linear").eval()
    models.load_initial(model.backbone, classifier.state_dict(), fresh_head=True, grid=(5, 3))
    x = torch.randn(2, 3, *ODD)
    assert torch.equal(model.backbone(x), classifier.forward_features(x))


def test_what_the_trainer_asks_of_a_model_is_the_backbone_s() -> None:
    model = dense("vit-tiny", "softmax", class_token=True)
    assert model.no_weight_decay() == {"backbone.pos_embed", "backbone.cls_token"} <= set(dict(model.named_parameters()))
    assert [tuple(x.shape) for x in model.example_inputs(2)] == [(2, 3, *ODD)]
    assert (model.config.mixer, model.num_classes) == ("softmax", 7)
    x = torch.randn(2, 3, *ODD)
    plain = model.eval()(x)
    model.set_grad_checkpointing()
    assert torch.equal(model(x), plain)


@pytest.mark.slow
@decoders
@torch.no_grad()
def test_a_dense_model_can_be_exported(decoder: str) -> None:
    model, x = dense("weightformer-tiny", decoder=decoder).eval(), torch.randn(2, 3, *ODD)
    near(torch.export.export(model, (x,)).module()(x), model(x), tolerance=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoder": "lineer"}, "unknown decoder\n.*'lineer'\n.*linear or dpt\n.*did you mean linear"),
        ({"name": "dit-s-8"}, "needs a ViT\n.*dit-s-8"),
        ({"num_classes": 0}, "num_classes = 0"),
        ({"pool": "mean"}, "pool = 'mean'(.*\n)*.*no pool"),
        ({"drop_pth": 0.1}, "unknown option(.*\n)*.*drop_path"),
        ({"decoder": "dpt", "depth": 3}, "cannot read this model\n.*depth = 3(.*\n)*.*decoder linear"),
        ({"decoder": "dpt", "patch_size": 14, "image_size": 28}, "patch_size = 14(.*\n)*.*power of two"),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(options: dict[str, object], words: str) -> None:
    if options.get("decoder") == "dpt":
        pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(InputError, match=words):
        create_dense(**({"name": "vit-tiny", "num_classes": 3} | options))


def test_without_its_package_dpt_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.base.initialization", None)
    with pytest.raises(InputError, match=r"needs segmentation-models-pytorch(.*\n)*.*pip install 'wfbench\[segmentation\]'"):
        create_dense("vit-tiny", num_classes=3, decoder="dpt")


@pytest.mark.slow
def test_the_blocks_that_dpt_reads_are_at_equal_distances() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    read = {depth: DPTDecoder(vit(depth=depth).config, 2).indices for depth in (4, 12, 17)}
    assert read == {4: [0, 1, 2, 3], 12: [2, 5, 8, 11], 17: [3, 7, 11, 16]}
    assert isinstance(dense(decoder="dpt").decoder, nn.Module)
