from __future__ import annotations

import pytest
import torch

# The tensors here are small: on shared cores, threads that wait for one another make a tiny convolution 1,000 times slower.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
