from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from helpers import (
    assert_batch_independent,
    assert_equals_naive,
    far,
    gradients,
    layer_cases,
    make_layer,
    near,
    predicted_weight,
    scrambled,
    tokens,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers.base import Grid, Linear, to_map, to_tokens
from mixers.weightformer.common import check_dynamic_grid
from mixers.weightformer.dynamic_conv import DynamicDepthwiseConv
from mixers.weightformer.dynamic_linear import DynamicLinear

GRIDS = [(4, 4), (5, 7), (2, 3), (7, 2)]
every_layer = pytest.mark.parametrize(("name", "slot"), layer_cases())
every_mixer = pytest.mark.parametrize("name", mixers.names())
dynamic_layer = pytest.mark.parametrize("slot", ["token", "ffn_in"])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grid", GRIDS)
@every_layer
def test_a_layer_equals_its_naive_form_in_output_and_every_gradient(name: str, slot: str, grid: Grid, batch: int) -> None:
    assert_equals_naive(make_layer(name, slot, grid), tokens(batch, grid), grid)


@every_layer
def test_each_image_of_a_batch_is_mixed_alone(name: str, slot: str) -> None:
    assert_batch_independent(make_layer(name, slot, (5, 7)), tokens(3, (5, 7)), (5, 7))


@every_layer
def test_a_layer_is_deterministic_and_evaluation_changes_nothing(name: str, slot: str) -> None:
    layer, x = make_layer(name, slot, (4, 6)), tokens(2, (4, 6))
    first = layer(x, (4, 6))
    assert torch.equal(first, layer(x, (4, 6)))
    layer.eval()
    assert torch.equal(first, layer(x, (4, 6)))
    assert torch.equal(first, layer(x, (4, 6)))


@every_layer
def test_a_layer_leaves_its_input_as_it_was(name: str, slot: str) -> None:
    layer, x = make_layer(name, slot, (4, 6)), tokens(2, (4, 6))
    before = x.clone()
    layer(x, (4, 6))
    assert torch.equal(x, before)


@every_layer
def test_the_output_has_the_shape_and_dtype_of_the_contract(name: str, slot: str) -> None:
    for dtype in (torch.float32, torch.float64):
        y = make_layer(name, slot, (3, 5), dtype=dtype)(tokens(2, (3, 5), dtype=dtype), (3, 5))
        assert y.shape == (2, 15, 24 if slot == "token" else 48)
        assert y.dtype == dtype


@every_layer
def test_gradcheck_holds_for_input_and_parameters(name: str, slot: str) -> None:
    grid = (2, 3)
    layer, x = make_layer(name, slot, grid, dim=8, heads=2), tokens(2, grid, dim=8).requires_grad_()
    parameters = {key: p.detach().clone().requires_grad_() for key, p in layer.named_parameters()}

    def function(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x, grid))

    assert torch.autograd.gradcheck(function, (x, *parameters.values()), fast_mode=True)


@pytest.mark.parametrize("grid", [(4, 4), (5, 7)])
@every_layer
def test_float32_agrees_with_float64(name: str, slot: str, grid: Grid) -> None:
    layer, x = make_layer(name, slot, grid, dtype=torch.float32), tokens(2, grid, dtype=torch.float32)
    coarse = layer(x, grid)
    near(coarse, layer.double()(x.double(), grid))


@every_layer
def test_every_parameter_gets_a_gradient(name: str, slot: str) -> None:
    found = gradients(layer := make_layer(name, slot, (4, 6)), layer, tokens(2, (4, 6)), (4, 6))
    assert {key for key, value in found.items() if not value.abs().max() > 0} == set()


#: The plain Linear works on single tokens, whatever their grid.
ON_THE_GRID = [case for case in layer_cases() if not isinstance(make_layer(*case, (4, 4)), Linear)]


@pytest.mark.parametrize("n", [14, 17, 30])
@pytest.mark.parametrize(("name", "slot"), ON_THE_GRID)
def test_tokens_that_do_not_fill_the_grid_are_refused(name: str, slot: str, n: int) -> None:
    layer = make_layer(name, slot, (3, 5))
    with pytest.raises(mixers.MixerError, match=rf"N = {n} .*3x5.*expected 15"):
        layer(torch.randn(1, n, 24, dtype=torch.float64), (3, 5))


@every_mixer
def test_a_prefix_token_is_accepted_exactly_where_the_spec_says_so(name: str) -> None:
    layer, x = make_layer(name, "token", (3, 5)), torch.randn(2, 16, 24, dtype=torch.float64)
    if mixers.spec(name).prefix_tokens:
        assert_equals_naive(layer, x, (3, 5))
    else:
        with pytest.raises(mixers.MixerError, match="16 tokens for a 3x5 grid"):
            layer(x, (3, 5))


@every_mixer
def test_a_spec_is_frozen_complete_and_under_its_own_name(name: str) -> None:
    spec = mixers.spec(name)
    assert spec.name == name
    assert all((spec.complexity, spec.formula, spec.source, spec.status))
    with pytest.raises(FrozenInstanceError):
        spec.every = 2  # type: ignore[misc]


@every_mixer
def test_a_mixer_meets_the_protocol(name: str) -> None:
    assert isinstance(mixers.create(name, 24, num_heads=3, grid=(4, 4)), mixers.TokenMixer)


def costs(name: str, slot: str, grid: Grid) -> tuple[int, int]:
    """MACs and elementwise work of a layer on a grid."""
    if mixers.spec(name).needs_grid:
        with torch.device("meta"):  # what it holds for a large grid would fill the memory
            layer = make_layer(name, slot, grid)
    else:
        layer = make_layer(name, slot, (4, 4))
    return layer.macs(grid), layer.elementwise(grid)


@every_layer
def test_the_cost_at_twice_the_tokens_grows_as_the_spec_says(name: str, slot: str) -> None:
    complexity, n = mixers.spec(name).complexity if slot == "token" else "linear", 504 * 504  # 7 divides it, and 8, and 9
    # A Fourier transform may take in the channels, or not.
    n_log_n = [2 * math.log2(2 * m) / math.log2(m) for m in (n, 24 * n)]
    expected = {"linear": [2.0], "N log N": n_log_n, "quadratic": [4.0]}[complexity]
    pairs = zip(costs(name, slot, (504, 504)), costs(name, slot, (504, 1008)), strict=True)
    growth = [twice / once for once, twice in pairs if once]
    # One of the two may grow more slowly: a product with an N×N matrix leaves N·C biases.
    assert not growth or any(max(growth) == pytest.approx(k, rel=5e-3) for k in expected)


@every_layer
def test_declared_work_is_an_int_proportional_to_the_batch(name: str, slot: str) -> None:
    layer = make_layer(name, slot, (5, 7))
    assert layer.macs((5, 7), batch=3) == 3 * layer.macs((5, 7))
    # Elementwise work may be shared by the images of a batch, such as the angles of a rotation.
    one, two, three = (layer.elementwise((5, 7), batch=batch) for batch in (1, 2, 3))
    assert three - two == two - one
    assert {type(layer.macs((5, 7))), type(one)} == {int}


@every_layer
def test_an_unknown_evaluation_path_is_refused(name: str, slot: str) -> None:
    with pytest.raises(mixers.MixerError, match=r"'relaesed', expected one of .*released"):
        make_layer(name, slot, (4, 4)).macs((4, 4), path="relaesed")


def test_weightformer_is_active_in_layers_1_4_7() -> None:
    spec = mixers.spec("weightformer")
    assert [layer for layer in range(17) if spec.active(layer)] == [1, 4, 7, 10, 13, 16]
    assert isinstance(mixers.create("weightformer", 24, active=False), type(mixers.create("static", 24)))
    assert isinstance(mixers.create_ffn_in("weightformer", 24, 48, active=False), Linear)


@pytest.mark.parametrize("name", [name for name in mixers.names() if mixers.spec(name).every == 1])
def test_a_mixer_active_everywhere_has_no_layer_for_the_others(name: str) -> None:
    spec = mixers.spec(name)
    assert all(spec.active(layer) for layer in range(12))
    with pytest.raises(mixers.MixerError, match="active in every layer"):
        mixers.create(name, 24, active=False)


def test_an_unknown_mixer_is_refused_with_near_names_and_all_names() -> None:
    with pytest.raises(mixers.MixerError, match="did you mean softmax") as e:
        mixers.create("sotfmax", 24)
    assert all(name in str(e.value) for name in mixers.names())


def test_an_unknown_option_is_refused_with_the_near_one() -> None:
    with pytest.raises(mixers.MixerError, match=r"'qvk_bias'; did you mean 'qkv_bias'"):
        mixers.create("softmax", 24, qvk_bias=False)
    with pytest.raises(mixers.MixerError, match=r"'kernel', expected no option"):
        mixers.create("pool", 24, kernel=5)
    with pytest.raises(mixers.MixerError, match=r"'redaction'; did you mean 'reduction'"):
        mixers.create_ffn_in("weightformer", 24, 48, redaction=2)


@pytest.mark.parametrize("name", ["softmax", "linear", "relu-linear"])
@pytest.mark.parametrize("heads", [5, 0, -1, 48])
def test_heads_that_do_not_divide_are_refused_with_those_that_do(name: str, heads: int) -> None:
    with pytest.raises(mixers.MixerError, match=rf"num_heads = {heads} for dim = 24.*use one of \[1, 2, 3, 4, 6, 8, 12, 24\]"):
        mixers.create(name, 24, num_heads=heads)


@pytest.mark.parametrize(("dim", "heads"), [(24, 1), (64, 1), (192, 3)])
def test_there_is_a_head_for_64_channels_unless_said_otherwise(dim: int, heads: int) -> None:
    assert mixers.create("softmax", dim).num_heads == heads


def test_a_layer_without_qkv_bias_equals_its_naive_form_too() -> None:
    layer = scrambled(mixers.create("softmax", 24, num_heads=3, qkv_bias=False).double())
    assert layer.qkv.bias is None
    assert_equals_naive(layer, tokens(2, (3, 4)), (3, 4))


USER_MIXER = """
from torch import nn

class Halver(nn.Module):
    \"\"\"Half of the input.\"\"\"
    def __init__(self, dim, *, num_heads=None, share=0.5):
        super().__init__()
        self.share = share
    def forward(self, x, grid):
        return self.share * x

class NotAMixer:
    pass
"""


def test_a_mixer_of_the_users_own_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER_MIXER)
    x = tokens(1, (2, 2))
    assert torch.equal(mixers.create(f"{file}:Halver", 24, num_heads=3, grid=(2, 2))(x, (2, 2)), x / 2)
    assert torch.equal(mixers.create(f"{file}:Halver", 24, share=0.25)(x, (2, 2)), x / 4)
    assert mixers.spec(f"{file}:Halver").formula == "Half of the input."
    assert isinstance(mixers.create_ffn_in(f"{file}:Halver", 24, 48), Linear)
    with pytest.raises(mixers.MixerError, match=r"'shaer'; did you mean 'share'"):
        mixers.create(f"{file}:Halver", 24, shaer=1.0)


def test_a_users_class_may_carry_its_own_spec(tmp_path: Path) -> None:
    file = tmp_path / "scheduled.py"
    file.write_text(
        USER_MIXER
        + "\nfrom mixers import MixerSpec\nHalver.spec = MixerSpec(name='halver', token=Halver, off_token='depthwise-conv',"
        " every=2, complexity='linear', formula='x/2', source='me', status='certain')\n"
    )
    spec = mixers.spec(f"{file}:Halver")
    assert (spec.name, spec.every, spec.active(0), spec.active(1)) == ("halver", 2, True, False)
    assert isinstance(mixers.create(f"{file}:Halver", 24, active=False), type(mixers.create("static", 24)))


@pytest.mark.parametrize(
    ("content", "asked", "message"),
    [
        (None, "absent.py:Halver", "mixer file not found: got .*absent.py"),
        (USER_MIXER, "mine.py:Havler", r"got 'Havler', expected .*\['Halver'\]"),
        (USER_MIXER, "mine.py:NotAMixer", r"got 'NotAMixer', which is the class NotAMixer, expected a torch.nn.Module"),
        ("import no_such_package_here", "mine.py:Halver", "raised ModuleNotFoundError: No module named 'no_such_package_here'"),
        ("def broken(", "mine.py:Halver", "does not import: .* raised SyntaxError"),
        (USER_MIXER, "mine.txt:Halver", "mixer file is not Python"),
    ],
)
def test_a_user_file_that_does_not_serve_is_refused_and_told_why(
    tmp_path: Path, content: str | None, asked: str, message: str
) -> None:
    if content is not None:
        (tmp_path / asked.partition(":")[0]).write_text(content)
    with pytest.raises(mixers.MixerError, match=message):
        mixers.create(f"{tmp_path}/{asked}", 24)


REFERENCED = [case for case in layer_cases() if getattr(make_layer(*case, (4, 4)), "reference_names", None)]


@pytest.mark.parametrize(("name", "slot"), REFERENCED)
def test_weights_go_to_the_authors_names_and_back(name: str, slot: str) -> None:
    layer, x = make_layer(name, slot, (4, 6)), tokens(2, (4, 6))
    state = mixers.to_reference(layer)
    again = mixers.from_reference(name, state, slot=slot, num_heads=3, grid=(4, 6), layer=1)  # as `make_layer`
    assert type(again) is type(layer)
    assert torch.equal(again(x, (4, 6)), layer(x, (4, 6)))
    assert {k: v.tolist() for k, v in mixers.to_reference(again).items()} == {k: v.tolist() for k, v in state.items()}


@pytest.mark.parametrize(("name", "slot"), REFERENCED)
def test_gradients_come_under_the_authors_names_once_there_are_any(name: str, slot: str) -> None:
    layer = make_layer(name, slot, (4, 6))
    with pytest.raises(mixers.MixerError, match="run backward"):
        mixers.to_reference(layer, grads=True)
    layer(tokens(1, (4, 6)), (4, 6)).square().sum().backward()
    grads = mixers.to_reference(layer, grads=True)
    assert grads.keys() == mixers.to_reference(layer).keys()
    assert sum(g.numel() for g in grads.values()) == sum(p.numel() for p in layer.parameters())
    known = {ours: theirs for theirs, ours in layer.reference_names.items()}
    assert all(torch.equal(grads[known[own]], p.grad) for own, p in layer.named_parameters())


@pytest.mark.parametrize(("name", "slot"), REFERENCED)
def test_missing_and_unexpected_weights_are_refused_by_name(name: str, slot: str) -> None:
    state = mixers.to_reference(make_layer(name, slot, (4, 6)))
    with pytest.raises(mixers.MixerError, match=r"unexpected \['stray'\]"):
        mixers.from_reference(name, state | {"stray": torch.zeros(1)}, slot=slot, num_heads=3, grid=(4, 6))
    # A qkv without bias is a layer of its own, hence no missing weight.
    for gone in state.keys() - {"qkv.bias"}:
        with pytest.raises(mixers.MixerError, match=f"missing .*'{gone}'"):
            mixers.from_reference(name, {k: v for k, v in state.items() if k != gone}, slot=slot, num_heads=3, grid=(4, 6))


def test_an_unknown_slot_and_a_layer_without_reference_names_are_refused() -> None:
    with pytest.raises(mixers.MixerError, match=r"got 'ffn', expected 'token' or 'ffn_in'"):
        mixers.from_reference("weightformer", {}, slot="ffn")
    with pytest.raises(mixers.MixerError, match="'pool' has no parameter names"):
        mixers.from_reference("pool", {})
    with pytest.raises(mixers.MixerError, match="Pool has no parameter names"):
        mixers.to_reference(mixers.create("pool", 24))


SET_MIXERS = pytest.mark.parametrize("name", ["softmax", "linear", "relu-linear"])


@SET_MIXERS
def test_a_set_mixer_is_permutation_equivariant(name: str) -> None:
    layer, x, order = make_layer(name, "token", (4, 6)), tokens(2, (4, 6)), torch.randperm(24)
    near(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])


@pytest.mark.parametrize("name", [name for name in mixers.names() if mixers.spec(name).rotary])
def test_heads_that_cannot_be_turned_are_refused_at_construction(name: str) -> None:
    with pytest.raises(mixers.MixerError, match="rotary position needs a dimension that 4 divides"):
        mixers.create(name, 18, num_heads=3, grid=(4, 6), rope=True)


@pytest.mark.parametrize("name", ["static", "pool", "weightformer"])
def test_a_mixer_that_knows_the_grid_is_not_permutation_equivariant(name: str) -> None:
    layer, x, order = make_layer(name, "token", (4, 6)), tokens(2, (4, 6)), torch.randperm(24)
    assert far(layer(x[:, order], (4, 6)), layer(x, (4, 6))[:, order])


@SET_MIXERS
def test_a_normalised_attention_does_not_notice_doubled_tokens(name: str) -> None:
    layer, x = make_layer(name, "token", (4, 6)), tokens(2, (4, 6))
    near(layer(torch.cat([x, x], dim=1), (8, 6)), layer(x, (4, 6)).repeat(1, 2, 1))
    assert far(layer(torch.cat([x, 2 * x], dim=1), (8, 6))[:, :24], layer(x, (4, 6)))


@SET_MIXERS
def test_the_weights_of_a_query_sum_to_one(name: str) -> None:
    layer = make_layer(name, "token", (4, 6))
    q, k = torch.randn(2, 2, 3, 24, 8, dtype=torch.float64)
    v = torch.randn(2, 3, 1, 8, dtype=torch.float64).expand(-1, -1, 24, -1)
    near(layer.attend(q, k, v), v)


def test_a_relu_query_without_a_positive_feature_gives_zero_not_nan() -> None:
    layer = make_layer("relu-linear", "token", (2, 2))
    for dtype in (torch.float64, torch.float32, torch.float16):
        q, k, v = (torch.randn(1, 3, 4, 8).to(dtype) for _ in range(3))
        q = -q.abs()
        assert torch.equal(layer.attend(q, k, v), torch.zeros_like(v))


@pytest.mark.parametrize("grid", GRIDS)
def test_pool_gives_zero_for_a_constant_and_not_for_an_edge(grid: Grid) -> None:
    x = torch.randn(2, 1, 24, dtype=torch.float64).expand(-1, grid[0] * grid[1], -1)
    near(mixers.create("pool", 24)(x, grid), torch.zeros_like(x))
    assert far(mixers.create("pool", 24)(tokens(1, grid), grid), torch.zeros(1, grid[0] * grid[1], 24))


def test_a_static_kernel_sees_its_eight_neighbours_and_no_further() -> None:
    layer, x = make_layer("static", "token", (5, 7)), tokens(1, (5, 7))
    moved = x.clone()
    moved[:, 2 * 7 + 3] += 1
    changed = (layer(moved, (5, 7)) - layer(x, (5, 7))).abs().amax(dim=(0, 2)).view(5, 7) > 1e-12
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("grid", [(1, 8), (8, 1), (1, 1)])
@dynamic_layer
def test_a_dynamic_layer_refuses_a_grid_without_a_whole_cell(slot: str, grid: Grid) -> None:
    layer = make_layer("weightformer", slot, (4, 4))
    message = f"got {grid[0]}x{grid[1]} tokens, expected at least 2x2"
    with pytest.raises(mixers.MixerError, match=message):
        layer(tokens(1, grid), grid)
    with pytest.raises(mixers.MixerError, match=message):
        layer.macs(grid)
    check_dynamic_grid((2, 2))


@pytest.mark.parametrize(("c", "d"), [(3, 8), (8, 3)])
def test_a_dynamic_linear_refuses_fewer_than_four_channels(c: int, d: int) -> None:
    with pytest.raises(mixers.MixerError, match="3"):
        mixers.create_ffn_in("weightformer", c, d)


def dynamic_linear(c: int, d: int) -> DynamicLinear:
    layer = scrambled(mixers.create_ffn_in("weightformer", c, d).double())
    assert isinstance(layer, DynamicLinear)
    return layer


@pytest.mark.parametrize(
    ("c", "d", "grid", "rank"), [(8, 16, (4, 4), 2), (16, 32, (3, 7), 3), (16, 8, (8, 8), 2), (8, 16, (3, 3), 1)]
)
@torch.no_grad()
def test_the_predicted_weight_has_the_rank_of_the_least_of_cells_and_reduced_widths(
    c: int, d: int, grid: Grid, rank: int
) -> None:
    assert rank == min((grid[0] // 2) * (grid[1] // 2), c // 4, d // 4)
    weight = predicted_weight(dynamic_linear(c, d), tokens(3, grid, c), grid)
    assert torch.linalg.matrix_rank(weight, rtol=1e-9).tolist() == [rank] * 3


@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
@torch.no_grad()
def test_every_predicted_column_is_shorter_than_one(scale: float) -> None:
    norms = torch.linalg.vector_norm(predicted_weight(dynamic_linear(8, 16), scale * tokens(2, (4, 6), 8), (4, 6)), dim=1)
    assert ((norms > 0) & (norms < 1)).all()
    assert scale < 1000 or norms.median() > 0.9, "a long input comes close to the bound"


@pytest.mark.parametrize("scale", [0.1, 1.0, 1000.0])
@torch.no_grad()
def test_every_predicted_kernel_is_shorter_than_one(scale: float) -> None:
    layer = make_layer("weightformer", "token", (4, 6))
    norms = torch.linalg.vector_norm(layer.predicted(scale * tokens(2, (4, 6)), (4, 6)), dim=(2, 3))
    assert ((norms > 0) & (norms < 1)).all()


def cells_of(order: Tensor, grid: Grid) -> Tensor:
    """Token numbers (N) as cells: (M, 4)."""
    h, w = grid
    return order.view(h // 2, 2, w // 2, 2).transpose(1, 2).reshape(-1, 4)


def from_cells(cells: Tensor, grid: Grid) -> Tensor:
    h, w = grid
    return cells.view(h // 2, w // 2, 2, 2).transpose(1, 2).reshape(-1)


def permuted_and_back(layer: nn.Module, x: Tensor, grid: Grid, order: Tensor) -> Tensor:
    return layer(x[:, order], grid)[:, order.argsort()]


@torch.no_grad()
def test_moving_whole_cells_leaves_the_predicted_weight_alone() -> None:
    grid, layer = (4, 6), dynamic_linear(24, 48)
    x, cells = tokens(2, grid), cells_of(torch.arange(24), grid)
    order = from_cells(cells[torch.randperm(6)], grid)
    assert not torch.equal(order, torch.arange(24))
    near(permuted_and_back(layer, x, grid, order), layer(x, grid))


@torch.no_grad()
def test_moving_tokens_inside_their_cells_leaves_the_predicted_weight_alone() -> None:
    grid, layer = (4, 6), dynamic_linear(24, 48)
    x, cells = tokens(2, grid), cells_of(torch.arange(24), grid)
    order = from_cells(torch.stack([cell[torch.randperm(4)] for cell in cells]), grid)
    assert not torch.equal(order, torch.arange(24))
    near(permuted_and_back(layer, x, grid, order), layer(x, grid))


@torch.no_grad()
def test_moving_a_token_to_another_cell_changes_the_predicted_weight() -> None:
    grid, layer, x = (4, 6), dynamic_linear(24, 48), tokens(2, (4, 6))
    order = torch.arange(24)
    order[[0, 2]] = order[[2, 0]]
    assert far(permuted_and_back(layer, x, grid, order), layer(x, grid))


@torch.no_grad()
def test_an_odd_last_row_and_column_reach_the_output_but_not_the_predicted_weight() -> None:
    grid, layer, x = (5, 7), dynamic_linear(24, 48), tokens(1, (5, 7))
    outside = torch.zeros(5, 7, dtype=torch.bool)
    outside[4], outside[:, 6] = True, True
    moved = x.clone()
    moved[:, outside.flatten()] += 1
    before, after = layer(x, grid), layer(moved, grid)
    near(after[:, ~outside.flatten()], before[:, ~outside.flatten()])
    assert far(after[:, outside.flatten()], before[:, outside.flatten()])


@torch.no_grad()
def test_a_zero_predictor_gives_exactly_the_static_linear() -> None:
    layer, x = dynamic_linear(24, 48), tokens(2, (5, 7))
    static = F.linear(x, layer.weight.T, layer.bias)
    assert far(layer(x, (5, 7)), static)
    nn.init.zeros_(layer.predictor.weight)
    nn.init.zeros_(layer.predictor.bias)
    near(layer(x, (5, 7)), static, tolerance=1e-13)


@torch.no_grad()
def test_a_zero_predictor_gives_exactly_the_static_convolution() -> None:
    layer, x = make_layer("weightformer", "token", (5, 7)), tokens(2, (5, 7))
    static = mixers.from_reference("static", {"weight": layer.weight, "bias": layer.bias})(x, (5, 7))
    assert far(layer(x, (5, 7)), static)
    nn.init.zeros_(layer.predictor[2].weight)
    near(layer(x, (5, 7)), static, tolerance=1e-13)


def adaptive(x: Tensor, static_kernel: bool) -> Tensor:
    """The dynamic convolution on a map (B, C, H, W), with or without its static kernel."""
    torch.manual_seed(3)
    layer = make_layer("weightformer", "token", (4, 4))
    if not static_kernel:
        nn.init.zeros_(layer.weight)
    grid = (x.shape[2], x.shape[3])
    return to_map(layer(to_tokens(x), grid), grid)


@pytest.mark.parametrize("grid", [(6, 6), (5, 7), (2, 3)])
@pytest.mark.parametrize(
    "turn", [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.mT], ids=["rows", "columns", "transpose"]
)
@torch.no_grad()
def test_a_convolution_without_static_kernel_turns_with_the_image(turn, grid: Grid) -> None:
    x = torch.randn(2, 24, *grid, dtype=torch.float64)
    near(adaptive(turn(x), False), turn(adaptive(x, False)))
    assert far(adaptive(turn(x), True), turn(adaptive(x, True)))


class DividesByCells(DynamicLinear):
    def _scale(self, n: int) -> float:
        return 4 * super()._scale(n)


class ReshapesAcrossTheBatch(DynamicLinear):
    def _codes(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        e, f = super()._codes(x, grid)
        return e.transpose(0, 1).reshape(e.shape), f


class DetachesThePrediction(DynamicLinear):
    def _codes(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        return super()._codes(x.detach(), grid)


class KernelsInTheWrongOrder(DynamicDepthwiseConv):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        (b, _, c), maps = x.shape, to_map(x, grid)
        kernels = self.weight + self.predicted(x, grid).unsqueeze(2)
        kernels = kernels.transpose(0, 1).flatten(0, 1)  # channels before images: the grouping is that of other images
        y = F.conv2d(maps.reshape(1, b * c, *grid), kernels, self.bias.repeat(b), padding=1, groups=b * c)
        return to_tokens(y.view(b, c, *grid))


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (DividesByCells(24, 48), "output"),
        (ReshapesAcrossTheBatch(24, 48), "output"),
        (DetachesThePrediction(24, 48), "gradient of input"),
        (KernelsInTheWrongOrder(24), "output"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_broken_fast_path_is_seen_red(broken: nn.Module, caught: str) -> None:
    with pytest.raises(AssertionError, match=f"{caught}: differs"):
        assert_equals_naive(scrambled(broken.double()), tokens(2, (4, 6)), (4, 6))


@pytest.mark.parametrize("broken", [ReshapesAcrossTheBatch(24, 48), KernelsInTheWrongOrder(24)], ids=lambda m: type(m).__name__)
def test_images_that_leak_into_one_another_are_seen_red(broken: nn.Module) -> None:
    with pytest.raises(AssertionError, match="of the batch: differs"):
        assert_batch_independent(scrambled(broken.double()), tokens(2, (4, 6)), (4, 6))


@pytest.mark.parametrize("wrong", [float("nan"), 2e-9])
def test_the_comparison_refuses_nan_and_anything_beyond_the_tolerance(wrong: float) -> None:
    x = torch.zeros(3, dtype=torch.float64)
    near(x, x)
    with pytest.raises(AssertionError, match="differs"):
        near(x + torch.tensor([0.0, wrong, 0.0]), x)


@pytest.mark.parametrize(("c", "d"), [(10, 40), (6, 24), (16, 64), (9, 7)])
def test_a_dynamic_linear_of_any_width_goes_to_its_authors_names_and_back(c: int, d: int) -> None:
    layer = mixers.create_ffn_in("weightformer", c, d, num_heads=2)
    again = mixers.from_reference("weightformer", mixers.to_reference(layer), slot="ffn_in")
    x = torch.randn(2, 35, c)
    assert torch.equal(again(x, (5, 7)), layer(x, (5, 7)))


def test_a_class_with_a_spec_in_its_own_body_is_found(tmp_path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\nfrom mixers import MixerSpec\n\n\nclass M(nn.Identity):\n"
        "    spec = MixerSpec(name='m', token='m', complexity='linear', formula='X', source='none', status='certain')\n\n"
        "    def __init__(self, dim):\n        super().__init__()\n\n    def forward(self, x, grid):\n        return x\n"
    )
    x = torch.randn(1, 4, 8)
    assert torch.equal(mixers.create(f"{tmp_path}/m.py:M", 8)(x, (2, 2)), x)
    assert mixers.spec(f"{tmp_path}/m.py:M").formula == "X"


def test_a_class_that_borrows_the_spec_of_another_mixer_is_still_itself(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import dataclasses\nfrom torch import nn\nimport mixers\n\n\nclass Sevens(nn.Module):\n"
        "    spec = dataclasses.replace(mixers.spec('linear'), name='sevens')\n\n"
        "    def __init__(self, dim):\n        super().__init__()\n\n"
        "    def forward(self, x, grid):\n        return 0 * x + 7\n"
    )
    x = torch.randn(1, 4, 8)
    assert torch.equal(mixers.create(f"{tmp_path}/m.py:Sevens", 8)(x, (2, 2)), torch.full_like(x, 7))


def test_a_file_may_hold_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n\n\n"
        "@dataclass\nclass Settings:\n    share: float = 0.5\n\n\nclass Halver(nn.Module):\n"
        "    def __init__(self, dim):\n        super().__init__()\n        self.settings = Settings()\n\n"
        "    def forward(self, x, grid):\n        return self.settings.share * x\n"
    )
    x = torch.randn(1, 4, 8)
    assert torch.equal(mixers.create(f"{tmp_path}/m.py:Halver", 8)(x, (2, 2)), x / 2)


@pytest.mark.parametrize("wrong", [{"complexity": "Linear"}, {"layout": ""}, {"doubling": "no"}])
def test_a_spec_that_declares_what_there_is_not_is_refused(wrong: dict[str, str]) -> None:
    (key,) = wrong
    fields = {"name": "m", "token": "m", "complexity": "linear", "formula": "x", "source": "none", "status": "certain"}
    with pytest.raises(mixers.MixerError, match=f"unknown {key}: got '{wrong[key]}', expected one of"):
        mixers.MixerSpec(**(fields | wrong))


@pytest.mark.parametrize("name", ["linear", "relu-linear"])
@torch.no_grad()
def test_linear_attention_keeps_its_denominator_in_the_range_of_float16(name: str) -> None:
    layer, x = mixers.create(name, 64, num_heads=1).half().double(), tokens(1, (128, 128), 64).half()
    expected = layer(x.double(), (128, 128))
    got = layer.half()(x, (128, 128))
    assert (got.double() - expected).norm() < 1e-2 * expected.norm()
