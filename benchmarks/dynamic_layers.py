"""The dynamic layers' exact orders of evaluation, against one another and against a plain static layer.

    .venv/bin/python benchmarks/dynamic_layers.py --out results/benchmarks      (about 10 minutes on 2 CPU cores)

For each shape (B, N, C), with D = 4C for the Linear, every order is timed in one process, interleaved in random order
(`wfbench.measure.time_interleaved`): inference, and forward + backward with the gradients of input and parameters. The
baseline is the order of the WeightFormer release, restated here in plain PyTorch, so that it does not change when the
package does. Everything else is given as baseline / order: above 1 is faster than the release. Peak memory of forward
+ backward is the growth of the resident set in a fresh process for each order (VmHWM, Linux), inputs and gradients
included.

Writes dynamic_layers.md (the tables) and dynamic_layers.json (every sample, with the environment).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixers.base import Linear, to_map, to_tokens
from mixers.weightformer import DynamicDepthwiseConv, DynamicLinear
from wfbench import records
from wfbench.measure import time_interleaved

#: (B, H×W grid, C)
SHAPES = (
    (32, (14, 14), 192),
    (8, (14, 14), 384),
    (1, (28, 28), 192),
    (1, (56, 56), 192),
    (1, (84, 84), 192),
    (4, (28, 28), 384),
)
FORMS = {
    "linear": ("baseline", "released", "core", "rank", "token", "fold", "auto", "static"),
    "conv": ("baseline", "released", "auto", "static"),
}
BASELINE = "baseline"
Grid = tuple[int, int]


def baseline_linear(layer: DynamicLinear, x: Tensor, grid: Grid) -> Tensor:
    """The release's dynamic Linear, in its order."""
    z = F.linear(to_tokens(F.avg_pool2d(to_map(x, grid), 2)), layer.predictor.weight, layer.predictor.bias)
    z_in, z_out = z.split([layer.rank_in, layer.rank_out], dim=-1)
    a, b = F.silu(z_in) @ layer.expand_in, F.silu(z_out) @ layer.expand_out
    weight = a.transpose(1, 2) @ b * (x.shape[2] ** -0.5 / x.shape[1])
    weight = weight / (torch.linalg.vector_norm(weight, dim=1, keepdim=True) + 1)
    return x @ (layer.weight + weight) + layer.bias


def baseline_conv(layer: DynamicDepthwiseConv, x: Tensor, grid: Grid) -> Tensor:
    """The release's dynamic convolution, in its order: one grouped convolution of B·C channels, channels first."""
    b, _, c = x.shape
    maps = to_map(x, grid).contiguous()
    assert layer.predictor is not None
    kernels = layer.predictor(F.adaptive_avg_pool2d(maps, 3))
    kernels = kernels / (torch.linalg.vector_norm(kernels, dim=(2, 3), keepdim=True) + 1)
    kernels = (layer.weight + kernels.unsqueeze(2)).view(b * c, 1, 3, 3)
    y = F.conv2d(maps.view(1, b * c, *grid), kernels, layer.bias.repeat(b), padding=1, groups=b * c)
    return y.view(b, c, *grid).flatten(2).transpose(1, 2)


def form(layer: str, name: str, dim: int) -> tuple[nn.Module, Callable[[Tensor, Grid], Tensor]]:
    """A layer with seeded weights, and the function of (tokens, grid) to time."""
    torch.manual_seed(0)
    if name == "static":
        if layer == "linear":
            plain = Linear(dim, 4 * dim)
            return plain, plain
        convolution = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        return convolution, lambda x, grid: to_tokens(convolution(to_map(x, grid)))
    if layer == "linear":
        dynamic = DynamicLinear(dim, 4 * dim)
        dynamic.path = "auto" if name == BASELINE else name
        return dynamic, (lambda x, grid: baseline_linear(dynamic, x, grid)) if name == BASELINE else dynamic
    kernels = DynamicDepthwiseConv(dim)
    kernels.path = "auto" if name == BASELINE else name
    return kernels, (lambda x, grid: baseline_conv(kernels, x, grid)) if name == BASELINE else kernels


def calls(layer: str, name: str, shape: tuple[int, Grid, int]) -> dict[str, Callable[[], object]]:
    """What is timed of one order at one shape: mode to a callable."""
    batch, grid, dim = shape
    module, function = form(layer, name, dim)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, grid[0] * grid[1], dim, generator=generator, requires_grad=True)
    grad = torch.randn(batch, grid[0] * grid[1], 4 * dim if layer == "linear" else dim, generator=generator)
    wanted = [x, *module.parameters()]

    def inference() -> Tensor:
        with torch.inference_mode():
            return function(x, grid)

    def training() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(x, grid), wanted, grad)

    return {"inference": inference, "forward + backward": training}


def check(layer: str, shape: tuple[int, Grid, int]) -> None:
    """All orders give what the baseline gives, in output and gradients."""
    with torch.no_grad():
        expected = calls(layer, BASELINE, shape)["inference"]()
        for name in FORMS[layer]:
            if name not in (BASELINE, "static"):
                torch.testing.assert_close(calls(layer, name, shape)["inference"](), expected, atol=1e-4, rtol=1e-4)
    expected = calls(layer, BASELINE, shape)["forward + backward"]()
    for name in FORMS[layer]:
        if name not in (BASELINE, "static"):
            got = calls(layer, name, shape)["forward + backward"]()
            torch.testing.assert_close(got, expected, atol=1e-2, rtol=1e-3)


def timings(layer: str, rounds: int) -> list[dict[str, object]]:
    """Every sample of every order, shape and mode."""
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        check(layer, shape)
        cells = {f"{name}|{mode}": call for name in FORMS[layer] for mode, call in calls(layer, name, shape).items()}
        for key, timed in time_interleaved(cells, rounds=rounds, order_seed=0).items():
            name, _, mode = key.partition("|")
            assert timed.status == "ok", timed.message
            rows.append({"layer": layer, "shape": shape, "form": name, "mode": mode, "samples": timed.samples})
        print(f"{layer} {shape}: timed", flush=True)
    return rows


def high_water() -> int:
    """The greatest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def peak(layer: str, name: str, index: int) -> None:
    """Print the bytes that forward + backward of one order adds to this process's resident set."""
    calls(layer, name, (1, (4, 4), 16))["forward + backward"]()  # loads the libraries
    before = high_water()
    calls(layer, name, SHAPES[index])["forward + backward"]()
    print(high_water() - before)


def peaks(layer: str) -> list[dict[str, object]]:
    """Peak memory of every order at every shape, each in a process of its own."""
    rows: list[dict[str, object]] = []
    # Blocks over 64 KiB go back to the system when freed, so that the resident set follows what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for index, shape in enumerate(SHAPES):
        for name in FORMS[layer]:
            command = [sys.executable, "-W", "ignore", __file__, "--peak", layer, name, str(index)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            rows.append({"layer": layer, "shape": shape, "form": name, "bytes": int(done.stdout)})
        print(f"{layer} {shape}: memory", flush=True)
    return rows


def table(layer: str, mode: str, rows: list[dict[str, object]], memory: list[dict[str, object]]) -> list[str]:
    """One Markdown table: milliseconds of the baseline, and baseline / order."""
    key = "bytes" if mode == "peak memory" else "samples"
    value: dict[tuple[object, object], float] = {}
    for row in memory if key == "bytes" else rows:
        if row["layer"] == layer and (key == "bytes" or row["mode"] == mode):
            found = row[key]
            value[row["shape"], row["form"]] = found / 1e6 if isinstance(found, int) else 1e3 * statistics.median(found)  # type: ignore[arg-type]
    names = [name for name in FORMS[layer] if name != BASELINE]
    unit = "MB" if key == "bytes" else "ms"
    lines = [f"| (B, N, C) | baseline ({unit}) | " + " | ".join(names) + " |", "| :--- | ---: |" + " ---: |" * len(names)]
    for shape in SHAPES:
        ratios = [value[shape, BASELINE] / value[shape, name] for name in names]
        cells = " | ".join(f"{ratio:.2f}×" for ratio in ratios)
        lines.append(f"| ({shape[0]}, {shape[1][0] * shape[1][1]}, {shape[2]}) | {value[shape, BASELINE]:.1f} | {cells} |")
    means = [math.exp(statistics.fmean(math.log(value[s, BASELINE] / value[s, name]) for s in SHAPES)) for name in names]
    lines.append("| geometric mean | | " + " | ".join(f"**{mean:.2f}×**" for mean in means) + " |")
    return lines


def write(
    out: Path, environment: records.Environment, rows: list[dict[str, object]], memory: list[dict[str, object]], rounds: int
) -> str:
    """Write the tables and the samples; return the tables."""
    titles = {"linear": "Dynamic Linear (bilateral), C → 4C", "conv": "Dynamic depthwise convolution (adaptive)"}
    lines = [
        "# The dynamic layers, by order of evaluation",
        "",
        f"{environment.device}, {environment.threads} threads, float32, torch {environment.versions['torch']}, revision "
        f"{environment.git_revision}{' (changed)' if environment.git_dirty else ''}; medians of {rounds} interleaved rounds.",
        f"Made by `python benchmarks/{records.command_line()}`.",
        "",
        "Ratios are baseline / order within this run: above 1 is faster (or smaller) than the order of the release. `auto` is",
        "what runs by default; `static` is a plain layer of the same shape, which predicts nothing.",
    ]
    for layer, title in titles.items():
        for mode in ("inference", "forward + backward", "peak memory"):
            if mode != "peak memory" or memory:
                more = " of forward + backward" if mode == "peak memory" else ""
                lines += ["", f"## {title}: {mode}{more}", "", *table(layer, mode, rows, memory)]
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    (out / "dynamic_layers.md").write_text(text)
    data = {"environment": environment.model_dump(), "rounds": rounds, "timings": rows, "memory": memory}
    (out / "dynamic_layers.json").write_text(json.dumps(data) + "\n")
    return text


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--no-memory", action="store_true", help="leave the memory tables out")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        peak(given.peak[0], given.peak[1], int(given.peak[2]))
        return
    environment = records.stamp("cpu")  # of the revision that is measured, whatever changes meanwhile
    rows = [row for layer in FORMS for row in timings(layer, given.rounds)]
    memory = [] if given.no_memory else [row for layer in FORMS for row in peaks(layer)]
    print(write(given.out, environment, rows, memory, given.rounds))


if __name__ == "__main__":
    main()
