from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import assert_batch_independent, assert_equals_naive, far, near, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers import agent, bi_gla, hydra, nystrom, performer, vssd
from mixers.base import Grid, naive_rotary_2d
from wfbench.measure import count_flops

GRIDS = [(4, 6), (5, 7), (3, 2)]
OPTIONS: list[tuple[str, dict[str, object]]] = [
    ("agent", {"local": False}),
    ("agent", {"agents": 4, "qkv_bias": False}),
    ("agent", {"agents": 9, "rope": True}),
    ("hydra", {"qkv_bias": False}),
    ("hydra", {"rope": True}),
    ("performer", {"features": 5, "qkv_bias": False}),
    ("performer", {"rope": True}),
    ("nystrom", {"local": False}),
    ("nystrom", {"landmarks": 4, "iterations": 2, "qkv_bias": False}),
    ("nystrom", {"landmarks": 5, "rope": True}),
    ("vssd", {"local": False}),
    ("vssd", {"norm": False, "state": 5}),
    ("bi-gla", {"norm": False, "rank": 3}),
    ("bi-gla", {"chunk": 1, "qkv_bias": False}),
    ("bi-gla", {"chunk": 2}),
    ("bi-gla", {"chunk": 8}),
]
NAMES = sorted({name for name, _ in OPTIONS})
with_options = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value))


def made(name: str, dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create(name, 24, num_heads=3, grid=(4, 6), **options).to(dtype))


def qkv(batch: int = 2, n: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k, v (B, h, N, d) of three heads."""
    q, k, v = torch.randn(3, batch, 3, n, 8, dtype=torch.float64)
    return q, k, v


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return mixers.create("softmax", 24, num_heads=3).naive_attend(q, k, v)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", GRIDS)
@with_options
def test_a_mixer_with_options_equals_its_naive_form(name: str, options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(name, **options), tokens(batch, grid), grid)


@pytest.mark.sampled(12)
@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((9, 8), 3)])
@with_options
def test_the_declared_work_with_options_is_the_counted_work(
    name: str, options: dict[str, object], grid: Grid, batch: int
) -> None:
    layer = made(name, torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.elementwise * batch == layer.elementwise(grid, batch)
    assert count.macs * batch == layer.macs(grid, batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_half_precision_is_near_float64(name: str, dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create(name, 24, num_heads=3), std=0.02).to(dtype)
    x = tokens(2, (6, 7), dtype=dtype)
    y = layer(x, (6, 7))
    exact = layer.double()(x.double(), (6, 7))
    assert y.dtype == dtype
    assert ((y - exact).norm() / exact.norm()).item() < (0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_mixer_compiles_in_one_piece(name: str) -> None:
    layer, x = made(name), tokens(2, (4, 6))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (4, 6)), layer(x, (4, 6)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("agent", {"agents": 48}, "got agents = 48, expected 1, 4, 9"),
        ("agent", {"agents": 0}, "got agents = 0"),
        ("performer", {"features": 0}, "got features = 0, expected at least 1"),
        ("nystrom", {"landmarks": 0}, "got landmarks = 0 and iterations = 6, expected at least 1"),
        ("nystrom", {"iterations": 0}, "iterations = 0, expected at least 1"),
        ("vssd", {"state": 0}, "got state = 0, expected at least 1"),
        ("bi-gla", {"chunk": 3}, "got chunk = 3, expected a power of two"),
        ("bi-gla", {"chunk": 0}, "got chunk = 0, expected a power of two"),
        ("bi-gla", {"rank": 0}, "got rank = 0, expected at least 1"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(mixers.MixerError, match=message):
        made(name, **options)


# --- agent


def test_agents_give_back_values_that_are_all_the_same() -> None:
    (q, k, _), a = qkv(), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    v = torch.randn(2, 3, 1, 8, dtype=torch.float64).expand(-1, -1, 24, -1)
    near(agent.agent_attention(q, k, v, a), v)


def test_both_matrices_of_agent_attention_are_row_stochastic() -> None:
    (q, k, v), a = qkv(), torch.randn(2, 3, 9, 8, dtype=torch.float64)
    to_agents, to_keys = agent.agent_weights(q, a), agent.agent_weights(a, k)
    for weights in (to_agents, to_keys):
        assert (weights > 0).all()
        near(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    near(agent.agent_attention(q, k, v, a), to_agents @ (to_keys @ v))


def test_a_single_agent_leaves_no_difference_between_tokens() -> None:
    y = made("agent", agents=1, local=False)(tokens(2, (4, 6)), (4, 6))
    near(y, y[:, :1].expand(-1, 24, -1))
    y = made("agent", agents=4, local=False)(tokens(2, (4, 6)), (4, 6))
    assert far(y, y[:, :1].expand(-1, 24, -1))


# --- hydra


def test_hydra_is_linear_attention_with_a_head_for_each_channel() -> None:
    q, k, v = torch.randn(3, 2, 1, 24, 24, dtype=torch.float64)
    unit_q, unit_k = (t / t.norm(dim=-1, keepdim=True) for t in (q, k))
    heads = [t.squeeze(1).mT.unsqueeze(-1) for t in (unit_q, unit_k, v)]  # (B, C, N, 1): C heads of one channel
    by_heads = torch.einsum("bhnd,bhmd,bhme->bhne", *heads).squeeze(-1).mT.unsqueeze(1)
    near(made("hydra").attend(q, k, v), by_heads)


def test_hydras_core_doubles_when_every_token_comes_twice() -> None:
    layer, (q, k, v) = made("hydra"), torch.randn(3, 2, 1, 24, 24, dtype=torch.float64)
    twice = layer.attend(*(torch.cat([t, t], dim=2) for t in (q, k, v)))
    near(twice, 2 * layer.attend(q, k, v).repeat(1, 1, 2, 1))


def test_hydra_gives_zero_for_a_token_of_length_zero() -> None:
    layer, q, k, v = made("hydra"), *torch.randn(3, 2, 1, 6, 24)
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(layer.attend(0 * q.to(dtype), k.to(dtype), v.to(dtype)), torch.zeros_like(v, dtype=dtype))


# --- performer


def performers_error(features: int) -> float:
    """The root mean square error against softmax attention, over 40 draws of the features."""
    torch.manual_seed(5)
    q, k, v = qkv(1, 16)
    q, k = q / 2, k / 2  # long ones have features with so heavy a tail that the rate shows only at many more of them
    expected = softmax_attention(q, k, v)
    errors = [made("performer", features=features).attend(q, k, v) - expected for _ in range(40)]
    return torch.stack(errors).square().mean().sqrt().item()


@pytest.mark.slow
@torch.no_grad()
def test_performer_comes_to_softmax_attention_as_one_over_the_root_of_its_features() -> None:
    few, more, most = (performers_error(features) for features in (64, 1024, 16384))
    assert few > more > most
    assert 2.5 < few / more < 5.5, "16 times the features, 4 times as near"
    assert 2.5 < more / most < 5.5
    assert most < 0.005


@torch.no_grad()
def test_turned_performer_comes_to_turned_softmax_attention() -> None:
    torch.manual_seed(5)
    q, k, v = qkv(1, 24)
    q, k = q / 2, k / 2
    turn = partial(naive_rotary_2d, grid=(4, 6))
    expected = softmax_attention(turn(q), turn(k), v)
    y = torch.stack([made("performer", features=16384).attend(q, k, v, turn) for _ in range(4)]).mean(dim=0)
    near(y, expected, tolerance=0.03)
    assert far(y, softmax_attention(q, k, v))


def test_the_random_features_are_orthogonal_in_blocks_and_as_long_as_normal_ones() -> None:
    torch.manual_seed(6)
    rows = performer.orthogonal_gaussian(20, 8).double()
    for block in rows.split(8):
        gram = block @ block.T
        near(gram, torch.diag(gram.diagonal()), tolerance=1e-5)
    many = performer.orthogonal_gaussian(40_000, 8)
    near(many.T @ many / 40_000, torch.eye(8), tolerance=0.05)
    near(many.square().sum(dim=1).var(), torch.tensor(16.0), tolerance=1.0)  # of chi-squared with 8 degrees of freedom


def test_performer_takes_its_features_from_the_seed_and_keeps_them_in_its_state() -> None:
    torch.manual_seed(1)
    one, two = mixers.create("performer", 24, num_heads=3), mixers.create("performer", 24, num_heads=3)
    torch.manual_seed(1)
    again = mixers.create("performer", 24, num_heads=3)
    assert torch.equal(one.projection, again.projection)
    assert far(one.projection, two.projection)
    assert one.projection.shape == (17, 8), "8 ln 8 = 16.6"
    two.load_state_dict(one.state_dict())
    x = tokens(2, (4, 6), dtype=torch.float32)
    assert torch.equal(one(x, (4, 6)), two(x, (4, 6)))


@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0])
def test_performer_stays_finite_where_exponentials_do_not(scale: float) -> None:
    q, k, v = (t.float().requires_grad_() for t in qkv())
    y = made("performer", torch.float32).attend(scale * q, scale * k, v)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (q, k, v)))
    low, high = v.amin(dim=2, keepdim=True), v.amax(dim=2, keepdim=True)
    assert ((y >= low - 1e-4) & (y <= high + 1e-4)).all(), "an average of values lies among them"


# --- nystrom


@pytest.mark.parametrize("landmarks", [24, 100])
def test_as_many_landmarks_as_tokens_give_softmax_attention(landmarks: int) -> None:
    q, k, v = qkv()
    near(nystrom.nystrom_attention(q, k, v, 24, 30), softmax_attention(q, k, v), tolerance=1e-6)
    layer, x = made("nystrom", landmarks=landmarks, iterations=40, local=False), tokens(2, (4, 6))
    softmax = mixers.create("softmax", 24, num_heads=3).double()
    softmax.load_state_dict(layer.state_dict())
    near(layer(x, (4, 6)), softmax(x, (4, 6)), tolerance=1e-6)


@pytest.mark.parametrize("landmarks", [1, 4, 9])
def test_the_iteration_comes_to_the_pseudo_inverse(landmarks: int) -> None:
    a = torch.randn(2, 3, landmarks, landmarks, dtype=torch.float64).softmax(dim=-1)
    near(nystrom.pseudo_inverse(a, 30), torch.linalg.pinv(a), tolerance=1e-6)
    if landmarks > 1:
        assert far(nystrom.pseudo_inverse(a, 1), torch.linalg.pinv(a))


def test_the_convolution_of_nystrom_reaches_16_tokens_along_the_sequence() -> None:
    layer, x = made("nystrom", landmarks=1), tokens(1, (5, 16))
    nn.init.zeros_(layer.qkv.weight[:48])  # q and k the same for all tokens: the attention is a mean
    moved = x.clone()
    moved[:, 40] += 1
    difference = layer(moved, (5, 16)) - layer(x, (5, 16))
    changed = (difference - difference[:, :1]).abs().amax(dim=(0, 2)) > 1e-9
    assert changed.nonzero().flatten().tolist() == list(range(24, 57))


# --- vssd


def test_the_core_of_vssd_is_its_quadratic_form_and_equivariant() -> None:
    v, b, c = (torch.randn(2, 24, width, dtype=torch.float64) for width in (24, 5, 5))
    weight, order = torch.rand(2, 24, 3, dtype=torch.float64), torch.randperm(24)
    y = vssd.state_space(v, b, c, weight)
    near(y, vssd.quadratic_state_space(v, b, c, weight))
    near(vssd.state_space(*(t[:, order] for t in (v, b, c, weight))), y[:, order])
    near(vssd.state_space(*(t.repeat(1, 2, 1) for t in (v, b, c, weight)))[:, :24], 2 * y)


def test_vssd_is_a_set_function_only_without_its_convolution() -> None:
    x, order = tokens(2, (4, 6)), torch.randperm(24)
    layer = made("vssd", local=False)
    near(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])
    layer = made("vssd")
    assert far(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])


def test_vssds_state_stays_in_float16_where_its_result_does() -> None:
    n = 16384
    v, b, weight = (torch.ones(1, n, width).half() for width in (4, 2, 1))
    c = torch.full((1, n, 2), 1.5).half()
    b = b * 8  # Σ bv = 131072 is beyond float16
    c[..., 1] = -1.0
    assert torch.equal(vssd.state_space(v, b, c, weight / 8), torch.full((1, n, 4), 8192.0).half())


# --- bi-gla


def gates(n: int = 24, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, n, 8, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 2, 8, 64, 1024])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 35, 64, 100])
def test_chunks_equal_the_recurrence(n: int, chunk: int) -> None:
    inputs = *qkv(n=n), gates(n), gates(n)
    near(bi_gla.bidirectional(*inputs, chunk), bi_gla.recurrent_bidirectional(*inputs))


@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_gates_of_one_give_linear_attention_without_a_denominator(chunk: int) -> None:
    q, k, v = qkv(n=35)
    open_ = torch.ones_like(q)
    near(bi_gla.bidirectional(q, k, v, open_, open_, chunk), q @ (k.mT @ v))


def test_gates_of_zero_leave_each_token_to_itself() -> None:
    q, k, v = qkv(n=35)
    shut = torch.zeros_like(q)
    near(bi_gla.bidirectional(q, k, v, shut, shut, 8), (q * k).sum(dim=-1, keepdim=True) * v)


def test_a_reversed_sequence_with_the_directions_exchanged_is_the_reversed_result() -> None:
    (q, k, v), a, b = qkv(n=35), gates(35), gates(35)
    flipped = bi_gla.bidirectional(*(t.flip(2) for t in (q, k, v, b, a)), 8)
    near(flipped, bi_gla.bidirectional(q, k, v, a, b, 8).flip(2))
    assert far(bi_gla.bidirectional(q, k, v, b, a, 8), bi_gla.bidirectional(q, k, v, a, b, 8))


@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0])
def test_bi_gla_stays_finite_at_gates_of_zero_and_one(logit: float) -> None:
    layer, x = made("bi-gla", torch.float32), tokens(2, (9, 8), dtype=torch.float32)
    nn.init.constant_(layer.forward_gate[1].bias, logit)
    y = layer(x, (9, 8))
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), list(layer.parameters())))


# --- wrong versions


def unscaled_agents(q: Tensor, k: Tensor, v: Tensor, agents: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, agents, F.scaled_dot_product_attention(agents, k, v), scale=1.0)


def unit_over_tokens(x: Tensor) -> Tensor:
    return x / x.norm(dim=-2, keepdim=True)


def without_denominator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ (k.mT @ v)


def scaled_over_the_batch(a: Tensor, iterations: int) -> Tensor:
    z = a.mT / a.sum(dim=-2).max()
    for _ in range(iterations):
        m = a @ z
        z = (13 * z - z @ (15 * m - m @ (7 * m - m @ m))) / 4
    return z


def weighted_at_the_reader(v: Tensor, b: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    return (c @ (b.mT @ v)).unflatten(2, (weight.shape[2], -1)).mul(weight.unsqueeze(-1)).flatten(2)


right_scan = bi_gla.gated_scan


def gated_one_token_late(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chunk: int) -> Tensor:
    return right_scan(q, k, v, gate.roll(1, 2), chunk)


def diagonal_twice(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chunk: int) -> Tensor:
    return right_scan(q, k, v, gate, chunk) + (q * k).sum(dim=-1, keepdim=True) * v


@pytest.mark.parametrize(
    ("name", "module", "function", "wrong"),
    [
        ("agent", agent, "agent_attention", unscaled_agents),
        ("hydra", hydra, "_unit", unit_over_tokens),
        ("performer", performer, "linear_attention", without_denominator),
        ("nystrom", nystrom, "pseudo_inverse", scaled_over_the_batch),
        ("vssd", vssd, "state_space", weighted_at_the_reader),
        ("bi-gla", bi_gla, "gated_scan", gated_one_token_late),
        ("bi-gla", bi_gla, "gated_scan", diagonal_twice),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_wrong_version_is_seen_red(name: str, module, function: str, wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(name), tokens(2, (5, 7))
    assert_equals_naive(layer, x, (5, 7))
    monkeypatch.setattr(module, function, wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


def test_a_scale_over_the_batch_lets_images_leak_and_is_seen_red(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made("nystrom"), tokens(2, (5, 7))
    assert_batch_independent(layer, x, (5, 7))
    monkeypatch.setattr(nystrom, "pseudo_inverse", scaled_over_the_batch)
    with pytest.raises(AssertionError, match="of the batch: differs"):
        assert_batch_independent(layer, x, (5, 7))
