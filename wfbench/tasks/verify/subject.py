"""The mixer on trial: how its layers are made and run, always in the same way; tolerances and sizes."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import mixers
from mixers import MixerError, MixerSpec
from mixers.base import PATHS, Grid, evaluated_by, exponent_of
from wfbench.measure.growth import Work, work_of


@dataclass(frozen=True)
class Tolerance:
    """Largest difference allowed, relative to the scale of the output where that is above 1."""

    exact: float = 1e-9  # float64 against float64
    float32: float = 1e-4  # against float64, and within a mixer that computes in float32 whatever it gets
    bfloat16: float = 3e-2  # norm of the error by norm of the output
    float16: float = 5e-3
    float16_range: float = 5e-2  # at many tokens, where rounding adds up
    time: float = 0.6  # exponent of measured time above the declared one


#: The greatest exponent that each complexity allows to a counted cost.
EXPONENTS: dict[str, float] = {"linear": 1.05, "N log N": 1.15, "quadratic": 2.05}
#: How much faster than N^k what is declared as N^k may grow between two grids.
SLACK = 0.05
TOLERANCE = Tolerance()


def allowed_exponent(complexity: str) -> float | None:
    """The greatest exponent that a declared complexity allows to a counted cost; None where none is declared."""
    power = exponent_of(complexity)
    return EXPONENTS.get(complexity) if power is None or complexity in EXPONENTS else power + SLACK


def cast_to(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The layer in a dtype; complex weights in the complex dtype of the same precision, where ``.to`` would drop half."""
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64

    def cast(t: Tensor) -> Tensor:
        return t.to(complex_dtype) if t.is_complex() else t.to(dtype) if t.is_floating_point() else t

    return layer._apply(cast)


@dataclass(frozen=True)
class Sizes:
    """How large the measured cases are: sides of square grids."""

    growth: tuple[int, ...] = (16, 32, 64, 128, 256)  # counted, on the meta device
    time: tuple[int, ...] = (16, 32, 64)
    rounds: int = 5
    half: tuple[int, ...] = (128, 64, 32)  # float16; the first that fits into the budget


FULL = Sizes()
QUICK = Sizes(growth=(32, 64, 128), time=(8, 16, 32), rounds=2, half=(32,))

#: Without the meta device, counting runs for real, up to this side.
REAL_MOST = 64
#: What runs for real, to be timed or counted, stays below so many bytes.
MOST_BYTES = 2**30
#: Seconds after which counting goes to no larger grid.
GROWTH_SECONDS = 4.0
#: Grids at which a mixer may be at home: square, even, so that all but the strangest mixers work there.
HOMES: tuple[Grid, ...] = ((6, 6), (4, 6), (8, 8), (14, 14))
#: Grids of several windows, of the same number of tokens and of the same number of windows; then some without.
WINDOWED: tuple[Grid, ...] = ((14, 14), (14, 21), (21, 14), (13, 14))
WINDOWED_BY_EIGHT: tuple[Grid, ...] = ((16, 16), (16, 24), (24, 16))
#: Said of a mixer that has too few `Subject.sides`.
NO_GRIDS = "it refuses the square grids that were tried, by name"


def slots(mixer: str) -> list[str]:
    """What there is to judge: the token layer, and the FFN-input layer where it is not the plain Linear.

    Raises:
        MixerError: for an unknown mixer.
    """
    return ["token"] if mixers.spec(mixer).ffn_in == "linear" else ["token", "ffn_in"]


class Subject:
    """One layer of a mixer on trial."""

    def __init__(self, mixer: str, slot: str, dim: int, heads: int, seed: int, sizes: Sizes = FULL) -> None:
        self.mixer, self.slot, self.dim, self.heads, self.seed, self.sizes = mixer, slot, dim, heads, seed, sizes
        self.spec: MixerSpec = mixers.spec(mixer)
        self.out_dim = dim if slot == "token" else 2 * dim
        self._works: list[tuple[int, Work]] | Exception | None = None
        #: Of grids that were tried, whether the layer works there, and whether the mixer refuses them by name.
        self._working: dict[tuple[Grid, Grid], bool] = {}
        self._refused: dict[Grid, bool] = {}

    def check_arguments(self) -> None:
        """Refuse what the mixer itself refuses, whatever the grid.

        Raises:
            MixerError: for heads that do not divide the dimension, and the like.
        """
        try:
            self._make(HOMES[0], {})
        except MixerError as e:
            if not names_grid(e, HOMES[0]):
                raise
        except Exception:  # judged by the check of the contract
            return

    def _make(self, grid: Grid, options: Mapping[str, object]) -> nn.Module:
        if self.slot == "token":
            # The second of its layers: one that differs from the first (a shifted window) does more.
            return mixers.create(self.mixer, self.dim, num_heads=self.heads, grid=grid, active=True, layer=1, **options)
        return mixers.create_ffn_in(self.mixer, self.dim, self.out_dim, num_heads=None, grid=grid, active=True, **options)

    def build(
        self,
        grid: Grid,
        dtype: torch.dtype = torch.float32,
        *,
        noise: float = 0.3,
        other: int = 0,
        options: Mapping[str, object] | None = None,
    ) -> nn.Module:
        """The layer for a grid, as in evaluation, as the skeleton makes it.

        Args:
            grid: what it is built for.
            dtype: of its weights.
            noise: added to every parameter: an initialisation's zeros hide errors.
            other: another number gives other weights.
            options: the mixer's own.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1000 * other)
            layer = self._make(grid, options or {})
            with torch.no_grad():
                for p in layer.parameters():
                    if p.is_floating_point() or p.is_complex():
                        p.add_(torch.randn_like(p), alpha=noise)
        return cast_to(layer, dtype).eval()

    def tokens(self, batch: int, grid: Grid, dtype: torch.dtype = torch.float64, other: int = 0, prefix: int = 0) -> Tensor:
        """Random tokens that fill a grid, and those before them; (B, prefix + N, C)."""
        generator = torch.Generator().manual_seed(self.seed + 1 + 1000 * other)
        return torch.randn(batch, prefix + grid[0] * grid[1], self.dim, dtype=torch.float64, generator=generator).to(dtype)

    @cached_property
    def home(self) -> Grid | None:
        """The first grid at which the layer works, where all is judged that needs one grid only."""
        return next(iter(self.working(HOMES)), None)

    @property
    def grid(self) -> Grid:
        """`home`, which there is."""
        assert self.home is not None
        return self.home

    @cached_property
    def steady(self) -> bool:
        """Whether two calls give the same bits: what is random cannot be compared."""
        return not self.unsteady

    @cached_property
    def unsteady(self) -> str:
        """What keeps its outputs from being compared, in words; the check of determinism makes the same calls, and fails."""
        layer, x = self.build(self.grid), self.tokens(2, self.grid, torch.float32)
        try:
            return "" if torch.equal(run(layer, x, self.grid), run(layer, x, self.grid)) else "two calls differ"
        except Exception:
            return "a second call raises"

    @cached_property
    def narrows(self) -> bool:
        """Whether, given float64, it computes in float32 inside: then its numbers are no better than that."""
        grid = self.grid
        layer, x = self.build(grid, torch.float64), self.tokens(1, grid)
        with Narrowed() as seen:
            run(layer, x, grid)
        return seen.to_float32

    @property
    def exact(self) -> float:
        """The largest difference between two ways to compute the same in float64."""
        return TOLERANCE.float32 if self.narrows else TOLERANCE.exact

    @property
    def within(self) -> str:
        """What is expected of two ways to compute the same, where it is not what the table says."""
        return f"differences up to {self.exact:.0e}: it computes in float32 inside" if self.narrows else ""

    @cached_property
    def half_error(self) -> str:
        """What it raises in half precision, if that is not PyTorch's lack of an operator: judged by half precision alone."""
        try:
            run_in_half(self.build(self.grid, torch.float16, noise=0.02), self.tokens(2, self.grid, torch.float16), self.grid)
        except Exception as e:
            return type(e).__name__
        return ""

    def at(self, dim: int) -> Subject:
        """The same mixer and the same number of heads, at another width."""
        return Subject(self.mixer, self.slot, dim, self.heads, self.seed, self.sizes)

    def sides(self, sides: Iterable[int]) -> tuple[int, ...]:
        """The sides of square grids, as multiples of 14 where it refuses them by name; none where it refuses those too."""
        for step in (1, 14):
            tried = tuple(dict.fromkeys(max(step, side - side % step) for side in sides))
            if not any(self._refuses((side, side)) for side in sorted(tried)[:2]):
                return tried
        return ()

    def _refuses(self, grid: Grid) -> bool:
        """Whether the mixer refuses a grid with an error that names it."""
        if grid not in self._refused:
            self._refused[grid] = False
            try:
                self.work(grid)
            except ValueError as e:
                self._refused[grid] = names_grid(e, grid)
            except Exception:
                return False
        return self._refused[grid]

    @property
    def takes_prefix(self) -> bool:
        """Whether the layer takes a prefix token."""
        return self.spec.prefix_tokens and self.slot == "token"

    def working(self, grids: Iterable[Grid]) -> list[Grid]:
        """Those of the grids at which the layer works: the check of grids tries every one, and speaks of the others."""
        return [grid for grid in grids if self._works_at(grid)]

    def built_for(self, grid: Grid) -> Grid:
        """The grid that a layer is built for which is to see this one: the home, unless it declares that it needs its own."""
        return grid if self.spec.needs_grid else self.grid

    def working_from_home(self, grids: Iterable[Grid]) -> list[Grid]:
        """Those of the grids at which a new layer `built_for` them works: the check of grids makes the same trial."""
        return [grid for grid in self.working(grids) if self._works_at(grid, self.built_for(grid))]

    def _works_at(self, grid: Grid, built: Grid | None = None) -> bool:
        key = (grid, built or grid)
        if key not in self._working:
            try:
                y = run(self.build(key[1]), self.tokens(2, grid, torch.float32), grid)
                self._working[key] = y.shape[:2] == (2, grid[0] * grid[1])
            except Exception:  # the check of grids makes this very trial, and fails
                self._working[key] = False
        return self._working[key]

    def work(self, grid: Grid, batch: int = 1, prefix: int = 0, path: str = "auto") -> Work:
        """The counted work of one forward pass: on the meta device, or for real where the mixer does not run there."""
        try:
            return self._work("meta", grid, batch, prefix, path)
        except Exception:
            return self._work("cpu", grid, batch, prefix, path)

    def bare(self, device: str, grid: Grid, batch: int = 1, prefix: int = 0) -> tuple[nn.Module, Tensor]:
        """The layer as it is made, and tokens of zeros, on a device where it may be that nothing is computed."""
        with torch.random.fork_rng(devices=[]), torch.device(device):
            return self._make(grid, {}).eval(), torch.zeros(batch, grid[0] * grid[1] + prefix, self.dim)

    def _work(self, device: str, grid: Grid, batch: int, prefix: int = 0, path: str = "auto") -> Work:
        layer, x = self.bare(device, grid, batch, prefix)
        with evaluated_by(layer, path):
            return work_of(lambda: layer(x, grid), [x, *layer.parameters(), *layer.buffers()])

    def affordable(self, sides: Iterable[int]) -> list[int]:
        """Those of the square grids whose counted memory a small machine has; two at least."""
        try:
            live = {n: work.live for n, work in self.growth()}
        except Exception:  # what cannot be counted is tried where it is surely cheap
            live = {}
        sides = sorted(sides)
        return [side for i, side in enumerate(sides) if i < 2 or live.get(side * side, MOST_BYTES) < MOST_BYTES]

    def growth(self) -> list[tuple[int, Work]]:
        """(N, work) at growing square grids; fewer of them where counting is slow."""
        if self._works is None:
            try:
                self._works = self._growth("meta", self.sides(self.sizes.growth))
            except Exception:
                try:
                    self._works = self._growth("cpu", [side for side in self.sides(self.sizes.growth) if side <= REAL_MOST])
                except Exception as e:
                    self._works = e
        if isinstance(self._works, Exception):
            raise self._works
        return self._works

    def _growth(self, device: str, sides: Iterable[int]) -> list[tuple[int, Work]]:
        found: list[tuple[int, Work]] = []
        for side in sides:
            began = time.monotonic()
            found.append((side * side, self._work(device, (side, side), 1)))
            slow = time.monotonic() - began > GROWTH_SECONDS / 4
            large = device != "meta" and 16 * found[-1][1].live > MOST_BYTES
            if len(found) > 1 and (slow or large):
                break
        return found


class Narrowed(TorchDispatchMode):
    """Notes whether anything in float64 is cast to float32."""

    to_float32 = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten._to_copy and args[0].dtype == torch.float64:
            self.to_float32 = self.to_float32 or out.dtype == torch.float32
        return out


class NoDropout(TorchFunctionMode):
    """Lets everything through that dropout would drop, whether a module or a function asks for it."""

    WAYS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.WAYS:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            args, kwargs = (
                args[:4] + ((0.0,) if len(args) > 4 else ()) + args[5:],
                kwargs | ({"dropout_p": 0.0} if "dropout_p" in kwargs else {}),
            )
        return func(*args, **kwargs)


@contextmanager
def without_dropout(layer: nn.Module) -> Iterator[None]:
    """Dropout and dropped paths are off in the layer, in training too."""
    before: list[tuple[nn.Module, str, float]] = []
    for module in layer.modules():
        if any(word in type(module).__name__.lower() for word in ("drop", "stochasticdepth")):
            for name in ("p", "drop_prob"):
                if isinstance(value := getattr(module, name, None), float):
                    before.append((module, name, value))
                    setattr(module, name, 0.0)
    try:
        with NoDropout():
            yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def batch_norms(layer: nn.Module) -> dict[str, nn.Module]:
    """Modules whose output depends on the batch in training, by design, by name."""
    return {name or "itself": m for name, m in layer.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def in_training(layer: nn.Module, *, statistics: bool = False) -> nn.Module:
    """The layer in training; with ``statistics``, BatchNorm takes those of the batch, as it does there."""
    layer.train()
    if not statistics:
        for norm in batch_norms(layer).values():
            norm.eval()
    return layer


def run(layer: nn.Module, x: Tensor, grid: Grid) -> Tensor:
    """The output, without gradients, for a copy of the input: a layer that writes into its input spoils no other check."""
    with torch.no_grad():
        return layer(x.clone(), grid)


def run_in_half(layer: nn.Module, x: Tensor, grid: Grid) -> Tensor | RuntimeError:
    """The output, or the error where an operator does not exist for half precision here, which is no fault of the mixer."""
    # PyTorch's own words, and no others: what a mixer raises by itself is a failure.
    words = ("not implemented for '", "unsupported dtype", "expected both inputs to be half", "could not run 'aten::")
    try:
        return run(layer, x, grid)
    except RuntimeError as e:
        if any(word in str(e).lower() for word in words):
            return e
        raise


def paths_of(layer: nn.Module) -> tuple[str, ...]:
    """The exact orders of evaluation that a layer has; "auto" is the one that runs."""
    return PATHS if getattr(layer, "path", None) in PATHS else ("auto",)


def takes(method: object, argument: str) -> bool:
    """Whether a method has an argument of that name."""
    return callable(method) and argument in inspect.signature(method).parameters


def gap(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the scale of what was expected where that is above 1; NaN is infinitely far."""
    if actual.shape != expected.shape:
        return math.inf
    if not actual.numel():
        return 0.0
    actual, expected = (t.to(torch.complex128 if t.is_complex() else torch.float64) for t in (actual, expected))
    difference, scale = (actual - expected).abs().max().item(), expected.abs().max().item()
    return math.inf if math.isnan(difference) else difference / max(1.0, scale)


def gradients(layer: nn.Module, x: Tensor, grid: Grid, *, naive: bool = False) -> dict[str, Tensor | None]:
    """The output, and the gradients of the input and of every parameter for one random gradient of the output."""
    x = x.detach().clone().requires_grad_()
    forward = layer.naive if naive else layer
    y: Tensor = forward(x.clone(), grid)  # type: ignore[operator]
    wanted = {"the input": x} | {name: p for name, p in layer.named_parameters() if p.requires_grad}
    if not y.requires_grad:
        return {"the output": y} | dict.fromkeys(wanted)
    grad_output = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    found: dict[str, Tensor | None] = {"the output": y.detach()}
    found.update(zip(wanted, torch.autograd.grad(y, list(wanted.values()), grad_output, allow_unused=True), strict=True))
    return found


def names_grid(error: BaseException, grid: Grid) -> bool:
    """Whether an error says which grid it is about."""
    h, w = grid
    return any(form in str(error) for form in (f"{h}x{w}", f"{h}×{w}", f"{h} x {w}", f"{h} × {w}", f"({h}, {w})"))


def shown(grid: Grid) -> str:
    """A grid in words."""
    return f"{grid[0]}x{grid[1]}"


def in_double(layer: nn.Module) -> nn.Module:
    """A copy of the layer in float64, with the very same weights."""
    return cast_to(copy.deepcopy(layer), torch.float64)
