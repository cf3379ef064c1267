"""What a stranger's layer costs, with nothing declared: two counts that agree, or a bound that names what it lacks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers import DiffAttention
from timm.models import maxxvit, pvt_v2
from timm.models.convnext import ConvNeXtBlock
from timm.models.efficientvit_mit import LiteMLA
from timm.models.mlp_mixer import SpatialGatingUnit
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention, window_partition, window_reverse
from timm.models.volo import OutlookAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.flop_counter import FlopCounterMode

import mixers
from mixers import MixerError, counting
from mixers.base import Grid, to_map, to_tokens
from wfbench import models
from wfbench.measure import CountError, FlopCount, count_flops
from wfbench.measure.prices import einsum_macs
from wfbench.tasks.common import counted_fields, try_count
from wfbench.tasks.profile import summary
from wfbench.tasks.verify.cost import measured_complexity

B, N, C, GRID = 2, 15, 4, (3, 5)
Forward = Callable[["Layer", Tensor], Tensor]


class Layer(nn.Module):
    """A function of tokens (B, N, C) = (2, 15, 4), with a weight of 4×4."""

    def __init__(self, forward: Forward, **modules: nn.Module) -> None:
        super().__init__()
        self.run, self.weight = forward, nn.Parameter(torch.randn(C, C))
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self, to_tokens(images))


def counted(forward: Forward, **modules: nn.Module) -> FlopCount:
    """Of the whole batch of two."""
    return count_flops(Layer(forward, **modules), (B, C, *GRID))


def image(x: Tensor) -> Tensor:
    return x.mT.unflatten(2, GRID)  # (2, 4, 3, 5)


def heads(x: Tensor) -> Tensor:
    return x.unflatten(2, (2, 2)).transpose(1, 2)  # (2, 2, 15, 2)


def zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x, dtype=torch.long)


def spd(x: Tensor) -> Tensor:
    return x.mT @ x + torch.full((C, C), 9.0, device=x.device).diag_embed()[0]


E = N * C  # elements of one image's tokens
SORTED = C * round(N * math.log2(N))
#: (what, MACs, elementwise operations) of one image, by hand.
OPERATORS: dict[str, tuple[Forward, int, int]] = {
    "cumsum": (lambda s, x: x.cumsum(1), 0, E),
    "cumprod": (lambda s, x: x.cumprod(1), 0, E),
    "logcumsumexp": (lambda s, x: x.logcumsumexp(1), 0, 4 * E),
    "topk": (lambda s, x: x.topk(3, dim=1)[0], 0, E + C * round(3 * math.log2(3))),
    "sort": (lambda s, x: x.sort(1)[0], 0, SORTED),
    "argsort": (lambda s, x: x.argsort(1), 0, SORTED),
    "max over a dimension": (lambda s, x: x.max(1)[0], 0, E),
    "max of two": (lambda s, x: torch.max(x, x), 0, E),
    "argmax": (lambda s, x: x.argmax(1), 0, E),
    "logsumexp": (lambda s, x: x.logsumexp(1), 0, 4 * E),
    "prod": (lambda s, x: x.prod(1), 0, E),
    "any": (lambda s, x: x.any(1), 0, E),
    "index_put": (lambda s, x: x.clone().index_put((zeros(x[:, 0, 0]),), x[:1]), 0, 0),
    "index_put that adds": (lambda s, x: x.clone().index_put((zeros(x[:, 0, 0]),), x[:1], accumulate=True), 0, E),
    "an assignment": (lambda s, x: x.clone().__setitem__((0, 0), 1.0) or x, 0, 0),
    "index_add": (lambda s, x: x.index_add(1, zeros(x[0, :2, 0]), x[:, :2]), 0, 2 * C),
    "scatter": (lambda s, x: x.scatter(1, zeros(x), x), 0, 0),
    "scatter that adds": (lambda s, x: torch.scatter(x, 1, zeros(x), x, reduce="add"), 0, E),
    "scatter_add": (lambda s, x: x.scatter_add(1, zeros(x), x), 0, E),
    "scatter_reduce": (lambda s, x: x.scatter_reduce(1, zeros(x), x, reduce="amax"), 0, E),
    "one_hot": (lambda s, x: F.one_hot(x.argmax(-1), C), 0, E + E),  # argmax, and a comparison for each class
    "unfold and fold": (lambda s, x: F.fold(F.unfold(image(x), 3, padding=1), GRID, 3, padding=1), 0, 9 * E),
    "roll": (lambda s, x: x.roll(1, 1), 0, 0),
    "max pooling": (lambda s, x: F.max_pool2d(image(x), 3, 1, 1), 0, 9 * E),
    "max pooling of a sequence": (lambda s, x: F.max_pool1d(x.mT, 3, 1, 1), 0, 3 * E),
    "average pooling": (lambda s, x: F.avg_pool2d(image(x), 3, 1, 1), 0, 9 * E),
    # Windows of 2 and 2 rows, and of 3 and 3 columns: they overlap.
    "adaptive average pooling": (lambda s, x: F.adaptive_avg_pool2d(image(x), 2), 0, C * 4 * 6),
    "adaptive max pooling": (lambda s, x: F.adaptive_max_pool2d(image(x), 2), 0, C * 4 * 6),
    "nearest": (lambda s, x: F.interpolate(image(x), scale_factor=2, mode="nearest"), 0, 0),
    "nearest-exact": (lambda s, x: F.interpolate(image(x), scale_factor=2, mode="nearest-exact"), 0, 0),
    "linear": (lambda s, x: F.interpolate(x.mT, size=8, mode="linear"), 0, 2 * C * 8),
    "bilinear": (lambda s, x: F.interpolate(image(x), scale_factor=2, mode="bilinear"), 0, 4 * 4 * E),
    "bicubic": (lambda s, x: F.interpolate(image(x), scale_factor=2, mode="bicubic"), 0, 16 * 4 * E),
    "trilinear": (lambda s, x: F.interpolate(image(x).unsqueeze(2), size=(2, 3, 5), mode="trilinear"), 0, 8 * 2 * E),
    "area": (lambda s, x: F.interpolate(image(x), size=2, mode="area"), 0, C * 4 * 6),
    "grid_sample": (
        lambda s, x: F.grid_sample(image(x), x[..., :2].unflatten(1, GRID), align_corners=False),
        0,
        4 * E,
    ),
    "logsigmoid": (lambda s, x: F.logsigmoid(x), 0, E),
    "prelu": (lambda s, x: F.prelu(x.mT, s.weight[0]), 0, E),
    # Two norms, which are held above 0 and divided by; a product and a sum.
    "cosine_similarity": (lambda s, x: F.cosine_similarity(x, x, dim=-1), 0, 2 * (2 * E + N + E) + 2 * E),
    "instance_norm": (lambda s, x: F.instance_norm(x.mT), 0, 5 * E),
    "eye": (lambda s, x: torch.eye(C, device=x.device).expand(B, C, C) * x[:, :C], 0, C * C),
    "softmax with a table": (lambda s, x: (x @ s.weight).softmax(-1), E * C, 5 * E),
    "a product with a vector": (lambda s, x: x @ s.weight[0], E, 0),
    "tensordot": (lambda s, x: torch.tensordot(x, s.weight, dims=([2], [0])), E * C, 0),
    "addbmm": (lambda s, x: torch.addbmm(s.weight, x.mT, x), E * C, C * C // 2),
    # A of 4×4, 15 right-hand sides: 1 + 4 + 9 for the elimination, twice 6 each for the solves; 6 divisions and 1 each.
    "solve": (lambda s, x: torch.linalg.solve(spd(x), x.mT), E * C + 14 + 15 * 12, 16 + 6 + E),
    "inv": (lambda s, x: torch.linalg.inv(spd(x)), E * C + 14 + 4 * 12, 16 + 6 + 16),
    "cholesky": (lambda s, x: torch.linalg.cholesky(spd(x)), E * C + 10, 16 + 6 + 4),
    "triangular solve": (lambda s, x: torch.linalg.solve_triangular(x[:, :C], x.mT, upper=True), 15 * 6, E),
    "cholesky_solve": (lambda s, x: torch.cholesky_solve(x.mT, x[:, :C]), 15 * 12, 2 * E),
    "det": (lambda s, x: torch.linalg.det(x[:, :C]), 14, 6 + 4),
    "fft": (lambda s, x: torch.fft.fft(x, dim=-1).real, 0, N * 5 * C * 2),
    "rfft2": (lambda s, x: torch.fft.rfft2(image(x)).real, 0, C * round(5 * N * math.log2(N))),
    "fftshift": (lambda s, x: torch.fft.fftshift(x), 0, 0),
    "complex parameters": (
        lambda s, x: (torch.complex(x, x) @ torch.complex(s.weight, s.weight)).real,
        4 * E * C,
        0,
    ),
    "attention": (lambda s, x: F.scaled_dot_product_attention(*[heads(x)] * 3), 2 * N * E, 5 * 2 * N * N + 2 * E),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_costs_what_a_pencil_gives_by_two_counts(name: str) -> None:
    forward, macs, elementwise = OPERATORS[name]
    count = counted(forward)
    assert (count.sure, count.unknown, count.elementwise_unknown) == ("counted", (), ())
    assert count.counts == {"flop_counter": macs, "fvcore": macs}
    assert (count.macs, count.elementwise) == (macs, elementwise)
    assert sum(count.elementwise_by_operator.values()) == elementwise


@pytest.mark.parametrize(
    ("module", "macs"),
    [
        # Gates, by input and by state, of two directions; the second layer reads both.
        (nn.GRU(C, 6, num_layers=2, bidirectional=True, batch_first=True), N * 2 * 3 * 6 * (4 + 6 + 12 + 6)),
        (nn.LSTM(C, 8, proj_size=3, batch_first=True), N * (4 * 8 * (4 + 3) + 8 * 3)),
        (nn.RNN(C, 5, batch_first=True), N * 5 * (4 + 5)),
    ],
    ids=["GRU", "LSTM", "RNN"],
)
def test_a_recurrent_layer_is_counted_whole_and_in_parts(module: nn.Module, macs: int) -> None:
    count = counted(lambda s, x: s.layer(x)[0], layer=module)
    assert count.counts == {"flop_counter": macs, "fvcore": macs}
    assert count.elementwise > 0
    assert count.elementwise_unknown == ()


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention_has_its_macs_whatever_its_fast_path(need_weights: bool) -> None:
    attention = nn.MultiheadAttention(C, 2, batch_first=True)
    count = counted(lambda s, x: s.layer(x, x, x, need_weights=need_weights)[0], layer=attention)
    assert set(count.counts.values()) == {4 * E * C + 2 * N * E}
    assert (count.sure, len(count.counts)) == ("counted", 2)
    encoder = nn.TransformerEncoderLayer(C, 2, 8, batch_first=True)
    assert counted(lambda s, x: s.layer(x), layer=encoder).macs == 4 * E * C + 2 * N * E + 2 * E * 8
    assert torch.backends.mha.get_fastpath_enabled()


def causal(x: Tensor) -> Tensor:
    return torch.ones(N, N, dtype=torch.bool, device=x.device)


@pytest.mark.parametrize(
    "attend",
    [
        lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3, attn_mask=causal(x)),
        lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3, attn_mask=causal(x).float()),
        lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3, is_causal=True),
        lambda x: F.scaled_dot_product_attention(heads(x), heads(x)[:, :1], heads(x)[:, :1], enable_gqa=True),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=causal(x)),
        lambda x: F.scaled_dot_product_attention(heads(x)[:1], heads(x), heads(x)),
        lambda x: flex_attention(*[heads(x)] * 3),
        lambda x: flex_attention(
            *[heads(x)] * 3,
            score_mod=lambda score, b, h, q, k: score + q - k,
            block_mask=create_block_mask(lambda b, h, q, k: q >= k, None, None, N, N, device=x.device),
        ),
    ],
    ids=["bool mask", "float mask", "causal", "grouped", "without heads", "one query batch", "flex", "flex with a mask"],
)
@pytest.mark.parametrize("fused", [True, False])
def test_attention_counts_the_same_whatever_its_mask_by_both_counters(attend: Callable, fused: bool) -> None:
    count = count_flops(Layer(lambda s, x: attend(x)), (B, C, *GRID), fused_attention=fused)
    assert count.counts == {"flop_counter": 2 * N * E, "fvcore": 2 * N * E}
    assert count.elementwise_unknown == ()


EQUATIONS = [
    ("bnc,bmc->bnm", [(2, 5, 3), (2, 7, 3)], 2 * 5 * 7 * 3),
    ("bnc,c->bnc", [(2, 5, 3), (3,)], 0),  # a pointwise product
    ("bnc,c->bn", [(2, 5, 3), (3,)], 2 * 5 * 3),
    ("bnc,bmc->bm", [(2, 5, 3), (2, 7, 3)], 2 * 7 * 3),  # n is summed out before
    ("nn,nc->c", [(5, 5), (5, 3)], 5 * 3),  # the diagonal
    ("...nc,cd", [(2, 4, 5, 3), (3, 7)], 2 * 4 * 5 * 3 * 7),
    ("bnc,bmc->bnm", [(1, 5, 3), (2, 7, 3)], 2 * 5 * 7 * 3),  # sides of 1 broadcast
    ("bnc,bmc->bnm", [(2, 5, 1), (2, 7, 3)], 0),  # c, of one only, is summed out before: an outer product
    ("bnc,cd,de->bne", [(2, 5, 3), (3, 7), (7, 4)], 2 * 5 * 3 * 7 + 2 * 5 * 7 * 4),
    ("ab,bc,cd,de->ae", [(2, 3), (3, 5), (5, 7), (7, 4)], 2 * 3 * 5 + 2 * 5 * 7 + 2 * 7 * 4),  # from left to right
    ("bn->b", [(2, 5)], 0),
]


@pytest.mark.parametrize(("equation", "shapes", "macs"), EQUATIONS, ids=[e for e, *_ in EQUATIONS])
def test_an_einsum_costs_the_products_that_run(equation: str, shapes: list[tuple[int, ...]], macs: int) -> None:
    with FlopCounterMode(display=False) as counter:
        torch.einsum(equation, *(torch.zeros(shape, device="meta") for shape in shapes))
    assert counter.get_total_flops() == 2 * macs
    assert einsum_macs(equation, shapes) == macs


def test_random_einsums_cost_the_products_that_run() -> None:
    draw = random.Random(0)
    for _ in range(300):
        sizes = {label: draw.choice([1, 2, 3, 5]) for label in "abcde"}
        terms = ["".join(draw.choices("abcde", k=draw.randint(1, 4))) for _ in range(draw.randint(1, 4))]
        once = sorted(set("".join(terms)))
        equation = f"{','.join(terms)}->{''.join(draw.sample(once, draw.randint(0, len(once))))}"
        narrow = [{c: 1 if draw.random() < 0.2 else sizes[c] for c in term} for term in terms]
        shapes = [[sides[c] for c in term] for term, sides in zip(terms, narrow, strict=True)]
        with FlopCounterMode(display=False) as counter:
            torch.einsum(equation, *(torch.zeros(shape, device="meta") for shape in shapes))
        assert counter.get_total_flops() == 2 * einsum_macs(equation, shapes), (equation, shapes)


def test_an_einsum_of_a_mixer_is_exact_where_numpys_figure_is_rounded() -> None:
    count = count_flops(Layer(lambda s, x: torch.einsum("bnc,cd,bmd->bnm", x, s.weight, x)), (1, C, 64, 32))
    n = 64 * 32
    assert set(count.counts.values()) == {n * C * C + n * n * C}


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return (x @ weight).cumsum(1), x.sigmoid()

    @staticmethod
    def backward(ctx, *grads):
        return None, None


class Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return Swish.apply(x, weight)[0] @ weight

    @staticmethod
    def backward(ctx, grad):
        return None, None


apply = Outer.apply  # bound before anybody counts


def test_a_function_with_a_gradient_of_its_own_is_looked_into() -> None:
    count = counted(lambda s, x: apply(x, s.weight))
    assert count.counts == {"flop_counter": 2 * E * C, "fvcore": 2 * E * C}
    assert (count.sure, count.elementwise) == ("counted", 2 * E)
    twice = counted(lambda s, x: apply(apply(x, s.weight), s.weight) + Swish.apply(x, s.weight)[1])
    assert twice.counts == {"flop_counter": 5 * E * C, "fvcore": 5 * E * C}


class Tables(nn.Module):
    """Keeps what it made at its first call, in one of the places where layers do."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place, self.table, self.tables, self.holder = place, None, {}, type("Holder", (), {})()
        self.weight = nn.Parameter(torch.ones(C, dtype=torch.complex64))

    def made(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if self.place == "attribute":
            self.table = torch.arange(n, device=x.device) if self.table is None else self.table
            return self.table
        if self.place == "made on the CPU":
            self.table = torch.arange(n) if self.table is None else self.table
            return self.table
        if self.place == "dict":
            return self.tables.setdefault(n, (torch.arange(n, device=x.device),))[0]
        if self.place == "object":
            vars(self.holder).setdefault("kept", torch.arange(n, device=x.device))
            return self.holder.kept
        if self.place == "buffer":
            if not hasattr(self, "late"):
                self.register_buffer("late", torch.arange(n, device=x.device), persistent=False)
            return self.late
        return torch.from_numpy(x.mean((0, 2)).numpy())

    def forward(self, images: Tensor) -> Tensor:
        x = to_tokens(images)
        return (x * self.made(x)[:, None]).mT @ x * self.weight.real


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "after a call"])
@pytest.mark.parametrize("place", ["attribute", "made on the CPU", "dict", "object", "buffer", "numpy"])
def test_what_a_layer_keeps_for_itself_is_counted_with_and_left_alone(place: str, warm: bool) -> None:
    layer, images = Tables(place).eval(), torch.randn(B, C, *GRID)
    before = layer(images) if warm else None
    names = dict(layer.named_buffers()).keys()
    count = count_flops(layer, (B, C, *GRID))
    assert (count.sure, count.counts) == ("counted", {"flop_counter": E * C, "fvcore": E * C})
    assert dict(layer.named_buffers()).keys() == names
    assert layer.table is None or (warm and layer.table.device.type == "cpu")
    after = layer(images)
    assert before is None or torch.equal(after, before)
    assert layer.tables == {} or layer.tables[N][0].device.type == "cpu"


@torch.library.custom_op("wfbench_counting::scan", mutates_args=())
def scan(x: Tensor, a: Tensor, steps: int = 3) -> Tensor:
    return x.clone()


@scan.register_fake
def _(x, a, steps=3):
    return torch.empty_like(x)


@torch.library.custom_op("wfbench_counting::only_real", mutates_args=())
def only_real(x: Tensor) -> Tensor:
    return x.clone()


@pytest.fixture
def own_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_PRICES", {})


def test_an_unknown_operator_leaves_a_bound_that_names_it(own_prices: None) -> None:
    count = counted(lambda s, x: torch.ops.wfbench_counting.scan(x @ s.weight, s.weight).erfinv())
    assert (count.sure, count.macs, count.number, count.elementwise) == ("at least", E * C, None, 0)
    assert count.unknown == ("wfbench_counting::scan in the model itself", "aten::erfinv in the model itself")
    assert count.why_bound == f"unknown operator: {', '.join(count.unknown)}"
    assert count.elementwise_unknown == ("aten::erfinv", "wfbench_counting::scan")


def test_an_operator_is_priced_by_whoever_brings_it(own_prices: None) -> None:
    seen = []

    @mixers.counts("wfbench_counting::scan")
    def price(args, out):
        x, a, steps = args
        seen.append((tuple(x.shape), tuple(a.shape), steps, tuple(out.shape)))
        return steps * x.numel() * a.shape[1], 7 * out.numel()

    mixers.counts("aten::erfinv")(lambda args, out: (0, out.numel()))
    forward: Forward = lambda s, x: torch.ops.wfbench_counting.scan(x @ s.weight, s.weight).erfinv()  # noqa: E731
    count = counted(forward)
    assert count.counts == {"flop_counter": 4 * E * C, "fvcore": 4 * E * C}
    assert (count.sure, count.elementwise, count.by_operator["wfbench_counting.scan"]) == ("counted", 8 * E, 3 * E * C)
    assert set(seen) == {((B, N, C), (C, C), 3, (B, N, C))}


def test_an_operator_without_a_form_for_the_meta_device_is_counted_on_the_cpu(own_prices: None) -> None:
    mixers.counts("wfbench_counting::only_real")(lambda args, out: (out.numel(), 0))
    assert counted(lambda s, x: torch.ops.wfbench_counting.only_real(x @ s.weight)).macs == E * C + E


@pytest.mark.parametrize(
    ("price", "said"),
    [
        (lambda args, out: (1.5, 2), r"got \(1.5, 2\), expected two ints"),
        (lambda args, out: (-1, 2), r"got \(-1, 2\)"),
        (lambda args, out: 3, "TypeError"),
        (lambda args, out: args[7], "IndexError"),
    ],
)
def test_a_price_that_is_none_is_an_error(own_prices: None, price: Callable, said: str) -> None:
    mixers.counts("wfbench_counting::scan")(price)
    with pytest.raises(CountError, match=rf"wfbench_counting::scan given by mixers\.counts.*{said}"):
        counted(lambda s, x: torch.ops.wfbench_counting.scan(x, s.weight))


@pytest.mark.parametrize("name", ["scan", "mylib.scan", "mylib::scan.default", "::scan", "my lib::scan"])
def test_a_price_needs_the_name_of_an_operator(name: str) -> None:
    with pytest.raises(MixerError, match="not the name of an operator"):
        mixers.counts(name)


def test_two_counters_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfbench.measure.flops.einsum_macs", lambda *a: 1)
    with pytest.raises(CountError, match=r"FlopCounterMode counts 480 \(aten\.bmm 480\), fvcore 1"):
        counted(lambda s, x: torch.einsum("bnc,cd->bnd", x, s.weight))


def test_a_bound_by_one_counter_alone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untraceable(Layer):
        def forward(self, images: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                raise RuntimeError("not under a trace")
            return super().forward(images)

    count = count_flops(Untraceable(lambda s, x: x @ s.weight), (B, C, *GRID))
    assert (count.sure, count.macs, count.unknown) == ("at least", E * C, ())
    assert count.why_bound is not None
    assert "one counter alone" in count.why_bound
    assert "not under a trace" in count.why_bound


def test_a_large_image_is_traced_where_memory_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfbench.measure.flops.FVCORE_MOST_PIXELS", 0)
    assert counted(lambda s, x: x @ s.weight).counts == {"flop_counter": E * C, "fvcore": E * C}
    monkeypatch.setattr("wfbench.measure.flops.FVCORE_MOST_BYTES", 100)
    count = counted(lambda s, x: x @ s.weight)
    assert (count.sure, count.counts) == ("at least", {"flop_counter": E * C})


def mine(tmp_path: Path, body: str, methods: str = "") -> str:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Mine(nn.Module):\n    def __init__(self, dim):\n"
        "        super().__init__()\n        self.a = nn.Linear(dim, dim, bias=False)\n\n"
        f"    def forward(self, x, grid):\n        return {body}\n{methods}"
    )
    return f"{tmp_path}/mine.py:Mine"


SMALL = {"image_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
DECLARED = "\n    def macs(self, grid, batch=1, path='released'):\n        return batch * grid[0] * grid[1] * 48 * 48{more}\n"
KNOWN = 16 * (3 * 256 * 48 + 2 * (48 * 48 + 2 * 48 * 192)) + 10 * 48


def test_a_declared_mixer_is_proved_and_another_counted(tmp_path: Path) -> None:
    found = [
        count_flops(models.create("vit-tiny", mixer=mine(tmp_path, "self.a(x)", methods), **SMALL), (1, 3, 64, 64))
        for methods in ("", DECLARED.format(more=""))
    ]
    assert [count.sure for count in found] == ["counted", "proved"]
    assert [sorted(count.counts) for count in found] == [["flop_counter", "fvcore"], ["declared", "flop_counter", "fvcore"]]
    assert [count.macs for count in found] == [KNOWN, KNOWN]
    assert found[0].by_module == found[1].by_module


def test_a_row_never_has_a_bound_in_the_field_of_a_number(tmp_path: Path) -> None:
    sizes = (1, 3, 64, 64)
    proved, counted, bound = (
        models.create("vit-tiny", mixer=mine(tmp_path, mix, methods), **SMALL)
        for mix, methods in (("self.a(x)", DECLARED.format(more="")), ("self.a(x)", ""), ("self.a(x).erfinv()", ""))
    )
    rows = [summary.counted(*try_count(model, sizes), 1) for model in (proved, counted, bound)]
    assert [row["macs_sure"] for row in rows] == ["proved", "counted", "at least"]
    assert [row["macs"] for row in rows] == [KNOWN, KNOWN, None]
    assert [row["macs_at_least"] for row in rows] == [None, None, KNOWN]
    assert [row["macs_error"] for row in rows] == [
        None,
        None,
        "unknown operator: aten::erfinv in blocks.0.mixer (and 1 modules more)",
    ]
    assert rows[2]["activations"] is None
    assert "elementwise" not in rows[2]
    assert rows[2]["elementwise_at_least"] == rows[1]["elementwise"]
    wrong = models.create("vit-tiny", mixer=mine(tmp_path, "self.a(x)", DECLARED.format(more=" + 1")), **SMALL)
    row = counted_fields(*try_count(wrong, sizes))
    assert (row["macs"], row.get("macs_at_least"), row.get("macs_sure")) == (None, None, None)
    assert "disagree" in row["macs_error"]


def test_an_unknown_operator_lets_a_declaration_be_more_but_not_less(tmp_path: Path) -> None:
    model = models.create("vit-tiny", mixer=mine(tmp_path, "self.a(x).erfinv()", DECLARED.format(more=" + 1000")), **SMALL)
    count = count_flops(model, (1, 3, 64, 64))
    assert (count.sure, count.macs) == ("at least", KNOWN)
    assert count.unknown == ("aten::erfinv in blocks.0.mixer (and 1 modules more)",)
    model = models.create("vit-tiny", mixer=mine(tmp_path, "self.a(x).erfinv()", DECLARED.format(more=" - 1")), **SMALL)
    with pytest.raises(CountError, match=r"disagree: blocks\.0\.mixer"):
        count_flops(model, (1, 3, 64, 64))


def test_a_wrong_declaration_elsewhere_is_seen_beside_an_unknown_operator(tmp_path: Path) -> None:
    model = models.create("vit-tiny", mixer=mine(tmp_path, "self.a(x).erfinv()", DECLARED.format(more="")), **SMALL)
    right = model.declared_macs
    model.declared_macs = lambda *a: right(*a) | {"head": 481}
    with pytest.raises(CountError, match=r"disagree: head"):
        count_flops(model, (1, 3, 64, 64))


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("self.a(x)", "N^1.00 (measured)"),
        ("(lambda r: ((r @ r.mT) @ r).flatten(1, 2))(x.unflatten(1, grid))", "N^1.50 (measured)"),
        ("(x @ x.mT) @ x", "N^2.00 (measured)"),
        ("x.missing", "undeclared"),
    ],
)
def test_a_complexity_that_is_not_declared_is_measured(tmp_path: Path, mix: str, said: str) -> None:
    assert measured_complexity(mine(tmp_path, mix)) == said


# --- layers of others, as a user would plug them in


class Swin(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = SwinTransformerBlock(dim, (8, 8), 3, window_size=4, shift_size=2, dynamic_mask=True)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.block(x.unflatten(1, grid)).flatten(1, 2)


class OnMaps(nn.Module):
    """A layer of feature maps (B, C, H, W)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return to_tokens(self.layer(to_map(x, grid)))


class OnGrids(OnMaps):
    """A layer of maps with the channels last (B, H, W, C)."""

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.layer(x.unflatten(1, grid)).flatten(1, 2)


class OnTokens(OnMaps):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.layer(x)


class Windows(OnMaps):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        windows = window_partition(x.unflatten(1, grid), (4, 4)).flatten(1, 2)
        return window_reverse(self.layer(windows).unflatten(1, (4, 4)), (4, 4), *grid).flatten(1, 2)


class Reduced(OnMaps):
    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return self.layer(x, grid)


CFG = maxxvit.MaxxVitTransformerCfg(dim_head=16, window_size=(4, 4), grid_size=(4, 4))
D, TOKENS = 48, 64
PROJECTIONS = 4 * TOKENS * D * D
#: name: the layer, its MACs by hand where a line says them.
ZOO: dict[str, tuple[Callable[[], nn.Module], int | None]] = {
    "Swin, one window": (lambda: Windows(WindowAttention(D, 3, window_size=4)), PROJECTIONS + 2 * TOKENS * 16 * D),
    "Swin, shifted block": (lambda: Swin(D), PROJECTIONS + 2 * TOKENS * 16 * D + 8 * TOKENS * D * D),
    "ConvNeXt": (lambda: OnMaps(ConvNeXtBlock(D)), TOKENS * D * 49 + 8 * TOKENS * D * D),
    "gMLP": (
        lambda: OnTokens(nn.Sequential(nn.Linear(D, 2 * D), SpatialGatingUnit(2 * D, TOKENS))),
        2 * TOKENS * D * D + TOKENS**2 * D,
    ),
    "PVTv2": (lambda: Reduced(pvt_v2.Attention(D, 3, sr_ratio=2)), 2 * TOKENS * D * D + 6 * 16 * D * D + 2 * TOKENS * 16 * D),
    "PVTv2, linear": (lambda: Reduced(pvt_v2.Attention(D, 3, linear_attn=True)), None),
    "LiteMLA": (lambda: OnMaps(LiteMLA(D, D, dim=16)), None),
    "VOLO": (lambda: OnGrids(OutlookAttention(D, 3)), None),
    "DiffAttention": (lambda: OnTokens(DiffAttention(D, 3)), PROJECTIONS + 3 * TOKENS**2 * D),
    "CoAtNet": (
        lambda: OnMaps(maxxvit.TransformerBlock2d(D, D, cfg=CFG)),
        PROJECTIONS + 2 * TOKENS**2 * D + 8 * TOKENS * D * D,
    ),
    "MaxViT": (
        lambda: OnGrids(maxxvit.PartitionAttentionCl(D, cfg=CFG)),
        PROJECTIONS + 2 * TOKENS * 16 * D + 8 * TOKENS * D * D,
    ),
}


class Alone(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(to_tokens(x), (x.shape[2], x.shape[3]))


@pytest.mark.parametrize("name", ZOO)
def test_a_public_layer_is_counted_as_it_is(name: str) -> None:
    make, macs = ZOO[name]
    layer = Alone(make()).eval()
    count = count_flops(layer, (2, D, 8, 8))
    assert (count.sure, count.elementwise_unknown) == ("counted", ())
    assert count.counts == {"flop_counter": count.macs, "fvcore": count.macs}
    assert macs is None or count.macs == macs
    assert layer(torch.randn(1, D, 8, 8)).isfinite().all()
