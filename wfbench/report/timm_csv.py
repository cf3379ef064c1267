"""timm's tables of results: written of profiles, in its columns and units, and read as numbers that others have published."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wfbench import strict
from wfbench.analysis.cost import Costs
from wfbench.analysis.lines import label
from wfbench.analysis.profile import CellCost
from wfbench.errors import InputError
from wfbench.records import AnyRow
from wfbench.report.columns import Column, Table, make_table
from wfbench.report.naming import slug, suffixes

#: The columns of timm's benchmark-infer-*.csv: images per second, milliseconds per batch, images, pixels, millions of
#: parameters, and of one image 10⁹ multiply-adds and millions of activations.
INFER = (
    *("model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size"),
    *("param_count", "infer_gmacs", "infer_macts"),
)
_WHY_NONE = "published without one"
#: What the models of our own files begin with.
_OURS = "wfbench_"


@dataclass(frozen=True)
class _Kind:
    """One kind of timm's files: its column of sizes, and the headings of its columns for people."""

    size: str
    title: str
    headings: dict[str, str]


_KINDS = {
    "infer": _Kind(
        "infer_img_size",
        "Published by timm: inference",
        {
            "model": "model",
            "infer_img_size": "px",
            "infer_batch_size": "batch (published)",
            "param_count": "params (M, published)",
            "infer_gmacs": "GMACs (published)",
            "infer_macts": "activations (M, published)",
            "infer_samples_per_sec": "images/s (published)",
            "infer_step_time": "ms per batch (published)",
        },
    ),
    "accuracy": _Kind(
        "img_size",
        "Published by timm: accuracy",
        {
            "model": "model",
            "img_size": "px",
            "param_count": "params (M, published)",
            "top1": "top-1 (%, published)",
            "top5": "top-5 (%, published)",
        },
    ),
}


@dataclass(frozen=True)
class TimmResults:
    """A file of results that timm has published.

    Attributes:
        kind: "infer" or "accuracy".
        source: the file's name, and the start of its SHA-256.
        name: its stem.
        lines: by column; None where the file has no value.
    """

    kind: str
    source: str
    name: str
    lines: tuple[dict[str, str | float | None], ...]

    @property
    def sizes(self) -> list[int]:
        """The image sizes that it has, in order."""
        return sorted({int(px) for line in self.lines if (px := line[_KINDS[self.kind].size]) is not None})


def timm_files(costs: Costs) -> dict[str, str]:
    """The inference cells of profiles as timm's benchmark-infer-*.csv, a file for each setting: its name, and its text.

    A value that a cell does not have is empty: the times of one that failed, the GMACs of one whose counts do not agree, the
    side of an image that is not square.
    """
    profiles = [found for found in costs.profiles if found.profile.setting.mode == "infer"]
    names = suffixes([[found.profile.setting] for found in profiles])
    return {
        f"benchmark-infer{name}.csv": _text([_entry(cell) for cell in found.cells])
        for name, found in zip(names, profiles, strict=True)
    }


def _entry(cell: CellCost) -> dict[str, object]:
    row, seconds = cell.row, None if cell.latency is None else cell.latency.estimate
    height, width = (side // row.downsample for side in row.resolution)
    return {
        "model": f"{_OURS}{row.model.replace('-', '_')}.{label(cell.line)}",
        "infer_samples_per_sec": None if seconds is None else round(row.batch / seconds, 2),
        "infer_step_time": None if seconds is None else round(1000 * seconds, 3),
        "infer_batch_size": row.batch,
        "infer_img_size": height if height == width else None,
        "param_count": None if row.parameters is None else round(row.parameters / 1e6, 2),
        "infer_gmacs": None if row.macs is None else round(row.macs / 1e9, 2),
        "infer_macts": None if row.activations is None else round(row.activations / 1e6, 2),
    }


def _text(entries: Iterable[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, INFER, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in entry.items()} for entry in entries)
    return text.getvalue()


def read_timm(path: Path) -> TimmResults:
    """A CSV of results as timm publishes them: benchmark-infer-*.csv, or results-*.csv of accuracies.

    Raises:
        InputError: for a file that cannot be read, has other columns, or a value that is no number; for one that
            `wfbench export --to timm-csv` wrote, which is published by nobody.
    """
    expected = f"timm's columns {', '.join(INFER)}; or model, top1, top5, param_count, img_size"
    text = strict.read_text(path, "published results", expected)
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as e:
        raise InputError("cannot read the published results", got=f"{path}: {e}", expected=expected, remedy=_AGAIN) from e
    head = found[0] if found else []
    kind = next((name for name, kind in _KINDS.items() if set(kind.headings) <= set(head)), None)
    if kind is None or len(set(head)) < len(head) or len(found) < 2:
        raise InputError(
            "not a file of timm's results",
            got=f"{path}: {', '.join(head)[:200] or 'nothing'}",
            expected=expected,
            remedy=_AGAIN,
        )
    lines = [_line(path, number, head, cells, kind) for number, cells in enumerate(found[1:], 2) if cells]
    if own := [str(line["model"]) for line in lines if str(line["model"]).startswith(_OURS)]:
        raise InputError(
            "not results that timm has published",
            got=f"{path}: {own[0]}, which `wfbench export --to timm-csv` wrote",
            expected=expected,
            remedy="report on the records themselves, or take a file of timm's folder results/",
        )
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    once = {tuple(line.items()): line for line in lines}  # a line that stands there twice says no more
    return TimmResults(kind, f"timm, {path.name} (SHA-256 {digest})", path.stem, tuple(once.values()))


def check_own(path: Path) -> None:
    """Refuse to write timm's CSV in the place of a file that is none of ours.

    Raises:
        InputError: naming it.
    """
    if not path.exists():
        return
    expected = "a new file, or one that `wfbench export --to timm-csv` wrote, which is replaced"
    lines = list(csv.reader(io.StringIO(strict.read_text(path, "file that is there", expected))))
    if not lines or tuple(lines[0]) != INFER or not all(line and line[0].startswith(_OURS) for line in lines[1:]):
        raise InputError("a file of others stands there", got=path, expected=expected, remedy="choose another directory")


def timm_tables(files: Sequence[TimmResults], rows: Sequence[AnyRow]) -> list[Table]:
    """A table for each file and each of its image sizes that the records have too; no two sizes stand side by side.

    Raises:
        InputError: for a file without any of these sizes.
    """
    measured = _sizes_of(rows)
    made = []
    for found in files:
        sizes = [px for px in found.sizes if px in measured]
        if not sizes:
            raise InputError(
                "published results of other image sizes than the records",
                got=f"{found.source}: {', '.join(map(str, found.sizes))} px",
                expected=f"one of {', '.join(map(str, sorted(measured))) or 'the sizes of the records, which have none'}",
                remedy="leave the file out, or measure at one of its sizes",
            )
        made += [_table(found, px) for px in sizes]
    return made


def _sizes_of(rows: Sequence[AnyRow]) -> set[int]:
    """The sides of square images that rows are about."""
    sizes = [getattr(row, "resolution", None) or getattr(row, "image_size", None) for row in rows]
    return {size[0] for size in sizes if size is not None and size[0] == size[1]}


def _table(found: TimmResults, px: int) -> Table:
    kind = _KINDS[found.kind]
    lines = sorted((line for line in found.lines if line[kind.size] == px), key=lambda line: str(line["model"]))
    columns: list[Column[dict[str, str | float | None]]] = [_column(key, heading) for key, heading in kind.headings.items()]
    columns += [Column("measured", lambda line: False), Column("source", lambda line: found.source, "source", words=True)]
    names = [line["model"] for line in lines]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    notes = [
        f"Every number in this table was published by others, at {px} px; none was measured here.",
        "Other code, other machines and other recipes than those of this report: no line of another table compares.",
        f"Source: {found.source}.",
        *([f"More than one line of the file at this size: {', '.join(twice)}."] if twice else []),
    ]
    return make_table("published", f"published-{slug(found.name)}-{px}", f"{kind.title}, {px} px", columns, lines, notes)


def _column(key: str, heading: str) -> Column[dict[str, str | float | None]]:
    is_measured = key in ("infer_samples_per_sec", "infer_step_time", "top1", "top5")
    return Column(
        key,
        lambda line: line[key],
        heading,
        lambda value: value if isinstance(value, str) else f"{value:,g}" if value < 1e5 else f"{value:,.0f}",
        words=key == "model",
        why_none=_WHY_NONE if is_measured else "",
    )


#: The remedy for a file of published results that is not whole.
_AGAIN = "take the file as timm publishes it, in its folder results/"


def _line(path: Path, number: int, head: Sequence[str], cells: Sequence[str], kind: str) -> dict[str, str | float | None]:
    expected = f"{len(head)} values, of which those under {', '.join(_KINDS[kind].headings)} are a name and numbers"
    if len(cells) != len(head):
        got = f"{path}:{number}: {len(cells)} values"
        raise InputError("a torn line of published results", got=got, expected=expected, remedy=_AGAIN)
    entry: dict[str, str | float | None] = {}
    for key in _KINDS[kind].headings:
        cell = cells[head.index(key)].strip()
        entry[key] = cell if key == "model" else _number(cell, f"{path}:{number}: {key} = {cell!r}", expected)
    if not entry["model"]:
        raise InputError(
            "a line of published results without a model", got=f"{path}:{number}", expected=expected, remedy=_AGAIN
        )
    return entry


def _number(cell: str, where: str, expected: str) -> float | None:
    """A number of 0 or more, with commas between thousands perhaps; None for an empty cell."""
    if not cell:
        return None
    try:
        value = float(cell.replace(",", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise InputError("no number in published results", got=where, expected=expected, remedy=_AGAIN)
    return value
