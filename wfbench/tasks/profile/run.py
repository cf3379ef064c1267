"""Measuring a request: only what its records lack, each measurement recorded as soon as it is made."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from mixers import MixerError
from wfbench import records
from wfbench.analysis.cells import that_count
from wfbench.analysis.derived import derived_rows
from wfbench.analysis.lines import scheduled
from wfbench.errors import InputError
from wfbench.forkserver import Origin
from wfbench.measure.flops import FlopCount, bytes_of_training
from wfbench.measure.isolate import EXACT_MEMORY, run_isolated
from wfbench.measure.latency import FORKED, Timed, in_random_order, status_of, time_interleaved
from wfbench.measure.rounds import paired_ratio
from wfbench.records import (
    AnyRow,
    BreakdownRow,
    CrossoverRow,
    Environment,
    HarnessRow,
    MachineRow,
    MeasurementRow,
    ProfileRow,
)
from wfbench.tasks.common import factors_of, try_count
from wfbench.tasks.profile import summary
from wfbench.tasks.profile.cell import DTYPES, Cell
from wfbench.tasks.profile.request import LEAST_THROUGHPUT_ROUNDS, PATH, ProfileRequest
from wfbench.tasks.profile.worker import Job

#: Seconds that starting a process, building the model and finishing a call may take beside the budget.
_START_UP = 60.0
#: A forced backend of attention that takes more times as long as another in its first round is not timed again.
FAR_BEHIND = 2.0


class Watch(Protocol):
    """Someone who watches a profile."""

    def begin(self, cells: Sequence[Cell]) -> None:
        """Hear which cells will be measured."""

    def line(self, text: str) -> None:
        """Hear what is being done."""

    def cell(self, cell: Cell, figures: dict[str, str]) -> None:
        """Hear what is known of a cell by now."""


class Lines:
    """A watcher that turns all news into lines of text."""

    def __init__(self, told: Callable[[str], None] = lambda line: None) -> None:
        self.line = told

    def begin(self, cells: Sequence[Cell]) -> None:
        """Say how many."""
        self.line(f"{len(cells)} cells")

    def cell(self, cell: Cell, figures: dict[str, str]) -> None:
        """Say what is new."""
        self.line(f"{cell.name}: {', '.join(f'{key} {value}' for key, value in figures.items())}")


def profile(
    request: ProfileRequest, journal: Path, watch: Watch | None = None, only: Collection[summary.Key] | None = None
) -> list[AnyRow]:
    """Measure what the records of the same session lack, then sum it up.

    Args:
        request: what to measure.
        journal: the file of records: read for what was measured before, and added to.
        watch: hears of the progress.
        only: of the request's cells, those with these keys; None for all.

    Returns:
        The rows that were added beside the raw measurements: a row for every cell of the request, failed ones included, and
        what follows from all cells of the session; no rows if nothing was missing.

    Raises:
        InputError, MixerError: for a model, mixer, resolution or number that cannot be; nothing has been measured then.
    """
    watch = watch or Lines()
    cells = [cell for cell in request.cells() if only is None or cell.key in only]
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    environment = records.stamp(request.device)
    run = _Run(request, cells, environment, journal, watch)
    run.recall()
    watch.begin(cells)
    for cell in cells:
        run.tell(cell)
    if not run.lacking():
        watch.line(f"session {run.session}: nothing is missing; --force measures again")
        return []
    run.count()
    run.measure()
    return run.sum_up()


@dataclass
class _Run:
    request: ProfileRequest
    cells: list[Cell]
    environment: Environment
    journal: Path
    watch: Watch
    session: str = ""
    measured: list[MeasurementRow] = field(default_factory=list)
    rows: list[ProfileRow] = field(default_factory=list)
    machine: MachineRow | None = None
    #: The baseline of the last sum; None if measurements were made since.
    summed_up: str | None = None
    broken_down: set[tuple[Any, ...]] = field(default_factory=set)
    counts: dict[tuple[Any, ...], tuple[FlopCount | None, str | None, int | None]] = field(default_factory=dict)
    count_seconds: float = 0.0
    timing_seconds: float = 0.0
    new: list[MeasurementRow] = field(default_factory=list)
    began: str = field(default_factory=records.now)
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    # --- what there is

    def recall(self) -> None:
        """Read what was measured before in this session."""
        rows: list[AnyRow] = []
        if self.journal.exists():
            rows, torn = records.read(self.journal)
            for message in torn:
                self.watch.line(message)
        setting = self.request.setting(self.environment)
        earlier = [str(s) for row in rows if str(s := getattr(row, "session", "")).startswith(f"{setting}-")]
        # The random part tells apart what was measured into other files, or again.
        self.session = earlier[-1] if earlier and not self.request.force else f"{setting}-{uuid.uuid4().hex[:6]}"
        for row in rows:
            if getattr(row, "session", None) != self.session:
                continue
            if isinstance(row, MeasurementRow):
                self.measured.append(row)
                self.summed_up = None
            elif isinstance(row, HarnessRow):  # the last row of a sum
                self.summed_up = row.baseline
            elif isinstance(row, ProfileRow):
                self.rows = [r for r in self.rows if summary.key_of(r) != summary.key_of(row)] + [row]
            elif isinstance(row, MachineRow):
                self.machine = summary.faster(self.machine, row)
            elif isinstance(row, BreakdownRow):
                self.broken_down.add(summary.key_of(row))

    def of(self, cell: Cell, stage: str) -> list[MeasurementRow]:
        """What was measured of a cell, by rounds; of two measurements of one round (two writers, a repeat) as `that_count`.

        A round beyond those that every cell has (`--precision`) adds to what is known: if it failed, the others stand.
        """
        found = self._counted(cell, stage)
        if not any(row.status == "ok" for row in found):
            return found
        return [row for row in found if row.status == "ok" or row.round < self.request.rounds]

    def _counted(self, cell: Cell, stage: str) -> list[MeasurementRow]:
        """The measurement of each round that counts, by rounds."""
        by_round = that_count(self._all(cell, stage), lambda row: row.round)
        return [by_round[k] for k in sorted(by_round)]

    def _all(self, cell: Cell, stage: str) -> list[MeasurementRow]:
        return [row for row in self.measured if row.stage == stage and summary.key_of(row) == cell.key]

    def final(self, row: MeasurementRow) -> bool:
        """Whether it is not tried again: what failed once fails again, but for want of time if there is more of it now.

        Nor is a throughput, unless it ended for want of time or at the limit, and now there is more time or a higher limit.
        """
        if row.stopped_by == "limit":
            return 2 * row.batches[-1] > self.request.max_batch
        wanted_time = row.status == "timeout" or row.stopped_by == "time"
        return not wanted_time or row.budget is None or row.budget >= self.request.budget

    def rounds_lacking(self, cell: Cell) -> list[int]:
        """Nor is a backend of attention tried again that was far behind another."""
        found = [row for row in self.of(cell, "latency") if self.final(row)]
        if any(row.status != "ok" for row in found) or (found and self._behind(cell, found[0]) > FAR_BEHIND):
            return []
        return sorted(set(range(self.request.rounds)) - {row.round for row in found})

    def stages_lacking(self, cell: Cell) -> list[str]:
        """Stages beside latency that are asked for; a cell whose latency could not be measured has none."""
        if any(row.status != "ok" for row in self.of(cell, "latency")):
            return []
        return [stage for stage in self.stages() if not any(self.final(row) for row in self._all(cell, stage))]

    def _behind(self, cell: Cell, row: MeasurementRow) -> float:
        """How many times as long it took as the same cell with the fastest forced backend, in the same round."""
        rivals = [other for other in self.cells if replace(other, backend=cell.backend).key == cell.key]
        times = [r.samples for other in rivals for r in self.of(other, "latency") if r.round == row.round and r.samples]
        return statistics.median(row.samples) / min(map(statistics.median, times))

    def _rounds_reason(self, cell: Cell, timed: Sequence[MeasurementRow]) -> str:
        """Why a cell that was timed has fewer rounds than were asked for; empty if it has not."""
        if not timed or len(timed) >= self.request.rounds or any(row.status != "ok" for row in timed):
            return ""
        behind = self._behind(cell, timed[0])
        if behind <= FAR_BEHIND:
            return ""
        return (
            f"the attention backend {cell.backend} took {behind:.1f} times as long as the fastest in its first round, "
            "and was not timed again"
        )

    def stages(self) -> list[str]:
        """Stages beside latency that are asked for."""
        return ["memory"] * self.request.measures_memory + ["throughput"] * self.request.saturate

    def _has_process(self, stage: str) -> bool:
        """Whether a measurement of this stage has a process of its own."""
        return self.request.isolate or stage != "latency"

    def lacking(self) -> bool:
        """Whether anything is missing."""
        known = {summary.key_of(row): row for row in self.rows}
        return (
            self.summed_up != self.request.baseline
            or bool(self.imprecise())
            or any(
                cell.key not in known
                or self.rounds_lacking(cell)
                or self.stages_lacking(cell)
                or (self.request.breakdown and cell.key not in self.broken_down and known[cell.key].macs is not None)
                for cell in self.cells
            )
        )

    # --- measuring

    def count(self) -> None:
        """Count the work of the cells that no row counts yet."""
        began = time.perf_counter()
        known = {summary.key_of(row): row for row in self.rows}
        for cell in self.cells:
            if cell.key in known and not self.request.breakdown:
                continue
            self.watch.line(f"{cell.name}: counting")
            try:
                model = cell.build()
                shape = (cell.batch, model.config.in_channels, *model.config.image_size)
                fused = cell.backend != "math"
                if cell.mode == "infer":
                    model.to(DTYPES[cell.dtype])  # its bytes are counted
                counted, why = try_count(model, shape, PATH, fused_attention=fused)
                if counted is not None and cell.mode == "train":
                    counted = replace(counted, bytes_alive=bytes_of_training(model, shape, fused_attention=fused))
            except (InputError, MixerError):
                raise
            except Exception as e:  # a cell that cannot be built will be a row that says so
                self.counts[cell.key] = None, status_of(e)[1], None
            else:
                parameters = sum(p.numel() for p in model.parameters())
                self.counts[cell.key] = counted, why, parameters
                self.tell(cell)
        self.count_seconds = time.perf_counter() - began

    def measure(self) -> None:
        """Measure what is missing, in random order."""
        began = time.perf_counter()
        if not any(self.rounds_lacking(cell) or self.stages_lacking(cell) for cell in self.cells) and not self.imprecise():
            return
        if self.request.isolate:
            self._machine_rates()
            self._isolated()
            self._more_rounds()
        else:
            self._interleaved()
            if self.request.device == "cuda":
                torch.cuda.empty_cache()  # the processes that follow use the same device
        for cell in self.cells:
            for stage in self.stages_lacking(cell):
                self._one(cell, stage, 0)
        self.timing_seconds = time.perf_counter() - began

    def _isolated(self) -> None:
        for k in range(self.request.rounds):
            self._round(k, [cell for cell in self.cells if k in self.rounds_lacking(cell)])

    def _round(self, k: int, cells: Sequence[Cell]) -> None:
        """One round of the cells, block by block; what other work disturbed, or what fails but did not in another round, is
        measured again at the block's end, once.
        """
        waiting = {str(cell.key): cell for cell in cells}
        by_side = {key: cell.resolution for key, cell in waiting.items()}
        order = [waiting[key] for key in in_random_order(list(waiting), self.request.order_seed, k, by_side.get)]
        for _, own in itertools.groupby(order, key=lambda cell: cell.resolution):
            block = list(own)
            for cell in block:
                self._one(cell, "latency", k)
            for cell in block:
                if why := self._why_again(cell, k):
                    self.watch.line(f"{cell.name}, round {k + 1}: {why}; once more")
                    self._one(cell, "latency", k)

    def _why_again(self, cell: Cell, k: int) -> str:
        """Why a round of a cell is measured once more; empty if it is not."""
        rows = self._counted(cell, "latency")
        if any(row.crowded and row.status == "ok" for row in rows if row.round == k):
            return "other work kept the cores busy"
        failed = any(row.status != "ok" for row in rows if row.round == k)
        if failed and k < self.request.rounds and any(row.status == "ok" for row in rows):  # a round more may be lacking
            return "it failed, and did not in another round"
        return ""

    def imprecise(self) -> list[Cell]:
        """Cells whose speed-up is known less well than was asked for; one that failed in a round is not tried in more."""
        if self.request.precision is None:
            return []
        tried = [cell for cell in self.cells if all(row.status == "ok" for row in self._counted(cell, "latency"))]
        return [cell for cell in tried if self._half_width(cell) > self.request.precision]

    def _half_width(self, cell: Cell) -> float:
        """Of a cell's speed-up over the baseline's fastest cell beside it, relative; 0 where there is nothing to know."""
        times = self._by_round(cell)
        beside = self._baseline_of(cell)
        if beside is None or not times:
            return 0.0
        theirs = self._by_round(beside)
        common = sorted(times.keys() & theirs.keys())
        found = paired_ratio([times[k] for k in common], [theirs[k] for k in common])
        return math.inf if found is None else found.relative_half_width

    def _baseline_of(self, cell: Cell) -> Cell | None:
        """The baseline's fastest cell at the same resolution; None if there is none, or the cell is of the baseline itself."""
        own = [other for other in self.cells if scheduled(other.config) == self.request.baseline and not other.variant]
        timed = [other for other in own if other.resolution == cell.resolution and self._by_round(other)]
        if cell in own or not timed:
            return None
        return min(timed, key=lambda other: statistics.median(self._by_round(other).values()))

    def _by_round(self, cell: Cell) -> dict[int, float]:
        """The median of each round; empty for a cell that failed."""
        rows = self.of(cell, "latency")
        return {} if any(row.status != "ok" for row in rows) else {row.round: statistics.median(row.samples) for row in rows}

    def _more_rounds(self) -> None:
        """Rounds of the cells that are not known well enough, each beside its baseline, until they are or time is up."""
        deadline = time.monotonic() + 60 * self.request.more_minutes
        while wide := self.imprecise():
            if time.monotonic() >= deadline:
                names = ", ".join(cell.name for cell in wide)
                self.watch.line(f"{self.request.more_minutes:g} minutes of more rounds are over; known less well: {names}")
                return
            k = 1 + max(row.round for cell in self.cells for row in self._counted(cell, "latency"))
            beside = [base for cell in wide if (base := self._baseline_of(cell)) is not None]
            self.watch.line(f"round {k + 1}: {len(wide)} cells are known less well than was asked")
            self._round(k, list(dict.fromkeys([*wide, *beside])))

    def _one(self, cell: Cell, stage: str, k: int) -> None:
        request = self.request
        of = f" of {request.rounds}" if k < request.rounds else ""
        self.watch.line(f"{cell.name}: {stage}{f', round {k + 1}{of}' if stage == 'latency' else ''}")
        rounds = max(request.rounds, LEAST_THROUGHPUT_ROUNDS)
        job = Job(stage, cell, torch.get_num_threads(), request.sampling_seconds, request.budget, rounds, request.max_batch)
        environment = EXACT_MEMORY if stage == "memory" else None  # read when a library is loaded: a fresh process
        done = run_isolated(
            "wfbench.tasks.profile.worker",
            job.payload(),
            timeout=request.budget + _START_UP,
            environment=environment,
            fork=request.protocol == FORKED and stage == "latency",
        )
        found = done.result if done.status == "ok" else {"status": done.status, "message": done.message}
        self._record(cell, stage, k, found, done.wall_seconds, done.origin)

    def _interleaved(self) -> None:
        calls: dict[str, Callable[[], object]] = {}
        names = {str(cell.key): cell for cell in self.cells}
        skip = {(key, row.round) for key, cell in names.items() for row in self.of(cell, "latency")}
        for key, cell in names.items():
            if not self.rounds_lacking(cell):
                continue
            try:
                calls[key] = cell.call()
            except (InputError, MixerError):
                raise
            except Exception as e:
                status, message = status_of(e)
                self._record(cell, "latency", 0, {"status": status, "message": message}, 0.0)
        spent = dict.fromkeys(names, 0.0)

        def sampled(key: str, k: int, timed: Timed) -> None:
            within, spent[key] = timed.call_seconds - spent[key], timed.call_seconds
            found = {"status": timed.status, "message": timed.message, "samples": timed.samples[-1:], "call_seconds": within}
            self._record(names[key], "latency", k, found, within)

        time_interleaved(
            calls,
            rounds=self.request.rounds,
            order_seed=self.request.order_seed,
            seconds=self.request.sampling_seconds,
            block=lambda key: names[key].resolution,
            skip=skip,
            done=lambda key, stage: self.watch.line(f"{names[key].name}: {stage}"),
            sampled=sampled,
        )

    def _record(self, cell: Cell, stage: str, k: int, found: dict[str, Any], wall: float, origin: Origin | None = None) -> None:
        row = MeasurementRow(
            **self.shared(cell),
            created=records.now(),
            stage=stage,
            round=k,
            order_seed=self.request.order_seed,
            budget=self.request.budget if self._has_process(stage) else None,
            origin=origin,
            wall_seconds=wall,
            **{"call_seconds": 0.0, **found},
        )
        records.append(self.journal, [row])
        self.measured.append(row)
        self.new.append(row)
        self.tell(cell)

    def _machine_rates(self) -> None:
        """This machine's rates, in every call that measures: a session keeps the fastest."""
        self.watch.line("this machine: matrix product and copy")
        job = Job("machine", self.cells[0], torch.get_num_threads(), self.request.sampling_seconds, self.request.budget)
        done = run_isolated(
            "wfbench.tasks.profile.worker",
            job.payload(),
            timeout=self.request.budget + _START_UP,
            fork=self.request.device == "cpu",
        )
        if done.status != "ok" or done.result["status"] != "ok":
            self.watch.line(f"this machine's rates are unknown: {done.message or done.result['message']}")
            return
        rates = {key: value for key, value in done.result.items() if key not in ("status", "message")}
        row = MachineRow(environment=self.environment, session=self.session, dtype=self.request.dtype, **rates)
        records.append(self.journal, [row])
        self.machine = summary.faster(self.machine, row)

    # --- summing up

    def shared(self, cell: Cell) -> dict[str, Any]:
        """What every row of a cell carries."""
        return {
            "environment": self.environment,
            "session": self.session,
            "model": cell.named_model or cell.model,
            **factors_of(cell.config),
            "variant": cell.variant,
            "resolution": (cell.resolution, cell.resolution),
            "downsample": cell.downsample,
            "tokens": cell.tokens,
            "batch": cell.batch,
            "token_budget": self.request.tokens,
            "mode": cell.mode,
            "dtype": cell.dtype_label,
            "compiled": cell.compiled,
            "channels_last": cell.channels_last,
            "sdpa_backend": cell.backend,
            "path": PATH,
            "protocol": self.request.protocol,
            "decoder": cell.decoder,
        }

    def row(self, cell: Cell) -> ProfileRow:
        """The cell, summed up."""
        before = next((row for row in self.rows if summary.key_of(row) == cell.key), None)
        counted = summary.counted(*self.counts[cell.key]) if cell.key in self.counts else summary.recalled(before)
        if cell.dtype_label.endswith("autocast"):  # the shapes do not say what is cast: no number rather than a wrong one
            counted |= dict.fromkeys(("bytes_least", "bytes_moved", "bytes_alive"))
        timed = self.of(cell, "latency")
        fields = {
            **self.shared(cell),
            "created": self.began,
            "order_seed": timed[0].order_seed if timed else self.request.order_seed,
            **counted,
            **summary.timing(timed),
            "rounds_reason": self._rounds_reason(cell, timed),
            **summary.memory(self.of(cell, "memory")),
        }
        fields |= summary.roofline(fields, self.machine)
        return ProfileRow(**fields)

    def sum_up(self) -> list[AnyRow]:
        """Rows of this request's cells, and of what all cells of the session say together."""
        ours = [self.row(cell) for cell in self.cells]
        keys = {cell.key for cell in self.cells}
        others = [row for row in self.rows if summary.key_of(row) not in keys]
        bounds = [summary.roofline(row.model_dump(), self.machine) for row in others]  # the machine may have shown more
        others = [row.model_copy(update=bound) for row, bound in zip(others, bounds, strict=True)]
        session = [*others, *ours]
        derived = derived_rows(session, self.request.baseline, self.began)
        added: list[AnyRow] = [*session, *derived, *self._throughput(), *self._breakdown(), self._harness()]
        if not any(isinstance(row, CrossoverRow) for row in derived):
            self.watch.line(f"no crossovers: the baseline {self.request.baseline} and another mixer need two sides in common")
        records.append(self.journal, added)
        return added

    def _throughput(self) -> Iterable[AnyRow]:
        for cell in self.cells:
            for row in self.of(cell, "throughput"):
                yield summary.throughput(row)

    def _breakdown(self) -> Iterable[AnyRow]:
        for cell in self.cells:
            count = self.counts.get(cell.key, (None,))[0]
            if self.request.breakdown and count is not None and count.number is not None:
                by = {"by_module": dict(count.by_module), "by_operator": dict(count.by_operator)}
                yield BreakdownRow(**self.shared(cell), **by)

    def _harness(self) -> HarnessRow:
        fixed = [row.wall_seconds - row.call_seconds for row in self.new if row.stage == "latency" and row.status == "ok"]
        return HarnessRow(
            environment=self.environment,
            session=self.session,
            protocol=self.request.protocol,
            baseline=self.request.baseline,
            precision=self.request.precision,
            wall_seconds=self.timing_seconds,
            call_seconds=sum(row.call_seconds for row in self.new),
            count_seconds=self.count_seconds,
            processes=sum(self._has_process(row.stage) for row in self.new),
            forks=sum(row.origin == "fork" for row in self.new),
            fixed_seconds=statistics.median(fixed) if fixed and self.request.isolate else None,
            load=(self.load, os.getloadavg()[0]),
        )

    def tell(self, cell: Cell) -> None:
        """Tell the watcher what is known of a cell."""
        timing = summary.timing(self.of(cell, "latency"))
        memory = summary.memory(self.of(cell, "memory"))
        figures: dict[str, str] = {}
        if cell.key in self.counts:
            count = self.counts[cell.key][0]
            at_least = "≥ " if count is not None and count.number is None else ""
            figures["GMACs"] = "refused" if count is None else f"{at_least}{count.macs / 1e9:.4g}"
        if self.of(cell, "latency"):
            rounds = len(self.of(cell, "latency"))
            figures["rounds"] = f"{rounds}/{self.request.rounds}" if rounds <= self.request.rounds else f"{rounds}"
            median = timing.get("median")
            figures["latency"] = timing["status"] if median is None else f"{1e3 * median:.4g} ms"
        if memory:
            peak = memory.get("memory_bytes")
            figures["memory"] = memory["memory_status"] if peak is None else f"{peak / 1e6:.4g} MB"
        if figures:
            self.watch.cell(cell, figures)
