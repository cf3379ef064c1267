from __future__ import annotations

import math

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

import mixers
from mixers import polaformer
from mixers.base import Grid

FILES = ["mixer_polaformer", "mixer_polaformer_grid5x7"]
OPTIONS: list[dict[str, object]] = [
    {},
    {"local": False, "pos": False},
    {"gate": False, "qkv_bias": False},
    {"rope": True},
    {"alpha": 0.0, "pos": False, "rope": True},
]
TYPES = [torch.float16, torch.bfloat16]


def core(n: int = 35) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v of three heads of eight features, and powers between 1 and 5."""
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 3, n, 8, dtype=torch.float64))
    return q, k, v, (1 + 4 * torch.rand(1, 3, 1, 8, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("file", FILES)
def test_it_gives_the_output_and_every_gradient_of_the_authors_code(file: str) -> None:
    assert_golden("polaformer", file)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(5, 7), (1, 6)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made("polaformer", grid, **options), tokens(batch, grid), grid)


@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((4, 6), 3)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_work("polaformer", options, grid, batch)


def test_its_macs_are_those_of_the_authors_code() -> None:
    n, c, d = 35, 24, 8
    assert made("polaformer", (5, 7)).macs((5, 7)) == 5 * n * c**2 + 4 * n * c * d + 4 * n * c + 25 * n * c


def test_it_equals_both_matrices_of_weights_token_by_token() -> None:
    (q, k, v, power), y = core(6), torch.zeros(2, 3, 6, 8, dtype=torch.float64)
    for head in range(3):
        for i in range(6):
            parts, sums = [0, 0], [0, 0]
            for j in range(6):
                a, b, p = q[:, head, i], k[:, head, j], power[0, head, 0]
                product = a.abs() ** p * b.abs() ** p
                agree = torch.sign(a) == torch.sign(b)
                for part, weight in enumerate(((product * agree).sum(-1), (product * ~agree).sum(-1))):
                    parts[part] += weight[:, None] * v[:, head, j, 4 * part : 4 * part + 4]
                    sums[part] += weight[:, None]
            y[:, head, i] = torch.cat([above / (below + 6e-6) for above, below in zip(parts, sums, strict=True)], dim=1)
    same_function(polaformer.polar_attention(q, k, v, power), y, q, k, v, power)


def test_at_power_1_the_same_signs_less_the_opposite_ones_are_the_plain_scores() -> None:
    q, k, *_ = core(4)
    power = torch.ones(1, 3, 1, 8, dtype=torch.float64)
    v = torch.eye(4, dtype=torch.float64).repeat(1, 2).expand(2, 3, 4, 8)  # each half of the output is a row of weights
    same, opposite = polaformer.polar_attention(q, k, v, power).chunk(2, dim=-1)
    sums = (q.abs() @ k.abs().mT).sum(dim=-1, keepdim=True)  # of both matrices
    scores = q @ k.mT
    signed = scores.sum(dim=-1, keepdim=True)
    near(same * ((sums + signed) / 2 + 4e-6) - opposite * ((sums - signed) / 2 + 4e-6), scores)
    layer = made("polaformer", alpha=0.0)
    near(1 + layer.alpha * layer.power.sigmoid(), torch.ones_like(layer.power))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [1.0, 3.0, 5.0])
def test_a_feature_of_zero_is_zero_and_so_are_its_derivatives(p: float, dtype: torch.dtype) -> None:
    x = torch.zeros(1, 1, 2, 8, dtype=dtype, requires_grad=True)
    power = torch.full((1, 1, 1, 8), p, dtype=dtype, requires_grad=True)
    y = polaformer.polar(x, power)
    assert not y.any()
    for found in torch.autograd.grad(y.sum(), (x, power)):
        assert not found.any()


def test_the_power_starts_at_three_and_its_place_and_scale_at_zero() -> None:
    layer = mixers.create("polaformer", 24, num_heads=3, grid=(4, 6))
    assert not any(t.any() for t in (layer.power, layer.scale, layer.positional_encoding))
    assert layer.alpha * layer.power.sigmoid()[0, 0, 0, 0] + 1 == 3


@torch.no_grad()
def test_each_part_is_off_where_its_weights_say_so() -> None:
    layer, x = made("polaformer", (5, 7)), tokens(2, (5, 7))
    nn.init.zeros_(layer.dwc.weight)
    nn.init.zeros_(layer.dwc.bias)
    nn.init.zeros_(layer.positional_encoding)
    nn.init.zeros_(layer.qg.weight[24:])
    nn.init.ones_(layer.qg.bias[24:])
    off = made("polaformer", (5, 7), local=False, pos=False, gate=False)
    state = layer.state_dict() | {"qg.weight": layer.qg.weight[:24], "qg.bias": layer.qg.bias[:24]}
    off.load_state_dict({key: value for key, value in state.items() if key in off.state_dict()})
    near(off(x, (5, 7)), layer(x, (5, 7)))
    near(off(x, (7, 5)), off(x, (5, 7)))  # a set has no grid
    layer.scale.fill_(math.log(math.e - 1))
    q, k, v = layer.qg(x)[..., :24], *layer.kv(x).chunk(2, dim=-1)
    heads = [t.unflatten(2, (3, 8)).transpose(1, 2) for t in (q, k, v)]
    y = polaformer.naive_polar_attention(*heads, 1 + 4 * layer.power.sigmoid())
    near(layer(x, (5, 7)), layer.proj(y.transpose(1, 2).flatten(2)))


@torch.no_grad()
def test_the_gate_multiplies_what_goes_to_the_last_linear() -> None:
    layer, x = made("polaformer"), tokens(2, (4, 6))
    layer.proj.weight.copy_(torch.eye(24))
    before = layer(x, (4, 6)) - layer.proj.bias
    layer.qg.weight[24:] *= -2
    layer.qg.bias[24:] *= -2
    near(layer(x, (4, 6)) - layer.proj.bias, -2 * before)


@torch.no_grad()
def test_large_features_stay_in_range_in_16_bits() -> None:
    q, k, v, _ = (t.float() for t in core())
    power = torch.full((1, 3, 1, 8), 5.0)
    for dtype in TYPES:
        layer, x = made("polaformer", dtype=dtype), 30 * tokens(1, (4, 6), dtype=dtype)
        nn.init.constant_(layer.power, 10.0)
        y = layer(x, (4, 6))
        assert y.isfinite().all()
        exact = layer.double()(x.double(), (4, 6))
        assert (y - exact).norm() < 0.05 * exact.norm()
    near(polaformer.polar_attention(100 * q, 100 * k, v, power), polaformer.polar_attention(q, k, v, power), tolerance=1e-4)


@pytest.mark.parametrize("dtype", TYPES)
def test_16_bits_hold_the_sums_over_many_tokens(dtype: torch.dtype) -> None:
    assert_holds_16_bits("polaformer", dtype, {})


@pytest.mark.parametrize("dtype", TYPES)
def test_it_trains_under_autocast(dtype: torch.dtype) -> None:
    assert_trains_in_autocast("polaformer", dtype, {"rope": True})


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"rope": True, "pos": False}], ids=str)
def test_it_compiles_as_one_graph(options: dict[str, object]) -> None:
    assert_compiles("polaformer", options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.5}, "got alpha = -0.5, expected 0 or more; use 4"),
        ({"alpha": math.nan}, "got alpha = nan"),
        ({"grid": None}, r"got grid = None, expected \(H, W\); pass grid"),
        ({"num_heads": 8}, "got dim / num_heads = 3, expected an even number; choose num_heads"),
        ({"num_heads": 4, "rope": True}, "needs a dimension that 4 divides: got 6"),
    ],
)
def test_what_it_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(mixers.MixerError, match=message):
        mixers.create("polaformer", 24, **({"num_heads": 3, "grid": (4, 6)} | options))


def test_another_grid_is_refused_where_it_has_a_position_of_its_own() -> None:
    with pytest.raises(mixers.MixerError, match="got 6x4, expected 4x6"):
        made("polaformer")(tokens(1, (6, 4)), (6, 4))


def test_the_authors_options_are_read_or_refused() -> None:
    layer, grid, tensors = loaded("polaformer", FILES[1], alpha="2")
    assert layer.alpha == 2
    assert far(layer(tensors["input"], grid), tensors["output"])
    with pytest.raises(mixers.MixerError, match=r"got sr_ratio = 2, expected 1"):
        loaded("polaformer", FILES[1], sr_ratio="2")
    with pytest.raises(mixers.MixerError, match=r"unknown option .*'ratio', expected one of alpha"):
        loaded("polaformer", FILES[1], ratio=1)


# --- wrong versions

right = polaformer.polar_attention


def _other_half(q: Tensor, k: Tensor, v: Tensor, power: Tensor, turn: object) -> Tensor:
    return right(q, k, torch.cat([v[..., :4], v[..., :4]], dim=-1), power, turn)


def _halves_exchanged(q: Tensor, k: Tensor, v: Tensor, power: Tensor, turn: object) -> Tensor:
    return right(q, -k, v, power, turn)


def _denominators_exchanged(q: Tensor, k: Tensor, v: Tensor, power: Tensor, turn: object) -> Tensor:
    """Each half is divided by the sum of the weights of the other half."""
    features, sums = polaformer.polar(q, power), polaformer.polar(k, power).sum(dim=3, keepdim=True)  # (B, h, 2, N or 1, d)
    same, opposite = ((features * t).sum(dim=(2, 4)).unsqueeze(-1) + q.shape[2] * 1e-6 for t in (sums, sums.flip(2)))
    one, two = right(q, k, v, power, turn).chunk(2, dim=-1)
    return torch.cat([one * same / opposite, two * opposite / same], dim=-1)


WRONG = {
    "the denominators are exchanged": ("polar_attention", _denominators_exchanged),
    "the opposite signs read the same half": ("polar_attention", _other_half),
    "the signs are exchanged": ("polar_attention", _halves_exchanged),
    "another eps": ("EPSILON", 1e-3),
    "signs are left out": ("polar", lambda x, power: torch.stack([x, x], dim=2).relu() ** power.unsqueeze(2)),
    "powers start at zero": ("polar", lambda x, power: torch.stack([x, -x], dim=2).relu() ** (power.unsqueeze(2) - 1)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_version_does_not_pass_for_the_authors(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = WRONG[wrong]
    if name != "EPSILON":
        layer, x = made("polaformer"), tokens(2, (4, 6))
        assert_equals_naive(layer, x, (4, 6))
        monkeypatch.setattr(polaformer, name, value)
        with pytest.raises(AssertionError, match="output: differs"):
            assert_equals_naive(layer, x, (4, 6))
    else:
        layer, grid, tensors = loaded("polaformer", FILES[0])
        monkeypatch.setattr(polaformer, name, value)
        with pytest.raises(AssertionError, match="differs"):
            near(layer(tensors["input"], grid), tensors["output"])
