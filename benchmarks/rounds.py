"""How many rounds does a profile need? The half-width of a speed-up's interval by the number of rounds, from committed records.

    python benchmarks/rounds.py results/profile results/cifar10-strategies results/demo --out results/benchmarks

Of every cell that was timed in three rounds or more, the logarithm of its ratio to the baseline's fastest backend at the same
resolution is taken round by round. Its standard deviation from round to round is what a speed-up's interval is made of:
± t(0.975, n − 1) s / √n for n rounds, as a share of the speed-up. Deviations are pooled as variances. "Unpaired" is what the
deviation would be if the two cells' rounds had nothing in common: where it is no larger than the paired one, pairing gained
nothing on that machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wfbench import records
from wfbench.measure.rounds import GOAL, LEAST_ROUNDS, common_rounds, relative_error
from wfbench.records import HarnessRow, ProfileRow
from wfbench.tasks.profile.request import ROUNDS

SHOWN = (3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20)


@dataclass(frozen=True)
class Ratio:
    """The logarithms of one cell's speed-up by round, and those of the two times that it is made of."""

    side: int
    logs: tuple[float, ...]
    ours: tuple[float, ...]
    theirs: tuple[float, ...]


@dataclass(frozen=True)
class Session:
    """The speed-ups of one session of a profile."""

    name: str
    protocol: str
    load: tuple[float, float] | None
    ratios: tuple[Ratio, ...]


def sessions(path: Path) -> list[Session]:
    """The sessions in a folder's records that have ratios of three rounds or more."""
    rows, _ = records.read(path / "records.jsonl")
    newest: dict[tuple[object, ...], ProfileRow] = {}
    for row in rows:
        if isinstance(row, ProfileRow) and row.status == "ok":
            newest[row.session, row.mixer, row.local_conv, row.pos_embed, row.variant, row.sdpa_backend, row.resolution] = row
    loads = {row.session: row.load for row in rows if isinstance(row, HarnessRow)}
    found = []
    for session in dict.fromkeys(row.session for row in newest.values()):
        cells = [row for row in newest.values() if row.session == session]
        if ratios := tuple(_ratios(cells)):
            found.append(Session(path.name, cells[0].protocol, loads.get(session), ratios))
    return found


def _ratios(cells: Sequence[ProfileRow], baseline: str = "softmax") -> Iterable[Ratio]:
    best: dict[int, ProfileRow] = {}
    for row in cells:
        side = row.resolution[0]
        if row.mixer == baseline and not row.variant and (side not in best or (row.median or 0) < (best[side].median or 0)):
            best[side] = row
    for row in cells:
        if row.mixer == baseline or row.resolution[0] not in best:
            continue
        ours, theirs = common_rounds(row.by_round, best[row.resolution[0]].by_round)
        if len(ours) >= LEAST_ROUNDS:
            own, other = tuple(map(math.log, ours)), tuple(map(math.log, theirs))
            yield Ratio(row.resolution[0], tuple(b - a for a, b in zip(own, other, strict=True)), own, other)


def pooled(samples: Iterable[Sequence[float]]) -> float:
    """The standard deviation within samples, their variances weighted by their degrees of freedom."""
    weighted = [((len(sample) - 1) * statistics.variance(sample), len(sample) - 1) for sample in samples]
    return math.sqrt(sum(square for square, _ in weighted) / sum(freedom for _, freedom in weighted))


def half_width(deviation: float, rounds: int) -> float:
    """Of the 95% interval of a ratio, as a share of it."""
    return math.expm1(relative_error(deviation, rounds))


def table(found: Sequence[Session]) -> list[str]:
    """A line for each session, then one for each of its resolutions, then deviations that would give the goal."""
    lines = [
        f"| session, protocol | px | ratios | deviation | unpaired | {' | '.join(f'n = {n}' for n in SHOWN)} |",
        f"| :--- | ---: | ---: | ---: | ---: |{' ---: |' * len(SHOWN)}",
    ]
    for session in found:
        groups: list[tuple[str, Sequence[Ratio]]] = [("all", session.ratios)]
        for side in sorted({ratio.side for ratio in session.ratios}):
            groups.append((str(side), [ratio for ratio in session.ratios if ratio.side == side]))
        for place, ratios in groups:
            deviation = pooled(ratio.logs for ratio in ratios)
            apart = math.hypot(pooled(ratio.ours for ratio in ratios), pooled(ratio.theirs for ratio in ratios))
            widths = " | ".join(f"{100 * half_width(deviation, n):.0f} %" for n in SHOWN)
            name = f"{session.name}, {session.protocol}"
            lines.append(f"| {name} | {place} | {len(ratios)} | {deviation:.3f} | {apart:.3f} | {widths} |")
    allowed = [math.log1p(GOAL) / relative_error(1.0, n) for n in SHOWN]
    goal = f"the deviation that gives {100 * GOAL:.0f} %"
    lines.append(f"| {goal} | | | | | {' | '.join(f'{deviation:.3f}' for deviation in allowed)} |")
    return lines


def needed(deviation: float) -> int:
    """The fewest rounds that give a half-width of at most `GOAL`."""
    return next(n for n in range(LEAST_ROUNDS, 10_000) if half_width(deviation, n) <= GOAL)


def write(found: Sequence[Session]) -> str:
    """The report as Markdown."""
    lines = ["# Rounds of a profile", "", f"Made by `{records.command_line()}`.", "", *table(found), ""]
    lines.append("In the columns n: the half-width of the 95% interval of a speed-up over softmax after n rounds.")
    lines.append("")
    for session in found:
        deviation = pooled(ratio.logs for ratio in session.ratios)
        load = "" if session.load is None else f", load average {session.load[0]:.2f} before and {session.load[1]:.2f} after"
        default = ROUNDS[session.protocol]
        lines.append(
            f"- {session.name} ({session.protocol}{load}): {needed(deviation)} rounds give {100 * GOAL:.0f} %; the default of "
            f"{default} gives {100 * half_width(deviation, default):.0f} %."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    chosen = parser.parse_args()
    text = write([session for path in chosen.paths for session in sessions(path)])
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "rounds.md").write_text(text)
    print(text)
