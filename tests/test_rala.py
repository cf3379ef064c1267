from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import assert_equals_naive, far, golden, near, same_function, tokens
from rival_checks import (
    assert_compiles,
    assert_golden,
    assert_holds_16_bits,
    assert_trains_in_autocast,
    assert_work,
    loaded,
    made,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers import base, rala
from mixers.base import Grid, naive_rotary_2d, rotary_2d, rotary_speeds

FILES = ["mixer_rala", "mixer_rala_grid5x7", "mixer_rala_norope"]
OPTIONS: list[dict[str, object]] = [
    {},
    {"rope": False, "local": False},
    {"gate": False, "key_weights": False},
    {"key_weights": False, "rope": False, "local": False},
]
TYPES = [torch.float16, torch.bfloat16]


def core(n: int = 35) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of three heads of eight features."""
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 3, n, 8, dtype=torch.float64))
    return q, k, v


@pytest.mark.parametrize("file", FILES)
def test_it_gives_the_output_and_every_gradient_of_the_authors_code(file: str) -> None:
    assert_golden("rala", file)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(5, 7), (1, 6)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made("rala", grid, **options), tokens(batch, grid), grid)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((4, 6), 3)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_work("rala", options, grid, batch)


def test_its_macs_are_those_of_the_authors_code() -> None:
    n, c, d = 35, 24, 8
    assert made("rala").macs((5, 7)) == 5 * n * c**2 + 2 * n * c * d + 2 * n * c + 25 * n * c


def test_it_equals_its_weights_token_by_token() -> None:
    (q, k, v), turn = core(6), partial(naive_rotary_2d, grid=(2, 3), ends=True)
    phi_q, phi_k, y = F.elu(q) + 1, F.elu(k) + 1, torch.zeros_like(v)
    scores = torch.stack([(phi_q.mean(dim=2) * phi_k[:, :, j]).sum(-1, keepdim=True) / 8**0.5 for j in range(6)])
    a = 6 * scores.exp() / scores.exp().sum(dim=0)
    turned_q, turned_k = turn(phi_q), turn(phi_k)
    for i in range(6):
        below = sum(a[j] * (phi_q[:, :, i] * phi_k[:, :, j]).sum(-1, keepdim=True) for j in range(6)) + 6e-6
        for j in range(6):
            y[:, :, i] += a[j] * (turned_q[:, :, i] * turned_k[:, :, j]).sum(-1, keepdim=True) * v[:, :, j] / below
    same_function(made("rala").attend(q, k, v, turn), y, q, k, v)


def test_weights_of_one_give_linear_attention_with_elu_plus_one() -> None:
    q, k, v = core()
    linear = mixers.create("linear", 24, num_heads=3).double()
    y = made("rala", key_weights=False).attend(q, k, v)
    mean = ((F.elu(q) + 1) * (F.elu(k) + 1).mean(dim=2, keepdim=True)).sum(dim=-1, keepdim=True)
    same_function(y, linear.attend(q, k, v) * mean / (mean + 1e-6), q, k, v)  # the 1e-6 is added to the mean
    assert far(made("rala").attend(q, k, v), y)
    alike = k[:, :, :1].expand(-1, -1, 35, -1)  # keys that are all the same have weight 1
    near(made("rala").attend(q, alike, v), made("rala", key_weights=False).attend(q, alike, v))


def test_the_weights_of_the_keys_have_mean_one_over_the_tokens_of_each_head() -> None:
    q, k, _ = core()
    near(rala.key_weights(q, k).sum(dim=2), torch.ones(2, 3, 1, dtype=torch.float64))
    near(rala.key_weights(q, k), rala.naive_key_weights(q, k))
    big = rala.key_weights(1000 * q.float(), k.float())  # scores far beyond the range of an exponential
    assert big.isfinite().all()
    near(big.sum(dim=2), torch.ones(2, 3, 1))


@pytest.mark.parametrize("file", FILES[:2])
def test_its_rotation_has_the_sines_and_cosines_of_the_authors_tables(file: str) -> None:
    meta, tensors = golden(file)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    n, d = tensors["buffer.cos"].shape
    ones = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(d // 2).expand(n, d)
    expected = torch.stack([tensors["buffer.cos"][:, ::2], tensors["buffer.sin"][:, ::2]], dim=-1).flatten(1)
    for rotate in (rotary_2d, naive_rotary_2d):
        near(rotate(ones, grid, ends=True), expected)
    assert far(rotary_2d(ones, grid), expected)


def test_its_angles_end_at_one_ten_thousandth() -> None:
    assert rotary_speeds(4, 10000.0, True) == [1.0]
    assert rotary_speeds(16, 10000.0, True) == pytest.approx([1, 10000 ** (-1 / 3), 10000 ** (-2 / 3), 1e-4], rel=1e-12)
    assert rotary_speeds(16, 10000.0, False) == pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-12)


@torch.no_grad()
def test_each_part_is_off_where_its_weights_say_so() -> None:
    layer, x = made("rala", rope=False), tokens(2, (5, 7))
    nn.init.zeros_(layer.lepe.weight)
    nn.init.zeros_(layer.lepe.bias)
    nn.init.zeros_(layer.qkvo.weight[72:])
    nn.init.ones_(layer.qkvo.bias[72:])
    off = made("rala", local=False, gate=False, rope=False)
    state = layer.state_dict() | {"qkvo.weight": layer.qkvo.weight[:72], "qkvo.bias": layer.qkvo.bias[:72]}
    off.load_state_dict({key: value for key, value in state.items() if key in off.state_dict()})
    near(off(x, (5, 7)), layer(x, (5, 7)))
    near(off(x, (7, 5)), off(x, (5, 7)))  # a set has no grid
    again = mixers.from_reference("rala", mixers.to_reference(off), num_heads=3, options={"rope": False})
    assert torch.equal(again(x, (5, 7)), off(x, (5, 7)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", [{}, {"key_weights": False}], ids=str)
def test_16_bits_hold_the_sums_over_many_tokens(options: dict[str, object], dtype: torch.dtype) -> None:
    assert_holds_16_bits("rala", dtype, options)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float32])
def test_a_query_whose_features_are_almost_zero_has_finite_results_and_gradients(dtype: torch.dtype) -> None:
    layer, (q, k, v) = made("rala"), (t.to(dtype) for t in core())
    for low in (-5.0, -12.0, -100.0):
        leaves = [t.clone().requires_grad_() for t in (torch.full_like(q, low), k, v)]
        y = layer.attend(*leaves)
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(y.float().mean(), leaves))


@pytest.mark.parametrize("dtype", TYPES)
def test_it_trains_under_autocast(dtype: torch.dtype) -> None:
    assert_trains_in_autocast("rala", dtype, {})


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_compiles_as_one_graph(options: dict[str, object]) -> None:
    assert_compiles("rala", options)


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(mixers.MixerError, match="needs a dimension that 4 divides: got 6"):
        mixers.create("rala", 24, num_heads=4)
    mixers.create("rala", 24, num_heads=4, rope=False)
    with pytest.raises(mixers.MixerError, match=r"got lepe_kernel = 3, expected 5"):
        loaded("rala", FILES[0], lepe_kernel="3")
    with pytest.raises(mixers.MixerError, match=r"unknown option .*'heads', expected one of "):
        loaded("rala", FILES[0], heads=1)


# --- wrong versions


def _over_the_heads(q: Tensor, k: Tensor) -> Tensor:
    centre = q.mean(dim=2, keepdim=True) * q.shape[-1] ** -0.5
    return (k @ centre.mT).softmax(dim=1)


def _of_each_query(q: Tensor, k: Tensor) -> Tensor:
    """A mean of softmaxes, not the softmax of a mean."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=2).unsqueeze(-1)


def _without_the_root(q: Tensor, k: Tensor) -> Tensor:
    return (k @ q.mean(dim=2, keepdim=True).mT).softmax(dim=2)


@pytest.mark.parametrize("wrong", [_over_the_heads, _of_each_query, _without_the_root])
def test_wrong_weights_of_the_keys_are_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rala, "key_weights", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("rala", FILES[2])
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(made("rala", (5, 7)), tokens(2, (5, 7)), (5, 7))


def test_the_angles_of_other_mixers_and_a_rotated_denominator_are_seen_red(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rala.linear_attention
    with monkeypatch.context() as patch:
        patch.setattr(base, "rotary_speeds", lambda d, first, ends: rotary_speeds(d, first, False))
        with pytest.raises(AssertionError, match="output: differs"):
            assert_golden("rala", FILES[0])
    monkeypatch.setattr(rala, "linear_attention", lambda q, k, v, eps, turn: right(turn(q), turn(k), v, eps))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("rala", FILES[0])
