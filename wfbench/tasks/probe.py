"""Probes of several mixers: which recipes, seeds and rates, each as a sweep in the same directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wfbench import recipe as recipes
from wfbench.errors import InputError, did_you_mean
from wfbench.tasks.common import writable_dir
from wfbench.tasks.sweep import Dispatch, Line, Status, Sweep, SweepRequest, Tune, Watch, sweep

#: What begins the names of the probes' recipes.
_PREFIX = "probe-"
NAMES = ("majority", "recall", "needle", "shift")
MIXERS = ("softmax", "linear", "weightformer", "static")
SEEDS = 3
#: What a quick probe trains otherwise than its recipe says: for an eighth to a half of the steps.
QUICK: Mapping[str, tuple[str, ...]] = {
    "recall": ("epochs=8", "optim.warmup_epochs=1", "data.probe.budgets=[800]"),
    "majority": ("epochs=5", "eval_every=5", "data.probe.budgets=[200]"),
    "needle": ("epochs=5", "eval_every=5", "data.probe.budgets=[400]"),
    "shift": ("epochs=6", "optim.warmup_epochs=1", "data.probe.budgets=[600]"),
    "hop": ("epochs=8", "optim.warmup_epochs=1", "data.probe.budgets=[800]"),
    "flood": ("epochs=3", "data.probe.budgets=[300]"),
}
#: The recipe's rate, a third of it and three times it.
TUNE = Tune(trials=3, factor=3.0)


@dataclass(frozen=True)
class ProbeRequest:
    """What is asked for.

    Attributes:
        names: of the probes.
        mixers: names, or files with a class.
        seeds: of each mixer.
        quick: whether each probe is trained for a part of its steps alone (`QUICK`).
        tune: whether three rates are tried for every mixer first.
    """

    names: tuple[str, ...] = NAMES
    mixers: tuple[str, ...] = MIXERS
    seeds: tuple[int, ...] = tuple(range(1, SEEDS + 1))
    quick: bool = False
    tune: bool = False

    @classmethod
    def of(cls, names: Sequence[str], mixers: Sequence[str], seeds: int | None, *, quick: bool, tune: bool) -> ProbeRequest:
        """From options, of which those that were not given are empty or None.

        Raises:
            InputError: for an unknown probe, or quick probes that are to be tuned.
        """
        for name in names:
            if name not in known():
                raise InputError(
                    "unknown probe",
                    got=name,
                    expected=f"one of {', '.join(known())}",
                    remedy=did_you_mean(name, known()),
                )
        if quick and tune:
            raise InputError(
                "--quick and --tune exclude each other",
                got="--quick --tune",
                expected="one of the two",
                remedy="drop one of the two",
            )
        count = seeds or (1 if quick else SEEDS)
        return cls(
            tuple(dict.fromkeys(names)) or (("recall",) if quick else NAMES),
            tuple(dict.fromkeys(mixers)) or MIXERS,
            tuple(range(1, count + 1)),
            quick,
            tune,
        )

    @property
    def sweeps(self) -> list[SweepRequest]:
        """One for each probe, since their settings differ."""
        return [
            SweepRequest(
                mixers=tuple(Line(mixer=mixer) for mixer in self.mixers),
                seeds=self.seeds,
                recipes=(f"{_PREFIX}{name}",),
                set=QUICK[name] if self.quick else (),
                tune=TUNE if self.tune else None,
            )
            for name in self.names
        ]


def steps_of(name: str, *, quick: bool) -> int:
    """How many steps a probe is trained for, as its recipe has it or quickly."""
    return recipes.probe_steps(recipes.load(f"{_PREFIX}{name}", QUICK[name] if quick else ()))


def known() -> list[str]:
    """The probes that there are recipes of."""
    return [name.removeprefix(_PREFIX) for name in recipes.names() if name.startswith(_PREFIX)]


def probe(request: ProbeRequest, out: Path, dispatch: Dispatch, watch: Watch) -> dict[str, Status]:
    """Train every mixer on every probe; what is finished is left alone, what was stopped is resumed.

    Returns:
        How each run ended, by its name.

    Raises:
        InputError, MixerError: for bad input.
        Interrupted: after a signal, with the state of all runs saved.
    """
    for one in request.sweeps:
        Sweep.plan(one, out)  # bad input is refused before anything is said or written
    writable_dir(out)
    ended: dict[str, Status] = {}
    for name, one in zip(request.names, request.sweeps, strict=True):
        watch.say(f"probe {name}: {len(request.mixers)} mixers, seeds {', '.join(map(str, request.seeds))}")
        ended |= sweep(one, out, dispatch, watch)
    return ended
