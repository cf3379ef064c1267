"""What the mixers without learned token weights, and those made for one grid, must do beside the registry-wide checks."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import assert_equals_naive, far, gradients, make_layer, near, tokens
from torch import Tensor
from torch.nn import functional as F

import mixers
from mixers.base import Grid
from mixers.fnet import Fourier
from mixers.mlp_mixer import TokenMLP
from mixers.random_matrix import RandomMatrix
from wfbench.measure.operators import elementwise_of

NEW = ["fnet", "identity", "mlp-mixer", "random"]


@pytest.mark.parametrize("n", [15, 16])
def test_the_identity_gives_back_its_tokens_and_their_gradient(n: int) -> None:
    layer, x = mixers.create("identity", 24), torch.randn(2, n, 24, dtype=torch.float64)
    grad_output = torch.randn_like(x)
    found = gradients(layer, layer, x, (3, 5), grad_output)
    assert torch.equal(found["output"], x)
    assert torch.equal(found["gradient of input"], grad_output)
    assert list(layer.state_dict()) == []


def test_the_rows_of_the_random_matrix_are_positive_and_sum_to_one() -> None:
    weight = mixers.create("random", 24, grid=(5, 7)).double().weight
    assert weight.shape == (35, 35)
    assert (weight > 0).all()
    near(weight.sum(dim=1), torch.ones(35, dtype=torch.float64), tolerance=1e-6)
    assert far(weight.sum(dim=0), torch.ones(35, dtype=torch.float64)), "columns have no such sum"
    constant = torch.randn(2, 1, 24, dtype=torch.float64).expand(-1, 35, -1)
    near(mixers.create("random", 24, grid=(5, 7)).double()(constant, (5, 7)), constant, tolerance=1e-5)


def test_the_random_matrix_is_frozen_saved_with_the_weights_and_drawn_from_the_seed() -> None:
    torch.manual_seed(1)
    first = mixers.create("random", 24, grid=(3, 5))
    other = mixers.create("random", 24, grid=(3, 5))
    torch.manual_seed(1)
    assert torch.equal(mixers.create("random", 24, grid=(3, 5)).weight, first.weight)
    assert far(first.weight, other.weight)
    assert list(first.parameters()) == []
    other.load_state_dict(first.state_dict())
    x = tokens(2, (3, 5), dtype=torch.float32)
    assert torch.equal(other(x, (3, 5)), first(x, (3, 5)))


@pytest.mark.parametrize("name", ["mlp-mixer", "random"])
def test_a_mixer_made_for_one_grid_refuses_others_and_names_both(name: str) -> None:
    layer = make_layer(name, "token", (3, 5))
    for refused in (lambda: layer(tokens(1, (5, 3)), (5, 3)), lambda: layer.macs((5, 3)), lambda: layer.elementwise((5, 3))):
        with pytest.raises(mixers.MixerError, match=rf"'{name}' is made for one grid: got 5x3, expected 3x5"):
            refused()
    with pytest.raises(mixers.MixerError, match=r"got grid = None, expected \(H, W\)"):
        mixers.create(name, 24)
    assert mixers.spec(name).needs_grid


@pytest.mark.parametrize("name", NEW)
def test_a_layer_for_a_large_grid_is_made_without_its_memory(name: str) -> None:
    with torch.device("meta"):
        layer = mixers.create(name, 24, grid=(512, 512))
        assert layer(torch.empty(1, 512 * 512, 24), (512, 512)).shape == (1, 512 * 512, 24)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", NEW)
def test_a_new_mixer_compiles_without_a_graph_break(name: str) -> None:
    layer, x = make_layer(name, "token", (3, 5), dtype=torch.float32), tokens(2, (3, 5), dtype=torch.float32)
    near(torch.compile(layer, fullgraph=True, backend="aot_eager")(x, (3, 5)), layer(x, (3, 5)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NEW)
def test_half_precision_comes_out_as_it_came_in(name: str, dtype: torch.dtype) -> None:
    layer, x = make_layer(name, "token", (3, 5)), tokens(2, (3, 5))
    half = layer.to(dtype)(x.to(dtype), (3, 5))
    exact = layer.double()(x.to(dtype).double(), (3, 5))
    assert half.dtype == dtype
    assert ((half.double() - exact).norm() / exact.norm()).item() < 2e-2


@pytest.mark.parametrize(("dim", "hidden"), [(512, 256), (768, 384), (1024, 512)])
def test_the_token_mlp_is_as_wide_as_the_papers(dim: int, hidden: int) -> None:
    layer = mixers.create("mlp-mixer", dim, grid=(14, 14))
    assert layer.fc1.weight.shape == (hidden, 196)
    assert layer.macs((14, 14)) == 2 * 196 * hidden * dim
    assert mixers.create("mlp-mixer", dim, grid=(14, 14), hidden=7).fc2.weight.shape == (196, 7)
    with pytest.raises(mixers.MixerError, match="hidden = 0"):
        mixers.create("mlp-mixer", dim, grid=(14, 14), hidden=0)


def test_the_token_mlp_treats_every_channel_alike() -> None:
    layer, x, order = make_layer("mlp-mixer", "token", (3, 5)), tokens(2, (3, 5)), torch.randperm(24)
    near(layer(x[..., order], (3, 5)), layer(x, (3, 5))[..., order])


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 7), (4, 4)])
def test_the_transform_equals_its_double_sum(grid: Grid) -> None:
    x, n, c = tokens(2, grid, 6), grid[0] * grid[1], 6
    j, k = torch.arange(n, dtype=torch.float64), torch.arange(c, dtype=torch.float64)
    expected = torch.stack(
        [
            torch.stack([(x * torch.cos(2 * math.pi * (u * j[:, None] / n + v * k / c))).sum(dim=(1, 2)) for v in range(c)], -1)
            for u in range(n)
        ],
        dim=1,
    )
    near(mixers.create("fnet", 6)(x, grid), expected)


@pytest.mark.parametrize(("shape", "dims", "n", "transforms"), [((2, 15, 8), (1, 2), 120, 2), ((2, 15, 8), (2,), 8, 30)])
def test_a_transform_is_counted_by_its_elements_once_for_each_transform(
    shape: tuple[int, ...], dims: tuple[int, ...], n: int, transforms: int
) -> None:
    x = torch.randn(shape)
    half = torch.ops.aten._fft_r2c(x, dims, 0, True)
    calls = {
        "aten._fft_r2c": ((x, dims, 0, True), half),
        "aten._fft_c2c": ((x.to(torch.complex64), dims, 0, True), x.to(torch.complex64)),
        "aten._fft_c2r": ((half, dims, 0, shape[-1]), x),
    }
    for name, (args, out) in calls.items():
        assert elementwise_of(name, args, out) == transforms * round(5 * n * math.log2(n)), name


class ColumnsSumToOne(RandomMatrix):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.weight.T @ x


class TransformOverTokensOnly(Fourier):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return torch.fft.fft(x, dim=1).real


class NormalisedTransform(Fourier):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return torch.fft.fft2(x, norm="ortho").real


class MixesChannels(TokenMLP):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x.reshape(x.shape[0], x.shape[2], x.shape[1])))).mT


@pytest.mark.parametrize("broken", [ColumnsSumToOne, TransformOverTokensOnly, NormalisedTransform, MixesChannels])
def test_a_broken_fast_path_is_seen_red(broken: type) -> None:
    layer = broken(24, grid=(3, 5)).double()
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, tokens(2, (3, 5)), (3, 5))
