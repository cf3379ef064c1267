"""Tables of accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wfbench.analysis.asked import Asked
from wfbench.analysis.unpaired import mean_interval
from wfbench.records import AnyRow, BaselineRow, TrainRow
from wfbench.report.parts import (
    SMALL_SIDE,
    Line,
    Table,
    environment_notes,
    flat,
    gmacs,
    group,
    label,
    latest,
    make_table,
    number,
    percent,
    pixels,
    plural,
    refused_notes,
    slug,
    sorted_keys,
    suffixes,
    title_of,
)
from wfbench.report.significance import judge


class _AccuracyKey(NamedTuple):
    """What the lines of one accuracy table share."""

    dataset: str
    recipe: str
    image_size: tuple[int, int]
    epochs: int
    device: str
    dtype: str
    chosen: str | None = None


class _RunKey(NamedTuple):
    """What the runs of one line share: within a mean, only the seed differs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    recipe_digest: str
    weights: str
    pretraining: str
    batch: int
    steps: int
    parameters: int
    samples: int
    #: The rate that a sweep chose for the line; None for the recipe's own.
    rate: float | None


def _accuracy_key(row: TrainRow) -> _AccuracyKey:
    return _AccuracyKey(
        row.dataset, row.recipe, row.image_size, row.epochs, row.environment.device, row.dtype, chosen_in_words(row)
    )


def _run_key(row: TrainRow) -> _RunKey:
    rate = row.chosen.lr if row.chosen is not None and row.chosen.rates else None
    return _RunKey(**{field: getattr(row, field) for field in _RunKey._fields[:-1]}, rate=rate)


def accuracy_tables(rows: Sequence[AnyRow], asked: Asked) -> list[Table]:
    """Accuracies measured here, a table for each setting, and simple classifiers."""
    trained = group((row for row in rows if isinstance(row, TrainRow) and row.validation is None), _accuracy_key)
    simple = group((row for row in rows if isinstance(row, BaselineRow)), lambda row: row.dataset)
    keys = sorted_keys(trained)
    made = [
        _accuracy_table(f"accuracy{suffix}", key, trained[key], simple.get(key.dataset, []), asked)
        for key, suffix in zip(keys, suffixes([[key] for key in keys]), strict=True)
    ]
    alone = sorted(simple.keys() - {key.dataset for key in keys})
    return made + [_baseline_table(dataset, simple[dataset]) for dataset in alone]


def _accuracy_table(name: str, key: _AccuracyKey, rows: list[TrainRow], baselines: list[BaselineRow], asked: Asked) -> Table:
    groups = group(rows, _run_key)
    # Where positions differ all are named, but for the learned one.
    differ = len({run.pos_embed for run in groups}) > 1
    labels = {run: label(run, all_positions=differ) for run in groups}
    runs = {
        run: latest(groups[run], lambda row: row.seed)
        for run in sorted(groups, key=lambda run: (run.model, labels[run], run[:-1], run.rate or 0.0))
    }
    used = [row for seeds in runs.values() for row in seeds]
    varying = [
        field
        for field in ("recipe_digest", "weights", "pretraining", "batch", "steps")
        if len({getattr(row, field) for row in used}) > 1
    ]
    simple = latest(baselines, lambda row: row.name)
    judged, findings = _judged(runs, labels, asked)
    lines = [_accuracy_line(key, run, labels[run], seeds, varying, judged.get(run, ({}, {}))) for run, seeds in runs.items()]
    lines += [_baseline_line(row) for row in simple]
    notes = [
        *_accuracy_notes(key, runs, varying),
        *findings,
        *_baseline_notes(simple, {row.samples for row in used}),
        *_digits_note(key.dataset),
        *refused_notes((labels[_run_key(row)], row.macs, row.macs_error) for row in used),
        *_left_out_note(len(rows) - len(used)),
        *environment_notes(row.environment for row in used),
    ]
    return make_table(name, f"Accuracy: {title_of([key])}", lines, notes)


def _judged(
    runs: Mapping[_RunKey, Sequence[TrainRow]], labels: Mapping[_RunKey, str], asked: Asked
) -> tuple[dict[_RunKey, Line], list[str]]:
    """The comparisons within each recipe: runs of another digest, of other weights or on other samples have no baseline."""

    def recipe(run: _RunKey) -> tuple[object, ...]:
        return run.model, run.recipe_digest, run.weights, run.pretraining, run.batch, run.steps, run.samples

    judged: dict[_RunKey, Line] = {}
    findings: dict[str, None] = {}
    for family in dict.fromkeys(map(recipe, runs)):
        members = {run: (labels[run], [row.accuracy for row in seeds]) for run, seeds in runs.items() if recipe(run) == family}
        lines, notes = judge(members, asked)
        judged |= lines
        findings |= dict.fromkeys(notes)
    return judged, list(findings)


def _baseline_table(dataset: str, rows: list[BaselineRow]) -> Table:
    simple = latest(rows, lambda row: row.name)
    notes = [*_baseline_notes(simple, set()), *_digits_note(dataset)]
    name = f"accuracy-{slug(dataset)}-baselines"
    return make_table(name, f"Accuracy of simple classifiers: {dataset}", [_baseline_line(row) for row in simple], notes)


def _accuracy_line(
    key: _AccuracyKey, run: _RunKey, name: str, seeds: list[TrainRow], varying: Sequence[str], judged: Line
) -> Line:
    seeds = sorted(seeds, key=lambda row: row.seed)
    last = max(seeds, key=lambda row: row.created)
    accuracy, interval = mean_interval([row.accuracy for row in seeds])
    top5 = math.fsum(row.top5 or 0.0 for row in seeds) / len(seeds) if all(row.top5 is not None for row in seeds) else None
    means = {
        field: math.fsum(getattr(row, field) for row in seeds) / len(seeds)
        for field in ("loss", "images_per_second", "data_wait_share", "train_seconds")
    }
    cells = {
        "model": run.model,
        "mixer": name,
        **{field: str(getattr(run, field)) for field in varying},
        "params (M)": number(run.parameters / 1e6),
        "GMACs": gmacs(last.macs),
        **_chosen_cells(last),
        "accuracy (%, measured)": percent(accuracy) + ("" if interval is None else f" ± {percent(interval)}"),
        **({} if top5 is None else {"top-5 (%)": percent(top5)}),
        "seeds": plural(len(seeds), "seed"),
        **judged[0],
        "samples": f"{run.samples:,}",
        "loss": number(means["loss"]),
        "images/s": number(means["images_per_second"]),
        "data wait (%)": f"{100 * means['data_wait_share']:.1f}",
        "train (s)": number(means["train_seconds"]),
    }
    raw = {
        **flat(key),
        "label": name,
        **run._asdict(),
        "macs": last.macs,
        "macs_error": last.macs_error,
        "accuracy": accuracy,
        "accuracy_ci95": interval,
        "top5": top5,
        "seed_count": len(seeds),
        "seeds": " ".join(str(row.seed) for row in seeds),
        "accuracy_by_seed": " ".join(repr(row.accuracy) for row in seeds),
        **means,
        "train_seconds_ci95": mean_interval([row.train_seconds for row in seeds])[1],
        **({} if last.chosen is None else last.chosen.model_dump(exclude={"rates", "trial_seeds"})),
        **judged[1],
    }
    return cells, raw


def chosen_in_words(row: TrainRow) -> str | None:
    """What a sweep made equal for all lines of a table; None for runs as they are."""
    chosen = row.chosen
    if chosen is None:
        return None
    unit = {"params": "parameters", "macs": "MACs"}
    matched = [f"{unit[chosen.match]} matched to {chosen.match_to}"] if chosen.match is not None else []
    return ", ".join([*matched, *([f"rate tuned in {plural(len(chosen.rates), 'trial')}"] if chosen.rates else [])])


def _chosen_cells(row: TrainRow) -> dict[str, str]:
    """What it took for this line."""
    chosen, cells = row.chosen, {}
    if chosen is not None and chosen.match is not None and chosen.residual is not None:
        cells = {
            "MLP ratio": f"{chosen.mlp_ratio:.3g}",
            "depth": str(chosen.depth),
            "off the budget (%)": f"{100 * chosen.residual:+.2f}".replace("-", "−"),
        }
    return cells | ({"rate": f"{chosen.lr:.3g}"} if chosen is not None and chosen.rates else {})


def _baseline_line(row: BaselineRow) -> Line:
    cells = {"mixer": row.name, "accuracy (%, measured)": percent(row.accuracy), "samples": f"{row.samples:,}"}
    raw = {"baseline": row.name, "dataset": row.dataset, "accuracy": row.accuracy, "samples": row.samples}
    return cells, dict(raw)


def _accuracy_notes(key: _AccuracyKey, runs: Mapping[_RunKey, Sequence[TrainRow]], varying: Sequence[str]) -> list[str]:
    first = next(iter(runs))
    shared = [
        f"{field} {getattr(first, field)}" for field in ("pretraining", "weights", "batch", "steps") if field not in varying
    ]
    notes = [
        f"Every accuracy was measured here, none is published: top-1 of the last epoch at {pixels(key.image_size)} px, "
        f"{', '.join([plural(key.epochs, 'epoch'), *shared])}.",
        "Lines are in alphabetical order.",
    ]
    counts = {len(seeds) for seeds in runs.values()}
    if counts != {1}:
        notes.append("± is the half-width of the 95% t-interval of the mean over the seeds.")
    if 1 in counts:
        notes.append("A single seed has no interval, so it ranks nothing.")
    if max(key.image_size) <= SMALL_SIDE:
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


def _left_out_note(count: int) -> list[str]:
    if not count:
        return []
    return [f"{plural(count, 'earlier row')} of the same cell {'was' if count == 1 else 'were'} left out: the latest counts."]
