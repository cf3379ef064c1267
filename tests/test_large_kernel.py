from __future__ import annotations

import pytest
import torch
from helpers import assert_equals_naive, near, same_function, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers import large_kernel
from mixers.base import Grid, to_map, to_tokens
from wfbench.measure import count_flops

KERNELS = [1, 3, 5, 13]
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def made(kernel: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    return scrambled(mixers.create("large-kernel", 24, kernel=kernel).to(dtype))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (3, 2)])
@every_kernel
def test_a_kernel_of_any_size_equals_the_sum_over_its_shifts(kernel: int, grid: Grid, batch: int) -> None:
    assert_equals_naive(made(kernel), tokens(batch, grid), grid)


@pytest.mark.parametrize("kernel", [5, 31])
def test_a_kernel_weighs_the_tokens_around_each_token_one_by_one(kernel: int) -> None:
    grid, layer, x = (5, 7), made(kernel), tokens(2, (5, 7)).requires_grad_()
    weight, bias, half = layer.weight, layer.bias, kernel // 2
    rows = [bias.expand(2, 24)] * 35
    for n in range(35):
        for m in range(35):
            (y, x0), (i, j) = divmod(n, 7), divmod(m, 7)
            if max(abs(i - y), abs(j - x0)) <= half:
                rows[n] = rows[n] + weight[:, 0, i - y + half, j - x0 + half] * x[:, m]
    same_function(layer(x, grid), torch.stack(rows, dim=1), x, weight, bias)


def test_a_kernel_of_3_is_the_static_mixer_and_weights_tell_the_size() -> None:
    x, static = tokens(2, (5, 7)), scrambled(mixers.create("static", 24).double())
    layer = mixers.from_reference("large-kernel", mixers.to_reference(static))
    assert layer.kernel == 3
    assert torch.equal(layer(x, (5, 7)), static(x, (5, 7)))
    assert (layer.macs((5, 7), 2), layer.elementwise((5, 7), 2)) == (static.macs((5, 7), 2), static.elementwise((5, 7), 2))
    assert mixers.from_reference("large-kernel", mixers.to_reference(made(13))).kernel == 13


def test_a_longer_kernel_is_a_shorter_one_with_zeros_around() -> None:
    short, long, x = made(5), made(13), tokens(2, (5, 7))
    long.load_state_dict({"weight": F.pad(short.weight.detach(), (4, 4, 4, 4)), "bias": short.bias.detach()})
    near(long(x, (5, 7)), short(x, (5, 7)))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", [(5, 7), (9, 8)])
@every_kernel
def test_the_declared_work_is_the_counted_work(kernel: int, grid: Grid, batch: int) -> None:
    layer = made(kernel, torch.float32)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.macs * batch == layer.macs(grid, batch) == batch * kernel**2 * grid[0] * grid[1] * 24
    assert count.elementwise * batch == layer.elementwise(grid, batch)


@pytest.mark.parametrize("kernel", [0, 4, -3])
def test_a_kernel_without_a_middle_is_refused(kernel: int) -> None:
    with pytest.raises(mixers.MixerError, match=rf"got kernel = {kernel}, expected an odd number from 1 on; use 7"):
        mixers.create("large-kernel", 24, kernel=kernel)


def test_a_name_may_hold_the_kernel() -> None:
    assert mixers.create("large-kernel(kernel=31)", 24).weight.shape == (24, 1, 31, 31)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_near_float64(dtype: torch.dtype) -> None:
    layer, x = mixers.create("large-kernel", 24, kernel=13).to(dtype), tokens(2, (6, 7), dtype=dtype)
    coarse, exact = layer(x, (6, 7)), layer.double()(x.double(), (6, 7))
    assert coarse.dtype == dtype
    assert (coarse - exact).norm() < 0.01 * exact.norm()


def mirrored(x: Tensor, weight: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    return right_conv(x, weight.flip(2, 3), bias, grid)


def on_the_transposed_grid(x: Tensor, weight: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    maps = to_map(x, grid)
    return to_tokens(F.conv2d(maps, weight.mT, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]))


right_conv = large_kernel.depthwise_conv


@pytest.mark.parametrize("wrong", [mirrored, on_the_transposed_grid])
def test_a_wrong_kernel_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(7), tokens(2, (5, 7))
    monkeypatch.setattr(large_kernel, "depthwise_conv", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


@pytest.mark.slow
def test_it_compiles_in_one_piece() -> None:
    layer, x = made(7), tokens(2, (4, 6))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (4, 6)), layer(x, (4, 6)))
