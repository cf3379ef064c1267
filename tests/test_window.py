from __future__ import annotations

import math

import pytest
import torch
from helpers import all_near, assert_equals_naive, far, golden, gradients, near, part, same_function, scrambled, tokens
from test_flops import Alone
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
import wfbench.models as models
from mixers import window
from mixers.base import Grid
from mixers.window import WindowAttention
from wfbench.measure import count_flops

GOLDENS = ["mixer_window", "mixer_window_noshift", "mixer_window_grid4x8", "mixer_window_grid5x7"]
TOLD = ("window", "shift", "window_used", "shift_used", "mask_value", "qkv_bias")
OPTIONS: list[dict[str, object]] = [
    {"window": 3, "shift": 0},
    {"window": 3, "shift": 1},
    {"window": 4, "shift": 3},
    {"window": 2, "shift": 1, "bias": False},
    {"window": 3, "bias": False, "shift": 0, "qkv_bias": False},
    {"window": 1},
    {"window": "2x3", "shift": (1, 2)},
]
#: Divided by 3 and 2, by nothing, and one with a side shorter than a window of 4.
GRIDS = [(6, 6), (5, 7), (3, 8)]
with_options = pytest.mark.parametrize("options", OPTIONS, ids=str)
every_grid = pytest.mark.parametrize("grid", GRIDS)


def made(dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    return scrambled(mixers.create("window", 24, num_heads=3, **options).to(dtype))


def softmax_like(layer: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """What softmax attention makes of the tokens with the layer's own Linears."""
    softmax = mixers.create("softmax", 24, num_heads=3).double()
    return torch.func.functional_call(softmax, {k: p for k, p in layer.named_parameters() if "table" not in k}, (x, grid))


def assert_golden(name: str) -> None:
    meta, tensors = golden(name)
    grid = (int(meta["grid_h"]), int(meta["grid_w"]))
    told = {option: meta[option] for option in TOLD}
    layer = mixers.from_reference("window", part(tensors, "param."), num_heads=int(meta["num_heads"]), options=told)
    x = tensors["input"].clone().requires_grad_()
    y = layer(x, grid)
    near(y.detach(), tensors["output"], "output")
    y.backward(tensors["grad_output"])
    near(x.grad, tensors["grad_input"], "grad_input")
    all_near(mixers.to_reference(layer, grads=True), part(tensors, "grad."), "gradient of")


@pytest.mark.parametrize("name", GOLDENS)
def test_a_layer_gives_the_output_and_gradients_of_its_authors_code(name: str) -> None:
    assert_golden(name)


@pytest.mark.parametrize("batch", [1, 2])
@every_grid
@with_options
def test_a_layer_equals_its_naive_form(options: dict[str, object], grid: Grid, batch: int) -> None:
    assert_equals_naive(made(**options), tokens(batch, grid), grid)


# --- softmax attention, with and without a mask


@pytest.mark.parametrize("layer", [0, 1])
@every_grid
def test_a_window_that_holds_the_grid_is_softmax_attention_without_its_bias(grid: Grid, layer: int) -> None:
    windowed, x = made(window=8, bias=False, layer=layer), tokens(2, grid).requires_grad_()
    same_function(windowed(x, grid), softmax_like(windowed, x, grid), x, *windowed.parameters())
    with_bias = made(window=8, layer=layer)
    assert far(with_bias(x, grid), softmax_like(with_bias, x, grid))


def blocks(grid: Grid, side: int, shift: int) -> Tensor:
    """Who attends to whom on a grid that the window divides, (N, N): in one window of the rolled grid, and near on the grid."""
    h, w = grid
    rows, columns = (t.flatten() for t in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    cell = (rows - shift) % h // side * w + (columns - shift) % w // side
    close = ((rows[:, None] - rows).abs() < side) & ((columns[:, None] - columns).abs() < side)
    return (cell[:, None] == cell) & close


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("grid", "side", "shift"), [((6, 9), 3, 0), ((6, 9), 3, 1), ((8, 4), 2, 1), ((10, 15), 5, 2)])
def test_a_layer_is_softmax_attention_under_an_explicit_block_mask(grid: Grid, side: int, shift: int, bias: bool) -> None:
    layer, x = made(window=side, shift=shift, bias=bias), tokens(2, grid).requires_grad_()
    mask = torch.zeros(3, grid[0] * grid[1], grid[0] * grid[1], dtype=torch.float64)
    if bias:
        table = layer.relative_position_bias_table.view(2 * side - 1, 2 * side - 1, 3)
        rows, columns = (t.flatten() for t in torch.meshgrid(*(torch.arange(s) for s in grid), indexing="ij"))
        down, right = ((t[:, None] - t).clamp(1 - side, side - 1) + side - 1 for t in (rows, columns))
        mask = table[down, right].permute(2, 0, 1)
    mask = mask.masked_fill(~blocks(grid, side, shift), -math.inf)
    q, k, v = layer.qkv(x).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    same_function(layer(x, grid), layer.proj(expected), x, *layer.parameters())


def test_a_token_reaches_its_window_and_no_further() -> None:
    grid, x = (6, 9), tokens(1, (6, 9))
    for shift in (0, 1):
        layer, reach = made(window=3, shift=shift), blocks(grid, 3, shift)
        for n in (0, 4 * 9 + 8, 25):
            moved = x.clone()
            moved[:, n] += 1
            changed = (layer(moved, grid) - layer(x, grid)).abs().amax(dim=(0, 2)) > 1e-12
            assert torch.equal(changed, reach[n])


# --- timm


def timms(grid: Grid, side: int | Grid, shift: int | Grid, **options: object) -> SwinTransformerBlock:
    block = SwinTransformerBlock(24, input_resolution=grid, num_heads=3, window_size=side, shift_size=shift, **options)
    return scrambled(block.double()).eval()


@pytest.mark.parametrize(
    ("grid", "side", "shift"), [((8, 12), 4, 2), ((8, 12), 4, 0), ((7, 9), 4, 2), ((4, 9), 4, 1), ((3, 3), 3, 1)]
)
def test_a_layer_equals_timms_with_the_same_weights(grid: Grid, side: int, shift: int) -> None:
    block, x, grad_output = timms(grid, side, shift), tokens(2, grid).requires_grad_(), tokens(2, grid)
    told = {"window": side, "shift": shift}
    layer = mixers.from_reference("window", block.attn.state_dict(), num_heads=3, options=told)
    y, expected = layer(x, grid), block._attn(x.unflatten(1, grid)).flatten(1, 2)
    same_function(y, expected, x)
    y.backward(grad_output)
    expected.backward(grad_output)
    all_near(mixers.to_reference(layer, grads=True), {k: p.grad for k, p in block.attn.named_parameters()}, "gradient of")


@pytest.mark.parametrize(
    "told",
    [
        {"window_size": 4, "shift_size": 2},
        {"window_size": (4, 4), "shift_size": (2, 2)},
        {"window_size": "(4, 4)", "shift_size": "(2, 2)"},
        {"window": "4,4", "shift": "2"},
        {"window": "4x4", "window_size": [4, 4], "shift": 2},
    ],
)
def test_timms_names_of_options_are_read_and_text_as_metadata_have_it(told: dict[str, object]) -> None:
    grid = (8, 12)
    block, x = timms(grid, 4, 2), tokens(2, grid)
    layer = mixers.from_reference("window", block.attn.state_dict(), num_heads=3, options=told)
    near(layer(x, grid), block._attn(x.unflatten(1, grid)).flatten(1, 2))
    with pytest.raises(mixers.MixerError, match=r"two numbers for the shift: got shift = 1, shift_size"):
        mixers.from_reference("window", block.attn.state_dict(), num_heads=3, options={"shift": 1, "shift_size": 2})


def test_a_shorter_side_uses_the_middle_of_the_table_as_timms_smaller_one() -> None:
    grid, x = (3, 8), tokens(2, (3, 8))
    layer, block = made(window=4, shift=2), timms((3, 8), 4, 2)
    state = mixers.to_reference(layer)
    table = state["relative_position_bias_table"].view(7, 7, 3)
    state["relative_position_bias_table"] = table[1:6].flatten(0, 1)  # row differences from −2 to 2
    block.attn.load_state_dict(state)
    near(layer(x, grid), block._attn(x.unflatten(1, grid)).flatten(1, 2))


@pytest.mark.parametrize(
    ("grid", "side", "shift"), [((3, 8), 4, 2), ((12, 3), 5, 1), ((8, 12), (2, 4), (1, 2)), ((7, 9), (3, 2), (1, 0))]
)
def test_weights_of_timms_oblong_windows_go_in_whole(grid: Grid, side: int | Grid, shift: int | Grid) -> None:
    block, x, grad_output = timms(grid, side, shift), tokens(2, grid).requires_grad_(), tokens(2, grid)
    used, moved = ("x".join(map(str, sides)) for sides in (block.window_size, block.shift_size))
    told = {"window_used": used, "shift_used": moved} | ({"window": side, "shift": shift} if isinstance(side, int) else {})
    layer = mixers.from_reference("window", block.attn.state_dict(), num_heads=3, options=told)
    y, expected = layer(x, grid), block._attn(x.unflatten(1, grid)).flatten(1, 2)
    same_function(y, expected, x)
    near(layer.naive(x, grid), expected, "naive")
    y.backward(grad_output)
    expected.backward(grad_output)
    all_near(mixers.to_reference(layer, grads=True), {k: p.grad for k, p in block.attn.named_parameters()}, "gradient of")
    both = {"window": used, "shift": block.shift_size}
    by_name = mixers.from_reference("window", block.attn.state_dict(), num_heads=3, options=both)
    assert torch.equal(by_name(x, grid), layer(x, grid))


def test_a_table_of_another_window_is_refused() -> None:
    state = timms((3, 8), 4, 2).attn.state_dict()
    with pytest.raises(mixers.MixerError, match=r"relative_position_bias_table \(35, 3\) for \(49, 3\)"):
        mixers.from_reference("window", state, num_heads=3, options={"window": 4})
    with pytest.raises(mixers.MixerError, match=r"got window_used = \(3, 5\) for window = 4, expected at most 4"):
        mixers.from_reference("window", state, num_heads=3, options={"window": 4, "window_used": "3x5"})


# --- which layers shift


def test_every_second_layer_shifts_by_half_a_window_unless_said_otherwise() -> None:
    for options, shifts in (
        ("", [(0, 0), (3, 3), (0, 0), (3, 3)]),
        ("(window=4)", [(0, 0), (2, 2), (0, 0), (2, 2)]),
        ("(window=3x4)", [(0, 0), (1, 2), (0, 0), (1, 2)]),
        ("(shift=1)", [(1, 1)] * 4),
        ("(window=1)", [(0, 0)] * 4),
    ):
        assert [mixers.create(f"window{options}", 24, layer=layer).shift for layer in range(4)] == shifts
    assert mixers.create("window", 24, shift=(0, 2), layer=1).shift == (0, 2)
    model = models.create("vit-tiny", mixer="window(window=2)", image_size=64, patch_size=16, depth=4)
    assert [block.mixer.shift for block in model.blocks] == [(0, 0), (1, 1), (0, 0), (1, 1)]
    schedule = {"every": 3, "offset": 1, "between": "window(window=2)"}
    model = models.create("vit-tiny", mixer="softmax", image_size=64, patch_size=16, depth=6, **schedule)
    assert [getattr(block.mixer, "shift", None) for block in model.blocks] == [(0, 0), None, (1, 1), (0, 0), None, (1, 1)]


def test_weights_in_a_layer_that_shifts_are_loaded_by_its_number_or_its_shift() -> None:
    layer, x = made(window=2, layer=1), tokens(2, (4, 6))
    state = mixers.to_reference(layer)
    for told in ({"layer": 1}, {"options": {"shift": 1}}, {"layer": 4, "options": {"shift": "1"}}):
        assert torch.equal(mixers.from_reference("window", state, num_heads=3, **told)(x, (4, 6)), layer(x, (4, 6)))
    assert far(mixers.from_reference("window", state, num_heads=3)(x, (4, 6)), layer(x, (4, 6)))


def test_two_layers_together_mix_the_whole_of_a_small_grid() -> None:
    grid, x = (4, 4), tokens(1, (4, 4))
    first, second = made(window=2, layer=0), made(window=2, layer=1)
    moved = x.clone()
    moved[:, 5] += 1
    both = second(first(moved, grid), grid) - second(first(x, grid), grid)
    assert int((both.abs().amax(dim=(0, 2)) > 1e-12).sum()) > 4


# --- work, messages, precision


@pytest.mark.sampled(4)
@pytest.mark.parametrize("batch", [1, 3])
@every_grid
@with_options
def test_the_declared_work_is_the_counted_work(options: dict[str, object], grid: Grid, batch: int) -> None:
    layer = made(torch.float32, **options)
    count = count_flops(Alone(layer), (batch, 24, *grid))
    assert count.macs * batch == layer.macs(grid, batch)
    assert round(count.elementwise * batch) == layer.elementwise(grid, batch)


def test_the_cost_is_what_the_docstring_says() -> None:
    m, length, c, h = 6 * 9, 9, 24, 3  # 5×7 is filled up to 6×9
    assert made(window=3, shift=0).macs((5, 7)) == 4 * m * c**2 + 2 * m * length * c
    assert made(window=3, shift=0).elementwise((5, 7)) == 6 * h * m * length + 6 * m * c
    assert made(window=3, shift=0, bias=False).elementwise((5, 7)) == 5 * h * m * length + 6 * m * c
    shifted = 6 * h * m * length + 6 * m * c + m * length + h * m * length + (6 + 9) * 3
    assert made(window=3, shift=1).elementwise((5, 7)) == shifted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "got window = 0, expected at least 1"),
        ({"window": "0x3"}, "got window = 0x3, expected at least 1"),
        ({"window": "3x4x5"}, r"got window = \(3, 4, 5\), expected a whole number of tokens, or a pair of them"),
        ({"shift": "1x2"}, "got shift = '1x2', expected a whole number of tokens, or a pair"),
        ({"window": 3.5}, "got window = 3.5, expected a whole number"),
        (
            {"window": (3, 4), "shift": (2, 4)},
            r"got shift = \(2, 4\) for window = \(3, 4\), expected 0 to 2 and 3; leave shift out",
        ),
        ({"shift": 7}, "got shift = 7 for window = 7, expected 0 to 6; leave shift out"),
        ({"window": 4, "shift": -1}, "got shift = -1 for window = 4, expected 0 to 3; leave shift out"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(mixers.MixerError, match=message):
        made(**options)


def test_weights_and_options_that_do_not_fit_are_refused() -> None:
    state = mixers.to_reference(made(window=3))
    for options, message in (
        ({"window": 4}, r"relative_position_bias_table \(25, 3\) for \(49, 3\)"),
        ({"mask_value": -50}, "got mask_value = -50, expected -100"),
        ({"wnidow": 3}, "unknown option .*'wnidow', expected one of .*window"),
    ):
        with pytest.raises(mixers.MixerError, match=message):
            mixers.from_reference("window", state, num_heads=3, options=options)
    del state["relative_position_bias_table"]
    with pytest.raises(mixers.MixerError, match=r"missing \['relative_position_bias_table'\]"):
        mixers.from_reference("window", state, num_heads=3)
    layer, x = made(window=3, bias=False), tokens(2, (6, 6))
    again = mixers.from_reference("window(bias=false, window=3)", mixers.to_reference(layer), num_heads=3)
    assert torch.equal(again(x, (6, 6)), layer(x, (6, 6)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_is_near_float64(dtype: torch.dtype) -> None:
    layer = scrambled(mixers.create("window", 24, num_heads=3, layer=1), std=0.05).to(dtype)
    x = (1 + tokens(1, (48, 50), dtype=torch.float32)).to(dtype)
    coarse, exact = layer(x, (48, 50)), layer.double()(x.double(), (48, 50))
    assert coarse.dtype == dtype
    assert (coarse.double() - exact).norm() < (0.01 if dtype == torch.float16 else 0.05) * exact.norm()


def test_autocast_takes_the_table_along() -> None:
    layer, x = made(torch.float32, window=2, shift=1), tokens(2, (4, 6), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x, (4, 6))
    assert y.dtype == torch.bfloat16
    near(y.float(), layer(x, (4, 6)), tolerance=0.3)


# --- wrong versions

right_roll = Tensor.roll
right_positions = WindowAttention._positions


def without_the_mask(padded: Grid, side: Grid, shift: Grid, device: torch.device) -> Tensor:
    cells, length = padded[0] * padded[1] // (side[0] * side[1]), side[0] * side[1]
    return torch.zeros(cells, length, length, dtype=torch.bool)


def rows_alone(padded: Grid, side: Grid, shift: Grid, device: torch.device) -> Tensor:
    return right_parted(padded, side, (shift[0], 0), device)


right_parted = window.parted
WRONG: dict[str, tuple[object, str, object]] = {
    "no mask": (window, "parted", without_the_mask),
    "a mask along one axis": (window, "parted", rows_alone),
    "rolled the other way": (Tensor, "roll", lambda x, by, dims: right_roll(x, tuple(-s for s in by), dims)),
    "keys less queries": (WindowAttention, "_positions", lambda layer, side: right_positions(layer, side).mT),
    "another scale": (
        window.F,
        "scaled_dot_product_attention",
        lambda q, k, v, attn_mask: (q @ k.mT + attn_mask).softmax(-1) @ v,
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_version_is_seen_red(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = made(window=3, shift=1), tokens(2, (6, 6))
    assert_equals_naive(layer, x, (6, 6))
    monkeypatch.setattr(*WRONG[wrong])
    with pytest.raises(AssertionError, match="output: differs"):
        assert_equals_naive(layer, x, (6, 6))
    with pytest.raises(AssertionError, match="output: differs"):
        assert_golden("mixer_window")


def test_filling_before_the_rolling_is_seen_red() -> None:
    layer, x = made(window=3, shift=1), tokens(2, (5, 7))
    filled = F.pad(x.unflatten(1, (5, 7)), (0, 0, 0, 2, 0, 1)).flatten(1, 2)  # to 6×9
    other = layer(filled, (6, 9)).unflatten(1, (6, 9))[:, :5, :7].flatten(1, 2)
    assert far(other, layer(x, (5, 7)))
    assert far(layer.naive(filled, (6, 9)).unflatten(1, (6, 9))[:, :5, :7].flatten(1, 2), layer.naive(x, (5, 7)))


def test_every_row_of_the_table_gets_a_gradient_where_the_window_fits() -> None:
    layer = made(window=3, shift=1)
    table = gradients(layer, layer, tokens(1, (6, 6)), (6, 6))["gradient of relative_position_bias_table"]
    assert (table.abs().amax(dim=1) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"window": 3, "shift": 1}, {"window": 3, "shift": 0, "bias": False}], ids=str)
def test_it_compiles_in_one_piece(options: dict[str, object]) -> None:
    layer, x = made(**options), tokens(2, (5, 7))
    torch._dynamo.reset()
    near(torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)(x, (5, 7)), layer(x, (5, 7)))
