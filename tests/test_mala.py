from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import assert_equals_naive, far, near, same_function, tokens
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
from mixers import base, mala
from mixers.base import Grid, naive_rotary_2d

FILES = ["mixer_mala", "mixer_mala_grid5x7", "mixer_mala_norope"]
OPTIONS: list[dict[str, object]] = [{}, {"rope": False, "local": False}, {"gate": False}]
TYPES = [torch.float16, torch.bfloat16]


def core(n: int = 35) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of three heads of eight features."""
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 3, n, 8, dtype=torch.float64))
    return q, k, v


@pytest.mark.parametrize("file", FILES)
def test_it_gives_the_output_and_every_gradient_of_the_authors_code(file: str) -> None:
    assert_golden("mala", file)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(5, 7), (1, 6)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made("mala", grid, **options), tokens(batch, grid), grid)


@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((4, 6), 3)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_work("mala", options, grid, batch)


def test_its_macs_are_those_of_the_authors_code() -> None:
    n, c, d = 35, 24, 8
    assert made("mala").macs((5, 7)) == 5 * n * c**2 + 2 * n * c * d + n * c + 25 * n * c


def test_it_equals_its_weights_token_by_token() -> None:
    (q, k, v), turn = core(6), partial(naive_rotary_2d, grid=(2, 3), ends=True)
    phi_q, phi_k, y = F.elu(q) + 1, F.elu(k) + 1, torch.zeros_like(v)
    turned_q, turned_k = turn(phi_q), turn(phi_k)
    for i in range(6):
        scores = [(phi_q[:, :, i] * phi_k[:, :, j]).sum(-1, keepdim=True) / 8**0.5 / 6 for j in range(6)]
        z = sum(scores)
        for j in range(6):
            a = (turned_q[:, :, i] * turned_k[:, :, j]).sum(-1, keepdim=True) / 8**0.5 / 6
            y[:, :, i] += ((1 + 1 / (z + 1e-6)) * a - z / 6) * v[:, :, j]
    same_function(mala.magnitude_attention(q, k, v, turn), y, q, k, v)


def test_without_rotary_the_weights_of_a_query_sum_to_one_up_to_eps() -> None:
    q, k, _ = core()
    sums = mala.magnitude_weights(q, k).sum(dim=-1)
    z = ((F.elu(q) + 1) * (F.elu(k) + 1).mean(dim=2, keepdim=True)).sum(dim=-1) / 8**0.5
    same_function(sums, z / (z + 1e-6), q, k)  # exactly: (1 + 1/(z + ε)) z - z
    constant = torch.randn(2, 3, 1, 8, dtype=torch.float64).expand(-1, -1, 35, -1)
    near(mala.magnitude_attention(q, k, constant), constant, tolerance=1e-4)
    assert (mala.magnitude_weights(q, k) < 0).any(), "they are not a softmax"
    assert far(mala.magnitude_weights(q, k, partial(naive_rotary_2d, grid=(5, 7), ends=True)).sum(dim=-1), sums)


def test_it_notices_the_length_of_a_query_as_a_normalised_linear_attention_does_not() -> None:
    q, k, v = core()
    features = q.exp() / q.exp().amax()  # φ(log x) = x where x is at most 1
    short, long = (mala.magnitude_weights((s * features).log(), k) * 35 for s in (0.5, 1.0))
    assert far(short, long)
    assert (long.std(dim=-1) > short.std(dim=-1)).all(), "a longer query has sharper weights"
    linear = mixers.create("linear", 24, num_heads=3).double()
    near(linear.attend((0.5 * features).log(), k, v), linear.attend(features.log(), k, v))


@torch.no_grad()
def test_each_part_is_off_where_its_weights_say_so() -> None:
    layer, x = made("mala", rope=False), tokens(2, (5, 7))
    nn.init.zeros_(layer.lepe.weight)
    nn.init.zeros_(layer.lepe.bias)
    nn.init.zeros_(layer.qkvo.weight[72:])
    nn.init.ones_(layer.qkvo.bias[72:])
    off = made("mala", local=False, gate=False, rope=False)
    state = layer.state_dict() | {"qkvo.weight": layer.qkvo.weight[:72], "qkvo.bias": layer.qkvo.bias[:72]}
    off.load_state_dict({key: value for key, value in state.items() if key in off.state_dict()})
    near(off(x, (5, 7)), layer(x, (5, 7)))
    near(off(x, (7, 5)), off(x, (5, 7)))  # a set has no grid
    again = mixers.from_reference("mala", mixers.to_reference(off), num_heads=3, options={"rope": False})
    assert torch.equal(again(x, (5, 7)), off(x, (5, 7)))


@pytest.mark.parametrize("dtype", [*TYPES, torch.float32])
def test_a_query_whose_features_are_almost_zero_has_finite_results_and_gradients(dtype: torch.dtype) -> None:
    q, k, v = (t.to(dtype) for t in core())
    for low in (-5.0, -12.0, -100.0):
        leaves = [t.clone().requires_grad_() for t in (torch.full_like(q, low), k, v)]
        y = mala.magnitude_attention(*leaves)
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(y.float().mean(), leaves))


@pytest.mark.parametrize("dtype", TYPES)
def test_16_bits_hold_the_sums_over_many_tokens(dtype: torch.dtype) -> None:
    assert_holds_16_bits("mala", dtype, {})


@pytest.mark.parametrize("dtype", TYPES)
def test_it_trains_under_autocast(dtype: torch.dtype) -> None:
    assert_trains_in_autocast("mala", dtype, {})


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_compiles_as_one_graph(options: dict[str, object]) -> None:
    assert_compiles("mala", options)


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(mixers.MixerError, match="needs a dimension that 4 divides: got 6"):
        mixers.create("mala", 24, num_heads=4)
    mixers.create("mala", 24, num_heads=4, rope=False)
    with pytest.raises(mixers.MixerError, match=r"got gate = 'sigmoid', expected 'linear, no activation'"):
        loaded("mala", FILES[0], gate="sigmoid")
    with pytest.raises(mixers.MixerError, match=r"unknown option .*'temperature', expected one of "):
        loaded("mala", FILES[0], temperature=1)


# --- wrong versions

right = mala.magnitude_attention


def _without_the_factor(q: Tensor, k: Tensor, v: Tensor, turn: object) -> Tensor:
    """The bare formula: scores that are not divided by N√d."""
    n, d = q.shape[2:]
    q, k = F.elu(q) + 1, F.elu(k) + 1
    z = q @ k.sum(dim=2, keepdim=True).mT
    return (1 + 1 / (z + 1e-6)) * (turn(q) @ (turn(k).mT @ v)) - z * v.mean(dim=2, keepdim=True)


def _normaliser_over_the_queries(q: Tensor, k: Tensor, v: Tensor, turn: object) -> Tensor:
    """z sums the scores of a key over all queries, not those of a query over all keys."""
    n, d = q.shape[2:]
    q, k = ((F.elu(t) + 1) * (n**-0.5 * d**-0.25) for t in (q, k))
    z = k @ q.sum(dim=2, keepdim=True).mT
    return (1 + 1 / (z + 1e-6)) * (turn(q) @ (turn(k).mT @ v)) - z * v.mean(dim=2, keepdim=True)


WRONG = {
    "without the factor 1/(N√d)": _without_the_factor,
    "a normaliser over the wrong axis": _normaliser_over_the_queries,
    "rotary left out": lambda q, k, v, turn: right(q, k, v),
    "means over the other axis": lambda q, k, v, turn: right(q, k, v, turn) + v.mean(dim=3, keepdim=True),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_version_is_seen_red(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mala, "magnitude_attention", WRONG[wrong])
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("mala", FILES[1])
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(made("mala", (5, 7)), tokens(2, (5, 7)), (5, 7))


def test_the_angles_of_other_mixers_do_not_pass_for_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    right_speeds = base.rotary_speeds
    monkeypatch.setattr(base, "rotary_speeds", lambda d, first, ends: right_speeds(d, first, False))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("mala", FILES[0])
