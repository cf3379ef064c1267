"""Seeds that looks save: the error of a claim, its power and its expected seeds, beside those of one test at the end.

    python benchmarks/sequential_seeds.py

Prints a Markdown table, which docs/STATISTICS.md shows. A claim "better by more than 0" is one of four of a file; its
difference seed by seed is normal with the standard deviation 1. It is closed at the first look that supports or contradicts it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from wfbench.analysis.paired import Difference
from wfbench.analysis.seeds_needed import seeds_for_better
from wfbench.analysis.sequential import Looks

TRIALS = 100_000
CLAIMS = 4
PLANS = ((5, 10, 20), (3, 6, 12, 20), (5, 10, 15, 20), (5, 6, 7, 8, 9, 10))
DIFFERENCES = (0.0, 0.5, 0.8, 1.2, 2.0)


def supported(values: np.ndarray, plan: tuple[int, ...], levels: list[float]) -> tuple[float, float]:
    """The share of trials that support the claim, and the mean number of seeds when it is closed."""
    seeds, verdict = np.full(len(values), plan[-1]), np.zeros(len(values))
    for count, level in zip(plan, levels, strict=True):
        t = values[:, :count].mean(axis=1) / (values[:, :count].std(axis=1, ddof=1) / math.sqrt(count))
        now = np.where(np.abs(t) > stats.t.isf(level, count - 1), np.sign(t), 0) * (verdict == 0)
        seeds[now != 0] = count
        verdict += now
    return float((verdict > 0).mean()), float(seeds.mean())


def main() -> None:
    """Print the table: where the true difference is 0, to support the claim is the false answer."""
    alpha = 0.05 / CLAIMS
    heads = ("looks", "true difference", "supported, %", "expected seeds", "supported by all seeds at once, %")
    print("|", " | ".join((*heads, "seeds for 80% at once", "supported without spending, %")), "|")
    print("|---" * 7 + "|")
    for plan in PLANS:
        looks = Looks(plan)
        levels = [looks.level(alpha, look) for look in range(len(plan))]
        for true in DIFFERENCES:
            values = np.random.default_rng(0).normal(true, 1, (TRIALS, plan[-1]))
            share, seeds = supported(values, plan, levels)
            at_once, _ = supported(values, plan[-1:], [alpha])
            naive, _ = supported(values, plan, [alpha] * len(plan))
            needed = seeds_for_better(true, 0.0, Difference(0.0, 1.0, seeds=5), alpha).seeds
            cells = (", ".join(map(str, plan)), f"{true:g}", f"{100 * share:.2f}", f"{seeds:.1f}", f"{100 * at_once:.2f}")
            print("|", " | ".join(map(str, (*cells, needed or "—", f"{100 * naive:.2f}"))), "|", flush=True)


if __name__ == "__main__":
    main()
