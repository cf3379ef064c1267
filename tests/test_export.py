"""Models that leave the bench give the outputs that they give inside it, or nothing is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import Silent
from torch import Tensor, nn
from typer.testing import CliRunner

from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.errors import ExportError, InputError
from wfbench.tasks import jobs
from wfbench.tasks.export import programs
from wfbench.tasks.export.check import check_export
from wfbench.tasks.export.network import Network, of_preset, of_run, outputs
from wfbench.tasks.export.write import About, check_place

CPU = torch.device("cpu")
SMALL = ["model.embed_dim=16", "model.depth=1", "model.num_heads=2", "epochs=1", "optim.warmup_epochs=0"]
TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}


def run(*words: object):
    return CliRunner().invoke(app, ["export", *map(str, words)])


def network(mixer: str = "softmax", **overrides: object) -> Network:
    return of_preset("vit-tiny", mixer, 16, 3, **TINY | overrides)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with averaged weights."""
    out = tmp_path_factory.mktemp("trained") / "run"
    jobs.train(recipes.load("digits", [*SMALL, "ema.decay=0.9"]), out, Silent(), device=CPU)
    return out


# Programs


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "torch"
    done = run(trained, out, "--to", "torch", "--dynamic-batch", "--weights", "ema")
    assert done.exit_code == 0, done.output
    return out


def test_an_exported_program_gives_the_outputs_of_the_run_s_weights(exported, trained):
    of = of_run(trained, "ema")
    inputs = of.inputs(5, seed=77)  # none of the batches that the command compared
    program = torch.export.load(exported / "model.pt2")
    assert torch.allclose(program.module()(*inputs), outputs(of, inputs), atol=1e-6)
    assert not torch.allclose(program.module()(*inputs), outputs(of_run(trained, "raw"), inputs), atol=1e-6)


def test_beside_it_stands_where_it_is_from_and_how_it_was_compared(exported, trained):
    about = About.model_validate_json((exported / "export.json").read_bytes())
    assert about.row is not None
    assert about.weights is not None
    assert (about.row.weights, about.row.batch, about.row.batches) == ("ema", None, (1, 2, 3))
    assert about.row.difference <= about.row.tolerance == 1e-4
    assert about.weights.classes == tuple("0123456789")
    assert about.input.shapes == ((None, 1, 8, 8),)
    assert (about.input.mean, about.input.std) == ((0.305,), (0.376,))
    assert about.environment.versions["torch"] == torch.__version__.partition("+")[0]
    assert sorted(path.name for path in exported.iterdir()) == ["export.json", "model.pt2"]


def test_other_outputs_are_an_error_and_nothing_is_left(trained, tmp_path, monkeypatch):
    real = programs._torch_call

    def wrong(path: Path) -> programs.Call:
        call = real(path)
        return lambda inputs: call(inputs) + 1e-3

    monkeypatch.setattr(programs, "_torch_call", wrong)
    done = run(trained, tmp_path / "out", "--to", "torch")
    assert done.exit_code == 1
    assert "other outputs than the eager one" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_one_before(exported, trained, tmp_path, monkeypatch):
    before = shutil.copytree(exported, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in before.iterdir()}
    monkeypatch.setattr(programs, "compare", lambda *_: (_ for _ in ()).throw(ExportError("no", got="no")))
    assert run(trained, before, "--to", "torch").exit_code == 1
    assert {path.name: path.read_bytes() for path in before.iterdir()} == files


def test_a_tolerance_is_of_the_precision():
    of = network()
    call: programs.Call = lambda inputs: outputs(of, inputs) * (1 + 1e-3)  # noqa: E731
    with pytest.raises(ExportError, match="other outputs"):
        programs.compare(of, call, (2,), "torch")
    half = network(dtype="bfloat16")
    assert programs.compare(half, lambda inputs: outputs(half, inputs) * (1 + 1e-3), (2,), "torch") < 5e-2
    with pytest.raises(ExportError, match="other outputs"):
        programs.compare(half, lambda inputs: outputs(half, inputs) + 0.2, (2,), "torch")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_agrees_with_nothing(value):
    of = network()
    with pytest.raises(ExportError, match="other outputs"):
        programs.compare(of, lambda inputs: outputs(of, inputs) * value, (1,), "torch")


def test_a_comparison_that_says_nothing_is_refused():
    of = network()
    nn.init.zeros_(of.model.head.weight)
    with pytest.raises(ExportError, match="the same for two random inputs"):
        programs.compare(of, lambda inputs: outputs(of, inputs), (1,), "torch")


def test_random_weights_leave_no_branch_at_zero():
    of = of_preset("dit-s-8", None, 8, 3, embed_dim=32, depth=1, num_heads=2, in_channels=1)
    assert outputs(of, of.inputs(1)).abs().max() > 1e-3, "a fresh denoiser gives zeros, which any program would give"
    assert of.input_names == ("x", "t", "y")


class Branching(nn.Module):
    """A mixer that looks at its values, which no program can."""

    def __init__(self, dim: int, num_heads: int = 1, grid: object = None) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor, grid: object) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_a_mixer_that_does_not_export_has_a_row_that_says_why():
    row = check_export(network(f"{__name__}:Branching"), "torch")
    assert not row.exports
    assert row.difference is None
    assert "does not export for a batch of 2" in row.why
    assert len(row.why) < 600
    assert "\n" not in row.why


def test_a_mixer_for_one_batch_alone_says_so(monkeypatch):
    real = programs._exported

    def fixed(of: Network, batch: int | None) -> torch.export.ExportedProgram:
        if batch is None:
            raise programs._failed("the model does not export for any batch", "its shapes")
        return real(of, batch)

    monkeypatch.setattr(programs, "_exported", fixed)
    row = check_export(network(), "torch")
    assert (row.exports, row.batch, row.batches) == (True, 2, (2,))
    assert "any batch: its shapes" in row.why_fixed_batch


def test_a_directory_with_something_else_is_refused(trained, tmp_path):
    (tmp_path / "README.md").write_text("mine\n")
    with pytest.raises(InputError, match=r"README\.md"):
        check_place(tmp_path)
    done = run(trained, trained, "--to", "torch")
    assert done.exit_code == 2
    assert "holds something else" in done.stderr
    (tmp_path / "export.json").write_text(json.dumps({"files": {"README.md": ""}}))
    with pytest.raises(InputError):
        check_place(tmp_path)
