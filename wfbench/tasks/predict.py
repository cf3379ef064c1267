"""``wfbench predict``: times, memory and crossovers of cells that were never run, from the records of a profile."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wfbench import models, records
from wfbench.analysis.cells import Profile, Setting, profiles_of
from wfbench.analysis.lines import BASELINE, CHOSEN_BACKEND, factors, label, scheduled
from wfbench.analysis.prediction import Measured, Place, Predicted, Predictor, question_of
from wfbench.errors import InputError, did_you_mean
from wfbench.measure.latency import Sampler
from wfbench.measure.scaling import Crossover, crossover
from wfbench.measure.work import Work, features, microbenchmarks, work_of_model
from wfbench.models import PRESETS, ViTConfig
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
        batch: images of a call; None for that of the records.
        baseline: the mixer that crossovers are found against.
        measured_to: calibrate by cells up to this side in pixels alone; None for all.
    """

    mixers: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
    model: str | None = None
    batch: int | None = None
    baseline: str = BASELINE
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
    found = [profile for profile in profiles_of(rows) if any(row.status == "ok" for row in profile.cells)]
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
    if unfit or any(row.decoder is not None or " of " in row.model for profile in found for row in profile.cells):
        raise InputError(
            "these times are not predicted",
            got=", ".join(unfit) or "models of a recipe",
            expected="forward passes of a named model, not compiled",
            remedy="measure them with `wfbench profile`",
        )
    return found


def _way(setting: Setting) -> tuple[object, ...]:
    """What all cells that times are predicted from share."""
    own = setting
    return own.device, f"{own.threads} threads", own.dtype, own.mode, own.protocol, own.compiled, own.channels_last, own.tf32


def predict(profiles: Sequence[Profile], micro: Sequence[MicrobenchmarkRow], request: PredictRequest) -> list[Row]:
    """Held-out errors, predictions and crossovers, as rows.

    Args:
        profiles: as `profile_in` gives them.
        micro: of the same machine.
        request: what is predicted.

    Raises:
        InputError, MixerError: for a model, mixer or resolution that cannot be.
    """
    every = [row for profile in profiles for row in profile.cells if row.status == "ok"]
    rows = _used(every, request)
    works = _Works()
    timed = [(row, row.median) for row in rows if row.median is not None]
    held = [(row, row.memory_bytes) for row in rows if row.memory_status == "ok" and row.memory_bytes is not None]
    times = _predictor([(works.place(row), value) for row, value in timed], micro)
    memory = _predictor([(works.memory_place(row), value) for row, value in held], ()) if held else None
    session, environment = uuid.uuid4().hex[:12], records.stamp()
    made: list[Row] = []
    for quantity, predictor in _both(times, memory):
        made += [
            HeldOutRow(
                environment=environment,
                session=session,
                quantity=quantity,
                question=cell.question,
                mixer=cell.mixer,
                size=cell.size,
                tokens=cell.tokens,
                step=cell.step,
                measured=cell.measured,
                predicted=cell.predicted,
            )
            for cell in predictor.held_out
        ]
    targets = list(_targets(request, rows))
    known = {_key(row) for row in rows}
    for target in targets:
        if _key(target) in known:
            continue  # it was measured
        for quantity, predictor in _both(times, memory):
            place = works.place(target) if quantity == "latency" else works.memory_place(target)
            found = predictor.predict(place) if not works.of(target).unknown else _refused(works, target, predictor)
            made.append(_row(target, found, quantity, session, len(timed if quantity == "latency" else held), len(micro)))
    made += _crossovers(times, works, request, rows, every, targets, session)
    return made


def check(profiles: Sequence[Profile], request: PredictRequest, *, calibrating: bool = False) -> None:
    """Refuse a request that cannot be; the errors are those of `predict`, and of `calibrate`."""
    if calibrating:
        _here(profiles[0].cells[0].environment)
    every = [row for profile in profiles for row in profile.cells if row.status == "ok"]
    for target in _targets(request, _used(every, request)):
        with torch.device("meta"):
            models.create(target.model, target.mixer, target.resolution, **_overrides(target))


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


def _refused(works: _Works, row: ProfileRow, predictor: Predictor) -> Predicted:
    """For operators of no kind."""
    names = ", ".join(works.of(row).unknown)
    return Predicted(question_of(works.place(row), predictor.calibration.cells), None, f"operators of no known kind: {names}")


class _Works:
    """The work of cells, each counted once."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Work] = {}

    def of(self, row: ProfileRow) -> Work:
        """The work of a call of a cell."""
        key = _key(row)
        if key not in self._found:
            side = row.resolution[0] // row.downsample, row.resolution[1] // row.downsample
            with torch.device("meta"):
                model = models.create(row.model, row.mixer, side, **_overrides(row)).to(DTYPES[row.dtype])
                inputs = model.example_inputs(row.batch, generator=torch.Generator())
            given = [t.to("meta").to(DTYPES[row.dtype]) if t.is_floating_point() else t.to("meta") for t in inputs]
            self._found[key] = work_of_model(model, given, fused_attention=row.sdpa_backend != _UNFUSED)
        return self._found[key]

    def place(self, row: ProfileRow) -> Place:
        """Where a cell stands among times."""
        return Place(label(row.model_copy(update={"variant": ""})), _size(row), row.tokens, features(self.of(row)))

    def memory_place(self, row: ProfileRow) -> Place:
        """Where a cell stands among peaks of memory: bytes alive by the shapes, and what does not depend on them."""
        own = self.place(row)
        return Place(own.mixer, own.size, own.tokens, np.array([1.0, float(self.of(row).alive)]))


def _size(row: ProfileRow) -> str:
    return f"{row.model}{f', {row.variant}' if row.variant else ''}, batch {row.batch}"


def _key(row: ProfileRow) -> tuple[object, ...]:
    return row.model, scheduled(row), factors(row), row.variant, row.sdpa_backend, row.resolution, row.batch, row.dtype


def _overrides(row: ProfileRow) -> dict[str, Any]:
    """What differs from the preset, as keyword arguments of `wfbench.models.create`; a variant is "patch 32" or "depth 6"."""
    chosen = {name: getattr(row, name) for name in FACTORS if getattr(row, name) is not None}
    word, _, count = row.variant.partition(" ")
    return chosen | ({{"patch": "patch_size"}.get(word, word): int(count)} if word else {})


def _targets(request: PredictRequest, rows: Sequence[ProfileRow]) -> Iterator[ProfileRow]:
    """The cells that are asked for, as rows without results."""
    last = max(rows, key=lambda row: row.created)
    model = request.model or last.model
    if not isinstance(PRESETS.get(model), ViTConfig):
        known = [name for name, preset in PRESETS.items() if isinstance(preset, ViTConfig)]
        raise InputError(
            "unknown model", got=repr(model), expected="a ViT of `wfbench models`", remedy=did_you_mean(model, known)
        )
    batch = last.batch if request.batch is None else request.batch
    sides = sorted({max(row.resolution) for row in rows})
    resolutions = request.resolutions or (2 * sides[-1],)
    for name, value in (("--resolution", min(resolutions)), ("--batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be positive", got=value, expected="1 or more", remedy="leave it out for the default")
    lines: dict[object, ProfileRow] = {}
    for row in rows:
        if not request.mixers or row.mixer in request.mixers:
            lines.setdefault((label(row), row.sdpa_backend), row)
    for mixer in request.mixers:
        if not any(row.mixer == mixer for row in lines.values()):
            config = models.configure(model, mixer)
            lines[mixer] = last.model_copy(
                update={
                    "mixer": mixer,
                    "sdpa_backend": CHOSEN_BACKEND,
                    "variant": "",
                    "every": None,
                    "offset": None,
                    "between": None,
                }
                | {"local_conv": config.local_conv, "pos_embed": config.pos_embed}
            )
    for row in lines.values():
        for side in resolutions:
            config = models.configure(model, row.mixer, side, **_overrides(row))
            rows_, columns = (length // config.patch_size for length in config.image_size)
            yield row.model_copy(
                update={
                    "model": model,
                    "resolution": (side, side),
                    "tokens": rows_ * columns,
                    "batch": batch,
                    "token_budget": None,
                }
            )


def _row(target: ProfileRow, found: Predicted, quantity: Quantity, session: str, cells: int, micro: int) -> PredictionRow:
    own = {
        name: getattr(target, name)
        for name in ("model", "mixer", *FACTORS, "variant", "resolution", "tokens", "batch", "dtype")
    }
    value = found.value
    return PredictionRow(
        environment=records.stamp(),
        session=session,
        quantity=quantity,
        question=found.question,
        sdpa_backend=target.sdpa_backend,
        cells=cells,
        microbenchmarks=micro,
        value=None if value is None else value.estimate,
        low=None if value is None else value.low,
        high=None if value is None else value.high,
        why_none=found.why_none,
        **own,
    )


def _crossovers(
    times: Predictor,
    works: _Works,
    request: PredictRequest,
    rows: Sequence[ProfileRow],
    every: Sequence[ProfileRow],
    targets: Sequence[ProfileRow],
    session: str,
) -> Iterator[PredictedCrossoverRow]:
    """Of each line against the baseline's fastest one, at `_PLACES` sides from the smallest measured to the largest asked."""
    lines: dict[str, ProfileRow] = {}
    for row in targets:
        lines.setdefault(works.place(row).mixer if not row.variant else "", row)
    lines.pop("", None)
    base = [row for row in lines.values() if scheduled(row) == request.baseline]
    if not base:
        return
    first, last = min(max(row.resolution) for row in rows), max(max(row.resolution) for row in targets)
    patch = models.configure(base[0].model, base[0].mixer, first, **_overrides(base[0])).patch_size
    sides = sorted({int(side) // patch * patch for side in np.geomspace(first, last, _PLACES)} | {first, last})

    def along(row: ProfileRow) -> list[Place]:
        placed = []
        for side in sides:
            config = models.configure(row.model, row.mixer, side, **_overrides(row))
            tokens = (config.image_size[0] // config.patch_size) * (config.image_size[1] // config.patch_size)
            placed.append(works.place(row.model_copy(update={"resolution": (side, side), "tokens": tokens})))
        return placed

    def total(row: ProfileRow) -> float:
        return times.calibration.value_of(works.place(row))

    fastest = min(base, key=total)
    baseline = along(fastest)
    for name, row in lines.items():
        if scheduled(row) == request.baseline:
            continue
        unknown = works.of(row).unknown
        found = f"operators of no known kind: {', '.join(unknown)}" if unknown else times.crossover(along(row), baseline)
        yield _crossover_row(
            row, found, request, session, rows, baseline[-1].tokens, _measured(name, row, request, works, every)
        )


def _measured(
    name: str, row: ProfileRow, request: PredictRequest, works: _Works, every: Sequence[ProfileRow]
) -> Crossover | None:
    """The crossover by measured cells, where some lie beyond those that were predicted from."""
    if request.measured_to is None:
        return None
    own = {r.tokens: r for r in every if works.place(r).mixer == name and _size(r) == _size(row) and r.median is not None}
    base: dict[int, float] = {}
    for r in every:
        if scheduled(r) == request.baseline and _size(r) == _size(row) and r.median is not None:
            base[r.tokens] = min(base.get(r.tokens, float("inf")), r.median)
    tokens = sorted(own.keys() & base.keys())
    if len(tokens) < 2:
        return None
    return crossover(tokens, [own[n].median or 0.0 for n in tokens], [base[n] for n in tokens])


def _crossover_row(
    row: ProfileRow,
    found: Crossover | str,
    request: PredictRequest,
    session: str,
    rows: Sequence[ProfileRow],
    looked_to: int,
    measured: Crossover | None,
) -> PredictedCrossoverRow:
    interval = None if isinstance(found, str) else found.interval
    theirs = None if measured is None else measured.interval
    return PredictedCrossoverRow(
        environment=records.stamp(),
        session=session,
        baseline=request.baseline,
        batch=row.batch,
        dtype=row.dtype,
        measured_to=max(r.tokens for r in rows),
        looked_to=looked_to,
        verdict=None if isinstance(found, str) else found.verdict,
        value=None if isinstance(found, str) else found.tokens,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        why_none=found if isinstance(found, str) else "",
        measured_verdict=None if measured is None else measured.verdict,
        measured=None if measured is None else measured.tokens,
        measured_low=None if theirs is None else theirs.low,
        measured_high=None if theirs is None else theirs.high,
        **{name: getattr(row, name) for name in ("model", "mixer", *FACTORS)},
    )


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
            newest[row.name] = row
    return list(newest.values())
