"""Which test of many lines against one baseline holds its level where the lines share their seeds: prints Markdown tables.

    python benchmarks/paired_tests.py

docs/STATISTICS.md shows what it prints. Lines are normal over seeds, in units of their standard deviation; nothing differs, or,
for power, lines differ from the baseline by 4 standard errors of a difference of independent lines. About four minutes.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

TRIALS = 4000
DRAWS = 1000  # behind each critical value of a max-t test, and the number of trials of those
SITUATIONS: dict[str, str | float] = {
    "independent": 0.0,
    "r = 0.3": 0.3,
    "r = 0.6": 0.6,
    "r = 0.9": 0.9,
    "half 0.99, half -0.1": "half",
    "all 0.99 but one": "outlier",
    "from 0.9 down to 0": "graded",
}


def correlations(situation: str | float, lines: int) -> np.ndarray:
    """Of the baseline, first, and the lines."""
    count = lines + 1
    r = np.full((count, count), situation if isinstance(situation, float) else 0.99)
    if situation == "half":
        block = 1 + count // 2
        r[block:, :] = r[:, block:] = 0.0
        r[block:, :block] = r[:block, block:] = -0.1
    elif situation == "outlier":
        r[-1, :] = r[:, -1] = 0.0
    elif situation == "graded":
        loading = np.sqrt([0.9, *np.linspace(0.9, 0.0, lines)])
        r = np.outer(loading, loading)
    np.fill_diagonal(r, 1.0)
    return r


def samples(situation: str | float, lines: int, seeds: int, trials: int = TRIALS) -> np.ndarray:
    """(trials, seeds, lines with the baseline first)."""
    value, vector = np.linalg.eigh(correlations(situation, lines))
    root = vector * np.sqrt(np.clip(value, 0, None))
    return np.random.default_rng(0).normal(size=(trials, seeds, lines + 1)) @ root.T


@functools.cache
def dunnett(lines: int, freedom: int) -> float:
    """Dunnett's two-sided 5% point for samples of equal size: a mean over S and over the baseline's mean."""
    node, weight = np.polynomial.legendre.leggauss(64)
    s = stats.chi.ppf((node + 1) / 2, freedom)[:, None] / math.sqrt(freedom)
    z, z_weight = np.polynomial.hermite_e.hermegauss(64)

    def inside(c: float) -> float:
        reach = c * s * math.sqrt(2)
        chance = (stats.norm.cdf(reach + z) - stats.norm.cdf(-reach + z)) ** lines
        return float(weight / 2 @ chance @ z_weight / math.sqrt(2 * math.pi))

    return float(brentq(lambda c: inside(c) - 0.95, 0.5, 50))


def holm(p: np.ndarray) -> np.ndarray:
    """Which hypotheses Holm's method rejects at 5%, row by row."""
    order = np.argsort(p, axis=1)
    raised = np.maximum.accumulate(np.take_along_axis(p, order, 1) * np.arange(p.shape[1], 0, -1), axis=1)
    adjusted = np.empty_like(raised)
    np.put_along_axis(adjusted, order, raised, 1)
    return adjusted <= 0.05


def moderated(variance: np.ndarray, freedom: int) -> tuple[np.ndarray, np.ndarray]:
    """Smyth's moderated variances (2004) and their degrees of freedom, row by row; capped as limma caps them."""
    e = np.log(variance) - digamma(freedom / 2) + math.log(freedom / 2)
    excess = e.var(axis=1, ddof=1) - polygamma(1, freedom / 2)
    target = np.where(excess > 1e-6, excess, 1.0)
    y = 0.5 + 1 / target  # the inverse of the trigamma function, by Newton's method on its reciprocal
    for _ in range(30):
        tri = polygamma(1, y)
        y = y + tri * (1 - tri / target) / polygamma(2, y)
    prior = np.where(excess > 1e-6, 2 * y, 1e6)[:, None]
    common = np.exp(e.mean(axis=1, keepdims=True) + digamma(prior / 2) - np.log(prior / 2))
    return (freedom * variance + prior * common) / (freedom + prior), np.minimum(freedom + prior, variance.shape[1] * freedom)


def max_t(x: np.ndarray, own_spreads: bool) -> float:
    """The family's error of max |t| over the estimated correlation of the contrasts, by parametric draws.

    Either a multivariate t (one spread for all contrasts), or each contrast with its own spread (a Wishart matrix).
    """
    rng, freedom, wrong = np.random.default_rng(1), x.shape[1] - 1, 0
    for sample in x[:DRAWS]:
        d = sample[:, 1:] - sample[:, :1]
        r = np.atleast_2d(np.corrcoef(d.T))
        value, vector = np.linalg.eigh(r)
        root = vector * np.sqrt(np.clip(value, 0, None))
        z = rng.normal(size=(DRAWS, len(r))) @ root.T
        if own_spreads:
            spread = ((rng.normal(size=(DRAWS, freedom, len(r))) @ root.T) ** 2).mean(axis=1)
        else:
            spread = rng.chisquare(freedom, (DRAWS, 1)) / freedom
        critical = np.quantile((np.abs(z) / np.sqrt(spread)).max(axis=1), 0.95)
        t = np.abs(d.mean(axis=0)) / (d.std(axis=0, ddof=1) / math.sqrt(len(d)))
        wrong += t.max() > critical
    return wrong / DRAWS


def validity(lines: int, seeds: int) -> None:
    """The family's error and the coverage of the worst line's own 95% interval, of each candidate."""
    print(f"\n{lines} lines, {seeds} seeds: error of the family / coverage of the worst line's own interval, in %\n")
    heads = ("unpaired, pooled", "paired, pooled", "moderated, Bonferroni", "max-t, one spread", "max-t, own spreads")
    print("| correlation with the baseline |", " | ".join((*heads, "paired t, Holm")), "|")
    print("|---" * (len(heads) + 2) + "|")
    for name, situation in SITUATIONS.items():
        x = samples(situation, lines, seeds)
        d, freedom = x[:, :, 1:] - x[:, :, :1], seeds - 1
        mean, variance = np.abs(d.mean(axis=1)), d.var(axis=1, ddof=1)
        rest = x - x.mean(1, keepdims=True) - x.mean(2, keepdims=True) + x.mean((1, 2), keepdims=True)
        pooled = 2 * x.var(axis=1, ddof=1).mean(axis=1, keepdims=True)
        block = 2 * (rest**2).sum((1, 2))[:, None] / (lines * freedom)
        smooth, smooth_freedom = moderated(variance, freedom)
        cells = []
        for v, f, critical in (
            (pooled, (lines + 1) * freedom, dunnett(lines, (lines + 1) * freedom)),
            (block, lines * freedom, dunnett(lines, lines * freedom)),
            (smooth, smooth_freedom, stats.t.isf(0.025 / lines, smooth_freedom)),
        ):
            t = mean / np.sqrt(v / seeds)
            cells.append(f"{(t > critical).any(axis=1).mean():.1%} / {(t < stats.t.isf(0.025, f)).mean(axis=0).min():.1%}")
        cells += [f"{max_t(x, own_spreads):.1%}" for own_spreads in (False, True)]
        p = 2 * stats.t.sf(mean / np.sqrt(variance / seeds), freedom)
        cells.append(f"{holm(p).any(axis=1).mean():.1%} / {(p > 0.05).mean(axis=0).min():.1%}")
        print(f"| {name} |", " | ".join(cells).replace("%", ""), "|", flush=True)


def power() -> None:
    """The share of lines that are found by the paired test and by the unpaired one."""
    print("\nLines found, in %: paired t with Holm / Dunnett's unpaired test\n")
    correlation = (0.0, 0.3, 0.6, 0.9)
    print("| seeds | lines | which differ |", " | ".join(f"r = {r:g}" for r in correlation), "|")
    print("|---" * (3 + len(correlation)) + "|")
    for seeds in (3, 5, 10):
        for lines in (1, 4, 9, 14):
            for which in ("all", "one")[: 1 if lines == 1 else 2]:
                cells = []
                for r in correlation:
                    x = samples(r, lines, seeds)
                    x[:, :, 1 : (lines + 1 if which == "all" else 2)] += 4 * math.sqrt(2 / seeds)
                    d = x[:, :, 1:] - x[:, :, :1]
                    mean = np.abs(d.mean(axis=1))
                    p = 2 * stats.t.sf(mean / (d.std(axis=1, ddof=1) / math.sqrt(seeds)), seeds - 1)
                    freedom = (lines + 1) * (seeds - 1)
                    error = np.sqrt(2 * x.var(axis=1, ddof=1).mean(axis=1, keepdims=True) / seeds)
                    differ = slice(None) if which == "all" else slice(0, 1)
                    ours, theirs = holm(p)[:, differ].mean(), (mean > dunnett(lines, freedom) * error)[:, differ].mean()
                    cells.append(f"{100 * ours:.0f} / {100 * theirs:.0f}")
                print(f"| {seeds} | {lines} | {which} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    for lines, seeds in ((4, 3), (4, 5), (9, 5), (9, 10)):
        validity(lines, seeds)
    power()
