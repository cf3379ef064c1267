"""How fast JPEG files become batches, beside timm's loader, on one core and without workers.

    python benchmarks/jpeg.py --out results/benchmarks      (about three minutes on a CPU core)

The files are noise that is smooth over some pixels, about 500×375 px, in folders as ImageNet's. Both sides read the same files
with the settings of the recipe imagenet-weightformer. That they make the same pixels is checked first, on every file, by the
transform of evaluation, which draws nothing. Then they take turns, in random order, in one process, on one thread:

- evaluation: decode, resize, crop, normalise;
- crop and flip: decode, random resized crop, flip, normalise, as in training;
- the whole recipe: with RandAugment and random erasing too.

Writes jpeg.md and jpeg.json (every turn, with the environment).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_loader

from wfbench import recipe as recipes
from wfbench import records
from wfbench.data import eval_batches, open_dataset, train_batches
from wfbench.measure.rounds import paired_ratio
from wfbench.recipe import DataSection

FILES, SIDE, BATCH = 192, 224, 64
JOBS = ("evaluation", "crop and flip", "the whole recipe")


def write_files(root: Path) -> None:
    """Smooth noise as JPEG files, in two splits of the same images and three classes."""
    draw = np.random.default_rng(0)
    for i in range(FILES):
        coarse = Image.fromarray(draw.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        size = (500, 370 + i % 11)  # of several sizes, as photographs are: images of one size may stay in memory, decoded
        image = coarse.resize(size, Image.Resampling.BICUBIC)
        for split in ("train", "val"):
            file = root / split / f"class{i % 3}" / f"{i:04}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file, quality=90)


def ours(job: str, data: DataSection) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """wfbench's batches of a job."""
    dataset = open_dataset(data)
    if job == "evaluation":
        return eval_batches(dataset.val, data, (SIDE, SIDE), 3, batch_size=BATCH)
    return train_batches(dataset.train, data, (SIDE, SIDE), 3, batch_size=BATCH, seed=0, epochs=1000)


def timms(job: str, data: DataSection) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """timm's batches of the same job."""
    is_training = job != "evaluation"
    loader = create_loader(
        create_dataset("", data.path, "train" if is_training else "val"),
        (3, SIDE, SIDE),
        BATCH,
        is_training=is_training,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
        mean=data.mean,
        std=data.std,
        interpolation=data.interpolation,
        crop_pct=data.eval_crop,
        crop_mode="squash",
        scale=data.crop_scale,
        ratio=data.crop_ratio,
        hflip=data.hflip,
        auto_augment=data.auto_augment,
        color_jitter=data.color_jitter,
        re_prob=data.erase,
        re_mode=data.erase_mode,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader)) if is_training else iter(loader)


def rate(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Images in a second, over as many batches as hold all files."""
    start, images = time.perf_counter(), 0
    for batch, _ in itertools.islice(batches, FILES // BATCH):
        images += len(batch)
    return images / (time.perf_counter() - start)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stamp, order = records.stamp(), random.Random(arguments.seed)
    found: dict[str, dict[str, list[float]]] = {job: {"timm": [], "wfbench": []} for job in JOBS}
    with tempfile.TemporaryDirectory() as root:
        write_files(Path(root))
        whole = recipes.load("imagenet-weightformer", [f"data.path={json.dumps(root)}", "data.workers=0"]).data
        plain = whole.model_copy(update={"auto_augment": None, "color_jitter": 0.0, "erase": 0.0})
        for (a, b), (x, y) in zip(ours("evaluation", whole), timms("evaluation", whole), strict=True):
            assert torch.equal(a, x), "the pixels differ"
            assert torch.equal(b, y), "the classes differ"
        for turn in range(arguments.turns + 1):  # the first warms up
            for job in JOBS:
                data = plain if job == "crop and flip" else whole
                for side, make in order.sample([("timm", timms), ("wfbench", ours)], 2):
                    speed = rate(make(job, data))
                    if turn:
                        found[job][side].append(speed)
    lines = []
    for job, sides in found.items():
        ratio = paired_ratio(sides["timm"], sides["wfbench"])
        assert ratio is not None
        medians = " | ".join(f"{statistics.median(sides[side]):.0f}" for side in ("timm", "wfbench"))
        lines.append(f"| {job} | {medians} | {ratio.estimate:.3f}× | {ratio.low:.3f}–{ratio.high:.3f} |")
    text = f"""# From JPEG files to batches

{stamp.device}, 1 thread, torch {stamp.versions["torch"]}, timm {stamp.versions["timm"]}, revision {stamp.git_revision}; \
{arguments.turns} turns of each side, in random order.
Made by `python benchmarks/jpeg.py --out results/benchmarks`.

{FILES} files of about 500×375 px, {SIDE} px, batches of {BATCH}, no workers. The pixels of evaluation are equal on both sides.
Ratio: wfbench's images per second over timm's in the same turn, the geometric mean, with its 95 % interval (Student's t, of
logarithms).

| job | timm (images/s) | wfbench (images/s) | ratio | 95 % |
| :--- | ---: | ---: | ---: | ---: |
""" + "\n".join(lines)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "jpeg.md").write_text(text + "\n")
    raw = {"environment": stamp.model_dump(), "images_per_second": found}
    (arguments.out / "jpeg.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
