"""What in a trained network does the work: its figures with something taken away, over images and over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from wfbench.analysis.interval import Interval
from wfbench.analysis.lines import group, latest, lines_by_code, sorted_keys
from wfbench.analysis.seed_differences import over_seeds
from wfbench.analysis.strength import mean_strength
from wfbench.records import AblationRow, AnyRow, Metric, Slot, Strength, What


class AblationSetting(NamedTuple):
    """What the networks of one table share."""

    metric: Metric
    dataset: str
    recipe: str
    model: str
    image_size: tuple[int, int]
    weights: str
    samples: int
    device: str
    dtype: str
    digest: str
    #: Of the models' code and of the data; None where they were not recorded.
    model_digest: str | None
    data_digest: str | None


@dataclass(frozen=True)
class Part:
    """Strengths of one kind over the seeds: of the whole prediction, of what images have in common, of the image's own.

    All are infinite where the layer has no static part.
    """

    total: Interval
    common: Interval
    own: Interval


@dataclass(frozen=True)
class AblationLine:
    """One network, over its seeds, with one thing taken away.

    Attributes:
        label: the network's name.
        what: what is taken away.
        slot: from which slot.
        layer: in which block; None for all of them together.
        runs: the newest row of each seed.
        value: the figure with the change, the mean over the seeds.
        unchanged: the figure without it.
        difference: value minus unchanged. With several seeds the t-interval over their differences, which is no narrower than
            the intervals over images; with one the interval over images, for these weights alone.
        strength: of the prediction, after training; None for a branch, or several layers.
        before: in the initial weights; None where it was not recorded.
    """

    label: str
    what: What
    slot: Slot
    layer: int | None
    runs: tuple[AblationRow, ...]
    value: Interval
    unchanged: Interval
    difference: Interval
    strength: Part | None
    before: Part | None

    @property
    def is_over_seeds(self) -> bool:
        """Whether the difference's interval holds for other seeds."""
        return len(self.runs) > 1


@dataclass(frozen=True)
class AblationResult:
    """The networks of one setting.

    Attributes:
        setting: what they share.
        lines: by name, then by slot, by what is taken away, and by layer, all of them first.
        repeats: how many rows were left out, since a later one is of the same line, seed and change.
    """

    setting: AblationSetting
    lines: tuple[AblationLine, ...]
    repeats: int = 0


def ablations(rows: Iterable[AnyRow]) -> tuple[AblationResult, ...]:
    """A result for each setting and figure."""
    groups = group((row for row in rows if isinstance(row, AblationRow)), _setting)
    made = []
    for setting in sorted_keys(groups):
        lines = tuple(_lines(groups[setting]))
        made.append(AblationResult(setting, lines, len(groups[setting]) - sum(len(line.runs) for line in lines)))
    return tuple(made)


def _setting(row: AblationRow) -> AblationSetting:
    named = {name: getattr(row, name) for name in AblationSetting._fields if name not in ("digest", "device")}
    return AblationSetting(**named, digest=row.recipe_digest, device=row.environment.device)


def _lines(rows: Sequence[AblationRow]) -> Iterable[AblationLine]:
    for name, members in sorted(lines_by_code(rows).items()):
        changes = group(members, lambda row: (row.slot, row.what, row.layer))
        for change in sorted(changes, key=_order):
            yield _line(name, latest(changes[change], lambda row: row.seed))


def _order(change: tuple[Slot, What, int | None]) -> tuple[int, int, int]:
    slot, what, layer = change
    return get_args(Slot).index(slot), get_args(What).index(what), -1 if layer is None else layer


def _line(name: str, runs: Sequence[AblationRow]) -> AblationLine:
    first = runs[0]
    return AblationLine(
        name,
        first.what,
        first.slot,
        first.layer,
        tuple(runs),
        value=over_seeds([row.value for row in runs]),
        unchanged=over_seeds([row.unchanged for row in runs]),
        difference=_difference(runs),
        strength=_part(runs, lambda row: row.strength),
        before=_part(runs, lambda row: row.strength_before),
    )


def _difference(runs: Sequence[AblationRow]) -> Interval:
    """Over the seeds, and never narrower than over the images: all seeds were judged on the same ones."""
    one, found = runs[0], over_seeds([row.difference for row in runs])
    if len(runs) == 1:
        if one.low is None or one.high is None:
            return Interval(one.difference, why_none="too few images have a labelled pixel")
        return Interval(one.difference, one.low, one.high)
    over_images = [(row.high - row.low) / 2 for row in runs if row.low is not None and row.high is not None]
    reach = max(found.half_width or 0.0, math.fsum(over_images) / len(over_images) if over_images else 0.0)
    if not math.isfinite(found.estimate) or (found.half_width is None and not over_images):
        return found
    return Interval.around(found.estimate, reach)


def _part(runs: Sequence[AblationRow], of: Callable[[AblationRow], Strength | None]) -> Part | None:
    found = [strength for row in runs if (strength := of(row)) is not None]
    if len(found) < len(runs):
        return None
    return Part(*(mean_strength([getattr(strength, name) for strength in found]) for name in ("total", "common", "own")))
