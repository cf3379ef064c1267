"""Drop-path and dropout follow from (seed, epoch, step, layer, sample), whatever else draws."""

import pytest
import torch
from helpers import all_near, near
from timm.layers import DropPath
from torch import nn

import mixers
from wfbench import models
from wfbench import recipe as recipes
from wfbench.training import TrainingDraws, TrainState, drop

STEPS = 7
SOURCE = """
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn import functional as F
from mixers.base import split_heads


class {name}(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.drop, self.channels, self.path = nn.Dropout(0.3), nn.Dropout1d(0.3), DropPath(0.4)

    def forward(self, x, grid):
        q, k, v = (split_heads(t, 2).flatten(0, 1) for t in self.qkv(x).chunk(3, dim=2))  # (2B, N, d)
        mixed = self.drop((q @ k.mT).softmax(dim=-1)) @ v
        y = self.channels(mixed.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2))
        return {last}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's mixers: with dropout as modules, and with functional dropout and noise beside it."""
    file = tmp_path_factory.mktemp("own") / "own.py"
    noise = "F.dropout(self.path(y), 0.2, self.training) + (0.1 * torch.randn_like(y) if self.training else 0)"
    file.write_text(SOURCE.format(name="Modules", last="self.path(y)") + SOURCE.format(name="Functional", last=noise))
    return {name: f"{file}:{name}" for name in ("Modules", "Functional")}


def state_of(mixer, *settings, positions=None, dtype=torch.float64, seed=0):
    size = {"patch_size": 2, "embed_dim": 16, "depth": 3, "in_channels": 1, "drop_path": 0.5, "seed": 3}
    model = models.create("vit-tiny", mixer, 8, 10, **size).to(dtype)
    recipe = recipes.load("digits", ["epochs=3", f"seed={seed}", *settings])
    return TrainState(model, recipe, STEPS, positions=positions)


def batch(size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64), torch.arange(size) % 10


def weights(state):
    return {name: p.detach().clone() for name, p in state.model.named_parameters()}


def paths(state, steps=1, rows=None):
    """Which samples each layer kept in each step, (passes, layers, B)."""
    kept, hooks = [], []
    for block in state.model.blocks:
        hooks.append(block.drop_path2.register_forward_hook(lambda m, args, y: kept.append(y.flatten(1).any(dim=1))))
    for k in range(steps):
        x, y = batch(seed=k)
        state.step(*((x, y) if rows is None else (x[rows], y[rows])))
    for hook in hooks:
        hook.remove()
    return torch.cat(kept).view(steps, -1) if rows is None else torch.stack(kept)


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_passes_of_fewer_samples_add_up_to_the_whole_batch(size, own):
    whole, parts = state_of(own["Modules"]), state_of(own["Modules"], f"compute.micro_batch={size}")
    for k in range(3):
        a, b = whole.step(*batch(seed=k)), parts.step(*batch(seed=k))
        near(b.loss, a.loss, "loss")
        near(b.grad_norm, a.grad_norm, "gradient norm")
    all_near(weights(parts), weights(whole), "weight")


def test_draws_from_the_global_stream_would_be_seen(own, monkeypatch):
    monkeypatch.setattr(drop, "_OWN", {})
    monkeypatch.setattr(TrainingDraws, "_seed_slot", lambda self, *call: None)
    whole, parts = state_of(own["Modules"]), state_of(own["Modules"], "compute.micro_batch=5")
    assert (whole.step(*batch()).loss - parts.step(*batch()).loss).abs() > 1e-4
    assert not torch.equal(paths(state_of("softmax")), paths(state_of(own["Modules"])))


def test_models_drop_the_same_paths_whatever_their_mixers_draw(own):
    plain = paths(state_of("softmax"), steps=3)
    assert 0.2 < plain[:, 12:].float().mean() < 0.9
    for mixer in ("pool", own["Modules"], own["Functional"]):
        assert torch.equal(paths(state_of(mixer), steps=3), plain)
    assert not torch.equal(paths(state_of("softmax", seed=1), steps=3), plain)
    assert len({tuple(row.tolist()) for row in plain}) == 3, "each step drops others"
    assert not torch.equal(plain[0, 12:24], plain[0, 24:]), "so does each layer"


def test_processes_drop_the_paths_of_their_own_samples():
    rows = [2, 3, 8, 9]
    whole = paths(state_of("softmax")).view(3, 12)
    assert torch.equal(paths(state_of("softmax", positions=rows), rows=rows), whole[:, rows])
    assert not torch.equal(paths(state_of("softmax"), rows=rows), whole[:, rows])


@pytest.mark.parametrize("mixer", ["Modules", "Functional"])
def test_recomputed_blocks_draw_the_same(mixer, own):
    plain, again = state_of(own[mixer]), state_of(own[mixer], "compute.grad_checkpointing=true")
    for k in range(2):
        near(again.step(*batch(seed=k)).grad_norm, plain.step(*batch(seed=k)).grad_norm, "gradient norm")
    all_near(weights(again), weights(plain), "weight")


def test_functional_draws_follow_from_the_layer_and_the_step_alone(own):
    def drawn(state, k=0):
        seen = {}
        for i, block in enumerate(state.model.blocks):
            block.mixer.register_forward_hook(lambda m, args, y, i=i: seen.__setitem__(i, torch.rand(5)))
        state.step(*batch(seed=k))
        return seen

    first, other = state_of(own["Functional"]), state_of(own["Functional"])
    torch.manual_seed(99)
    other.model.blocks[0].mixer = mixers.create("identity", 16)  # it draws nothing, and has no seed of its own
    a, b = drawn(first), drawn(other)
    assert torch.equal(a[1], b[1])
    assert torch.equal(a[2], b[2])
    assert not torch.equal(a[1], a[2])
    assert not torch.equal(drawn(first)[1], a[1]), "another step draws others"


def test_a_step_leaves_pytorch_s_random_state_and_does_not_depend_on_it(own):
    a, b = state_of(own["Functional"]), state_of(own["Functional"])
    a.step(*batch())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    b.step(*batch())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_a_later_step_needs_no_earlier_one(own):
    """So a resume draws what the run that was not stopped draws."""
    whole, late = state_of(own["Functional"]), state_of(own["Functional"])
    for k in range(9):
        whole.step(*batch(seed=k))
    late.step_count = 9
    late.model.load_state_dict(whole.model.state_dict())
    near(late.step(*batch()).grad_norm, whole.step(*batch()).grad_norm, "gradient norm")


def test_evaluation_drops_nothing_and_draws_nothing(own):
    state = state_of(own["Modules"])
    state.step(*batch())
    x, before = batch()[0], torch.get_rng_state()
    state.model.eval()
    first = state.model(x)
    assert torch.equal(first, state.model(x))
    assert torch.equal(torch.get_rng_state(), before)


LAYERS = {
    "path": (DropPath(0.3), (600, 4, 5), (1, 2)),
    "path of windows": (DropPath(0.3), (1200, 4, 5), (1, 2)),
    "unscaled": (DropPath(0.3, scale_by_keep=False), (600, 4, 5), (1, 2)),
    "dropout": (nn.Dropout(0.3), (600, 4, 5), ()),
    "heads in the batch": (nn.Dropout(0.3), (1800, 5), ()),
    "1d": (nn.Dropout1d(0.3), (600, 4, 5), (2,)),
    "2d": (nn.Dropout2d(0.3), (600, 4, 5, 6), (2, 3)),
    "3d": (nn.Dropout3d(0.3), (600, 4, 2, 2, 3), (2, 3, 4)),
    "in place": (nn.Dropout(0.3, inplace=True), (600, 4, 5), ()),
    "all": (nn.Dropout(1.0), (600, 4), ()),
}


@pytest.mark.parametrize("case", LAYERS)
def test_what_is_dropped_is_what_the_layer_s_own_class_drops(case):
    layer, shape, together = LAYERS[case]
    model = nn.Sequential(layer).train()
    scale = {"unscaled": 1.0, "all": 0.0}.get(case, 1 / 0.7)
    draws = TrainingDraws(model, 0)
    x = torch.rand(shape) + 0.5
    with draws.of_pass(0, 0, range(600), torch.device("cpu")):
        before = torch.get_rng_state()
        ratio = model(x.clone()) / x
        assert torch.equal(torch.get_rng_state(), before), "masks are computed, not drawn"
    kept = ratio > 0
    near(ratio, kept * scale, "scale", 1e-5)
    if together:
        assert torch.equal(kept.all(dim=together), kept.any(dim=together)), "what is dropped together"
    expected, n = (0.0 if case == "all" else 0.7), kept.amax(dim=together).numel() if together else kept.numel()
    assert abs(kept.float().mean() - expected) < 4.5 * (0.21 / n) ** 0.5
    outside = model(x.clone())  # as the class does it, from PyTorch's state
    assert ((outside > 0).float().mean() - expected).abs() < 0.06


def test_masks_of_samples_layers_and_elements_are_independent():
    draws = TrainingDraws(nn.ModuleList(nn.Dropout(0.5) for _ in range(4)), 0)
    x = torch.ones(64, 300)
    with draws.of_pass(0, 0, range(64), torch.device("cpu")):
        masks = torch.stack([layer(x) - 1 for _, layer in draws.layers]).flatten(0, 1)  # (4·64, 300), of 1 and -1
    alike = (masks @ masks.T / 300**0.5).fill_diagonal_(0)
    assert alike.abs().max() < 5.5
    assert 0.95 < alike.std() < 1.05
    assert (masks.mean(dim=0) * 256**0.5).std() < 1.2
    assert (masks[:, 1:] * masks[:, :-1]).mean().abs() < 4.5 / masks[:, 1:].numel() ** 0.5


def test_the_layers_stay_what_they_are():
    model = nn.Sequential(nn.Dropout(0.3), DropPath(0.2), nn.AlphaDropout(0.2))
    seen = []
    model[0].register_forward_hook(lambda *args: seen.append(1))
    before, names = list(model), list(model.state_dict())
    TrainingDraws(model, 0)
    assert all(a is b for a, b in zip(model, before, strict=True))
    assert isinstance(model[0], nn.Dropout)
    assert model[0].p == 0.3
    assert list(model.state_dict()) == names
    model(torch.rand(2, 3))
    assert seen == [1]


@pytest.mark.slow
def test_a_compiled_step_drops_what_the_plain_one_drops(own):
    plain = state_of(own["Modules"], "compute.micro_batch=5")
    compiled = state_of(own["Modules"], "compute.micro_batch=5", "compute.compile=true")
    for k in range(3):
        near(compiled.step(*batch(seed=k)).grad_norm, plain.step(*batch(seed=k)).grad_norm, "gradient norm")
    all_near(weights(compiled), weights(plain), "weight")
