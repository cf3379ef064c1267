"""The main job, end to end, in minutes: what mixers can do, how accurate they are, and what they cost by resolution."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import mixers
from wfbench import files, records
from wfbench import recipe as recipes
from wfbench.records import BaselineRow
from wfbench.records.identity import digest_text
from wfbench.tasks.baselines import baselines
from wfbench.tasks.common import writable_dir
from wfbench.tasks.identity import mixer_digest, model_digest
from wfbench.tasks.profile.request import ProfileRequest
from wfbench.tasks.profile.run import Lines, profile
from wfbench.tasks.sweep import Dispatch, Line, Status, Sweep, SweepRequest, Watch, sweep

#: The steps within which softmax attention solves recall; a capacity takes 6,000, and `wfbench probe --quick` 800.
QUICK_RECALL = ("epochs=5", "eval_every=5", "optim.warmup_epochs=1", "data.probe.budgets=[500]")
#: One process for all cells, PyTorch's choice of attention, and fewer rounds than usual: under a minute, where
#: `wfbench profile` takes half an hour.
QUICK = ProfileRequest(isolate=False, attention="auto", rounds=12)

#: Stands in a demo's directory until all of it is done, and holds the identity of what was asked for.
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class DemoRequest:
    """What the demo does; the defaults are the demo.

    Attributes:
        mixers: names, or files with a class.
        recall: settings of the recipe probe-recall.
        digits: settings of the recipe digits.
        profile: what is profiled.
    """

    mixers: tuple[str, ...] = ("softmax", "linear", "weightformer")
    recall: tuple[str, ...] = QUICK_RECALL
    digits: tuple[str, ...] = ()
    profile: ProfileRequest = field(default_factory=lambda: QUICK)

    @classmethod
    def of(cls, mixers: tuple[str, ...]) -> DemoRequest:
        """The demo with these mixers, trained and profiled."""
        return cls(mixers=mixers, profile=replace(QUICK, mixers=mixers))

    @property
    def identity(self) -> str:
        """A digest of what is asked for, and of the code of mixers and models: an unfinished demo goes on only as it began.

        Raises:
            MixerError: for an unknown mixer.
        """
        return digest_text(f"{self} {[mixer_digest(mixer) for mixer in self.mixers]} {model_digest()}")

    @property
    def sweeps(self) -> dict[str, SweepRequest]:
        """What is trained, by what it asks."""
        lines = tuple(Line(mixer=mixer) for mixer in self.mixers)
        return {
            "what can they do? the probe recall": SweepRequest(mixers=lines, recipes=("probe-recall",), set=self.recall),
            "how accurate are they? the digits": SweepRequest(mixers=lines, recipes=("digits",), set=self.digits),
        }


def demo(
    out: Path, watch: Watch, say: Callable[[str], None], request: DemoRequest | None = None
) -> tuple[dict[str, Status], Exception | None]:
    """Train each mixer on recall and on the digits, as many at once as there are cores; then profile them, alone.

    Everything goes into ``out``; what is finished there is not done again. Trainings and profile are checked before any begins.
    The note `UNFINISHED` stays there for the caller to remove.

    Args:
        out: the directory.
        watch: watches the trainings.
        say: hears what else is being done.
        request: what to do.

    Returns:
        How each training ended, by its name; and what the profile was stopped by, which takes nothing from the trainings.

    Raises:
        InputError, MixerError: for bad input; nothing has been done then.
        Interrupted: after a signal, with the state of all trainings saved.
    """
    request = request or DemoRequest()
    for mixer in request.mixers:
        mixers.spec(mixer)
    for one in request.sweeps.values():
        Sweep.plan(one, out)
    request.profile.cells()
    files.write_whole(writable_dir(out) / UNFINISHED, request.identity)
    dispatch = Dispatch(min(len(request.mixers), os.cpu_count() or 1), device="cpu")
    ended: dict[str, Status] = {}
    for question, one in request.sweeps.items():
        watch.say(question)
        ended |= sweep(one, out, dispatch, watch)
    place = out / "records.jsonl"
    if not (place.is_file() and any(isinstance(row, BaselineRow) for row in records.read(place)[0])):
        say("logistic regression and nearest neighbour on the same digits")
        records.append(place, baselines(recipes.load("digits", request.digits)))
    say(f"how fast are they? {request.profile.model} at {', '.join(map(str, request.profile.resolutions))} px")
    try:
        profile(request.profile, place, Lines(say))
    except Exception as e:  # said once the trainings are reported
        return ended, e
    return ended, None
