"""Tables from records: what may stand side by side stands in one table, everything else is split.

Nothing is ranked: lines are in alphabetical order. A cell that failed and a count that was refused stay in the table, and
a note says why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar

import pandas as pd

from wfbench.records import AnyRow, BaselineRow, CrossoverRow, Environment, ProfileRow, Row, ScalingRow, TrainRow

if TYPE_CHECKING:
    from rich.console import Group

#: The mixer that speed-ups are measured against, with the same factors.
BASELINE = "softmax"

_FULL_COUNTS = 3  # so many counts of MACs have to agree before a number stands without a dagger
_SMALL_SIDE = 64  # up to this image side, a table says that small images reward convolutions
_DASH = "–"
_REFUSED = "refused"
_DAGGER = "†"
_FACTORS = ("mixer", "local_conv", "pos_embed")
_LEFT_ALIGNED = frozenset({"model", "mixer", "weights", "status", "baseline", "crossover"})

_R = TypeVar("_R", bound=Row)
_K = TypeVar("_K", bound=Hashable)
_Line = tuple[dict[str, str], dict[str, object]]  # the cells that people read, and the raw numbers of the same line


@dataclass(frozen=True, eq=False)
class Table:
    """One table: ``frame`` holds text for people, ``data`` the same lines as raw numbers (seconds, counts, fractions).

    ``name`` is the stem of its files.
    """

    name: str
    title: str
    frame: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """The title, the table and the notes as GitHub-flavoured Markdown."""
        columns = [str(column) for column in self.frame.columns]
        rules = [":---" if column in _LEFT_ALIGNED else "---:" for column in columns]
        body = [[_markdown(str(cell)) for cell in line] for line in self.frame.itertuples(index=False)]
        lines = ["| " + " | ".join(cells) + " |" for cells in [columns, rules, *body]]
        notes = ["", *(f"- {_markdown(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([f"## {_markdown(self.title)}", "", *lines, *notes]) + "\n"

    def to_rich(self) -> Group:
        """The title, the table and the notes, to be printed by a Rich console."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        # Text objects, since Rich would take square brackets in a plain string for markup.
        grid = RichTable(box=box.SIMPLE_HEAD)
        for column in self.frame.columns:
            justify: Literal["left", "right"] = "left" if column in _LEFT_ALIGNED else "right"
            grid.add_column(Text(str(column)), justify=justify, overflow="fold", no_wrap=column in ("model", "mixer"))
        for line in self.frame.itertuples(index=False):
            grid.add_row(*(Text(str(cell)) for cell in line))
        return Group(Text(self.title, style="bold"), grid, *(Text(f"• {note}", style="dim") for note in self.notes))


class _HasFactors(Protocol):
    """What names a line: a row about a model, or the key of such rows."""

    @property
    def model(self) -> str: ...
    @property
    def mixer(self) -> str: ...
    @property
    def local_conv(self) -> str: ...
    @property
    def pos_embed(self) -> str: ...


def factors(row: _HasFactors, *, all_positions: bool = False) -> str:
    """What was chosen beside the mixer, in words: "", "DWC", "DWC, rope2d"; rows with different ones never mix.

    A position is named where it is not the model's usual one (of weightformer-* none, of the others the learned one), and
    with ``all_positions`` wherever it is not the learned one.
    """
    usual = "none" if row.model.startswith("weightformer-") else "learned"
    named = row.pos_embed != usual or (all_positions and row.pos_embed != "learned")
    position = "no position" if row.pos_embed == "none" else row.pos_embed
    return ", ".join([*(["DWC"] if row.local_conv == "dwc" else []), *([position] if named else [])])


def label(row: _HasFactors, *, all_positions: bool = False) -> str:
    """The name of a mixer's line: "softmax", "softmax + DWC", "softmax, rope2d", "softmax + DWC, rope2d"."""
    chosen = factors(row, all_positions=all_positions)
    return row.mixer + (" + " if row.local_conv == "dwc" else ", " if chosen else "") + chosen


def tables(rows: Iterable[AnyRow]) -> list[Table]:
    """All tables that the rows give: accuracy and cost side by side, accuracy, then profiles, then crossovers."""
    rows = list(rows)
    profiles = _group((row for row in rows if isinstance(row, ProfileRow)), _profile_key)
    scaling = _group((row for row in rows if isinstance(row, ScalingRow)), _place)
    crossovers = [row for row in rows if isinstance(row, CrossoverRow)]
    accuracy, cost = _accuracy_tables(rows), _profile_tables(profiles, scaling)
    return [*_overview_tables(accuracy, cost), *accuracy, *cost, *_crossover_tables(profiles, crossovers)]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float | None]:
    """The mean and the half-width of its two-sided t-interval; no half-width for a single value."""
    from scipy.stats import t as student

    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, float(student.ppf((1 + level) / 2, count - 1)) * deviation / math.sqrt(count)


class _AccuracyKey(NamedTuple):
    """What the lines of one accuracy table share."""

    dataset: str
    recipe: str
    image_size: tuple[int, int]
    epochs: int
    device: str
    dtype: str


class _RunKey(NamedTuple):
    """What the runs of one line share: within a mean, only the seed differs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    recipe_digest: str
    weights: str
    batch: int
    steps: int
    parameters: int
    samples: int


def _accuracy_key(row: TrainRow) -> _AccuracyKey:
    return _AccuracyKey(row.dataset, row.recipe, row.image_size, row.epochs, row.environment.device, row.dtype)


def _run_key(row: TrainRow) -> _RunKey:
    return _RunKey(*(getattr(row, field) for field in _RunKey._fields))


def _accuracy_tables(rows: Sequence[AnyRow]) -> list[Table]:
    trained = _group((row for row in rows if isinstance(row, TrainRow)), _accuracy_key)
    simple = _group((row for row in rows if isinstance(row, BaselineRow)), lambda row: row.dataset)
    keys = sorted(trained)
    made = [
        _accuracy_table(f"accuracy{suffix}", key, trained[key], simple.get(key.dataset, []))
        for key, suffix in zip(keys, _suffixes([[key] for key in keys]), strict=True)
    ]
    alone = sorted(simple.keys() - {key.dataset for key in keys})
    return made + [_baseline_table(dataset, simple[dataset]) for dataset in alone]


def _accuracy_table(name: str, key: _AccuracyKey, rows: list[TrainRow], baselines: list[BaselineRow]) -> Table:
    groups = _group(rows, _run_key)
    # Where positions differ all are named, but for the learned one.
    differ = len({run.pos_embed for run in groups}) > 1
    labels = {run: label(run, all_positions=differ) for run in groups}
    runs = {
        run: _latest(groups[run], lambda row: row.seed) for run in sorted(groups, key=lambda run: (run.model, labels[run], run))
    }
    used = [row for seeds in runs.values() for row in seeds]
    varying = [
        field for field in ("recipe_digest", "weights", "batch", "steps") if len({getattr(row, field) for row in used}) > 1
    ]
    simple = _latest(baselines, lambda row: row.name)
    lines = [_accuracy_line(key, run, labels[run], seeds, varying) for run, seeds in runs.items()]
    lines += [_baseline_line(row) for row in simple]
    notes = [
        *_accuracy_notes(key, runs, varying),
        *_baseline_notes(simple, {row.samples for row in used}),
        *_digits_note(key.dataset),
        *_refused_notes((labels[_run_key(row)], row.macs, row.macs_error) for row in used),
        *_left_out_note(len(rows) - len(used)),
        *_environment_notes(row.environment for row in used),
    ]
    return _table(name, f"Accuracy: {_title([key])}", lines, notes)


def _baseline_table(dataset: str, rows: list[BaselineRow]) -> Table:
    simple = _latest(rows, lambda row: row.name)
    notes = [*_baseline_notes(simple, set()), *_digits_note(dataset)]
    name = f"accuracy-{_slug(dataset)}-baselines"
    return _table(name, f"Accuracy of simple classifiers: {dataset}", [_baseline_line(row) for row in simple], notes)


def _accuracy_line(key: _AccuracyKey, run: _RunKey, name: str, seeds: list[TrainRow], varying: Sequence[str]) -> _Line:
    seeds = sorted(seeds, key=lambda row: row.seed)
    last = max(seeds, key=lambda row: row.created)
    accuracy, interval = mean_interval([row.accuracy for row in seeds])
    means = {
        field: math.fsum(getattr(row, field) for row in seeds) / len(seeds)
        for field in ("loss", "images_per_second", "data_wait_share", "train_seconds")
    }
    cells = {
        "model": run.model,
        "mixer": name,
        **{field: str(getattr(run, field)) for field in varying},
        "params (M)": _number(run.parameters / 1e6),
        "GMACs": _macs(last.macs),
        "accuracy (%, measured)": _percent(accuracy) + ("" if interval is None else f" ± {_percent(interval)}"),
        "seeds": _plural(len(seeds), "seed"),
        "samples": f"{run.samples:,}",
        "loss": _number(means["loss"]),
        "images/s": _number(means["images_per_second"]),
        "data wait (%)": f"{100 * means['data_wait_share']:.1f}",
        "train (s)": _number(means["train_seconds"]),
    }
    raw = {
        **_flat(key),
        "label": name,
        **run._asdict(),
        "macs": last.macs,
        "macs_error": last.macs_error,
        "accuracy": accuracy,
        "accuracy_ci95": interval,
        "seed_count": len(seeds),
        "seeds": " ".join(str(row.seed) for row in seeds),
        "accuracy_by_seed": " ".join(repr(row.accuracy) for row in seeds),
        **means,
    }
    return cells, raw


def _baseline_line(row: BaselineRow) -> _Line:
    cells = {"mixer": row.name, "accuracy (%, measured)": _percent(row.accuracy), "samples": f"{row.samples:,}"}
    raw = {"baseline": row.name, "dataset": row.dataset, "accuracy": row.accuracy, "samples": row.samples}
    return cells, dict(raw)


def _accuracy_notes(key: _AccuracyKey, runs: Mapping[_RunKey, Sequence[TrainRow]], varying: Sequence[str]) -> list[str]:
    first = next(iter(runs))
    shared = [f"{field} {getattr(first, field)}" for field in ("weights", "batch", "steps") if field not in varying]
    notes = [
        f"Every accuracy was measured here, none is published: top-1 of the last epoch at {_pixels(key.image_size)} px, "
        f"{_plural(key.epochs, 'epoch')}, pretraining none{''.join(f', {part}' for part in shared)}.",
        "Lines are in alphabetical order.",
    ]
    counts = {len(seeds) for seeds in runs.values()}
    if counts != {1}:
        notes.append("± is the half-width of the 95% t-interval of the mean over the seeds.")
    if 1 in counts:
        notes.append("A single seed has no interval, so it ranks nothing.")
    if max(key.image_size) <= _SMALL_SIDE:
        notes.append(
            "Small images reward convolutions: they show whether a mixer trains, and differences within a family, "
            "not the rank on ImageNet or at high resolution."
        )
    return notes


def _baseline_notes(simple: Sequence[BaselineRow], samples: set[int]) -> list[str]:
    if not simple:
        return []
    notes = [f"Simple classifiers, no token mixers: {', '.join(row.name for row in simple)}."]
    if samples and {row.samples for row in simple} != samples:
        notes.append("The sample counts differ, so these accuracies are not all of the same held-out samples.")
    return notes


def _digits_note(dataset: str) -> list[str]:
    if not dataset.startswith("digits"):
        return []
    return ["Digits check the machinery and rank nothing: logistic regression and nearest neighbour do as well."]


class _ProfileKey(NamedTuple):
    """What the lines of one profile table share."""

    model: str
    factors: str
    device: str
    dtype: str
    threads: int
    batch: int
    mode: str
    protocol: str
    compiled: bool
    tf32: bool
    sdpa_backend: str
    path: str


_Key = _AccuracyKey | _ProfileKey
_Profiles = Mapping[_ProfileKey, list[ProfileRow]]
_Place = tuple[str, str, str]
_Scaling = Mapping[_Place, list[ScalingRow]]


def _profile_key(row: ProfileRow) -> _ProfileKey:
    place = row.environment
    return _ProfileKey(
        row.model,
        factors(row),
        place.device,
        row.dtype,
        place.threads,
        row.batch,
        row.mode,
        row.protocol,
        row.compiled,
        place.tf32,
        row.sdpa_backend,
        row.path,
    )


def _place(row: ScalingRow | CrossoverRow) -> _Place:
    """What an exponent or a crossover says of where it comes from."""
    return row.session, row.model, factors(row)


def _profile_tables(profiles: _Profiles, scaling: _Scaling) -> list[Table]:
    keys = sorted(profiles)
    suffixes = _suffixes([[key] for key in keys])
    return [_profile_table(f"profile{end}", key, profiles, scaling) for key, end in zip(keys, suffixes, strict=True)]


def _profile_table(name: str, key: _ProfileKey, profiles: _Profiles, scaling: _Scaling) -> Table:
    sessions = _group(profiles[key], lambda row: row.session)
    session = _latest_session(sessions)
    repeated = len(sessions[session])
    cells = _latest(sessions[session], lambda row: (row.mixer, row.tokens, row.resolution))
    ours = scaling.get((session, key.model, key.factors), [])
    clear = [row for row in ours if len(_owners(row, profiles)) == 1]
    exponents = {(row.mixer, row.high): row for row in _latest(clear, lambda row: (row.mixer, row.high))}
    softmax = {row.resolution: row.median for row in cells if row.mixer == BASELINE and row.status == "ok"}
    lines = [_profile_line(key, row, softmax.get(row.resolution), exponents.get((row.mixer, row.resolution))) for row in cells]
    notes = [
        _unit_note(key),
        *_failure_notes(cells),
        *_refused_notes((label(row), row.macs, row.macs_error) for row in cells if _needs_macs(row)),
        *_dagger_notes(cells),
        *_left_out_note(repeated - len(cells)),
        *_session_notes(session, sessions),
        *_environment_notes(row.environment for row in cells),
    ]
    if len(clear) < len(ours):
        notes.append("Some exponents are left out: their session holds several settings, and they do not say which they mean.")
    return _table(name, f"Profile: {_title([key])}", lines, notes)


def _latest_session(sessions: Mapping[str, Sequence[Row]]) -> str:
    # The last one of equals: rows come in the order of the file, and time stamps have a resolution of one second.
    return max(reversed(list(sessions)), key=lambda name: max(row.created for row in sessions[name]))


def _owners(row: ScalingRow, profiles: _Profiles) -> list[_ProfileKey]:
    """The settings in whose table an exponent may stand; its row names the session, model, factors and cell only."""
    return [
        key
        for key, cells in profiles.items()
        if key.factors == factors(row) and any(_is_upper_end(row, cell) for cell in cells)
    ]


def _is_upper_end(row: ScalingRow, cell: ProfileRow) -> bool:
    same = (cell.session, cell.model, cell.mixer, cell.resolution) == (row.session, row.model, row.mixer, row.high)
    return same and cell.status == "ok"


def _profile_line(key: _ProfileKey, row: ProfileRow, softmax: float | None, exponents: ScalingRow | None) -> _Line:
    median = row.median if row.status == "ok" else None
    speedup = softmax / median if softmax and median else None
    latency_exponent = exponents.latency_exponent if exponents else None
    macs_exponent = exponents.macs_exponent if exponents else None
    doubled = None if row.macs is None else 2 * row.macs
    doubt = _DAGGER if _in_doubt(row) else ""
    missing = _REFUSED if _needs_macs(row) else _DASH
    cells = {
        "mixer": label(row),
        "px": _pixels(row.resolution),
        "tokens": f"{row.tokens:,}",
        "params (M)": _number(row.parameters, 1e-6),
        "GMACs": _macs(row.macs, missing) + doubt,
        "GFLOPs": _macs(doubled, missing) + doubt,
        "elementwise (G)": _number(row.elementwise, 1e-9),
        "latency (ms)": _number(median, 1e3),
        "IQR (ms)": _quartiles(row),
        f"speed-up over {BASELINE}": _DASH if speedup is None else f"{_number(speedup)}×",
        "latency exponent": _DASH if latency_exponent is None else f"{latency_exponent:.2f}",
        "MACs exponent": _DASH if macs_exponent is None else f"{macs_exponent:.2f}",
        "status": row.status,
    }
    raw = {
        "session": row.session,
        "created": row.created,
        **_flat(key),
        "label": label(row),
        **{field: getattr(row, field) for field in _FACTORS},
        **_sides(row.resolution),
        "tokens": row.tokens,
        "status": row.status,
        "message": row.message,
        "parameters": row.parameters,
        "macs": row.macs,
        "flops": doubled,
        "counted_by": " ".join(row.counted_by),
        "macs_error": row.macs_error,
        "elementwise": row.elementwise,
        "timing_samples": len(row.samples),
        "median_seconds": row.median,
        "p25_seconds": row.p25,
        "p75_seconds": row.p75,
        "speedup": speedup,
        "latency_exponent": latency_exponent,
        "macs_exponent": macs_exponent,
    }
    return cells, raw


def _quartiles(row: ProfileRow) -> str:
    if row.status != "ok" or row.p25 is None or row.p75 is None:
        return _DASH
    return f"{_number(row.p25, 1e3)}–{_number(row.p75, 1e3)}"


def _needs_macs(row: ProfileRow) -> bool:
    """Whether a missing count is a refusal: a cell that failed before it was counted is not one."""
    return row.status == "ok" or row.macs_error is not None


def _in_doubt(row: ProfileRow) -> bool:
    return row.macs is not None and len(row.counted_by) < _FULL_COUNTS


def _unit_note(key: _ProfileKey) -> str:
    timed = "one training step" if key.mode == "train" else "one forward pass"
    baseline = f", over {BASELINE} with the same {key.factors}" if key.factors else ""
    counted = " in the order of evaluation that runs" if key.path == "auto" else ""
    return (
        f"Latency is the median time of {timed} of the whole batch ({key.batch}), IQR its 25th to 75th percentile; GMACs, "
        f"GFLOPs (2 × GMACs) and elementwise operations are of one image's forward pass{counted}. Speed-ups are ratios within "
        f"this session{baseline}. Exponents are local: d log / d log tokens from the next smaller resolution."
    )


def _failure_notes(cells: Iterable[ProfileRow]) -> list[str]:
    return [
        f"{label(row)} at {_pixels(row.resolution)} px: {row.status}: {row.message or 'no message'}"
        for row in cells
        if row.status != "ok"
    ]


def _dagger_notes(cells: Iterable[ProfileRow]) -> list[str]:
    doubted = _group((row for row in cells if _in_doubt(row)), lambda row: row.counted_by)
    return [
        f"{_DAGGER} counted by {' and '.join(counts) or 'no named count'} only, not by {_FULL_COUNTS} counts that agree: "
        + ", ".join(f"{name} at {_sizes(rows)} px" for name, rows in _group(group, label).items())
        for counts, group in sorted(doubted.items())
    ]


def _sizes(rows: Iterable[ProfileRow]) -> str:
    return ", ".join(_pixels(row.resolution) for row in rows)


def _session_notes(session: str, sessions: Mapping[str, Sequence[Row]]) -> list[str]:
    first = min(row.created for row in sessions[session])
    notes = [f"Session {session}, begun {first}."]
    others = [f"{name} ({_plural(len(rows), 'cell')})" for name, rows in sessions.items() if name != session]
    if others:
        notes.append(f"Earlier sessions of the same setting were left out: {', '.join(others)}.")
    return notes


def _overview_tables(accuracy: Sequence[Table], cost: Sequence[Table]) -> list[Table]:
    """Accuracy and cost of each mixer on one line, where there is one table of each: two would not say which to join."""
    if len(accuracy) != 1 or len(cost) != 1:
        return []
    trained, measured = accuracy[0], cost[0]
    cell_of = {
        (name, tokens): index for index, (name, tokens) in enumerate(measured.data[["label", "tokens"]].itertuples(False))
    }
    profiled = {name for name, _ in cell_of}
    joined = [(index, name) for index, name in enumerate(trained.data.get("label", [])) if name in profiled]
    # A name that stands for two runs, or for another model, would put the wrong cost beside an accuracy.
    same = all(trained.data["model"][index] == measured.data["model"][0] for index, _ in joined)
    if not joined or not same or len({name for _, name in joined}) < len(joined):
        return []
    ends = min(measured.data["tokens"]), max(measured.data["tokens"])
    small, large = (measured.frame["px"][list(measured.data["tokens"]).index(end)] for end in ends)
    speedup = f"speed-up over {BASELINE}"
    lines = []
    for index, name in joined:
        first, last = (cell_of.get((name, end)) for end in ends)
        shown = {"mixer": name, **{column: trained.frame[column][index] for column in ("accuracy (%, measured)", "seeds")}}
        for cell, px, columns in (
            (first, small, ("params (M)", "GMACs")),
            (last, large, ("MACs exponent", "latency exponent", speedup)),
        ):
            shown |= {f"{column} at {px} px": _DASH if cell is None else measured.frame[column][cell] for column in columns}
        raw: dict[str, object] = {f"accuracy.{column}": _raw(trained, column, index) for column in trained.data.columns}
        for end, cell in (("first", first), ("last", last)):
            raw |= {
                f"{end}.{column}": None if cell is None else measured.data[column][cell] for column in measured.data.columns
            }
        lines.append((shown, raw))
    notes = [
        f"{trained.title}. {measured.title}.",
        "Parameters, GMACs and exponents are those of the profiled model, not of the trained one; the tables below have both.",
        f"Exponents are d log / d log tokens from the resolution before to {large} px.",
        *(note for note in trained.notes if note.startswith(("A single seed", "±", "Digits check", "Small images"))),
    ]
    return [_table("overview", "Mixers at a glance", lines, notes)]


def _raw(table: Table, column: str, index: int) -> object:
    """A raw number as Python's own, so that whole numbers stay whole in the CSV."""
    value = table.data[column][index]
    return value.item() if hasattr(value, "item") else value


def _crossover_tables(profiles: _Profiles, crossovers: Sequence[CrossoverRow]) -> list[Table]:
    used: dict[_Place, list[_ProfileKey]] = {}
    for key in sorted(profiles):
        sessions = _group(profiles[key], lambda row: row.session)
        used.setdefault((_latest_session(sessions), key.model, key.factors), []).append(key)
    found = _group(crossovers, _place)
    places = [place for place in used if place in found]
    suffixes = _suffixes([used[place] for place in places])
    return [
        _crossover_table(f"crossover{suffix}", used[place], found[place])
        for place, suffix in zip(places, suffixes, strict=True)
    ]


def _crossover_table(name: str, keys: Sequence[_ProfileKey], rows: list[CrossoverRow]) -> Table:
    notes = ["The side of a square image from which a mixer is faster than the baseline, interpolated between measured sides."]
    session = rows[0].session
    if len(keys) == 1:
        rows = _latest(rows, lambda row: (row.mixer, row.baseline))
    else:
        rows = sorted(rows, key=lambda row: row.mixer)
        notes.append("The session holds several settings, and a crossover does not say which of them it means.")
    notes.append(f"Session {session}.")
    return _table(name, f"Crossover: {_title(keys)}", [_crossover_line(keys, row) for row in rows], notes)


def _crossover_line(keys: Sequence[_ProfileKey], row: CrossoverRow) -> _Line:
    setting = {field: "/".join(dict.fromkeys(str(getattr(key, field)) for key in keys)) for field in _ProfileKey._fields}
    kept = row.model_dump(include={*_FACTORS, "baseline", "verdict", "side", "smallest_side", "largest_side"})
    names = {"label": label(row), "baseline_label": label(row.model_copy(update={"mixer": row.baseline}))}
    cells = {"mixer": names["label"], "baseline": names["baseline_label"], "crossover": _verdict(row)}
    return cells, {"session": row.session, "created": row.created, **setting, **names, **kept}


def _verdict(row: CrossoverRow) -> str:
    if row.verdict == "always":
        return f"faster at every measured side ({row.smallest_side}–{row.largest_side} px)"
    if row.verdict == "none" or row.side is None:
        return f"none up to {row.largest_side} px"
    return f"from {row.side:.0f} px"


def _table(name: str, title: str, lines: Sequence[_Line], notes: Sequence[str]) -> Table:
    columns = list(dict.fromkeys(column for cells, _ in lines for column in cells))
    frame = pd.DataFrame([[cells.get(column, _DASH) for column in columns] for cells, _ in lines], columns=columns)
    data = pd.DataFrame([raw for _, raw in lines])
    for column in data.columns:
        values = [raw[column] for _, raw in lines if raw.get(column) is not None]
        if values and all(type(value) is int for value in values):
            # One empty cell turns a column of whole numbers into floats, and the CSV would show 5717416.0.
            data[column] = data[column].astype("Int64")
    return Table(name, title, frame, data, tuple(" ".join(note.split()) for note in notes))


def _group(rows: Iterable[_R], key: Callable[[_R], _K]) -> dict[_K, list[_R]]:
    groups: dict[_K, list[_R]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _latest(rows: Iterable[_R], key: Callable[[_R], _K]) -> list[_R]:
    """The newest row of each key, in the order of the keys; of rows of the same second, the last one recorded."""
    groups = _group(rows, key)
    return [max(reversed(groups[name]), key=lambda row: row.created) for name in sorted(groups)]  # type: ignore[type-var]


def _left_out_note(count: int) -> list[str]:
    if not count:
        return []
    return [f"{_plural(count, 'earlier row')} of the same cell {'was' if count == 1 else 'were'} left out: the latest counts."]


def _refused_notes(counts: Iterable[tuple[str, float | None, str | None]]) -> list[str]:
    reasons: dict[str, dict[str, None]] = {}
    for mixer, macs, error in counts:
        if macs is None:
            reasons.setdefault(error or "no reason was recorded", {})[mixer] = None
    return [f"GMACs {_REFUSED} ({', '.join(mixers)}): {reason}" for reason, mixers in reasons.items()]


def _environment_notes(environments: Iterable[Environment]) -> list[str]:
    """What the environments of one table do not share, since lines that were timed differently do not compare."""
    flat = [_flat_environment(environment) for environment in environments]
    differing = {}
    for field in dict.fromkeys(field for entry in flat for field in entry):
        values = list(dict.fromkeys(entry.get(field, "none") for entry in flat))
        if len(values) > 1:
            differing[field] = values
    if not differing:
        return []
    parts = "; ".join(f"{field}: {', '.join(values)}" for field, values in differing.items())
    return [f"The lines come from different environments, so their times may not compare. {parts}."]


def _flat_environment(environment: Environment) -> dict[str, str]:
    fields = environment.model_dump(exclude={"versions"})
    return {name.replace("_", " "): str(value) for name, value in fields.items()} | environment.versions


def _flat(key: _Key) -> dict[str, object]:
    fields = key._asdict()
    size = fields.pop("image_size", None)
    return fields if size is None else {**fields, **_sides(size)}


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _title(keys: Sequence[_Key]) -> str:
    return ", ".join(filter(None, _labels(keys)))


def _suffixes(tables_keys: Sequence[Sequence[_Key]]) -> list[str]:
    """One file suffix per table, made of the fields in which the tables differ; empty for a single table."""
    labels = [_labels(keys) for keys in tables_keys]
    differing = [len(set(column)) > 1 for column in zip(*labels, strict=True)]
    suffixes: list[str] = []
    for words in labels:
        parts = [_slug(word) for word, differs in zip(words, differing, strict=True) if differs]
        stem = "".join(f"-{part}" for part in parts if part)
        suffix, number = stem, 1
        while suffix in suffixes:  # names that differ only in characters that a file name is spared
            number += 1
            suffix = f"{stem}-{number}"
        suffixes.append(suffix)
    return suffixes


def _labels(keys: Sequence[_Key]) -> list[str]:
    """The fields of a table's key in words; where one table has several keys, all their values."""
    return ["/".join(dict.fromkeys(_label(field, getattr(key, field)) for key in keys)) for field in keys[0]._fields]


def _label(field: str, value: object) -> str:
    """One field of a key in words; empty where the usual value needs none."""
    if field == "compiled":
        return "compiled" if value else "not compiled"
    if field == "tf32":
        return "TF32" if value else ""
    if isinstance(value, tuple):
        return f"{_pixels(value)} px"
    words = {"infer": "inference", "train": "training step"} if field == "mode" else {}
    text = words.get(str(value), str(value))
    if field in ("epochs", "threads") and isinstance(value, int):
        return _plural(value, field.removesuffix("s"))
    return {"recipe": f"recipe {text}", "batch": f"batch {text}", "sdpa_backend": f"SDPA {text}", "path": f"{text} path"}.get(
        field, text
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:40].rstrip("-.")


def _pixels(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"


def _macs(macs: float | None, missing: str = _REFUSED) -> str:
    return missing if macs is None else _number(macs, 1e-9, digits=4)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _number(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """A number with three significant digits, and all digits before the decimal point; a dash for none."""
    if value is None:
        return _DASH
    value *= scale
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _markdown(text: str) -> str:
    """Text whose characters mean nothing to Markdown; underscores inside words mean nothing already."""
    return re.sub(r"([|*])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")
