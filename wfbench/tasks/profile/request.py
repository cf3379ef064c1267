"""What a profile is asked to measure, checked before anything is."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mixers
from wfbench import diffusion, forkserver, measure, models
from wfbench.analysis.lines import scheduled
from wfbench.errors import InputError, did_you_mean
from wfbench.measure.latency import BLOCK_SECONDS, FORKED, INTERLEAVED, ISOLATED
from wfbench.models import Config, DiTConfig
from wfbench.models.schedule import schedule_of
from wfbench.recipe import Recipe
from wfbench.records import SCHEDULE, Environment
from wfbench.records.identity import class_files, digest_files, package_files
from wfbench.tasks import profile
from wfbench.tasks.common import check_carried, try_on_meta
from wfbench.tasks.profile.cell import AUTO, BACKENDS, DTYPES, Cell
from wfbench.tasks.profile.classes import classes_of

#: Pixels of an image along a side for one of its latent, in the autoencoders that latent DiTs are trained on.
LATENT = 8
#: How often the grid is measured, by protocol: so often that a typical speed-up is known to about 10 % on the machines that the
#: committed records come from. `benchmarks/rounds.py` makes the table that this follows from (docs/MEASUREMENT.md).
ROUNDS = {ISOLATED: 10, INTERLEAVED: 20}
#: How long a cell is sampled in each round, by protocol.
SECONDS = {ISOLATED: 1.0, INTERLEAVED: BLOCK_SECONDS}
#: What is counted is what is timed: the evaluation path that runs.
PATH = "auto"


#: Fewer rounds of a throughput would hardly ever be sure that a gain is under 5 %: 8 are, where rounds deviate by 6 %.
LEAST_THROUGHPUT_ROUNDS = 8


@dataclass(frozen=True)
class ProfileRequest:
    """A model with each mixer at each resolution (sides in pixels, also of what a latent stands for), and how to measure it.

    Attributes:
        local_conv, pos_embed: of every mixer; None is what the model's preset has, or the recipe.
        every, offset, between: the layer schedule of every mixer; None, all three, is what the recipe has, or each mixer by
            itself. With a schedule the baseline, if it is among the mixers, is also measured by its own.
        recipe: the model is that of a recipe, with its sizes, classes and decoder; ``model`` is the preset's name still.
        classes: how many the recipe's data have; None for a recipe whose data come with the bench, and without a recipe.
        pixel_space: a DiT works on the images themselves, of 3 channels, and not on latents of an eighth of their side.
        batch: images of a call.
        tokens: tokens of a call at every resolution, instead of ``batch``.
        baseline: the mixer that speed-ups and crossovers are held against.
        attention: "best" times the baseline with every backend of its attention, forced; "auto" leaves it to PyTorch.
        alternatives: also what else one can buy: the baseline with patches twice as large, and with half the layers.
        isolate: a fresh process for every cell and round.
        memory: measure peak memory, in processes of its own; None does so where latency has its own too.
        saturate, breakdown: find the batch that saturates; list MACs by module and operator.
        max_batch: the largest batch that ``saturate`` tries.
        rounds: how often the whole grid is measured; also the rounds of each batch that ``saturate`` tries, which are
            `LEAST_THROUGHPUT_ROUNDS` at least.
        seconds: how long a cell is sampled in each round; None for `SECONDS` of its protocol.
        budget: after how many seconds an isolated cell is stopped.
        precision: after the rounds, cells whose speed-up over the baseline is known less well than this, as a relative
            half-width, are measured in more rounds, beside the baseline; None for no more rounds.
        more_minutes: after so many minutes of them, what is not known as well stays so.
        force: measure again what has been measured.
        fork: isolated latencies on a CPU are taken in forks, where that can be; else in fresh processes.
    """

    model: str = "vit-tiny"
    mixers: tuple[str, ...] = ("softmax", "linear", "weightformer")
    resolutions: tuple[int, ...] = (224, 448, 672, 896)
    local_conv: str | None = None
    pos_embed: str | None = None
    every: int | None = None
    offset: int | None = None
    between: str | None = None
    recipe: Recipe | None = None
    classes: int | None = None
    pixel_space: bool = False
    batch: int = 1
    tokens: int | None = None
    mode: Literal["infer", "train"] = "infer"
    dtype: str = "float32"
    compile: bool = False
    channels_last: bool = False
    device: str = "cpu"
    threads: int | None = None
    baseline: str = "softmax"
    attention: Literal["best", "auto"] = "best"
    alternatives: bool = False
    isolate: bool = True
    memory: bool | None = None
    saturate: bool = False
    breakdown: bool = False
    max_batch: int = 1024
    rounds: int = ROUNDS[ISOLATED]
    seconds: float | None = None
    budget: float = 120.0
    order_seed: int = 0
    precision: float | None = None
    more_minutes: float = 10.0
    force: bool = False
    fork: bool = True

    @property
    def overrides(self) -> dict[str, Any]:
        """What differs from the preset, as keyword arguments of `wfbench.models.create`."""
        chosen = {"local_conv": self.local_conv, "pos_embed": self.pos_embed, "in_channels": 3 if self.pixel_space else None}
        own = {} if self.recipe is None else self.recipe.model.overrides() | {"num_classes": self.recipe_classes}
        schedule = {"every": self.every, "offset": self.offset, "between": self.between}
        if any(value is not None for value in schedule.values()):  # whole, in place of the recipe's
            own = _by_itself(own)
        return own | {key: value for key, value in (chosen | schedule).items() if value is not None}

    @property
    def named_model(self) -> str:
        """The model as rows name it."""
        return self.model if self.recipe is None else f"{self.model} of {self.recipe.name}"

    @property
    def decoder(self) -> str | None:
        """Of a recipe of dense prediction."""
        return None if self.recipe is None or self.recipe.dense is None else self.recipe.dense.decoder

    @property
    def frozen(self) -> bool:
        """Whether a recipe of dense prediction trains the decoder alone."""
        return self.recipe is not None and self.recipe.dense is not None and self.recipe.dense.frozen

    @functools.cached_property
    def recipe_classes(self) -> int:
        """How many classes the recipe's data have, as `classes_of`."""
        assert self.recipe is not None
        return classes_of(self.recipe, self.classes)

    @property
    def downsample(self) -> int:
        """Pixels of an image along a side for one of the model's input."""
        latent = isinstance(models.PRESETS.get(self.model), DiTConfig) and not self.pixel_space
        return LATENT if latent else 1

    @property
    def measures_memory(self) -> bool:
        """Whether peak memory is measured."""
        return self.isolate if self.memory is None else self.memory

    @property
    def sampling_seconds(self) -> float:
        """How long a cell is sampled in each round."""
        return SECONDS[ISOLATED if self.isolate else INTERLEAVED] if self.seconds is None else self.seconds

    @property
    def protocol(self) -> str:
        """How latency is measured, by the name that rows give it."""
        if not self.isolate:
            return INTERLEAVED
        return FORKED if self.fork and self.device == "cpu" and forkserver.is_possible() else ISOLATED

    def cells(self) -> list[Cell]:
        """Every cell, mixer by mixer; the baseline's once for each of its backends.

        Raises:
            InputError, MixerError: for a model, mixer, resolution or number that cannot be.
        """
        self._check()
        backends = BACKENDS[self.device] if self.attention == "best" else (AUTO,)
        found = []
        for mixer in dict.fromkeys(self.mixers):
            tried = backends if mixer == self.baseline == "softmax" else (AUTO,)
            found += self._of(mixer, "", self.overrides, tried)
            if mixer == self.baseline and scheduled(found[-1].config) != mixer:
                found += self._of(mixer, "", _by_itself(self.overrides), tried)
        if self.alternatives:
            own = _by_itself(self.overrides)
            plain = models.configure(self.model, self.baseline, **own)
            found += self._of(self.baseline, f"patch {2 * plain.patch_size}", own | {"patch_size": 2 * plain.patch_size})
            found += self._of(self.baseline, f"depth {plain.depth // 2}", own | {"depth": plain.depth // 2})
        return found

    def setting(self, environment: Environment) -> str:
        """A digest of all that must be equal for cells to stand side by side: setting, machine, libraries and code."""
        same: tuple[object, ...] = (
            self.model,
            self.overrides,
            None if self.tokens else self.batch,
            self.tokens,
            self.mode,
            self.dtype,
        )
        if self.recipe is not None:
            same = (*same, self.named_model, self.decoder, self.frozen)
        # In this process None stands for the default, as in the sessions that were begun before it could be chosen.
        seconds = self.sampling_seconds if self.isolate else self.seconds
        how = (self.compile, self.channels_last, self.protocol, seconds, PATH, _host())
        machine = environment.model_dump(exclude={"git_revision", "git_dirty"})
        machine["versions"] = {k: v for k, v in environment.versions.items() if k in ("torch", "timm")}
        between = self.overrides.get("between")
        names = self.mixers if between is None else (*self.mixers, between)
        return hashlib.sha256(json.dumps([same, how, machine, _code(names)]).encode()).hexdigest()[:10]

    def _of(self, mixer: str, variant: str, chosen: dict[str, Any], backends: Sequence[str] = (AUTO,)) -> list[Cell]:
        made = []
        for resolution in sorted(set(self.resolutions)):
            if resolution % self.downsample:
                raise InputError(
                    "the image has no latent",
                    got=f"{resolution} px for {self.model}, which works on latents",
                    expected=f"a multiple of {self.downsample}",
                    remedy=f"use {-(-resolution // self.downsample) * self.downsample}, or --pixel-space",
                )
            side = resolution // self.downsample
            config = models.configure(self.model, mixer, side, **chosen)
            check_carried(config)
            patch = config.patch_size
            try_on_meta(functools.partial(self._build, mixer, side, config, chosen))
            batch = self.batch if self.tokens is None else self.tokens // (side // patch) ** 2
            if batch < 1:
                raise InputError(
                    "--tokens holds no image at this resolution",
                    got=f"--tokens {self.tokens} at {resolution} px",
                    expected=f"at least {(side // patch) ** 2}, the tokens of one image",
                    remedy="raise --tokens, or leave the resolution out",
                )
            made += [
                Cell(
                    self.model,
                    mixer,
                    resolution,
                    batch,
                    chosen,
                    variant,
                    backend,
                    self.mode,
                    self.dtype,
                    self.compile,
                    self.channels_last,
                    self.device,
                    self.downsample,
                    self.named_model,
                    self.decoder,
                    self.frozen,
                )
                for backend in backends
            ]
        return made

    def _build(self, mixer: str, side: int, config: Config, chosen: dict[str, Any]) -> None:
        """The model with each kind of layer once, which shows what is wrong with it or the resolution."""
        if self.decoder is None:
            models.create(self.model, mixer, side, **{**chosen, "depth": min(config.depth, schedule_of(config).every)})
        else:  # a decoder may need more
            models.create_dense(self.model, mixer, side, decoder=self.decoder, frozen=self.frozen, **chosen)

    def _check(self) -> None:
        if self.recipe is not None and (self.recipe.task == "dit" or self.recipe.model.mixer_options):
            raise InputError(
                "the recipe's model cannot be profiled with several mixers",
                got=f"--recipe {self.recipe.name}: task {self.recipe.task}, mixer_options {self.recipe.model.mixer_options}",
                expected="a classifier or dense prediction, without options of one mixer",
                remedy="name the model with --model",
            )
        if self.recipe is None and self.classes is not None:
            raise InputError(
                "--classes is of a recipe's data",
                got=f"--classes {self.classes}",
                expected="--recipe beside it",
                remedy="drop it",
            )
        for name, value in (
            ("--classes", 1 if self.classes is None else self.classes),
            ("--resolution", min(self.resolutions, default=0)),
            ("--batch", self.batch),
            ("--tokens", 1 if self.tokens is None else self.tokens),
            ("--rounds", self.rounds),
            ("--max-batch", self.max_batch),
            ("--threads", 1 if self.threads is None else self.threads),
        ):
            if value < 1:
                raise InputError(
                    f"{name} must be positive",
                    got=value,
                    expected="1 or more",
                    remedy=f"leave {name} out for its default: wfbench profile --help",
                )
        for name, seconds in (("--seconds", self.sampling_seconds), ("--budget", self.budget)):
            if not 0 < seconds < float("inf"):
                raise InputError(
                    f"{name} must be positive",
                    got=seconds,
                    expected="seconds above 0",
                    remedy=f"leave {name} out for its default: wfbench profile --help",
                )
        if self.precision is not None and not 0.001 <= self.precision < 1:
            raise InputError(
                "no such precision",
                got=f"--precision {self.precision:g}",
                expected="a relative half-width from 0.001 to 1",
                remedy="0.1 is 10 %",
            )
        if self.precision is not None and self.baseline not in self.mixers:
            raise InputError(
                "--precision is of speed-ups over the baseline, which is not measured",
                got=f"--precision {self.precision:g}, mixers {', '.join(self.mixers)}",
                expected=f"{self.baseline} among the mixers",
                remedy=f"add --mixer {self.baseline}, or name one of them with --baseline",
            )
        if not 0 < self.more_minutes < float("inf"):
            raise InputError(
                "--more-minutes must be positive",
                got=self.more_minutes,
                expected="minutes above 0",
                remedy="leave --precision out for no more rounds",
            )
        per_process = (("--saturate", self.saturate), ("--compile", self.compile), ("--precision", self.precision is not None))
        for name, chosen in per_process:
            if chosen and not self.isolate:
                raise InputError(
                    f"{name} needs processes of their own",
                    got=f"{name} --no-isolate",
                    expected="one of the two",
                    remedy="drop one",
                )
        if self.tokens is not None and self.batch != 1:
            raise InputError(
                "--tokens decides the batch",
                got=f"--tokens and --batch {self.batch}",
                expected="one of the two",
                remedy="leave --batch out: a call then holds as many images as have so many tokens",
            )
        choices = (
            ("--dtype", self.dtype, tuple(DTYPES)),
            ("--mode", self.mode, ("infer", "train")),
            ("--attention", self.attention, ("best", "auto")),
        )
        for name, given, allowed in choices:
            if given not in allowed:
                raise InputError(
                    f"unknown {name}",
                    got=repr(given),
                    expected=f"one of {', '.join(allowed)}",
                    remedy=did_you_mean(given, allowed),
                )
        if self.pixel_space and not isinstance(models.PRESETS.get(self.model), DiTConfig):
            raise InputError(
                "--pixel-space is for DiT models",
                got=self.model,
                expected="one that could work on latents",
                remedy="leave it out, or take a DiT: --model dit-s-2",
            )
        mixers.spec(self.baseline)
        for mixer in self.mixers:
            models.configure(self.model, mixer, **self.overrides)


def _by_itself(overrides: dict[str, Any]) -> dict[str, Any]:
    """The overrides but for the schedule: each mixer then has its own."""
    return {key: value for key, value in overrides.items() if key not in SCHEDULE}


def _host() -> str:
    """What tells this machine from others of the same kind; it is only ever written as a digest."""
    known = Path("/etc/machine-id")
    return f"{platform.node()} {known.read_text() if known.exists() else ''}"


def _code(names: Sequence[str]) -> str:
    """A digest of the code that is measured and that measures: mixers, also those from elsewhere, models, counts and cells."""
    rooms = (mixers, models, diffusion, measure, profile)
    files = {name: file for room in rooms for name, file in package_files(room).items()}
    given = sorted(digest_files(class_files([layer], ("mixers",)) or {}) for name in names for layer in mixers.layers(name))
    return f"{digest_files(files)} {' '.join(given)}"
