"""What a profile does in a process of its own: ``python -m wfbench.tasks.profile.worker``, started by `run_isolated`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import geometric_mean
from typing import Any

import torch

from wfbench.measure.isolate import serve
from wfbench.measure.latency import Sampler, status_of
from wfbench.measure.load import LoadMeter
from wfbench.measure.memory import peak_memory
from wfbench.measure.roofline import measure_rates
from wfbench.tasks.profile.cell import DTYPES, Cell

#: Calls that a cell is sampled for in each round at least, where the budget allows.
LEAST_CALLS = 3


@dataclass(frozen=True)
class Job:
    """One measurement: its stage ("latency", "memory", "throughput", "machine") and what it needs to know.

    ``rounds``, ``max_batch`` and ``gain`` are of the throughput: rounds of each batch, the largest batch to try, and the gain
    that makes a doubling worth while.
    """

    stage: str
    cell: Cell
    threads: int
    seconds: float
    budget: float
    rounds: int = 1
    max_batch: int = 1
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
        meter = LoadMeter(self.threads)
        samples = sampler.samples(self.seconds, LEAST_CALLS, self.budget)
        load = meter.load()
        found = {"samples": samples, "call_seconds": sampler.call_seconds}
        return found if load is None else found | {"missing_cores": load.missing, "crowded": load.is_crowded}

    def _memory(self) -> dict[str, Any]:
        if self.cell.compiled and self.cell.device == "cpu":
            raise RuntimeError("not measured for compiled models on the CPU: the compiler's own memory would count")
        return {"bytes": peak_memory(self.cell.call, self.cell.device, calls=2 if self.cell.mode == "train" else 1)}

    def _throughput(self) -> dict[str, Any]:
        """Double the batch until it surely gains little, or time or memory runs out; what was reached before then counts.

        Where the system kills the process for its memory, nothing is left to count.
        """
        from wfbench.measure.throughput import double

        calls = self.cell.calls()
        found = double(
            lambda batch: Sampler(calls(batch), self.threads, self.cell.device),
            rounds=self.rounds,
            gain=self.gain,
            most=self.max_batch,
            budget=self.budget,
        )
        return {
            "samples": [geometric_mean(seconds) for seconds in found.seconds],
            "batches": found.batches,
            "batch_rounds": found.seconds,
            "alone_rounds": found.alone,
            "before_rounds": found.before,
            "stopped_by": found.stopped_by,
            "call_seconds": found.call_seconds,
        }

    def _machine(self) -> dict[str, Any]:
        return asdict(measure_rates(DTYPES[self.cell.dtype], self.cell.device))


def main() -> None:
    """Answer one request."""
    serve(lambda payload: Job.of(payload).run())


if __name__ == "__main__":
    main()
