"""`wfbench eval`: the trainer's own figures, at any resolution, of files under others' names, by other labels."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from helpers import Silent, image_folder, listing, scrambled
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision.transforms.functional import resize, to_tensor
from typer.testing import CliRunner

from wfbench import models, records, report
from wfbench import recipe as recipes
from wfbench.analysis.resolutions import resolutions
from wfbench.cli import app
from wfbench.data import eval_batches, open_dataset
from wfbench.recipe import DataSection
from wfbench.tasks import jobs
from wfbench.tasks.evaluate_weights import EvalRequest, evaluate_weights
from wfbench.tasks.jobs import classify
from wfbench.tasks.run_directory import read_recipe

CPU = torch.device("cpu")
SMALL = ["model.embed_dim=16", "model.depth=2", "model.num_heads=2", "epochs=1", "optim.warmup_epochs=0"]
CLASSES = [f"n{c}" for c in range(8)]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def evaluate(path: Path, **request):
    return evaluate_weights(EvalRequest(path, **request), device=CPU)


def run(*words: object):
    return CliRunner().invoke(app, ["eval", *map(str, words)])


def words(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with averaged weights."""
    out = tmp_path_factory.mktemp("trained") / "run"
    torch.manual_seed(0)
    jobs.train(recipes.load("digits", [*SMALL, "ema.decay=0.9"]), out, Silent(), device=CPU)
    return out


@pytest.fixture
def a_run(trained, tmp_path) -> Path:
    """The same, to write into."""
    return shutil.copytree(trained, tmp_path / "run")


# A run


@pytest.mark.parametrize(("weights", "prefix"), [("raw", ""), ("ema", "ema_")])
def test_a_run_s_evaluation_is_exactly_what_its_trainer_recorded(weights, prefix, a_run):
    [result] = evaluate(a_run, weights=weights)
    last = json.loads((a_run / "metrics.jsonl").read_text().splitlines()[-1])
    row = result.row
    assert result.same
    assert (row.accuracy, row.top5, row.loss) == tuple(last[f"{prefix}{name}"] for name in ("accuracy", "top5", "loss"))
    assert (row.samples, row.seed, row.recipe, row.weights) == (360, 0, "digits", weights)
    kept = (a_run / f"predictions-{weights}.parquet").read_bytes()
    assert (a_run / "eval" / f"{weights}-8" / "predictions.parquet").read_bytes() == kept
    assert json.loads((a_run / "eval" / f"{weights}-8" / "result.json").read_text()) == row.model_dump(mode="json")
    assert len((a_run / "eval" / "records.jsonl").read_text().splitlines()) == 1


def test_raw_and_averaged_weights_are_not_taken_for_one_another(a_run):
    [raw], [ema] = evaluate(a_run), evaluate(a_run, weights="ema")
    assert raw.row.loss != ema.row.loss
    assert raw.row.weights_sha256 != ema.row.weights_sha256
    shutil.copy(a_run / "ema.safetensors", a_run / "model.safetensors")
    [wrong] = evaluate(a_run)
    assert wrong.same is False
    assert wrong.row.loss == ema.row.loss


def test_figures_of_another_machine_may_differ_and_are_shown(a_run):
    result = json.loads((a_run / "result.json").read_text())
    result["loss"] += 1e-9
    (a_run / "result.json").write_text(json.dumps(result))
    here = run(a_run)
    assert here.exit_code == 1, here.output
    assert "NOT the same" in here.output
    result["environment"] |= {"device": "NVIDIA H100", "device_type": "cuda"}
    (a_run / "result.json").write_text(json.dumps(result))
    there = run(a_run)
    assert there.exit_code == 0, there.output
    assert "where the trainer had device NVIDIA H100" in there.output


def test_each_resolution_is_evaluated_by_itself(a_run):
    results = evaluate(a_run, resolutions=(8, 6, 16))
    assert [result.row.image_size for result in results] == [(8, 8), (6, 6), (16, 16)]
    assert {result.row.trained_size for result in results} == {(8, 8)}
    assert [result.same for result in results] == [True, None, None]
    assert len({result.row.loss for result in results}) == 3
    assert sorted(p.name for p in (a_run / "eval").iterdir()) == ["raw-16", "raw-6", "raw-8", "records.jsonl"]
    recipe = read_recipe(a_run)
    prepared = classify.prepare(recipe)
    prepared.model.load_state_dict(load_file(a_run / "model.safetensors"))
    val = prepared.dataset.val
    for result in results:  # apart from the bench: torchvision's resize, one batch, the model
        side = result.row.image_size[0]
        resized = [to_tensor(resize(val.load(i), [side, side], antialias=True, interpolation=3)) for i in range(len(val))]
        with torch.no_grad():
            logits = prepared.model.eval()((torch.stack(resized) - recipe.data.mean[0]) / recipe.data.std[0])
        targets = torch.tensor(val.targets)
        assert result.row.accuracy == (logits.argmax(1) == targets).double().mean().item()
        assert result.row.loss == pytest.approx(F.cross_entropy(logits.double(), targets).item(), abs=1e-6)


def test_figures_by_class_and_predictions_add_up_to_the_total(a_run):
    [result] = evaluate(a_run)
    by_class = pd.read_csv(result.where / "by_class.csv", dtype={"class": str})
    assert list(by_class["class"]) == list("0123456789")
    assert by_class.samples.sum() == result.row.samples
    assert by_class.right.sum() / 360 == result.row.accuracy
    assert by_class.right_in_top5.sum() / 360 == result.row.top5
    # Before version 3, pandas reads 1/18 with its last bit wrong.
    np.testing.assert_allclose(by_class.accuracy, by_class.right / by_class.samples, rtol=1e-15)
    kept = pd.read_parquet(result.where / "predictions.parquet")
    assert list(kept["index"]) == list(range(360))
    for c, right, samples in zip(range(10), by_class.right, by_class.samples, strict=True):
        assert (kept.label == c).sum() == samples
        assert ((kept.label == c) & (kept.top1 == c)).sum() == right
    tops = kept[[f"top{k}" for k in range(1, 6)]].to_numpy()
    assert all(len(set(row)) == 5 for row in tops)
    assert kept.confidence.between(0.1, 1).all()


def test_other_settings_have_other_names_and_leave_the_plain_evaluation_as_it_was(a_run):
    [plain] = evaluate(a_run)
    before = (plain.where / "result.json").read_bytes()
    [other] = evaluate(a_run, overrides=("data.mean=[0.5]", "data.std=[0.5]"))
    assert other.same is None
    assert (other.row.mean, other.row.std) == ((0.5,), (0.5,))
    assert other.row.loss != plain.row.loss
    assert other.where != plain.where
    assert other.where.name.startswith("raw-8-")
    assert (plain.where / "result.json").read_bytes() == before
    assert len((a_run / "eval" / "records.jsonl").read_text().splitlines()) == 2


def test_a_checkpoint_s_weights_are_evaluated_by_the_recipe_of_their_run(a_run):
    [best] = (a_run / "checkpoint").glob("best-*")
    [result] = evaluate(best / "model.safetensors", recipe=str(a_run / "config.yaml"))
    last = json.loads((a_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert (result.row.accuracy, result.row.loss) == (last["accuracy"], last["loss"]), "of the run's only epoch"
    assert result.row.weights == "file"


# Files, under the names of those who made them


def held_out(root: Path, side: int, normalised=IMAGENET):
    """All images of a folder as the recipe's evaluation makes them, and their classes."""
    data = DataSection(source="folder", path=str(root), mean=normalised[0], std=normalised[1], eval_crop=0.875)
    dataset = open_dataset(data, train=False)
    [batch] = eval_batches(dataset.val, data, (side, side), 3, batch_size=1000)
    return batch


def logits_of(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)


def assert_predictions(result, logits: torch.Tensor, targets: torch.Tensor) -> None:
    """Fail unless classes, confidence, accuracy and loss are those of these logits."""
    kept = pd.read_parquet(result.where / "predictions.parquet")
    assert list(kept.label) == targets.tolist()
    assert list(kept.top1) == logits.argmax(1).tolist()
    confidence = torch.tensor(kept.confidence.to_numpy())
    assert (confidence - logits.softmax(1).amax(1)).abs().max() < 1e-5
    assert result.row.accuracy == (logits.argmax(1) == targets).double().mean().item()
    assert result.row.loss == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-5)


WEIGHTFORMER = ["model.embed_dim=16", "model.depth=3", "model.num_heads=2", "model.patch_size=8", "model.image_size=32"]
WEIGHTFORMER += ["compute.precision=float32", "data.workers=0"]


@pytest.fixture
def released(tmp_path) -> Path:
    """A WeightFormer of eight classes under its release's names."""
    image_folder(tmp_path / "images", "val", CLASSES, 6, 40)
    (tmp_path / "weights").mkdir()
    save_file(models.to_released(small_weightformer()), tmp_path / "weights" / "wf.safetensors")
    return tmp_path / "weights" / "wf.safetensors"


def small_weightformer():
    torch.manual_seed(1)
    options = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
    return scrambled(models.create("weightformer-tiny", None, 32, len(CLASSES), **options), 0.1)


@pytest.mark.parametrize("side", [32, 48])
def test_weights_under_the_names_of_the_weightformer_release(side, released, tmp_path):
    settings = (*WEIGHTFORMER, f"data.path={tmp_path / 'images'}")
    assert any("linear1" in name for name in load_file(released)), "our own names would not test the translation"
    [result] = evaluate(released, recipe="imagenet-weightformer", overrides=settings, resolutions=(side,))
    images, targets = held_out(tmp_path / "images", side)
    model = small_weightformer()
    assert_predictions(result, logits_of(model, images), targets)
    row = result.row
    assert (row.weights, row.recipe, row.seed, row.samples) == ("file", None, None, 48)
    assert (row.trained_size, row.image_size, row.eval_resize, row.eval_crop) == ((32, 32), (side, side), "squash", 0.875)
    assert (row.mean, row.std) == IMAGENET
    assert result.where.name.startswith(f"wf-{side}-")


DEIT = ["model.embed_dim=64", "model.depth=2", "model.patch_size=8", "model.class_token=true", "model.pool=token"]
DEIT += ["model.pos_embed=true", "compute.precision=float32", "data.workers=0"]


def small_deit(**options):
    torch.manual_seed(2)
    sizes = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": len(CLASSES)}
    return scrambled(timm.create_model("deit_tiny_patch16_224", **(sizes | {"img_size": 32} | options)), 0.1)


@pytest.fixture
def deit(tmp_path) -> Path:
    """A DeiT of eight classes under timm's names."""
    image_folder(tmp_path / "images", "val", CLASSES, 6, 40)
    save_file(small_deit().state_dict(), tmp_path / "deit.safetensors")
    return tmp_path / "deit.safetensors"


@pytest.mark.parametrize(
    ("built", "side"), [(32, 32), (32, 48), (48, 48)], ids=["its own", "interpolated for the images", "interpolated at loading"]
)
def test_weights_under_timm_s_names_for_deit(built, side, deit, tmp_path):
    settings = (*DEIT, f"model.image_size={built}", f"data.path={tmp_path / 'images'}", "data.eval_resize=squash")
    [result] = evaluate(deit, recipe="imagenet-deit", overrides=settings, resolutions=(side,))
    images, targets = held_out(tmp_path / "images", side)
    theirs = small_deit(dynamic_img_size=True)  # timm interpolates the position for the images
    if built != 32:  # timm interpolates it at loading
        theirs = small_deit(img_size=built)
        state = timm.models.vision_transformer.checkpoint_filter_fn(load_file(deit), theirs)
        theirs.load_state_dict(state)
    logits = logits_of(theirs, images)
    assert_predictions(result, logits, targets)
    assert logits.argmax(1).unique().numel() > 1
    other = logits_of(small_deit(dynamic_img_size=True, class_token=True, global_pool="avg"), images)
    assert (other - logits).abs().max() > 1e-2, "another pool would not be seen"


def test_both_ways_to_resize_and_both_normalisations_are_different_evaluations(deit, tmp_path):
    settings = [*DEIT, "model.image_size=32", f"data.path={tmp_path / 'images'}"]
    other = ["data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"]
    results = [
        evaluate(deit, recipe="imagenet-deit", overrides=(*settings, *more))[0]
        for more in ([], ["data.eval_resize=squash"], other)
    ]
    assert [result.row.eval_resize for result in results] == ["shorter", "squash", "shorter"]
    assert len({result.row.loss for result in results}) == 3
    assert len({result.where for result in results}) == 3
    images, targets = held_out(tmp_path / "images", 32, ((0.5,) * 3, (0.5,) * 3))
    assert results[2].row.loss != pytest.approx(F.cross_entropy(logits_of(small_deit(), images), targets).item(), abs=1e-4)
    [squashed] = evaluate(deit, recipe="imagenet-deit", overrides=(*settings, *other, "data.eval_resize=squash"))
    assert squashed.row.loss == pytest.approx(F.cross_entropy(logits_of(small_deit(), images), targets).item(), abs=1e-5)


# Other labels, and images to evaluate on alone


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("part", ["val", "."])
def test_images_to_evaluate_on_alone_need_no_training_images(part, deit, tmp_path):
    root = image_folder(tmp_path / "alone", part, CLASSES, 3, 40, seed=5)
    [result] = evaluate(deit, recipe="imagenet-deit", overrides=(*DEIT, "model.image_size=32", f"data.path={root}"))
    assert result.row.dataset == "folder alone (24 held out)"
    assert result.row.samples == 24


@pytest.mark.parametrize("classes", [(1, 3), (6, 0, 2, 7, 4, 3, 1)])
def test_a_mapping_by_class_folder_restricts_what_the_model_chooses_among(classes, deit, tmp_path):
    """As for ImageNet-A and -R, whose folders are some of ImageNet's classes, under other names here."""
    names = [f"folder{k}" for k in range(len(classes))]
    root = image_folder(tmp_path / "some", ".", names, 10, 40, seed=3)
    mapping = write_json(tmp_path / "some.json", dict(zip(names, classes, strict=True)) | {"not there": 5})
    settings = (*DEIT, "model.image_size=32", "data.eval_resize=squash", f"data.path={root}")
    [result] = evaluate(deit, recipe="imagenet-deit", overrides=settings, mapping=mapping)
    images, folders = held_out(root, 32)
    targets = torch.tensor(classes)[folders]
    chosen = torch.tensor(sorted(classes))
    logits = logits_of(small_deit(), images)
    row = result.row
    assert row.accuracy == (chosen[logits[:, chosen].argmax(1)] == targets).double().mean().item()
    assert row.accuracy != (logits.argmax(1) == targets).double().mean().item(), "free choice would not be seen"
    restricted = torch.full_like(logits, -torch.inf)
    restricted[:, chosen] = logits[:, chosen]
    assert row.loss == pytest.approx(F.cross_entropy(restricted, targets).item(), abs=1e-5)
    assert (row.samples, row.unlabelled, row.mapping) == (10 * len(classes), 0, "some.json")
    kept = pd.read_parquet(result.where / "predictions.parquet")
    tops = kept[[name for name in kept if name.startswith("top")]]
    assert set(tops.to_numpy().ravel()) <= set(classes), "a class that was ruled out is no prediction"
    if len(classes) <= 5:
        assert row.top5 is None
        assert "right_in_top5" not in pd.read_csv(result.where / "by_class.csv")
    else:
        five = chosen[logits[:, chosen].topk(5).indices]
        assert row.top5 == (five == targets[:, None]).any(1).double().mean().item()
    by_class = pd.read_csv(result.where / "by_class.csv")
    assert list(by_class["class"]) == sorted(classes)
    assert by_class.right.sum() / row.samples == row.accuracy


def test_a_mapping_by_file_name_may_hold_several_labels_or_none(deit, tmp_path):
    """As for ImageNet-ReaL: any of an image's labels is right, and an image without one is left out."""
    root = tmp_path / "images"
    images, _ = held_out(root, 32)
    names = [Path(p).name for p in sorted((root / "val").rglob("*.png"))]
    labels = {name: sorted({(k * 5) % 8, (k * 3 + 1) % 8}) if k % 6 else [] for k, name in enumerate(names)}
    mapping = write_json(tmp_path / "real.json", labels)
    settings = (*DEIT, "model.image_size=32", "data.eval_resize=squash", f"data.path={root}")
    [result] = evaluate(deit, recipe="imagenet-deit", overrides=settings, mapping=mapping)
    order = logits_of(small_deit(), images).argsort(1, descending=True)
    right = [[c in labels[name] for c in row] for name, row in zip(names, order[:, :5].tolist(), strict=True) if labels[name]]
    row = result.row
    assert (row.samples, row.unlabelled) == (40, 8)
    assert row.accuracy == pytest.approx(sum(r[0] for r in right) / 40, abs=1e-12)
    assert row.top5 == pytest.approx(sum(map(any, right)) / 40, abs=1e-12)
    first = [labels[name][0] == row[0] for name, row in zip(names, order.tolist(), strict=True) if labels[name]]
    assert sum(first) / 40 != row.accuracy, "counting the first label alone would not be seen"
    assert row.loss is None
    assert len(pd.read_parquet(result.where / "predictions.parquet")) == 40
    assert pd.read_csv(result.where / "by_class.csv").samples.sum() == 40


# What is refused


def no_ema(tmp_path: Path, a_run: Path) -> Path:
    text = (a_run / "config.yaml").read_text().replace("ema:\n  decay: 0.9\n  warmup: false\n", "ema: null\n")
    (a_run / "config.yaml").write_text(text)
    return a_run


def unfinished(tmp_path: Path, a_run: Path) -> Path:
    (a_run / "result.json").unlink()
    return a_run


def of_another_model(tmp_path: Path, a_run: Path) -> Path:
    tensors = load_file(a_run / "model.safetensors")
    del tensors["norm.weight"]
    save_file(tensors, a_run / "model.safetensors")
    return a_run


def pickled(tmp_path: Path) -> Path:
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"head.weight": [0.0]}))
    return tmp_path / "weights.pth"


def bound_to_its_grid(tmp_path: Path, a_run: Path) -> Path:
    recipe = recipes.load("digits", [*SMALL, "model.mixer=mlp-mixer"])
    jobs.train(recipe, tmp_path / "mlp", Silent(), device=CPU)
    return tmp_path / "mlp"


def in_the_way(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "eval"


def three_classes(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "three", "val", ["a", "b", "c"], 2)


def corrupt(tmp_path: Path) -> Path:
    root = image_folder(tmp_path / "bad", "val", list("0123456789"), 1)
    (root / "val" / "3" / "003.png").write_bytes(b"no image")
    return root


def test_what_changes_a_figure_makes_a_result_of_its_own(a_run, tmp_path):
    """Labels of one name, and settings that leave the size as it is: none is taken for another's repetition."""
    mappings = []
    for k in range(2):
        (tmp_path / str(k)).mkdir()
        mappings.append(write_json(tmp_path / str(k) / "real.json", {str(c): (c + k) % 10 for c in range(10)}))
    by_labels = [result.where for mapping in mappings for result in evaluate(a_run, mapping=mapping)]
    assert by_labels[0] != by_labels[1]
    assert all(where.name.startswith("raw-8-real-") for where in by_labels)
    evaluate(a_run)
    evaluate(a_run, overrides=("data.mean=[0.9]",))
    evaluate(a_run, overrides=("data.std=[0.9]",))
    for interpolation in ("bilinear", "bicubic"):
        evaluate(a_run, overrides=(f"data.interpolation={interpolation}", "data.eval_crop=0.5"))
    rows, _ = records.read(a_run / "eval" / "records.jsonl")
    found = resolutions(rows)
    assert len(rows) == len(found) == 7
    assert [result.repeats for result in found] == [0] * 7
    titles = [table.title for table in report.tables(rows) if table.kind == "resolution"]
    assert len(set(titles)) == 7
    assert sum("bilinear" in title for title in titles) == 1
    assert sum("mean 0.9" in title for title in titles) == 1


def mapped(content: object):
    def words(tmp_path: Path, a_run: Path) -> list[object]:
        root = image_folder(tmp_path / "map", "val", ["a", "b"], 1)
        file = tmp_path / "map.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return [a_run, "--data", root, "--mapping", file]

    return words


BAD = {
    "no such path": (lambda t, r: [t / "nowhere"], ["no such run or weights", "nowhere"]),
    "no such path, with data": (lambda t, r: [t / "nowhere", "--data", "digits"], ["no such run or weights"]),
    "a directory that is no run": (lambda t, r: [t], ["not a run directory", "config.yaml"]),
    "an unfinished run": (lambda t, r: [unfinished(t, r)], ["not finished", "--resume --out"]),
    "a recipe for a run": (lambda t, r: [r, "--recipe", "digits"], ["a recipe of its own", "leave --recipe out"]),
    "weights without a recipe": (lambda t, r: [r / "model.safetensors"], ["do not say their model", "--recipe"]),
    "unknown weights": (lambda t, r: [r, "--weights", "best"], ["--weights best", "raw or ema"]),
    "no averaged weights": (lambda t, r: [no_ema(t, r), "--weights", "ema"], ["no averaged weights", "--weights raw"]),
    "another model for a run": (lambda t, r: [r, "--mixer", "linear"], ["only its data", "model.mixer"]),
    "an unknown setting": (lambda t, r: [r, "--set", "data.eval_resise=shorter"], ["eval_resise", "did you mean eval_resize"]),
    "weights of another model": (lambda t, r: [of_another_model(t, r)], ["weights of another model", "missing norm.weight"]),
    "a pickle": (lambda t, r: [pickled(t), "--recipe", "digits"], ["cannot read the weights", "nothing is unpickled"]),
    "other classes": (lambda t, r: [r, "--data", three_classes(t)], ["3 (a, b, c)", "10 (0, 1,", "--mapping"]),
    "no such data": (lambda t, r: [r, "--data", t / "none"], ["not a folder", "none"]),
    "a corrupt image": (lambda t, r: [r, "--data", corrupt(t)], ["an image cannot be read", "003.png"]),
    "a resolution that no patch divides": (lambda t, r: [r, "--resolution", 8, "--resolution", 9], ["9 px", "multiple of 2"]),
    "a negative resolution": (lambda t, r: [r, "--resolution", -8], ["-8 px", "multiple of 2"]),
    "another grid": (lambda t, r: [bound_to_its_grid(t, r), "--resolution", 8, "--resolution", 12], ["4x4", "6x6"]),
    "an unwritable place": (lambda t, r: [r, "--out", in_the_way(t)], ["cannot write", "another --out"]),
    "an unknown device": (lambda t, r: [r, "--device", "tpu"], ["'tpu'", "auto, cpu or cuda"]),
    "no mapping": (lambda t, r: [r, "--mapping", t / "no.json"], ["cannot read the mapping", "no.json"]),
    "a mapping that is no JSON": (mapped("a: 1"), ["cannot read the mapping", "a JSON object"]),
    "a mapping that is a list": (mapped([1, 2]), ["cannot read the mapping", "a JSON object"]),
    "a class that is not there": (mapped({"a": 0, "b": 10}), ["a class that the model has not", "b", "0 to 9"]),
    "a class that is no number": (mapped({"a": 0, "b": "one"}), ["a class that the model has not", "one", "0 to 9"]),
    "a class that is true": (mapped({"a": True, "b": False}), ["a class that the model has not", "True", "0 to 9"]),
    "a key that stands twice": (mapped('{"a": 0, "b": 1, "a": 2}'), ["cannot read the mapping", "'a' stands twice"]),
    "a mapping without a class": (mapped({"a": 0}), ["does not name every image", "000.png (2 of 2 images)"]),
    "a mapping of nothing": (mapped({"a": [], "b": []}), ["leaves no image"]),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_message_exit_code_2_and_nothing_is_written(case, a_run, tmp_path):
    make, expected = BAD[case]
    arguments = make(tmp_path, a_run)
    before = listing(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.output.count("error:") == 1
    for text in expected:
        assert text in result.output, result.output
    assert listing(tmp_path) == before


def test_the_command_line_evaluates_a_file_at_several_resolutions_and_says_how(deit, tmp_path):
    arguments = [deit, "--recipe", "imagenet-deit", "--data", tmp_path / "images", *words([*DEIT, "model.image_size=32"])]
    result = run(*arguments, "--resolution", 32, "--resolution", 48, "--out", tmp_path / "here")
    assert result.exit_code == 0, result.output
    assert "softmax (file weights) at 32x32" in result.output
    assert "at 48x48" in result.output
    assert "mean [0.485, 0.456, 0.406]" in result.output
    assert len((tmp_path / "here" / "records.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "eval").exists()
    assert len(list((tmp_path / "here").glob("deit-*/by_class.csv"))) == 2
    assert Image.open(next((tmp_path / "images").rglob("*.png"))).size == (44, 40), "the images are not square"
