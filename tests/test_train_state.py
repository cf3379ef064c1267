"""The training step: accumulation, precision, averages, schedules, layer decay."""

import pytest
import torch
from helpers import all_near, near
from torch import nn
from torch.nn import functional as F

from wfbench import models
from wfbench import recipe as recipes
from wfbench.training import TrainState

STEPS = 7


def model_of(mixer="softmax", depth=2):
    torch.manual_seed(3)
    return models.create("vit-tiny", mixer, 8, 10, patch_size=2, embed_dim=16, depth=depth, num_heads=2, in_channels=1).double()


def state_of(*settings, model=None, loss=None):
    return TrainState(model or model_of(), recipes.load("digits", ["epochs=3", *settings]), STEPS, loss=loss)


def batch(size=12, seed=0, soft=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (size,), generator=generator)
    return x, F.one_hot(y, 10).double() * 0.8 + 0.02 if soft else y


def weights(state):
    return {name: p.detach().clone() for name, p in state.model.named_parameters()}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("size", [1, 4, 5, 12, 100])
@pytest.mark.parametrize("mixer", ["softmax", "weightformer"])
def test_micro_batches_add_up_to_the_whole_batch(size, mixer):
    whole, parts = state_of(model=model_of(mixer)), state_of(f"compute.micro_batch={size}", model=model_of(mixer))
    for k in range(3):
        a, b = whole.step(*batch(seed=k, soft=k == 1)), parts.step(*batch(seed=k, soft=k == 1))
        near(b.loss, a.loss, "loss")
        near(b.grad_norm, a.grad_norm, "gradient norm")
    all_near(weights(parts), weights(whole), "weight")


def test_a_sum_of_unweighted_parts_would_be_seen():
    """The check above fails for parts of unequal size that count alike: the wrong version this guards against."""
    x, y = batch()
    model = model_of()
    whole = F.cross_entropy(model(x), y)
    alike = torch.stack([F.cross_entropy(model(x[a:b]), y[a:b]) for a, b in ((0, 5), (5, 10), (10, 12))]).mean()
    assert (whole - alike).abs() > 1e-3


def test_the_average_follows_the_weights_by_its_decay():
    state = state_of("ema.decay=0.9")
    expected = weights(state)
    for k in range(4):
        state.step(*batch(seed=k))
        expected = {name: 0.9 * expected[name] + 0.1 * p for name, p in weights(state).items()}
    all_near(dict(state.ema.module.named_parameters()), expected, "average")
    assert not any(torch.equal(a, b) for a, b in zip(state.ema.module.parameters(), state.model.parameters(), strict=True))


def test_a_warm_average_begins_near_the_weights():
    slow, warm = state_of("ema.decay=0.9999"), state_of("ema.decay=0.9999", "ema.warmup=true")
    for k in range(5):
        slow.step(*batch(seed=k))
        warm.step(*batch(seed=k))

    def distance(state):
        return sum((a - b).norm() for a, b in zip(state.ema.module.parameters(), state.model.parameters(), strict=True))

    assert distance(warm) < 0.5 * distance(slow)


def test_the_constant_schedule_stays_after_its_warm_up():
    state = state_of("optim.schedule=constant", "optim.warmup_epochs=1", "optim.lr=1e-3", "optim.warmup_lr=0")
    used = [state.step(*batch(seed=k)).lr for k in range(3 * STEPS)]
    assert used[0] == used[1] == 0
    assert used[1 : STEPS + 1] == sorted(used[1 : STEPS + 1])
    assert used[STEPS + 1 :] == [pytest.approx(1e-3)] * (2 * STEPS - 1)


def test_layer_decay_gives_earlier_layers_smaller_rates():
    state = state_of("optim.layer_decay=0.5", "optim.warmup_epochs=0", "optim.lr=1e-3")
    names = {id(p): name for name, p in state.model.named_parameters()}
    rate = {names[id(p)]: group["lr"] for group in state.optimizer.param_groups for p in group["params"]}
    assert rate["head.weight"] == pytest.approx(1e-3)
    assert rate["blocks.1.fc2.weight"] == pytest.approx(rate["blocks.0.fc2.weight"] * 2)
    assert rate["patch_embed.proj.weight"] < rate["blocks.0.fc2.weight"]
    assert state.lr == pytest.approx(1e-3)
    assert state.step(*batch()).lr == pytest.approx(1e-3)


def test_bfloat16_autocast_keeps_weights_and_moments_in_float32():
    model = model_of().float()
    seen = []
    model.head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    state = state_of("compute.precision=bfloat16", model=model)
    x, y = batch()
    metrics = state.step(x.float(), y)
    assert seen == [torch.bfloat16]
    assert metrics.loss.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {m.dtype for moments in state.optimizer.state.values() for m in moments.values()} == {torch.float32}


def test_float16_skips_a_step_whose_gradients_overflow_and_lowers_the_scale():
    scale = 1.0

    def loss(model, inputs, targets, generator):
        return F.cross_entropy(model(inputs), targets) * scale

    state = state_of("compute.precision=float16", model=model_of().float(), loss=loss)
    x, y = batch()
    first = state.scaler.get_scale()
    before = weights(state)
    scale = float("inf")
    state.step(x.float(), y)
    assert all(torch.equal(before[name], p) for name, p in state.model.named_parameters())
    assert state.scaler.get_scale() == first / 2
    scale = 1.0
    state.step(x.float(), y)
    assert not all(torch.equal(before[name], p) for name, p in state.model.named_parameters())


def test_the_norm_that_is_reported_is_that_before_clipping_and_of_unscaled_gradients():
    x, y = batch()
    plain = state_of("optim.clip_grad=null").step(x, y)
    clipped = state_of("optim.clip_grad=0.01").step(x, y)
    assert float(clipped.grad_norm) == pytest.approx(float(plain.grad_norm))
    half = state_of("compute.precision=float16", model=model_of().float()).step(x.float(), y)
    assert float(half.grad_norm) == pytest.approx(float(plain.grad_norm), rel=0.05)


def test_grad_checkpointing_changes_nothing_but_memory():
    plain, again = state_of(), state_of("compute.grad_checkpointing=true")
    for k in range(2):
        plain.step(*batch(seed=k))
        again.step(*batch(seed=k))
    all_near(weights(again), weights(plain), "weight")
    assert again.model.grad_checkpointing


def test_channels_last_changes_nothing_but_the_layout():
    plain, other = state_of(), state_of("compute.channels_last=true")
    assert other.model.patch_embed.proj.weight.is_contiguous(memory_format=torch.channels_last)
    x, y = batch()
    plain.step(x, y)
    other.step(x.to(memory_format=torch.channels_last), y)
    all_near(weights(other), weights(plain), "weight")


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["softmax", "weightformer"])
def test_a_compiled_step_equals_the_plain_one(mixer):
    plain, compiled = state_of(model=model_of(mixer)), state_of("compute.compile=true", model=model_of(mixer))
    for k in range(2):
        plain.step(*batch(seed=k))
        compiled.step(*batch(seed=k))
    all_near(weights(compiled), weights(plain), "weight")
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_the_state_is_taken_up_exactly_scaler_and_average_too():
    settings = ["compute.precision=float16", "ema.decay=0.9", "model.drop_path=0.2"]

    def fresh():
        return state_of(*settings, model=model_of().float())

    whole, first = fresh(), fresh()
    torch.manual_seed(5)
    for k in range(5):
        whole.step(batch(seed=k)[0].float(), batch(seed=k)[1])
    torch.manual_seed(5)
    for k in range(2):
        first.step(batch(seed=k)[0].float(), batch(seed=k)[1])
    second = fresh()
    second.model.load_state_dict(first.model.state_dict())
    second.ema.module.load_state_dict(first.ema.module.state_dict())
    second.load(first.tensors(), first.random_states(), 2)
    torch.manual_seed(99)
    second.load(first.tensors(), first.random_states(), 2)
    for k in range(2, 5):
        second.step(batch(seed=k)[0].float(), batch(seed=k)[1])
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.ema.module.parameters(), second.ema.module.parameters(), strict=True))
    assert whole.scaler.state_dict() == second.scaler.state_dict()


def test_a_plain_module_can_be_trained_and_no_step_waits_for_the_device():
    state = TrainState(nn.Linear(3, 2), recipes.load("digits"), 2)
    metrics = state.step(torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    assert isinstance(metrics.loss, torch.Tensor)
    assert isinstance(metrics.grad_norm, torch.Tensor)
    assert not metrics.loss.requires_grad
