"""Oracles on every registered mixer, by what its spec declares: a new mixer file is held to them by being registered."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest
import torch
from helpers import assert_equals_naive, far, layer_cases, near, scrambled, tokens
from torch import nn

import mixers
from mixers.base import Grid

GRID: Grid = (4, 6)
TOKEN_LAYERS = [name for name, slot in layer_cases() if slot == "token"]
#: Each mixer with options under which it is a function of a set of tokens.
AS_SET = [
    (name, options)
    for name in TOKEN_LAYERS
    for options in (({} if mixers.spec(name).layout == "set" else None), mixers.spec(name).as_set)
    if options is not None
]
ROTARY = [name for name in mixers.names() if mixers.spec(name).rotary]
as_set = pytest.mark.parametrize(("name", "options"), AS_SET, ids=[f"{name}{dict(o) or ''}" for name, o in AS_SET])


def layer_of(name: str, options: Mapping[str, object], grid: Grid = GRID, dim: int = 24, heads: int = 3) -> nn.Module:
    """The token layer in evaluation, in float64, away from its initialisation."""
    return scrambled(mixers.create(name, dim, num_heads=heads, grid=grid, **options).double()).eval()


@pytest.mark.parametrize("name", mixers.names())
def test_every_spec_says_what_the_checks_need(name: str) -> None:
    spec = mixers.spec(name)
    assert spec.layout in ("set", "sequence", "grid")
    assert spec.complexity in ("linear", "N log N", "quadratic")
    assert (spec.doubling is not None) == (spec.layout == "set" or spec.as_set is not None)
    assert spec.status in ("certain", "reconstruction")


@as_set
@torch.no_grad()
def test_a_set_mixer_is_permutation_equivariant(name: str, options: Mapping[str, object]) -> None:
    layer, x, order = layer_of(name, options), tokens(2, GRID), torch.randperm(24)
    near(layer(x[:, order], GRID), layer(x, GRID)[:, order])


#: A name with options declares no layout: an option may change it.
DECLARED = [name for name in TOKEN_LAYERS if "(" not in name]


@pytest.mark.parametrize("name", [name for name in DECLARED if mixers.spec(name).layout != "set"])
@torch.no_grad()
def test_any_other_mixer_is_not(name: str) -> None:
    layer, x, order = layer_of(name, {}), tokens(2, GRID), torch.randperm(24)
    assert far(layer(x[:, order], GRID), layer(x, GRID)[:, order])


@as_set
@torch.no_grad()
def test_doubling_every_token_does_what_the_spec_says(name: str, options: Mapping[str, object]) -> None:
    layer, x = layer_of(name, options), tokens(2, GRID)
    doubled, once = layer(torch.cat([x, x], dim=1), (8, 6)), layer(x, GRID).repeat(1, 2, 1)
    if mixers.spec(name).doubling == "invariant":
        near(doubled, once)
    else:
        assert far(doubled, once)


@pytest.mark.parametrize("name", [name for name in TOKEN_LAYERS if not mixers.spec(name).needs_grid])
@torch.no_grad()
def test_the_shape_of_the_grid_matters_exactly_where_the_spec_says_so(name: str) -> None:
    layer, x = layer_of(name, {}), tokens(2, (6, 6))
    square, flat = layer(x, (6, 6)), layer(x, (4, 9))
    if mixers.spec(name).layout == "grid":
        assert far(square, flat)
    else:
        near(square, flat)


@pytest.mark.parametrize("name", [name for name in mixers.names() if mixers.spec(name).needs_grid])
def test_a_mixer_made_for_one_grid_refuses_another_by_name(name: str) -> None:
    layer = layer_of(name, {})
    for call in (lambda: layer(tokens(1, (6, 4)), (6, 4)), lambda: layer.macs((6, 4))):
        with pytest.raises(mixers.MixerError, match="got 6x4, expected 4x6"):
            call()
    with pytest.raises(mixers.MixerError, match="grid = None"):
        mixers.create(name, 24)


@pytest.mark.parametrize("name", mixers.names())
def test_rotary_position_is_an_option_exactly_where_the_spec_says_so(name: str) -> None:
    accepts = "rope" in inspect.signature(type(mixers.create(name, 24, num_heads=3, grid=GRID))).parameters
    assert accepts == mixers.spec(name).rotary


@pytest.mark.parametrize("grid", [(4, 6), (5, 3)])
@pytest.mark.parametrize("name", ROTARY)
def test_a_rotary_mixer_equals_its_naive_form(name: str, grid: Grid) -> None:
    assert_equals_naive(layer_of(name, {"rope": True}, grid), tokens(2, grid), grid)


@pytest.mark.parametrize("name", ROTARY)
@torch.no_grad()
def test_rotary_position_makes_a_difference(name: str) -> None:
    plain = layer_of(name, {"rope": False})
    turned = mixers.create(name, 24, num_heads=3, grid=GRID, rope=True).double().eval()
    turned.load_state_dict(plain.state_dict())
    x = tokens(2, GRID)
    assert far(turned(x, GRID), plain(x, GRID))


@pytest.mark.parametrize("name", ROTARY)
def test_a_width_that_cannot_be_turned_is_refused(name: str) -> None:
    with pytest.raises(mixers.MixerError, match="4 divides"):
        mixers.create(name, 18, num_heads=3, grid=GRID, rope=True)(tokens(1, GRID, 18).float(), GRID)


@pytest.mark.parametrize("name", mixers.names())
def test_weights_survive_a_round_trip_through_a_state_dict(name: str) -> None:
    one, two = layer_of(name, {}), layer_of(name, {})
    two.load_state_dict(one.state_dict(), strict=True)
    x = tokens(2, GRID)
    assert torch.equal(one(x, GRID), two(x, GRID))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKEN_LAYERS)
def test_a_token_layer_compiles_whole(name: str) -> None:
    layer, x = layer_of(name, {}), tokens(2, GRID)
    torch._dynamo.reset()
    with torch.no_grad():
        near(torch.compile(layer, fullgraph=True, backend="aot_eager")(x, GRID), layer(x, GRID))


HALF = {torch.bfloat16: 6e-2, torch.float16: 1e-2}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", TOKEN_LAYERS)
@torch.no_grad()
def test_half_precision_stays_near(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = mixers.create(name, 24, num_heads=3, grid=(14, 14)).to(dtype).double().eval()
    x = tokens(2, (14, 14)).to(dtype)
    expected = layer(x.double(), (14, 14))
    got = layer.to(dtype)(x, (14, 14))
    assert got.dtype == dtype
    assert (got.double() - expected).norm() <= HALF[dtype] * expected.norm()
