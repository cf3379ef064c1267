"""``wfbench sweep --until decided``: seeds are added, look by look, only to the lines that an open claim still needs.

The numbers of seeds at which the claims are answered (``looks``) stand in the claims file, which was recorded before the runs.
How the error of a claim is spent over the looks is in docs/STATISTICS.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wfbench import records
from wfbench.analysis.claims import ClaimsFile, decide, open_claims
from wfbench.errors import InputError
from wfbench.files import walk
from wfbench.records import AnyRow
from wfbench.tasks.sweep.single_run import PlannedRun, Status

#: Brings runs to their end, and says how each ended.
RunAll = Callable[[Sequence[PlannedRun]], dict[str, Status]]


def planned_looks(file: ClaimsFile, max_seeds: int | None) -> tuple[int, ...]:
    """The numbers of seeds at which the claims will be answered, up to ``max_seeds`` where that is given.

    Raises:
        InputError: if the file plans no looks, or none with so few seeds.
    """
    if not file.looks:
        raise InputError(
            "the claims plan no looks",
            got="--until decided with a claims file that has no `looks`",
            expected="the numbers of seeds at which the claims are answered, such as looks: [5, 10, 20]",
            remedy="add looks to the claims file before the first run, or sweep without --until",
        )
    looks = tuple(look for look in file.looks if max_seeds is None or look <= max_seeds)
    if not looks:
        raise InputError(
            "no look has so few seeds",
            got=f"--max-seeds {max_seeds}",
            expected=f"{file.looks[0]} or more: the claims' first look",
            remedy=f"--max-seeds {file.looks[0]}, or leave it out",
        )
    return looks


def run_until_decided(
    file: ClaimsFile,
    looks: Sequence[int],
    runs: Mapping[str, Sequence[PlannedRun]],
    out: Path,
    run_all: RunAll,
    say: Callable[[str], None],
) -> dict[str, Status]:
    """Run the seeds of one look after another, until every claim of accuracy is answered or the looks are over.

    At the first look every line is run, later ones only where an open claim needs them. A run that fails leaves its claims
    open, and the looks end, since the next one would be of other seeds than planned.

    Args:
        file: the claims, as they are recorded.
        looks: rising numbers of seeds, from `planned_looks`.
        runs: every planned run, by the name of its line in the tables.
        out: the directory of the sweep, whose records answer.
        run_all: runs what is not finished.
        say: takes news in words.

    Returns:
        How each run ended, by its name.
    """
    ended: dict[str, Status] = {}
    wanted = set(runs)
    for look in looks:
        seeds = set(file.seeds[:look])
        chosen = [run for line, planned in runs.items() if line in wanted for run in planned if run.recipe.seed in seeds]
        say(f"look at {look} seeds: {', '.join(line for line in runs if line in wanted)}")
        ended |= run_all(chosen)
        if any(status.state != "finished" for status in ended.values()):
            say("not every run is finished, so no further seeds are added")
            return ended
        rows = rows_below(out)
        answers = decide(file, rows)
        undecided = [claim.id for claim in file.of_accuracy if answers[claim.id].verdict == "undecidable"]
        if not undecided:
            say(f"every claim of accuracy is answered after {look} seeds")
            return ended
        say(f"undecided after {look} seeds: {', '.join(undecided)}")
        wanted = {line for claim in open_claims(file, rows) for line in claim.lines}
        if not wanted:
            break
    say("no further look is planned; wfbench report says how many seeds the undecided claims would need")
    return ended


def rows_below(out: Path) -> list[AnyRow]:
    """The rows of all records in a directory and below it."""
    found = sorted(place / "records.jsonl" for place, names in walk(out) if "records.jsonl" in names)
    return [row for path in found for row in records.read(path)[0]]
