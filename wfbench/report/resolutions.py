"""Tables of evaluations: what trained weights reach at other resolutions than their own, on other data or labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from wfbench.records import AnyRow, EvalRow
from wfbench.report.parts import (
    DASH,
    Line,
    Table,
    environment_notes,
    flat,
    group,
    height_width,
    label,
    latest,
    make_table,
    percent,
    pixels,
    plural,
    sorted_keys,
    suffixes,
    title_of,
)
from wfbench.report.statistics import mean_interval


class _Key(NamedTuple):
    """What the lines of one table share."""

    dataset: str
    recipe: str | None
    trained: str
    weights: str
    resize: str
    mapping: str | None
    device: str
    dtype: str


class _Line(NamedTuple):
    """What the evaluations of one line share: within a mean, only the seed differs."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    #: Of a run its recipe's digest, of a file the hash of its weights.
    trained_as: str
    samples: int


def resolution_tables(rows: Sequence[AnyRow]) -> list[Table]:
    """For each kind of evaluation: accuracy by the side of the test images."""
    groups = group((row for row in rows if isinstance(row, EvalRow)), _key)
    keys = sorted_keys(groups)
    names = suffixes([[key] for key in keys])
    return [_table(f"resolution{suffix}", key, groups[key]) for key, suffix in zip(keys, names, strict=True)]


def _key(row: EvalRow) -> _Key:
    return _Key(
        dataset=row.dataset,
        recipe=row.recipe,
        trained=f"built for {pixels(row.trained_size)} px",
        weights=f"{row.weights} weights",
        resize=f"{row.eval_resize} to 1/{row.eval_crop:g}, centre" if row.eval_crop < 1 else f"{row.eval_resize}, no crop",
        mapping=f"labels of {row.mapping}" if row.mapping else None,
        device=row.environment.device,
        dtype=row.dtype,
    )


def _line_key(row: EvalRow) -> _Line:
    trained_as = row.recipe_digest or row.weights_sha256[:12]
    return _Line(row.model, row.mixer, row.local_conv, row.pos_embed, trained_as, row.samples)


def _table(name: str, key: _Key, rows: Sequence[EvalRow]) -> Table:
    groups = group(rows, _line_key)
    sizes = sorted({row.image_size for row in rows})
    lines: list[Line] = []
    raw: list[dict[str, object]] = []
    counts: set[int] = set()
    for line in sorted(groups):
        by_size = group(groups[line], lambda row: row.image_size)
        # A file of weights has no seed; of the same weights evaluated twice the newest counts.
        found = {size: latest(by_size[size], lambda row: -1 if row.seed is None else row.seed) for size in sorted(by_size)}
        seeds = {len(of_size) for of_size in found.values()}
        counts |= seeds
        cells = {f"{pixels(size)} px (%)": _words(found[size]) if size in found else DASH for size in sizes}
        words = "/".join(plural(count, "seed") for count in sorted(seeds))
        twice = sum(label(other) == label(line) and other.model == line.model for other in groups) > 1
        told = {"trained as": line.trained_as} if twice else {}
        lines.append(({"model": line.model, "mixer": label(line), **told, **cells, "seeds": words}, {}))
        raw += [flat(key) | {"label": label(line)} | line._asdict() | _figures(size, found[size]) for size in found]
    notes = [
        "Top-1 of the weights after the last epoch on held-out images of other sizes, measured here; nothing was trained "
        "again. A learned position embedding is interpolated.",
        *(["± is the half-width of the 95% t-interval of the mean over the seeds."] if max(counts) > 1 else []),
        *(["A single seed has no interval, so it ranks nothing."] if 1 in counts else []),
        *environment_notes(row.environment for row in rows),
    ]
    return make_table(name, f"Accuracy by test resolution: {title_of([key])}", lines, notes, raw)


def _words(seeds: Sequence[EvalRow]) -> str:
    accuracy, interval = mean_interval([row.accuracy for row in seeds])
    return percent(accuracy) + ("" if interval is None else f" ± {percent(interval)}")


def _figures(size: tuple[int, int], seeds: Sequence[EvalRow]) -> dict[str, object]:
    accuracy, interval = mean_interval([row.accuracy for row in seeds])
    known = [row.top5 for row in seeds if row.top5 is not None]
    return height_width(size) | {
        "accuracy": accuracy,
        "accuracy_ci95": interval,
        "top5": math.fsum(known) / len(known) if len(known) == len(seeds) else None,
        "seed_count": len(seeds),
    }
