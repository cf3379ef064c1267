"""How long a run waits for images in memory: made a batch at once, image by image, and as PNG files in a folder.

    python benchmarks/data_in_memory.py --out results/benchmarks      (a few minutes on a CPU core)

The images are noise in the shapes of CIFAR-10, and the recipe is cifar10: shifts by up to 4 pixels, flips, no workers. The
batches of all three are the same, bit by bit, which is checked first. Then they take turns, in random order, in one process:

- batches alone, of 128 images: milliseconds for each;
- training by the recipe, with its model and its batch of 64: the share of the time that the trainer's loop
  (`wfbench.training.fit`) waited for data, as a run records it.

Writes data_in_memory.md and data_in_memory.json (every turn, with the environment).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.data import Batch, Split, loading, open_dataset, train_batches
from wfbench.data.splits import Arrays
from wfbench.recipe import DataSection, Recipe
from wfbench.training import Progress, Scores, TrainState, fit

IMAGES, SIZE = 2000, (32, 32)
ALONE, STEPS = 10, 12  # batches and training steps in a turn
WAYS = ("PNG files", "image by image", "batch at once")


class _Silent:
    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None: ...

    def epoch(self, row: dict) -> None: ...


def sources(root: Path) -> tuple[Split, Split]:
    """The same images in memory and as PNG files."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (IMAGES, *SIZE, 3), dtype=np.uint8)
    classes = np.arange(IMAGES) * 10 // IMAGES
    for part in ("train", "val"):
        for i, (image, c) in enumerate(zip(images, classes, strict=True)):
            file = root / part / f"class{c}" / f"{i:05}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return Arrays("image", images, classes), open_dataset(DataSection(source="folder", path=str(root))).train


def batches(way: str, memory: Split, files: Split, data: DataSection, batch_size: int) -> Iterator[Batch]:
    """Training batches, made in one of the three ways."""
    split = files if way == "PNG files" else memory
    make = loading.train_in_memory if way == "batch at once" else lambda *_: None
    with mock.patch.object(loading, "train_in_memory", make):
        return train_batches(split, data, SIZE, 3, batch_size=batch_size, seed=0, epochs=1000)


def milliseconds(found: Iterator[Batch]) -> float:
    """Of one batch."""
    next(found)
    start = time.perf_counter()
    for _ in itertools.islice(found, ALONE):
        pass
    return (time.perf_counter() - start) / ALONE * 1e3


def waiting(recipe: Recipe, model: torch.nn.Module, found: Iterator[Batch]) -> tuple[float, float]:
    """The share of some training steps' time that was spent waiting, and milliseconds of a step without it."""
    state, progress = TrainState(copy.deepcopy(model), recipe, STEPS), Progress()
    with tempfile.TemporaryDirectory() as out:
        fit(state, found, lambda: Scores({"loss": 0.0}, 0.0), Path(out), progress, _Silent())
    step = (progress.train_seconds - progress.wait_seconds) / STEPS * 1e3
    return progress.wait_seconds / progress.train_seconds, step


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recipe = recipes.load("cifar10", ["epochs=1", "optim.warmup_epochs=0"])
    torch.manual_seed(0)
    model = models.create(recipe.model.name, "softmax", 32, 10, **recipe.model.overrides())
    stamp, order = records.stamp(), random.Random(arguments.seed)
    alone: dict[str, list[float]] = {way: [] for way in WAYS}
    shares: dict[str, list[float]] = {way: [] for way in WAYS}
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as root:
        memory, files = sources(Path(root))
        for same in zip(*(itertools.islice(batches(way, memory, files, recipe.data, 128), 3) for way in WAYS), strict=True):
            assert all(torch.equal(x, same[0][0]) and torch.equal(y, same[0][1]) for x, y in same)
        for k in range(arguments.rounds + 1):  # the first round warms up
            for way in order.sample(WAYS, len(WAYS)):
                time_alone = milliseconds(batches(way, memory, files, recipe.data, 128))
                share, step = waiting(recipe, model, batches(way, memory, files, recipe.data, recipe.batch_size))
                if k:
                    alone[way].append(time_alone)
                    shares[way].append(share)
                    steps.append(step)
    lines = []
    for way in WAYS:
        ratio = statistics.median(a / b for a, b in zip(alone[way], alone["image by image"], strict=True))
        low, _, high = statistics.quantiles(shares[way], n=4)
        median = statistics.median(shares[way])
        lines.append(f"| {way} | {statistics.median(alone[way]):.2f} | {ratio:.3f}× | {median:.1%} | {low:.1%}–{high:.1%} |")
    text = f"""# Waiting for images in memory

{stamp.device}, {stamp.threads} threads, float32, torch {stamp.versions["torch"]}, revision {stamp.git_revision}; \
{arguments.rounds} turns of each way, in random order. Other work may have run on the machine: compare within this table.
Made by `python benchmarks/data_in_memory.py --out results/benchmarks`.

Noise of 32×32×3, augmented as by the recipe cifar10, no workers; the batches are the same in all three ways. Alone: a batch of
128, its median, and the median of its ratio to "image by image" within a round. Training: the recipe's model and batch of 64,
{STEPS} steps in a turn, {statistics.median(steps):.0f} ms a step beside the waiting; the share of time spent waiting for data,
median and quartiles.

| way | alone (ms) | ratio | waiting in training | quartiles |
| :--- | ---: | ---: | ---: | ---: |
""" + "\n".join(lines)
    print(text)
    raw = {"milliseconds_of_a_batch": alone, "waiting_share": shares, "milliseconds_of_a_step": steps}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "data_in_memory.md").write_text(text + "\n")
    (arguments.out / "data_in_memory.json").write_text(json.dumps({"environment": stamp.model_dump()} | raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
