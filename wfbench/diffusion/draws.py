"""Random draws that belong to a sample, not to a batch or a process."""

from __future__ import annotations

import numpy as np
import torch


def generator_of(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose draws follow from ``key`` alone: (seed, index of the sample)."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))
