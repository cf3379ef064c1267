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
from mixers import mhla
from mixers.base import Grid

FILES = {"mixer_mhla": "released", "mixer_mhla_blocks9": "released", "mixer_mhla_paper": "paper"}
FILES |= {"mixer_mhla_paper_blocks9": "paper"}
every_file = pytest.mark.parametrize("file", FILES)
CASES: list[tuple[dict[str, object], Grid]] = [
    ({}, (5, 7)),  # pieces of 2, 2 and 1 rows, of 2, 2, 2 and 1 columns
    ({}, (1, 6)),
    ({"blocks": 9, "local": False, "qk_norm": False}, (5, 7)),
    ({"blocks": 4, "transform": "gaussian"}, (4, 6)),
    ({"blocks": 4, "normaliser": "released"}, (4, 6)),
    ({"blocks": 9, "normaliser": "released", "qk_norm": False}, (6, 3)),
    ({"blocks": 1, "local": False}, (5, 7)),
]
every_case = pytest.mark.parametrize(("options", "grid"), CASES, ids=str)
TYPES = [torch.float16, torch.bfloat16]


def blocked(m: int = 4, s: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positive features q and k, values, by block, and positive weights between blocks."""
    q, k = torch.rand(2, 2, 3, m, s, 8, dtype=torch.float64)
    return q, k, torch.randn(2, 3, m, s, 8, dtype=torch.float64), torch.rand(m, m, dtype=torch.float64)


@every_file
def test_it_gives_the_output_and_every_gradient_of_the_authors_code(file: str) -> None:
    assert_golden("mhla", file, normaliser=FILES[file])


@every_file
def test_the_other_normaliser_does_not_pass_for_the_authors(file: str) -> None:
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("mhla", file, normaliser={"paper": "released", "released": "paper"}[FILES[file]])


@pytest.mark.parametrize("batch", [1, 2])
@every_case
def test_it_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made("mhla", grid, **options), tokens(batch, grid), grid)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("batch", [1, 3])
@every_case
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_work("mhla", options, grid, batch)


def test_its_macs_are_those_of_the_authors_code() -> None:
    n, c, d, h, m = 64, 24, 8, 3, 4
    common = 4 * n * c**2 + 2 * n * c * d + m**2 * c * d + n * c + 25 * n * c
    assert made("mhla", (8, 8), blocks=m).macs((8, 8)) == common + m**2 * c
    assert made("mhla", (8, 8), blocks=m, normaliser="released").macs((8, 8)) == common + m * n * h


@pytest.mark.parametrize(
    ("grid", "blocks", "counts", "sides"),
    [
        ((16, 16), 16, (4, 4), (4, 4)),
        ((14, 14), 16, (4, 4), (4, 4)),  # the last are of two rows, or columns
        ((5, 7), 16, (3, 4), (2, 2)),
        ((1, 9), 16, (1, 3), (1, 3)),
        ((3, 2), 16, (3, 2), (1, 1)),
        ((6, 6), 9, (3, 3), (2, 2)),
        ((5, 7), 1, (1, 1), (5, 7)),
    ],
)
def test_the_grid_is_cut_into_pieces_that_hold_every_token_once(grid: Grid, blocks: int, counts: Grid, sides: Grid) -> None:
    assert mhla.block_sides(grid, blocks) == (counts, sides)
    n = grid[0] * grid[1]
    numbers = torch.arange(1.0, n + 1).view(1, 1, n, 1)
    cut = mhla.to_blocks(numbers, grid, counts, sides)
    assert cut.shape == (1, 1, math.prod(counts), math.prod(sides), 1)
    assert sorted(cut[cut > 0].tolist()) == list(range(1, n + 1))
    assert torch.equal(mhla.from_blocks(cut, grid, counts, sides), numbers)
    for number in range(n):
        block = number // grid[1] // sides[0] * counts[1] + number % grid[1] // sides[1]
        place = number // grid[1] % sides[0] * sides[1] + number % grid[1] % sides[1]
        assert cut[0, 0, block, place] == number + 1


def test_weights_of_one_between_all_blocks_give_relu_linear_attention() -> None:
    q, k, v, mix = (t.requires_grad_() for t in blocked())
    whole = [t.flatten(2, 3) for t in (q, k, v)]
    linear = mixers.create("relu-linear", 24, num_heads=3).double()
    sums = (whole[0] * whole[1].sum(dim=2, keepdim=True)).sum(dim=-1, keepdim=True)
    expected = linear.attend(*whole) * sums / (sums + 1e-6)
    same_function(mhla.block_attention(q, k, v, torch.ones_like(mix)).flatten(2, 3), expected, q, k, v)
    assert far(mhla.block_attention(q, k, v, mix).flatten(2, 3), expected)


@pytest.mark.parametrize("grid", [(5, 7), (4, 6)])
def test_a_layer_with_weights_of_one_is_the_layer_of_one_block(grid: Grid) -> None:
    many, one, x = made("mhla", grid), made("mhla", grid, blocks=1), tokens(2, grid).requires_grad_()
    shared = {name: p for name, p in one.named_parameters() if name != "mix"}
    nn.init.ones_(one.mix)
    y = torch.func.functional_call(many, shared | {"mix": torch.ones_like(many.mix)}, (x, grid))
    same_function(y, one(x, grid), x, *shared.values())


def test_it_equals_its_weights_token_by_token() -> None:
    q, k, v, mix = (t.requires_grad_() for t in blocked(3, 2))
    for released in (False, True):
        y = torch.zeros_like(v)
        for b in range(3):
            for r in range(2):
                above, below = 0, 1e-6
                for c in range(3):
                    for j in range(2):
                        key = k[:, :, c, j]
                        above += mix[b, c] * (q[:, :, b, r] * key).sum(-1, keepdim=True) * v[:, :, c, j]
                        below += mix[b, c] * (q[:, :, c if released else b, r] * key).sum(-1, keepdim=True)
                y[:, :, b, r] = above / below
        same_function(mhla.block_attention(q, k, v, mix, released), y, q, k, v, mix)


def test_both_normalisers_agree_where_there_is_one_block_and_the_papers_weights_sum_to_one() -> None:
    q, k, v, mix = blocked(1)
    near(mhla.block_attention(q, k, v, mix), mhla.block_attention(q, k, v, mix, released=True))
    q, k, v, mix = blocked(4)
    assert far(mhla.block_attention(q, k, v, mix), mhla.block_attention(q, k, v, mix, released=True))
    near(mhla.block_attention(q, k, torch.ones_like(v), mix), torch.ones_like(v), tolerance=1e-5)
    assert far(mhla.block_attention(q, k, torch.ones_like(v), mix, released=True), torch.ones_like(v))


def test_a_block_that_is_not_read_has_no_part() -> None:
    q, k, v, mix = blocked()
    mix[2, 1] = 0
    other_k, other_v = k.clone(), v.clone()
    other_k[:, :, 1] += 1
    other_v[:, :, 1] += 1
    before, after = mhla.block_attention(q, k, v, mix), mhla.block_attention(q, other_k, other_v, mix)
    near(after[:, :, 2], before[:, :, 2])
    assert all(far(after[:, :, b], before[:, :, b]) for b in (0, 1, 3))


@torch.no_grad()
def test_one_block_is_a_function_of_a_set_up_to_eps() -> None:
    layer, x, order = made("mhla", blocks=1, local=False), tokens(2, (4, 6)), torch.randperm(24)
    near(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])
    twice = made("mhla", (8, 6), blocks=1, local=False)
    twice.load_state_dict(layer.state_dict())
    near(twice(x.repeat(1, 2, 1), (8, 6)), layer(x, (4, 6)).repeat(1, 2, 1), tolerance=1e-6)


@pytest.mark.parametrize("transform", ["linear", "cos", "exp", "local", "gaussian"])
def test_weights_between_blocks_start_by_their_distance(transform: str) -> None:
    weights = mhla.starting_weights((4, 4), transform)
    by_distance = {  # between blocks 0 and 5, one step away along either axis, over that of a block with itself
        "linear": 1 - 1 / 3,
        "cos": math.cos(math.pi / 12),
        "exp": math.exp(-(2**0.5) / 3),
        "local": 1.0,
        "gaussian": math.exp(-1 / 9),
    }
    assert (weights[0, 5] / weights[5, 5]).item() == pytest.approx(by_distance[transform], rel=1e-6)
    assert (weights[0, 15] / weights[15, 15]).item() == pytest.approx(
        {"linear": 0, "cos": 0.5**0.5, "exp": math.exp(-(2**0.5)), "local": 0, "gaussian": math.exp(-1)}[transform], abs=1e-6
    )
    columns = weights.sum(dim=0)
    assert torch.allclose(columns, torch.ones(16)) == (transform != "gaussian")
    assert torch.equal(mhla.starting_weights((1, 1), transform), torch.ones(1, 1))
    layer = mixers.create("mhla", 24, num_heads=3, grid=(8, 8), transform=transform)
    assert torch.equal(layer.mix.flatten(1), weights)


@torch.no_grad()
def test_the_norm_of_queries_and_keys_is_over_all_channels_before_the_heads() -> None:
    layer, x = made("mhla"), tokens(2, (4, 6))
    plain = made("mhla", qk_norm=False)
    plain.load_state_dict({key: value for key, value in layer.state_dict().items() if key not in ("q_norm", "k_norm")})
    assert far(plain(x, (4, 6)), layer(x, (4, 6)))
    y = layer(x, (4, 6))
    layer.qkv.weight[:24] *= 1000.0  # queries, of any length
    near(layer(x, (4, 6)), y, tolerance=1e-6)


@torch.no_grad()
def test_the_convolution_is_off_where_its_weights_are_zero() -> None:
    layer, x = made("mhla", (5, 7)), tokens(2, (5, 7))
    nn.init.zeros_(layer.lepe.weight)
    nn.init.zeros_(layer.lepe.bias)
    off = made("mhla", (5, 7), local=False)
    off.load_state_dict({key: value for key, value in layer.state_dict().items() if not key.startswith("lepe")})
    near(off(x, (5, 7)), layer(x, (5, 7)))
    again = mixers.from_reference("mhla", mixers.to_reference(off), num_heads=3, grid=(5, 7))
    assert torch.equal(again(x, (5, 7)), off(x, (5, 7)))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("normaliser", ["paper", "released"])
def test_16_bits_hold_the_sums_over_many_tokens(normaliser: str, dtype: torch.dtype) -> None:
    assert_holds_16_bits("mhla", dtype, {"normaliser": normaliser})


@torch.no_grad()
def test_large_features_without_their_norm_stay_in_range_in_16_bits() -> None:
    for dtype in TYPES:
        layer, x = made("mhla", (16, 16), dtype, qk_norm=False), tokens(1, (16, 16), dtype=dtype)
        layer.qkv.weight[:48] *= 30
        y, exact = layer(x, (16, 16)), layer.double()(x.double(), (16, 16))
        assert (y - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("qk_norm", [True, False])
def test_it_trains_under_autocast(qk_norm: bool, dtype: torch.dtype) -> None:
    assert_trains_in_autocast("mhla", dtype, {"qk_norm": qk_norm})


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"blocks": 1, "normaliser": "released", "qk_norm": False}], ids=str)
def test_it_compiles_as_one_graph(options: dict[str, object]) -> None:
    assert_compiles("mhla", options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 8}, "got blocks = 8, expected 1, 4, 9, ...; use 16"),
        ({"blocks": 0}, "got blocks = 0, expected 1, 4, 9"),
        ({"normaliser": "papers"}, "got 'papers', expected one of paper, released; use 'paper'"),
        ({"transform": "sine"}, "got 'sine', expected one of linear, cos, exp, local, gaussian"),
        ({"grid": None}, r"got grid = None, expected \(H, W\); pass grid"),
        ({"grid": (5, 7), "normaliser": "released"}, "got a 5x7 grid in blocks of 2x2, expected a grid that they tile"),
    ],
)
def test_what_it_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(mixers.MixerError, match=message):
        mixers.create("mhla", 24, **({"num_heads": 3, "grid": (4, 6)} | options))


def test_another_grid_is_refused() -> None:
    layer = made("mhla")
    for attempt in (lambda: layer(tokens(1, (6, 4)), (6, 4)), lambda: layer.macs((6, 4)), lambda: layer.elementwise((6, 4))):
        with pytest.raises(mixers.MixerError, match="got 6x4, expected 4x6"):
            attempt()


def test_weights_tell_how_many_blocks_there_are_and_the_side_of_a_block_may_be_given_alone() -> None:
    for file, side, counts in (("mixer_mhla", "3", (2, 2)), ("mixer_mhla_blocks9", 2, (3, 3))):
        for known in ({"blocks": None}, {"block_side": None}, {"blocks": None, "block_side": None}, {"block_side": side}):
            assert loaded("mhla", file, **known)[0].counts == counts


def test_the_authors_options_are_read_or_refused() -> None:
    for wrong, message in (
        ({"qkv_bias": "True"}, "got qkv_bias = True, expected False"),
        ({"qk_norm_eps": "1e-6"}, "got 1e-06, expected 'finfo"),
        ({"block_side": "2"}, "got block_side = 2 for 4 blocks of a 6x6 grid, expected 3x3"),
        ({"blocks": "9", "block_side": "2"}, r"got piece_attn.conv.weight \(4, 4, 1, 1\) for \(9, 9, 1, 1\)"),
        ({"qk_norm": "False"}, r"unexpected \['k_norm.weight', 'q_norm.weight'\]"),
        ({"window": 3}, "unknown option .*'window', expected one of block"),
    ):
        with pytest.raises(mixers.MixerError, match=message):
            loaded("mhla", "mixer_mhla", **wrong)


# --- wrong versions

right_blocks = mhla.to_blocks


def _padded_before_the_features(x: Tensor, grid: Grid, counts: Grid, sides: Grid) -> Tensor:
    """Empty places get the ε of the features, too."""
    blocks = right_blocks(x, grid, counts, sides)
    return torch.where(right_blocks(torch.ones_like(x), grid, counts, sides) > 0, blocks, 0.5)


def _one_token_late(x: Tensor, grid: Grid, counts: Grid, sides: Grid) -> Tensor:
    return right_blocks(x.roll(1, 2), grid, counts, sides)


def _columns_for_rows(q: Tensor, k: Tensor, v: Tensor, mix: Tensor, released: bool) -> Tensor:
    return right_attention(q, k, v, mix.mT, released)


right_attention = mhla.block_attention
WRONG = {
    "empty places have a part": ("to_blocks", _padded_before_the_features),
    "tokens are in other blocks": ("to_blocks", _one_token_late),
    "the weights are transposed": ("block_attention", _columns_for_rows),
    "the normaliser is that of other blocks' queries": (
        "block_attention",
        lambda q, k, v, mix, released: right_attention(q, k, v, mix, True),
    ),
    "no weights between blocks": (
        "block_attention",
        lambda q, k, v, mix, released: right_attention(q, k, v, torch.ones_like(mix)),
    ),
    "a norm by head": ("rms_norm", lambda x, weight: mhla_norm(x.unflatten(-1, (3, -1)), weight.view(3, -1)).flatten(-2)),
}
mhla_norm = mhla.rms_norm


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_version_is_seen_red(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made("mhla", (5, 7)), tokens(2, (5, 7))
    assert_equals_naive(layer, x, (5, 7))
    monkeypatch.setattr(mhla, *WRONG[wrong])
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))
