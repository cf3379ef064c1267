"""What several test files share: goldens, one tolerance table, and the comparisons every layer is held to."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

import mixers
from mixers.base import Grid, Linear
from mixers.weightformer import DynamicLinear
from wfbench import forkserver

GOLDEN = Path(__file__).parent / "golden"

#: Largest absolute difference allowed, by the coarser dtype of the two sides.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

Forward = Callable[[Tensor, Grid], Tensor]


def golden(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a golden file."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as f:
        return f.metadata(), {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  (not a dict)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def near(actual: Tensor, expected: Tensor, what: str = "result", tolerance: float | None = None) -> None:
    """Fail unless two tensors agree everywhere; NaN agrees with nothing."""
    if tolerance is None:
        tolerance = max(TOLERANCE[actual.dtype], TOLERANCE[expected.dtype])
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    worst = (actual.double() - expected.double()).abs().max().item() if actual.numel() else 0.0
    if not worst <= tolerance:
        raise AssertionError(f"{what}: differs by {worst:.2e}, allowed {tolerance:.0e}")


def all_near(actual: dict[str, Tensor], expected: dict[str, Tensor], what: str, tolerance: float | None = None) -> None:
    """Fail unless two sets of named tensors have the same names and values."""
    if actual.keys() != expected.keys():
        raise AssertionError(f"{what}: names differ in {sorted(actual.keys() ^ expected.keys())}")
    for name, value in expected.items():
        near(actual[name], value, f"{what} {name}", tolerance)


def same_function(found: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """Fail unless two results agree, and the gradients of a weighted sum of each by every input that requires one."""
    near(found.detach(), expected.detach())
    wanted = [t for t in inputs if t.requires_grad]
    assert wanted, "no input has a gradient"
    weight = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    ours, theirs = (
        torch.autograd.grad(y, wanted, weight.expand_as(y), retain_graph=True, materialize_grads=True)
        for y in (found, expected)
    )
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        near(a, b, f"gradient {i}")


def far(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors differ by more than any rounding explains."""
    return (a - b).abs().max().item() > 1e-3


def layer_cases() -> list[tuple[str, str]]:
    """(mixer, slot) of every layer there is, each once: token layers, FFN layers, the plain FFN layer."""
    cases: dict[object, tuple[str, str]] = {}
    # The longest name last to claim a layer: "static" and "weightformer" name theirs, not "wf-linear-gap".
    for name in sorted(mixers.names(), key=lambda name: (name.startswith("wf-"), name)):
        spec = mixers.spec(name)
        cases.setdefault((spec.token, _settings(spec.token_options)), (name, "token"))
        cases.setdefault((spec.ffn_in, _settings(spec.ffn_options)), (name, "ffn_in"))
    return sorted([*cases.values(), ("softmax(gated=true)", "token")])  # an option that is as good as a mixer


def _settings(options: Mapping[str, object]) -> tuple[object, ...]:
    """Options as a key; the strategies that were released are the defaults."""
    return tuple(item for item in sorted(options.items()) if item[1] not in ("bilateral", "adaptive"))


def make_layer(
    name: str, slot: str, grid: Grid, *, dim: int = 24, heads: int = 3, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """The layer of a slot, with weights away from the zeros that an initialisation would hide errors behind."""
    if slot == "token":
        layer = mixers.create(name, dim, num_heads=heads, grid=grid, layer=1)
    else:
        layer = mixers.create_ffn_in(name, dim, 2 * dim, grid=grid)
    return scrambled(layer.to(dtype))


#: Parameters of which a weighted sum divides: with either sign it may come to nearly 0, where no two roundings agree.
POSITIVE = ("mix",)


def scrambled(module: nn.Module, std: float = 0.3) -> nn.Module:
    """Add noise to every parameter."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
            if name.rpartition(".")[2] in POSITIVE:
                parameter.abs_()
    return module


def tokens(batch: int, grid: Grid, dim: int = 24, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random tokens that fill a grid."""
    return torch.randn(batch, grid[0] * grid[1], dim, dtype=dtype)


def predicted_weight(layer: DynamicLinear, x: Tensor, grid: Grid) -> Tensor:
    """Ŵ, solved from what the layer does to its tokens: Y − b₀ = X (W₀ + Ŵ)."""
    assert x.shape[1] >= x.shape[2], "as many tokens as channels at least, or Ŵ is not determined"
    return torch.linalg.lstsq(x, layer(x, grid) - layer.bias).solution - layer.weight


def naive_of(layer: nn.Module) -> Forward:
    """The layer's own naive form; for the plain Linear, its formula."""
    if isinstance(layer, Linear):
        return lambda x, grid: torch.einsum("bnc,dc->bnd", x, layer.weight) + layer.bias
    return layer.naive


def gradients(
    layer: nn.Module, forward: Forward, x: Tensor, grid: Grid, grad_output: Tensor | None = None
) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of every parameter."""
    x = x.detach().clone().requires_grad_()
    y = forward(x, grid)
    if grad_output is None:
        grad_output = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    wanted = {"input": x} | {name: p for name, p in layer.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(y, list(wanted.values()), grad_output, materialize_grads=True)
    return {"output": y.detach()} | {f"gradient of {name}": g for name, g in zip(wanted, found, strict=True)}


def assert_equals_naive(layer: nn.Module, x: Tensor, grid: Grid) -> None:
    """Fail unless the layer and its naive form agree in output and in every gradient."""
    all_near(gradients(layer, layer, x, grid), gradients(layer, naive_of(layer), x, grid), type(layer).__name__)


def assert_batch_independent(layer: nn.Module, x: Tensor, grid: Grid) -> None:
    """Fail unless each image gives alone what it gives in the batch."""
    whole = layer(x, grid)
    for i in range(len(x)):
        near(whole[i : i + 1], layer(x[i : i + 1], grid), f"image {i} of the batch")


def run_python(code: str) -> str:
    """The output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Command:
    """``wfbench`` in a process of its own: a fork, which begins at once (tests/test_forkserver.py: it is as good as fresh)."""

    def __init__(self, *words: str, **environment: str) -> None:
        self._output = tempfile.TemporaryFile("w+b")  # noqa: SIM115  (it is read at the end)
        self._process, _ = forkserver.start(
            "wfbench.__main__",
            words,
            output=self._output.fileno(),
            environment=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            preload=["wfbench.tasks.jobs", "sklearn.datasets", "pyarrow.parquet"],
        )
        self.pid = self._process.pid
        self.poll, self.send_signal, self.kill = self._process.poll, self._process.send_signal, self._process.kill

    @property
    def returncode(self) -> int | None:
        """The exit code, once it was waited for."""
        return self._process.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """Wait for its end: what it printed, errors too."""
        self._process.wait(timeout)
        self._output.seek(0)
        return self._output.read().decode(), None


class Silent:
    """A watcher of a training run that says nothing."""

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        pass

    def epoch(self, row: dict[str, object]) -> None:
        pass


def image_folder(root: Path, part: str, classes: Sequence[str], each: int, side: int = 20, seed: int = 0) -> Path:
    """Images of noise, wider than high, in ``part`` of ``root``, with a folder for each class; file names are of no class."""
    draw = np.random.default_rng(seed)
    for i in range(each * len(classes)):
        file = root / part / classes[i % len(classes)] / f"{i:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (side, side + 4, 3), dtype=np.uint8)).save(file)
    return root


def listing(directory: Path) -> dict[str, bytes]:
    """All that is under a directory: names, and what the files hold."""
    return {str(p): p.read_bytes() if p.is_file() else b"directory" for p in directory.rglob("*")}


def children(pid: int) -> list[int]:
    """The processes that one started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
