from __future__ import annotations

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, near, part, same_function, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn

import mixers
from mixers import vim
from mixers.base import Grid
from wfbench.measure import count_flops

NOT_OPTIONS = "mixer dim num_heads grid_h grid_w dtype mode repository commit source_file note".split()
OPTIONS: list[dict[str, object]] = [
    {},
    {"local": False},
    {"divide": False, "state": 3, "rank": 4},
    {"local": False, "divide": False, "state": 1},
    {"gate": False},
    {"gate": False, "local": False},
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "default")


def made(dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create("vim", 24, **options).to(dtype))


def inputs(n: int, batch: int = 2, width: int = 6, state: int = 4, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Random arguments of `selective_scan`."""
    u, delta, z = torch.randn(3, batch, width, n, dtype=dtype)
    b, c = torch.randn(2, batch, state, n, dtype=dtype)
    skip, bias = torch.randn(2, width, dtype=dtype)
    a = -torch.rand(width, state, dtype=dtype) - 0.1
    return {"u": u, "delta": delta, "A": a, "B": b, "C": c, "D": skip, "z": z, "delta_bias": bias}


def results(function, given: dict[str, Tensor], **more: object) -> dict[str, Tensor]:
    """y, the last state, and the gradients of a weighted sum of both."""
    given = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    y, state = function(**given, **more)
    weight = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, dtype=t.dtype, generator=weight)).sum() for t in (y, state))
    grads = torch.autograd.grad(loss, list(given.values()))
    return {"y": y.detach(), "state": state.detach()} | dict(zip(given, grads, strict=True))


@pytest.mark.parametrize("file", ["mixer_vim_scan", "mixer_vim_scan_grid5x7"])
@pytest.mark.parametrize("function", [vim.selective_scan, vim.naive_selective_scan])
def test_the_scan_gives_the_states_outputs_and_gradients_of_its_authors_code(function, file: str) -> None:
    _, tensors = golden(file)
    given = {k: t.clone().requires_grad_() for k, t in (part(tensors, "input.") | part(tensors, "param.")).items()}
    y, state = function(**given)
    near(y.detach(), tensors["output.y"], "y")
    near(state.detach(), tensors["output.state"], "state")
    ((y * tensors["grad_output.y"]).sum() + (state * tensors["grad_output.state"]).sum()).backward()
    expected = part(tensors, "grad_input.") | part(tensors, "grad.")
    all_near({k: t.grad for k, t in given.items()}, expected, "gradient of")


@pytest.mark.parametrize("file", ["mixer_vim", "mixer_vim_grid5x7"])
def test_the_layer_gives_the_output_and_gradients_of_its_authors_code(file: str) -> None:
    meta, tensors = golden(file)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    options = {k: v for k, v in meta.items() if k not in NOT_OPTIONS}
    layer = mixers.from_reference("vim", part(tensors, "param."), num_heads=1, grid=grid, options=options)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    near(layer.naive(x, grid).detach(), tensors["output"], "naive output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("n", [1, 3, 16, 37, 150])
def test_chunks_equal_the_recurrence(n: int, chunk: int) -> None:
    given = inputs(n)
    all_near(results(vim.selective_scan, given, chunk=chunk), results(vim.naive_selective_scan, given), "scan")


@pytest.mark.slow
def test_chunks_equal_the_recurrence_over_four_thousand_tokens() -> None:
    given = inputs(4097, batch=1, width=2, state=2)
    all_near(results(vim.selective_scan, given), results(vim.naive_selective_scan, given), "core")


def test_the_scan_needs_neither_skip_nor_gate_nor_bias() -> None:
    given = {k: t for k, t in inputs(20).items() if k in "u delta A B C".split()}
    all_near(results(vim.selective_scan, given), results(vim.naive_selective_scan, given), "scan")


def test_without_decay_it_is_linear_attention_over_what_came_before() -> None:
    given = {name: t.requires_grad_() for name, t in inputs(37).items()}
    b, c = given["B"], given["C"]
    step = torch.nn.functional.softplus(given["delta"])
    scores = torch.einsum("bsn,bsm->bnm", c, b).tril()  # queries C, keys B
    expected = torch.einsum("bnm,bdm->bdn", scores, step * given["u"])
    y, _ = vim.selective_scan(given["u"], given["delta"], torch.zeros_like(given["A"]), b, c)
    same_function(y, expected, given["u"], given["delta"], b, c)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(5, 7), (3, 2), (9, 16)])
@with_options
def test_a_layer_with_options_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(**options), tokens(batch, grid), grid)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((9, 16), 3), ((1, 1), 2)])
@with_options
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    layer = made(torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.elementwise * batch == layer.elementwise(grid, batch)
    assert count.macs * batch == layer.macs(grid, batch)


def test_the_macs_are_those_of_the_paper_and_the_readout() -> None:
    n, c, r, s = 64, 48, 3, 16
    expected = 6 * n * c * c + 4 * n * c * (r + 2 * s) + 4 * n * c * r + 16 * n * c + 4 * n * c * s
    assert mixers.create("vim", c).macs((8, 8)) == expected


def test_the_convolution_that_is_off_is_one_that_passes_on() -> None:
    layer, off, x = made(), made(local=False), tokens(2, (5, 7))
    for direction in (layer.onward, layer.back):
        nn.init.zeros_(direction.conv.bias)
        direction.conv.weight.data = torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(48, 1, 4).clone()
    off.load_state_dict({k: t for k, t in layer.state_dict().items() if "conv" not in k})
    near(off(x, (5, 7)), layer(x, (5, 7)))


def test_the_reversed_sequence_with_the_directions_exchanged_is_the_reversed_result() -> None:
    layer, other, x = made(), made(), tokens(2, (5, 7))
    swapped = {"onward": "back", "back": "onward"}
    state = layer.state_dict()
    other.load_state_dict({".".join(swapped.get(p, p) for p in k.split(".")): t for k, t in state.items()})
    near(other(x.flip(1), (5, 7)), layer(x, (5, 7)).flip(1))
    assert far(layer(x.flip(1), (5, 7)), layer(x, (5, 7)).flip(1))


def test_half_of_the_sum_of_both_directions() -> None:
    halved, x = made(), tokens(1, (4, 6))
    whole = made(divide=False)
    whole.load_state_dict(halved.state_dict())
    near(whole(x, (4, 6)), 2 * halved(x, (4, 6)))


@pytest.mark.parametrize("scale", [1e-3, 1e4, 1e30])
def test_decays_of_nearly_one_and_of_zero_stay_finite_and_right(scale: float) -> None:
    given = inputs(70, dtype=torch.float32)
    given["A"] = given["A"] * scale
    found = results(vim.selective_scan, given)
    assert all(t.isfinite().all() for t in found.values())
    exact, _ = vim.naive_selective_scan(**{k: t.double() for k, t in given.items()})
    near(found["y"], exact)


def test_an_a_beyond_the_range_of_floats_forgets_everything() -> None:
    layer, x = made(torch.float32), tokens(1, (4, 6), dtype=torch.float32)
    nn.init.constant_(layer.onward.a_log, 200.0)
    y = layer(x, (4, 6))
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), list(layer.parameters())))


def test_the_states_of_all_tokens_are_never_kept() -> None:
    layer, x = made(torch.float32), tokens(1, (32, 32), dtype=torch.float32).requires_grad_()
    largest = 0

    def pack(t: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, t.untyped_storage().nbytes() // t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x, (32, 32))
    assert 0 < largest <= 2 * 1024 * 96, "as much as x and z have, for both directions; the states would be 16 times that"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_near_float64(dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create("vim", 24), std=0.02).to(dtype)
    x = tokens(2, (6, 7), dtype=dtype)
    y = layer(x, (6, 7))
    exact = layer.double()(x.double(), (6, 7))
    assert y.dtype == dtype
    assert ((y - exact).norm() / exact.norm()).item() < (0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.slow
@with_options
def test_the_layer_compiles_in_one_piece(options: dict[str, object]) -> None:
    layer, x = made(**options), tokens(2, (4, 6))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (4, 6)), layer(x, (4, 6)))


@pytest.mark.parametrize("options", [{"state": 0}, {"rank": 0}])
def test_an_option_out_of_range_is_refused(options: dict[str, object]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(mixers.MixerError, match=rf"{name} = {value}.*expected at least 1"):
        made(**options)


def test_the_authors_options_are_read_or_refused() -> None:
    state = mixers.to_reference(made(divide=False, state=5))
    again = mixers.from_reference("vim", state, options={"if_divide_out": "False", "d_state": "5", "dt_rank": "auto"})
    assert again.divide is False
    with pytest.raises(mixers.MixerError, match=r"bimamba_type = 'v1', expected 'v2'"):
        mixers.from_reference("vim", state, options={"bimamba_type": "v1"})
    with pytest.raises(mixers.MixerError, match=r"weights do not fit"):
        mixers.from_reference("vim", state, options={"d_state": "16"})
    with pytest.raises(mixers.MixerError, match=r"unknown option .*'if_devide_out'"):
        mixers.from_reference("vim", state, options={"if_devide_out": "True"})


# --- wrong versions

right_scan = vim.scan


def backward_scanned_forward(*given: Tensor, chunk: int = 16) -> tuple[Tensor, Tensor]:
    step, u, b, c, a = (torch.cat([t[:1], t[1:].flip(2)]) if t.ndim == 4 else t for t in given[:5])
    y, state = right_scan(step, u, b, c, a, chunk)
    return torch.cat([y[:1], y[1:].flip(2)]), state


def decay_one_token_late(step: Tensor, u: Tensor, b: Tensor, c: Tensor, a: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    late = step.roll(1, 2)
    return right_scan(late, u * step / late, b, c, a, chunk)


def shared_a(step: Tensor, u: Tensor, b: Tensor, c: Tensor, a: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    return right_scan(step, u, b, c, a[:1].expand_as(a), chunk)


def read_before_writing(step: Tensor, u: Tensor, b: Tensor, c: Tensor, a: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    y, state = right_scan(step, u, b, c, a, chunk)
    return y - step * u * (b * c).sum(dim=-1, keepdim=True), state


@pytest.mark.parametrize("wrong", [backward_scanned_forward, decay_one_token_late, shared_a, read_before_writing])
def test_a_wrong_scan_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), tokens(2, (5, 7))
    assert_equals_naive(layer, x, (5, 7))
    monkeypatch.setattr(vim, "scan", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


def test_chunks_that_forget_what_came_before_are_seen_red(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vim.scan_chunks
    monkeypatch.setattr(vim, "scan_chunks", lambda *given: right(*given[:5], 0 * given[5], given[6]))
    given = inputs(150)
    with pytest.raises(AssertionError, match="differs"):
        near(vim.selective_scan(**given, chunk=4)[0], vim.naive_selective_scan(**given)[0])
