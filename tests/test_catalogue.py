"""`wfbench models`, `recipes` and `show`: what there is, and what it costs, by counts that the bench makes elsewhere too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import mixers
from wfbench import models, shipped, strict
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.cli.commented import commented
from wfbench.measure import count_flops
from wfbench.tasks import catalogue, jobs

ROOT = Path(__file__).resolve().parent.parent
RUN = next((ROOT / "results" / "demo").glob("digits-linear-*"))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["vit-tiny", "weightformer-tiny", "dit-s-8"])
def test_a_model_costs_what_is_counted(name: str) -> None:
    entry, model = catalogue.describe_model(name), models.create(name)
    assert entry.params == sum(parameter.numel() for parameter in model.parameters())
    assert entry.macs == count_flops(model, (1, entry.channels, *entry.image_size)).macs
    assert (entry.tasks == ("dit",)) == name.startswith("dit")


def test_models_lists_the_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalogue.model_names() == list(models.PRESETS)
    monkeypatch.setattr(catalogue, "model_names", lambda: ["vit-tiny", "dit-s-8"])
    found = json.loads(run("models", "--json").stdout)
    assert [(entry["name"], entry["blocks"], entry["width"], entry["heads"]) for entry in found] == [
        ("vit-tiny", 12, 192, 3),
        ("dit-s-8", 12, 384, 6),
    ]
    assert "5.717" in run("models").stdout


@pytest.mark.parametrize("name", ["digits", "probe-recall", "scenes", "dit-digits"])
def test_a_recipe_is_as_long_as_its_training(name: str) -> None:
    entry, job = catalogue.describe_recipe(name), jobs.prepare(recipes.load(name))
    assert entry.supply == ()
    assert entry.images == len(job.dataset.train)
    assert entry.steps == job.steps_per_epoch * job.recipe.epochs
    assert entry.classes == len(job.dataset.classes)
    assert entry.params == sum(parameter.numel() for parameter in job.model.parameters())
    assert entry.work == 3 * entry.macs * entry.images * entry.epochs


def test_a_recipe_of_data_in_files_says_what_to_supply() -> None:
    deit, cifar = catalogue.describe_recipe("imagenet-deit"), catalogue.describe_recipe("cifar10")
    assert deit.supply == ("images in a folder for each class",)
    assert (deit.images, deit.steps, deit.work, deit.papers) == (None, None, None, ("2012.12877",))
    assert (cifar.images, cifar.steps, cifar.classes) == (10_000, 12 * 156, 10)
    assert "weights to begin from" in catalogue.describe_recipe("imagenet-finetune-384").supply
    assert cifar.about.startswith("CIFAR-10 on two CPU cores: 10,000 of its 50,000 training images")


def test_every_source_is_supplied_or_embedded() -> None:
    sources = set(recipes.DataSection.model_fields["source"].annotation.__args__)
    assert sources == catalogue._SUPPLIED.keys() | catalogue._EMBEDDED.keys()
    assert not catalogue._SUPPLIED.keys() & catalogue._EMBEDDED.keys()


def test_recipes_lists_recipes_and_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"recipes": ["digits", "imagenet-deit"], "sweeps": ["scenes"]}
    monkeypatch.setattr(shipped, "names", names.get)
    found = json.loads(run("recipes", "--json").stdout)
    assert [entry["name"] for entry in found["recipes"]] == names["recipes"]
    assert [(entry["name"], entry["lines"], entry["runs"]) for entry in found["sweeps"]] == [("scenes", 7, 35)]
    table = run("recipes").stdout
    assert "arXiv 2012.12877" in table
    assert "43,110" in table, "30 epochs of 1,437 digits"


@pytest.mark.parametrize("name", shipped.names("recipes"))
def test_a_recipe_is_shown_in_full_and_reads_back(name: str) -> None:
    file, recipe = shipped.find(name, "recipes"), recipes.load(name)
    text = commented(file.read_text(), recipe)
    assert recipes.parse(strict.parse_yaml(text, "recipe", name), name) == recipe
    for line in file.read_text().splitlines():
        comment = line.partition("#")[2].strip()
        assert comment in text, line


def test_comments_stay_with_their_settings() -> None:
    text = (
        'epochs: 3  # so many\nname: "a # b"\nbatch_size: 4\noptim:  # of all\n  lr: 1e-3\n  betas: [0.5,\n    0.6]  # both\n'
    )
    lines = commented(text, recipes.parse(strict.parse_yaml(text, "recipe", "here"), "here")).splitlines()
    assert {"epochs: 3  # so many", "optim:  # of all", "  betas: [0.5, 0.6]  # both", "batch_size: 4"} <= set(lines)
    assert "name: 'a # b'" in lines
    assert "label_smoothing: 0.0  # default" in lines


def test_show_says_how_a_run_stands(tmp_path: Path) -> None:
    done = run("show", RUN)
    assert done.exit_code == 0, done.output
    assert "state:      finished" in done.stdout
    assert "97.22 %" in done.stdout
    (tmp_path / "config.yaml").write_text((RUN / "config.yaml").read_text())
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    begun = run("show", tmp_path)
    assert "state:     stopped, or not begun, 2 of 30 epochs done" in begun.stdout
    assert f"wfbench train --resume --out {tmp_path}" in begun.stdout


def test_show_says_what_a_mixer_is() -> None:
    said = run("show", "window(window=2)").stdout
    assert "options:    qkv_bias=True, window=2, shift=None, bias=True" in said
    assert "arXiv 2103.14030" in said
    assert "Deviations: as in timm" in said
    macs = catalogue.describe_mixer("linear").macs
    assert macs is not None
    token, ffn = mixers.create("linear", 192, num_heads=3), mixers.create_ffn_in("linear", 192, 768)
    assert macs[14, 14] == token.macs((14, 14)) + ffn.macs((14, 14))


def test_every_registered_mixer_can_be_shown() -> None:
    for name in mixers.names():
        entry = catalogue.describe_mixer(name)
        assert entry.docstring, name
        assert entry.macs is not None, name


def test_the_defaults_of_a_mixer_are_those_of_its_spec() -> None:
    assert mixers.defaults("wf-linear-gap")["strategy"] == "gap"
    assert mixers.defaults("window(window=2)")["window"] == 2
    assert mixers.defaults("identity") == {}


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("cifar10", ["which one?", "cifar10: a recipe and a sweep", "wfbench show cifar10 --as sweep"]),
        ("softmx", ["nothing of that name", "did you mean softmax?"]),
        ("vit-tinny", ["nothing of that name", "did you mean vit-tiny"]),
        ("digitz", ["nothing of that name", "digits"]),
        ("xyzzyxyzzy", ["see wfbench recipes, wfbench mixers and wfbench models"]),
        ("softmax --as thing", ["unknown kind", "run, recipe, sweep, mixer, model"]),
        ("softmax --as recipe", ["unknown recipe"]),
        ("results/demo", ["a directory that is no run", "results/demo/digits-linear-"]),
        ("no-such.yaml", ["no such recipe file"]),
        ("mine.py", ["a file of mixers", "mine.py:CLASS"]),
    ],
)
def test_a_name_of_nothing_or_of_several_things_is_asked_about(
    words: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = run("show", *words.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert [line for line in lines if line not in done.stderr] == [], done.stderr


def test_a_sweep_by_name_has_its_claims_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert catalogue.describe_sweep("cifar10").claims == 10
    assert run("show", "scenes", "--as", "sweep").stdout.endswith("35 runs; 5 claims\n")
