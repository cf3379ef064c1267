"""A recorded cell of a profile again: its speed-up over the baseline, its counts, its memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from mixers import MixerError
from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.analysis.cells import Profile
from wfbench.analysis.lines import CHOSEN_BACKEND
from wfbench.analysis.reproduction import (
    BETWEEN_RUNS,
    COARSEST,
    Number,
    compare,
    is_too_coarse,
    log_speed_ups,
    numbers_of,
)
from wfbench.errors import InputError
from wfbench.measure.latency import FORKED, INTERLEAVED, ISOLATED
from wfbench.models import DiTConfig
from wfbench.records import SCHEDULE, AnyRow, Environment, ProfileRow
from wfbench.records.identity import digest_text
from wfbench.tasks.profile import summary
from wfbench.tasks.profile.request import PATH, ROUNDS, ProfileRequest
from wfbench.tasks.profile.run import Watch as ProfileWatch
from wfbench.tasks.profile.run import profile as measure_profile
from wfbench.tasks.reproduce.cells import ProfileCell
from wfbench.tasks.reproduce.own import in_short
from wfbench.tasks.reproduce.training import said, threads, uncommitted
from wfbench.tasks.reproduce.verdict import Verdict, unequal

#: Peak memory, measured once in either run, is the same within the larger of this share and these bytes.
MEMORY_SHARE, MEMORY_BYTES = 0.10, 8e6
#: Counts of a row, in words; and those that follow from PyTorch's operators, which another version may have in other ways.
_COUNTS = {"parameters": "parameters", "macs": "MACs", "macs_at_least": "MACs at least"}
_BY_OPERATORS = {
    "elementwise": "elementwise operations",
    "elementwise_at_least": "elementwise operations at least",
    "activations": "activations",
    "bytes_least": "bytes at least",
    "bytes_moved": "bytes moved",
    "bytes_alive": "bytes by shapes",
}


class Measures(Protocol):
    """What measures a request into a journal: `wfbench.tasks.profile.run.profile`, or a stand-in."""

    def __call__(
        self, request: ProfileRequest, journal: Path, watch: ProfileWatch | None, only: Collection[summary.Key] | None
    ) -> list[AnyRow]:
        """Measure what the journal lacks."""
        ...


@dataclass(frozen=True, eq=False)
class ProfilePlan:
    """How a cell of a profile is repeated: a request of which it and the baseline's cell are measured."""

    cell: ProfileCell
    request: ProfileRequest
    differs: tuple[str, ...]

    @property
    def keys(self) -> tuple[summary.Key, summary.Key]:
        """Of the cell, and of the baseline's."""
        return summary.key_of(self.cell.row), summary.key_of(self.cell.baseline)


def plan_profile(cell: ProfileCell, *, device: str | None) -> ProfilePlan | list[str]:
    """How to measure a cell again, or what is missing for it, in words.

    Args:
        cell: what was recorded.
        device: "cpu" or "cuda"; None for the row's.
    """
    row, there = cell.row, cell.row.environment
    chosen = device or there.device_type
    if chosen == "cuda" and not torch.cuda.is_available():
        return [f"a CUDA device: it was measured on {there.device}"]
    with threads(there.threads):
        here = records.stamp(chosen)
    missing = _other_place(there, here)
    if row.path != PATH:
        missing.append(f"a way to time the evaluation path {row.path}: it is not timed any more")
    if missing:
        return missing
    try:
        request = _request_of(cell, chosen)
        keys = {made.key for made in request.cells()}
    except (InputError, MixerError) as e:
        return [in_short(e)]
    if request.protocol != row.protocol:
        return [f"the protocol {row.protocol}: here it would be {request.protocol}"]
    plan = ProfilePlan(cell, request, tuple(_differences(row, here)))
    if not keys.issuperset(plan.keys):
        return [f"such a cell: {cell.name}, and the baseline's with the attention backend {cell.baseline.sdpa_backend}"]
    return plan


def run_profiles(
    plans: Sequence[ProfilePlan], out: Path, watch: ProfileWatch, *, cells: int, measure: Measures = measure_profile
) -> list[Verdict]:
    """Measure the cells of plans that share a setting, each beside the baseline's in the same rounds, and compare.

    Args:
        plans: as `together` groups them.
        out: of all that this command makes; measurements that an earlier call left of the same cells are gone on with.
        watch: hears of the progress.
        cells: that were drawn.
        measure: what measures.
    """
    first = plans[0].request
    request = replace(
        first,
        mixers=tuple(dict.fromkeys(name for plan in plans for name in plan.request.mixers)),
        resolutions=tuple(sorted({side for plan in plans for side in plan.request.resolutions})),
    )
    wanted = {key for plan in plans for key in plan.keys}
    journal = out / f"profile-{digest_text(f'{request} {sorted(map(str, wanted))}')[:8]}.jsonl"
    with threads(first.threads or torch.get_num_threads()):
        measure(request, journal, watch, wanted)
    rows = _newest(journal)
    samples = [_logs(rows, plan) for plan in plans]
    recorded, new = [_recorded(plan) for plan in plans], numbers_of([sample or [] for sample in samples])
    return [
        judge_profile(plan, rows.get(plan.keys[0]), then, now, cells=cells, made=journal)
        for plan, then, now in zip(plans, recorded, new, strict=True)
    ]


def judge_profile(
    plan: ProfilePlan, row: ProfileRow | None, recorded: Number | None, new: Number | None, *, cells: int, made: Path
) -> Verdict:
    """Whether a cell's counts, memory and speed-up agree with the record; docs/REPRODUCE.md has the rule.

    Args:
        plan: what was recorded.
        row: the new row.
        recorded, new: the mean logarithms of the speed-ups round by round.
        cells: that were drawn.
        made: the file of the new measurements.
    """
    old = plan.cell.row
    if row is None or row.status != "ok" or recorded is None or new is None:
        status, why = ("error", "there is no such row") if row is None else (row.status, row.message or "too few rounds")
        answer = "disagree" if status == "error" else "cannot be compared"
        return Verdict(answer, f"it was timed then, and here: {status}, {why}", made=made)  # type: ignore[arg-type]
    found = compare(recorded, new, cells=cells, between=BETWEEN_RUNS)
    assert found.difference.low is not None
    assert found.difference.high is not None
    low, high = math.exp(found.difference.low), math.exp(found.difference.high)
    wrong = [*_unequal_counts(old, row), *_unequal_memory(old, row)]
    if wrong:
        answer, reason = "disagree", "; ".join(wrong)
    elif not found.agrees:
        answer, reason = "disagree", f"1 lies outside the interval of new / recorded, [{low:.3g}, {high:.3g}]"
    elif is_too_coarse(found):
        answer = "cannot be compared"
        reason = f"the rounds scatter so much that not even a change by a factor of {COARSEST:g} would be found"
    else:
        answer, reason = "agree", f"1 lies within the interval; {_counts_words(old, row)}{_memory_words(old, row)}"
    return Verdict(
        answer,  # type: ignore[arg-type]
        reason,
        math.exp(recorded.mean),
        math.exp(new.mean),
        difference=math.exp(found.difference.estimate),
        low=low,
        high=high,
        level=found.difference.level,
        found_from=math.exp(found.found_from),
        made=made,
    )


def together(plans: Sequence[ProfilePlan]) -> list[list[ProfilePlan]]:
    """The plans by what one request can measure: all equal but mixer and resolution."""
    groups: list[list[ProfilePlan]] = []
    for plan in plans:
        bare = replace(plan.request, mixers=(), resolutions=())
        for group in groups:
            if replace(group[0].request, mixers=(), resolutions=()) == bare:
                group.append(plan)
                break
        else:
            groups.append([plan])
    return groups


def speed_up_of(cell: ProfileCell) -> str:
    """What is compared, in words."""
    backend = cell.baseline.sdpa_backend
    return f"speed-up over {cell.profile.baseline_mixer}" + ("" if backend == CHOSEN_BACKEND else f" [{backend}]")


# --- what a row says


def _request_of(cell: ProfileCell, device: str) -> ProfileRequest:
    """The request whose cells these are.

    Raises:
        InputError, MixerError: for a model, a recipe or a mixer that is not there.
    """
    row = cell.row
    name, _, recipe_name = row.model.partition(" of ")
    recipe = _recipe_of(row, recipe_name) if recipe_name else None
    isolate = row.protocol != INTERLEAVED
    schedule: dict[str, Any] = {key: getattr(row, key) for key in SCHEDULE}
    rounds = ROUNDS[ISOLATED if isolate else INTERLEAVED]
    return ProfileRequest(
        model=name,
        mixers=tuple(dict.fromkeys((cell.profile.baseline_mixer, row.mixer))),
        baseline=cell.profile.baseline_mixer,
        resolutions=(row.resolution[0],),
        local_conv=row.local_conv,
        pos_embed=row.pos_embed,
        **schedule,
        recipe=recipe,
        classes=None if (classes := _said(row, "--classes")) is None else int(classes),
        pixel_space=row.downsample == 1 and isinstance(models.PRESETS.get(name), DiTConfig),
        batch=row.batch if row.token_budget is None else 1,
        tokens=row.token_budget,
        mode=row.mode,
        dtype=row.dtype.removesuffix(" autocast"),
        compile=row.compiled,
        channels_last=row.channels_last,
        device=device,
        threads=row.environment.threads,
        attention="auto" if cell.baseline.sdpa_backend == CHOSEN_BACKEND else "best",
        alternatives=bool(row.variant),
        isolate=isolate,
        memory=row.memory_status == "ok",
        rounds=max(rounds, len(row.round_medians)),
        seconds=None if (seconds := _said(row, "--seconds")) is None else float(seconds),
        budget=float(_said(row, "--budget") or ProfileRequest.budget),
        fork=row.protocol == FORKED,
    )


def _recipe_of(row: ProfileRow, name: str) -> recipes.Recipe:
    """The recipe of a row's model: that of its command, else the one that comes with the package under its name.

    Raises:
        InputError: if it is not there, or has another name.
    """
    recipe = recipes.load(_said(row, "--recipe") or name)
    if recipe.name != name:
        raise InputError(
            "the recipe of the row's command has another name",
            got=f"{recipe.name}, of {_said(row, '--recipe')}",
            expected=name,
            remedy="put the recipe's file back",
        )
    return recipe


def _said(row: ProfileRow, option: str) -> str | None:
    """What the row's command gave an option; of one that was given twice the last, as the command line has it."""
    return next(reversed(said(row.command, option)), None)


def _other_place(there: Environment, here: Environment) -> list[str]:
    """What forbids a comparison: a ratio of times belongs to the device, its threads and its arithmetic."""
    names = {"device": "the device", "device_type": "the kind of device", "threads": "the threads", "tf32": "TF32"}
    pairs = {words: (getattr(there, name), getattr(here, name)) for name, words in names.items()}
    return [f"{words}: {then} in the record, {now} here" for words, (then, now) in pairs.items() if then != now]


def _differences(row: ProfileRow, here: Environment) -> list[str]:
    """What may change a ratio, and does not forbid the comparison: versions and the code."""
    there = row.environment
    packages = ("torch", "timm", "numpy", "wfbench")
    found = [
        f"{name} {there.versions.get(name)} (here {here.versions.get(name)})"
        for name in packages
        if there.versions.get(name) != here.versions.get(name)
    ]
    if there.git_revision != here.git_revision:
        found.append(f"revision {(there.git_revision or 'unknown')[:12]} (here {(here.git_revision or 'unknown')[:12]})")
    return [*found, *uncommitted(there, here)]


# --- what is compared


def _recorded(plan: ProfilePlan) -> Number | None:
    """The recorded cell's number, with the spreads of all cells of its session."""
    profile = plan.cell.profile
    samples = {id(row): _of_session(profile, row) for row in profile.cells}
    kept = {name: sample for name, sample in samples.items() if sample}
    return dict(zip(kept, numbers_of(list(kept.values())), strict=True)).get(id(plan.cell.row))


def _of_session(profile: Profile, row: ProfileRow) -> list[float]:
    baseline = profile.baseline(row.resolution)
    if baseline is None or baseline is row or row.status != "ok":
        return []
    return log_speed_ups(row, baseline)


def _logs(rows: dict[summary.Key, ProfileRow], plan: ProfilePlan) -> list[float] | None:
    ours, theirs = (rows.get(key) for key in plan.keys)
    if ours is None or theirs is None or not ours.status == theirs.status == "ok":
        return None
    return log_speed_ups(ours, theirs)


def _newest(journal: Path) -> dict[summary.Key, ProfileRow]:
    """The cells of the newest session."""
    rows = [row for row in records.read(journal)[0] if isinstance(row, ProfileRow)] if journal.exists() else []
    return {summary.key_of(row): row for row in rows if row.session == rows[-1].session}


def _unequal_counts(old: ProfileRow, new: ProfileRow) -> list[str]:
    return unequal(old, new, _COUNTS | (_BY_OPERATORS if _same_torch(old, new) else {}))


def _counts_words(old: ProfileRow, new: ProfileRow) -> str:
    return "counts are equal" if _same_torch(old, new) else "parameters and MACs are equal"


def _same_torch(old: ProfileRow, new: ProfileRow) -> bool:
    return old.environment.versions.get("torch") == new.environment.versions.get("torch")


def _comparable_memory(old: ProfileRow, new: ProfileRow) -> bool:
    return _same_torch(old, new) and old.memory_bytes is not None and new.memory_bytes is not None


def _unequal_memory(old: ProfileRow, new: ProfileRow) -> list[str]:
    if not _comparable_memory(old, new):
        return []
    then, now = old.memory_bytes or 0.0, new.memory_bytes or 0.0
    if abs(now - then) <= max(MEMORY_SHARE * then, MEMORY_BYTES):
        return []
    return [f"peak memory: {then / 1e6:,.1f} MB in the record, {now / 1e6:,.1f} MB here"]


def _memory_words(old: ProfileRow, new: ProfileRow) -> str:
    if _comparable_memory(old, new):
        return f", memory within {100 * MEMORY_SHARE:.0f} %"
    return ", memory is not compared" if old.memory_bytes is not None else ""
