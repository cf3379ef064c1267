"""Equal budgets: the MLP ratio, or the depth, at which a mixer has as many parameters or MACs as the baseline."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

import mixers
from wfbench import models
from wfbench.analysis.lines import scheduled
from wfbench.errors import InputError, UndeclaredError
from wfbench.models.schedule import mixers_of, schedule_of
from wfbench.recipe import Recipe
from wfbench.tasks.common import check_carried

What = Literal["params", "macs"]

#: The largest relative difference that counts as equal, and the MLP ratios between which it is looked for.
RESIDUAL = 0.02
RATIOS = (0.5, 16.0)


@dataclass(frozen=True)
class Match:
    """What makes one mixer's budget equal to the baseline's.

    Attributes:
        what: parameters or MACs.
        budget: the baseline's.
        before: the mixer's own, unmatched.
        reached: the mixer's own, matched.
        mlp_ratio: at which it is reached; None where it stays as it was.
        depth: likewise.
    """

    what: What
    budget: int
    before: int
    reached: int
    mlp_ratio: float | None = None
    depth: int | None = None

    @property
    def residual(self) -> float:
        """The difference that is left, relative to the budget."""
        return self.reached / self.budget - 1

    def settings(self, baseline: str) -> list[str]:
        """As overrides of the recipe."""
        changed = {"mlp_ratio": self.mlp_ratio, "depth": self.depth}
        rule = {"match": self.what, "match_to": f'"{baseline}"', "budget": self.budget, "residual": repr(self.residual)}
        return [
            *(f"model.{key}={value!r}" for key, value in changed.items() if value is not None),
            *(f"chosen.{key}={value}" for key, value in rule.items()),
        ]


def match(recipe: Recipe, what: What, baseline: Recipe, classes: int) -> Match:
    """Match the recipe's model to that of ``baseline``.

    The MLP ratio is the knob. For a mixer that lives in the FFN, which the ratio changes as well, other depths are tried
    where no ratio does it, the nearest first. Nothing is trained or timed: parameters are counted on the meta device,
    MACs by the closed forms that the modules declare, or, of a mixer that declares none, by two counters that agree.

    Raises:
        InputError: if no ratio and no depth comes within 2 %, naming the nearest; or MACs are a lower bound only.
    """
    budget, own = count(baseline, what, classes), count(recipe, what, classes)
    if own == budget:
        return Match(what, budget, own, own)
    config = _config(recipe, classes)
    nearest: Match | None = None
    for depth in _depths(config):
        found = _by_ratio(recipe, what, classes, budget, own, depth, same_depth=depth == config.depth)
        if nearest is None or abs(found.residual) < abs(nearest.residual):
            nearest = found
        if abs(nearest.residual) <= RESIDUAL:
            return nearest
    assert nearest is not None
    unit = {"params": "parameters", "macs": "MACs"}[what]
    raise InputError(
        f"the {unit} cannot be matched",
        got=f"{scheduled(config)}: {nearest.reached:,} at MLP ratio {nearest.mlp_ratio or config.mlp_ratio:g} and depth "
        f"{nearest.depth or config.depth} ({100 * nearest.residual:+.1f} %) are the nearest",
        expected=f"{budget:,} {unit} within {RESIDUAL:.0%}, at an MLP ratio from {RATIOS[0]:g} to {RATIOS[1]:g}",
        remedy=f"leave the mixer out, match the {'MACs' if what == 'params' else 'parameters'}, or compare as is",
    )


def count(recipe: Recipe, what: What, classes: int, **changed: object) -> int:
    """Parameters of a recipe's model, or MACs of one image's forward pass on the order of evaluation that is quoted.

    Raises:
        InputError, MixerError: if the model cannot be, no layer of it carries the mixer, or its MACs are a lower bound only.
    """
    model = build(recipe, classes, changed)
    check_carried(model.config)
    return params_of(model) if what == "params" else macs_of(model)


def params_of(model: models.AnyModel) -> int:
    """How many parameters a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def macs_of(model: models.AnyModel) -> int:
    """MACs of one image's forward pass, on the order of evaluation that is quoted.

    Raises:
        InputError: if they are a lower bound only.
    """
    try:
        return sum(model.declared_macs(model.config.image_size).values())
    except UndeclaredError:
        return _counted(model, scheduled(model.config))


def _counted(model: models.AnyModel, name: str) -> int:
    """MACs of a model of which a mixer declares none, by the two counters."""
    from wfbench.measure import count_flops  # its libraries take a second, and most mixers declare their MACs

    counted = count_flops(model, (1, model.config.in_channels, *model.config.image_size))
    if counted.number is None:
        raise InputError(
            "MACs that are a lower bound cannot be matched",
            got=f"{name}: at least {counted.macs:,}; {counted.why_bound}",
            expected="a number: declared, or counted by two counters that agree",
            remedy="say what the operator costs, by @mixers.counts, or match the parameters",
        )
    return int(counted.number)


def build(recipe: Recipe, classes: int, changed: Mapping[str, object] | None = None) -> models.AnyModel:
    """A recipe's model without weights.

    Raises:
        InputError, MixerError: if it cannot be.
    """
    section = recipe.model
    settings: dict[str, Any] = {**section.overrides(), **(changed or {})}
    with torch.device("meta"):  # shapes alone; the global generator is not drawn from
        if recipe.dense is not None:
            return models.create_dense(
                section.name, section.mixer, section.image_size, num_classes=classes, decoder=recipe.dense.decoder, **settings
            )
        return models.create(section.name, section.mixer, section.image_size, classes, **settings)


def _config(recipe: Recipe, classes: int) -> models.Config:
    section = recipe.model
    return models.configure(section.name, section.mixer, section.image_size, classes, **section.overrides())


def _depths(config: models.Config) -> Iterator[int]:
    """The depth as it is; for a mixer that lives in the FFN then all others up to four times it, the nearest first.

    A depth at which no layer would carry the mixer is left out.
    """
    yield (depth := config.depth)
    if any(mixers.spec(name).ffn_in != "linear" for name in mixers_of(config)):
        others = range(schedule_of(config).offset + 1, 4 * depth + 1)
        yield from sorted((other for other in others if other != depth), key=lambda d: (abs(d - depth), d))


def _by_ratio(recipe: Recipe, what: What, classes: int, budget: int, before: int, depth: int, *, same_depth: bool) -> Match:
    """The nearest to the budget that the width of the FFN reaches; parameters and MACs grow with it."""
    dim = _config(recipe, classes).embed_dim
    low, high = math.ceil(dim * RATIOS[0]), int(dim * RATIOS[1])
    changed = {} if same_depth else {"depth": depth}

    @cache
    def at(hidden: int) -> int:
        return count(recipe, what, classes, mlp_ratio=_ratio(hidden, dim), **changed)

    first = low + bisect_left(range(low, high + 1), budget, key=at)  # the narrowest that reaches it, or one too far
    hidden = min((h for h in (first - 1, first) if low <= h <= high), key=lambda h: abs(at(h) - budget))
    return Match(what, budget, before, at(hidden), _ratio(hidden, dim), None if same_depth else depth)


def _ratio(hidden: int, dim: int) -> float:
    """The MLP ratio whose FFN, int(dim · ratio) wide, has this width."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
