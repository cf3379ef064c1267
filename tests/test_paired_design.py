"""Initial values follow from the seed and the parameter's name: what two models share begins equal, bit for bit."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import ks_2samp
from torch import nn

import mixers
from wfbench import models
from wfbench import recipe as recipes
from wfbench.models import draws
from wfbench.tasks.jobs import classify

SMALL = {"image_size": 32, "num_classes": 10, "patch_size": 8, "embed_dim": 48, "num_heads": 4, "depth": 3}
#: Where two initialisers differ, a name is shared but no values: this bias is 0 in a Linear, and drawn in WeightFormer's.
OWN_INITIALISER = {"blocks.1.fc1.bias"}
#: The bound of a convolution's bias goes by the size of its kernel: 3x3 in some mixers, 5x5 or 7x7 in others.
OF_A_KERNEL = {f"blocks.{i}.mixer.{name}" for i in range(3) for name in ("bias", "lepe.bias")}


def values(name="vit-tiny", mixer=None, seed=0, **options):
    return models.create(name, mixer, seed=seed, **(SMALL | options)).state_dict()


def in_order(name="vit-tiny", mixer=None, seed=0):
    """The construction that was before: one stream of draws, in the order of construction."""
    torch.manual_seed(seed)
    return models.create(name, mixer, **SMALL).state_dict()


def unequal(found):
    """Names that two models have with one shape and different values."""
    first, different = {}, set()
    for state in found:
        for name, value in state.items():
            if not torch.equal(first.setdefault((name, value.shape), value), value):
                different.add(name)
    return different


@pytest.fixture(scope="module")
def all_mixers():
    return {mixer: values(mixer=mixer) for mixer in mixers.names()}


@pytest.mark.slow
def test_every_pair_of_mixers_begins_equal_in_all_that_both_have(all_mixers):
    assert unequal(all_mixers.values()) == OWN_INITIALISER | OF_A_KERNEL
    with_qkv = [state for state in all_mixers.values() if state.get("blocks.0.mixer.qkv.weight", torch.empty(0)).ndim == 2]
    assert len(with_qkv) > 5, "mixers share parameters inside their slots"


@pytest.mark.parametrize("name", ["weightformer-tiny", "dit-s-8", "weightformer-dit-s-8"])
def test_other_models_too(name):
    some = (
        "softmax",
        "linear",
        "weightformer",
        "wf-linear-deep",
        "static",
    )
    found = [values(name, mixer, image_size=64) for mixer in some]
    # A DiT gives the Linears of its blocks one initialiser, and a dynamic Linear keeps its own.
    assert unequal(found) <= OWN_INITIALISER | {"blocks.0.fc1.bias", "blocks.2.fc1.bias"}


@pytest.mark.parametrize("name", ["vit-tiny", "weightformer-tiny", "dit-s-8"])
def test_softmax_on_weightformer_s_schedule_begins_as_weightformer_does(name):
    control = values(name, "softmax", image_size=64, every=3, between="static")
    own, every_layer = (values(name, mixer, image_size=64) for mixer in ("weightformer", "softmax"))
    # A dynamic Linear keeps its own initialiser of the bias, and a DiT that of its Linears.
    assert unequal([control, own, every_layer]) <= OWN_INITIALISER | {"blocks.0.fc1.bias", "blocks.2.fc1.bias"}
    assert {"blocks.0.mixer.weight", "blocks.2.mixer.weight", "blocks.1.fc2.weight"} <= control.keys() & own.keys()
    assert {"blocks.1.mixer.qkv.weight"} <= control.keys() & every_layer.keys()


def test_the_old_construction_would_be_seen():
    different = unequal([in_order(mixer=mixer) for mixer in ("softmax", "linear", "weightformer", "pool")])
    assert {"blocks.1.fc2.weight", "head.weight"} <= different


@pytest.mark.slow
def test_every_distribution_is_what_the_constructors_make_it(all_mixers):
    for mixer, state in all_mixers.items():
        before, again = in_order(mixer=mixer), in_order(mixer=mixer, seed=1)
        for name, value in state.items():
            if torch.equal(before[name], again[name]):
                assert torch.equal(value, before[name]), f"{mixer}: {name} is a constant"
            elif value.numel() >= 16:
                p = ks_2samp(value.flatten().numpy(), before[name].flatten().numpy()).pvalue
                assert p > 1e-5, f"{mixer}: {name} has another distribution"


def largest_correlation(state, other):
    """Of two drawn tensors of one model with as many elements, in standard deviations of independent ones.

    What ``other``, of another seed, has too is not drawn: rates of decay, weights by distance.
    """
    drawn = [v.flatten().double().numpy() for k, v in state.items() if v.numel() >= 48 and not torch.equal(v, other[k])]
    pairs = [(a, b) for a, b in itertools.combinations(drawn, 2) if len(a) == len(b)]
    return max(abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5 for a, b in pairs)


@pytest.mark.slow
def test_no_two_names_share_draws(all_mixers, monkeypatch):
    assert max(largest_correlation(state, values(mixer=mixer, seed=1)) for mixer, state in all_mixers.items()) < 6
    monkeypatch.setattr(draws, "key_of", lambda seed, name, count: seed)
    assert largest_correlation(values(), values(seed=1)) > 6, "one key for all would be seen"


def test_another_seed_gives_other_values_and_the_same_one_the_same():
    first, again, other = values(), values(), values(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], other[name])} >= {"blocks.2.mixer.qkv.weight", "head.weight"}


@pytest.mark.parametrize(
    "options", [{"local_conv": "dwc"}, {"pos_embed": "none"}, {"pos_embed": "sincos"}, {"class_token": True}, {"depth": 4}]
)
def test_a_factor_moves_no_other_parameter(options):
    plain, other = values(), values(**options)
    assert unequal([plain, other]) == set()
    assert plain.keys() != other.keys()
    torch.manual_seed(0)
    shifted = models.create("vit-tiny", **(SMALL | options)).state_dict()
    assert unequal([in_order(), shifted]), "the old construction would be seen"


def test_pytorch_s_own_random_state_is_left_and_decides_without_a_seed():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    seeded = values()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(values()["head.weight"], seeded["head.weight"])
    a, b = in_order(seed=7), in_order(seed=8)
    assert not torch.equal(a["head.weight"], b["head.weight"])


def test_the_values_do_not_depend_on_the_default_device():
    with torch.device("meta"):
        assert models.create("vit-tiny", seed=0, **SMALL).head.weight.is_meta
    with torch.device("cpu"):
        assert torch.equal(values()["head.weight"], models.create("vit-tiny", seed=0, **SMALL).head.weight)


class Odd(nn.Module):
    """Initialisers of every kind, by a user who has heard of nothing."""

    def __init__(self, more=False, wide=()):
        super().__init__()
        if more:
            self.before = nn.Parameter(torch.randn(5, 5))
        self.linear = nn.Linear(6, 6)
        self.sliced = nn.Parameter(torch.zeros(8, 6))
        with torch.no_grad():
            self.sliced[:3].normal_()
            self.sliced[3:6].copy_(torch.rand(3, 6) * 2)
            self.sliced[7:] = self.sliced[:1] + 1
        self.turned = nn.Parameter(torch.linalg.qr(torch.randn(6, 6))[0])
        self.orthogonal = nn.Parameter(nn.init.orthogonal_(torch.empty(6, 6)))
        self.twin = nn.Parameter(self.linear.weight.detach().clone())
        # Drawn again until all of it lies in range: how often depends on the numbers.
        self.wide = nn.ParameterList(nn.init.trunc_normal_(torch.empty(n), std=2.0) for n in (*wide, 300, 400, 500))
        self.tail = nn.Parameter(nn.init.trunc_normal_(torch.empty(90), std=1.0, a=1.5, b=4.0))
        self.register_buffer("order", torch.randperm(50))
        self.plain = torch.randn(9)
        self.zero = nn.Parameter(torch.randn(4) * 0)


def test_a_user_s_module_needs_no_cooperation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a, b = models.draw_by_name(3, Odd), models.draw_by_name(3, lambda: Odd(more=True))
    for name, value in (a.state_dict() | {"plain": a.plain}).items():
        assert torch.equal(value, (b.state_dict() | {"plain": b.plain})[name]), name
    other = models.draw_by_name(4, Odd)
    assert not any(torch.equal(v, other.state_dict()[k]) for k, v in a.state_dict().items() if k not in ("zero", "linear.bias"))
    assert torch.equal(a.twin, a.linear.weight), "copies begin equal"
    assert torch.equal(a.sliced[7], a.sliced[0] + 1)
    assert a.sliced[6].eq(0).all()
    assert torch.allclose(a.orthogonal @ a.orthogonal.T, torch.eye(6), atol=1e-5)
    assert a.tail.min() >= 1.5
    assert all(p.abs().max() <= 2 and p.std() > 0.8 for p in a.wide)


def test_draws_that_are_overwritten_count_for_nothing():
    def twice():
        layer = nn.Linear(6, 6)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        return layer

    def once():
        layer = nn.Linear(6, 6, bias=False, device="meta").to_empty(device="cpu")
        nn.init.trunc_normal_(layer.weight, std=0.02)
        return layer

    assert torch.equal(models.draw_by_name(0, twice).weight, models.draw_by_name(0, once).weight)


def test_a_constructor_that_never_draws_alike_is_told_and_still_built():
    builds = itertools.count()

    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            for k in range(next(builds)):
                setattr(self, f"p{k}", nn.Parameter(torch.randn(2)))
            self.z = nn.Parameter(torch.randn(2))

    with pytest.warns(UserWarning, match="depends on the numbers drawn"):
        assert models.draw_by_name(0, Restless).z.shape == (2,)


def test_a_task_draws_its_model_by_name_and_a_fresh_head_too(tmp_path: Path):
    settings = ["model.embed_dim=48", "model.depth=3", "model.num_heads=4", "seed=5"]
    begun = {
        mixer: classify.prepare(recipes.load("digits", [*settings, f"model.mixer={mixer}"])).model.state_dict()
        for mixer in ("softmax", "weightformer")
    }
    assert unequal(begun.values()) == OWN_INITIALISER
    other = begun["softmax"] | {"head.weight": torch.zeros(3, 48), "head.bias": torch.zeros(3)}
    save_file(other, tmp_path / "other.safetensors")
    tuned = [*settings, "model.mixer=softmax", f"model.init_weights={tmp_path / 'other.safetensors'}", "model.init_head=fresh"]
    assert torch.equal(classify.prepare(recipes.load("digits", tuned)).model.head.weight, begun["softmax"]["head.weight"])
