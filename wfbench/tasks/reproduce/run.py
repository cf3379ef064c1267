"""Draw, plan, repeat and compare: each cell's row is recorded as soon as it is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from wfbench import records
from wfbench.errors import InputError
from wfbench.records import FACTORS, ReproductionRow
from wfbench.tasks import jobs
from wfbench.tasks.profile.run import Watch as ProfileWatch
from wfbench.tasks.profile.run import profile as measure_profile
from wfbench.tasks.reproduce.cells import Cell, Cells, ProfileCell, TrainingCell, draw
from wfbench.tasks.reproduce.own import contradictions, in_short, quantity_of, result_of
from wfbench.tasks.reproduce.profile import Measures, ProfilePlan, plan_profile, run_profiles, speed_up_of, together
from wfbench.tasks.reproduce.training import TrainingPlan, Trains, plan_training, run_training, threads
from wfbench.tasks.reproduce.verdict import Verdict
from wfbench.training import Watch as TrainWatch


class Watch(Protocol):
    """Someone who watches: hears each answer, and gives what watches the work itself."""

    def answered(self, row: ReproductionRow) -> None:
        """Hear what came of a cell."""

    def profile(self) -> AbstractContextManager[ProfileWatch]:
        """Who watches measurements."""

    def training(self, name: str, epochs: int) -> AbstractContextManager[TrainWatch]:
        """Who watches a training."""


@dataclass(frozen=True)
class ReproduceRequest:
    """What is drawn from, how many cells, and where the data are.

    Attributes:
        source: the records, in words.
        cells: how many are drawn.
        seed: of the draw.
        data: where trainings find their images; None for where their recipes have them.
        device: "cpu" or "cuda"; None for the rows' own.
    """

    source: str
    cells: int = 3
    seed: int = 0
    data: str | None = None
    device: str | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What will be done about each drawn cell: repeat it, or answer at once.

    Attributes:
        found: everything that could be drawn.
        drawn: the cells, in the order of the draw.
        ready: the verdicts on cells that need no run: those that contradict their own raw data, or cannot be repeated.
        work: the plans of the others.
    """

    request: ReproduceRequest
    found: Cells
    drawn: tuple[Cell, ...]
    ready: dict[Cell, Verdict]
    work: dict[Cell, ProfilePlan | TrainingPlan]


def plan(request: ReproduceRequest, found: Cells) -> Plan:
    """Draw the cells, and find out what is missing to repeat them; nothing is written.

    Raises:
        InputError: for a number of cells or a seed that cannot be; or if no cell can be compared, with what is missing.
    """
    drawn = draw(found, request.cells, request.seed)
    ready: dict[Cell, Verdict] = {}
    work: dict[Cell, ProfilePlan | TrainingPlan] = {}
    for cell in drawn:
        try:
            wrong = contradictions(cell)
        except InputError as e:
            unread = f"its own raw data, which cannot be read: {in_short(e)}"
            ready[cell] = Verdict("cannot be compared", _missing_words([unread]), missing=(unread,))
            continue
        if wrong:
            recorded = result_of(cell.row) if isinstance(cell, TrainingCell) else None
            reason = f"the record contradicts its own raw data: {'; '.join(wrong)}"
            ready[cell] = Verdict("disagree", reason, recorded)
            continue
        if isinstance(cell, ProfileCell):
            planned: ProfilePlan | TrainingPlan | list[str] = plan_profile(cell, device=request.device)
        else:
            planned = plan_training(cell, data=request.data, device=request.device)
        if isinstance(planned, list):
            ready[cell] = Verdict("cannot be compared", _missing_words(planned), missing=tuple(planned))
        else:
            work[cell] = planned
    made = Plan(request, found, drawn, ready, work)
    if not work and all(verdict.answer == "cannot be compared" for verdict in ready.values()):
        raise nothing_compared([(cell.name, ready[cell].reason) for cell in drawn])
    return made


def reproduce(
    plan: Plan, out: Path, watch: Watch, *, measure: Measures = measure_profile, train: Trains = jobs.train
) -> list[ReproductionRow]:
    """Repeat what is to be repeated, and compare.

    Args:
        plan: as `plan` made it.
        out: the directory for new measurements and runs, and for ``records.jsonl`` with a row for each cell.
        watch: hears of the progress.
        measure, train: what measures and trains.

    Returns:
        A row for each cell, in the order of the draw.
    """
    rows: dict[Cell, ReproductionRow] = {}
    for cell, verdict in _verdicts(plan, out, watch, measure, train):
        rows[cell] = _row(plan, cell, verdict)
        records.append(out / "records.jsonl", [rows[cell]])
        watch.answered(rows[cell])
    return [rows[cell] for cell in plan.drawn]


def nothing_compared(cells: Sequence[tuple[str, str]]) -> InputError:
    """The message where not one cell could be compared."""
    return InputError(
        "no cell that was drawn can be compared",
        got="; ".join(f"{name}: {reason}" for name, reason in cells),
        expected="at least one that can be repeated here",
        remedy="see to what is missing (--data PATH for images), or draw others by --seed, or more by --cells",
    )


def _verdicts(plan: Plan, out: Path, watch: Watch, measure: Measures, train: Trains) -> Iterator[tuple[Cell, Verdict]]:
    yield from plan.ready.items()
    all_cells = (*plan.found.cells, *plan.found.others)
    profiles = [work for work in plan.work.values() if isinstance(work, ProfilePlan)]
    for group in together(profiles):
        with watch.profile() as told:
            found = run_profiles(group, out, told, cells=len(plan.drawn), measure=measure)
        for timed, verdict in zip(group, found, strict=True):
            yield timed.cell, replace(verdict, differs=timed.differs)
    for trained in plan.work.values():
        if isinstance(trained, TrainingPlan):
            with watch.training(trained.cell.name, trained.recipe.epochs) as hears:
                verdict = run_training(trained, out, hears, all_cells, cells=len(plan.drawn), train=train)
            yield trained.cell, replace(verdict, differs=trained.differs)


def _row(plan: Plan, cell: Cell, verdict: Verdict) -> ReproductionRow:
    row, work = cell.row, plan.work.get(cell)
    device = row.environment.device_type if work is None else _device(work)
    if isinstance(cell, ProfileCell):
        what: dict[str, Any] = {"quantity": speed_up_of(cell), "session": cell.row.session}
    else:
        what = {"quantity": quantity_of(cell.row), "seed": cell.row.seed}
    with threads(row.environment.threads):
        here = records.stamp("cpu" if work is None else device)
    figures = {name: getattr(verdict, name) for name in verdict.__dataclass_fields__ if name != "made"}
    return ReproductionRow(
        environment=here,
        model=row.model,
        **{name: getattr(row, name) for name in ("mixer", *FACTORS)},
        source=plan.request.source,
        draw_seed=plan.request.seed,
        drawn=len(plan.drawn),
        among=len(plan.found.cells),
        subject=cell.subject,
        cell=cell.name,
        recorded_created=row.created,
        recorded_command=row.command,
        recorded_environment=row.environment,
        made=None if verdict.made is None else verdict.made.name,
        **what,
        **figures,
    )


def _device(work: ProfilePlan | TrainingPlan) -> str:
    return work.request.device if isinstance(work, ProfilePlan) else work.device


def _missing_words(missing: Sequence[str]) -> str:
    return f"cannot be repeated here; what is missing or other: {'; '.join(missing)}"
