"""What the test files of single rivals share: goldens with the authors' options, work, precision, compilation."""

from __future__ import annotations

import torch
from helpers import all_near, golden, near, part, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn

import mixers
from mixers.base import Grid
from wfbench.measure import count_flops

#: Metadata of a golden file that is no option of the authors' constructor.
NOT_OPTIONS = {"mixer", "dim", "num_heads", "grid_h", "grid_w", "dtype", "mode", "repository", "commit", "source_file", "note"}


def loaded(name: str, file: str, **options: object) -> tuple[nn.Module, Grid, dict[str, Tensor]]:
    """A layer with the weights and the options of a golden file and further ones, its grid, and the file's tensors."""
    meta, tensors = golden(file)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    own = {key: value for key, value in meta.items() if key not in NOT_OPTIONS}
    heads = int(meta["num_heads"])
    layer = mixers.from_reference(name, part(tensors, "param."), num_heads=heads, grid=grid, options=own | options)
    return layer, grid, tensors


def assert_golden(name: str, file: str, **options: object) -> None:
    """Fail unless a layer with the golden weights gives the golden output, grad_input and gradients."""
    layer, grid, tensors = loaded(name, file, **options)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


def made(name: str, grid: Grid = (4, 6), dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    """A layer of 24 channels and three heads, with noise on every parameter."""
    return scrambled(mixers.create(name, 24, num_heads=3, grid=grid, **options).to(dtype))


def assert_work(name: str, options: dict[str, object], grid: Grid, batch: int) -> None:
    """Fail unless the declared work is the counted work."""
    layer = made(name, grid, torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.macs * batch == layer.macs(grid, batch)
    assert count.elementwise * batch == layer.elementwise(grid, batch)


@torch.no_grad()
def assert_holds_16_bits(name: str, dtype: torch.dtype, options: dict[str, object], error: float = 0.05) -> None:
    """Fail unless the sums over 16,384 tokens are near those of float64."""
    grid = (128, 128)
    layer, x = made(name, grid, dtype, **options), (1 + tokens(1, grid, dtype=torch.float32)).to(dtype)
    coarse, exact = layer(x, grid), layer.double()(x.double(), grid)
    assert coarse.dtype == dtype
    assert (coarse.double() - exact).norm() < error * exact.norm()


def assert_trains_in_autocast(name: str, dtype: torch.dtype, options: dict[str, object]) -> None:
    """Fail unless a step under autocast has finite gradients and is near the step without."""
    layer, x = made(name, (5, 7), torch.float32, **options), tokens(2, (5, 7), dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        y = layer(x, (5, 7))
    exact = layer(x, (5, 7))
    assert (y.float() - exact).norm() < 0.05 * exact.norm()
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def assert_compiles(name: str, options: dict[str, object]) -> None:
    """Fail unless a layer compiles as one graph, to the same numbers."""
    layer, x = made(name, (5, 7), **options), tokens(2, (5, 7))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (5, 7)), layer(x, (5, 7)))
