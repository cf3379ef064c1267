"""How opening a folder of images and `wfbench report` grow with files, runs and rows.

    python benchmarks/scale.py --out results/benchmarks      (about half an hour on a CPU core)

All data are made in a temporary folder, and removed afterwards:

- files: empty files `train/class000/000000.png`, ..., in 100 classes. They are opened by this package
  (`wfbench.data.image_files`) and by timm's `ReaderImageFolder`, which take turns. Neither reads what is in them;
- runs: one real run of `wfbench train` on the digits, an epoch of a small network, then copies of what it left that a report
  reads, with other mixers (20), seeds (10), recipes, accuracies, curves and predictions. Each 200 runs are a recipe of their
  own, as the sweeps of a study would be. There are predictions of as many images as the digits hold out, and, in a second
  series, of as many as CIFAR-10 does;
- rows of a profile: those that are committed in results/profile, again and again, for as many devices.

Each figure is of a fresh process: seconds of processor time and of the clock, and the most memory that it ever held. For
folders they begin when everything is imported, and the memory is what came on top. For `wfbench report` they are of the
whole command.

Writes scale.md and scale.csv (every turn).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from wfbench import records
from wfbench.records import TrainRow

REPOSITORY = Path(__file__).resolve().parents[1]
FILES, RUNS, ROWS = (10_000, 100_000), (50, 200, 500, 2_000), (288, 1_152, 4_608)
CLASSES, IMAGES = 100, (360, 10_000)
SEEDS, MIXERS = 10, 20  # of each recipe
#: What the digits are trained with: enough that a run directory is there with all its files.
SMALL = ("epochs=1", "optim.warmup_epochs=0", "model.depth=1")
OURS, TIMM, REPORT, PROFILE = "opening, wfbench", "opening, timm", "report of runs", "report of a profile"
_UNITS = {"opening": "files", REPORT: "runs", PROFILE: "rows"}


@dataclass(frozen=True)
class Cost:
    """What a piece of work took: seconds of the processor and of the clock, and the most memory, in MB."""

    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Turn(Cost):
    """One measurement: of what, how many, and which turn."""

    what: str
    size: int
    turn: int


# What is measured.


def make_files(root: Path, count: int, classes: int = CLASSES) -> None:
    """So many empty files in the folders of the training images. One more of each class is held out: both splits need some."""
    for c in range(classes):
        for part, number in (("train", len(range(c, count, classes))), ("val", 1)):
            folder = root / part / f"class{c:03}"
            folder.mkdir(parents=True)
            for i in range(number):
                os.close(os.open(folder / f"{i:06}.png", os.O_CREAT | os.O_WRONLY))


def make_first_run(place: Path) -> None:
    """A real run, whose files the others are made from."""
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = [sys.executable, "-m", "wfbench", "train", "--recipe", "digits", *settings, "--out", str(place)]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def make_runs(root: Path, first: Path, count: int, images: int) -> None:
    """Run directories with what a report reads, as `wfbench train` leaves it: a run for each mixer and seed of some recipes.

    Args:
        root: where the directories go.
        first: the run whose files they are made from.
        count: how many.
        images: the number of held-out images that each has predictions of.
    """
    import pandas as pd

    from mixers.registry import names

    known = sorted(names(), key=lambda name: (name != "softmax", name))[:MIXERS]
    row = TrainRow.model_validate_json((first / "result.json").read_text())
    table = pd.read_parquet(first / "predictions-raw.parquet")
    config, curve = (first / "config.yaml").read_text(), json.loads((first / "metrics.jsonl").read_text().splitlines()[-1])
    kinds = len([name for name in table if str(name).startswith("top")])
    draw = np.random.default_rng(0)
    truth, hard = draw.integers(0, 10, images), draw.normal(0, 2.0, images)
    for i in range(count):
        seed, of_recipe, recipe = i % SEEDS, i // SEEDS % MIXERS, i // (SEEDS * MIXERS)
        skill = 2.0 - 0.05 * of_recipe + 0.1 * draw.normal()
        right = draw.random(images) < 1 / (1 + np.exp(hard - skill))
        first_guess = np.where(right, truth, (truth + draw.integers(1, 10, images)) % 10)
        guesses = {f"top{k + 1}": ((first_guess + k) % 10).astype(np.int32) for k in range(kinds)}
        kept = {"index": range(images), "label": truth.astype(np.int32), **guesses}
        kept["confidence"] = draw.random(images, dtype=np.float32)
        accuracy = float(right.mean())
        found = row.model_copy(
            update={
                "mixer": known[of_recipe],
                "mixer_digest": f"{of_recipe:012x}",
                "seed": seed,
                "recipe": f"{row.recipe}-{recipe}",
                "recipe_digest": f"{recipe:012x}",
                "samples": images,
                "accuracy": accuracy,
                "best_accuracy": accuracy,
                "top5": accuracy + (1 - accuracy) / 2,
                "loss": 1 - accuracy,
                "train_seconds": row.train_seconds * (1 + 0.1 * draw.random()),
                "images_per_second": row.images_per_second * (1 + 0.1 * draw.random()),
            }
        )
        place = root / f"{found.recipe}-{found.mixer}-s{seed}"
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(config)
        epoch = {**curve, "accuracy": accuracy, "loss": found.loss, "samples": images}
        (place / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
        pd.DataFrame(kept).to_parquet(place / "predictions-raw.parquet", index=False, compression="zstd")
        (place / "records.jsonl").write_text(found.model_dump_json() + "\n")
        (place / "result.json").write_text(found.model_dump_json(indent=2) + "\n")


def make_rows(root: Path, count: int) -> None:
    """A file of so many rows of a profile, or a few more: those in results/profile, for as many devices."""
    source = (REPOSITORY / "results" / "profile" / "records.jsonl").read_text().splitlines()
    root.mkdir(parents=True)
    with (root / "records.jsonl").open("w") as file:
        for device in range(-(-count // len(source))):
            for line in source:
                row = json.loads(line)
                row["environment"]["device"] += f" {device}"
                row["session"] += f"-{device}"
                file.write(json.dumps(row) + "\n")


# Measuring: the script calls itself, so that each figure is of a process of its own.


def open_ours(root: Path) -> None:
    """Open a folder as training does."""
    from wfbench.data.image_files import folder

    folder(root)


def open_timm(root: Path) -> None:
    """Open both splits of a folder as timm does."""
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    for part in ("train", "val"):
        ReaderImageFolder(str(root / part))


def report(root: Path) -> None:
    """`wfbench report` on a folder, written beside it."""
    from wfbench.cli.report import report

    report([root], out=root.with_name(f"{root.name}-report"))


WORK: dict[str, Callable[[Path], None]] = {OURS: open_ours, TIMM: open_timm, REPORT: report, PROFILE: report}


def work(what: str, root: Path) -> Cost:
    """Do the work here, in this process, and say what it took."""
    if what in (OURS, TIMM):
        import timm.data.readers.reader_image_folder  # noqa: F401

        import wfbench.data.image_files  # noqa: F401

        before, cpu, wall = _memory("VmRSS"), time.process_time(), time.perf_counter()
    else:  # of the whole process, from its beginning
        before, cpu, wall = 0.0, 0.0, time.perf_counter()
    WORK[what](root)
    return Cost(time.process_time() - cpu, time.perf_counter() - wall, _memory("VmHWM") - before)


def _memory(field: str) -> float:
    """The resident memory of this process, now (VmRSS) or at its most (VmHWM), in MB.

    The system's figure for a finished process (ru_maxrss) would also count what its parent held when it was started.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024 / 1e6


def measure(what: str, root: Path) -> Cost:
    """Do the work in a process of its own, and say what it took."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", what, str(root)]
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def turns(what: Sequence[str], size: int, root: Path, rounds: int, order: random.Random) -> Iterator[Turn]:
    """Measure each kind of work on one folder, in turns."""
    for turn in range(rounds):
        for kind in order.sample(what, len(what)):
            yield Turn(**asdict(measure(kind, root)), what=kind, size=size, turn=turn)


def measure_all(
    files: Sequence[int], runs: Sequence[int], rows: Sequence[int], images: Sequence[int], rounds: int
) -> list[Turn]:
    """Make the data of each size, and measure."""
    found: list[Turn] = []
    order = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for size in files:
            make_files(root / f"files-{size}", size)
            found += turns([OURS, TIMM], size, root / f"files-{size}", rounds, order)
        if runs:
            make_first_run(root / "first")
        for held_out in images:
            for size in runs:
                folder = root / f"runs-{size}-{held_out}"
                make_runs(folder, root / "first", size, held_out)
                series = f"{REPORT}, {held_out:,} images each"
                found += (replace(turn, what=series) for turn in turns([REPORT], size, folder, 1, order))
                shutil.rmtree(folder)
        for size in rows:
            make_rows(root / f"rows-{size}", size)
            found += turns([PROFILE], size, root / f"rows-{size}", 1, order)
    return found


# The table.


def table(found: Sequence[Turn]) -> list[str]:
    """A line for each size of each kind of work: medians, and how they grow from the size before.

    The growth is the exponent p of seconds ~ size^p between two sizes: 1 is in proportion, 2 is the square.
    """
    lines = [
        "| what | how many | processor (s) | clock (s) | most memory (MB) | of timm's processor time | growth of the time |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    sizes: dict[str, dict[int, Cost]] = {}
    # Ours before theirs, whichever had the first turn.
    for turn in sorted(found, key=lambda turn: (turn.what != OURS, turn.what != TIMM)):
        sizes.setdefault(turn.what, {}).setdefault(turn.size, _median(found, turn.what, turn.size))
    for what, costs in sizes.items():
        before: tuple[int, Cost] | None = None
        for size, cost in costs.items():
            timm = sizes.get(TIMM, {}).get(size)
            ratio = f"{cost.cpu_seconds / timm.cpu_seconds:.2f}×" if what == OURS and timm and timm.cpu_seconds else "–"
            growth = "–"
            if before is not None and before[0] != size and min(cost.cpu_seconds, before[1].cpu_seconds) > 0:
                growth = f"{np.log(cost.cpu_seconds / before[1].cpu_seconds) / np.log(size / before[0]):.2f}"
            seconds = f"{cost.cpu_seconds:.2f} | {cost.wall_seconds:.2f} | {cost.peak_mb:.0f}"
            lines.append(f"| {what} | {size:,} {_UNITS[what.partition(',')[0]]} | {seconds} | {ratio} | {growth} |")
            before = size, cost
    return lines


def _median(found: Sequence[Turn], what: str, size: int) -> Cost:
    of_size = [turn for turn in found if (turn.what, turn.size) == (what, size)]
    fields = ("cpu_seconds", "wall_seconds", "peak_mb")
    return Cost(*(statistics.median(getattr(turn, field) for turn in of_size) for field in fields))


def write(found: Sequence[Turn], out: Path, rounds: int) -> str:
    """Write the table, and every turn beside it; the text."""
    stamp = records.stamp()
    text = f"""# Opening folders and reporting, by size

{stamp.device}, {stamp.threads} threads, revision {stamp.git_revision}. Other work may have run on the machine: seconds of the
processor hardly depend on it, seconds of the clock do. Made by `{records.command_line()}`.

Opening: a folder of empty files in {CLASSES} classes, by this package and by timm's `ReaderImageFolder`, {rounds} turns of
each in random order, medians; what imports took is left out, and the memory is what came on top of it. Report: the whole
command, once. Runs: {MIXERS} mixers × {SEEDS} seeds in a recipe, so 200 runs are one recipe and 2,000 are ten; each with a
curve and with predictions. Rows of a profile: those in results/profile, for as many devices as it takes. Growth: the exponent
between a size and the one above it in the table; 1 is in proportion to the size.

""" + "\n".join(table(found))
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.md").write_text(text + "\n")
    with (out / "scale.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["what", "size", "turn", "cpu_seconds", "wall_seconds", "peak_mb"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(turn) for turn in found)
    return text


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--files", type=int, nargs="*", default=FILES, help="Numbers of image files; 1280000 as ImageNet has.")
    parser.add_argument("--runs", type=int, nargs="*", default=RUNS, help="Numbers of runs.")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="Numbers of rows of a profile.")
    parser.add_argument(
        "--images", type=int, nargs="*", default=IMAGES, help="Held-out images that each run has predictions of."
    )
    parser.add_argument("--rounds", type=int, default=5, help="Turns of opening a folder.")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print("\n" + json.dumps(asdict(work(arguments.one[0], Path(arguments.one[1])))))
        return
    found = measure_all(arguments.files, arguments.runs, arguments.rows, arguments.images, arguments.rounds)
    print(write(found, arguments.out, arguments.rounds))


if __name__ == "__main__":
    main()
