"""What a run directory holds beside its record: the curve of its training and its predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from wfbench.errors import InputError
from wfbench.files import walk
from wfbench.records.dense import DenseRow
from wfbench.records.diffusion import DiTRow
from wfbench.records.probe import ProbeRow
from wfbench.records.training import TrainRow

if TYPE_CHECKING:
    import pandas as pd  # a worker imports this package, and has no use for tables

_COLUMNS = ("index", "label", "top1")
#: What to do about predictions that are not those of the run.
_PUT_BACK = "put the run's own files back, or remove the predictions: then images are not compared"
_Result = TrainRow | DiTRow | DenseRow | ProbeRow
_RESULT: TypeAdapter[_Result] = TypeAdapter(Annotated[_Result, Field(discriminator="kind")])


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and its result."""

    place: Path
    row: TrainRow | DenseRow

    def curve(self) -> list[dict[str, float]]:
        """The finite numbers of each epoch; empty without ``metrics.jsonl``. A torn line ends the curve.

        Raises:
            InputError: if the file is there and cannot be read.
        """
        path = self.place / "metrics.jsonl"
        if not path.is_file():
            return []
        points = []
        for line in _text(path).splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(entry, dict):
                break
            points.append({key: value for key, value in entry.items() if _is_finite(value)})
        return [point for point in points if "epoch" in point]

    def predictions(self) -> pd.DataFrame | None:
        """index, label and top1 of every held-out sample, in order, by the weights of the record; None if not kept.

        Raises:
            InputError: if the file is there and is no table of predictions, or names a sample twice.
        """
        path = self.place / f"predictions-{self.row.weights}.parquet"
        if not path.is_file():
            return None
        try:
            table = _columns(path)
        except (OSError, ValueError, KeyError) as e:
            raise InputError(
                "cannot read predictions", got=f"{path}: {e}", expected=f"columns {', '.join(_COLUMNS)}", remedy=_PUT_BACK
            ) from e
        if not (np.diff(table["index"].to_numpy()) > 0).all():  # as it is written, each index stands once, in order
            table = table.sort_values("index", ignore_index=True)
            if table["index"].duplicated().any():
                raise InputError("a sample has two predictions", got=path, expected="each index once", remedy=_PUT_BACK)
        self._check_agreement(table, path)
        return table

    def _check_agreement(self, table: pd.DataFrame, path: Path) -> None:
        """Refuse predictions that are not those of the record: what is compared image by image would be another run's."""
        if not isinstance(self.row, TrainRow):
            return
        right = float((table["label"] == table["top1"]).mean())
        if len(table) != self.row.samples or not math.isclose(right, self.row.accuracy, abs_tol=1e-9):
            raise InputError(
                "predictions are not those of their record",
                got=f"{path}: {len(table):,} samples, {100 * right:.4f} % right",
                expected=f"{self.row.samples:,} samples, {100 * self.row.accuracy:.4f} % right, as its result.json says",
                remedy=_PUT_BACK,
            )


def _columns(path: Path) -> pd.DataFrame:
    """The columns of a table of predictions that are compared. `pd.read_parquet` takes three times as long."""
    import pandas as pd
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        stored = file.read(columns=list(_COLUMNS), use_threads=False)
    return pd.DataFrame({name: stored.column(name).to_numpy() for name in _COLUMNS})


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """The finished runs of classifiers and dense prediction in directories and below them, each once.

    A file is no run, a trial of tuning no result, and what is hidden neither.

    Raises:
        InputError: for a ``result.json`` beside a ``config.yaml`` that is no result.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        for directory, names in walk(path):
            if {"result.json", "config.yaml"} <= set(names):
                row = _result(directory / "result.json")
                if row is not None and row.validation is None:
                    found.setdefault(directory.resolve(), Run(directory, row))
    return [found[place] for place in sorted(found)]


def _result(path: Path) -> TrainRow | DenseRow | None:
    """The result of a classifier or of dense prediction; None for a denoiser's, whose row holds its curves."""
    try:
        row = _RESULT.validate_json(_text(path))
        return row if isinstance(row, TrainRow | DenseRow) else None
    except ValidationError as e:
        problem = e.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise InputError(
            "not the result of a run",
            got=f"{path}: {where}: {problem['msg']}",
            expected="a train row",
            remedy="put the run's own file back, use the version of wfbench that wrote it, or leave the run out",
        ) from e


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise InputError(
            "cannot read a run",
            got=f"{path}: {why}",
            expected="a readable file of UTF-8",
            remedy="put the run's own file back, allow it to be read, or leave the run out",
        ) from e
