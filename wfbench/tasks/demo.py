"""The main job, end to end, in minutes: train mixers (three, by default) on real images, profile them, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import mixers
from wfbench import recipe as recipes
from wfbench import records
from wfbench.measure.latency import INTERLEAVED
from wfbench.tasks import jobs
from wfbench.tasks.baselines import baselines
from wfbench.tasks.common import choose_device, slug, writable_dir
from wfbench.tasks.profile.request import ROUNDS, ProfileRequest
from wfbench.tasks.profile.run import Lines, profile
from wfbench.training import Watch

#: One process for all cells, and PyTorch's choice of attention: a minute, where `wfbench profile` takes half an hour.
QUICK = ProfileRequest(isolate=False, attention="auto", rounds=ROUNDS[INTERLEAVED])


@dataclass(frozen=True)
class DemoRequest:
    """What the demo does; the defaults are the demo."""

    mixers: tuple[str, ...] = ("softmax", "linear", "weightformer")
    overrides: tuple[str, ...] = ()
    profile: ProfileRequest = field(default_factory=lambda: QUICK)

    @classmethod
    def of(cls, mixers: tuple[str, ...]) -> DemoRequest:
        """The demo with these mixers, trained and profiled."""
        return cls(mixers=mixers, profile=replace(QUICK, mixers=mixers))


def demo(out: Path, watch: Callable[[str], Watch], say: Callable[[str], None], request: DemoRequest | None = None) -> None:
    """Train each mixer into ``out/<mixer>``, add the baselines and the profile to ``out/records.jsonl``.

    Args:
        out: a directory that holds no demo yet.
        watch: makes the watcher of one mixer's training.
        say: hears what is being done.
        request: what to do.

    Raises:
        InputError: if ``out`` holds a run of one of the mixers already.
        MixerError: for an unknown mixer; nothing has been done then.
    """
    request = request or DemoRequest()
    for mixer in request.mixers:
        mixers.spec(mixer)
    writable_dir(out)
    device = choose_device("cpu")
    plain = recipes.load("digits", request.overrides)
    for mixer in request.mixers:
        say(f"training {mixer} on the digits")
        recipe = recipes.load("digits", [*request.overrides, f"model.mixer={json.dumps(mixer)}"])
        jobs.train(recipe, out / slug(mixer), watch(mixer), device=device)
    say("logistic regression and nearest neighbour on the same split")
    records.append(out / "records.jsonl", baselines(plain))
    say(f"profiling {request.profile.model} at {', '.join(map(str, request.profile.resolutions))} px")
    profile(request.profile, out / "records.jsonl", Lines(say))
