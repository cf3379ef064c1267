"""How long a checkpoint holds up training, and how long it takes to write.

    python benchmarks/checkpoints.py --out results/benchmarks      (about 1 minute on 2 CPU cores)

A ViT with AdamW's moments and an average of its weights is saved several times, as the training loop does it. "Held" is the
time until `Writer.save` returns, which copies to host memory; the rest is written by a thread, and "written" is the time until
the files are on disk. The first save also takes the memory that the others reuse, and is a row of its own.

Writes checkpoints.md and checkpoints.json (every time, with the environment).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.files import in_bytes
from wfbench.training import TrainState, checkpoint

SAVES = 10


def measure(preset: str, directory: Path, device: torch.device) -> tuple[int, list[tuple[float, float]]]:
    """The checkpoint's bytes, and for each save the seconds until it returned and until it was on disk."""
    recipe = recipes.load("imagenet-deit", ["ema.decay=0.999"])
    model = models.create(preset, "softmax", 64).to(device)
    state = TrainState(model, recipe, 100)
    state.loss = lambda model, x, y, generator: F.cross_entropy(model(x), y)
    state.step(torch.randn(2, 3, 64, 64, device=device), torch.zeros(2, dtype=torch.long, device=device))
    times = []
    with checkpoint.Writer(directory) as writer:
        for _ in range(1 + SAVES):
            start = time.perf_counter()
            writer.save(state, {})
            held = time.perf_counter() - start
            writer.finish()
            times.append((held, time.perf_counter() - start))
            state.step_count += 1
    return checkpoint.size(model, ema=True), times


def main() -> None:
    """Measure both models and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device, lines, raw = torch.device(arguments.device), [], []
    stamp = records.stamp(device.type)
    for preset in ("vit-tiny", "vit-small"):
        with tempfile.TemporaryDirectory(dir=".") as directory:  # on the disk that runs are on, not in memory
            size, times = measure(preset, Path(directory), device)
        raw.append({"model": preset, "bytes": size, "seconds": times})
        for name, part in (("first", times[:1]), ("later", times[1:])):
            held, written, share = (_said(column) for column in zip(*((h, w, h / w) for h, w in part), strict=True))
            lines.append(f"| {preset} | {in_bytes(size)} | {name} | {held} | {written} | {share} |")
            print(lines[-1], flush=True)
    text = f"""# How long a checkpoint holds up training

{stamp.device}, {stamp.threads} threads, torch {stamp.versions["torch"]}, revision {stamp.git_revision}.
Made by `python benchmarks/checkpoints.py --out results/benchmarks`: weights, their average, AdamW's moments.

Held: until training goes on. Written: until the files are on disk.
Of later saves the median of {SAVES}, the least and the largest.

| model | size | save | held, s | written, s | held / written |
| :--- | ---: | :--- | ---: | ---: | ---: |
""" + "\n".join(lines)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "checkpoints.md").write_text(text + "\n")
    data = {"environment": stamp.model_dump(), "models": raw}
    (arguments.out / "checkpoints.json").write_text(json.dumps(data, indent=1) + "\n")


def _said(values: tuple[float, ...]) -> str:
    spread = f" [{min(values):.3g}, {max(values):.3g}]" if len(values) > 1 else " (once)"
    return f"{statistics.median(values):.3g}{spread}"


if __name__ == "__main__":
    main()
