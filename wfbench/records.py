"""Records: every result the bench ever reports is a typed row, appended to a JSONL file with its environment.

Tables and plots are made from these rows and from nothing else. The schema is versioned: a reader refuses rows that are
newer than itself. A row that a killed writer left torn is reported and skipped; nothing else is lost.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from wfbench.errors import InputError, writing

#: Version of the row schema. Raise it when a field changes its meaning or a reader must know a new one.
SCHEMA = 2

_PACKAGES = ("wfbench", "torch", "torchvision", "timm", "fvcore", "numpy", "scikit-learn", "pandas")


class _Strict(BaseModel):
    # "strings": by default pydantic writes NaN and infinity as null, which the reader would then refuse.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Environment(_Strict):
    """Where a number was measured."""

    device: str
    device_type: Literal["cpu", "cuda"]
    threads: int
    tf32: bool
    platform: str
    python: str
    versions: dict[str, str]
    git_revision: str | None
    git_dirty: bool | None


class Row(_Strict):
    """What every row carries."""

    schema_version: int = SCHEMA
    #: When the work began.
    created: str = Field(default_factory=lambda: now())
    command: str = Field(default_factory=lambda: command_line())
    environment: Environment


class _ModelRow(Row):
    """What every row about a model carries: the model, its mixer, and the factors of the skeleton that vary beside it."""

    model: str
    mixer: str
    local_conv: Literal["none", "dwc"] = "none"
    pos_embed: Literal["none", "learned", "sincos", "rope2d"] = "learned"

    @model_validator(mode="before")
    @classmethod
    def _before_there_were_positions(cls, data: Any) -> Any:
        """A row that names no position was written when each model had its preset's own."""
        if isinstance(data, dict) and "pos_embed" not in data and str(data.get("model")).startswith("weightformer-"):
            return data | {"pos_embed": "none"}
        return data


class TrainRow(_ModelRow):
    """One finished training run: the accuracy of its last epoch, never the best one."""

    kind: Literal["train"] = "train"
    recipe: str
    #: Hash of the resolved recipe but for seed, mixer and the factors: rows with different ones are never averaged.
    recipe_digest: str
    dataset: str
    seed: int
    image_size: tuple[int, int]
    epochs: int
    steps: int
    batch: int
    dtype: str
    parameters: int
    #: MACs of one image's forward pass; None where the counts did not agree, and then macs_error says why.
    macs: float | None
    macs_error: str | None = None
    weights: Literal["raw", "ema"] = "raw"
    #: Top-1, as a fraction of samples, over exactly this many held-out samples.
    accuracy: float
    samples: int
    loss: float
    #: The best epoch's accuracy, for information: it is not a result.
    best_accuracy: float
    #: Wall seconds of training, evaluation apart; summed over the sessions of a resumed run.
    train_seconds: float
    images_per_second: float
    #: The share of train_seconds spent waiting for data.
    data_wait_share: float


class BaselineRow(Row):
    """A simple classifier on the same split, to calibrate how easy a data set is."""

    kind: Literal["baseline"] = "baseline"
    name: str
    dataset: str
    accuracy: float
    samples: int


class ProfileRow(_ModelRow):
    """One cell of a profile: one model with one mixer at one resolution. A failed cell is a row too."""

    kind: Literal["profile"] = "profile"
    session: str
    resolution: tuple[int, int]
    tokens: int
    batch: int
    mode: Literal["infer", "train"]
    dtype: str
    compiled: bool = False
    sdpa_backend: str
    path: str
    protocol: str
    order_seed: int
    status: Literal["ok", "oom", "error"]
    message: str | None = None
    parameters: int | None = None
    #: MACs of one image; None where the counts did not agree, and then macs_error says why.
    macs: float | None = None
    elementwise: float | None = None
    counted_by: tuple[str, ...] = ()
    macs_error: str | None = None
    #: Raw timing samples, in seconds per forward pass of the whole batch.
    samples: tuple[float, ...] = ()
    median: float | None = None
    p25: float | None = None
    p75: float | None = None


class ScalingRow(_ModelRow):
    """The local exponent d log t / d log N between two neighbouring resolutions of one profile."""

    kind: Literal["scaling"] = "scaling"
    session: str
    low: tuple[int, int]
    high: tuple[int, int]
    tokens: tuple[int, int]
    latency_exponent: float
    macs_exponent: float | None


class CrossoverRow(_ModelRow):
    """The image side from which a mixer is faster than the baseline, in one profile."""

    kind: Literal["crossover"] = "crossover"
    session: str
    #: A mixer too, with the same factors.
    baseline: str
    #: "at": between two measured sides, interpolated; "always": faster at every side; "none": at none up to the last.
    verdict: Literal["at", "always", "none"]
    side: float | None
    smallest_side: int
    largest_side: int


AnyRow = Annotated[TrainRow | BaselineRow | ProfileRow | ScalingRow | CrossoverRow, Field(discriminator="kind")]
_ROW: TypeAdapter[AnyRow] = TypeAdapter(AnyRow)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Append rows to a JSONL file, safe beside other writers; a reader takes each row whole or not at all.

    Raises:
        InputError: if the file cannot be written.
    """
    text = "".join(row.model_dump_json() + "\n" for row in rows)
    with writing("records", path, expected="a writable place", remedy="choose another --out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a torn line of a killed writer: end it, so that it spoils nothing else
                    text = "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> tuple[list[AnyRow], list[str]]:
    """The rows of a JSONL file, and a message for each line that was torn and skipped.

    Raises:
        InputError: for a file that cannot be read, rows of a newer schema, or a whole line that is no record.
    """
    try:
        # Not splitlines(): a message may hold characters, such as U+2028, that it takes for line ends and JSON does not.
        lines = path.read_bytes().decode(errors="replace").split("\n")
    except OSError as e:
        raise InputError("cannot read records", got=f"{path}: {e.strerror}", expected="a JSONL file of records") from e
    rows: list[AnyRow] = []
    torn = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
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


def now() -> str:
    """The time, in UTC, as rows carry it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The command that runs now, as a user would type it."""
    program = Path(sys.argv[0]).name or "python"
    return shlex.join([program, *sys.argv[1:]])


def environment(device: str = "cpu") -> Environment:
    """Stamp of this machine, these libraries and this revision, for work on ``device`` ("cpu" or "cuda")."""
    import torch

    cuda = device.startswith("cuda")
    revision, dirty = _git_revision()
    return Environment(
        device=torch.cuda.get_device_name(device) if cuda else _cpu_name(),
        device_type="cuda" if cuda else "cpu",
        threads=torch.get_num_threads(),
        tf32=cuda and (torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: metadata.version(name) for name in _PACKAGES if _installed(name)},
        git_revision=revision,
        git_dirty=dirty,
    )


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or "unknown CPU"
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "CPU")
    return f"{model} ({os.cpu_count()} logical cores)"


def _git_revision() -> tuple[str | None, bool | None]:
    """The revision of the checkout this package runs from; (None, None) for an ordinary install."""
    root = Path(__file__).resolve().parent.parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)
