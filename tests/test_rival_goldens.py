from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, gradients, near, part, scrambled, tokens
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
import wfbench.models as models
from mixers import focused_linear, inline, mila_linear, ttt
from mixers.base import Grid, rotary_2d, shifted_depthwise_conv
from mixers.xca import CrossCovarianceAttention
from wfbench.measure import count_flops

FILES = {
    "focused-linear": "mixer_focused_linear",
    "inline": "mixer_inline",
    "mila-linear": "mixer_mila_linear",
    "ttt": "mixer_ttt",
    "xca": "mixer_xca",
}
OFF = [
    ("focused-linear", {"local": False}),
    ("focused-linear", {"pos": False}),
    ("focused-linear", {"local": False, "pos": False}),
    ("focused-linear", {"qkv_bias": False}),
    ("focused-linear", {"rope": True}),
    ("focused-linear", {"rope": True, "local": False, "pos": False}),
    ("inline", {"local": False}),
    ("inline", {"qkv_bias": False}),
    ("inline", {"rope": True}),
    ("inline", {"rope": True, "local": False}),
    ("mila-linear", {"local": False}),
    ("mila-linear", {"rope": False}),
    ("mila-linear", {"rope": False, "local": False}),
    ("ttt", {"local": False}),
    ("ttt", {"qkv_bias": False}),
    ("ttt", {"rope": True}),
    ("ttt", {"rope": True, "local": False}),
    ("ttt", {"inner_lr": 0.3}),
    ("xca", {"qkv_bias": False}),
    ("xca", {"rope": True}),
]
every_rival = pytest.mark.parametrize("name", FILES)
every_option = pytest.mark.parametrize(("name", "options"), OFF, ids=lambda v: v if isinstance(v, str) else "-".join(v))


def assert_golden(name: str) -> None:
    """Fail unless a layer with the golden weights gives the golden output, grad_input and gradients."""
    meta, tensors = golden(FILES[name])
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    layer = mixers.from_reference(name, part(tensors, "param."), num_heads=int(meta["num_heads"]), grid=grid)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


def made(name: str, grid: Grid, dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create(name, 24, num_heads=3, grid=grid, **options).to(dtype))


@every_rival
def test_a_layer_gives_the_output_and_gradients_of_its_authors_code(name: str) -> None:
    assert_golden(name)


def turned_softmax(layer: CrossCovarianceAttention, q: Tensor, k: Tensor, v: Tensor, turn: object) -> Tensor:
    q, k = (t / t.norm(dim=-2, keepdim=True) for t in (q, k))
    return v @ (q.mT @ k * layer.temperature).softmax(dim=-2).mT


right_linear = focused_linear.linear_attention
right_rotary = mila_linear.rotary_2d
right_inline = inline.inline_attention
BROKEN: dict[str, tuple[str, object, str, object]] = {
    "focused, another eps": ("focused-linear", focused_linear, "EPSILON", 2e-6),
    "focused, another power": ("focused-linear", focused_linear, "FOCUS", 2),
    "focused, a sum for the mean": (
        "focused-linear",
        focused_linear,
        "linear_attention",
        lambda q, k, v, eps, turn: right_linear(q, k, v, eps=eps / 24, turn=turn),
    ),
    "inline, another scale": (
        "inline",
        inline,
        "inline_attention",
        lambda q, k, v, turn: right_inline(1.001 * q, k, v, turn),
    ),
    "mila, no eps": ("mila-linear", mila_linear, "EPSILON", 0.0),
    "mila, another base": ("mila-linear", mila_linear, "rotary_2d", lambda x, grid: right_rotary(x, grid, base=1000.0)),
    "xca, softmax over the other axis": ("xca", CrossCovarianceAttention, "attend", turned_softmax),
    "ttt, another scale": ("ttt", ttt, "INNER_SCALE", 8**-0.5),
    "ttt, unclipped": ("ttt", ttt, "clipped", lambda step, dim: step),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_a_wrong_layer_does_not_pass_for_its_authors(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, where, what, value = BROKEN[wrong]
    monkeypatch.setattr(where, what, value)
    with pytest.raises(AssertionError, match="differs"):
        assert_golden(name)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (3, 2)])
@every_option
def test_a_layer_with_other_options_equals_its_naive_form(name: str, options: dict, grid: Grid, batch: int) -> None:
    assert_equals_naive(made(name, grid, **options), tokens(batch, grid), grid)


class Alone(nn.Module):
    """One layer as a model, on images that are its tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).mT, (x.shape[2], x.shape[3]))

    def declared_macs(self, image_size: Grid, batch: int = 1, path: str = "released") -> dict[str, int]:
        return {"layer": self.layer.macs(image_size, batch, path)}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch", [1, 3])
@every_option
def test_the_declared_work_with_other_options_is_the_counted_work(name: str, options: dict, batch: int) -> None:
    layer = made(name, (5, 7), torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, 5, 7))
    assert count.macs * batch == layer.macs((5, 7), batch)
    assert round(count.elementwise * batch) == layer.elementwise((5, 7), batch)


@every_rival
def test_a_layer_as_a_set_function_keeps_what_its_spec_promises(name: str) -> None:
    spec = mixers.spec(name)
    layer, x = made(name, (4, 6), **(spec.as_set or {})), tokens(2, (4, 6))
    order = torch.randperm(24)
    near(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])
    assert spec.doubling == "invariant"
    near(layer(torch.cat([x, x], dim=1), (8, 6)), layer(x, (4, 6)).repeat(1, 2, 1))
    assert far(layer(torch.cat([x, 2 * x], dim=1), (8, 6))[:, :24], layer(x, (4, 6)))


@pytest.mark.parametrize("name", [name for name in FILES if name != "xca"])
def test_a_layer_knows_the_grid_by_default(name: str) -> None:
    layer, x, order = made(name, (4, 6)), tokens(2, (4, 6)), torch.randperm(24)
    assert far(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])


#: What the weights tell: which parts are there. Focused linear attention has both of its parts, or is refused.
TOLD = [
    (name, options)
    for name, options in OFF
    if not set(options) & {"rope", "inner_lr"} and (name != "focused-linear" or len(options) == 2 or "qkv_bias" in options)
]


@pytest.mark.parametrize(("name", "options"), TOLD)
def test_a_layer_without_a_part_goes_to_its_authors_names_and_back(name: str, options: dict) -> None:
    layer, x = made(name, (4, 6), **options), tokens(2, (4, 6))
    again = mixers.from_reference(name, mixers.to_reference(layer), num_heads=3, grid=(4, 6))
    assert torch.equal(again(x, (4, 6)), layer(x, (4, 6)))


@every_rival
def test_every_single_missing_weight_is_refused_by_name(name: str) -> None:
    state = mixers.to_reference(made(name, (4, 6)))
    for gone in state.keys() - {"qkv.bias"}:
        rest = {key: value for key, value in state.items() if key != gone}
        with pytest.raises(mixers.MixerError, match=f"missing .*'{gone}'"):
            mixers.from_reference(name, rest, num_heads=3, grid=(4, 6))


@every_rival
def test_every_parameter_gets_a_gradient_from_the_first_step_on(name: str) -> None:
    layer = mixers.create(name, 24, num_heads=3, grid=(4, 6)).double()
    found = gradients(layer, layer, tokens(2, (4, 6)), (4, 6))
    assert {key for key, value in found.items() if not value.abs().max() > 0} == set()


@pytest.mark.slow
@every_rival
def test_a_layer_compiles_as_one_graph(name: str) -> None:
    layer, x = made(name, (4, 6), torch.float32), tokens(2, (4, 6), dtype=torch.float32)
    compiled: Callable[[Tensor, Grid], Tensor] = torch.compile(layer, fullgraph=True, backend="aot_eager")
    near(compiled(x, (4, 6)), layer(x, (4, 6)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_rival
def test_16_bits_hold_the_sums_over_many_tokens(name: str, dtype: torch.dtype) -> None:
    grid = (128, 128)
    layer, x = made(name, grid, dtype), (1 + tokens(1, grid, dtype=torch.float32)).to(dtype)
    with torch.no_grad():
        coarse, exact = layer(x, grid), layer.double()(x.double(), grid)
    assert coarse.dtype == dtype
    assert (coarse.double() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_focusing_keeps_the_norm_and_the_order_and_survives_features_that_are_all_negative(dtype: torch.dtype) -> None:
    x = torch.randn(2, 24, 24).to(dtype)
    x[0, 0] = -1.0
    focused = focused_linear.focused(x, torch.ones((), dtype=dtype)).double()
    features = x.double().relu() + focused_linear.EPSILON
    ratio = focused.norm(dim=-1) / features.norm(dim=-1)
    coarse = dtype in (torch.float16, torch.bfloat16)
    near(ratio[:, 1:], torch.ones_like(ratio[:, 1:]), tolerance=1e-2 if coarse else 1e-6)
    assert torch.equal(focused.argmax(dim=-1), features.argmax(dim=-1)) or coarse
    assert ((focused[0, 0] > 0) & (focused[0, 0] < 1e-5)).all()
    assert far(focused, features), "the features are sharper than before"


def test_focused_linear_attention_refuses_another_grid_and_no_grid() -> None:
    layer = made("focused-linear", (4, 6))
    with pytest.raises(mixers.MixerError, match="got 6x4, expected 4x6"):
        layer(tokens(1, (6, 4)), (6, 4))
    with pytest.raises(mixers.MixerError, match=r"got grid = None, .*pass grid=\(H, W\)"):
        mixers.create("focused-linear", 24, num_heads=3)
    anywhere = mixers.create("focused-linear", 24, num_heads=3, pos=False).double()
    assert anywhere(tokens(1, (6, 4)), (6, 4)).shape == anywhere(tokens(1, (3, 8)), (3, 8)).shape


@pytest.mark.parametrize("rope", [False, True])
def test_the_weights_of_an_inline_query_sum_to_one(rope: bool) -> None:
    q, k = torch.randn(2, 2, 3, 24, 8, dtype=torch.float64)
    ones = torch.ones(2, 3, 24, dtype=torch.float64)
    near(inline.inline_weights(q, k).sum(dim=-1), ones)
    v = torch.randn(2, 3, 1, 8, dtype=torch.float64).expand(-1, -1, 24, -1)
    turn = partial(rotary_2d, grid=(4, 6)) if rope else (lambda x: x)
    near(inline.inline_attention(q, k, v, turn), v)
    assert (inline.inline_weights(q, k) < 0).any(), "they are not a softmax"
    assert far(inline.inline_weights(2 * q, k) * 24, inline.inline_weights(q, k) * 24), "injective: a longer query differs"


def test_the_channels_that_mix_in_xca_have_weights_that_sum_to_one() -> None:
    layer = made("xca", (4, 6))
    q, k = torch.randn(2, 2, 3, 24, 8, dtype=torch.float64)
    v = torch.randn(2, 3, 24, 1, dtype=torch.float64).expand(-1, -1, -1, 8)
    near(layer.attend(q, k, v), v)
    near(layer.attend(1000 * q, 0.001 * k, v * 2), v * 2)
    silent = layer.attend(torch.zeros_like(q), k, torch.randn_like(q))
    assert silent.isfinite().all()
    near(silent, silent.mean(dim=-1, keepdim=True).expand_as(silent))


def test_the_hand_gradients_of_ttt_are_those_of_autograd() -> None:
    grid, s = (5, 7), 1 / 3
    k, v = torch.randn(2, 2, 3, 35, 8, dtype=torch.float64)
    w1, w2 = (torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = -s * ((k @ w1) * F.silu(k @ w2) * v).sum(dim=(1, 3)).mean(dim=1)
    for by_hand, exact in zip(ttt.glu_descent(k, v, w1, w2), torch.autograd.grad(loss.sum(), (w1, w2)), strict=True):
        near(by_hand, -exact)
    k, v = torch.randn(2, 2, 35, 8, dtype=torch.float64)
    w3 = torch.randn(2, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    y = shifted_depthwise_conv(k, w3, torch.zeros(8, dtype=torch.float64), grid)
    loss = -s * (y * v).sum(dim=2).mean(dim=1)
    near(ttt.conv_descent(k, v, grid), -torch.autograd.grad(loss.sum(), w3)[0])


def test_a_ttt_step_is_shorter_than_its_rate_and_zero_at_rate_zero() -> None:
    step = 1000 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    lengths = ttt.clipped(step, -2).norm(dim=-2)
    assert ((lengths > 0.9) & (lengths < 1)).all()
    layer = made("ttt", (4, 6), inner_lr=0.0, local=False)
    x = tokens(2, (4, 6))
    q = layer.qkv(x)[..., :24].unflatten(2, (3, 8)).transpose(1, 2)
    near(layer(x, (4, 6)), layer.proj(((q @ layer.w1) * F.silu(q @ layer.w2)).transpose(1, 2).flatten(2)))


@every_rival
def test_a_wrong_fast_path_is_seen_red(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(name, (4, 6))
    right = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x, grid: right(x.detach(), grid) + 0 * x)
    with pytest.raises(AssertionError, match="gradient of input: differs"):
        assert_equals_naive(layer, tokens(2, (4, 6)), (4, 6))


def test_what_no_weight_tells_comes_under_the_authors_option_names_and_nothing_else_does() -> None:
    layer = made("ttt", (4, 6), inner_lr=0.5)
    state = mixers.to_reference(layer)
    for value in (0.5, "0.5"):  # a file's metadata are strings
        again = mixers.from_reference("ttt", state, num_heads=3, grid=(4, 6), options={"inner_lr": value})
        assert torch.equal(again(x := tokens(2, (4, 6)), (4, 6)), layer(x, (4, 6)))
    with pytest.raises(mixers.MixerError, match=r"unknown option .*'inner_rl', expected one of inner_lr"):
        mixers.from_reference("ttt", state, num_heads=3, grid=(4, 6), options={"inner_rl": 0.5})
    with pytest.raises(mixers.MixerError, match=r"got 'scale', expected one of none"):
        mixers.from_reference("xca", mixers.to_reference(made("xca", (4, 6))), num_heads=3, options={"scale": 1})
    focused = mixers.to_reference(made("focused-linear", (4, 6)))
    with pytest.raises(mixers.MixerError, match=r"got focusing_factor = 4, expected 3"):
        mixers.from_reference("focused-linear", focused, num_heads=3, grid=(4, 6), options={"focusing_factor": "4"})


def test_a_layer_knows_how_many_like_it_came_before(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\n\n\nclass Own(torch.nn.Module):\n"
        "    def __init__(self, dim, *, layer=0):\n        super().__init__()\n        self.layer = layer\n\n"
        "    def forward(self, x, grid):\n        return x\n"
    )
    own = f"{tmp_path / 'own.py'}:Own"

    def places(mixer: str = own, **options: object) -> list[int | None]:
        model = models.create("vit-tiny", mixer=mixer, image_size=32, patch_size=8, depth=6, **options)
        return [getattr(block.mixer, "layer", None) for block in model.blocks]

    assert places() == [0, 1, 2, 3, 4, 5]
    assert places(every=2, offset=1, between="static") == [None, 0, None, 1, None, 2]
    assert places(mixer="softmax", every=3, offset=0, between=own) == [None, 0, 1, None, 2, 3]
