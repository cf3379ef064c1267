from __future__ import annotations

from typing import get_args

import pytest
import torch
from helpers import all_near, far, gradients, make_layer, near, predicted_weight, scrambled, tokens
from torch import Tensor, nn

import mixers
from mixers.base import PATHS, Grid, evaluated_by, has_prediction
from mixers.weightformer import dynamic_conv, dynamic_linear
from mixers.weightformer.dynamic_conv import DynamicDepthwiseConv
from mixers.weightformer.dynamic_linear import DynamicLinear, cheapest
from wfbench import models
from wfbench.measure import count_flops

LINEAR, CONV = get_args(dynamic_linear.Strategy), get_args(dynamic_conv.Strategy)
every_path = pytest.mark.parametrize("path", PATHS)
linear_strategy = pytest.mark.parametrize("strategy", LINEAR)
conv_strategy = pytest.mark.parametrize("strategy", CONV)


def linear(strategy: str = "bilateral", c: int = 24, d: int = 48, path: str = "auto") -> DynamicLinear:
    layer = scrambled(DynamicLinear(c, d, strategy=strategy).double())
    assert isinstance(layer, DynamicLinear)
    layer.path = path
    return layer


def conv(strategy: str = "adaptive", dim: int = 24, path: str = "auto") -> DynamicDepthwiseConv:
    layer = scrambled(DynamicDepthwiseConv(dim, strategy=strategy).double())
    assert isinstance(layer, DynamicDepthwiseConv)
    layer.path = path
    return layer


#: Grids and widths that send "auto" to token, to rank and to fold.
SHAPES = [((4, 6), 24, 48), ((5, 7), 24, 48), ((2, 3), 24, 96), ((9, 12), 8, 32), ((8, 8), 64, 256)]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("grid", "c", "d"), SHAPES)
@every_path
@linear_strategy
def test_every_path_of_the_linear_equals_the_naive_form(strategy: str, path: str, grid: Grid, c: int, d: int) -> None:
    layer, x = linear(strategy, c, d, path), tokens(2, grid, c)
    expected = gradients(layer, layer.naive, x, grid)
    all_near(gradients(layer, layer, x, grid), expected, path)
    with torch.no_grad():
        near(layer(x, grid), expected["output"])


@pytest.mark.parametrize("grid", [(4, 6), (5, 7), (2, 3)])
@every_path
@conv_strategy
def test_every_path_of_the_convolution_equals_the_naive_form(strategy: str, path: str, grid: Grid) -> None:
    layer = conv(strategy, path=path)
    for batch in (1, 3):
        x = tokens(batch, grid)
        all_near(gradients(layer, layer, x, grid), gradients(layer, layer.naive, x, grid), path)


@pytest.mark.sampled(32)
@pytest.mark.parametrize(("grid", "c", "d"), SHAPES)
@every_path
@linear_strategy
@torch.no_grad()
def test_the_work_of_every_path_is_declared_and_counted(strategy: str, path: str, grid: Grid, c: int, d: int) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = DynamicLinear(c, d, strategy=strategy)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(2).transpose(1, 2), grid)

        def declared_macs(self, size: Grid, batch: int = 1, path: str = "released") -> dict[str, int]:
            return {"layer": self.layer.macs(size, batch, path)}

    for batch in (1, 3):
        model = Alone()
        count = count_flops(model, (batch, c, *grid), path=path)
        assert count.counts.keys() == {"declared", "flop_counter", "fvcore"}
        assert count.macs * batch == pytest.approx(model.layer.macs(grid, batch, path), rel=1e-15)
        assert count.elementwise * batch == pytest.approx(model.layer.elementwise(grid, batch, path), rel=1e-15)
        assert model.layer.path == "auto", "the path comes back after the count"


def test_the_macs_are_those_of_the_papers_algebra() -> None:
    c, n = 64, 16 * 16
    layer = DynamicLinear(c, 4 * c)
    assert layer.macs((16, 16)) == 6.375 * n * c**2
    assert layer.macs((16, 16), path="core") == 4.375 * n * c**2 + 2 * c**3
    assert layer.macs((16, 16), 5, path="rank") == 5 * (5.625 * n * c**2 + 1.25 * c**3) + c**3 / 16
    assert layer.macs((16, 16), path="token") == 5.375 * n * c**2 + 1.25 * n**2 * c + 5 * (n / 4) ** 2 * c
    assert layer.macs((16, 16), 5, path="fold") == 5 * (4.375 * n * c**2 + 2.25 * c**3) + c**3 / 16


def chosen(grid: Grid, c: int, d: int) -> str:
    return cheapest(grid[0] * grid[1], (grid[0] // 2) * (grid[1] // 2), c, d, c // 4, d // 4)


@pytest.mark.parametrize(("grid", "c", "d"), SHAPES)
def test_auto_runs_what_the_rule_says(monkeypatch: pytest.MonkeyPatch, grid: Grid, c: int, d: int) -> None:
    ran = []
    for form in ("rank", "fold"):
        real = getattr(dynamic_linear, form)

        def spy(x: Tensor, t: Tensor, wa: Tensor, *rest: Tensor, form: str = form, real: object = real) -> Tensor:
            ran.append("token" if wa.ndim == 3 else form)
            return real(x, t, wa, *rest)

        monkeypatch.setattr(dynamic_linear, form, spy)
    linear("bilateral", c, d)(tokens(1, grid, c), grid)
    assert ran == [chosen(grid, c, d)]


def test_the_shapes_of_these_tests_reach_every_form() -> None:
    assert {chosen(*shape) for shape in SHAPES} == {"rank", "token", "fold"}


@pytest.mark.parametrize(
    ("grid", "c", "form"),
    [
        ((14, 14), 192, "rank"),
        ((14, 14), 384, "token"),
        ((28, 28), 192, "fold"),
        ((56, 56), 192, "fold"),
        ((28, 28), 384, "fold"),
    ],
)
def test_the_rule_at_the_shapes_of_the_benchmark(grid: Grid, c: int, form: str) -> None:
    assert chosen(grid, c, 4 * c) == form


def test_an_unknown_path_or_strategy_is_refused() -> None:
    layer = linear(path="corr")
    with pytest.raises(mixers.MixerError, match="'corr', expected one of released, core, rank, token, fold, auto"):
        layer(tokens(1, (4, 6)), (4, 6))
    with pytest.raises(mixers.MixerError, match="'bilatral'; did you mean 'bilateral'"):
        DynamicLinear(24, 48, strategy="bilatral")
    with pytest.raises(mixers.MixerError, match="'adaptative'; did you mean 'adaptive'"):
        DynamicDepthwiseConv(24, strategy="adaptative")
    model = models.create("weightformer-tiny", image_size=32, embed_dim=16, depth=3)
    with pytest.raises(mixers.MixerError, match="'fast'"):
        count_flops(model, (1, 3, 32, 32), path="fast")


def test_a_path_is_taken_for_a_while_by_every_dynamic_layer() -> None:
    model = models.create("weightformer-tiny", image_size=32, embed_dim=16, depth=5)
    layers = [m for m in model.modules() if hasattr(m, "path")]
    assert len(layers) == 4
    layers[0].path = "core"
    with evaluated_by(model, "rank"):
        assert {layer.path for layer in layers} == {"rank"}
    assert [layer.path for layer in layers] == ["core", "auto", "auto", "auto"]


HALF = {torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.mark.parametrize("dtype", HALF)
@every_path
@linear_strategy
@torch.no_grad()
def test_half_precision_agrees_within_its_rounding(strategy: str, path: str, dtype: torch.dtype) -> None:
    grid = (14, 14)
    layer, x = linear(strategy, 48, 192, path), tokens(2, grid, 48)
    layer.to(dtype).double()  # the same rounded weights on both sides
    expected = layer(x.to(dtype).double(), grid)
    got = layer.to(dtype)(x.to(dtype), grid)
    assert got.dtype == dtype
    assert (got.double() - expected).norm() / expected.norm() < HALF[dtype]


@pytest.mark.parametrize("dtype", HALF)
@conv_strategy
@torch.no_grad()
def test_half_precision_convolutions_agree_within_its_rounding(strategy: str, dtype: torch.dtype) -> None:
    grid = (14, 14)
    layer, x = conv(strategy, 48), tokens(2, grid, 48)
    layer.to(dtype).double()
    expected = layer(x.to(dtype).double(), grid)
    got = layer.to(dtype)(x.to(dtype), grid)
    assert got.dtype == dtype
    assert (got.double() - expected).norm() / expected.norm() < HALF[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 4.0], ids=["zero mean", "mean 4"])
@every_path
@torch.no_grad()
def test_float16_does_not_overflow_at_16384_tokens(path: str, shift: float) -> None:
    grid, c = (128, 128), 32
    layer = linear("bilateral", c, 4 * c, path)
    layer.expand_in.mul_(8)
    x = (tokens(1, grid, c) + shift).half()
    layer.half().double()
    expected = layer(x.double(), grid)
    got = layer.half()(x, grid)
    assert got.isfinite().all()
    assert (got.double() - expected).norm() / expected.norm() < 1e-2


@torch.no_grad()
def test_a_sum_that_is_scaled_too_late_overflows_there() -> None:
    torch.manual_seed(0)
    e, f = (4 + torch.randn(1, 4096, 8)).half() * 4, (4 + torch.randn(1, 4096, 32)).half() * 4
    wb = torch.eye(32).half()
    late = (e.transpose(1, 2) @ f) @ wb * (1 / 16384)
    assert not late.isfinite().all()
    assert dynamic_linear.core_factor(e, f, wb, 1 / 16384).isfinite().all()


@pytest.mark.parametrize("length", [300.0, 3000.0])
@torch.no_grad()
def test_float16_norms_beyond_its_squares_are_right(length: float) -> None:
    t, wa = torch.full((1, 4, 6), length / 2), torch.eye(4, 8)
    near(dynamic_linear.shortened(t.half(), wa.half()).float(), t / (length + 1), tolerance=1e-3)


@every_path
@torch.no_grad()
def test_the_norms_do_not_suffer_under_autocast(path: str) -> None:
    layer, x = linear("bilateral", 48, 192, path).float(), tokens(2, (14, 14), 48).float()
    expected = layer(x, (14, 14))
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x, (14, 14))
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).norm() / expected.norm() < HALF[torch.bfloat16]


@pytest.mark.slow
@every_path
@linear_strategy
def test_the_linear_compiles_whole(strategy: str, path: str) -> None:
    layer, x = linear(strategy, path=path), tokens(2, (4, 6))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            near(compiled(x, (4, 6)), layer(x, (4, 6)))
    all_near(gradients(layer, compiled, x, (4, 6)), gradients(layer, layer, x, (4, 6)), "compiled")


@pytest.mark.slow
@conv_strategy
def test_the_convolution_compiles_whole(strategy: str) -> None:
    layer, x = conv(strategy), tokens(2, (4, 6))
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    all_near(gradients(layer, compiled, x, (4, 6)), gradients(layer, layer, x, (4, 6)), "compiled")


# --- oracles of the strategies


@pytest.mark.parametrize(("strategy", "rank"), [(s, 1 if s == "gap" else 2) for s in LINEAR])
@torch.no_grad()
def test_the_rank_of_the_prediction(strategy: str, rank: int) -> None:
    weight = predicted_weight(linear(strategy, 8, 16), tokens(3, (4, 6), 8), (4, 6))
    assert torch.linalg.matrix_rank(weight, rtol=1e-9).tolist() == [rank] * 3


@linear_strategy
@torch.no_grad()
def test_every_predicted_column_is_shorter_than_one(strategy: str) -> None:
    weight = predicted_weight(linear(strategy, 8, 16), 100 * tokens(2, (4, 6), 8), (4, 6))
    norms = torch.linalg.vector_norm(weight, dim=1)
    assert ((norms > 0) & (norms < 1)).all()


def in_cells(p: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, N, C) of which every 2×2 cell holds four times the same, p (B, M, C)."""
    return p.unflatten(1, (grid[0] // 2, grid[1] // 2)).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)


def turned(strategy: str) -> tuple[Tensor, Tensor]:
    """Ŵ of pooled tokens P, and of Q P with Q orthogonal; the predictor's bias is 0."""
    grid, layer = (6, 8), linear(strategy, 8, 16)
    if layer.predictor.bias is not None:
        nn.init.zeros_(layer.predictor.bias)
    p = torch.randn(2, 12, 8, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    return predicted_weight(layer, in_cells(p, grid), grid), predicted_weight(layer, in_cells(q @ p, grid), grid)


@torch.no_grad()
def test_the_linear_strategy_sees_only_the_gram_matrix_of_the_cells() -> None:
    near(*turned("linear"))


@pytest.mark.parametrize("strategy", [s for s in LINEAR if s != "linear"])
@torch.no_grad()
def test_every_other_strategy_sees_more(strategy: str) -> None:
    assert far(*turned(strategy))


@torch.no_grad()
def test_the_gap_linear_knows_neither_order_nor_number_of_tokens() -> None:
    grid, layer, x = (4, 6), linear("gap"), tokens(2, (4, 6))
    order = torch.randperm(24)
    near(layer(x[:, order], grid), layer(x, grid)[:, order])
    near(layer(torch.cat([x, x], dim=1), (8, 6)), layer(x, grid).repeat(1, 2, 1))


@pytest.mark.parametrize("strategy", [s for s in LINEAR if s != "gap"])
@torch.no_grad()
def test_the_other_linears_see_cells(strategy: str) -> None:
    grid, layer, x = (4, 6), linear(strategy), tokens(2, (4, 6))
    inside, across = torch.arange(24), torch.arange(24)
    inside[[0, 1]], across[[0, 2]] = inside[[1, 0]], across[[2, 0]]
    near(layer(x[:, inside], grid)[:, inside], layer(x, grid))
    assert far(layer(x[:, across], grid)[:, across], layer(x, grid))


def silence(layer: nn.Module) -> None:
    """Zero what ends the prediction."""
    for name, parameter in layer.named_parameters():
        if name.startswith("expand_out") or name in (
            "predictor.2.weight",
            "global_predictor.2.weight",
            "global_predictor.2.bias",
        ):
            nn.init.zeros_(parameter)


@every_path
@linear_strategy
def test_without_a_prediction_the_linear_is_static_with_finite_gradients(strategy: str, path: str) -> None:
    layer, x = linear(strategy, path=path), tokens(2, (5, 7))
    silence(layer)
    near(layer(x, (5, 7)), x @ layer.weight + layer.bias, tolerance=1e-13)
    assert all(value.isfinite().all() for value in gradients(layer, layer, x, (5, 7)).values())


@conv_strategy
def test_without_a_prediction_the_convolution_is_static_with_finite_gradients(strategy: str) -> None:
    layer, x = conv(strategy), tokens(2, (5, 7))
    silence(layer)
    static = mixers.from_reference("static", {"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    near(layer(x, (5, 7)), static(x, (5, 7)), tolerance=1e-13)
    assert all(value.isfinite().all() for value in gradients(layer, layer, x, (5, 7)).values())


@pytest.mark.parametrize(("strategy", "turns"), [("adaptive", True), ("amp-dir", True), ("gap", False), ("conv", False)])
@torch.no_grad()
def test_only_kernels_from_pooled_places_turn_with_the_image(strategy: str, turns: bool) -> None:
    grid, layer = (6, 8), conv(strategy)
    nn.init.zeros_(layer.weight)
    x = tokens(2, grid)
    flip = torch.arange(48).view(6, 8).flip(1).flatten()
    mirrored = layer(x[:, flip], grid)[:, flip]
    if turns:
        near(mirrored, layer(x, grid))
    else:
        assert far(mirrored, layer(x, grid))


@torch.no_grad()
def test_amplitude_and_direction_are_apart() -> None:
    layer, x = conv("amp-dir"), tokens(2, (6, 8))
    before = layer._raw_kernels(x, (6, 8))
    layer.predictor[2].weight.mul_(7)
    near(layer._raw_kernels(x, (6, 8)), before)
    layer.global_predictor[2].bias.add_(1)
    ratio = layer._raw_kernels(x, (6, 8)) / before
    near(ratio, ratio[..., :1, :1].expand_as(ratio))
    assert far(ratio, torch.ones_like(ratio))


# --- the named strategies


def test_there_are_nine_strategies_each_with_one_dynamic_layer() -> None:
    static_token, plain = type(mixers.create("static", 8)), type(mixers.create_ffn_in("static", 8, 16))
    for strategy in LINEAR:
        name = f"wf-linear-{strategy}"
        assert type(mixers.create(name, 8)) is static_token
        assert mixers.create_ffn_in(name, 8, 16).strategy == strategy
    for strategy in CONV:
        name = f"wf-dwc-{strategy}"
        assert mixers.create(name, 8).strategy == strategy
        assert type(mixers.create_ffn_in(name, 8, 16)) is plain
    for name in (n for n in mixers.names() if n.startswith("wf-")):
        spec = mixers.spec(name)
        assert (spec.every, spec.offset) == (3, 1)
        assert spec.status == ("certain" if name in ("wf-linear-bilateral", "wf-dwc-adaptive") else "reconstruction")
        assert type(mixers.create(name, 8, active=False)) is static_token
        assert type(mixers.create_ffn_in(name, 8, 16, active=False)) is plain


def test_a_reconstruction_has_no_names_of_its_authors() -> None:
    state = mixers.to_reference(mixers.create("weightformer", 8))
    assert mixers.from_reference("wf-dwc-adaptive", state).strategy == "adaptive"
    with pytest.raises(mixers.MixerError, match="'wf-dwc-conv' is a reconstruction"):
        mixers.from_reference("wf-dwc-conv", state)
    with pytest.raises(mixers.MixerError, match="no parameter names of its authors"):
        mixers.to_reference(mixers.create("wf-dwc-gap", 8))


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("c", "d"), [(24, 96), (64, 256)])
def test_the_parameters_of_each_prediction_are_those_the_docstrings_state(c: int, d: int) -> None:
    p, q, plain = c // 4, d // 4, c * d + d
    shared = (c + 1) * (p + q) + p * c + q * d
    stated = {
        "bilateral": shared,
        "linear": shared,
        "nonlinear": shared,
        "deep": shared + p * p + p,
        "gap": c * p + p * c + p * d,
    }
    assert {s: numbers(DynamicLinear(c, d, strategy=s)) - plain for s in LINEAR} == stated
    stated = {
        "adaptive": 2 * c * c + c,
        "gap": 2.5 * c * c + 9.25 * c,
        "amp-dir": 2.5 * c * c + 2.25 * c,
        "conv": 2 * c * c + 11 * c,
    }
    assert {s: numbers(DynamicDepthwiseConv(c, strategy=s)) - 10 * c for s in CONV} == stated


# --- the predicted part, taken apart


PREDICTING = [
    *(("ffn_in", f"wf-linear-{s}") for s in ("gap", "linear", "nonlinear", "deep", "bilateral")),
    *(("token", f"wf-dwc-{s}") for s in ("gap", "adaptive", "amp-dir", "conv")),
    ("token", "inline"),
]


@pytest.mark.parametrize(("slot", "name"), PREDICTING)
@pytest.mark.parametrize("grid", [(4, 4), (5, 7), (2, 3), (16, 16)])
@torch.no_grad()
def test_a_layer_is_its_prediction_put_in_and_without_it_what_zeros_give(slot: str, name: str, grid: Grid) -> None:
    layer = make_layer(name, slot, grid)
    assert has_prediction(layer)
    x = tokens(3, grid)
    for path in PATHS:
        with evaluated_by(layer, path):
            own = layer.predicted(x, grid)
            assert len(own) == len(x)
            near(layer.with_prediction(x, grid, own), layer(x, grid), f"path {path}", 1e-12)
            zeros = layer.with_prediction(x, grid, torch.zeros_like(own))
            near(layer.without_prediction(x, grid), zeros, "without", 1e-12)
            assert (layer(x, grid) - zeros).abs().max() > 1e-4, "there is something to take away"
            other = layer.with_prediction(x, grid, own.roll(1, 0))
            near(other[1:2], layer.with_prediction(x[1:2], grid, own[:1]), "another image's", 1e-12)


def test_a_layer_that_predicts_nothing_says_so() -> None:
    assert not has_prediction(mixers.create("inline", 24, num_heads=3, local=False))
    assert not has_prediction(mixers.create("softmax", 24, num_heads=3))
    assert not has_prediction(mixers.create_ffn_in("softmax", 24, 48))
