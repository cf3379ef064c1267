"""Peak memory of one call, in a process that has done nothing else.

On CUDA it is what the caching allocator counts. On Linux it is the process's peak resident set (VmHWM, which a write to
``clear_refs`` resets), above what the process held before the model was built. Run it with `isolate.EXACT_MEMORY`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(build: Callable[[], Callable[[], object]], device: str = "cpu", calls: int = 1) -> dict[str, float]:
    """Bytes that building and calling take at their peak.

    Args:
        build: makes what is called; what it allocates counts (weights, input).
        device: "cpu" or "cuda".
        calls: how often to call: a training step holds its optimiser's state from the second on.

    Returns:
        "peak", above "baseline", what the process held before; on CUDA "reserved" too.

    Raises:
        RuntimeError: on a CPU system other than Linux.
    """
    if device == "cuda":
        return _on_cuda(build, calls)
    if not _RESET.exists():
        raise RuntimeError("peak memory on the CPU is read from /proc, which this system lacks; it is measured on Linux only")
    _load_libraries()
    _return_what_is_free()
    _RESET.write_text("5")
    baseline = _field("VmRSS")
    call = build()
    for _ in range(calls):
        call()
    return {"peak": _field("VmHWM") - baseline, "baseline": baseline}


def _on_cuda(build: Callable[[], Callable[[], object]], calls: int) -> dict[str, float]:
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats()
    baseline = float(torch.cuda.memory_allocated())
    call = build()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return {
        "peak": torch.cuda.max_memory_allocated() - baseline,
        "baseline": baseline,
        "reserved": float(torch.cuda.max_memory_reserved()),
    }


def _load_libraries() -> None:
    """Let threads start and kernels load on small tensors, so that none of that counts for the call."""
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    y = F.conv2d(x, torch.randn(8, 3, 3, 3)).flatten(2).transpose(1, 2) @ torch.randn(8, 8)
    heads = y.unsqueeze(1)
    F.gelu(F.layer_norm(F.scaled_dot_product_attention(heads, heads, heads), (8,))).sum().backward()


def _return_what_is_free() -> None:
    """Give free memory back to the system now: given back later, it would be subtracted from what is measured."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _field(name: str) -> float:
    """A field of /proc/self/status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, name
    return 1024.0 * int(found.group(1))
