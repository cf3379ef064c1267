from __future__ import annotations

import pytest
import torch
from helpers import all_near, assert_equals_naive, golden, near, part, same_function, scrambled, tokens
from test_flops import Alone
from torch import Tensor, nn

import mixers
from mixers import vrwkv
from mixers.base import Grid
from wfbench.measure import count_flops

NOT_OPTIONS = "mixer dim num_heads grid_h grid_w dtype mode repository commit source_file note".split()
OPTIONS: list[dict[str, object]] = [{}, {"local": False}, {"key_norm": True}, {"shift": 2}, {"local": False, "key_norm": True}]
OPTIONS += [{"gate": False}, {"gate": False, "local": False}]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "default")


def made(dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create("vrwkv", 24, **options).to(dtype))


def inputs(n: int, batch: int = 2, dim: int = 5, keys: float = 1.0, decay: float = 1.0) -> dict[str, Tensor]:
    """Random arguments of `bi_wkv`, decays of both signs."""
    k, v = torch.randn(2, batch, n, dim, dtype=torch.float64)
    w, u = torch.randn(2, dim, dtype=torch.float64)
    return {"k": keys * k, "v": v, "w": decay * w, "u": u}


def results(function, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """y, and the gradients of a weighted sum of it."""
    given = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    y = function(**given)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return {"y": y.detach()} | dict(zip(given, torch.autograd.grad(y, list(given.values()), weight), strict=True))


@pytest.mark.parametrize("file", ["mixer_vrwkv_biwkv", "mixer_vrwkv_biwkv_grid5x7"])
@pytest.mark.parametrize("function", [vrwkv.bi_wkv, vrwkv.naive_bi_wkv])
def test_the_core_gives_the_outputs_and_gradients_of_the_papers_formula(function, file: str) -> None:
    _, tensors = golden(file)
    given = {k: t.clone().requires_grad_() for k, t in (part(tensors, "input.") | part(tensors, "param.")).items()}
    y = function(*(given[name] for name in ("w", "u", "k", "v")))
    near(y.detach(), tensors["output"])
    y.backward(tensors["grad_output"])
    expected = part(tensors, "grad_input.") | part(tensors, "grad.")
    all_near({k: t.grad for k, t in given.items()}, expected, "gradient of")


@pytest.mark.parametrize("file", ["mixer_vrwkv", "mixer_vrwkv_grid5x7", "mixer_vrwkv_noshift"])
def test_the_layer_gives_the_output_and_gradients_of_its_authors_code(file: str) -> None:
    meta, tensors = golden(file)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    options = {k: v for k, v in meta.items() if k not in NOT_OPTIONS}
    layer = mixers.from_reference("vrwkv", part(tensors, "param."), num_heads=1, grid=grid, options=options)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    near(layer.naive(x, grid).detach(), tensors["output"], "naive output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


@pytest.mark.parametrize("decay", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("n", [1, 2, 8, 9, 35, 64, 65, 150])
def test_chunks_equal_the_explicit_weights(n: int, decay: float) -> None:
    given = inputs(n, decay=decay)
    all_near(results(vrwkv.bi_wkv, given), results(vrwkv.naive_bi_wkv, given), "core")


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.003, -0.003])
def test_chunks_equal_the_explicit_weights_of_four_thousand_tokens(decay: float) -> None:
    given = inputs(4097, batch=1, dim=1, decay=decay)
    all_near(results(vrwkv.bi_wkv, given), results(vrwkv.naive_bi_wkv, given), "core")


def test_the_core_is_two_scans_and_the_token_itself() -> None:
    given = {name: t.requires_grad_() for name, t in inputs(30, decay=0.1).items()}
    k, v, w, u = (given[name] for name in "kvwu")
    sums = [(k + u).exp() * v, (k + u).exp()]
    for order in (range(30), reversed(range(30))):
        state = [torch.zeros(2, 5, dtype=torch.float64) for _ in range(2)]
        for t in order:
            for i, new in enumerate((v[:, t], 1.0)):
                sums[i] = sums[i].index_add(1, torch.tensor([t]), state[i].unsqueeze(1))
                state[i] = (-w).exp() * state[i] + k[:, t].exp() * new
    same_function(vrwkv.bi_wkv(**given), sums[0] / sums[1], k, v, w, u)


def test_without_decay_and_bonus_below_one_step_it_is_a_softmax_over_the_tokens() -> None:
    given = {name: t.requires_grad_() for name, t in inputs(35).items()}
    given["w"], given["u"] = torch.zeros(2, 5, dtype=torch.float64)
    expected = (given["k"].softmax(dim=1) * given["v"]).sum(dim=1, keepdim=True).expand(-1, 35, -1)
    same_function(vrwkv.bi_wkv(**given), expected, given["k"], given["v"])


def test_the_weights_of_a_token_sum_to_one() -> None:
    given = inputs(35, decay=3.0)
    given["v"] = torch.full_like(given["v"], 2.5)
    near(vrwkv.bi_wkv(**given), given["v"])


def test_a_negative_decay_reads_the_far_tokens_and_a_positive_one_the_near() -> None:
    given = inputs(33, dim=2, keys=0.0) | {"u": torch.full((2,), -1e3, dtype=torch.float64)}
    given["w"] = torch.tensor([-50.0, 50.0], dtype=torch.float64)
    y, v = vrwkv.bi_wkv(**given), given["v"]
    near(y[:, 10, 0], v[:, 32, 0])
    near(y[:, 10, 1], (v[:, 9, 1] + v[:, 11, 1]) / 2)


@pytest.mark.parametrize("total", [-100.0, 100.0])
@pytest.mark.parametrize("n", [36, 300])
def test_large_keys_and_decays_are_right_in_float32(n: int, total: float) -> None:
    given = {
        "k": 100 * torch.rand(1, n, 4) - 50,
        "v": torch.randn(1, n, 4),
        "w": torch.full((4,), total / n),
        "u": torch.randn(4),
    }
    found = results(vrwkv.bi_wkv, given)
    exact = results(vrwkv.naive_bi_wkv, {name: t.double() for name, t in given.items()})
    near(found["y"], exact["y"], tolerance=1e-4)
    near(found["k"], exact["k"], tolerance=1e-4)
    near(found["v"], exact["v"], tolerance=1e-4)
    assert all(t.isfinite().all() for t in found.values())


@pytest.mark.parametrize("total", [-100.0, 100.0, 1e5])
def test_sixteen_thousand_tokens_stay_finite_among_their_values(total: float) -> None:
    k, v = 100 * torch.rand(1, 16384, 4) - 50, torch.randn(1, 16384, 4)
    found = results(vrwkv.bi_wkv, {"k": k, "v": v, "w": torch.full((4,), total / 16384), "u": torch.randn(4)})
    assert all(t.isfinite().all() for t in found.values())
    assert (found["y"] <= v.amax(dim=1) + 1e-4).all()
    assert (found["y"] >= v.amin(dim=1) - 1e-4).all()


@pytest.mark.parametrize("pixels", [1, 2, 9])
@pytest.mark.parametrize("grid", [(5, 7), (3, 2), (1, 4)])
def test_the_shift_takes_each_quarter_from_its_neighbour(grid: Grid, pixels: int) -> None:
    x = tokens(2, grid, 10)
    near(vrwkv.q_shift(x, grid, pixels), vrwkv.naive_q_shift(x, grid, pixels))
    near(vrwkv.q_shift(x, grid, pixels)[..., 8:], x[..., 8:])


def test_a_mix_of_one_is_no_shift() -> None:
    layer, off, x = made(), made(local=False), tokens(2, (5, 7))
    for name in ("spatial_mix_k", "spatial_mix_v", "spatial_mix_r"):
        nn.init.ones_(getattr(layer, name))
    off.load_state_dict({k: t for k, t in layer.state_dict().items() if "mix" not in k})
    near(off(x, (5, 7)), layer(x, (5, 7)))
    near(off(x, (5, 7)), off(x, (7, 5)), "only the shift knows the grid")
    near(off(x.flip(1), (5, 7)), off(x, (5, 7)).flip(1), "both directions are the same")
    assert set(made(shift=0).state_dict()) == set(off.state_dict())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(5, 7), (3, 2), (9, 8)])
@with_options
def test_a_layer_with_options_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(**options), tokens(batch, grid), grid)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("grid", "batch"), [((5, 7), 1), ((9, 16), 3), ((1, 1), 2)])
@with_options
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    layer = made(torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.elementwise * batch == layer.elementwise(grid, batch)
    assert (
        count.macs * batch
        == layer.macs(grid, batch)
        == (4 if options.get("gate", True) else 3) * batch * grid[0] * grid[1] * 24**2
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_near_float64(dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create("vrwkv", 24), std=0.02).to(dtype)
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


def test_a_negative_shift_is_refused() -> None:
    with pytest.raises(mixers.MixerError, match=r"got shift = -1, expected 0 or more; use 1, or local=False"):
        made(shift=-1)


@pytest.mark.parametrize("options", [{"gate": False}, {"gate": False, "local": False}], ids=str)
def test_weights_without_a_gate_tell_that_there_is_none(options: dict[str, object]) -> None:
    layer, x = made(**options), tokens(2, (5, 7))
    state = mixers.to_reference(layer)
    assert not [name for name in state if "receptance" in name or name == "spatial_mix_r"]
    assert torch.equal(mixers.from_reference("vrwkv", state)(x, (5, 7)), layer(x, (5, 7)))


def test_the_authors_options_are_read_or_refused() -> None:
    state = mixers.to_reference(made(shift=2))
    assert mixers.from_reference("vrwkv", state, options={"shift_pixel": "2", "key_norm": "False"}).shift == 2
    with pytest.raises(mixers.MixerError, match=r"channel_gamma = 0.5, expected 0.25"):
        mixers.from_reference("vrwkv", state, options={"channel_gamma": "0.5"})
    with pytest.raises(mixers.MixerError, match=r"unexpected \['spatial_mix_k'"):
        mixers.from_reference("vrwkv", state, options={"shift_pixel": "0"})
    with pytest.raises(mixers.MixerError, match=r"missing \['key_norm.bias', 'key_norm.weight'\]"):
        mixers.from_reference("vrwkv", state, options={"key_norm": "True"})
    with pytest.raises(mixers.MixerError, match=r"unknown option .*'shift'"):
        mixers.from_reference("vrwkv", state, options={"shift": 1})


# --- wrong versions


def by_exponentials(w: Tensor, u: Tensor, k: Tensor, v: Tensor, *, off: float = 1.0, itself: bool = True) -> Tensor:
    """The formula by N×N exponentials, |t − i| − off; with the token itself in the denominator or not."""
    place = torch.arange(k.shape[1], dtype=k.dtype)
    distance = (place.unsqueeze(1) - place).abs().unsqueeze(2)
    keys = k.unsqueeze(1) + torch.where(distance == 0, u, (off - distance) * w)
    weights = keys.exp()  # (B, t, i, C)
    below = weights if itself else torch.where(distance == 0, 0.0, weights)
    return (weights * v.unsqueeze(1)).sum(dim=2) / below.sum(dim=2)


def decay_off_by_one(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_exponentials(w, u, k, v, off=0.0)


def bonus_not_in_the_normaliser(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_exponentials(w, u, k, v, itself=False)


def bonus_undivided(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_exponentials(w, u * k.shape[1], k, v)


right_earlier = vrwkv.earlier


def test_the_right_formula_by_exponentials_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vrwkv, "bi_wkv", by_exponentials)
    assert_equals_naive(made(), tokens(2, (5, 7)), (5, 7))


@pytest.mark.parametrize("wrong", [decay_off_by_one, bonus_not_in_the_normaliser, bonus_undivided])
def test_a_wrong_core_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(), tokens(2, (5, 7))
    layer.spatial_decay.data *= 3
    monkeypatch.setattr(vrwkv, "bi_wkv", wrong)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


def test_a_backward_direction_scanned_forward_is_seen_red(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, calls = made(), tokens(2, (5, 7)), []

    def forward_both_times(given: tuple[Tensor, Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(w)
        monkeypatch.setattr(vrwkv, "earlier", right_earlier)  # within, it is right
        turn = len(calls) % 2 == 0  # the second call of each core is the backward direction
        key, value = right_earlier((given[0].flip(1), given[1].flip(1)) if turn else given, w)
        monkeypatch.setattr(vrwkv, "earlier", forward_both_times)
        return (key.flip(1), value.flip(1)) if turn else (key, value)

    assert_equals_naive(layer, x, (5, 7))
    monkeypatch.setattr(vrwkv, "earlier", forward_both_times)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


def test_shifts_that_wrap_around_are_seen_red(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped(x: Tensor, grid: Grid, pixels: int) -> Tensor:
        return torch.cat([x[..., :6].roll(1, 1), x[..., 6:12].roll(-1, 1), vrwkv.naive_q_shift(x, grid, pixels)[..., 12:]], 2)

    monkeypatch.setattr(vrwkv, "q_shift", wrapped)
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(made(), tokens(2, (5, 7)), (5, 7))
