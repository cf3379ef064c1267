"""The check of what a mixer does among others: in the skeleton, on a layer schedule."""

from __future__ import annotations

import torch
from torch import nn

from wfbench import models
from wfbench.errors import InputError
from wfbench.measure import CountError, count_flops
from wfbench.tasks.verify.judge import Outcome, check, judged, not_applicable
from wfbench.tasks.verify.subject import Subject

#: What stands beside the mixer: the first of these that it is not.
BESIDE = ("static", "pool")


@check(
    "layer schedule",
    meaning="In the skeleton it runs in every second layer with `static` between, and between the layers of `static`: MACs are"
    " counted as declared, and gradients are finite.",
    expected="three equal counts, finite gradients",
)
def layer_schedule(subject: Subject) -> Outcome:
    """Two models of two layers; both slots of a mixer that has two."""
    if subject.slot != "token":
        return not_applicable("judged with the token layer")
    other = next(name for name in BESIDE if name != subject.mixer)
    wrong = []
    for name, between in ((subject.mixer, other), (other, subject.mixer)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(subject.seed)
            wrong += [f"{name} / 2 + {between}: {said}" for said in _wrong(subject, name, between)]
    done = f"with {other}: counted as declared, gradients finite"
    return judged(not wrong, wrong[0] if wrong else done, "it works alone and not beside other layers: see what the input is")


def _model(subject: Subject, name: str, every: int | None = None, between: str | None = None) -> nn.Module:
    """Two layers of the skeleton, with this mixer in both or on a schedule."""
    return models.create(
        "vit-tiny",
        name,
        subject.grid,
        2,
        every=every,
        between=between,
        patch_size=1,
        embed_dim=subject.dim,
        depth=2,
        num_heads=subject.heads,
        mlp_ratio=2.0,
        pos_embed="none",
    ).eval()


def _miscount(subject: Subject, model: nn.Module) -> str | None:
    """How the counts of a model's MACs disagree, or that one is missing; None where they agree."""
    try:
        count_flops(model, (2, 3, *subject.grid))
    except (CountError, InputError) as e:
        return str(e)
    return None


def _wrong(subject: Subject, name: str, between: str) -> list[str]:
    """What is wrong with one model, in a list of none or one; counts that disagree without a schedule too are not."""
    model = _model(subject, name, every=2, between=between)
    said = _miscount(subject, model)
    if said and not _miscount(subject, _model(subject, subject.mixer)):
        return [said]
    model(torch.randn(2, 3, *subject.grid)).square().sum().backward()
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    infinite = [key for key, grad in grads.items() if not grad.isfinite().all()]
    return [f"the gradient of {infinite[0]} is not finite"] if infinite else []
