"""What a mixer is: the contract, its description, and the few pieces that all mixers share.

A **MAC** is one multiply-add inside a matmul, bmm, einsum contraction, SDPA, convolution, or a solve or factorisation of
`torch.linalg`; a complex one is four. Everything else is **elementwise work**, counted as

- 1 per output element of a pointwise operation (an addition, an exponential, an activation, a bias),
- 1 per input element of a sum, a mean, a maximum, a running sum and the like, 2 per input element of a 2-norm,
  4 of a log-sum-exp,
- 5 per element of a normalisation or a softmax,
- 1 per element inside each window of a pooling, an interpolation or a sampling, and per element that is added somewhere,
- n log₂ n for a sort of n elements, rounded to an integer,
- 5 n log₂ n for a Fourier transform of n elements, rounded to an integer.

Reshapes, copies and indexing are free in both. Standard symbols: B batch, N tokens, C channels, H×W grid, h heads,
d = C/h head dimension, D output features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Grid = tuple[int, int]
#: Turns (B, h, N, d) by position, or leaves it alone.
Turn = Callable[[Tensor], Tensor]

#: Named orders of evaluation. "auto" is the one that runs; a mixer with a single order ignores the name.
PATHS = ("released", "core", "rank", "token", "fold", "auto")


class MixerError(ValueError):
    """Bad input to a mixer, said in full: what was wrong, what was got, what was expected, and the remedy.

    As text it is one line, "what: got G, expected E; remedy". A remedy that asks ("did you mean X?") stands before what was
    expected, which may be a long list. The parts are attributes, of which the command line makes lines.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str | None = None) -> None:
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        said = [f"{word} {value}" for word, value in (("got", got), ("expected", expected)) if value is not None]
        asks = remedy is not None and remedy.endswith("?") and len(said) == 2
        line = f"{said[0]}; {remedy} {said[1]}" if asks else ", ".join(said)
        whole = f"{what}: {line}" if said else what
        super().__init__(whole if remedy is None or asks else f"{whole}; {remedy}")


@runtime_checkable
class TokenMixer(Protocol):
    """The contract of a token mixer of this package; ``torch.nn.Module`` supplies ``__call__``.

    A mixer from elsewhere needs `forward` alone: what it does not declare is counted.
    """

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix the tokens ``x: (B, N, C)`` of a grid H×W (N = H·W, row by row) into ``(B, N, C)``."""
        ...

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """MACs of one forward pass over the whole batch, exactly, by arithmetic alone."""
        ...

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Elementwise operations of one forward pass over the whole batch (see this module's docstring)."""
        ...


class PredictingLayer(Protocol):
    """What a layer may offer beside `forward`, where part of its weights is predicted from its input.

    Of either slot, and by duck typing: nothing needs to be inherited. With it, `wfbench ablate` can take the predicted part
    away, and rows of trainings say how strong it is. For every x, ``with_prediction(x, grid, predicted(x, grid))`` is the
    layer's output, up to rounding, and ``without_prediction(x, grid)`` what zeros in its place give. A layer that has the
    methods and, by its options, nothing to predict has an attribute ``has_prediction`` that is False.
    """

    def predicted(self, x: Tensor, grid: Grid) -> Tensor:
        """What is predicted from the tokens ``x: (B, N, C)``, image by image: (B, ...)."""
        ...

    def with_prediction(self, x: Tensor, grid: Grid, prediction: Tensor) -> Tensor:
        """The layer's output where the prediction is this one, of (B, ...), whatever ``x`` would predict."""
        ...

    def without_prediction(self, x: Tensor, grid: Grid) -> Tensor:
        """The layer's output where the prediction is zero."""
        ...


def has_prediction(layer: object) -> bool:
    """Whether part of a layer's weights is predicted from its input, and it has the methods of `PredictingLayer`."""
    methods = ("predicted", "with_prediction", "without_prediction")
    return all(callable(getattr(layer, name, None)) for name in methods) and bool(getattr(layer, "has_prediction", True))


def exponent_of(complexity: str) -> float | None:
    """k of a declared complexity N^k, which "linear" and "quadratic" are too; None for another, or none."""
    named = {"linear": 1.0, "quadratic": 2.0}.get(complexity)
    power = re.fullmatch(r"N\^(\d+(?:\.\d+)?)", complexity)
    return float(power[1]) if power else named


#: What a spec may declare; "undeclared" is for a class that carries no spec.
_DECLARED = {
    "complexity": ("linear", "N log N", "quadratic", "undeclared"),
    "layout": ("set", "sequence", "grid"),
    "doubling": ("invariant", "sensitive"),
}


@dataclass(frozen=True)
class Schedule:
    """Which layers carry a mixer, and what fills the others.

    Layer i is active when ``i % every == offset``: it carries the mixer. The others hold what the mixer ``between`` has in
    its active layers, or, without one, the mixer's own ``off_token`` and ``off_ffn_in``.
    """

    every: int = 1
    offset: int = 0
    between: str | None = None

    def active(self, layer: int) -> bool:
        """Whether layer ``layer`` (from 0) carries the mixer."""
        return layer % self.every == self.offset

    def filler(self, mixer: str, layer: int) -> tuple[str, bool]:
        """Whose layers stand in layer ``layer``, as `create` takes it: a mixer's name, and whether it is active there."""
        if self.active(layer) or self.between is None:
            return mixer, self.active(layer)
        return self.between, True


@dataclass(frozen=True)
class MixerSpec:
    """How a mixer fills the skeleton's two slots, layer by layer, and what its docstring promises.

    ``every`` and ``offset`` are its own `Schedule`, which a model may replace. ``token`` and ``ffn_in`` name the layers that
    fill the token-mixer slot and the FFN's first Linear in an active layer, ``off_token`` and ``off_ffn_in`` those of the
    other layers. A token layer may also be given as the class itself, which is how a mixer from outside the package comes in.
    ``token_options`` and ``ffn_options`` go to the two layers of an active layer, unless the caller says otherwise.

    What the checks hold a mixer to:

    - ``complexity``: "linear", "N log N", "quadratic" or a power, as "N^1.5", in the number of tokens; no cost may grow
      faster. "undeclared" leaves it to be measured.
    - ``layout``: what the tokens are to the token layer, with its default options. "set": their order does not matter
      (permuted tokens give the permuted output). "sequence": their order does, the shape of the grid does not. "grid":
      their place on the grid does.
    - ``as_set``: options that make it a function of a set, where it is none by default and can be; None otherwise.
    - ``doubling``: what becomes of that function of a set when every token comes twice: "invariant" (weights that sum to
      one do not notice) or "sensitive" (a sum does).
    - ``rotary``: has q and k, and takes ``rope=True`` to turn them by their place on the grid.
    - ``trains_otherwise``: in training it computes something else than in evaluation, beyond dropout and BatchNorm.
    """

    name: str
    token: str | type[nn.Module]
    complexity: str
    formula: str
    source: str
    status: str
    ffn_in: str = "linear"
    off_token: str | None = None
    off_ffn_in: str = "linear"
    every: int = 1
    offset: int = 0
    prefix_tokens: bool = False
    needs_grid: bool = False
    token_options: Mapping[str, object] = field(default_factory=dict, hash=False)
    ffn_options: Mapping[str, object] = field(default_factory=dict, hash=False)
    layout: Literal["set", "sequence", "grid"] | None = None
    as_set: Mapping[str, object] | None = field(default=None, hash=False)
    doubling: Literal["invariant", "sensitive"] | None = None
    rotary: bool = False
    trains_otherwise: bool = False

    def __post_init__(self) -> None:
        for field_name, known in _DECLARED.items():
            value = getattr(self, field_name)
            if value is None or value in known or (field_name == "complexity" and exponent_of(str(value)) is not None):
                continue
            allowed = ", ".join(known) + (", or a power, as N^1.5" if field_name == "complexity" else "")
            raise MixerError(
                f"mixer {self.name!r} declares an unknown {field_name}",
                got=repr(value),
                expected=f"one of {allowed}",
                remedy=f"declare one of these, or leave {field_name} out",
            )

    @property
    def schedule(self) -> Schedule:
        """The layers that carry the mixer where nothing else is chosen."""
        return Schedule(self.every, self.offset)

    def active(self, layer: int) -> bool:
        """Whether layer ``layer`` (from 0) carries the mixer by its own schedule."""
        return self.schedule.active(layer)


def check_path(path: str) -> None:
    """Refuse an evaluation path that does not exist.

    Raises:
        MixerError: naming the paths there are.
    """
    if path not in PATHS:
        raise MixerError(
            "unknown evaluation path", got=repr(path), expected=f"one of {', '.join(PATHS)}", remedy="choose one of these"
        )


@contextmanager
def evaluated_by(module: nn.Module, path: str) -> Iterator[None]:
    """Let every layer of ``module`` that has several exact orders of evaluation take the named one, for a while.

    Raises:
        MixerError: naming the paths there are.
    """
    check_path(path)
    layers = [layer for layer in module.modules() if getattr(layer, "path", None) in PATHS]
    before = [layer.path for layer in layers]
    try:
        for layer in layers:
            layer.path = path  # type: ignore[assignment]
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.path = own


def check_tokens(x: Tensor, grid: Grid, *, prefix_tokens: bool = False) -> None:
    """Refuse tokens that do not fill the grid: N must be H·W (or H·W + 1 where ``prefix_tokens``).

    Raises:
        MixerError: naming N, the grid and what would fit.
    """
    h, w = grid
    n = x.shape[1]
    if n == h * w or (prefix_tokens and n == h * w + 1):
        return
    allowed = f"{h * w} or {h * w + 1} (with a prefix token)" if prefix_tokens else f"{h * w}"
    raise MixerError(
        "tokens do not fill the grid",
        got=f"N = {n} tokens for a {h}x{w} grid",
        expected=allowed,
        remedy="pass the grid the tokens came from, without prefix tokens where the mixer takes none",
    )


def check_built_grid(grid: Grid, built: Grid, what: str) -> None:
    """Refuse another grid than the one a mixer's parameters were made for.

    Raises:
        MixerError: naming both grids.
    """
    if tuple(grid) != tuple(built):
        raise MixerError(
            f"{what} is made for one grid",
            got=f"{grid[0]}x{grid[1]}",
            expected=f"{built[0]}x{built[1]}",
            remedy="create the mixer (or the model, by its image_size) for the grid it will see",
        )


def needed_grid(grid: Grid | None, what: str) -> Grid:
    """The grid a mixer is built for.

    Raises:
        MixerError: if there is none.
    """
    if grid is None:
        raise MixerError(f"{what} has parameters for one grid", got="grid = None", expected="(H, W)", remedy="pass grid=(H, W)")
    return grid


def heads_of(dim: int, num_heads: int | None) -> int:
    """The number of heads: as given, or one per 64 channels.

    Raises:
        MixerError: if the heads do not divide ``dim``.
    """
    heads = max(1, dim // 64) if num_heads is None else num_heads
    if heads < 1 or dim % heads:
        divisors = [k for k in range(1, dim + 1) if dim % k == 0 and k <= 64]
        raise MixerError(
            "heads do not divide the dimension",
            got=f"num_heads = {heads} for dim = {dim}",
            expected=f"a divisor of {dim}",
            remedy=f"use one of {divisors}",
        )
    return heads


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """Tokens (B, H·W, C), row by row, as a feature map (B, C, H, W)."""
    # Not transpose and unflatten: at batch 1 the strides of that no longer say "channels last", and kernels copy.
    return x.unflatten(1, grid).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """A feature map (B, C, H, W) as tokens (B, H·W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Tokens (B, N, C) by head, (B, h, N, d): head i has channels i·d to (i + 1)·d."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def chunk_of(n: int, chunk: int) -> int:
    """The chunk that N tokens take: no longer than the next power of two."""
    return min(chunk, 1 << (n - 1).bit_length())


def pooling_windows(side: int, n: int) -> list[tuple[int, int]]:
    """Start and end of the n windows of adaptive average pooling along one side; they overlap by at most one."""
    return [(i * side // n, -(-(i + 1) * side // n)) for i in range(n)]


def init_linear_(*layers: nn.Module) -> None:
    """The ViT initialisation of Linear layers: truncated normal of std 0.02, zero bias."""
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class Linear(nn.Linear):
    """Y = X Wᵀ + b: the plain filling of the FFN-input slot.

    Shapes: X (B, N, C), W (D, C), b (D), Y (B, N, D). Cost: N·C·D MACs, N·D elementwise.
    The grid is accepted, as every filling of this slot must, and not used.
    """

    def __init__(self, in_features: int, out_features: int, *, grid: Grid | None = None) -> None:
        super().__init__(in_features, out_features)
        init_linear_(self)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:  # noqa: D102
        return super().forward(x)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released", *, prefix_tokens: int = 0) -> int:
        """Exact MACs of one forward pass over the batch."""
        check_path(path)
        return batch * (grid[0] * grid[1] + prefix_tokens) * self.in_features * self.out_features

    def elementwise(self, grid: Grid, batch: int = 1, *, prefix_tokens: int = 0) -> int:
        """Exact elementwise operations of one forward pass over the batch (the bias)."""
        return batch * (grid[0] * grid[1] + prefix_tokens) * self.out_features


def at_least_float32(x: Tensor) -> torch.dtype:
    """The dtype for steps that a half-precision tensor is too coarse for."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def normal_eps(eps: float, x: Tensor) -> float:
    """``eps``, or the smallest normal number of ``x``'s dtype where that is larger: never 0 nor subnormal in it."""
    return max(eps, torch.finfo(x.dtype).tiny)


def beyond_float16(x: Tensor) -> torch.dtype:
    """The dtype for steps whose values or sums leave the range of float16: float32 in its place, else ``x``'s own."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Steps on tensors of ``x``'s device that autocast must leave in their dtype."""
    kind = x.device.type  # autocast knows no meta device
    return torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda") else nullcontext()


def check_rotary(d: int) -> None:
    """Refuse a dimension that `rotary_2d` cannot turn, before there is anything to turn.

    Raises:
        MixerError: if 4 does not divide d.
    """
    if d % 4:
        raise MixerError(
            "rotary position needs a dimension that 4 divides",
            got=d,
            expected="a multiple of 4",
            remedy="choose num_heads so that dim / num_heads is one",
        )


def rotary_speeds(d: int, base: float, ends: bool) -> list[float]:
    """Angles per place of d/4 points: base^(-k/(d/4)), or with ``ends`` base^(-k/(d/4 - 1)), which ends at 1/base exactly."""
    n = d // 4
    return [base ** (-k / (max(n - 1, 1) if ends else n)) for k in range(n)]


def rotary_2d(x: Tensor, grid: Grid, base: float = 10000.0, ends: bool = False) -> Tensor:
    """Turn features by their token's place on the grid: rotary position in two dimensions.

    Features 2k and 2k + 1 are a point in the plane. For k < d/4 it is turned by row · base^(-k/(d/4)), for the others,
    k' = k - d/4, by column · base^(-k'/(d/4)). The product of two turned vectors depends on the difference of places only.
    ``ends`` chooses other angles, see `rotary_speeds`.

    Shapes: x (..., N, d), result the same; N = H·W, or more, with prefix tokens, which are not turned.
    Cost: 3 elementwise per turned element, and 3 (H + W) d/4 for the angles.
    Source: RoFormer (arXiv 2104.09864), equation 34, along two axes as in MILA (arXiv 2405.16605).

    Raises:
        MixerError: if 4 does not divide d.
    """
    d, prefix = x.shape[-1], x.shape[-2] - grid[0] * grid[1]
    check_rotary(d)
    exact = at_least_float32(x)
    speed = torch.tensor(rotary_speeds(d, base, ends), dtype=exact, device=x.device)
    parts = []
    for axis, side in enumerate(grid):
        angle = torch.arange(side, dtype=exact, device=x.device).unsqueeze(1) * speed  # (side, d/4)
        table = torch.stack([angle.cos(), angle.sin()]).to(x.dtype).unsqueeze(2 - axis)  # (2, H, 1, d/4) or (2, 1, W, d/4)
        parts.append(table.expand(2, *grid, d // 4))
    cos, sin = torch.cat(parts, dim=-1).flatten(1, 2)  # (N, d/2) each
    even, odd = x[..., prefix:, :].unflatten(-1, (-1, 2)).unbind(-1)  # (..., N, d/2)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
    return torch.cat([x[..., :prefix, :], turned], dim=-2) if prefix else turned


def naive_rotary_2d(x: Tensor, grid: Grid, base: float = 10000.0, ends: bool = False) -> Tensor:
    """The same as `rotary_2d`, token by token, as a product of complex numbers: the naive reference."""
    d, (h, w) = x.shape[-1], grid
    points = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())  # (..., N, d/2)
    prefix, turned = x.shape[-2] - h * w, []
    slowest = max(d // 4 - 1, 1) if ends else d // 4
    for n in range(x.shape[-2]):
        row, column = divmod(n - prefix, w) if n >= prefix else (0, 0)
        angles = [place * base ** (-k / slowest) for place in (row, column) for k in range(d // 4)]
        angle = torch.tensor(angles, dtype=x.dtype, device=x.device)
        turned.append(points[..., n, :] * torch.polar(torch.ones_like(angle), angle))
    return torch.view_as_real(torch.stack(turned, dim=-2)).flatten(-2)


def rotary_elementwise(grid: Grid, batch: int, width: int, dim: int) -> int:
    """Elementwise operations of one `rotary_2d` of (batch, ..., H·W, dim), ``width`` features to a token in all."""
    return 3 * batch * grid[0] * grid[1] * width + 3 * (grid[0] + grid[1]) * (dim // 4)


def stay(x: Tensor) -> Tensor:
    """No rotation: the `Turn` of a mixer without rotary position."""
    return x


def turn_for(rope: bool, grid: Grid, naive: bool = False, ends: bool = False) -> Turn:
    """What turns q and k of a grid's tokens: `rotary_2d` (or its naive form) with ``rope``, nothing without."""
    return partial(naive_rotary_2d if naive else rotary_2d, grid=grid, ends=ends) if rope else stay


class QKVAttention(nn.Module):
    """The frame of every attention: one Linear to q, k and v, heads, a core, one Linear out.

    A subclass supplies the core as functions of tensors: ``attend`` (fast), ``naive_attend`` (obvious), and their
    closed forms ``attend_macs`` and ``attend_elementwise`` for one image of n tokens. Parameters carry timm's names.

    With ``rope``, the core gets a ``turn`` to rotate q and k by their place on the grid (`rotary_2d`); without, one that
    leaves them alone. A core with a feature map turns the features, and in the numerator only, so that its weights' sum
    stays positive (RoFormer, arXiv 2104.09864, equation 19). The rotation's own cost is added here.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    reference_names: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qkv.weight", "qkv.bias", "proj.weight", "proj.bias")
    }

    def __init__(
        self, dim: int, *, num_heads: int | None = None, grid: Grid | None = None, qkv_bias: bool = True, rope: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self.rope = heads_of(dim, num_heads), rope
        if rope:
            check_rotary(dim // self.num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        init_linear_(self.qkv, self.proj)

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the reference names."""
        return {"dim": state["proj.weight"].shape[0], "qkv_bias": "qkv.bias" in state}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """The core: q, k, v (B, h, N, d) to (B, h, N, d)."""
        raise NotImplementedError

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """The core, written the slow and obvious way."""
        raise NotImplementedError

    def leave(self, y: Tensor, x: Tensor, naive: bool) -> Tensor:
        """What the last Linear gets of the core's output y, heads side by side: both (B, N, C), as the layer's input x."""
        return y

    def attend_macs(self, n: int, dim: int) -> int:
        """MACs of ``attend`` for one image of n tokens."""
        raise NotImplementedError

    def attend_elementwise(self, n: int, dim: int) -> int:
        """Elementwise operations of ``attend`` for one image of n tokens."""
        raise NotImplementedError

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid, prefix_tokens=True)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, h, N, d)
        turn = turn_for(self.rope, grid, naive)
        y = self.naive_attend(q, k, v, turn) if naive else self.attend(q, k, v, turn)
        return self.proj(self.leave(y.transpose(1, 2).reshape(b, n, c), x, naive))

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The same, through the naive core: the reference that tests compare with."""
        return self._mix(x, grid, naive=True)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released", *, prefix_tokens: int = 0) -> int:
        """Exact MACs of one forward pass over the batch: 4NC² for the projections, and the core's."""
        check_path(path)
        n, c = grid[0] * grid[1] + prefix_tokens, self.proj.in_features
        return batch * (4 * n * c * c + self.attend_macs(n, c))

    def elementwise(self, grid: Grid, batch: int = 1, *, prefix_tokens: int = 0) -> int:
        """Exact elementwise operations of one forward pass over the batch: the biases, and the core's."""
        n, c = grid[0] * grid[1] + prefix_tokens, self.proj.in_features
        biases = n * c * (4 if self.qkv.bias is not None else 1)
        turns = 2 * rotary_elementwise(grid, batch, c, c // self.num_heads) if self.rope else 0
        return batch * (biases + self.attend_elementwise(n, c)) + turns


class GatedAttention(nn.Module):
    """The frame of attentions with a convolution of their values and a gate: Y = Linear((core(Q, K, V) + DWC5×5(V)) ⊙ O).

    Q, K, V and the gate O come from one Linear, and O has no activation. A subclass supplies the core as functions of
    tensors, as in `QKVAttention`: ``attend``, ``naive_attend``, ``attend_macs`` and ``attend_elementwise``. Parameters carry
    the names and shapes of RALA and MALA (arXiv 2411.07635, 2507.00698), whose Linears are 1×1 convolutions; so does the
    rotation of ``rope``, whose angles end at 1/10000 (`rotary_speeds`). Its own cost is added here.

    Raises:
        MixerError: if the heads do not divide the dimension, or, with ``rope``, 4 does not divide d.
    """

    reference_names: ClassVar[Mapping[str, str]] = {
        name: name for name in ("qkvo.weight", "qkvo.bias", "lepe.weight", "lepe.bias", "proj.weight", "proj.bias")
    }

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        grid: Grid | None = None,
        local: bool = True,
        gate: bool = True,
        rope: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.gate, self.rope = heads_of(dim, num_heads), gate, rope
        if rope:
            check_rotary(dim // self.num_heads)
        self.qkvo = nn.Conv2d(dim, (4 if gate else 3) * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)
        for linear in (self.qkvo, self.proj):
            assert linear.bias is not None
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim) if local else None

    @classmethod
    def reference_arguments(cls, state: Mapping[str, Tensor]) -> dict[str, object]:
        """Constructor arguments that fit a state dict under the authors' names."""
        outputs, dim = state["qkvo.weight"].shape[:2]
        return {"dim": dim, "gate": outputs > 3 * dim, "local": "lepe.weight" in state or "lepe.bias" in state}

    def attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """The core: q, k, v (B, h, N, d) to (B, h, N, d)."""
        raise NotImplementedError

    def naive_attend(self, q: Tensor, k: Tensor, v: Tensor, turn: Turn = stay) -> Tensor:
        """The core, written the slow and obvious way."""
        raise NotImplementedError

    def attend_macs(self, n: int, dim: int) -> int:
        """MACs of ``attend`` for one image of n tokens."""
        raise NotImplementedError

    def attend_elementwise(self, n: int, dim: int) -> int:
        """Elementwise operations of ``attend`` for one image of n tokens."""
        raise NotImplementedError

    def _mix(self, x: Tensor, grid: Grid, naive: bool) -> Tensor:
        check_tokens(x, grid)
        parts = F.linear(x, self.qkvo.weight.flatten(1), self.qkvo.bias).split(x.shape[2], dim=-1)  # (B, N, C) each
        q, k, v = (split_heads(t, self.num_heads) for t in parts[:3])
        attend = self.naive_attend if naive else self.attend
        y = attend(q, k, v, turn_for(self.rope, grid, naive, ends=True)).transpose(1, 2).flatten(2)  # (B, N, C)
        if self.lepe is not None:
            assert self.lepe.bias is not None
            if naive:
                y = y + shifted_depthwise_conv(parts[2], self.lepe.weight[None, :, 0], self.lepe.bias, grid)
            else:
                y = y + depthwise_conv(parts[2], self.lepe.weight, self.lepe.bias, grid)
        return F.linear(y * parts[3] if self.gate else y, self.proj.weight.flatten(1), self.proj.bias)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) to (B, N, C)."""
        return self._mix(x, grid, naive=False)

    def naive(self, x: Tensor, grid: Grid) -> Tensor:
        """The same, through the naive core and shifted products: the reference that tests compare with."""
        return self._mix(x, grid, naive=True)

    def macs(self, grid: Grid, batch: int = 1, path: str = "released") -> int:
        """Exact MACs of one forward pass over the batch: 5NC² for the projections, 25NC for the DWC, and the core's."""
        check_path(path)
        n, c = grid[0] * grid[1], self.proj.in_channels
        each = (5 if self.gate else 4) * c + (25 if self.lepe is not None else 0)
        return batch * (n * c * each + self.attend_macs(n, c))

    def elementwise(self, grid: Grid, batch: int = 1) -> int:
        """Exact elementwise operations of one forward pass over the batch: biases, DWC, gate, and the core's."""
        n, c = grid[0] * grid[1], self.proj.in_channels
        each = (6 if self.gate else 4) + (2 if self.lepe is not None else 0)  # the DWC's bias, and its addition
        turns = 2 * rotary_elementwise(grid, batch, c, c // self.num_heads) if self.rope else 0
        return batch * (n * c * each + self.attend_elementwise(n, c)) + turns


def in_float16_range(k: Tensor) -> Tensor:
    """Keys (B, h, N, d) by N^-1/2 in float16, whose range ends at 65504: a sum over some hundred tokens would pass it.

    The factor stands on both sides of the fraction of linear attention. NC elementwise, in float16 alone.
    """
    return k * k.shape[-2] ** -0.5 if k.dtype == torch.float16 else k


def linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 0.0, turn: Turn = stay) -> Tensor:
    """Normalised attention without softmax, in linear time: q (kᵀv) / (q Σk + eps).

    Shapes: non-negative features q, k and values v, all (B, h, N, d); result (B, h, N, d).
    Cost per image: 2NCd + NC MACs; 2NC elementwise (Σk and the division), N·h more with eps. ``turn`` acts on the q
    and k of the numerator alone. The sums over tokens are not scaled: see `in_float16_range`.
    Source: Katharopoulos et al. 2020, arXiv 2006.16236, equation 5.
    """
    kv = turn(k).transpose(-2, -1) @ v  # (B, h, d, d)
    norm = q @ k.sum(dim=-2, keepdim=True).transpose(-2, -1)  # (B, h, N, 1)
    return (turn(q) @ kv) / (norm + eps if eps else norm)


def quadratic_linear_attention(q: Tensor, k: Tensor, v: Tensor, eps: float = 0.0, turn: Turn = stay) -> Tensor:
    """The same as `linear_attention`, by its N×N weights: the naive reference, O(N²)."""
    weights = torch.einsum("bhnd,bhmd->bhnm", q, k)  # (B, h, N, N)
    turned = torch.einsum("bhnd,bhmd->bhnm", turn(q), turn(k))
    return torch.einsum("bhnm,bhmd->bhnd", turned / (weights.sum(dim=-1, keepdim=True) + eps), v)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
    """Depthwise convolution of tokens (B, H·W, C) with kernels (C, 1, k, k), zero padding k//2; (B, H·W, C)."""
    return to_tokens(F.conv2d(to_map(x, grid), weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0]))


def depthwise_conv_by_image(x: Tensor, kernels: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
    """Depthwise 3×3 convolution, each image with kernels of its own, zero padding 1: the batch goes into the groups.

    Shapes: x (B, H·W, C), kernels (B, C, 3, 3), bias (C); result (B, H·W, C).
    """
    b, _, c = x.shape
    maps = to_map(x, grid).reshape(1, b * c, *grid)
    biases = None if bias is None else bias.repeat(b)
    y = F.conv2d(maps, kernels.reshape(b * c, 1, 3, 3), biases, padding=1, groups=b * c)
    return to_tokens(y.view(b, c, *grid))


def conv_parameters(dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Kernels (C, 1, 3, 3) and bias (C) of a depthwise 3×3 convolution, as `torch.nn.Conv2d` initialises them."""
    conv = nn.Conv2d(dim, dim, 3, groups=dim)
    assert conv.bias is not None
    return nn.Parameter(conv.weight.detach()), nn.Parameter(conv.bias.detach())


def shifted_depthwise_conv(x: Tensor, kernels: Tensor, bias: Tensor, grid: Grid) -> Tensor:
    """Depthwise k×k convolution, k odd, as k² shifted products: the naive reference.

    Shapes: x (B, H·W, C), kernels (B or 1, C, k, k), bias (C); result (B, H·W, C).
    """
    k = kernels.shape[-1]
    (h, w), padded = grid, F.pad(to_map(x, grid), (k // 2,) * 4)  # (B, C, H+k-1, W+k-1)
    y = bias[:, None, None].expand(x.shape[0], -1, h, w)
    for i in range(k):
        for j in range(k):
            y = y + kernels[:, :, i, j, None, None] * padded[:, :, i : i + h, j : j + w]
    return to_tokens(y)
