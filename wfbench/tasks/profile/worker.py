"""What a profile does in a process of its own: ``python -m wfbench.tasks.profile.worker``, started by `run_isolated`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from wfbench.measure.isolate import serve
from wfbench.measure.latency import Sampler, status_of
from wfbench.measure.memory import peak_memory
from wfbench.measure.roofline import measure_rates
from wfbench.tasks.profile.cell import DTYPES, Cell

#: Calls that a cell is sampled for in each round at least, where the budget allows.
LEAST_CALLS = 3
#: Batches beyond this are not tried.
_MOST_IMAGES = 1024


@dataclass(frozen=True)
class Job:
    """One measurement: its stage ("latency", "memory", "throughput", "machine") and what it needs to know."""

    stage: str
    cell: Cell
    threads: int
    seconds: float
    budget: float
    gain: float = 0.05

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Job:
        """From its JSON."""
        return cls(**{**payload, "cell": Cell(**payload["cell"])})

    def payload(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def run(self) -> dict[str, Any]:
        """Do it, in this process. A failure is a status and a message."""
        torch.set_num_threads(self.threads)
        try:
            return {"status": "ok", "message": None, **getattr(self, f"_{self.stage}")()}
        except Exception as e:
            status, message = status_of(e)
            return {"status": status, "message": message}

    def _latency(self) -> dict[str, Any]:
        sampler = Sampler(self.cell.call(), self.threads, self.cell.device)
        samples = sampler.samples(self.seconds, LEAST_CALLS, self.budget)
        return {"samples": samples, "call_seconds": sampler.call_seconds}

    def _memory(self) -> dict[str, Any]:
        if self.cell.compiled and self.cell.device == "cpu":
            raise RuntimeError("not measured for compiled models on the CPU: the compiler's own memory would count")
        return {"bytes": peak_memory(self.cell.call, self.cell.device, calls=2 if self.cell.mode == "train" else 1)}

    def _throughput(self) -> dict[str, Any]:
        """Double the batch until it gains little, or time or memory runs out; what was reached before then counts.

        Where the system kills the process for its memory, nothing is left to count.
        """
        batch, spent = 1, 0.0
        batches: list[int] = []
        seconds: list[float] = []
        while batch <= _MOST_IMAGES and spent < self.budget:
            try:
                sampler = Sampler(replace(self.cell, batch=batch).call(), self.threads, self.cell.device)
                found = sorted(sampler.samples(self.seconds / 4, 3, self.budget - spent))
            except Exception as e:
                if batches and status_of(e)[0] in ("oom", "timeout"):
                    break
                raise
            spent += sampler.call_seconds
            del sampler  # its model and images must not stand beside the next
            batches.append(batch)
            seconds.append(found[len(found) // 2])
            if len(batches) > 1 and batches[-1] / seconds[-1] < (1 + self.gain) * batches[-2] / seconds[-2]:
                break
            batch *= 2
        return {"samples": seconds, "batches": batches, "call_seconds": spent}

    def _machine(self) -> dict[str, Any]:
        return asdict(measure_rates(DTYPES[self.cell.dtype], self.cell.device))


if __name__ == "__main__":
    serve(lambda payload: Job.of(payload).run())
