"""Models that leave the bench give the outputs that they give inside it, or nothing is left."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import Silent, image_folder
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from mixers import MixerError
from wfbench import files, models, records
from wfbench import recipe as recipes
from wfbench.analysis.cost import costs
from wfbench.cli import app
from wfbench.data import open_dataset
from wfbench.errors import ExportError, InputError
from wfbench.records import ExportRow
from wfbench.report import tables
from wfbench.report.timm_csv import read_timm, timm_files, timm_tables
from wfbench.tasks import hub, jobs
from wfbench.tasks.evaluate_weights import EvalRequest, evaluate_weights
from wfbench.tasks.export import programs
from wfbench.tasks.export.check import check_export, check_exports
from wfbench.tasks.export.hub import card, config_of
from wfbench.tasks.export.network import Network, build, of_preset, of_run, outputs
from wfbench.tasks.export.write import About, check_place
from wfbench.tasks.identity import check_data
from wfbench.tasks.jobs import dense, dit
from wfbench.tasks.run_directory import read_recipe, read_result
from wfbench.tasks.sweep.combinations import drafts
from wfbench.tasks.sweep.request import SweepRequest

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


@pytest.mark.parametrize("name", ["digits", "scenes", "dit-digits"])
def test_the_model_of_a_recipe_is_built_from_its_weights_alone(name):
    small = ["model.embed_dim=16", "model.depth=1", "model.num_heads=2", "model.mixer=softmax"]
    recipe = recipes.load(name, small)
    made = {"classify": lambda: models.create("vit-tiny", "softmax", recipe.model.image_size, 7, **recipe.model.overrides())}
    made |= {"dense": lambda: dense.build(recipe, 7), "dit": lambda: dit.build(recipe, 7, None)}
    model = made[recipe.task]()
    again = build(recipe, model.state_dict(), Path("weights"))
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    with pytest.raises(InputError, match="how many classes"):
        build(recipe, {"stray": torch.ones(1)}, Path("weights"))


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


def test_a_mixer_that_cannot_be_made_has_a_row_and_the_others_go_on(monkeypatch):
    def network_of(name: str | None) -> Network:
        if name == "window":
            raise InputError("no such grid", got="3x3", expected="4x4", remedy="another size")
        return network(name or "softmax")

    monkeypatch.setattr("wfbench.tasks.export.check.check_export", lambda own, to: exported_row(own.fields["mixer"], to=to))
    rows = list(check_exports(["pool", "window", "static"], ["torch", "onnx"], network_of))
    assert [(row.mixer, row.to, row.exports) for row in rows[1:5]] == [
        *(("pool", "onnx", True), ("window", "torch", False), ("window", "onnx", False), ("static", "torch", True)),
    ]
    assert (rows[2].why, rows[2].parameters) == ("it cannot be made here: no such grid, 3x3", None)
    assert "no" in tables(rows)[0].frame["exports to torch.export"].tolist()


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


# A folder in the Hub's layout


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "vit-digits"
    done = run(trained, out, "--to", "hub")
    assert done.exit_code == 0, done.output
    return out


def test_a_folder_is_read_back_as_the_run_that_it_is_from(folder, trained, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "export.json", "model.safetensors"]
    [result] = evaluate_weights(EvalRequest(folder, out=tmp_path / "eval"), device=CPU)
    assert result.same, "the trainer's own figures"
    assert result.notes == ()
    assert result.row.recipe_digest == read_result(trained).recipe_digest
    assert read_recipe(folder) == read_recipe(trained)


def test_its_config_says_what_the_weights_are(folder, trained):
    config = json.loads((folder / "config.json").read_text())
    row = read_result(trained)
    assert config["label_names"] == list("0123456789")
    assert (config["preset"], config["mixer"], config["image_size"]) == ("vit-tiny", "softmax", [8, 8])
    assert (config["mean"], config["std"]) == ([0.305], [0.376])
    assert config["digests"]["weights"] == files.sha256(trained / "model.safetensors")
    assert config["digests"]["data"] == row.data_digest
    assert config["wfbench"]["mixer_files"] == []


def test_its_card_has_the_run_s_figures_and_says_why_they_have_no_interval(folder, trained):
    row = read_result(trained)
    head, _, body = (folder / "README.md").read_text().removeprefix("---\n").partition("---\n")
    [metric, *_] = yaml.safe_load(head)["model-index"][0]["results"][0]["metrics"]
    assert (metric["name"], metric["value"]) == ("top-1 accuracy", row.accuracy)
    assert f"{100 * row.accuracy:.2f} %" in body
    assert "No interval: one run of one seed" in body
    assert "Code that it needs" not in body


def test_averaged_weights_are_taken_for_no_others(trained, tmp_path):
    done = run(trained, tmp_path / "ema", "--to", "hub", "--weights", "ema")
    assert done.exit_code == 0, done.output
    with pytest.raises(InputError, match="holds other weights"):
        evaluate_weights(EvalRequest(tmp_path / "ema", out=tmp_path / "eval"), device=CPU)
    [result] = evaluate_weights(EvalRequest(tmp_path / "ema", "ema", out=tmp_path / "eval"), device=CPU)
    assert result.same
    assert result.row.weights == "ema"


def test_where_the_data_lie_stays_at_home(trained):
    of = of_run(trained)
    assert of.recipe is not None
    moved = of.recipe.model_copy(update={"data": of.recipe.data.model_copy(update={"path": "/home/someone/images"})})
    of = replace(of, recipe=moved)
    assert "/home/someone" not in json.dumps(config_of(of))
    assert recipes.digest(moved) == recipes.digest(recipes.parse(config_of(of)["wfbench"]["recipe"], "config.json"))


def test_other_data_are_refused_without_their_list(folder, tmp_path):
    image_folder(tmp_path / "data", "train", list("0123456789"), 2)
    image_folder(tmp_path / "data", "val", list("0123456789"), 1)
    dataset = open_dataset(recipes.load("digits", ["data.source=folder", f"data.path={tmp_path / 'data'}"]).data)
    with pytest.raises(InputError, match="not those that the weights were trained with"):
        check_data(folder, dataset, "val")


def test_a_mixer_of_one_s_own_is_named_and_not_copied(trained, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\nclass Mine(nn.Module):\n    def __init__(self, dim):\n        super().__init__()\n"
        "        self.linear = nn.Linear(dim, dim)\n    def forward(self, x, grid):\n        return self.linear(x)\n"
    )
    recipe = recipes.load("digits", [*SMALL, f"model.mixer={json.dumps(f'{mine}:Mine')}"])
    jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    assert run(tmp_path / "run", tmp_path / "out", "--to", "hub").exit_code == 0
    [said] = json.loads((tmp_path / "out" / "config.json").read_text())["wfbench"]["mixer_files"]
    assert (said["file"], said["digest"]) == ("mine.py", read_result(tmp_path / "run").mixer_digest)
    assert "needs the file `mine.py`" in (tmp_path / "out" / "README.md").read_text()
    for name in ("config.json", "README.md"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()
    assert not list((tmp_path / "out").glob("*.py"))
    mine.unlink()
    with pytest.raises((InputError, MixerError), match=r"mine\.py"):
        of_run(tmp_path / "out")


@pytest.mark.slow
def test_a_mixer_of_an_installed_package_is_named_with_it(trained, monkeypatch):
    point = SimpleNamespace(
        name="theirs", value="x:Y", dist=SimpleNamespace(name="their-mixers", version="1.2"), load=lambda: Branching
    )
    monkeypatch.setattr("mixers.registry.entry_points", lambda: [point])
    monkeypatch.setattr("wfbench.tasks.export.hub.metadata.entry_points", lambda group: [point])
    of = of_run(trained)
    of = replace(of, row=of.row.model_copy(update={"mixer": "theirs"}))
    config = config_of(of)
    [said] = config["wfbench"]["mixer_files"]
    assert (said["name"], said["package"]) == ("theirs", "their-mixers 1.2")
    assert "needs the installed package `their-mixers 1.2`" in card(of, hub.HubConfig.model_validate(config["wfbench"]))


def test_random_weights_are_not_shared(tmp_path):
    done = run("vit-tiny", tmp_path / "out", "--to", "hub")
    assert done.exit_code == 2
    assert "random weights are not shared" in done.stderr
    assert list(tmp_path.iterdir()) == []


# Names of the Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(folder: Path, home: Path, *, leave_out: str = "") -> Path:
    """A local cache with the folder's files as those of the repository org/name."""
    place = home / "hub" / "models--org--name" / "snapshots" / COMMIT
    place.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        if name != leave_out:
            shutil.copyfile(folder / name, place / name)
    refs = home / "hub" / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    return place


@pytest.fixture
def named(folder, tmp_path, monkeypatch) -> Path:
    """The folder as hf:org/name, fetched by what stands in for the Hub."""
    place = cached(folder, tmp_path / "cache")

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repo, set(allow_patterns)) == ("org/name", {"config.json", "model.safetensors"}), "nothing else is fetched"
        assert revision in (None, "main", COMMIT)
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return place


@pytest.mark.parametrize("name", ["hf:org/name", "hf:org/name@main", f"hf:org/name@{COMMIT}"])
def test_a_name_is_a_folder_at_one_commit(name, named):
    found = hub.fetch(name)
    assert (found.place, found.name) == (named, f"hf:org/name@{COMMIT}")
    assert hub.name_of(named) == found.name


def test_a_run_of_the_hub_is_evaluated_and_its_commit_is_in_the_row(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["eval", "hf:org/name"])
    assert done.exit_code == 0, done.output
    assert "what the trainer recorded: the same" in done.stdout
    (row,), _ = records.read(tmp_path / "runs" / "eval" / f"org-name-{COMMIT}" / "records.jsonl")
    assert row.weights_source == f"hf:org/name@{COMMIT}"
    assert {path.name for path in named.iterdir()} == {"config.json", "model.safetensors"}, "nothing is written into the cache"


@pytest.mark.parametrize("of_the_hub", [True, False])
def test_training_begins_from_a_folder_and_pins_its_commit(of_the_hub, named, folder, tmp_path):
    name = "hf:org/name" if of_the_hub else str(folder)
    recipe = recipes.load("digits", [*SMALL, f"model.init_weights={name}"])
    job = jobs.prepare(recipe)
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in job.model.state_dict().items())
    digest = files.sha256(folder / "model.safetensors")[:12]
    assert job.pretraining == (f"hf:org/name@{COMMIT} {digest}" if of_the_hub else f"{folder.name} {digest}")
    pinned = jobs.pinned(recipe).model.init_weights
    assert pinned == (f"hf:org/name@{COMMIT}" if of_the_hub else name)


def test_a_run_s_config_names_the_commit_that_it_began_from(named, tmp_path):
    recipe = recipes.load("digits", [*SMALL, "model.init_weights=hf:org/name"])
    row = jobs.train(recipe, tmp_path / "run", Silent(), device=CPU)
    assert read_recipe(tmp_path / "run").model.init_weights == f"hf:org/name@{COMMIT}"
    assert row.pretraining.startswith(f"hf:org/name@{COMMIT} ")
    assert row.recipe_digest == recipes.digest(jobs.pinned(recipe)) != recipes.digest(recipe)
    assert jobs.train(recipe, tmp_path / "run", Silent(), device=CPU, resume=True) == row


def test_the_runs_of_a_sweep_begin_from_one_commit(named):
    settings = (*SMALL, "model.init_weights=hf:org/name")
    lines = SweepRequest.model_validate({"recipes": ["digits"], "mixers": ["softmax"], "seeds": [1, 2], "set": settings})
    [draft] = drafts(lines)
    plans = [draft.plan_run(seed) for seed in (1, 2)]
    assert {plan.recipe.model.init_weights for plan in plans} == {f"hf:org/name@{COMMIT}"}
    assert all(f'model.init_weights="hf:org/name@{COMMIT}"' in plan.words for plan in plans)


@pytest.mark.parametrize("command", ["ablate", pytest.param("erf", marks=pytest.mark.slow)])
def test_other_commands_take_a_name_for_a_run(command, named, tmp_path):
    done = CliRunner().invoke(app, [command, "hf:org/name", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "out").rglob("records.jsonl"))


def offline(name: str, home: Path) -> str:
    """What `fetch` says in a process of its own, which may not reach the Hub."""
    code = f"from wfbench.errors import InputError\nfrom wfbench.tasks.hub import fetch\ntry:\n    print(fetch({name!r}))\n"
    code += "except InputError as e:\n    print('refused:', e)\n"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env = kept | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_offline_the_local_cache_is_taken_and_what_it_lacks_is_one_message(folder, tmp_path):
    cached(folder, tmp_path / "home")
    assert f"revision='{COMMIT}'" in offline("hf:org/name", tmp_path / "home")
    said = offline("hf:org/other", tmp_path / "home")
    assert said.startswith("refused: the weights cannot be had from the Hub")
    assert "hf:org/other" in said


def test_a_cache_without_the_weights_is_refused(folder, tmp_path, monkeypatch):
    place = cached(folder, tmp_path, leave_out="model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(place))
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        hub.fetch("hf:org/name")


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:org/name/more", "hf:org/name@", "hf:../name x", "hf:org/name@a b"])
def test_what_is_no_name_is_refused_before_anything_is_asked_for(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it was asked for"))
    with pytest.raises(InputError, match="not the name of a repository"):
        hub.fetch(name)


def test_a_repository_of_others_needs_a_recipe(named, tmp_path, monkeypatch):
    (named / "config.json").write_text('{"architecture": "vit_tiny"}')
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["eval", "hf:org/name"])
    assert done.exit_code == 2
    assert "does not say how its weights were trained" in done.stderr
    words = ["eval", "hf:org/name", "--recipe", "digits", *(word for setting in SMALL for word in ("--set", setting))]
    assert CliRunner().invoke(app, words).exit_code == 0


# What tables say of exports


def exported_row(mixer: str, to: str = "torch", why: str = "", **more: object) -> ExportRow:
    found = {"difference": None if why else 1e-7, "batch": None, "created": "2030-01-01T00:00:00+00:00"}
    return ExportRow(
        environment=records.stamp(),
        model="vit-tiny",
        mixer=mixer,
        to=to,
        exports=not why,
        why=why,
        image_size=(224, 224),
        dtype="float32",
        parameters=1,
        tolerance=1e-4,
        weights="random",
        seed=0,
        **found | more,
    )


def test_a_row_says_how_it_was_compared_or_why_it_does_not_export():
    for wrong in ({"exports": True, "why": "no"}, {"exports": False, "why": ""}, {"exports": True, "difference": None}):
        with pytest.raises(ValueError, match="a difference, or a reason"):
            ExportRow.model_validate(exported_row("softmax").model_dump() | wrong)


def test_the_table_of_exports_has_the_newest_row_of_each_line_and_format():
    rows = [
        exported_row("gdn", "onnx", "no operator"),
        exported_row("gdn", why_fixed_batch="its shapes", batch=2),
        exported_row("softmax", why="an old failure", created="2029-01-01T00:00:00+00:00"),
        exported_row("softmax"),
        exported_row("softmax", "onnx"),
    ]
    [table] = tables(rows)
    assert table.frame.to_dict("records") == [
        {"model": "vit-tiny", "mixer": "gdn", "exports to torch.export": "yes (one batch)", "exports to ONNX": "no"},
        {"model": "vit-tiny", "mixer": "softmax", "exports to torch.export": "yes", "exports to ONNX": "yes"},
    ]
    notes = " ".join(table.notes)
    assert "gdn does not export to ONNX: no operator." in notes
    assert "one batch size at a time: its shapes" in notes
    assert "at most 0.0001 (float32) of the largest output" in notes


def test_the_zoo_s_overview_has_the_column_where_there_are_rows_of_it():
    zoo, _ = records.read(Path(__file__).parent.parent / "results" / "zoo" / "records.jsonl")
    runs = [next(ZOO.glob(f"digits-{name}-s0-*")) for name in ("softmax", "linear")]
    trained = [row for run in runs for row in records.read(run / "records.jsonl")[0]]
    before = next(table for table in tables([*zoo, *trained]) if table.name == "overview")
    assert "exports" not in before.frame
    assert "exports" not in before.data
    rows = [exported_row("softmax"), exported_row("softmax", "onnx", "no operator"), exported_row("pool")]
    other = exported_row("linear").model_copy(update={"model": "vit-small"})
    after = next(table for table in tables([*zoo, *trained, *rows, other]) if table.name == "overview")
    assert dict(zip(after.frame["mixer"], after.frame["exports"], strict=True)) == {
        "linear": "–",
        "softmax": "torch.export, not ONNX",
    }
    assert "softmax does not export to ONNX: no operator." in after.notes


def test_the_check_of_mixers_writes_a_row_for_each(tmp_path, monkeypatch):
    def found(names, formats, network_of, told):
        assert (names, formats) == (["softmax", "pool"], ["torch"])
        yield from (exported_row(name) for name in names)

    monkeypatch.setattr("wfbench.tasks.export.check.check_exports", found)
    monkeypatch.setattr("wfbench.tasks.export.network.of_preset", lambda *_, **__: None)
    done = run("vit-tiny", tmp_path / "out", "--check", "--to", "torch", "--mixer", "softmax", "--mixer", "pool")
    assert done.exit_code == 0, done.output
    rows, _ = records.read(tmp_path / "out" / "records.jsonl")
    assert [row.mixer for row in rows] == ["softmax", "pool"]
    assert "exports to torch.export" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"), [(["--mixer", "softmx"], "unknown mixer"), (["--mixer", "softmax", "--every", "0"], "every")]
)
def test_the_check_refuses_what_no_mixer_could_be_made_with(words, said, tmp_path):
    done = run("vit-tiny", tmp_path / "out", "--check", "--to", "torch", *words)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", 2**63], "--seed"),
        (["--classes", 10**12], "no room for the model"),
        (["--image-size", 32, "--batch", 10**12], "no room for a batch"),
    ],
)
def test_a_number_that_is_too_large_is_one_message(words, said, tmp_path):
    done = run("vit-tiny", tmp_path / "out", "--to", "torch", *words)
    assert done.exit_code == 2, done.output
    assert done.output.count("error: ") == 1
    assert said in done.output


def test_a_mixer_that_does_not_run_in_a_precision_is_one_message(monkeypatch):
    def no_half(*_: object) -> Tensor:
        raise RuntimeError("\"linear\" not implemented for 'Half'")

    monkeypatch.setattr(models.VisionTransformer, "forward", no_half)
    with pytest.raises(InputError, match=r"does not run here[\s\S]*float16[\s\S]*export in float32"):
        of_preset("vit-tiny", "softmax", 16, 3, dtype="float16", **TINY)


def test_a_mixer_whose_constructor_raises_is_one_message(tmp_path):
    head = "import torch\n\n\nclass M(torch.nn.Module):\n    def __init__(self, dim):\n"
    (tmp_path / "m.py").write_text(head + '        assert dim > 1000, "too narrow"\n')
    with pytest.raises(InputError, match=r"the model cannot be made[\s\S]*AssertionError: too narrow"):
        of_preset("vit-tiny", f"{tmp_path / 'm.py'}:M", 16, 3, **TINY)


# timm's tables


ZOO = Path(__file__).parent.parent / "results" / "zoo"
TIMM = """model,infer_samples_per_sec,infer_step_time,infer_batch_size,infer_img_size,param_count,infer_gmacs,infer_macts
vit_tiny_patch16_224,"12,345.6",82.9,1024,224,5.72,1.08,4.12
other,100.0,,256,256,1.0,1.0,1.0
"""
IMAGENET = """model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation
vit_b,448,85.1,14.9,97.5,2.5,86.57,1.0,bicubic
"""


def test_profiles_are_written_in_timm_s_columns_and_units(tmp_path):
    done = run(ZOO / "records.jsonl", tmp_path / "timm", "--to", "timm-csv")
    assert done.exit_code == 0, done.output
    [file] = (tmp_path / "timm").iterdir()
    lines = list(csv.DictReader(file.open()))
    assert list(lines[0]) == TIMM.splitlines()[0].split(",")
    rows = [row for row in records.read(ZOO / "records.jsonl")[0] if row.kind == "profile" and row.mixer == "linear"]
    row = next(row for row in rows if row.resolution == (224, 224))
    line = next(line for line in lines if (line["model"], line["infer_img_size"]) == ("wfbench_vit_tiny.linear", "224"))
    assert float(line["infer_samples_per_sec"]) == pytest.approx(row.batch / row.median, abs=0.01)
    assert float(line["infer_step_time"]) == pytest.approx(1000 * row.median, abs=0.001)
    assert float(line["param_count"]) == pytest.approx(row.parameters / 1e6, abs=0.006)
    assert float(line["infer_gmacs"]) == pytest.approx(row.macs / 1e9, abs=0.006)
    assert line["infer_batch_size"] == str(row.batch)


@pytest.mark.parametrize(
    ("change", "empty"),
    [
        ({"status": "oom", "median": None, "round_medians": (), "samples": ()}, {"infer_samples_per_sec", "infer_step_time"}),
        ({"macs": None, "macs_error": "they differ"}, {"infer_gmacs"}),
        ({"resolution": (224, 448)}, {"infer_img_size"}),
    ],
)
def test_what_a_cell_does_not_have_is_empty(change, empty):
    row = next(row for row in records.read(ZOO / "records.jsonl")[0] if row.kind == "profile" and row.mixer == "linear")
    row = row.model_copy(update={"activations": 4.1e6} | change)
    [text] = timm_files(costs([row])).values()
    [line] = csv.DictReader(text.splitlines())
    assert {key for key, value in line.items() if value == ""} == empty
    assert line["infer_macts"] == "4.1"


def test_timm_s_numbers_stand_in_tables_of_their_own_at_the_records_sizes(tmp_path):
    (tmp_path / "benchmark-infer-a.csv").write_text(TIMM)
    (tmp_path / "results-imagenet.csv").write_text(IMAGENET)
    rows = [row for row in records.read(ZOO / "records.jsonl")[0] if row.kind == "profile" and row.mixer == "linear"]
    found = [read_timm(tmp_path / name) for name in ("benchmark-infer-a.csv", "results-imagenet.csv")]
    infer, accuracy = timm_tables(found, rows)
    assert (infer.name, accuracy.name) == ("published-benchmark-infer-a-224", "published-results-imagenet-448")
    assert (infer.kind, list(infer.frame["model"])) == ("published", ["vit_tiny_patch16_224"])
    assert infer.frame["images/s (published)"][0] == "12,345.6"
    assert accuracy.frame["top-1 (%, published)"][0] == "85.1"
    assert all("published" in column for column in infer.frame if column not in ("model", "px", "source"))
    assert "timm, benchmark-infer-a.csv (SHA-256 " in " ".join(infer.notes)
    assert list(infer.data["measured"]) == [False]
    with pytest.raises(InputError, match="other image sizes than the records"):
        timm_tables(found, rows[:0])


def test_a_file_of_others_is_not_overwritten_and_ours_is_published_by_nobody(tmp_path):
    assert run(ZOO / "records.jsonl", tmp_path, "--to", "timm-csv").exit_code == 0
    [file] = tmp_path.glob("*.csv")
    text = file.read_text()
    assert run(ZOO / "records.jsonl", tmp_path, "--to", "timm-csv").exit_code == 0, "our own file is replaced"
    with pytest.raises(InputError, match="not results that timm has published"):
        read_timm(file)
    for others in (TIMM, "a,b\n", ""):
        file.write_text(others)
        done = run(ZOO / "records.jsonl", tmp_path, "--to", "timm-csv")
        assert (done.exit_code, file.read_text()) == (2, others), done.output
        assert "a file of others stands there" in done.output
    assert text.startswith("model,")


def test_a_line_that_stands_twice_is_shown_once_and_one_of_two_values_is_named(tmp_path):
    line = TIMM.splitlines()[1]
    (tmp_path / "benchmark-infer-a.csv").write_text("\n".join([TIMM.strip(), line, line.replace("82.9", "83.9")]))
    rows = [row for row in records.read(ZOO / "records.jsonl")[0] if row.kind == "profile" and row.mixer == "linear"]
    [table] = timm_tables([read_timm(tmp_path / "benchmark-infer-a.csv")], rows)
    assert list(table.frame["ms per batch (published)"]) == ["82.9", "83.9"]
    assert "More than one line of the file at this size: vit_tiny_patch16_224." in table.notes


@pytest.mark.parametrize(
    "text",
    [
        "",
        TIMM.splitlines()[0],
        "model,top1\na,1\n",
        TIMM.replace("82.9", "fast"),
        TIMM.replace("82.9", "nan"),
        TIMM.replace("82.9", "-1"),
        TIMM.replace("82.9,", ""),
        TIMM.replace("vit_tiny_patch16_224", ""),
        TIMM.replace("infer_gmacs", "model"),
    ],
)
def test_what_is_no_file_of_timm_s_is_refused(text, tmp_path):
    (tmp_path / "benchmark.csv").write_text(text)
    with pytest.raises(InputError, match="published results|timm's results"):
        read_timm(tmp_path / "benchmark.csv")


# ONNX


def test_without_its_packages_onnx_says_how_to_have_them(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_version", lambda name: "1" if name == "onnx" else "")
    done = run(trained, tmp_path / "out", "--to", "onnx")
    assert done.exit_code == 2
    assert "no onnxscript, onnxruntime" in done.stderr
    assert "pip install 'wfbench[export]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_onnx_model_gives_the_outputs_of_the_run_s_weights(trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra export")
    pytest.importorskip("onnxscript")
    done = run(trained, tmp_path / "out", "--to", "onnx", "--dynamic-batch")
    assert done.exit_code == 0, done.output
    of = of_run(trained)
    inputs = of.inputs(5, seed=77)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"images": inputs[0].numpy()})
    assert torch.allclose(torch.from_numpy(found), outputs(of, inputs), atol=1e-5)
    about = About.model_validate_json((tmp_path / "out" / "export.json").read_bytes())
    assert about.row is not None
    assert about.row.opset is not None
    assert set(about.row.packages) == {"onnx", "onnxscript", "onnxruntime"}
    assert json.loads(session.get_modelmeta().custom_metadata_map["wfbench"])["classes"] == list("0123456789")
