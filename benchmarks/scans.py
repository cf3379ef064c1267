"""The mixers that scan the row order, at up to 16,384 tokens: time, memory, how both grow, and how exact the chunks are.

    .venv/bin/python benchmarks/scans.py --out results/benchmarks      (about 15 minutes on 1 CPU core)

For each mixer and number of tokens N, one layer (batch 1) is timed in inference and in forward + backward with the gradients
of input and parameters, all interleaved in random order (`wfbench.measure.time_interleaved`), on one thread unless said
otherwise. "per doubling" is the factor from the N of the line before, for each doubling of the tokens: 2 is linear. Peak
memory of forward + backward is the growth of the resident set in a fresh process (VmHWM, reset before), beyond the input, the
parameters and the gradient of the output. "chunks to recurrence" is the largest difference between the fast core and its
definition in float64, on few channels: token by token for vim and gdn, and for vrwkv by the explicit weights of 64 tokens.

Writes scans.md (the table) and scans.json (every sample, with the environment).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers.gdn import gated_delta, naive_gated_delta
from mixers.vim import naive_selective_scan, selective_scan
from mixers.vrwkv import bi_wkv
from wfbench import records
from wfbench.measure import time_interleaved
from wfbench.measure.memory import peak_memory

MODES = ("inference", "forward + backward")
#: Tokens of which the explicit weights are compared, and channels of the comparisons.
COMPARED, WIDTH = 64, 8


def calls(mixer: str, dim: int, side: int) -> dict[str, Callable[[], object]]:
    """What is timed of one mixer on one grid: mode to a callable."""
    torch.manual_seed(0)
    layer: nn.Module = mixers.create(mixer, dim, grid=(side, side))
    x = torch.randn(1, side * side, dim, requires_grad=True)
    grad = torch.randn(1, side * side, dim)
    wanted = [x, *layer.parameters()]

    def inference() -> Tensor:
        with torch.inference_mode():
            return layer(x, (side, side))

    def training() -> tuple[Tensor, ...]:
        return torch.autograd.grad(layer(x, (side, side)), wanted, grad)

    return dict(zip(MODES, (inference, training), strict=True))


def timings(names: Sequence[str], sides: Sequence[int], dim: int, rounds: int) -> list[dict[str, object]]:
    """Every sample of every mixer, grid and mode."""
    cells = {f"{name}|{side}|{mode}": call for name in names for side in sides for mode, call in calls(name, dim, side).items()}
    rows: list[dict[str, object]] = []
    for key, timed in time_interleaved(cells, rounds=rounds, order_seed=0).items():
        name, side, mode = key.split("|")
        assert timed.status == "ok", timed.message
        rows.append({"mixer": name, "n": int(side) ** 2, "mode": mode, "samples": timed.samples})
    return rows


def peak(mixer: str, dim: int, side: int) -> None:
    """Print the bytes that forward + backward of one layer adds to this process's resident set at its peak."""
    calls(mixer, dim, 4)["forward + backward"]()  # loads the libraries
    call = calls(mixer, dim, side)["forward + backward"]
    print(round(peak_memory(lambda: call)["peak"]))


def peaks(names: Sequence[str], sides: Sequence[int], dim: int, threads: int) -> list[dict[str, object]]:
    """Peak memory of every mixer on every grid, each in a process of its own."""
    rows: list[dict[str, object]] = []
    # Blocks over 64 KiB go back to the system when freed, so that the resident set follows what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    for name in names:
        for side in sides:
            own = ["--dim", str(dim), "--threads", str(threads), "--peak", name, str(side)]
            command = [sys.executable, "-W", "ignore", __file__, *own]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            rows.append({"mixer": name, "n": side * side, "bytes": int(done.stdout)})
    return rows


@torch.no_grad()
def vim_difference(n: int) -> float:
    """Chunks against the recurrence, with steps as they are initialised and larger ones."""
    u, delta, z = torch.randn(3, 1, WIDTH, n, dtype=torch.float64)
    b, c = torch.randn(2, 1, 16, n, dtype=torch.float64)
    a = -torch.arange(1.0, 17.0, dtype=torch.float64).repeat(WIDTH, 1)
    skip, bias = torch.ones(WIDTH, dtype=torch.float64), torch.linspace(-7, 0, WIDTH, dtype=torch.float64)
    fast, exact = (scan(u, delta, a, b, c, skip, z, bias)[0] for scan in (selective_scan, naive_selective_scan))
    return (fast - exact).abs().max().item()


@torch.no_grad()
def gdn_difference(n: int) -> float:
    """Chunks against the recurrence, with decays from nearly none to strong ones."""
    q, k = F.normalize(torch.randn(2, 1, n, 2, WIDTH, dtype=torch.float64), dim=-1)
    v, beta = torch.randn(1, n, 2, WIDTH, dtype=torch.float64), torch.rand(1, n, 2, dtype=torch.float64)
    g = -torch.rand(1, n, 2, dtype=torch.float64) * torch.tensor([1e-3, 3.0], dtype=torch.float64)
    fast, exact = (core(q, k, v, g, beta)[0] for core in (gated_delta, naive_gated_delta))
    return (fast - exact).abs().max().item()


@torch.no_grad()
def vrwkv_difference(n: int) -> float:
    """Chunks against the explicit weights of some tokens, with decays of both signs."""
    k, v = torch.randn(2, 1, n, WIDTH, dtype=torch.float64)
    w, u = torch.linspace(-50, 50, WIDTH, dtype=torch.float64) / n, torch.randn(WIDTH, dtype=torch.float64)
    rows = torch.linspace(0, n - 1, min(n, COMPARED)).long()
    distance = (rows.unsqueeze(1) - torch.arange(n)).abs().unsqueeze(2)  # (t, i, 1)
    weights = (k + torch.where(distance == 0, u, (1 - distance) * w)).softmax(dim=1)  # (t, i, C)
    exact = (weights * v).sum(dim=1)
    return (bi_wkv(w, u, k, v)[0, rows] - exact).abs().max().item()


DIFFERENCES: dict[str, Callable[[int], float]] = {
    "vim": vim_difference,
    "gdn": gdn_difference,
    "vrwkv": vrwkv_difference,
}


def differences(sides: Sequence[int]) -> list[dict[str, object]]:
    """The largest difference of every core, by tokens."""
    torch.manual_seed(0)
    return [
        {"mixer": name, "n": side * side, "difference": function(side * side)}
        for name, function in DIFFERENCES.items()
        for side in sides
    ]


def table(sides: Sequence[int], *measured: list[dict[str, object]]) -> list[str]:
    """One Markdown table, a line for each mixer and number of tokens."""
    value: dict[tuple[str, object, object], float] = {}
    for row in (row for rows in measured for row in rows):
        for key, found in row.items():
            if key == "samples":
                assert isinstance(found, list)
                value[str(row["mode"]), row["mixer"], row["n"]] = statistics.median(found)
            elif key in ("bytes", "difference"):
                assert isinstance(found, (int, float))
                value[key, row["mixer"], row["n"]] = found
    columns = [*((mode, 1.0, "s") for mode in MODES), ("bytes", 1e-6, "MB")]
    heads = ["mixer", "N", "inference (s)", "per doubling", "forward + backward (s)", "per doubling", "peak memory (MB)"]
    heads += ["per doubling", "chunks to recurrence"]
    lines = [f"| {' | '.join(heads)} |", "| :--- |" + " ---: |" * (len(heads) - 1)]
    for name in DIFFERENCES:
        for before, side in zip([None, *sides], sides, strict=False):
            n, cells = side * side, []
            for key, unit, _ in columns:
                now = value[key, name, n]
                cells.append(f"{unit * now:.3g}" if key != "bytes" else f"{unit * now:.0f}")
                if before is None:
                    cells.append("")
                else:
                    growth = now / value[key, name, before * before]
                    cells.append(f"{growth ** (1 / math.log2(n / before**2)):.2f}×")
            lines.append(f"| {name} | {n:,} | {' | '.join(cells)} | {value['difference', name, n]:.1e} |")
    return lines


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64, 128], help="grids, from small to large")
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.peak:
        peak(given.peak[0], given.dim, int(given.peak[1]))
        return
    environment = records.stamp("cpu")  # of the revision that is measured, whatever changes meanwhile
    names, sides = list(DIFFERENCES), sorted(set(given.sides))
    exact = differences(sides)
    memory = peaks(names, sides, given.dim, given.threads)
    rows = timings(names, sides, given.dim, given.rounds)
    lines = [
        "# Mixers that scan the row order",
        "",
        f"{environment.device}, {given.threads} thread{'s' if given.threads > 1 else ''}, float32, {given.dim} channels, "
        f"batch 1, torch {environment.versions['torch']}, revision {environment.git_revision}"
        f"{' (changed)' if environment.git_dirty else ''}; medians of {given.rounds} interleaved rounds.",
        f"Made by `python benchmarks/{records.command_line()}`.",
        "",
        "Per doubling: the factor from the line before, for each doubling of the tokens; 2 is linear. Peak memory is that of",
        "forward + backward beyond input and parameters. Chunks to recurrence: the largest difference in float64.",
        "",
        *table(sides, rows, memory, exact),
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    (given.out / "scans.md").write_text(text)
    data = {"environment": environment.model_dump(), "rounds": given.rounds, "timings": rows, "memory": memory}
    (given.out / "scans.json").write_text(json.dumps(data | {"differences": exact}) + "\n")
    print(text)


if __name__ == "__main__":
    main()
