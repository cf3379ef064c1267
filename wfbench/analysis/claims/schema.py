"""A file of claims, as people write it before the runs. docs/SWEEPS.md describes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wfbench import strict
from wfbench.strict import Section

_Points = Annotated[float, Field(gt=-100, lt=100)]


class _Claim(Section):
    """What every claim has."""

    id: str = Field(min_length=1)
    #: The claim in words, for people.
    says: str = Field(min_length=1)
    #: The line that it is about, as tables name it: "softmax + DWC".
    line: str = Field(min_length=1)


def _check_others(line: str, *others: str) -> None:
    """Refuse a line that is compared with itself, or twice with the same one."""
    if line in others:
        raise ValueError(f"{line} is compared with itself")
    if len(set(others)) < len(others):
        raise ValueError("a line is named twice in among")


class Better(_Claim):
    """line − than > by, in points of accuracy. A negative ``by`` says "no worse than, by more than"."""

    kind: Literal["better"]
    than: str
    by: _Points = 0.0
    #: The true difference whose power is printed.
    effect: _Points = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Better:
        _check_others(self.line, self.than)
        if self.effect <= self.by:
            raise ValueError(f"effect ({self.effect:g}) must be more than by ({self.by:g}): its power is printed")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """The lines that it is held against."""
        return (self.than,)


class Within(_Claim):
    """|line − of| < margin, in points of accuracy: "as good as"."""

    kind: Literal["within"]
    of: str
    margin: float = Field(gt=0, lt=100)

    @model_validator(mode="after")
    def _consistent(self) -> Within:
        _check_others(self.line, self.of)
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """The lines that it is held against."""
        return (self.of,)


class Best(_Claim):
    """line − other > 0 for every other one of a family."""

    kind: Literal["best"]
    among: tuple[str, ...] = Field(min_length=1)
    #: The true lead over each whose power is printed.
    effect: float = Field(1.0, gt=0, lt=100)

    @model_validator(mode="after")
    def _consistent(self) -> Best:
        _check_others(self.line, *self.among)
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """The lines that it is held against."""
        return self.among


class Ratio(Section):
    """A line's value over another's."""

    to: str
    at_least: float | None = Field(None, gt=0)
    at_most: float | None = Field(None, gt=0)


class Capability(_Claim):
    """What a line can do in a probe: at_least or at_most a number, or a ratio to another line's.

    Pairs of recall (``capacity``), tokens of needle (``n90``), steps along a walk of flood (``reach``), steps of a chain of hop
    (``hops``), steps of training of shift (``steps``), accuracy in per cent, or the share of the seeds that solved every level,
    in per cent.
    """

    kind: Literal["capability"]
    probe: Literal["majority", "recall", "needle", "shift", "hop", "flood"]
    statistic: Literal["capacity", "n90", "reach", "hops", "steps", "accuracy", "solved"]
    #: Of accuracy: on the grid of training; None: the mean over all levels.
    level: float | None = None
    #: Of accuracy in flood: so many steps from the mark, on the walks of the last level.
    distance: int | None = Field(None, ge=1)
    #: Of accuracy in needle: on another grid (rows, columns), at the last level.
    grid: tuple[int, int] | None = None
    #: Steps after which it is looked at; None: at the end.
    budget: int | None = Field(None, ge=1)
    at_least: float | None = Field(None, gt=0)
    at_most: float | None = Field(None, gt=0)
    ratio: Ratio | None = None
    #: How far beyond the threshold the truth is whose power is printed: a factor; points where an accuracy has a threshold.
    effect: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Capability:
        given = (self.at_least, self.at_most, self.ratio)
        if sum(value is not None for value in given) != 1:
            raise ValueError("exactly one of at_least, at_most and ratio is needed")
        if self.ratio is not None and (self.ratio.at_least is None) == (self.ratio.at_most is None):
            raise ValueError("ratio: exactly one of at_least and at_most is needed")
        owners = {"capacity": "recall", "n90": "needle", "reach": "flood", "hops": "hop", "steps": "shift"}
        whose = owners.get(self.statistic, self.probe)
        if whose != self.probe:
            raise ValueError(f"{self.statistic} is a statistic of {whose}, not of {self.probe}")
        where = {name for name in ("level", "distance", "grid") if getattr(self, name) is not None}
        if where and self.statistic != "accuracy":
            raise ValueError(f"{' and '.join(sorted(where))} is of the statistic accuracy alone")
        if len(where) > 1:
            raise ValueError(f"an accuracy is at one of {', '.join(sorted(where))}")
        if (self.distance is not None and self.probe != "flood") or (self.grid is not None and self.probe != "needle"):
            raise ValueError("distance is of the probe flood, grid of needle")
        if self.statistic == "steps" and self.budget is not None:
            raise ValueError("steps has no budget: it is the first evaluation with 90 %")
        if self.statistic == "solved" and (self.ratio is not None or self.budget is not None or self.effect is not None):
            raise ValueError("solved has neither ratio nor budget nor effect: it is a share of the seeds at the end")
        if self.statistic in ("accuracy", "solved") and self.ratio is None and not 0 < self.threshold <= 100:
            raise ValueError(f"{self.statistic} is in per cent, not {self.threshold:g}")
        if not self.is_factor and self._room == 0:
            raise ValueError(f"{self.statistic} at_least 100 % is shown by no number of samples: name a number below it")
        if not self.is_factor and self.effect is not None and self.effect > self._room:
            raise ValueError(f"effect: from {self.threshold:g} % there are {self._room:g} points left, not {self.effect:g}")
        if self.is_factor and self.effect is not None and self.effect <= 1:
            raise ValueError(f"effect ({self.effect:g}) is a factor above 1")
        _check_others(self.line, *self.others)
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """The line that it is held against, if there is one."""
        return () if self.ratio is None else (self.ratio.to,)

    @property
    def is_lower(self) -> bool:
        """Whether it says "at least"."""
        return (self.ratio or self).at_least is not None

    @property
    def threshold(self) -> float:
        """The number that it names."""
        where = self.ratio or self
        found = where.at_least if where.at_least is not None else where.at_most
        assert found is not None
        return found

    @property
    def is_factor(self) -> bool:
        """Whether distances from the threshold are factors, and so decided on log2."""
        return self.ratio is not None or self.statistic not in ("accuracy", "solved")

    @property
    def beyond(self) -> float:
        """The effect, or its default: a factor of 2, or 5 points, or as many as there are up to 100 % or down to 0."""
        if self.effect is not None:
            return self.effect
        return 2.0 if self.is_factor else min(5.0, self._room)

    @property
    def _room(self) -> float:
        """Of a claim about a share in per cent: how far beyond the threshold the truth can be."""
        return 100 - self.threshold if self.is_lower else self.threshold


class Exponent(_Claim):
    """at_least ≤ d log t / d log N ≤ at_most at an image side, by a profile's curve."""

    kind: Literal["exponent"]
    quantity: Literal["latency", "macs"] = "latency"
    #: In pixels; None: the largest that was measured.
    side: int | None = Field(None, ge=1)
    at_least: float | None = None
    at_most: float | None = None
    model: str = "vit-tiny"
    mode: Literal["infer", "train"] = "infer"

    @model_validator(mode="after")
    def _consistent(self) -> Exponent:
        if self.at_least is None and self.at_most is None:
            raise ValueError("at_least or at_most is needed")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least:g}) is more than at_most ({self.at_most:g})")
        return self


class Crossover(_Claim):
    """line takes less time than ``than`` at every image side from ``from`` on."""

    kind: Literal["crossover"]
    than: str = "softmax"
    side: int = Field(ge=1, alias="from")
    model: str = "vit-tiny"
    mode: Literal["infer", "train"] = "infer"

    @model_validator(mode="after")
    def _consistent(self) -> Crossover:
        _check_others(self.line, self.than)
        return self


#: Claims about differences of accuracies.
DifferenceClaim = Better | Within | Best
#: Claims that the runs of a sweep answer, about accuracies and what follows from them; the others are about a profile.
AccuracyClaim = DifferenceClaim | Capability
AnyClaim = Annotated[Better | Within | Best | Capability | Exponent | Crossover, Field(discriminator="kind")]


class Budget(Section):
    """What each run may cost: a run with another budget does not count."""

    epochs: int = Field(ge=1)
    #: Whether models were matched to the baseline's budget, and how many rates were tried for each line.
    match: Literal["params", "macs"] | None = None
    trials: int = Field(0, ge=0)


class ClaimsFile(Section):
    """A file of claims about the runs of one recipe."""

    recipe: str
    #: All of these seeds decide, and no other.
    seeds: tuple[int, ...] = Field(min_length=2)
    budget: Budget
    weights: Literal["raw", "ema"] = "raw"
    #: Numbers of seeds, counted from the first, at which claims are answered; none: once, with all of them.
    looks: tuple[int, ...] = ()
    claims: tuple[AnyClaim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> ClaimsFile:
        names = [claim.id for claim in self.claims]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ValueError(f"two claims have the id {twice[0]}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is named twice")
        rising = all(a < b for a, b in zip(self.looks, self.looks[1:], strict=False))
        if self.looks and not (rising and self.looks[0] >= 2 and self.looks[-1] == len(self.seeds)):
            raise ValueError(f"looks are rising numbers of seeds, from 2 up to all {len(self.seeds)}, not {list(self.looks)}")
        return self

    @property
    def of_accuracy(self) -> tuple[AccuracyClaim, ...]:
        """The claims about accuracies."""
        return tuple(claim for claim in self.claims if isinstance(claim, AccuracyClaim))

    @property
    def lines(self) -> list[str]:
        """The lines whose accuracies the file speaks of, each once."""
        return list(dict.fromkeys(name for claim in self.of_accuracy for name in (claim.line, *claim.others)))


@dataclass(frozen=True)
class Claims:
    """A file of claims with its text and the text's hash."""

    text: str
    sha256: str
    file: ClaimsFile


def read_claims(path: Path) -> Claims:
    """Read a file of claims.

    Raises:
        InputError: for a file that cannot be read, an unknown key, or a value that cannot be.
    """
    remedy = "check --claims, or `claims` in the sweep's file; docs/SWEEPS.md shows such a file"
    return parse_claims(strict.read_text(path, "claims", "a YAML file of claims", remedy), str(path))


def parse_claims(text: str, where: str, remedy: str = "change it in the file; docs/SWEEPS.md shows what it may hold") -> Claims:
    """The claims in a YAML text; ``where`` names its origin in errors, ``remedy`` says what to do about one.

    Raises:
        InputError: as `read_claims`.
    """
    data = strict.parse_yaml(text, "claims file", where, remedy)
    file = strict.validated(ClaimsFile, data, "claims file", where, remedy)
    return Claims(text, hashlib.sha256(text.encode()).hexdigest(), file)
