"""What a sweep is asked for: a strict YAML, or the same on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from wfbench import shipped, strict
from wfbench.strict import Section

Conv = Literal["none", "dwc"]
Position = Literal["none", "learned", "sincos", "rope2d"]
Setting = Annotated[str, Field(pattern=r"^[^=\s]+=")]


class Line(Section):
    """One line of the comparison: a mixer, with factors where they differ from the recipe's (None: as the recipe has them).

    In YAML, the name alone stands for a mixer without more.
    """

    mixer: str = Field(min_length=1)
    local_conv: Conv | None = None
    pos: Position | None = None
    #: The layer schedule, as `model.every`, `model.offset` and `model.between` of a recipe.
    every: int | None = Field(None, ge=1)
    offset: int | None = Field(None, ge=0)
    between: str | None = Field(None, min_length=1)

    @property
    def is_scheduled(self) -> bool:
        """Whether it says anything of its layer schedule."""
        return (self.every, self.offset, self.between) != (None, None, None)

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"mixer": value} if isinstance(value, str) else value


class Tune(Section):
    """The same number of trials for every mixer, on images held out of the training images."""

    key: Literal["lr"] = "lr"
    #: Rates that are tried: the recipe's times factor^i, as many below it as above (one more below, of an even number).
    trials: int = Field(5, ge=2, le=50)
    factor: float = Field(2.0, ge=1.01)
    #: Each rate is tried once with each of these seeds, none of which is a final one.
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((1000,), min_length=1)
    #: The share of the training images that trials are judged on.
    validation: float = Field(0.2, gt=0, lt=1)

    def rates(self, lr: float) -> tuple[float, ...]:
        """The rates about the recipe's own, to four digits."""
        return tuple(float(f"{lr * self.factor ** (i - self.trials // 2):.4g}") for i in range(self.trials))


class SweepRequest(Section):
    """Mixers × seeds × recipes × factors × varied settings."""

    mixers: tuple[Line, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((0,), min_length=1)
    recipes: tuple[str, ...] = Field(("digits",), min_length=1)
    #: Each of these for every mixer that does not name its own.
    local_conv: tuple[Conv, ...] = ()
    pos: tuple[Position, ...] = ()
    #: Each combination of these for every mixer that says nothing of its layer schedule.
    every: tuple[Annotated[int, Field(ge=1)], ...] = ()
    offset: tuple[Annotated[int, Field(ge=0)], ...] = ()
    between: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    #: For all runs, as ``--set``.
    settings: tuple[Setting, ...] = Field((), alias="set")
    #: Recipe keys, each with several values: every combination is run.
    vary: dict[str, tuple[Any, ...]] = {}
    #: As ``--data`` of `wfbench train`.
    data: str | None = None
    #: The mixer whose budget the others are matched to, with the factors of the recipe.
    baseline: str = "softmax"
    match: Literal["params", "macs"] | None = None
    tune: Tune | None = None
    #: A file of claims; it is recorded before the first run.
    claims: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SweepRequest:
        for name in ("mixers", "seeds", "recipes", "local_conv", "pos", "every", "offset", "between"):
            values = getattr(self, name)
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{name} names {twice[0].mixer if isinstance(twice[0], Line) else twice[0]} twice")
        for key, values in self.vary.items():
            if not values:
                raise ValueError(f"vary.{key} needs one value or more")
        if self.tune is not None and set(self.tune.seeds) & set(self.seeds):
            shared = ", ".join(map(str, sorted(set(self.tune.seeds) & set(self.seeds))))
            raise ValueError(f"tune.seeds and seeds share {shared}: a final seed must not have chosen the rate")
        if self.tune is not None and any(key == "optim.lr" for key in self.vary):
            raise ValueError("optim.lr is either tuned or varied")
        return self


def load_request(sweep: str | Path | None, options: Mapping[str, Any]) -> SweepRequest:
    """The request in a YAML file, with options of the command line in its place; ``set`` is added to the file's.

    Args:
        sweep: a sweep that comes with the package, by name (``cifar10``), or the path of a YAML file; None for none. The
            claims of a sweep by name are those beside it, wherever the command runs.
        options: by the YAML's keys; None and empty lists are options that were not given.

    Raises:
        InputError: for an unknown sweep, a file that cannot be read, an unknown key, or a value that cannot be.
    """
    file = None if sweep is None else shipped.find(str(sweep), "sweeps")
    data = strict.read_yaml(file, "sweep") if file is not None else {}
    if file is not None and str(file) != str(sweep) and isinstance(data.get("claims"), str):
        data["claims"] = str(file.with_name(Path(data["claims"]).name))
    given = {key: value for key, value in options.items() if value is not None and value != []}
    if "set" in given and isinstance(data.get("set"), list):
        given["set"] = [*data["set"], *given["set"]]
    if "tune" in given and isinstance(data.get("tune"), dict):
        given["tune"] = data["tune"] | given["tune"]
    remedy = "change it in the sweep's file, or by its option: wfbench sweep --help"
    by_option = {key: "the command line" for key in given if key not in ("set", "tune") or key not in data}
    return strict.validated(SweepRequest, data | given, "sweep", str(file or "the command line"), remedy, by_option)
