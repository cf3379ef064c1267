from __future__ import annotations

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, near, part, same_function, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers import gdn
from mixers.base import Grid
from wfbench.measure import count_flops

OPTIONS: list[dict[str, object]] = [
    {},
    {"local": False},
    {"gate": False, "chunk": 8},
    {"local": False, "gate": False, "chunk": 1},
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "default")


def made(dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create("gdn", 24, num_heads=3, **options).to(dtype))


def inputs(n: int, batch: int = 2, heads: int = 2, keys: int = 4, values: int = 5) -> dict[str, Tensor]:
    """Random arguments of `gated_delta`, with keys of unit length."""
    q, k = F.normalize(torch.randn(2, batch, n, heads, keys, dtype=torch.float64), dim=-1)
    v = torch.randn(batch, n, heads, values, dtype=torch.float64)
    beta, g = torch.rand(2, batch, n, heads, dtype=torch.float64)
    return {"q": q, "k": k, "v": v, "beta": beta, "g": -g}


def results(function, given: dict[str, Tensor], **more: object) -> dict[str, Tensor]:
    """o, the last state, and the gradients of a weighted sum of both."""
    given = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    o, state = function(**given, **more)
    weight = torch.Generator().manual_seed(1)
    loss = sum((t * torch.randn(t.shape, dtype=t.dtype, generator=weight)).sum() for t in (o, state))
    grads = torch.autograd.grad(loss, list(given.values()))
    return {"o": o.detach(), "state": state.detach()} | dict(zip(given, grads, strict=True))


@pytest.mark.parametrize("file", ["mixer_gdn", "mixer_gdn_grid5x7"])
@pytest.mark.parametrize("chunk", [None, 1, 4, 64])
def test_the_core_gives_the_outputs_states_and_gradients_of_a_published_one(chunk: int | None, file: str) -> None:
    _, tensors = golden(file)
    given = {k: t.clone().requires_grad_() for k, t in part(tensors, "input.").items()}
    order = [given[name] for name in ("q", "k", "v", "g", "beta")]
    o, state = gdn.naive_gated_delta(*order) if chunk is None else gdn.gated_delta(*order, chunk=chunk)
    near(o.detach(), tensors["output.o"], "o")
    near(state.detach(), tensors["output.state"], "state")
    ((o * tensors["grad_output.o"]).sum() + (state * tensors["grad_output.state"]).sum()).backward()
    all_near({k: t.grad for k, t in given.items()}, part(tensors, "grad_input."), "gradient of")


@pytest.mark.parametrize("chunk", [1, 2, 16, 64])
@pytest.mark.parametrize("n", [1, 3, 16, 37, 100])
def test_chunks_equal_the_recurrence(n: int, chunk: int) -> None:
    given = inputs(n)
    all_near(results(gdn.gated_delta, given, chunk=chunk), results(gdn.naive_gated_delta, given), "core")


@pytest.mark.slow
def test_chunks_equal_the_recurrence_over_four_thousand_tokens() -> None:
    given = inputs(4097, batch=1, heads=1)
    all_near(results(gdn.gated_delta, given), results(gdn.naive_gated_delta, given), "core")


def test_the_state_before_the_last_chunk_costs_nothing_and_changes_no_output() -> None:
    given = inputs(37)
    whole, before = gdn.gated_delta(**given, chunk=16), gdn.gated_delta(**given, chunk=16, last=False)
    near(before[0], whole[0])
    near(before[1], gdn.gated_delta(**{k: t[:, :32] for k, t in given.items()}, chunk=16)[1])


@pytest.mark.parametrize("chunk", [1, 4, 16])
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_orthogonal_keys_have_nothing_to_erase_so_that_it_is_decayed_linear_attention(decay: float, chunk: int) -> None:
    given = inputs(12, keys=12) | {"k": torch.eye(12, dtype=torch.float64)[torch.randperm(12)].view(1, 12, 1, 12)}
    given["k"] = given["k"].expand(2, -1, 2, -1)
    given["g"] = decay * given["g"]
    read = [given[name].requires_grad_() for name in ("q", "v", "g", "beta")]
    total = given["g"].cumsum(dim=1)
    between = (total.unsqueeze(2) - total.unsqueeze(1)).exp()  # (B, t, j, h)
    scores = torch.einsum("bthk,bjhk,btjh->bhtj", given["q"], given["k"], between).tril() / 12**0.5
    expected = torch.einsum("bhtj,bjh,bjhv->bthv", scores, given["beta"], given["v"])
    same_function(gdn.gated_delta(**given, chunk=chunk)[0], expected, *read)


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_a_pair_that_comes_twice_is_stored_once_and_a_new_value_replaces_the_old(chunk: int) -> None:
    given = inputs(9)
    ones = {"beta": torch.ones_like(given["beta"]), "g": torch.zeros_like(given["g"])}
    key, value = given["k"][:, :1], given["v"][:, :1]
    once = torch.einsum("bhk,bhv->bhkv", key[:, 0], value[:, 0])
    same = {"q": given["q"], "k": key.expand_as(given["k"])}
    given["v"].requires_grad_()
    near(gdn.gated_delta(**same, v=value.expand_as(given["v"]), **ones, chunk=chunk)[1], once)
    last = torch.einsum("bhk,bhv->bhkv", key[:, 0], given["v"][:, -1])
    same_function(gdn.gated_delta(**same, v=given["v"], **ones, chunk=chunk)[1], last, given["v"])


def test_a_token_reads_what_it_has_just_stored() -> None:
    given = inputs(30)
    given |= {"q": given["k"], "beta": torch.ones_like(given["beta"])}
    near(gdn.gated_delta(**given, chunk=8)[0], given["v"] / 2, "the root of 4 is 2")


@pytest.mark.parametrize("decay", [-1e30, -1e6, -1e3])
def test_a_token_that_forgets_everything_leaves_the_decays_after_it_exact(decay: float) -> None:
    given = inputs(100)
    given["g"] = 0.01 * given["g"]
    given["g"][:, 5::20] = decay
    coarse = results(gdn.gated_delta, {k: t.float() for k, t in given.items()})
    assert all(t.isfinite().all() for t in coarse.values())
    near(coarse["o"], gdn.naive_gated_delta(**given)[0], tolerance=1e-5)


def test_many_copies_of_one_key_stay_finite_in_float32() -> None:
    given = {k: t.float() for k, t in inputs(512).items()}
    given |= {"k": given["k"][:, :1].expand_as(given["k"]), "beta": torch.ones_like(given["beta"])}
    found = results(gdn.gated_delta, given)
    assert all(t.isfinite().all() for t in found.values())
    near(found["o"], gdn.naive_gated_delta(**{k: t.double() for k, t in given.items()})[0], tolerance=1e-4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(5, 7), (3, 2), (9, 8)])
@with_options
def test_a_layer_with_options_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(**options), tokens(batch, grid), grid)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((9, 16), 3), ((1, 1), 2)])
@with_options
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    layer = made(torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.elementwise * batch == layer.elementwise(grid, batch)
    assert count.macs * batch == layer.macs(grid, batch)


def test_the_core_has_the_macs_of_its_docstring() -> None:
    n, c, h, chunk = 256, 48, 3, 64
    core = n * c * (3 * 16 + 4 * chunk - 1) - chunk * c * 16
    assert mixers.create("gdn", c, num_heads=h).macs((16, 16)) == 5 * n * c * c + 4 * n * c * h + 24 * n * c + 2 * core


def test_the_convolution_that_is_off_is_one_that_passes_on() -> None:
    layer, off, x = made(), made(local=False), tokens(2, (5, 7))
    for direction in (layer.onward, layer.back):
        direction.conv.weight.data = torch.tensor([0.0, 0.0, 0.0, 1.0]).double().expand(72, 1, 4).clone()
    off.load_state_dict({k: t for k, t in layer.state_dict().items() if "conv" not in k})
    near(off(x, (5, 7)), layer(x, (5, 7)))


def test_the_reversed_sequence_with_the_directions_exchanged_is_the_reversed_result() -> None:
    layer, other, x = made(), made(), tokens(2, (5, 7))
    swapped = {"onward": "back", "back": "onward"}
    state = layer.state_dict()
    other.load_state_dict({".".join(swapped.get(p, p) for p in k.split(".")): t for k, t in state.items()})
    near(other(x.flip(1), (5, 7)), layer(x, (5, 7)).flip(1))
    assert far(layer(x.flip(1), (5, 7)), layer(x, (5, 7)).flip(1))


@pytest.mark.parametrize("rate", [-200.0, 200.0])
def test_rates_beyond_the_range_of_floats_and_empty_tokens_stay_finite(rate: float) -> None:
    layer, x = made(torch.float32), tokens(2, (9, 8), dtype=torch.float32)
    x[:, ::3] = 0
    nn.init.constant_(layer.onward.a_log, rate)
    y = layer(x, (9, 8))
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), list(layer.parameters())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_near_float64(dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create("gdn", 24, num_heads=3), std=0.02).to(dtype)
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


@pytest.mark.parametrize("chunk", [0, 3, -4])
def test_a_chunk_that_is_no_power_of_two_is_refused(chunk: int) -> None:
    with pytest.raises(mixers.MixerError, match=rf"got chunk = {chunk}, expected 1, 2, 4, .*use 64"):
        made(chunk=chunk)


def test_the_layer_has_no_authors_names() -> None:
    with pytest.raises(mixers.MixerError, match="no parameter names of its authors"):
        mixers.to_reference(made())


# --- wrong versions

right_core = gdn.gated_delta
Core = tuple[Tensor, Tensor]


def backward_scanned_forward(*given: Tensor, last: bool = True) -> Core:
    def turned(t: Tensor) -> Tensor:
        onward, back = t.chunk(2)
        return torch.cat([onward, back.flip(1)])

    o, state = right_core(*(turned(t) for t in given[:5]), given[5], last=last)
    return turned(o), state


def without_the_erase_term(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, chunk: int, last: bool = True) -> Core:
    total = g.cumsum(dim=1)
    between = (total.unsqueeze(2) - total.unsqueeze(1)).permute(0, 3, 1, 2)
    decay = torch.where(torch.ones_like(between, dtype=torch.bool).tril(), between, -torch.inf).exp()
    scores = torch.einsum("bthk,bjhk->bhtj", q, k) * decay / q.shape[-1] ** 0.5
    return torch.einsum("bhtj,bjh,bjhv->bthv", scores, beta, v), v


def decay_one_token_late(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, chunk: int, last: bool = True) -> Core:
    return right_core(q, k, v, g.roll(1, 1), beta, chunk)


def unscaled(q: Tensor, *more: Tensor, last: bool = True) -> Core:
    return right_core(torch.cat([q[:1], 2 * q[1:]]), *more)


@pytest.mark.parametrize("wrong", [backward_scanned_forward, without_the_erase_term, decay_one_token_late, unscaled])
def test_a_wrong_core_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), tokens(2, (5, 7))
    assert_equals_naive(layer, x, (5, 7))
    monkeypatch.setattr(gdn, "gated_delta", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


right_gates = gdn.Direction.gated


def gates_exchanged(direction: gdn.Direction, x: Tensor) -> Core:
    direction.gates.weight.data = direction.gates.weight.data.roll(3, 0)
    found = right_gates(direction, x)
    direction.gates.weight.data = direction.gates.weight.data.roll(3, 0)
    return found


def growing(direction: gdn.Direction, x: Tensor) -> Core:
    g, beta = right_gates(direction, x)
    return -g, beta


def without_the_bias_of_the_step(direction: gdn.Direction, x: Tensor) -> Core:
    g, beta = right_gates(direction, x)
    steps = direction.gates(x)[:, :, 3:]
    return g * torch.nn.functional.softplus(steps) / torch.nn.functional.softplus(steps + direction.step_bias), beta


@pytest.mark.parametrize("wrong", [gates_exchanged, growing, without_the_bias_of_the_step])
def test_wrong_gates_are_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), tokens(2, (5, 7))
    monkeypatch.setattr(gdn.Direction, "gated", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


def norm_over_the_heads(layer: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    y = y * (y.square().mean(dim=2, keepdim=True) + gdn.NORM_EPSILON).rsqrt() * layer.norm
    return layer.proj(y.flatten(2) * torch.nn.functional.silu(layer.gate(x)))


def gate_of_a_sigmoid(layer: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    y = y * (y.square().mean(dim=3, keepdim=True) + gdn.NORM_EPSILON).rsqrt() * layer.norm
    return layer.proj(y.flatten(2) * layer.gate(x).sigmoid())


@pytest.mark.parametrize("wrong", [norm_over_the_heads, gate_of_a_sigmoid])
def test_a_wrong_norm_or_gate_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), tokens(2, (5, 7))
    monkeypatch.setattr(gdn.GDN, "_output", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))
