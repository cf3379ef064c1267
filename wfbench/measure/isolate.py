"""Work in a process of its own: nothing that ran before can change what it measures, and nothing it does can take us down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wfbench import forkserver

#: glibc keeps what is freed for later. With these, every tensor of 64 KiB or more is mapped and unmapped by itself, so that
#: the memory a process holds is the memory in use.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Outcome:
    """What became of the process.

    Attributes:
        status: "ok", "error", "timeout" (it was killed), or "oom" (the system killed it).
        message: what went wrong.
        result: what the work returned.
        wall_seconds: from start to end, start-up counted.
        origin: "fork" of a server that had imported everything, or "fresh", a Python of its own.
    """

    status: str
    message: str | None
    result: dict[str, Any]
    wall_seconds: float
    origin: forkserver.Origin


def run_isolated(
    module: str,
    payload: Mapping[str, Any],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    fork: bool = True,
) -> Outcome:
    """Run a module's ``main`` with a payload, in a process of its own, and wait for its result.

    Args:
        module: its ``main`` must call `serve`, and run where the module is started by ``python -m``.
        payload: what the work gets; JSON.
        timeout: seconds after which it is killed.
        environment: variables beside our own.
        fork: take a fork of a server where that is possible (see `wfbench.forkserver`); else a fresh Python.
    """
    began = time.perf_counter()
    variables = {"OMP_NUM_THREADS": str(torch.get_num_threads()), **os.environ, **(environment or {})}
    with tempfile.TemporaryDirectory() as place:
        answer, said = Path(place, "answer.json"), Path(place, "stderr.txt")
        Path(place, "payload.json").write_text(json.dumps(payload))
        with said.open("wb") as output:
            process, origin = forkserver.start(module, [place], output=output.fileno(), environment=variables, fork=fork)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                if not answer.exists():
                    return Outcome("timeout", f"killed after {timeout:.0f} s", {}, time.perf_counter() - began, origin)
                code = 0  # the work was done in time; it is the end of its process that hangs
            finally:
                _end(process)
        wall = time.perf_counter() - began
        if code == 0 and answer.exists():
            return Outcome("ok", None, json.loads(answer.read_text()), wall, origin)
        if code == -signal.SIGKILL:
            return Outcome("oom", "killed by the system (signal 9), as it does when memory runs out", {}, wall, origin)
        last = " ".join(said.read_text(errors="replace").split())[-300:]
        return Outcome("error", f"the process ended with code {code}: {last}", {}, wall, origin)


def serve(work: Callable[[Any], Mapping[str, Any]]) -> None:
    """The work of the ``main`` of a module that `run_isolated` runs."""
    forkserver.end_with_parent()
    place = Path(sys.argv[1])
    result = work(json.loads((place / "payload.json").read_text()))
    unfinished = place / "answer.part"
    unfinished.write_text(json.dumps(result))
    unfinished.rename(place / "answer.json")


def _end(process: forkserver.Process) -> None:
    """Kill the process and all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # it may not have its own session yet
    process.wait()
