"""The stamp of a row: the machine, the libraries and the revision that a number was measured with."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from wfbench.records.row import Environment

_PACKAGES = ("wfbench", "torch", "torchvision", "timm", "fvcore", "numpy", "scikit-learn", "pandas")


def stamp(device: str = "cpu") -> Environment:
    """Stamp of this machine, these libraries and this revision, for work on ``device`` ("cpu" or "cuda").

    Libraries and revision are looked up once in a process: they are those of the code that it has loaded, and a checkout that
    changes while it works, as by the rows that it writes into it, does not change them.
    """
    import torch

    cuda = device.startswith("cuda")
    revision, dirty = _git_revision()
    return Environment(
        device=torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        device_type="cuda" if cuda else "cpu",
        threads=torch.get_num_threads(),
        tf32=cuda and (torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions=dict(_versions()),
        git_revision=revision,
        git_dirty=dirty,
    )


@functools.cache
def _versions() -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@functools.cache
def _cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown CPU"
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "CPU")
    return f"{model} ({os.cpu_count()} logical cores)"


@functools.cache
def _git_revision() -> tuple[str | None, bool | None]:
    """The revision of the checkout this package runs from; (None, None) for an ordinary install."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
