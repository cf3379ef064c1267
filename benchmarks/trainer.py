"""What the trainer costs beside the training itself: its images/s against a bare loop's, in one process.

    python benchmarks/trainer.py --out results/benchmarks      (about 3 minutes on 2 CPU cores)

The bare loop is what one writes in a notebook: forward, cross-entropy, backward, clip, AdamW, and nothing else. Both train
the same model from the same weights on the same batches, in float32, at batch 32, by turns in random order; a turn is one
epoch of the trainer's loop (`wfbench.training.fit`), with its looks at the loss and its schedule. Its images/s are those that
it records: evaluation and the checkpoint at the end of the epoch are left out, as the record says.

Compute-bound: batches lie in memory. Loader-bound: JPEGs are decoded and augmented as by the recipe imagenet-deit, in one
worker process, and the model is small.

Writes trainer.md and trainer.json (every turn, with the environment).
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.data import open_dataset, train_batches
from wfbench.recipe import Recipe
from wfbench.training import Progress, Scores, TrainState, fit

BATCH = 32
Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Case:
    """One model and where its batches come from; a turn is ``steps`` steps."""

    name: str
    recipe: Recipe
    model: nn.Module
    batches: Batches
    steps: int


class _Silent:
    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None: ...

    def epoch(self, row: dict) -> None: ...


def bare(case: Case, model: nn.Module) -> float:
    """Seconds of a turn of the loop that one writes in a notebook."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.recipe.optim.lr, weight_decay=case.recipe.optim.weight_decay)
    model.train()
    batches = case.batches()
    start = time.perf_counter()
    for _ in range(case.steps):
        inputs, targets = next(batches)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    return time.perf_counter() - start


def ours(case: Case, model: nn.Module) -> float:
    """Seconds of a turn of the trainer's loop, as it records them."""
    state, progress = TrainState(model, case.recipe, case.steps), Progress()
    with tempfile.TemporaryDirectory() as out:
        fit(state, case.batches(), lambda: Scores({"loss": 0.0}, 0.0), Path(out), progress, _Silent())
    return progress.train_seconds


def in_memory(side: int, classes: int, channels: int) -> Batches:
    """The same few batches of noise again and again."""
    generator = torch.Generator().manual_seed(0)
    held = [
        (torch.randn(BATCH, channels, side, side, generator=generator), torch.randint(classes, (BATCH,), generator=generator))
        for _ in range(4)
    ]

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from held

    return batches


def photographs(root: Path, number: int = 64) -> Path:
    """Random JPEGs of 500×375 in two classes, smooth as photographs are, so that they decode at their cost."""
    draw = np.random.default_rng(0)
    for i in range(2 * number):
        folder = root / ("train" if i < number else "val") / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(draw.integers(0, 256, (25, 33, 3), dtype=np.uint8))
        data = io.BytesIO()
        small.resize((500, 375), Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
        (folder / f"{i}.jpg").write_bytes(data.getvalue())
    return root


def cases(scratch: Path) -> list[Case]:
    """The three cases, small to large."""
    one_epoch = ["epochs=1", "optim.warmup_epochs=0", f"batch_size={BATCH}", "optim.clip_grad=5.0"]
    digits = recipes.load("digits", one_epoch)
    torch.manual_seed(0)
    tiny = models.create("vit-tiny", "softmax", 8, 10, **digits.model.overrides())
    vit = models.create("vit-tiny", "softmax", 112, 10)
    imagenet = recipes.load(
        "imagenet-deit",
        [
            *one_epoch,
            "model.image_size=112",
            "mix=null",
            "ema=null",
            "compute.precision=float32",
            "data.workers=1",
            "label_smoothing=0",
        ],
    )
    small = models.create("vit-tiny", "softmax", 112, 2, embed_dim=32, depth=1, num_heads=1)
    data = imagenet.data.model_copy(update={"path": str(photographs(scratch / "photographs"))})
    split = open_dataset(data).train

    def jpegs() -> Iterator[tuple[Tensor, Tensor]]:
        return train_batches(split, data, (112, 112), 3, batch_size=BATCH, seed=0, epochs=1000)

    plain = recipes.load("digits", [*one_epoch, "model.image_size=112"])
    return [
        Case("compute-bound, smallest steps: the digits' model, 8 px", digits, tiny, in_memory(8, 10, 1), 100),
        Case("compute-bound: ViT-Tiny, 112 px", plain, vit, in_memory(112, 10, 3), 2),
        Case("loader-bound: JPEG 500×375, RandAugment, 112 px, one layer of 32 channels", imagenet, small, jpegs, 8),
    ]


def measure(case: Case, rounds: int, seed: int) -> dict[str, list[float]]:
    """Images per second of each turn; the first round, which warms up, is left out."""
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    order = random.Random(seed)
    for k in range(rounds + 1):
        for name, turn in order.sample([("bare", bare), ("ours", ours)], 2):
            seconds = turn(case, copy.deepcopy(case.model))
            if k:
                found[name].append(case.steps * BATCH / seconds)
    return found


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    stamp = records.stamp()
    lines, raw = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(Path(scratch)):
            found = measure(case, arguments.rounds, arguments.seed)
            ratios = sorted(o / b for o, b in zip(found["ours"], found["bare"], strict=True))
            middle = statistics.median(ratios)
            low, _, high = statistics.quantiles(ratios, n=4)
            rates = {name: statistics.median(values) for name, values in found.items()}
            speeds = f"{rates['bare']:,.1f} | {rates['ours']:,.1f}"
            lines.append(f"| {case.name} | {case.steps} | {speeds} | {middle:.3f}× | {low:.3f}–{high:.3f} |")
            raw.append({"case": case.name, "steps": case.steps, "images_per_second": found})
            print(lines[-1], flush=True)
    text = f"""# The trainer against a bare loop

{stamp.device}, {stamp.threads} threads, float32, batch {BATCH}, torch {stamp.versions["torch"]}, \
revision {stamp.git_revision}; {arguments.rounds} pairs of turns for each case, in random order.
Made by `python benchmarks/trainer.py --out results/benchmarks`.

The ratio is ours / bare within a pair, its median and quartiles: 1 means that the trainer costs nothing.

| case | steps in a turn | bare (images/s) | ours (images/s) | ratio | quartiles |
| :--- | ---: | ---: | ---: | ---: | ---: |
""" + "\n".join(lines)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "trainer.md").write_text(text + "\n")
    (arguments.out / "trainer.json").write_text(json.dumps({"environment": stamp.model_dump(), "cases": raw}, indent=1) + "\n")


if __name__ == "__main__":
    main()
