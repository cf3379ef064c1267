from __future__ import annotations

import math

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, near, part, same_function, scrambled, tokens
from test_flops import Alone
from timm.layers import DiffAttention
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
import wfbench.models as models
from mixers.base import Grid
from mixers.softmax import SoftmaxAttention, initial_lambda
from wfbench.measure import count_flops

GOLDENS = ["mixer_differential", "mixer_differential_grid5x7"]
NOT_OPTIONS = "mixer dim num_heads grid_h grid_w dtype mode repository commit source_file note".split()
OPTIONS: list[dict[str, object]] = [
    {"gated": True},
    {"gated": True, "qkv_bias": False, "rope": True},
    {"differential": True},
    {"differential": True, "depth": 5, "dual_lambda": True, "qkv_bias": False},
    {"differential": True, "qk_norm": True, "rope": True},
    {"differential": True, "gated": True, "qk_norm": True, "dual_lambda": True},
]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)
with_dual = pytest.mark.parametrize("dual_lambda", [False, True])


def made(dtype: torch.dtype = torch.float64, **options: object) -> SoftmaxAttention:
    layer = scrambled(mixers.create("softmax", 24, num_heads=3, **options).to(dtype))
    assert isinstance(layer, SoftmaxAttention)
    return layer


def qkv(n: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 3, n, 8, dtype=torch.float64))
    return q, k, v


def assert_golden(name: str) -> None:
    meta, tensors = golden(name)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    told = {key: value for key, value in meta.items() if key not in NOT_OPTIONS}
    layer = mixers.from_reference("differential", part(tensors, "param."), num_heads=int(meta["num_heads"]), options=told)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


@pytest.mark.parametrize("name", GOLDENS)
def test_differential_attention_gives_the_output_and_gradients_of_its_authors_code(name: str) -> None:
    assert_golden(name)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", [(4, 6), (5, 7)])
@with_options
def test_a_layer_with_options_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(**options), tokens(batch, grid), grid)
    with_prefix = torch.cat([tokens(batch, (1, 1)), tokens(batch, grid)], dim=1)
    assert_equals_naive(made(**options), with_prefix, grid)


# --- plain softmax attention is as it was


def test_without_options_nothing_is_added_to_softmax_attention() -> None:
    torch.manual_seed(3)
    layer = mixers.create("softmax", 24, num_heads=3)
    after = torch.rand(1)
    torch.manual_seed(3)
    qkv_layer, proj = nn.Linear(24, 72), nn.Linear(24, 24)
    for linear in (qkv_layer, proj):
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
    assert torch.equal(after, torch.rand(1)), "it draws no other random numbers"
    expected = {
        f"{part}.{key}": value
        for part, linear in (("qkv", qkv_layer), ("proj", proj))
        for key, value in linear.state_dict().items()
    }
    own = layer.state_dict()
    assert list(own) == list(expected)
    assert all(torch.equal(own[key], value) for key, value in expected.items())
    x = tokens(2, (5, 7), dtype=torch.float32)
    q, k, v = qkv_layer(x).reshape(2, 35, 3, 3, 8).permute(2, 0, 3, 1, 4)
    assert torch.equal(layer(x, (5, 7)), proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 35, 24)))
    assert layer.macs((5, 7), 2, prefix_tokens=1) == 2 * (4 * 36 * 24**2 + 2 * 36**2 * 24)
    assert layer.elementwise((5, 7), 2, prefix_tokens=1) == 2 * (5 * 3 * 36**2 + 6 * 36 * 24)


def test_the_name_differential_is_softmax_attention_with_that_option() -> None:
    for name, options in (("differential", {}), ("softmax", {"differential": True}), ("softmax(differential=true)", {})):
        layer = mixers.create(name, 48, num_heads=3, **options)
        assert isinstance(layer, SoftmaxAttention)
        assert layer.differential
        assert layer.sub_norm.weight.shape == (16,)
    assert mixers.create("softmax(gated=true)", 48, num_heads=3).gate.weight.shape == (48, 48)
    both = mixers.create("differential(gated=true, qk_norm=true)", 48, num_heads=3)
    assert both.gate is not None
    assert both.q_norm is not None


# --- differential attention


@pytest.mark.parametrize(
    "options",
    [{}, {"dual_lambda": True, "qkv_bias": True}, {"qk_norm": True, "qkv_bias": True}, {"dual_lambda": True, "depth": 4}],
)
def test_a_layer_equals_timms_with_the_same_weights(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = scrambled(DiffAttention(24, num_heads=3, **options).double()).eval()
    ours = mixers.from_reference("differential", theirs.state_dict(), num_heads=3, options=options)
    x, grad_output = tokens(2, (5, 7)).requires_grad_(), tokens(2, (5, 7))
    near(ours(x, (5, 7)), theirs(x), tolerance=1e-5)  # timm computes λ of vectors in float32
    monkeypatch.setattr(Tensor, "float", lambda t: t)  # not any more
    y, expected = ours(x, (5, 7)), theirs(x)
    same_function(y, expected, x)
    y.backward(grad_output)
    expected.backward(grad_output)
    all_near(mixers.to_reference(ours, grads=True), {k: p.grad for k, p in theirs.named_parameters()}, "gradient of")


@torch.no_grad()
def set_lambda(layer: SoftmaxAttention, value: float) -> None:
    """Give λ a value by the parameters it is made of."""
    for name, parameter in layer.named_parameters():
        if name.startswith("lambda"):
            parameter.zero_()
    target = math.log(value - layer.lambda_init + math.e)  # of the first exponential, where the second is e
    if hasattr(layer, "lambda_a"):
        layer.lambda_a.fill_(target)
        layer.lambda_b.fill_(1.0)
    else:
        layer.lambda_q1[0], layer.lambda_k1[0] = target, 1.0
        layer.lambda_q2[1], layer.lambda_k2[1] = 0.5, 2.0


@with_dual
def test_lambda_zero_is_softmax_attention_of_the_even_maps_before_the_norm(dual_lambda: bool) -> None:
    layer, (q, k, v) = made(differential=True, depth=2, dual_lambda=dual_lambda), qkv()
    set_lambda(layer, 0.0)
    near(layer.lambda_(), torch.zeros((), dtype=torch.float64))
    layer.sub_norm = nn.Identity()
    found = layer.attend(q, k, v) / (1 - layer.lambda_init)
    same_function(found, F.scaled_dot_product_attention(q[..., :4], k[..., :4], v), q, k, v)


@with_dual
def test_lambda_one_with_equal_maps_leaves_nothing(dual_lambda: bool) -> None:
    layer, (*given, v) = made(differential=True, dual_lambda=dual_lambda), qkv()
    q, k = (torch.cat([t[..., :4], t[..., :4]], dim=-1) for t in given)
    layer.sub_norm = nn.Identity()
    set_lambda(layer, 1.0)
    near(layer.attend(q, k, v), torch.zeros_like(v))
    set_lambda(layer, 0.25)
    found = layer.attend(q, k, v) / (1 - layer.lambda_init)
    same_function(found, 0.75 * F.scaled_dot_product_attention(q[..., :4], k[..., :4], v), *given, v)


def test_what_the_projection_gets_has_one_root_mean_square_per_head() -> None:
    layer, (q, k, v) = made(differential=True, depth=3), qkv()
    nn.init.ones_(layer.sub_norm.weight)
    rms = layer.attend(q, k, 100 * v).square().mean(dim=-1).sqrt()
    near(rms, torch.full_like(rms, 1 - initial_lambda(3)), tolerance=1e-4)  # of values beside which ε is little


def test_the_depth_gives_the_first_lambda() -> None:
    assert initial_lambda(0) == pytest.approx(0.2)
    assert initial_lambda(3) == pytest.approx(0.5560582041556406)
    model = models.create("vit-tiny", mixer="differential", image_size=32, patch_size=16, depth=3)
    assert [block.mixer.lambda_init for block in model.blocks] == [initial_lambda(depth) for depth in range(3)]
    model = models.create("vit-tiny", mixer="differential(depth=7)", image_size=32, patch_size=16, depth=2)
    assert [block.mixer.lambda_init for block in model.blocks] == [initial_lambda(7)] * 2


@with_dual
def test_a_new_layer_has_a_lambda_near_the_first(dual_lambda: bool) -> None:
    layer = mixers.create("differential", 192, num_heads=3, layer=2, dual_lambda=dual_lambda)
    assert abs(float(layer.lambda_()) - initial_lambda(2)) < 0.3
    assert layer.lambda_().dtype == torch.float32
    assert layer.half().lambda_().dtype == torch.float32


# --- the gate


def test_a_gate_of_one_is_softmax_attention_and_a_gate_of_zero_the_bias_alone() -> None:
    layer, x = made(gated=True), tokens(2, (5, 7)).requires_grad_()
    shared = {key: value for key, value in layer.named_parameters() if not key.startswith("gate")}

    def softmax(x: Tensor, grid: Grid) -> Tensor:
        return torch.func.functional_call(made(), shared, (x, grid))

    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, 1000.0)
    same_function(layer(x, (5, 7)), softmax(x, (5, 7)), x, *shared.values())
    nn.init.constant_(layer.gate.bias, -1000.0)
    near(layer(x, (5, 7)), layer.proj.bias.expand(2, 35, 24))
    nn.init.zeros_(layer.gate.bias)
    half = (softmax(x, (5, 7)) - layer.proj.bias) / 2
    same_function(layer(x, (5, 7)) - layer.proj.bias, half, x, *shared.values())


@pytest.mark.parametrize("differential", [False, True])
def test_each_channel_of_the_output_has_the_gate_that_its_own_token_gives(differential: bool) -> None:
    layer, x = made(gated=True, differential=differential), tokens(2, (5, 7))
    q, k, v = layer.qkv(x).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    heads = layer.attend(q, k, v).transpose(1, 2).flatten(2)
    for b, n in ((0, 0), (1, 34), (1, 20)):
        gate = 1 / (1 + torch.exp(-(layer.gate.weight @ x[b, n] + layer.gate.bias)))
        near(layer(x, (5, 7))[b, n], layer.proj.weight @ (gate * heads[b, n]) + layer.proj.bias)


def test_a_new_gate_is_about_half_open() -> None:
    layer, x = mixers.create("softmax", 192, num_heads=3, gated=True), tokens(1, (5, 7), 192, torch.float32)
    gate = layer.gate(x).sigmoid()
    assert gate.mean().item() == pytest.approx(0.5, abs=0.02)
    assert gate.std() > 0.01, "and differs from token to token"


# --- work, messages, precision


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("grid", [(5, 7), (9, 8)])
@with_options
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    layer = made(torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.macs * batch == layer.macs(grid, batch)
    assert round(count.elementwise * batch) == layer.elementwise(grid, batch)


def test_the_cost_is_what_the_docstring_says() -> None:
    n, c, h, half = 35, 24, 3, 4
    layer = made(differential=True)
    assert layer.macs((5, 7)) == 4 * n * c**2 + 3 * n**2 * c
    assert layer.elementwise((5, 7)) == 10 * h * n**2 + 13 * n * c + 2 * h * n + 4 * half + 4
    gated, plain = made(gated=True), made()
    assert gated.macs((5, 7), 2) - plain.macs((5, 7), 2) == 2 * n * c**2
    assert gated.elementwise((5, 7), 2) - plain.elementwise((5, 7), 2) == 2 * 3 * n * c
    assert gated.macs((5, 7), prefix_tokens=1) - plain.macs((5, 7), prefix_tokens=1) == 36 * c**2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "options of differential attention alone: got depth = 3, .*set differential=True"),
        ({"qk_norm": True}, "qk_norm = True with differential = False"),
        ({"dual_lambda": True, "gated": True}, "dual_lambda = True"),
        ({"differential": True, "depth": -1}, r"got depth = -1, expected 0, 1, \.\.\.; leave it out"),
        ({"differential": True, "num_heads": 8}, "got dim / num_heads = 3, expected an even number; choose num_heads"),
        ({"differential": True, "num_heads": 6, "rope": True}, "rotary position needs a dimension that 4 divides: got 2"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(mixers.MixerError, match=message):
        mixers.create("softmax", 24, **({"num_heads": 3} | options))


@with_options
def test_weights_go_out_and_back_by_the_name_with_options(options: dict[str, object]) -> None:
    layer, x = made(layer=2, **options), tokens(2, (5, 7))
    told = {key: value for key, value in options.items() if key in ("rope", "differential", "depth", "gated")}
    name = "softmax({})".format(", ".join(f"{key}={value}".lower() for key, value in told.items()))
    again = mixers.from_reference(name, mixers.to_reference(layer), num_heads=3, layer=2)
    assert torch.equal(again(x, (5, 7)), layer(x, (5, 7)))


def test_weights_and_options_that_do_not_fit_are_refused() -> None:
    state = mixers.to_reference(made(differential=True, depth=3))
    for options, message in (
        ({"depth": 3, "lambda_init": 0.2}, "got lambda_init = 0.2 and depth = 3, expected 0.8"),
        ({"lambda_init": "0.5"}, "got lambda_init = 0.5 and depth = 0"),
        ({"dual_lambda": "True"}, r"unexpected \['lambda_k1', 'lambda_k2', 'lambda_q1', 'lambda_q2'\]"),
        ({"qk_norm": True}, r"missing \['k_norm.weight', 'q_norm.weight'\]"),
        ({"scale_norm": "True"}, "got scale_norm = True, expected False"),
        ({"proj_bias": False}, "got proj_bias = False, expected True"),
        ({"qk_norm_eps": 1e-5}, "got qk_norm_eps = 1e-05, expected 1e-06"),
        ({"deph": 3}, "unknown option .*'deph', expected one of .*depth"),
    ):
        with pytest.raises(mixers.MixerError, match=message):
            mixers.from_reference("differential", state, num_heads=3, options=options)
    told = {"depth": "3", "lambda_init": str(initial_lambda(3)), "qk_norm_eps": "none"}
    assert mixers.from_reference("differential", state, num_heads=3, options=told).lambda_init == initial_lambda(3)
    for gone in state.keys() - {"qkv.bias"}:
        with pytest.raises(mixers.MixerError, match=f"missing .*'{gone}'"):
            mixers.from_reference("differential", {k: v for k, v in state.items() if k != gone}, num_heads=3)
    with pytest.raises(mixers.MixerError, match=r"unexpected .*'sub_norm.weight'"):
        mixers.from_reference("softmax", state, num_heads=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@with_options
@torch.no_grad()
def test_half_precision_is_near_float64(options: dict[str, object], dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create("softmax", 24, num_heads=3, **options), std=0.05).to(dtype)
    x = tokens(2, (12, 13), dtype=dtype)
    coarse, exact = layer(x, (12, 13)), layer.double()(x.double(), (12, 13))
    assert coarse.dtype == dtype
    assert (coarse.double() - exact).norm() < (0.01 if dtype == torch.float16 else 0.08) * exact.norm()


@torch.no_grad()
def test_small_outputs_are_normalised_in_float16_as_in_float64() -> None:
    layer, (q, k, v) = made(differential=True), qkv()
    v = 0.002 * v  # its squares are below the numbers of float16, and so is ε
    exact = layer.attend(q, k, v)
    coarse = layer.half().attend(q.half(), k.half(), v.half())
    assert (coarse.double() - exact).norm() < 0.02 * exact.norm()


# --- wrong versions

right_attend, right_lambda = SoftmaxAttention.attend, SoftmaxAttention.lambda_


def added(layer: SoftmaxAttention) -> Tensor:
    return -right_lambda(layer)


def without_the_start(layer: SoftmaxAttention) -> Tensor:
    return right_lambda(layer) - layer.lambda_init


def without_the_factor(layer: SoftmaxAttention, q: Tensor, k: Tensor, v: Tensor, turn: object) -> Tensor:
    return right_attend(layer, q, k, v, turn) / (1 - layer.lambda_init)


def alternating(layer: SoftmaxAttention, q: Tensor, k: Tensor, v: Tensor, turn: object) -> Tensor:
    q, k = (t.unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2) for t in (q, k))
    return right_attend(layer, q, k, v, turn)


WRONG = {"plus for minus": ("lambda_", added), "λ without λ₀": ("lambda_", without_the_start)} | {
    "no 1 − λ₀": ("attend", without_the_factor),
    "channels in turn": ("attend", alternating),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_difference_is_seen_red(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(differential=True), tokens(2, (5, 7))
    assert_equals_naive(layer, x, (5, 7))
    monkeypatch.setattr(SoftmaxAttention, *WRONG[wrong])
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("mixer_differential")


right_leave = SoftmaxAttention.leave


@pytest.mark.parametrize(
    "wrong",
    [
        lambda layer, y, x, naive: right_leave(layer, y, x if naive else y, naive),  # a gate from what it gates
        lambda layer, y, x, naive: right_leave(layer, y, x, naive) if naive else y * layer.gate(x),
        lambda layer, y, x, naive: right_leave(layer, y, x, naive) if naive else y * layer.gate(x).softmax(dim=-1),
    ],
)
def test_a_wrong_gate_is_seen_red(wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(gated=True), tokens(2, (5, 7))
    monkeypatch.setattr(SoftmaxAttention, "leave", wrong)
    assert far(layer(x, (5, 7)), layer.naive(x, (5, 7)))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (5, 7))


@pytest.mark.slow
@with_options
def test_it_compiles_in_one_piece(options: dict[str, object]) -> None:
    layer, x = made(**options), tokens(2, (5, 7))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (5, 7)), layer(x, (5, 7)))
