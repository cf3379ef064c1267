"""The judge on mixers as strangers write them: sound ones hold, each broken one fails by its check, and by no other."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import strangers
import torch
from strangers import BROKEN, SOUND
from torch import nn
from typer.testing import CliRunner

import mixers
from mixers import MixerSpec
from wfbench.cli import app
from wfbench.measure.allocator import kept_memory
from wfbench.tasks import verify as package
from wfbench.tasks.verify import CHECKS, FULL, QUICK, Finding, Sizes, judge, verify
from wfbench.tasks.verify.judge import _find
from wfbench.tasks.verify.subject import Subject

FILE = Path(strangers.__file__)


def stranger(mixer: type[nn.Module], sizes: Sizes = QUICK) -> Subject:
    return Subject(f"{FILE}:{mixer.__name__}", "token", 48, 3, 0, sizes)


def one(name: str, mixer: type[nn.Module], sizes: Sizes = QUICK) -> Finding:
    """What one check finds."""
    return _find(next(check for check in CHECKS if check.name == name), stranger(mixer, sizes))


def refuted(mixer: type[nn.Module]) -> dict[str, str]:
    return {f.name: f.measured for f in verify(f"{FILE}:{mixer.__name__}", sizes=QUICK).refuted}


@pytest.mark.slow
@pytest.mark.parametrize("mixer", SOUND, ids=lambda mixer: mixer.__name__)
def test_a_sound_mixer_holds(mixer: type[nn.Module]) -> None:
    assert refuted(mixer) == {}


#: Of a broken one, checks that refute it as well, for a reason that is as true.
ALSO = {strangers.KeptWeights: {"gradcheck"}}


@pytest.mark.slow
@pytest.mark.parametrize("mixer", BROKEN, ids=lambda mixer: mixer.__name__)
def test_a_broken_mixer_fails_by_its_check_and_no_other(mixer: type[nn.Module]) -> None:
    found = refuted(mixer)
    assert BROKEN[mixer] in found
    assert found.keys() - ALSO.get(mixer, set()) == {BROKEN[mixer]}, found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mixer", BROKEN, ids=lambda mixer: mixer.__name__)
def test_the_check_meant_for_a_broken_mixer_refutes_it(mixer: type[nn.Module]) -> None:
    found = one(BROKEN[mixer], mixer)
    assert found.verdict == "FAILS", found
    assert found.detail


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("mixer", "name"),
    [
        (strangers.Float32Inside, "gradcheck"),
        (strangers.EfficientViT, "gradcheck"),
        (strangers.Diff, "gradcheck"),
        (strangers.EfficientViT, "batch independence"),
        (strangers.WithBatchNorm, "batch independence"),
        (strangers.Windows, "used layer"),
        (strangers.MaxViTGrid, "used layer"),
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_what_sound_mixers_were_refuted_by_holds(mixer: type[nn.Module], name: str) -> None:
    found = one(name, mixer)
    assert found.verdict == "holds", found


def test_steps_in_float32_are_named_and_have_tolerances_of_their_own() -> None:
    assert stranger(strangers.Float32Inside).narrows
    assert not stranger(strangers.ExplicitSoftmax).narrows
    found = one("gradcheck", strangers.Float32Inside)
    assert (found.verdict, found.measured) == ("holds", "agrees at 2x3, its steps in float32 taken in float64")
    assert "it computes in float32 inside" in one("batch independence", strangers.Float32Inside).expected
    assert "float32" not in one("batch independence", strangers.ExplicitSoftmax).expected


class WrongFloat32(strangers.Float32Inside):
    """A gradient that is wrong by 1 % in steps in float32."""

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        weights = super().weights(scores)
        return weights + 0.01 * (weights - weights.detach())


def test_a_wrong_gradient_in_float32_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = stranger(strangers.Float32Inside)
    monkeypatch.setattr(subject, "_make", lambda grid, options: WrongFloat32(48, num_heads=3))
    check = next(check for check in CHECKS if check.name == "gradcheck")
    assert _find(check, subject).verdict == "FAILS"


class TableInFloat32(strangers.Float32Inside):
    """Float32 meets a table that is in float32 already: where one is widened, the other is not."""

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        table = torch.from_numpy(torch.eye(scores.shape[-1], dtype=torch.float32).numpy())
        return (scores.float() @ table).softmax(dim=-1).to(scores.dtype)


def test_what_cannot_be_widened_is_checked_as_coarsely_as_float32_is(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = stranger(strangers.Float32Inside)
    check = next(check for check in CHECKS if check.name == "gradcheck")
    monkeypatch.setattr(subject, "_make", lambda grid, options: TableInFloat32(48, num_heads=3))
    found = _find(check, subject)
    assert found.verdict == "holds", found
    assert found.expected == "differences up to 1e-3, or 2 % of the derivative" or "taken in float64" in found.measured


def test_batch_norm_is_named_as_what_mixes_images_in_training() -> None:
    found = one("batch independence", strangers.WithBatchNorm)
    assert "in training, BatchNorm (norm) makes it depend on the batch, and nothing else does" in found.measured
    assert "with BatchNorm (norm) as in evaluation" in one("training", strangers.WithBatchNorm).measured


def test_another_output_in_training_can_be_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = strangers.declared("linear", "grid", trains_otherwise=True)
    subject, sound = stranger(strangers.OtherEvaluation), stranger(strangers.Conv)
    for each in (subject, sound):
        monkeypatch.setattr(each, "spec", spec)
    check = next(check for check in CHECKS if check.name == "training")
    assert _find(check, subject).verdict == "holds"
    assert "declare trains_otherwise=False" in _find(check, sound).detail


@pytest.mark.slow
def test_the_time_of_explicit_weights_grows_as_they_do() -> None:
    """Fresh maps of large temporaries made it N^2.95."""
    found = one("time", strangers.ExplicitSoftmax, FULL)
    assert found.verdict == "holds", found
    assert "from 1,024 to 4,096 tokens" in found.measured


def test_kept_memory_is_not_mapped_again() -> None:
    resource = pytest.importorskip("resource")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            torch.ones(2**24)  # 64 MiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_memory() as able:
        if not able:
            pytest.skip("no glibc")
        faults()
        kept = min(faults() for _ in range(3))  # what earlier tests left may be returned to the system in between
    assert kept <= faults() // 8 + 64


def test_a_refusal_that_is_no_lack_of_an_operator_is_a_failure_of_half_precision_alone() -> None:
    assert one("half precision", strangers.RaisesInHalf).verdict == "FAILS"
    for name in ("float16 range", "large weights"):
        found = one(name, strangers.RaisesInHalf)
        assert (found.verdict, "see half precision" in found.measured) == ("n.a.", True)


def test_every_grid_that_a_check_leaves_out_is_tried_by_the_check_of_grids() -> None:
    from wfbench.tasks.verify import behaviour, cost, grids, subject, use

    left_out = {
        *subject.HOMES, *behaviour.NAIVE_GRIDS, *behaviour.BATCH_GRIDS, *behaviour.GRADCHECK_GRIDS, *cost.COUNT_GRIDS,
        *grids.SAME_N, *grids.WRONG_FOR, *subject.WINDOWED, *subject.WINDOWED_BY_EIGHT, *use.SMALL, (4, 4), (5, 7),
    }  # fmt: skip
    assert left_out <= set(grids.ALL_GRIDS)


def test_what_takes_long_comes_last() -> None:
    slow = [check.slow for check in CHECKS]
    assert slow == sorted(slow)
    assert {check.name for check in CHECKS if check.slow} == {"time", "compile", "float16 range"}


@pytest.mark.slow
def test_a_well_behaved_mixer_is_judged_in_ten_seconds_of_one_core() -> None:
    verify("linear", sizes=QUICK)  # loads what is loaded once
    began = time.process_time()
    verify("linear")
    assert time.process_time() - began < 10


@pytest.fixture
def two_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "CHECKS", [check for check in CHECKS if check.name in ("contract", "training")])


@pytest.mark.usefixtures("two_checks")
def test_the_news_name_the_check_that_runs() -> None:
    lines: list[str] = []
    verify(f"{FILE}:Conv", sizes=QUICK, told=lines.append)
    assert lines == [f"{FILE}:Conv, token: check {number}" for number in ("1 of 2, contract", "2 of 2, training")]


# --- the whole registry


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, two_checks: None) -> None:
    whole = package.verify
    monkeypatch.setattr(package, "verify", lambda mixer, **given: whole(mixer, sizes=QUICK, **given))
    monkeypatch.setattr(mixers, "names", lambda: ["pool", f"{FILE}:OtherEvaluation"])


@pytest.mark.usefixtures("few")
def test_all_are_verified_with_a_line_for_each_and_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["verify", "--all"])
    assert result.exit_code == 1, result.output
    lines = result.output.splitlines()
    assert "no required check fails" in next(line for line in lines if line.startswith("pool: "))
    assert any(line.startswith("  training (token): ") for line in lines)
    assert lines[-1].startswith("2 mixers in ")
    assert lines[-1].endswith("OtherEvaluation")
    monkeypatch.setattr(mixers, "names", lambda: ["pool"])
    result = CliRunner().invoke(app, ["verify", "--all", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["verdict"], [each["mixer"] for each in found["mixers"]]) == ("holds", ["pool"])


@pytest.mark.parametrize("words", [[], ["pool", "--all"]])
def test_one_mixer_or_all(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["verify", *words])
    assert result.exit_code == 2
    assert "--all" in result.output


def test_a_spec_says_by_default_that_training_is_no_different() -> None:
    assert MixerSpec("x", "x", "linear", "x", "x", "certain").trains_otherwise is False
