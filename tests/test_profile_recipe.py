"""wfbench profile --recipe: the model that is measured is the one that the recipe trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wfbench import recipe as recipes
from wfbench import records
from wfbench.cli import app
from wfbench.errors import InputError
from wfbench.models import DenseModel
from wfbench.records import ProfileRow
from wfbench.tasks import jobs
from wfbench.tasks.profile.request import ProfileRequest

QUICK = {"mixers": ("static",), "resolutions": (64,), "rounds": 1, "isolate": False, "attention": "auto", "memory": False}


def request(name: str, *settings: str, **more: object) -> ProfileRequest:
    recipe = recipes.load(name, settings)
    return ProfileRequest(**QUICK | {"model": recipe.model.name, "recipe": recipe} | more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["scenes", "digits"])
def test_the_model_of_a_recipe_is_the_one_that_is_trained(name: str) -> None:
    side = {"scenes": 64, "digits": 8}[name]
    (cell,) = request(name, resolutions=(side,)).cells()
    trained = jobs.prepare(recipes.load(name, ["model.mixer=static"])).model
    shapes = {key: tuple(p.shape) for key, p in trained.named_parameters()}
    assert {key: tuple(p.shape) for key, p in cell.build().named_parameters()} == shapes
    assert cell.named_model == f"vit-tiny of {name}"


def test_data_in_files_need_the_number_of_classes() -> None:
    with pytest.raises(InputError, match=r"does not say how many classes[\s\S]*imagenet-deit[\s\S]*--classes N"):
        request("imagenet-deit").cells()
    (cell,) = request("imagenet-deit", classes=7).cells()
    assert cell.build().num_classes == 7
    with pytest.raises(InputError, match=r"another number of classes[\s\S]*--classes 7 for --recipe scenes[\s\S]*11"):
        request("scenes", classes=7).cells()
    with pytest.raises(InputError, match="--classes is of a recipe's data"):
        ProfileRequest(**QUICK | {"classes": 7}).cells()  # type: ignore[arg-type]


def test_a_frozen_backbone_is_measured_frozen_in_a_session_of_its_own() -> None:
    asked = request("scenes", "dense.frozen=true", "model.init_weights=backbone.safetensors", mode="train")
    (cell,) = asked.cells()
    model = cell.build()
    assert isinstance(model, DenseModel)
    assert model.frozen
    assert not any(p.requires_grad for p in model.backbone.parameters())
    environment = records.stamp("cpu")
    whole = replace(asked, recipe=recipes.load("scenes"))
    assert asked.setting(environment) != whole.setting(environment)


def test_a_recipe_is_profiled_from_the_command_line_and_its_model_is_not_named_twice(tmp_path: Path) -> None:
    words = ["profile", "--recipe", "scenes", "--mixer", "static", "--resolution", "64", "--rounds", "1", "--no-isolate"]
    words += ["--attention", "auto", "--baseline", "static", "--no-memory", "--device", "cpu", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--model", "vit-small"])
    assert done.exit_code == 2, done.output
    assert "a recipe has a model of its own got: --model vit-small --recipe scenes" in " ".join(done.output.split())
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (row,) = [row for row in records.read(tmp_path / "records.jsonl")[0] if isinstance(row, ProfileRow)]
    assert (row.model, row.decoder, row.status) == ("vit-tiny of scenes", "linear", "ok")
