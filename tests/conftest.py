from __future__ import annotations

import functools
import os
import zlib
from collections import defaultdict
from dataclasses import replace

# Before numpy is imported, here and in the processes that tests start: on shared cores the threads of its matrix products wait
# for one another, and a simulation of thousands of small ones takes ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests share their cores with one another: nothing is measured again for it, but where a test asks.
os.environ["WFBENCH_IGNORE_LOAD"] = "1"

import pytest
import torch
import typer.main
import typer.testing

from wfbench.models import presets

# The tensors here are small: on shared cores, threads that wait for one another make a tiny convolution 1,000 times slower.
torch.set_num_threads(1)

# Commands keep no state: they are made from their functions' signatures once, not for each of many hundred calls.
typer.testing._get_command = functools.cache(typer.main.get_command)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shallow_vit_tiny(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vit-tiny of four layers, for profiles in the test itself; slow tests, some of which start processes, have twelve."""
    if request.node.get_closest_marker("slow") is None:
        four = {**presets.PRESETS, "vit-tiny": replace(presets.PRESETS["vit-tiny"], depth=4)}
        monkeypatch.setattr(presets, "PRESETS", four)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``sampled(n)``, about one case in n is tried by default, at least one; the slow tests try the rest.

    Which ones follows from their names, so that each test tries others.
    """
    cases = defaultdict(list)
    for item in items:
        if (marker := item.get_closest_marker("sampled")) is not None:
            cases[item.nodeid.partition("[")[0]].append((zlib.crc32(item.nodeid.encode()), marker.args[0], item))
    for tried in cases.values():
        tried.sort(key=lambda case: case[0] % case[1])
        for number, n, item in tried[1:]:
            if number % n:
                item.add_marker(pytest.mark.slow)
