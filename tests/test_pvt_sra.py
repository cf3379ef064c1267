from __future__ import annotations

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, near, part, same_function, scrambled, tokens
from test_flops import Alone
from timm.models.pvt_v2 import Attention
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers import pvt_sra
from mixers.base import Grid
from wfbench.measure import count_flops

GOLDENS = ["mixer_pvt_sra", "mixer_pvt_sra_grid5x7"]
TOLD = ("sr_ratio", "qkv_bias", "linear_attn", "layer_norm_eps")
OPTIONS: list[dict[str, object]] = [
    {},
    {"ratio": 1},
    {"ratio": 1, "norm": False},
    {"ratio": 3},
    {"norm": False},
    {"ratio": 3, "qkv_bias": False},
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def made(dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create("pvt-sra", 24, num_heads=3, **options).to(dtype))


def assert_golden(name: str) -> None:
    meta, tensors = golden(name)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    told = {option: meta[option] for option in TOLD}
    layer = mixers.from_reference("pvt-sra", part(tensors, "param."), num_heads=int(meta["num_heads"]), options=told)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


@pytest.mark.parametrize("name", GOLDENS)
def test_a_layer_gives_the_output_and_gradients_of_its_authors_code(name: str) -> None:
    assert_golden(name)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (3, 4)])
@with_options
def test_a_layer_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(**options), tokens(batch, grid), grid)


@pytest.mark.parametrize(("ratio", "qkv_bias"), [(1, True), (2, True), (3, False)])
def test_a_layer_equals_timms_with_the_same_weights(ratio: int, qkv_bias: bool) -> None:
    theirs = scrambled(Attention(24, num_heads=3, sr_ratio=ratio, qkv_bias=qkv_bias).double()).eval()
    ours = mixers.from_reference("pvt-sra", theirs.state_dict(), num_heads=3, options={"sr_ratio": ratio})
    x, grad_output = tokens(2, (5, 7)).requires_grad_(), tokens(2, (5, 7))
    y, expected = ours(x, (5, 7)), theirs(x, (5, 7))
    same_function(y, expected, x)
    y.backward(grad_output)
    expected.backward(grad_output)
    all_near(mixers.to_reference(ours, grads=True), {k: p.grad for k, p in theirs.named_parameters()}, "gradient of")


def test_a_ratio_of_one_is_softmax_attention() -> None:
    layer, softmax = made(ratio=1), mixers.create("softmax", 24, num_heads=3).double()
    own, x = dict(layer.named_parameters()), tokens(2, (5, 7)).requires_grad_()
    assert own.keys() == {f"{name}.{what}" for name in ("q", "kv", "proj") for what in ("weight", "bias")}
    fused = {f"qkv.{what}": torch.cat([own[f"q.{what}"], own[f"kv.{what}"]]) for what in ("weight", "bias")}
    fused |= {name: value for name, value in own.items() if name.startswith("proj")}
    same_function(layer(x, (5, 7)), torch.func.functional_call(softmax, fused, (x, (5, 7))), x, *own.values())
    assert layer.macs((5, 7), 2) == softmax.macs((5, 7), 2)
    assert layer.elementwise((5, 7), 2) == softmax.elementwise((5, 7), 2)


def test_tokens_beyond_a_multiple_of_the_ratio_reach_themselves_alone() -> None:
    layer, x = made(ratio=2), tokens(1, (5, 7))
    for moved, reached in ((4 * 7 + 2, 1), (6, 1), (3 * 7 + 5, 35)):  # the last row, the last column, a whole cell
        other = x.clone()
        other[:, moved] += 1
        changed = (layer(other, (5, 7)) - layer(x, (5, 7))).abs().amax(dim=(0, 2)) > 1e-9
        assert int(changed.sum()) == reached
        assert changed[moved]


def test_a_convolution_that_averages_gives_keys_and_values_of_the_means() -> None:
    layer, x = made(ratio=2, norm=False), tokens(2, (4, 6))
    with torch.no_grad():
        layer.sr.bias.zero_()
        layer.sr.weight.copy_(torch.eye(24)[:, :, None, None].expand(24, 24, 2, 2) / 4)
    means = F.avg_pool2d(x.mT.unflatten(2, (4, 6)), 2).flatten(2).mT
    k, v = layer.kv(means).chunk(2, dim=-1)
    q, k, v = (t.unflatten(2, (3, 8)).transpose(1, 2) for t in (layer.q(x), k, v))
    weights = (q @ k.mT / 8**0.5).softmax(dim=-1)
    near(layer(x, (4, 6)), layer.proj((weights @ v).transpose(1, 2).flatten(2)))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", [(5, 7), (9, 8)])
@with_options
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    layer = made(torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.macs * batch == layer.macs(grid, batch)
    assert count.elementwise * batch == layer.elementwise(grid, batch)


def test_the_cost_is_what_the_docstring_says() -> None:
    n, few, c = 35, 6, 24
    layer = made()
    assert layer.macs((5, 7)) == 2 * n * c**2 + 2 * few * c**2 + few * 4 * c**2 + 2 * n * few * c
    assert layer.elementwise((5, 7)) == 5 * 3 * n * few + 3 * n * c + 9 * few * c


@pytest.mark.parametrize("ratio", [0, -2])
def test_a_ratio_that_is_none_is_refused(ratio: int) -> None:
    with pytest.raises(mixers.MixerError, match=rf"got ratio = {ratio}, expected 1, 2, \.\.\.; use 1 for none"):
        made(ratio=ratio)


def test_a_grid_without_a_whole_cell_is_refused() -> None:
    layer, message = made(ratio=4), r"got 3x5 tokens, expected at least 4x4 for ratio = 4; use a smaller ratio"
    for refused in (lambda: layer(tokens(1, (3, 5)), (3, 5)), lambda: layer.macs((3, 5)), lambda: layer.elementwise((3, 5))):
        with pytest.raises(mixers.MixerError, match=message):
            refused()
    assert layer(tokens(1, (4, 5)), (4, 5)).shape == (1, 20, 24)


@pytest.mark.parametrize("options", [{}, {"ratio": 3, "norm": False}, {"ratio": 1, "qkv_bias": False}], ids=str)
def test_weights_tell_the_ratio_the_norm_and_the_biases(options: dict[str, object]) -> None:
    layer, x = made(**options), tokens(2, (5, 7))
    again = mixers.from_reference("pvt-sra", mixers.to_reference(layer), num_heads=3)
    assert torch.equal(again(x, (5, 7)), layer(x, (5, 7)))


def test_weights_and_options_that_do_not_fit_are_refused() -> None:
    state = mixers.to_reference(made())
    for options, message in (
        ({"sr_ratio": 3}, r"sr.weight \(24, 24, 2, 2\) for \(24, 24, 3, 3\)"),
        ({"sr_ratio": 1}, r"unexpected \['norm.bias', 'norm.weight', 'sr.bias', 'sr.weight'\]"),
        ({"qkv_bias": "False"}, r"unexpected \['kv.bias', 'q.bias'\]"),
        ({"linear_attn": "True"}, "got linear_attn = True, expected False"),
        ({"layer_norm_eps": "1e-6"}, "got layer_norm_eps = 1e-06, expected 1e-05"),
        ({"ratio": 2}, "unknown option .*'ratio', expected one of .*sr_ratio"),
    ):
        with pytest.raises(mixers.MixerError, match=message):
            mixers.from_reference("pvt-sra", state, num_heads=3, options=options)
    for gone in state:
        with pytest.raises(mixers.MixerError, match=f"missing .*'{gone}'"):
            mixers.from_reference("pvt-sra", {k: v for k, v in state.items() if k != gone}, num_heads=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_near_float64(dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create("pvt-sra", 24, num_heads=3, ratio=4), std=0.05).to(dtype)
    x = (1 + tokens(1, (32, 64), dtype=torch.float32)).to(dtype)
    coarse, exact = layer(x, (32, 64)), layer.double()(x.double(), (32, 64))
    assert coarse.dtype == dtype
    assert (coarse.double() - exact).norm() < (0.01 if dtype == torch.float16 else 0.05) * exact.norm()


def normalised_over_the_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-2) @ v


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(dim=-1) @ v


@pytest.mark.parametrize("wrong", [normalised_over_the_queries, unscaled])
def test_a_wrong_attention_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made()
    monkeypatch.setattr(pvt_sra.F, "scaled_dot_product_attention", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, tokens(2, (5, 7)), (5, 7))


def test_a_grid_read_column_by_column_is_seen_red(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), tokens(2, (5, 7))
    right = layer(x, (5, 7))
    monkeypatch.setattr(pvt_sra, "to_map", lambda x, grid: x.unflatten(1, (grid[1], grid[0])).permute(0, 3, 2, 1))
    assert far(layer(x, (5, 7)), right)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden(GOLDENS[1])


@pytest.mark.slow
def test_it_compiles_in_one_piece() -> None:
    layer, x = made(), tokens(2, (5, 7))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (5, 7)), layer(x, (5, 7)))
