"""Equal budgets: every mixer is matched to softmax within 2 %, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mixers
from wfbench import models, recipe
from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.tasks.sweep.match import RESIDUAL, count, match

CLASSES = 10
#: At 64 tokens nystrom costs eight times softmax, and the 64 tokens are one chunk of gdn, in which it is quadratic, in both
#: directions; windows of 7x7 fill 8x8 tokens up to 14x14. No FFN makes up for that; gdn(chunk=32), window(window=4) need none.
UNREACHABLE = {("nystrom", "macs"), ("gdn", "macs"), ("window", "macs")}


def of(mixer: str, *more: str) -> Recipe:
    return recipe.load("cifar10", [f"model.mixer={mixer}", *more])


def built(made: Recipe, what: str) -> int:
    """The count of a model that is really built, not on the meta device."""
    section = made.model
    model = models.create(section.name, section.mixer, section.image_size, CLASSES, **section.overrides())
    if what == "params":
        return sum(parameter.numel() for parameter in model.parameters())
    from wfbench.measure import count_flops

    return int(count_flops(model, (1, 3, 32, 32)).macs)


@pytest.mark.sampled(40)
@pytest.mark.parametrize("what", ["params", "macs"])
@pytest.mark.parametrize("mixer", mixers.names())
def test_every_mixer_has_softmax_s_budget_within_2_percent_or_is_refused(mixer: str, what: str) -> None:
    own, baseline = of(mixer), of("softmax")
    if (mixer, what) in UNREACHABLE:
        with pytest.raises(InputError, match=rf"cannot be matched[\s\S]*{mixer}: [\d,]+ at MLP ratio 0.5[\s\S]*within 2%"):
            match(own, what, baseline, CLASSES)
        return
    found = match(own, what, baseline, CLASSES)
    assert abs(found.residual) <= RESIDUAL == 0.02
    made = recipe.override(own, found.settings("softmax"))
    assert count(made, what, CLASSES) == found.reached
    assert found.budget == count(baseline, what, CLASSES)
    assert made.chosen is not None
    assert (made.chosen.match, made.chosen.match_to, made.chosen.budget) == (what, "softmax", found.budget)
    assert made.chosen.residual == found.residual


@pytest.mark.sampled(4)
@pytest.mark.parametrize("mixer", ["identity", "weightformer", "ttt"])
@pytest.mark.parametrize("what", ["params", "macs"])
def test_the_counts_are_those_of_the_model_that_is_built_and_counted(mixer: str, what: str) -> None:
    made = recipe.override(of(mixer), match(of(mixer), what, of("softmax"), CLASSES).settings("softmax"))
    assert abs(built(made, what) / built(of("softmax"), what) - 1) <= 0.02
    assert abs(built(of(mixer), what) / built(of("softmax"), what) - 1) > 0.02, "unmatched it is another budget"


def test_no_nearer_ratio_is_passed_over() -> None:
    found = match(of("identity"), "params", of("softmax"), CLASSES)
    hidden = round(64 * found.mlp_ratio)
    for other in (hidden - 1, hidden + 1):
        assert abs(count(of("identity"), "params", CLASSES, mlp_ratio=other / 64) - found.budget) >= abs(
            found.reached - found.budget
        )


def test_the_baseline_stays_as_it_is_and_a_factor_is_paid_for() -> None:
    same = match(of("softmax"), "params", of("softmax"), CLASSES)
    assert (same.residual, same.mlp_ratio, same.depth) == (0.0, None, None)
    conv = match(of("softmax", "model.local_conv=dwc"), "params", of("softmax"), CLASSES)
    assert conv.mlp_ratio is not None
    assert conv.mlp_ratio < 4
    assert conv.before > conv.budget


def test_a_mixer_that_lives_in_the_ffn_may_change_its_depth_and_no_other() -> None:
    deep = of("softmax", "model.depth=24")
    found = match(of("weightformer"), "params", deep, CLASSES)
    assert found.depth is not None
    assert found.depth > 4
    assert abs(found.residual) <= 0.02
    with pytest.raises(InputError, match="cannot be matched"):
        match(of("identity"), "params", deep, CLASSES)


def test_matched_runs_compare_with_one_another_and_with_no_others() -> None:
    def digest(mixer: str, what: str, *more: str) -> str:
        found = match(of(mixer, *more), what, of("softmax", *more), CLASSES)
        return recipe.digest(recipe.override(of(mixer, *more), found.settings("softmax")))

    params = {digest(mixer, "params") for mixer in ("softmax", "identity", "weightformer")}
    assert len(params) == 1
    assert {digest("identity", "macs"), digest("identity", "params", "model.depth=6")}.isdisjoint(params)
    assert recipe.digest(of("softmax")) not in params


def test_matching_draws_nothing_at_random() -> None:
    state = torch.random.get_rng_state()
    match(of("random"), "macs", of("softmax"), CLASSES)
    assert torch.equal(state, torch.random.get_rng_state())


def stranger(folder: Path, mix: str) -> str:
    """A mixer that declares nothing."""
    (folder / "mine.py").write_text(
        "from torch import nn\n\n\nclass Mine(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
        f"        self.a = nn.Linear(dim, dim)\n\n    def forward(self, x, grid):\n        return {mix}\n"
    )
    return f"{folder}/mine.py:Mine"


@pytest.mark.slow
def test_a_mixer_that_declares_nothing_is_matched_by_its_counted_macs(tmp_path: Path) -> None:
    own = of(stranger(tmp_path, "self.a(x)"), "model.depth=1")
    found = match(own, "macs", of("softmax", "model.depth=1"), CLASSES)
    assert abs(found.residual) <= RESIDUAL
    assert found.reached == built(recipe.override(own, found.settings("softmax")), "macs")


def test_a_lower_bound_is_no_budget(tmp_path: Path) -> None:
    own = of(stranger(tmp_path, "self.a(x).erfinv()"), "model.depth=1")
    with pytest.raises(
        InputError, match=r"cannot be matched\n.*Mine: at least [\d,]+; unknown operator: aten::erfinv in blocks"
    ):
        match(own, "macs", of("softmax", "model.depth=1"), CLASSES)
    assert abs(match(own, "params", of("softmax", "model.depth=1"), CLASSES).residual) <= RESIDUAL
