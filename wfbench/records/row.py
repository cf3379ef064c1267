"""What every row carries: schema version, date, command and environment; of a row about a model also the model."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Version of the row schema. Raise it when a field changes its meaning or a reader must know a new one.
SCHEMA = 6


class Strict(BaseModel):
    """Frozen settings and rows: an unknown field is an error."""

    # "strings": by default pydantic writes NaN and infinity as null, which the reader would then refuse.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="strings")


#: A fraction of something, and how many of something there are.
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Environment(Strict):
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


class Row(Strict):
    """What every row carries."""

    schema_version: int = SCHEMA
    #: When the work began.
    created: str = Field(default_factory=lambda: now())
    command: str = Field(default_factory=lambda: command_line())
    environment: Environment


#: What a `ModelRow` says of the layer schedule, and all that it carries beside model and mixer: the factors of the skeleton.
SCHEDULE = ("every", "offset", "between")
FACTORS = ("local_conv", "pos_embed", *SCHEDULE)


class ModelRow(Row):
    """What every row about a model carries: the model, its mixer, and the factors of the skeleton that vary beside it."""

    model: str
    mixer: str
    local_conv: Literal["none", "dwc"] = "none"
    pos_embed: Literal["none", "learned", "sincos", "rope2d"] = "learned"
    #: The layer schedule that was chosen: layer i carries the mixer when i % every == offset, ``between`` fills the others
    #: (None: what the mixer itself has there). None, all three: the mixer's own schedule.
    every: int | None = None
    offset: int | None = None
    between: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _before_there_were_positions(cls, data: Any) -> Any:
        """A row that names no position was written when each model had its preset's own."""
        if isinstance(data, dict) and "pos_embed" not in data and str(data.get("model")).startswith("weightformer-"):
            return data | {"pos_embed": "none"}
        return data


class TracedRow(ModelRow):
    """A row that says by which code and from which data its number is: lines that differ in one of them are not averaged.

    None means that it was not recorded: the row is of a schema before 6, or of a run that was begun with one.
    """

    #: Of the source text of the mixer's layers, and of the models around them. A run that went on with other code has the
    #: digests of both, joined by "+".
    mixer_digest: str | None = None
    model_digest: str | None = None
    #: Of the data's classes, files and split.
    data_digest: str | None = None
    #: Files of the data that look like samples and were not read (see docs/DATA.md).
    passed_over: int = Field(0, ge=0)


def now() -> str:
    """The time, in UTC, as rows carry it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command_line() -> str:
    """The command that runs now, as a user would type it."""
    program = {"": "python", "__main__.py": "wfbench"}.get(name := Path(sys.argv[0]).name, name)
    return shlex.join([program, *sys.argv[1:]])


def option_values(command: str, option: str) -> list[str]:
    """What a command gave an option, in order: as --option VALUE or --option=VALUE."""
    words = shlex.split(command)
    found = []
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word == option and following is not None:
            found.append(following)
        elif word.startswith(f"{option}="):
            found.append(word.partition("=")[2])
    return found
