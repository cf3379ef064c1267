"""Rows in JSONL files: appended under a lock, read back with a message for each torn line, old schemas included."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from wfbench.errors import InputError, writing
from wfbench.records.ablation import AblationRow
from wfbench.records.dense import DenseEvalRow, DenseRow
from wfbench.records.diffusion import DenoisingRow, DiTRow, ScoreRow
from wfbench.records.evidence import ClaimsRow, ErfRow, PictureRow
from wfbench.records.export import ExportRow
from wfbench.records.prediction import HeldOutRow, MicrobenchmarkRow, PredictedCrossoverRow, PredictionRow
from wfbench.records.probe import ProbeEvalRow, ProbeRow
from wfbench.records.profile import (
    BreakdownRow,
    CrossoverRow,
    FitRow,
    HarnessRow,
    MachineRow,
    MeasurementRow,
    ProfileRow,
    ScalingRow,
    ThroughputRow,
)
from wfbench.records.reproduction import ReproductionRow
from wfbench.records.row import SCHEMA, Row
from wfbench.records.training import BaselineRow, EvalRow, TrainRow, TrialRow

AnyRow = Annotated[
    TrainRow
    | EvalRow
    | BaselineRow
    | ProfileRow
    | MeasurementRow
    | ThroughputRow
    | BreakdownRow
    | MachineRow
    | HarnessRow
    | ScalingRow
    | FitRow
    | CrossoverRow
    | MicrobenchmarkRow
    | HeldOutRow
    | PredictionRow
    | PredictedCrossoverRow
    | ErfRow
    | PictureRow
    | DenseRow
    | ProbeRow
    | ProbeEvalRow
    | DenseEvalRow
    | DiTRow
    | DenoisingRow
    | ScoreRow
    | AblationRow
    | TrialRow
    | ClaimsRow
    | ExportRow
    | ReproductionRow,
    Field(discriminator="kind"),
]
_ROW: TypeAdapter[AnyRow] = TypeAdapter(AnyRow)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a JSONL file, safe beside other writers; a reader takes each row whole or not at all.

    Raises:
        InputError: if the file cannot be written.
    """
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    with writing("records", path, expected="a writable place", remedy="choose another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a torn line of a killed writer: end it, so that it spoils nothing else
                    text = "\n" + text
            try:
                left = memoryview(text.encode())
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:  # a full disk: no part of a row stays
                file.truncate(end)
                raise


def read(path: Path) -> tuple[list[AnyRow], list[str]]:
    """The rows of a JSONL file, and a message for each line that was torn and skipped.

    Raises:
        InputError: for a file that cannot be read, rows of a newer schema, or a whole line that is no record.
    """
    try:
        # Not splitlines(): a message may hold characters, such as U+2028, that it takes for line ends and JSON does not.
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except OSError as e:
        raise InputError(
            "cannot read records",
            got=f"{path}: {e.strerror}",
            expected="a JSONL file of records",
            remedy="allow it to be read, or report from other records",
        ) from e
    rows: list[AnyRow] = []
    torn = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):  # a number of too many digits, and brackets without end, are no JSON of ours
            torn.append(f"{path}:{number}: a torn line ({len(line)} characters) was skipped")
            continue
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA:
            raise InputError(
                "records are newer than this wfbench",
                got=f"{path}:{number}: schema {version}",
                expected=f"schema {SCHEMA} or older",
                remedy="upgrade wfbench, or report from records of this version",
            )
        try:
            rows.append(_ROW.validate_python(data, strict=False))
        except ValidationError as e:
            problem = e.errors()[0]
            raise InputError(
                "not a record",
                got=f"{path}:{number}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                expected=f"a row of schema {SCHEMA}",
                remedy="remove the line, or report from other records",
            ) from e
    return rows, torn
