"""Several processes as one: who they are, and what they must agree on.

Launched by torchrun (or ``wfbench train --nproc``), each process trains on its part of every batch. Gradients travel with
`DistributedDataParallel`; what else must be agreed on are small things on the CPU, over gloo. In a single process every
function here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")

#: Seconds after which a process that does not answer (stopped, or on a node that hangs) fails the others.
TIMEOUT = "WFBENCH_TIMEOUT"


def is_launched() -> bool:
    """Whether torchrun, or what speaks its language, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: torch.device) -> torch.device:
    """Join the other processes, if there are any, and give this one's device (one GPU for each process of a host)."""
    if not is_launched() or dist.is_initialized():
        return device
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=float(os.environ.get(TIMEOUT, "1800"))))
    if device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(own)
    return own


def leave() -> None:
    """Leave the other processes; without this they may wait for one another at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def seed(run: int) -> int:
    """The seed of this process's own draws: the run's in the first, in each other one another, which follows from it."""
    return int(np.random.SeedSequence((run, rank())).generate_state(1, np.uint64)[0]) if rank() else run


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def gather(value: T) -> list[T]:
    """Every process's value, by rank, in every process. Plain data and CPU tensors."""
    if world() == 1:
        return [value]
    values: list[T | None] = [None] * world()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def gather_from(work: Callable[[], T]) -> list[T]:
    """What every process makes of ``work``, in every process; where it fails in one, its error is raised in all.

    ``work`` does nothing together with other processes.
    """
    result: T | None = None
    error: Exception | None = None
    try:
        result = work()
    except Exception as e:
        error = e
    found = gather((result, error))
    for _, failed in found:
        if failed is not None:
            raise failed
    return [value for value, _ in found]  # type: ignore[misc]


def from_main(value: T) -> T:
    """The first process's value, in every process."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def mean(values: Tensor) -> Tensor:
    """The mean over processes, element by element, on the CPU."""
    values = values.detach().cpu()
    if world() > 1:
        dist.all_reduce(values)
        values /= world()
    return values


def largest(value: int) -> int:
    """The largest of all processes' numbers."""
    return max(gather(value)) if world() > 1 else value


def on_main(work: Callable[[], T]) -> T:
    """What the first process alone does: its result, or its error, in every process, so that none waits for ever."""
    done: tuple[T | None, Exception | None] = (None, None)
    if is_main():
        try:
            done = work(), None
        except Exception as e:
            done = None, e
    result, error = from_main(done)
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
