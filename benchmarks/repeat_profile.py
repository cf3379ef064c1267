"""Does a second run of the same profile say the same? Medians, exponents and crossovers of two runs, by their intervals.

    wfbench profile ... --out results/profile
    wfbench profile ... --out /tmp/again
    python benchmarks/repeat_profile.py results/profile /tmp/again --out results/benchmarks

Each run's figures are held against the other's 95% intervals. Two equally precise runs of a quantity that does not change
lie within one another's 95% intervals about 83 % of the time when many rounds stand behind the intervals, and more often with
few; so the difference is also held against the interval of a difference.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wfbench import records
from wfbench.records import AnyRow, CrossoverRow, FitRow, HarnessRow, ProfileRow


@dataclass(frozen=True)
class Pair:
    """One figure in both runs, with its intervals."""

    name: str
    first: float
    second: float
    of_first: tuple[float, float]
    of_second: tuple[float, float]

    @property
    def first_within(self) -> bool:
        """Whether the first run's figure lies in the second's interval."""
        return self.of_second[0] <= self.first <= self.of_second[1]

    @property
    def second_within(self) -> bool:
        """Whether the second run's figure lies in the first's interval."""
        return self.of_first[0] <= self.second <= self.of_first[1]

    @property
    def alike(self) -> bool:
        """Whether the difference lies within the interval of a difference: half-widths add as squares."""
        halves = [(high - low) / 2 for low, high in (self.of_first, self.of_second)]
        return abs(self.first - self.second) <= math.hypot(*halves)


def newest(path: Path) -> list[AnyRow]:
    """The rows of the newest session."""
    rows, _ = records.read(path / "records.jsonl")
    session = [row for row in rows if isinstance(row, HarnessRow)][-1].session
    return [row for row in rows if getattr(row, "session", None) == session]


def medians(first: list[AnyRow], second: list[AnyRow]) -> Iterator[Pair]:
    """Logarithms of the cells' times."""

    def timed(rows: list[AnyRow]) -> dict[str, ProfileRow]:
        cells = [row for row in rows if isinstance(row, ProfileRow) and row.median_low is not None]
        return {f"{row.mixer} {row.variant} {row.sdpa_backend} {row.resolution[0]} px": row for row in cells}

    ours, theirs = timed(first), timed(second)
    for name in sorted(ours.keys() & theirs.keys()):
        one, two = ours[name], theirs[name]
        logs = [[math.log(x) for x in (r.median, r.median_low, r.median_high) if x is not None] for r in (one, two)]
        yield Pair(name, logs[0][0], logs[1][0], (logs[0][1], logs[0][2]), (logs[1][1], logs[1][2]))


def exponents(first: list[AnyRow], second: list[AnyRow]) -> Iterator[Pair]:
    """The curves' exponents at every side."""

    def fitted(rows: list[AnyRow]) -> dict[str, FitRow]:
        return {f"{row.mixer} {row.variant} {row.sdpa_backend}": row for row in rows if isinstance(row, FitRow)}

    ours, theirs = fitted(first), fitted(second)
    for name in sorted(ours.keys() & theirs.keys()):
        one, two = ours[name], theirs[name]
        for i, side in enumerate(one.sides):
            if side in two.sides:
                j = two.sides.index(side)
                intervals = [(r.exponents_low[k], r.exponents_high[k]) for r, k in ((one, i), (two, j))]
                yield Pair(f"{name} {side[0]} px", one.exponents[i], two.exponents[j], intervals[0], intervals[1])


def crossovers(first: list[AnyRow], second: list[AnyRow]) -> Iterator[str]:
    """In words, run by run; of several sums of one session the newest."""
    for which, rows in (("first", first), ("second", second)):
        for row in {row.mixer: row for row in rows if isinstance(row, CrossoverRow)}.values():
            side = "–" if row.side is None else f"{row.side:.0f} px"
            low = f"below {row.smallest_side}" if row.side_low is None else f"{row.side_low:.0f}"
            high = f"beyond {row.largest_side}" if row.side_high is None else f"{row.side_high:.0f}"
            yield f"| {row.mixer} | {which} | {row.verdict} | {side} | [{low}, {high}] |"


def write(first: list[AnyRow], second: list[AnyRow]) -> str:
    """The report as Markdown."""
    lines = [
        "# Two runs of one profile",
        "",
        f"Made by `{records.command_line()}`.",
        "",
        "| figure | compared | first in the second's 95% interval | second in the first's | difference in its own |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    apart: list[str] = []
    for title, pairs in (("median of a cell", [*medians(first, second)]), ("exponent", [*exponents(first, second)])):
        if not pairs:
            lines.append(f"| {title} | 0 | nothing to compare | – | – |")
            continue
        shares = [sum(getattr(pair, kind) for pair in pairs) for kind in ("first_within", "second_within", "alike")]
        lines.append(f"| {title} | {len(pairs)} | {' | '.join(f'{n} ({n / len(pairs):.0%})' for n in shares)} |")
        apart += [f"- {title}, {pair.name}: {_words(title, pair)}" for pair in pairs if not pair.alike]
    lines += ["", "Apart:", "", *(apart or ["- none"]), ""]
    lines += ["| mixer | run | verdict | crossover | 95% interval |", "| :--- | :--- | :--- | ---: | :--- |"]
    lines += [*crossovers(first, second), ""]
    for which, rows in (("first", first), ("second", second)):
        lines += [_cost(which, row) for row in rows if isinstance(row, HarnessRow) and row.call_seconds]
    return "\n".join(lines) + "\n"


def _cost(which: str, row: HarnessRow) -> str:
    """What a run cost beside its calls, and how busy the machine was."""
    fixed = "" if row.fixed_seconds is None else f", fixed {row.fixed_seconds:.1f} s for each of {row.processes} processes"
    return (
        f"- The {which}, session {row.session}: {row.wall_seconds:.0f} s wall, {row.call_seconds:.0f} s within calls{fixed}; "
        f"load average {row.load[0]:.2f} at the beginning, {row.load[1]:.2f} at the end."
    )


def _words(title: str, pair: Pair) -> str:
    if title == "exponent":
        return f"{pair.first:.3f} and {pair.second:.3f}"
    return f"{1e3 * math.exp(pair.first):.4g} and {1e3 * math.exp(pair.second):.4g} ms"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    chosen = parser.parse_args()
    text = write(newest(chosen.first), newest(chosen.second))
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "repeat_profile.md").write_text(text)
    print(text)
