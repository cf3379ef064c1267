"""What this machine can do, measured: the rate of a matrix product and of a copy, and the bound they set.

Source: Williams, Waterman, Patterson, "Roofline", Communications of the ACM 52(4), 2009.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
_COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
_SECONDS = 0.5


@dataclass(frozen=True)
class Rates:
    """The fastest of what was tried.

    Attributes:
        gemm_flops: operations per second, two for each multiply-add.
        gemm_size: n of the n×n product that reached it.
        copy_bytes: bytes per second, read and written, of a copy that no cache holds.
    """

    gemm_flops: float
    gemm_size: int
    copy_bytes: float


def measure_rates(dtype: torch.dtype, device: str = "cpu") -> Rates:
    """Measure the rates of this machine with PyTorch's present number of threads.

    A product that would take much longer than a second at the rate so far is not tried: on CPUs without instructions for a
    dtype it could take minutes.
    """
    best = (0.0, 0)
    for n in _SIZES[device]:
        if best[0] and 2 * n**3 / best[0] > 2 * _SECONDS:
            break
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty(n, n, dtype=dtype, device=device)
        best = max(best, (2 * n**3 / _fastest(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device), n))  # type: ignore[misc]
    source = torch.ones(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Rates(best[0], best[1], 2 * source.numel() / _fastest(lambda: target.copy_(source), device))


def bound(macs: float, bytes_least: float, rates: Rates) -> tuple[float, Literal["compute", "memory"]]:
    """The least seconds for this much work, and the rate that sets them."""
    compute, memory = 2 * macs / rates.gemm_flops, bytes_least / rates.copy_bytes
    return (compute, "compute") if compute >= memory else (memory, "memory")


def _fastest(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of many calls."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    call()
    wait()
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        call()
        wait()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest
