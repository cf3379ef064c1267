"""``wfbench predict``: times, memory and crossovers of cells that were never run, from the records of a profile."""

from __future__ import annotations

import math
import statistics
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mixers import MixerError
from wfbench import models, records
from wfbench.analysis.cells import Profile, Setting, cell_key, profiles_of
from wfbench.analysis.lines import BASELINE, CHOSEN_BACKEND, factors, group, label, latest, scheduled
from wfbench.analysis.prediction import Measured, Place, Predicted, Predictor, question_of
from wfbench.errors import InputError, did_you_mean
from wfbench.measure import scaling
from wfbench.measure.latency import Sampler
from wfbench.measure.scaling import Crossover, crossover
from wfbench.measure.work import Work, features, microbenchmarks, work_of_model
from wfbench.models import PRESETS, DiTConfig, ViTConfig
from wfbench.records import (
    FACTORS,
    AnyRow,
    Environment,
    HeldOutRow,
    MicrobenchmarkRow,
    PredictedCrossoverRow,
    PredictionRow,
    ProfileRow,
    Quantity,
    Row,
)
from wfbench.tasks.common import error_in_short
from wfbench.tasks.profile.cell import DTYPES

#: Rounds of each microbenchmark, and seconds of each round.
ROUNDS, SECONDS = 5, 0.05
#: The operators of attention as several are those of the backend that has no fused kernel.
_UNFUSED = "math"
#: Sides of images at which a crossover is looked for.
_PLACES = 25


@dataclass(frozen=True)
class PredictRequest:
    """What is predicted.

    Attributes:
        mixers: by name; empty for those of the records.
        resolutions: sides in pixels; empty for twice the largest side of the records.
        model: a preset; None for that of the records.
        batch: images of a call; None for that of the records, which must have one alone.
        baseline: the mixer that crossovers are found against; None for softmax, or for none where it was not measured.
        measured_to: calibrate by cells up to this side in pixels alone; None for all.
    """

    mixers: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
    model: str | None = None
    batch: int | None = None
    baseline: str | None = None
    measured_to: int | None = None


def calibrate(profile: Profile, *, say: Callable[[str], None] = lambda line: None) -> list[MicrobenchmarkRow]:
    """Time every kind of operator alone, on this machine, which must be the one that the profile is of.

    Raises:
        InputError: on another machine.
    """
    there = profile.cells[0].environment
    before = torch.get_num_threads()
    torch.set_num_threads(there.threads)
    try:
        here = _here(there)
        dtype = DTYPES[profile.setting.dtype]
        benchmarks = list(microbenchmarks(there.device_type))
        medians: list[list[float]] = [[] for _ in benchmarks]
        for number in range(ROUNDS):
            for benchmark, own in zip(benchmarks, medians, strict=True):
                sampler = Sampler(benchmark.call(dtype, there.device_type), there.threads, there.device_type)
                own.append(statistics.median(sampler.samples(SECONDS, 3, 60.0)))
            say(f"microbenchmarks: round {number + 1} of {ROUNDS}")
    finally:
        torch.set_num_threads(before)
    return [
        MicrobenchmarkRow(
            environment=here,
            name=benchmark.name,
            dtype=profile.setting.dtype,
            round_medians=tuple(own),
            calls=work.calls,
            macs=dict(work.macs),
            bytes=dict(work.bytes),
        )
        for benchmark, own in zip(benchmarks, medians, strict=True)
        for work in (benchmark.work(dtype),)
    ]


def _here(there: Environment) -> Environment:
    """The stamp of this machine, which must be that one; with as many threads set."""
    if there.device_type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "the microbenchmarks need the device of the profile",
            got="no CUDA device here",
            expected=there.device,
            remedy="leave --calibrate out, or call it on that machine",
        )
    here = records.stamp(there.device_type)
    if here.device != there.device:
        raise InputError(
            "the microbenchmarks would be of another machine than the profile",
            got=here.device,
            expected=there.device,
            remedy="leave --calibrate out, or measure a profile here with `wfbench profile`",
        )
    return here


def profile_in(rows: Iterable[AnyRow]) -> list[Profile]:
    """The profiles of one machine and one way to run a model that the rows hold, at least one; they may differ in size.

    Raises:
        InputError: where there is none, or there are several machines or ways; for a profile that cannot be predicted from.
    """
    rows = list(rows)
    found = [_with_all_cells(profile) for profile in profiles_of(rows)]
    found = [profile for profile in found if any(row.status == "ok" for row in profile.cells)]
    if not found:
        raise InputError(
            "nothing to predict from",
            got="no measured cell of a profile",
            expected="records of `wfbench profile`",
            remedy="wfbench profile --out results/mine, then wfbench predict results/mine",
        )
    ways: dict[tuple[object, ...], list[Profile]] = {}
    for profile in found:
        ways.setdefault(_way(profile.setting), []).append(profile)
    if len(ways) > 1:
        raise InputError(
            "the records are of several machines, or several ways to run a model",
            got="; ".join(", ".join(str(value) for value in way if value not in (False, "")) for way in ways),
            expected="one of them",
            remedy="name the folders of one of them",
        )
    setting = found[0].setting
    unfit = [
        word for word, is_so in (("training steps", setting.mode == "train"), ("compiled models", setting.compiled)) if is_so
    ]
    if denoisers := sorted({row.model for profile in found for row in profile.cells if _is_denoiser(row)}):
        raise InputError(
            "times of denoisers are not predicted",
            got=", ".join(denoisers),
            expected="records of a ViT of `wfbench models`",
            remedy="measure the cells with `wfbench profile`, or name the folders of a ViT's records alone",
        )
    if unfit or any(row.decoder is not None or " of " in row.model for profile in found for row in profile.cells):
        raise InputError(
            "these times are not predicted",
            got=", ".join(unfit) or "models of a recipe",
            expected="forward passes of a named model, not compiled",
            remedy="measure them with `wfbench profile`",
        )
    return found


def _is_denoiser(row: ProfileRow) -> bool:
    return isinstance(PRESETS.get(row.model.partition(" of ")[0]), DiTConfig)


def _with_all_cells(profile: Profile) -> Profile:
    """The same with the cells of all its sessions, each as it was measured last."""
    return replace(profile, cells=tuple(latest((row for rows in profile.sessions.values() for row in rows), cell_key)))


def left_out(profiles: Sequence[Profile]) -> list[str]:
    """The rows that are not predicted from, since a later session measured their cells again: one text for each session."""
    found = []
    for profile in profiles:
        for name, rows in profile.sessions.items():
            kept = {cell_key(row) for row in profile.cells if row.session == name}
            if over := [row for row in latest(rows, cell_key) if cell_key(row) not in kept]:
                lines = ", ".join(sorted({label(row) for row in over}))
                what = f"{len(over)} cells of session {name} of {profile.setting.model}"
                found.append(f"left out: {what}, of {lines}: measured again later")
    return found


def _way(setting: Setting) -> tuple[object, ...]:
    """What all cells that times are predicted from share."""
    own = setting
    return own.device, f"{own.threads} threads", own.dtype, own.mode, own.protocol, own.compiled, own.channels_last, own.tf32


def predict(
    profiles: Sequence[Profile],
    micro: Sequence[MicrobenchmarkRow],
    request: PredictRequest,
    *,
    works: Works | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Held-out errors, predictions and crossovers, as rows.

    Args:
        profiles: as `profile_in` gives them.
        micro: of the same machine.
        request: what is predicted.
        works: what `check` has counted already.
        say: hears which lines are left out, and why, and what was measured.

    Raises:
        InputError, MixerError: for a model, mixer, baseline or resolution that cannot be.
    """
    works = works or Works()
    every = _of_today(profiles, request, works, say)
    rows = _used(every, request)
    timed = [(row, row.median) for row in rows if row.median is not None]
    held = [(row, row.memory_bytes) for row in rows if row.memory_status == "ok" and row.memory_bytes is not None]
    times = _predictor([(works.place(row), value) for row, value in timed], micro)
    memory = _predictor([(works.memory_place(row), value) for row, value in held], ()) if held else None
    call = _call(rows)
    made: list[Row] = []
    for quantity, predictor in _both(times, memory):
        made += [
            HeldOutRow(
                quantity=quantity,
                question=cell.question,
                mixer=cell.mixer,
                size=cell.size,
                tokens=cell.tokens,
                step=cell.step,
                measured=cell.measured,
                predicted=cell.predicted,
                **call,
            )
            for cell in predictor.held_out
        ]
    targets = _targets(request, rows, works, say)
    measured = {_key(row) for row in rows}
    known = group((target for target in targets if _key(target) in measured), lambda row: f"{row.model}, {label(row)}")
    for name, own in known.items():
        sides = ", ".join(str(row.resolution[0]) for row in own)
        say(f"measured, see the tables of the profile: {name} at {sides} px")
    for target in targets:
        if _key(target) in measured:
            continue
        why = works.why_none(target)
        for quantity, predictor in _both(times, memory):
            found = predictor.predict(_place(works, target, quantity)) if not why else _refused(target, why, predictor)
            made.append(_row(target, found, quantity, call, len(timed if quantity == "latency" else held), len(micro)))
    made += _crossovers(times, works, request, rows, every, targets, call, say)
    return made


def check(
    profiles: Sequence[Profile], request: PredictRequest, *, calibrating: bool = False, works: Works | None = None
) -> Works:
    """Refuse a request that cannot be; the errors are those of `predict`, and of `calibrate`.

    Args:
        profiles, request: as `predict` takes them.
        calibrating: whether microbenchmarks are to be timed here.
        works: what was counted already.

    Returns:
        What was counted of the cells, for `predict`.
    """
    if calibrating:
        _here(profiles[0].cells[0].environment)
    works = works or Works()
    rows = _used(_of_today(profiles, request, works), request)
    _baseline(rows, request)
    _targets(request, rows, works)
    return works


def _of_today(
    profiles: Sequence[Profile], request: PredictRequest, works: Works, say: Callable[[str], None] = lambda line: None
) -> list[ProfileRow]:
    """The measured cells whose models are still those that were measured; each other line is left out, and named.

    Raises:
        InputError: for a mixer that was asked for and has changed, or if no line is left.
    """
    rows = [row for profile in profiles for row in profile.cells if row.status == "ok"]
    changed: dict[tuple[str, str], str] = {}
    for row in rows:
        if why := works.changed(row):
            changed.setdefault((row.model, label(row)), why)
    left = [row for row in rows if (row.model, label(row)) not in changed]
    named = [row for row in rows if row.mixer in request.mixers and (row.model, label(row)) in changed]
    if named or not left:
        raise InputError(
            "the measured models are not those of the code here",
            got="; ".join(f"{model}, {line}: {why}" for (model, line), why in changed.items()),
            expected="the same code as when the profile was measured",
            remedy="measure a profile again with `wfbench profile`",
        )
    for (model, line), why in changed.items():
        say(f"left out: {model}, {line}: {why}")
    return left


def _baseline(rows: Sequence[ProfileRow], request: PredictRequest) -> list[ProfileRow]:
    """The timed cells of the baseline; none where nobody named it and it was not measured.

    Raises:
        InputError: for a baseline that was named and not measured.
    """
    found = [row for row in rows if scheduled(row) == (request.baseline or BASELINE) and not row.variant and row.median]
    if request.baseline is not None and not found:
        known = sorted({scheduled(row) for row in rows if not row.variant})
        raise InputError(
            "the baseline was not measured",
            got=f"--baseline {request.baseline}",
            expected=f"one of {', '.join(known)}",
            remedy=did_you_mean(request.baseline, known),
        )
    return found


def _used(every: Sequence[ProfileRow], request: PredictRequest) -> list[ProfileRow]:
    """The cells that are predicted from."""
    rows = [row for row in every if request.measured_to is None or max(row.resolution) <= request.measured_to]
    if not rows:
        raise InputError(
            "nothing to predict from",
            got=f"no cell up to {request.measured_to} px",
            expected=f"{min(max(row.resolution) for row in every)} px or more",
            remedy="raise --measured-to",
        )
    return rows


def _both(times: Predictor, memory: Predictor | None) -> Iterator[tuple[Quantity, Predictor]]:
    yield "latency", times
    if memory is not None:
        yield "memory", memory


def _predictor(values: Sequence[tuple[Place, float]], micro: Sequence[MicrobenchmarkRow]) -> Predictor:
    single = [(features(Work(row.calls, row.macs, row.bytes, 0)), statistics.median(row.round_medians)) for row in micro]
    return Predictor.of([Measured(place, value) for place, value in values], single)


def _place(works: Works, row: ProfileRow, quantity: Quantity) -> Place:
    return works.place(row) if quantity == "latency" else works.memory_place(row)


def _refused(row: ProfileRow, why: str, predictor: Predictor) -> Predicted:
    """For a cell of which nothing can be predicted."""
    place = Place(_line(row), _size(row), row.tokens, np.array([]))  # whatever it does
    return Predicted(question_of(place, predictor.calibration.cells), None, why)


class Works:
    """The work of cells, and the parameters of their models, each counted once."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Work] = {}
        self._parameters: dict[tuple[object, ...], int] = {}
        self._why_not: dict[tuple[object, ...], str] = {}

    def of(self, row: ProfileRow) -> Work:
        """The work of a call of a cell.

        Raises:
            Exception: whatever a mixer raises that cannot be made so, or run on the meta device.
        """
        key = _key(row)
        if key not in self._found:
            side = row.resolution[0] // row.downsample, row.resolution[1] // row.downsample
            with torch.device("meta"):
                model = models.create(row.model, row.mixer, side, **_overrides(row)).to(DTYPES[row.dtype])
                inputs = model.example_inputs(row.batch, generator=torch.Generator())
            given = [t.to("meta").to(DTYPES[row.dtype]) if t.is_floating_point() else t.to("meta") for t in inputs]
            self._found[key] = work_of_model(model, given, fused_attention=row.sdpa_backend != _UNFUSED)
            self._parameters[key] = sum(p.numel() for p in model.parameters())
        return self._found[key]

    def why_not(self, row: ProfileRow) -> str:
        """Why the work of a cell cannot be counted; empty where it can."""
        key = _key(row)
        if key not in self._why_not:
            try:
                self.of(row)
            except Exception as e:
                self._why_not[key] = f"it cannot be made or counted here: {error_in_short(e)}"
            else:
                self._why_not[key] = ""
        return self._why_not[key]

    def why_none(self, row: ProfileRow) -> str:
        """Why nothing can be predicted of a cell; empty where something can."""
        if (why := self.why_not(row)) or not (unknown := self.of(row).unknown):
            return why
        return f"operators of no known kind: {', '.join(unknown)}"

    def changed(self, row: ProfileRow) -> str:
        """What the model that the code here makes has otherwise than the measured one, in words; empty if nothing is known."""
        if why := self.why_not(row):
            return why
        work = self.of(row)
        parameters = self._parameters[_key(row)]
        if row.parameters is not None and row.parameters != parameters:
            return f"{row.parameters:,} parameters in the record, and {parameters:,} here"
        if row.macs is None or work.unknown:
            return ""
        macs = sum(work.macs.values()) / row.batch
        same = math.isclose(macs, row.macs, rel_tol=1e-9)
        return "" if same else f"{row.macs:,.0f} MACs of an image in the record, and {macs:,.0f} here"

    def place(self, row: ProfileRow) -> Place:
        """Where a cell stands among times."""
        return Place(_line(row), _size(row), row.tokens, features(self.of(row)))

    def memory_place(self, row: ProfileRow) -> Place:
        """Where a cell stands among peaks of memory: bytes alive by the shapes, and what does not depend on them."""
        own = self.place(row)
        return Place(own.mixer, own.size, own.tokens, np.array([1.0, float(self.of(row).alive)]))


def _line(row: ProfileRow) -> str:
    """The mixer with all that belongs to it, whatever the size of the model."""
    return label(row.model_copy(update={"variant": ""}))


def _size(row: ProfileRow) -> str:
    return f"{row.model}{f', {row.variant}' if row.variant else ''}, batch {row.batch}"


def _key(row: ProfileRow) -> tuple[object, ...]:
    return row.model, scheduled(row), factors(row), row.variant, row.sdpa_backend, row.resolution, row.batch, row.dtype


def _overrides(row: ProfileRow) -> dict[str, Any]:
    """What differs from the preset, as keyword arguments of `wfbench.models.create`; a variant is "patch 32" or "depth 6"."""
    chosen = {name: getattr(row, name) for name in FACTORS if getattr(row, name) is not None}
    word, _, count = row.variant.partition(" ")
    return chosen | ({{"patch": "patch_size"}.get(word, word): int(count)} if word else {})


@dataclass(frozen=True)
class _Asked:
    """Which model, how many images of a call, and which sides in pixels are asked for."""

    model: str
    batch: int
    sides: tuple[int, ...]

    def at(self, row: ProfileRow, side: int) -> ProfileRow:
        """A line's cell at a side, as a row without results.

        Raises:
            InputError, MixerError: for a side that is no multiple of the patch, or an option that the model does not have.
        """
        config = models.configure(self.model, row.mixer, side, **_overrides(row))
        rows, columns = models.patch_grid(config.image_size, config.patch_size)
        changed = {"model": self.model, "batch": self.batch, "token_budget": None}
        return row.model_copy(update=changed | {"resolution": (side, side), "tokens": rows * columns})


def _asked(request: PredictRequest, rows: Sequence[ProfileRow]) -> _Asked:
    model = request.model or max(rows, key=lambda row: row.created).model
    if not isinstance(PRESETS.get(model), ViTConfig):
        known = [name for name, preset in PRESETS.items() if isinstance(preset, ViTConfig)]
        raise InputError(
            "unknown model", got=repr(model), expected="a ViT of `wfbench models`", remedy=did_you_mean(model, known)
        )
    batches = sorted({row.batch for row in rows if row.model == model} or {row.batch for row in rows})
    if request.batch is None and len(batches) > 1:
        raise InputError(
            "the records are of several batches",
            got=", ".join(map(str, batches)),
            expected="--batch, the images of a call that is predicted",
            remedy=f"add --batch {batches[0]}",
        )
    batch = batches[0] if request.batch is None else request.batch
    sides = request.resolutions or (2 * max(max(row.resolution) for row in rows),)
    for name, value in (("--resolution", min(sides)), ("--batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be positive", got=value, expected="1 or more", remedy="leave it out for the default")
    return _Asked(model, batch, tuple(dict.fromkeys(sides)))


def _lines(rows: Iterable[ProfileRow]) -> list[ProfileRow]:
    """One row of each line."""
    found: dict[object, ProfileRow] = {}
    for row in rows:
        found.setdefault((label(row), row.sdpa_backend), row)
    return list(found.values())


def _targets(
    request: PredictRequest, rows: Sequence[ProfileRow], works: Works, say: Callable[[str], None] = lambda line: None
) -> list[ProfileRow]:
    """The cells that are asked for, as rows without results; a line that cannot have a side is left out there, and named.

    Raises:
        InputError, MixerError: for a mixer that is not there, or where no cell can be.
    """
    asked, last = _asked(request, rows), max(rows, key=lambda row: row.created)
    lines = _lines(row for row in rows if not request.mixers or row.mixer in request.mixers)
    for mixer in request.mixers:
        if not any(row.mixer == mixer for row in lines):
            config = models.configure(asked.model, mixer)
            own = {"mixer": mixer, "sdpa_backend": CHOSEN_BACKEND, "variant": "", "every": None, "offset": None}
            factors_ = {"between": None, "local_conv": config.local_conv, "pos_embed": config.pos_embed}
            lines.append(last.model_copy(update=own | factors_))
    found: list[ProfileRow] = []
    left: dict[str, str] = {}
    for row in lines:
        for side in asked.sides:
            try:
                found.append(asked.at(row, side))
            except (InputError, MixerError) as e:
                left[f"{asked.model}, {label(row)} at {side} px"] = error_in_short(e)
    unfit = left | {f"{cell.model}, {label(cell)} at {cell.resolution[0]} px": works.why_not(cell) for cell in found}
    if all(unfit.values()):
        raise InputError(
            "none of the cells can be predicted",
            got="; ".join(f"{name}: {why}" for name, why in unfit.items()),
            expected="a model that can be made and run at one of the sides, at least",
            remedy="choose other sides with --resolution, or other mixers with --mixer",
        )
    for name, why in left.items():
        say(f"left out: {name}: {why}")
    return found


def _call(rows: Sequence[ProfileRow]) -> dict[str, Any]:
    """What all rows of a call say, by the cells that it predicts from: of the call, and of the machine of the profile."""
    there = rows[0].environment
    return {
        "environment": records.stamp(),
        "session": uuid.uuid4().hex[:12],
        "device": there.device,
        "threads": there.threads,
        "protocol": rows[0].protocol,
        "measured_to": max(row.tokens for row in rows),
    }


def _row(
    target: ProfileRow, found: Predicted, quantity: Quantity, call: dict[str, Any], cells: int, micro: int
) -> PredictionRow:
    own = {
        name: getattr(target, name)
        for name in ("model", "mixer", *FACTORS, "variant", "resolution", "tokens", "batch", "dtype")
    }
    value = found.value
    return PredictionRow(
        quantity=quantity,
        question=found.question,
        sdpa_backend=target.sdpa_backend,
        cells=cells,
        microbenchmarks=micro,
        value=None if value is None else value.estimate,
        low=None if value is None else value.low,
        high=None if value is None else value.high,
        why_none=found.why_none,
        **call,
        **own,
    )


def _crossovers(
    times: Predictor,
    works: Works,
    request: PredictRequest,
    rows: Sequence[ProfileRow],
    every: Sequence[ProfileRow],
    targets: Sequence[ProfileRow],
    call: dict[str, Any],
    say: Callable[[str], None],
) -> Iterator[PredictedCrossoverRow]:
    """Of each line against the baseline's fastest one, at `_PLACES` sides from the smallest measured to the largest asked.

    Sides at which one of the two cannot be made or counted are left out, with a reason.
    """
    name_of_baseline = request.baseline or BASELINE
    asked, measured = _asked(request, rows), _baseline(rows, request)
    if not measured:
        say(f"no crossovers: {name_of_baseline} was not measured; name another baseline by --baseline")
        return
    lines: dict[str, ProfileRow] = {}
    for row in targets:
        if not row.variant and scheduled(row) != name_of_baseline:
            lines.setdefault(_line(row), row)
    first, last = min(max(row.resolution) for row in rows), max(asked.sides)
    patch = models.configure(asked.model, measured[0].mixer, **_overrides(measured[0])).patch_size
    sides = sorted({int(side) // patch * patch for side in np.geomspace(first, last, _PLACES)} | {first, last})

    def at(row: ProfileRow, side: int) -> Place | str:
        """Where a line's cell at a side stands, or why it has no place."""
        try:
            cell = asked.at(row, side)
        except (InputError, MixerError) as e:
            return error_in_short(e)
        return works.why_none(cell) or works.place(cell)

    def rank(row: ProfileRow) -> tuple[int, float]:
        """Of lines whose cells reach as far, the one that is fastest there comes first."""
        for side in reversed(sides):
            if isinstance(place := at(row, side), Place):
                return -side, times.calibration.value_of(place)
        return 0, 0.0

    fastest = min(_lines(measured), key=rank)
    baseline = [at(fastest, side) for side in sides]
    for name, row in lines.items():
        own = [at(row, side) for side in sides]
        pairs = [(a, b) for a, b in zip(own, baseline, strict=True) if isinstance(a, Place) and isinstance(b, Place)]
        missing = next((why for why in (*own, *baseline) if isinstance(why, str)), "")
        if missing and pairs:
            say(f"crossover of {name}: looked for at {len(pairs)} of {len(sides)} sides: {missing}")
        found = times.crossover([a for a, _ in pairs], [b for _, b in pairs]) if pairs else missing
        looked_to = pairs[-1][0].tokens if pairs else row.tokens
        theirs = _measured(name, row, request, every)
        yield _crossover_row(row, found, name_of_baseline, call, looked_to, theirs)


def _measured(name: str, row: ProfileRow, request: PredictRequest, every: Sequence[ProfileRow]) -> Crossover | None:
    """The crossover by measured cells, where some lie beyond those that were predicted from."""
    if request.measured_to is None:
        return None
    own = {r.tokens: r for r in every if _line(r) == name and _size(r) == _size(row) and r.median is not None}
    base: dict[int, float] = {}
    for r in every:
        if scheduled(r) == (request.baseline or BASELINE) and _size(r) == _size(row) and r.median is not None:
            base[r.tokens] = min(base.get(r.tokens, float("inf")), r.median)
    tokens = sorted(own.keys() & base.keys())
    if len(tokens) < 2:
        return None
    return crossover(tokens, [own[n].median or 0.0 for n in tokens], [base[n] for n in tokens])


def _crossover_row(
    row: ProfileRow,
    found: Crossover | str,
    baseline: str,
    call: dict[str, Any],
    looked_to: int,
    measured: Crossover | None,
) -> PredictedCrossoverRow:
    interval = None if isinstance(found, str) else found.interval
    theirs = None if measured is None else measured.interval
    return PredictedCrossoverRow(
        baseline=baseline,
        batch=row.batch,
        dtype=row.dtype,
        looked_to=looked_to,
        verdict=None if isinstance(found, str) else found.verdict,
        value=None if isinstance(found, str) else found.tokens,
        low=None if interval is None else interval.low,
        high=_upper_end(interval),
        why_none=found if isinstance(found, str) else "",
        measured_verdict=None if measured is None else measured.verdict,
        measured=None if measured is None else measured.tokens,
        measured_low=None if theirs is None else theirs.low,
        measured_high=_upper_end(theirs),
        **call,
        **{name: getattr(row, name) for name in ("model", "mixer", *FACTORS)},
    )


def _upper_end(interval: scaling.Interval | None) -> float | None:
    """As rows, which hold finite numbers, have it: None also where the interval has no upper end."""
    return None if interval is None or math.isinf(interval.high) else interval.high


def micro_of(rows: Iterable[AnyRow], profiles: Sequence[Profile]) -> list[MicrobenchmarkRow]:
    """The newest microbenchmark of each name on the profiles' machine, in their number format."""
    setting = profiles[0].setting
    newest: dict[str, MicrobenchmarkRow] = {}
    for row in rows:
        if isinstance(row, MicrobenchmarkRow) and (row.environment.device, row.environment.threads, row.dtype) == (
            setting.device,
            setting.threads,
            setting.dtype,
        ):
            before = newest.get(row.name)
            newest[row.name] = row if before is None or row.created >= before.created else before
    return list(newest.values())
