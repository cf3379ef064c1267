from __future__ import annotations

import math

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, near, part, same_function, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn

import mixers
from mixers.base import Grid
from mixers.gfnet import GlobalFilter
from wfbench.measure import count_flops

GOLDENS = ["mixer_gfnet", "mixer_gfnet_grid5x7"]
#: Both axes even, both odd, and a height and a width of 1.
GRIDS = [(4, 6), (5, 7), (3, 8), (1, 5), (6, 1)]
every_grid = pytest.mark.parametrize("grid", GRIDS)


def made(grid: Grid, dtype: torch.dtype = torch.float64) -> nn.Module:
    return scrambled(mixers.create("gfnet", 24, grid=grid).to(dtype))


def assert_golden(name: str) -> None:
    meta, tensors = golden(name)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    layer = mixers.from_reference("gfnet", part(tensors, "param."), grid=grid, options={"fft_norm": meta["fft_norm"]})
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


@pytest.mark.parametrize("name", GOLDENS)
def test_the_filter_gives_the_output_and_gradients_of_its_authors_code(name: str) -> None:
    assert_golden(name)


@pytest.mark.parametrize("batch", [1, 2])
@every_grid
def test_the_filter_equals_the_circular_convolution_by_sums(grid: Grid, batch: int) -> None:
    assert_equals_naive(made(grid), tokens(batch, grid), grid)


def hermitian(weight: Tensor, width: int) -> Tensor:
    """All frequencies (H, W, C) of a half spectrum (H, W//2 + 1, C): of each pair that is mirrored, the mean."""
    h, half, c = weight.shape
    full = torch.zeros(h, width, c, dtype=weight.dtype)
    for u in range(h):
        for v in range(half):
            if 2 * v in (0, width):
                full[u, v] = (weight[u, v] + weight[-u % h, v].conj()) / 2
            else:
                full[u, v] = weight[u, v]
                full[-u % h, width - v] = weight[u, v].conj()
    return full


@every_grid
def test_the_kernel_is_the_transform_of_the_hermitian_part_of_the_filter(grid: Grid) -> None:
    layer = made(grid)
    full = hermitian(torch.view_as_complex(layer.complex_weight.detach()), grid[1])
    kernel = torch.fft.ifft2(full, dim=(0, 1))
    near(kernel.imag, torch.zeros_like(kernel.imag))
    near(layer.kernel().detach(), kernel.real)


def test_what_is_not_hermitian_in_the_two_columns_changes_nothing() -> None:
    layer, x, grid = made((4, 6)), tokens(2, (4, 6)), (4, 6)
    before = layer(x, grid)
    with torch.no_grad():
        layer.complex_weight[0, 0, :, 1] += 1  # imaginary, and its own mirror image
        layer.complex_weight[1, 3, :, 0] += 1
        layer.complex_weight[3, 3, :, 0] -= 1
    near(layer(x, grid), before)
    with torch.no_grad():
        layer.complex_weight[1, 2, :, 0] += 1
    assert far(layer(x, grid), before)


@every_grid
def test_a_filter_of_one_is_the_identity(grid: Grid) -> None:
    layer, x = made(grid), tokens(2, grid).requires_grad_()
    with torch.no_grad():
        layer.complex_weight.copy_(torch.tensor([1.0, 0.0]))
    same_function(layer(x, grid), x + 0, x)


def test_a_shifted_image_gives_the_shifted_output_all_around() -> None:
    layer, x, grid = made((5, 7)), tokens(2, (5, 7)), (5, 7)

    def shifted(t: Tensor) -> Tensor:
        return t.unflatten(1, grid).roll((2, 3), dims=(1, 2)).flatten(1, 2)

    near(layer(shifted(x), grid), shifted(layer(x, grid)))


@pytest.mark.parametrize("batch", [1, 3])
@every_grid
def test_the_declared_work_is_the_counted_work(grid: Grid, batch: int) -> None:
    layer, n = made(grid, torch.float32), grid[0] * grid[1]
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.macs == layer.macs(grid, batch) == 0
    assert count.elementwise * batch == layer.elementwise(grid, batch)
    by_hand = 24 * (2 * round(5 * n * math.log2(n)) + grid[0] * (grid[1] // 2 + 1))
    assert layer.elementwise(grid) == by_hand


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_transformed_in_float32(dtype: torch.dtype) -> None:
    grid = (128, 128)
    layer, x = made(grid, dtype), (1 + tokens(1, grid, dtype=torch.float32)).to(dtype)
    coarse, exact = layer(x, grid), layer.double()(x.double(), grid)
    assert coarse.dtype == dtype
    assert (coarse.double() - exact).norm() < 5e-3 * exact.norm()


@torch.no_grad()
def test_autocast_leaves_the_transforms_alone() -> None:
    layer, x = made((5, 7), torch.float32), tokens(2, (5, 7), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x, (5, 7))
    assert torch.equal(y, layer(x, (5, 7)))


def test_no_grid_and_another_grid_are_refused() -> None:
    with pytest.raises(mixers.MixerError, match=r"a global filter has parameters for one grid: got grid = None, .*pass grid"):
        mixers.create("gfnet", 24)
    layer = made((4, 6))
    for refused in (lambda: layer(tokens(1, (6, 4)), (6, 4)), lambda: layer.macs((6, 4)), lambda: layer.elementwise((6, 4))):
        with pytest.raises(mixers.MixerError, match="a global filter is made for one grid: got 6x4, expected 4x6"):
            refused()


def test_weights_of_another_grid_and_another_normalisation_are_refused() -> None:
    state = mixers.to_reference(made((4, 6)))
    with pytest.raises(mixers.MixerError, match=r"complex_weight \(4, 4, 24, 2\) for \(6, 3, 24, 2\)"):
        mixers.from_reference("gfnet", state, grid=(6, 4))
    with pytest.raises(mixers.MixerError, match="got fft_norm = 'forward', expected 'ortho'"):
        mixers.from_reference("gfnet", state, grid=(4, 6), options={"fft_norm": "forward"})
    with pytest.raises(mixers.MixerError, match="unknown option .*'window', expected one of fft_norm"):
        mixers.from_reference("gfnet", state, grid=(4, 6), options={"window": 7})


def conjugated(layer: GlobalFilter, x: Tensor, grid: Grid) -> Tensor:
    spectrum = torch.fft.rfft2(x.unflatten(1, grid), dim=(1, 2)) * torch.view_as_complex(layer.complex_weight).conj()
    return torch.fft.irfft2(spectrum, s=grid, dim=(1, 2)).flatten(1, 2)


def over_the_sequence(layer: GlobalFilter, x: Tensor, grid: Grid) -> Tensor:
    weight = torch.view_as_complex(layer.complex_weight).flatten(0, 1)[: x.shape[1] // 2 + 1]
    return torch.fft.irfft(torch.fft.rfft(x, dim=1) * weight, n=x.shape[1], dim=1)


def unscaled(layer: GlobalFilter, x: Tensor, grid: Grid) -> Tensor:
    spectrum = torch.fft.rfft2(x.unflatten(1, grid), dim=(1, 2), norm="ortho") * torch.view_as_complex(layer.complex_weight)
    return torch.fft.irfft2(spectrum, s=grid, dim=(1, 2)).flatten(1, 2)


@pytest.mark.parametrize("wrong", [conjugated, over_the_sequence, unscaled])
def test_a_wrong_filter_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalFilter, "forward", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(made((5, 7)), tokens(2, (5, 7)), (5, 7))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden(GOLDENS[1])


@pytest.mark.slow
def test_it_compiles_in_one_piece() -> None:
    layer, x = made((4, 6)), tokens(2, (4, 6))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (4, 6)), layer(x, (4, 6)))
