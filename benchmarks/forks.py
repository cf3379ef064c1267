"""Does a fork of a warm process time a model as a fresh process does? The same cells in both, in the same rounds.

    python benchmarks/forks.py --out results/benchmarks      (about four minutes on two CPU cores; nothing else may run)

`wfbench profile` times every cell in a process that has computed nothing before: by the protocol isolated-v1 a fresh one, by
forked-v1 the fork of a process that has imported everything. Each round here times each cell once in each kind of process, in
random order, and the ratio of the two latencies is taken within the round, so that it does not depend on how fast the machine
is meanwhile.

Writes forks.md and forks.json (every latency, with the environment).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch

from wfbench import records
from wfbench.measure.isolate import run_isolated
from wfbench.measure.rounds import paired_ratio
from wfbench.tasks.profile.cell import Cell
from wfbench.tasks.profile.worker import Job

CELLS = [("softmax", 224), ("softmax", 448), ("linear", 224), ("linear", 448), ("weightformer", 224), ("weightformer", 448)]
SECONDS = 0.5
KINDS = {"fresh": False, "forked": True}


def measure(mixer: str, side: int, fork: bool) -> tuple[float, float]:
    """The latency of a cell in a process of its own, and how long all of that took, in seconds."""
    job = Job("latency", Cell("vit-tiny", mixer, side, 1), torch.get_num_threads(), SECONDS, 60.0)
    began = time.perf_counter()
    done = run_isolated("wfbench.tasks.profile.worker", job.payload(), timeout=120.0, fork=fork)
    assert done.status == "ok", done.message
    assert done.result["status"] == "ok", done.result["message"]
    assert done.origin == ("fork" if fork else "fresh"), done.origin
    return statistics.median(done.result["samples"]), time.perf_counter() - began


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    stamp, order = records.stamp(), random.Random(arguments.seed)
    measure(*CELLS[0], fork=True)  # starts the process that is forked
    latency: dict[str, dict[str, list[float]]] = {
        f"{mixer} at {side} px": {kind: [] for kind in KINDS} for mixer, side in CELLS
    }
    whole: dict[str, list[float]] = {kind: [] for kind in KINDS}
    jobs = [(cell, kind) for cell in CELLS for kind in KINDS]
    for _ in range(arguments.rounds):
        for (mixer, side), kind in order.sample(jobs, len(jobs)):
            seconds, all_of_it = measure(mixer, side, KINDS[kind])
            latency[f"{mixer} at {side} px"][kind].append(seconds)
            whole[kind].append(all_of_it)
    lines = []
    for name, found in latency.items():
        ratio = paired_ratio(found["fresh"], found["forked"])
        assert ratio is not None
        medians = " | ".join(f"{1e3 * statistics.median(found[kind]):.1f}" for kind in KINDS)
        lines.append(f"| {name} | {medians} | {ratio.estimate:.3f}× | {ratio.low:.3f}–{ratio.high:.3f} |")
    text = f"""# Forks and fresh processes

{stamp.device}, {torch.get_num_threads()} threads, torch {stamp.versions["torch"]}, revision {stamp.git_revision}; \
{arguments.rounds} rounds, in each of which every cell is timed in both kinds of process, in random order.
Made by `python benchmarks/forks.py --out results/benchmarks`.

Latency of vit-tiny for one image, float32: the median of a process's calls, and of that the median over rounds. Ratio: forked
over fresh within a round, the geometric mean over rounds, with its 95 % interval (Student's t, of logarithms). The whole of a
measurement, from the request to the answer, took {statistics.median(whole["fresh"]):.1f} s in a fresh process and
{statistics.median(whole["forked"]):.1f} s in a fork (medians).

| cell | fresh (ms) | forked (ms) | ratio | 95 % |
| :--- | ---: | ---: | ---: | ---: |
""" + "\n".join(lines)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "forks.md").write_text(text + "\n")
    raw = {"environment": stamp.model_dump(), "seconds": latency, "whole": whole}
    (arguments.out / "forks.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
