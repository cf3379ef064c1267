"""From a request to runs: recipes resolved, models and data tried, budgets matched, before anything is written."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from wfbench import models
from wfbench import recipe as recipes
from wfbench.data import Dataset, DenseDataset, ProbeDataset, open_dataset, open_dense, open_probe
from wfbench.data.latents import Latents, open_latents
from wfbench.errors import InputError
from wfbench.recipe import DataSection, Recipe
from wfbench.tasks.common import check_carried
from wfbench.tasks.identity import Identity, identify
from wfbench.tasks.jobs import pinned
from wfbench.tasks.jobs.dit import latents_directory
from wfbench.tasks.sweep.match import Match, match
from wfbench.tasks.sweep.request import Line, SweepRequest
from wfbench.tasks.sweep.single_run import PlannedRun, name_of

_Data = Dataset | DenseDataset | ProbeDataset | Latents


@dataclass(frozen=True)
class Draft:
    """A line of the comparison under one recipe: all of a run but its seed, and the rate where that is tuned."""

    base: str
    line: Line
    data: str | None
    settings: tuple[str, ...]
    varied: Mapping[str, object]
    recipe: Recipe
    config: models.Config
    dataset: _Data
    #: As trials of tuning see the data; None without tuning.
    trial_dataset: _Data | None = None
    matched: Match | None = None

    @property
    def label(self) -> str:
        """What it is called where seeds are summed up."""
        return label_of(self.base, self.line, self.varied)

    @property
    def measure(self) -> Literal["accuracy", "mIoU", "loss"]:
        """What its runs are compared by."""
        return "loss" if self.recipe.task == "dit" else "mIoU" if self.recipe.data.dense is not None else "accuracy"

    @functools.cached_property
    def identity(self) -> Identity:
        """The code and the data of its final runs, as they are now."""
        return identify(self.config.mixer, self.dataset, self.config.between)

    @functools.cached_property
    def trial_identity(self) -> Identity:
        """The same of its trials, which are judged on other images."""
        return identify(self.config.mixer, self.trial_dataset or self.dataset, self.config.between)

    @functools.cached_property
    def pin(self) -> tuple[str, ...]:
        """The setting that names the commit of initial weights from the Hub, one for all seeds; none for other weights."""
        name = pinned(self.recipe).model.init_weights
        return () if name == self.recipe.model.init_weights else (f"model.init_weights={json.dumps(name)}",)

    def plan_run(
        self, seed: int, more: Sequence[str] = (), varied: Mapping[str, object] | None = None, folder: str = ""
    ) -> PlannedRun:
        """A run of it.

        Args:
            seed: the run's.
            more: further settings.
            varied: what of them is named.
            folder: of the sweep's directory.

        Raises:
            InputError: for a recipe that cannot be.
        """
        settings = (*self.settings, *more, *self.pin)
        words, replaced = ["--recipe", self.base, "--mixer", self.line.mixer], {"model.mixer", "seed"}
        replaced |= set() if self.data is None else {"data.path"}
        for option, key in (
            ("local_conv", "local_conv"),
            ("pos", "pos_embed"),
            *((k, k) for k in ("every", "offset", "between")),
        ):
            value = getattr(self.line, option)
            if value is not None:
                words += [f"--{option.replace('_', '-')}", str(value)]
                replaced.add(f"model.{key}")
        kept = [setting for setting in settings if setting.partition("=")[0] not in replaced]
        words += [word for setting in kept for word in ("--set", setting)]
        words += ["--seed", str(seed), *([] if self.data is None else ["--data", self.data])]
        recipe = resolve(self.base, self.line, self.data, (*settings, f"seed={seed}"))
        name = name_of(recipe, {**self.varied, **(varied or {})})
        identity = self.trial_identity if folder else self.identity
        return PlannedRun(name, recipe, tuple(words), self.label, folder, "" if folder else self.dataset.name, identity)


def label_of(base: str, line: Line, varied: Mapping[str, object]) -> str:
    """A line in words: recipe, mixer, factors and what is varied."""
    chosen = [line.local_conv and f"local-conv {line.local_conv}", line.pos and f"pos {line.pos}"]
    schedule = {"every": line.every, "offset": line.offset, "between": line.between}
    chosen += [f"{key} {value}" for key, value in schedule.items() if value is not None]
    chosen += [f"{key} {value}" for key, value in varied.items()]
    return ", ".join([f"{base}: {line.mixer}", *(part for part in chosen if part)])


def resolve(base: str, line: Line | None, data: str | None, settings: Sequence[str]) -> Recipe:
    """The recipe that `wfbench train` makes of the same words; without a line, the recipe's own model.

    Raises:
        InputError: as `recipe.load`.
    """
    short: dict[str, object] = {}
    if line is not None:
        short = {"mixer": line.mixer, "local_conv": line.local_conv, "pos_embed": line.pos}
        short |= {"every": line.every, "offset": line.offset, "between": line.between}
    chosen = [f"model.{key}={json.dumps(value)}" for key, value in short.items() if value is not None]
    found = recipes.load(base, [*settings, *chosen])
    return found if data is None else recipes.override(found, recipes.data_settings(data, found.data.source, settings))


def drafts(request: SweepRequest) -> list[Draft]:
    """Every line under every recipe, checked: data are opened, models configured, budgets matched.

    Raises:
        InputError, MixerError: for whatever would stop a run later, a budget that cannot be matched, or two equal lines.
    """
    found: list[Draft] = []
    problems: list[str] = []
    opened: dict[str, tuple[_Data, _Data | None]] = {}
    for base, varied, line in itertools.product(request.recipes, _variations(request), lines_of(request)):
        settings = (*request.settings, *(f"{key}={json.dumps(value)}" for key, value in varied.items()))
        recipe = resolve(base, line, request.data, settings)
        section, (dataset, trial_dataset) = recipe.model, _open_once(recipe, request, opened)
        classes = len(dataset.classes)
        overrides = _sees(recipe, dataset).model.overrides()
        config = models.configure(section.name, section.mixer, section.image_size, classes, **overrides)
        check_carried(config)
        draft = Draft(base, line, request.data, settings, varied, recipe, config, dataset, trial_dataset)
        if request.match is not None:
            baseline = resolve(base, Line(mixer=request.baseline), request.data, settings)
            try:
                matched = match(_sees(recipe, dataset), request.match, _sees(baseline, dataset), classes)
            except InputError as e:
                problems.append(str(e))
                continue
            draft = replace(draft, settings=(*settings, *matched.settings(request.baseline)), matched=matched)
        found.append(draft)
    if problems:
        raise InputError(problems[0] + (f"\n(and {len(problems) - 1} more mixers)" if len(problems) > 1 else ""))
    made = [_in_one_form(draft, draft.plan_run(request.seeds[0]).recipe) for draft in found]
    twice = [draft.label for draft, recipe in zip(found, made, strict=True) if made.count(recipe) > 1]
    if twice:
        raise InputError(
            "two lines of the sweep are the same run",
            got="; ".join(twice),
            expected="each run once",
            remedy="leave one of them out, or give it another setting",
        )
    return found


def _sees(recipe: Recipe, dataset: _Data) -> Recipe:
    """The recipe with the channels of the latents, which decide them, if it is trained on latents."""
    if not isinstance(dataset, Latents):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"in_channels": dataset.shape[0]})})


def _in_one_form(draft: Draft, recipe: Recipe) -> Recipe:
    """The recipe with its schedule as the model settles it: one that spells out the mixer's own is the same run."""
    config = draft.config
    schedule = {"every": config.every, "offset": config.offset, "between": config.between}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=schedule)})


def match_lines(found: Sequence[Draft], baseline: str) -> list[str]:
    """What matching did to each line, in words."""
    said = []
    for draft in found:
        if draft.matched is not None:
            m = draft.matched
            changes = [f"MLP ratio {m.mlp_ratio:g}" if m.mlp_ratio else "", f"depth {m.depth}" if m.depth else ""]
            how = ", ".join(filter(None, changes)) or "as it is"
            unit = {"params": "parameters", "macs": "MACs"}[m.what]
            said.append(
                f"{draft.label}: {m.before:,} {unit}, matched {m.reached:,} of {baseline}'s {m.budget:,} "
                f"({100 * m.residual:+.2f} %): {how}"
            )
    return said


def lines_of(request: SweepRequest) -> Iterator[Line]:
    """Its mixers with each combination of the factors that are for all of them."""
    for line in request.mixers:
        convs = request.local_conv if line.local_conv is None and request.local_conv else (line.local_conv,)
        positions = request.pos if line.pos is None and request.pos else (line.pos,)
        schedules = [(line.every, line.offset, line.between)]
        if not line.is_scheduled:
            schedules = list(itertools.product(request.every or (None,), request.offset or (None,), request.between or (None,)))
        for conv, pos, (every, offset, between) in itertools.product(convs, positions, schedules):
            yield Line(mixer=line.mixer, local_conv=conv, pos=pos, every=every, offset=offset, between=between)


def _variations(request: SweepRequest) -> list[dict[str, object]]:
    keys = list(request.vary)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*request.vary.values())]


def _open_once(
    recipe: Recipe, request: SweepRequest, known: dict[str, tuple[_Data, _Data | None]]
) -> tuple[_Data, _Data | None]:
    """The recipe's data set, opened once, also as trials of tuning will see it, if there are any."""
    data = recipe.data
    if request.tune is not None and (data.validation is not None or data.source == "latents"):
        other = "tune on images" if data.source == "latents" else "set data.validation=null"
        raise InputError(
            "the recipe cannot be tuned",
            got=f"data.source = {data.source}, data.validation = {data.validation}",
            expected="images, of which the trials hold out a share of the training ones, and no other",
            remedy=f"leave --tune out, or {other}",
        )
    key = data.model_dump_json() + (f" at {recipe.model.image_size}" if data.probe is not None else "")
    if key not in known:
        trial = None if request.tune is None else data.model_copy(update={"validation": request.tune.validation})
        known[key] = _open(recipe, data), None if trial is None else _open(recipe, trial)
    return known[key]


def _open(recipe: Recipe, data: DataSection) -> _Data:
    """The data set of a recipe with this section."""
    if data.probe is not None:
        return open_probe(data, recipe.model.image_size)
    if data.source == "latents":
        return open_latents(latents_directory(data))
    return open_dense(data) if recipe.task == "dense" else open_dataset(data)
