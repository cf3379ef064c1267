"""Who a number belongs to: digests of code and data in rows, run directories and weights, and what is refused by them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import Silent, image_folder
from safetensors import safe_open
from safetensors.torch import save_file
from test_data import write_cifar10, write_fashion, write_huggingface, write_tar, write_webdataset
from test_latents import Pictures
from typer.testing import CliRunner

import mixers
from wfbench import models, records
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.data import Dataset, Latents, LatentSplit, listing, open_dataset
from wfbench.data.codecs import PixelCodec
from wfbench.data.latents import Extraction, open_latents
from wfbench.data.listing import Listing
from wfbench.data.splits import Subset
from wfbench.errors import InputError
from wfbench.records import DenoisingRow, DiTRow, EvalRow, ScoreRow, TrainRow, TrialRow
from wfbench.records.identity import class_files, digest_files
from wfbench.tasks import jobs
from wfbench.tasks.evaluate_denoiser import evaluate_denoiser
from wfbench.tasks.evaluate_weights import EvalRequest, evaluate_weights
from wfbench.tasks.identity import changes, identify, mixer_digest, read_identity, read_listing
from wfbench.tasks.run_directory import check_directory
from wfbench.tasks.sweep import Dispatch, load_request, sweep
from wfbench.tasks.weights import read_metadata

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SMALL = ["model.embed_dim=8", "model.depth=2", "model.num_heads=2", "optim.warmup_epochs=0", "batch_size=8"]
DIGITS = [*SMALL, "data.limit=40"]
IMAGES = [*SMALL, "data.source=folder", "model.in_channels=3", "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"]
CLASSES = ("cat", "dog")
MIXER = """
from torch import nn

class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.inner = nn.Linear(dim, dim)

    def forward(self, x, grid):
        return FACTOR * self.inner(x)
"""


class Killed(BaseException):
    pass


class Killer(Silent):
    """Kills the run after its first epoch, whose checkpoint is written."""

    def epoch(self, row: dict[str, object]) -> None:
        raise Killed


def write_mixer(folder: Path, factor: str = "0.5") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_mixer.py").write_text(MIXER.replace("FACTOR", factor))
    return f"{folder / 'my_mixer.py'}:Scale"


def recipe_of(*more: str, mixer: str | None = None, images: Path | None = None, epochs: int = 1) -> recipes.Recipe:
    own = [] if mixer is None else [f"model.mixer={json.dumps(mixer)}"]
    own += [] if images is None else [f"data.path={json.dumps(str(images))}"]
    return recipes.load("digits", [*(DIGITS if images is None else IMAGES), f"epochs={epochs}", *own, *more])


def half_a_run(recipe: recipes.Recipe, out: Path) -> Path:
    with pytest.raises(Killed):
        jobs.train(recipe, out, Killer(), device=CPU)
    assert not (out / "result.json").exists()
    return out


def cli(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def opened(root: Path, source: str = "folder", *more: str) -> Dataset:
    return open_dataset(recipes.load("digits", [f"data.source={source}", f"data.path={json.dumps(str(root))}", *more]).data)


def folder(root: Path, seed: int = 0, each: int = 6) -> Path:
    for part in ("train", "val"):
        image_folder(root, part, CLASSES, each, seed=seed)
    return root


# --- code


def test_an_edited_mixer_has_another_digest_and_an_untouched_or_moved_one_the_same(tmp_path: Path) -> None:
    first = mixer_digest(write_mixer(tmp_path / "a"))
    assert first == mixer_digest(write_mixer(tmp_path / "elsewhere" / "b"))
    assert first == mixer_digest(write_mixer(tmp_path / "a")), "written again as it was"
    assert first != mixer_digest(write_mixer(tmp_path / "a", "0.7"))
    assert first == mixer_digest(write_mixer(tmp_path / "a"))


def test_an_edited_mixer_runs_as_it_was_edited(tmp_path: Path) -> None:
    """Within a second, and of the same length: neither a cache of modules nor one of bytecode gives the old one."""
    outputs = []
    for factor in ("0.5", "0.7", "0.5"):
        torch.manual_seed(0)
        outputs.append(mixers.create(write_mixer(tmp_path, factor), 4)(torch.ones(1, 4, 4), (2, 2)))
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


def test_a_mixer_edited_between_two_seeds_gives_rows_of_two_owners(tmp_path: Path) -> None:
    rows = []
    for seed, factor in enumerate(("0.5", "0.7", "0.5")):
        recipe = recipe_of(f"seed={seed}", mixer=write_mixer(tmp_path, factor))
        rows.append(jobs.train(recipe, tmp_path / f"s{seed}", Silent(), device=CPU))
    assert len({row.recipe_digest for row in rows}) == len({row.mixer for row in rows}) == 1
    assert rows[0].mixer_digest == rows[2].mixer_digest != rows[1].mixer_digest
    assert len({(row.model_digest, row.data_digest) for row in rows}) == 1
    assert None not in (rows[0].mixer_digest, rows[0].model_digest, rows[0].data_digest)
    assert rows[0].code_changed is None


def test_modules_beside_a_mixers_file_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "factor_of_my_mixer.py").write_text("FACTOR = 0.5\n")
    (tmp_path / "not_imported.py").write_text("FACTOR = 0.5\n")
    (tmp_path / "my_mixer.py").write_text("from factor_of_my_mixer import FACTOR\n" + MIXER)
    name = f"{tmp_path / 'my_mixer.py'}:Scale"
    before = mixer_digest(name)
    (tmp_path / "not_imported.py").write_text("FACTOR = 0.7\n")
    assert mixer_digest(name) == before
    (tmp_path / "factor_of_my_mixer.py").write_text("FACTOR = 0.7\n")
    assert mixer_digest(name) != before


def test_of_a_registered_mixer_its_layers_and_what_they_import_count() -> None:
    core = {f"mixers/{name}.py" for name in ("base", "registry", "outside", "options")}
    softmax = set(class_files(mixers.layers("softmax"), ("mixers",)))
    assert softmax == {"mixers/softmax.py", *core}
    found = set(class_files(mixers.layers("weightformer"), ("mixers",)))
    package = {f"mixers/weightformer/{file.name}" for file in (ROOT / "mixers" / "weightformer").glob("*.py")}
    assert found == package | {"mixers/static.py", *core}, "its inactive layers are static's"
    digests = {name: mixer_digest(name) for name in ("softmax", "linear", "static", "weightformer")}
    assert len(set(digests.values())) == 4


def test_a_digest_of_code_is_of_names_and_text_and_not_of_line_ends(tmp_path: Path) -> None:
    for name, text in {"a": b"x = 1\ny = 2\n", "b": b"x = 1\r\ny = 2\r\n", "c": b"x = 1\ny = 3\n"}.items():
        (tmp_path / name).write_bytes(text)
    assert digest_files({"m": tmp_path / "a"}) == digest_files({"m": tmp_path / "b"})
    assert digest_files({"m": tmp_path / "a"}) != digest_files({"m": tmp_path / "c"})
    assert digest_files({"m": tmp_path / "a"}) != digest_files({"n": tmp_path / "a"})
    split = {"m": tmp_path / "a", "n": tmp_path / "c"}
    assert digest_files(split) != digest_files({"m": tmp_path / "c", "n": tmp_path / "a"})


@pytest.mark.slow
def test_digests_do_not_depend_on_where_the_checkout_lies(tmp_path: Path) -> None:
    code = "from wfbench.tasks.identity import *; print(*map(mixer_digest, ['softmax', 'weightformer']), model_digest())"
    for name in ("wfbench", "mixers"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "mixers" / "softmax.py").open("a") as file:
        file.write("# edited\n")
    found = []
    for place in (ROOT, tmp_path):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0][1:] == found[1][1:]
    assert found[0][0] != found[1][0], "and an edit is seen there"


# --- data


def test_two_folders_of_one_name_and_as_many_images_are_two_data_sets(tmp_path: Path) -> None:
    one, other = opened(folder(tmp_path / "a" / "pets")), opened(folder(tmp_path / "b" / "pets", seed=1))
    assert one.name == other.name
    assert one.listing.digest != other.listing.digest


def test_a_folder_that_was_moved_is_the_same_data(tmp_path: Path) -> None:
    before = opened(folder(tmp_path / "pets")).listing.digest
    shutil.copytree(tmp_path / "pets", tmp_path / "far" / "away" / "animals")
    assert opened(tmp_path / "far" / "away" / "animals").listing.digest == before


def test_of_a_large_folder_few_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SAMPLE", 3)
    data, read, reads = opened(folder(tmp_path / "pets")), [], listing._hash
    monkeypatch.setattr(listing, "_hash", lambda path: read.append(path) or reads(path))
    before = data.listing
    assert len(read) == 6, "3 of each split"
    assert len(before.parts["train"]) == 12
    (tmp_path / "pets" / "train" / "cat" / "000.png").unlink()
    more = before.differences(opened(tmp_path / "pets").listing)
    assert more == ["train: 12 entries then, 11 now; missing cat/000.png"], "though another one may be among the 3 now"


def test_an_image_that_cannot_be_read_has_a_size(tmp_path: Path) -> None:
    """A pipe would let the reader wait for ever; whether such an image may be is for training to say."""
    root = folder(tmp_path / "pets")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    names = [path.relative_to(root) for path in (root / "train").rglob("*.png")]
    entries = dict(listing.image_entries(names, root))
    assert entries["train/cat/pipe.png"] == "0 bytes, SHA-256 no file"


@pytest.mark.parametrize("change", ["removed", "added", "renamed", "resized", "rewritten", "another class", "other classes"])
def test_a_change_of_a_folder_is_another_data_set_and_is_named(change: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    before = opened(root).listing
    image = root / "train" / "cat" / "000.png"
    match change:
        case "removed":
            image.unlink()
        case "added":
            shutil.copy(image, image.with_name("new.png"))
        case "renamed":
            image.rename(image.with_name("new.png"))
        case "resized":
            image.write_bytes(image.read_bytes() + b"\0")
        case "rewritten":  # at the same size
            image.write_bytes(image.read_bytes()[:-1] + b"\0")
        case "another class":
            image.rename(root / "train" / "dog" / "000.png")
        case "other classes":
            for part in ("train", "val"):
                (root / part / "cat").rename(root / part / "lynx")
    after = opened(root).listing
    assert after.digest != before.digest
    words = "; ".join(before.differences(after))
    expected = {
        "removed": ["12 entries then, 11 now", "missing cat/000.png"],
        "added": ["12 entries then, 13 now", "new cat/new.png"],
        "renamed": ["missing cat/000.png", "new cat/new.png"],
        "resized": ["changed cat/000.png (then 1528 bytes", "now 1529 bytes"],
        "rewritten": ["changed cat/000.png (then 1528 bytes", "now 1528 bytes"],
        "another class": ["missing cat/000.png", "new dog/000.png"],
        "other classes": ["2 classes then, 2 now: cat, lynx in one only"],
    }
    assert all(part in words for part in expected[change]), words
    assert "val" not in words or change == "other classes"


@pytest.mark.parametrize(
    ("setting", "source"),
    [
        ("data.limit=4", "folder"),
        ("data.validation=0.5", "folder"),
        ("data.split_seed=1", "digits"),
        ("data.holdout=0.3", "digits"),
    ],
)
def test_another_split_is_another_data_set(setting: str, source: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "pets") if source == "folder" else tmp_path
    digests = [opened(path, source, *more).listing.digest for more in ([], [setting], [setting])]
    assert digests[0] != digests[1] == digests[2]


def test_another_draw_of_a_subset_is_another_data_set(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    digests = {opened(root, "folder", "data.limit=4", f"data.split_seed={seed}").listing.digest for seed in range(4)}
    assert len(digests) > 1


@pytest.mark.parametrize(
    ("source", "write", "file", "at"),
    [
        ("tar", write_tar, "train.tar", 700),
        ("webdataset", write_webdataset, "val-0001.tar", 5000),
        ("cifar10", write_cifar10, "test_batch.bin", 100),
        ("fashion", write_fashion, "train-images-idx3-ubyte", 100),
        ("huggingface", write_huggingface, "train-00000-of-00001.parquet", None),
    ],
)
def test_archives_arrays_and_tables_are_known_by_their_content(source, write, file, at, tmp_path: Path) -> None:
    """A byte that is changed, at the same size, is seen; another place is not."""
    (tmp_path / "a").mkdir()
    write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "other name")
    first = opened(tmp_path / "a", source).listing
    assert opened(tmp_path / "b" / "other name", source).listing.digest == first.digest
    if at is None:  # a table: another one of the same images
        content = (tmp_path / "b" / "other name" / "validation-00000-of-00001.parquet").read_bytes()
        (tmp_path / "b" / "other name" / "extra.parquet").write_bytes(content)
    else:
        target = tmp_path / "b" / "other name" / file
        content = bytearray(target.read_bytes())
        content[at] ^= 1
        target.write_bytes(content)
    assert opened(tmp_path / "b" / "other name", source).listing.digest != first.digest


def test_of_a_large_archive_blocks_are_read_and_the_size_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LARGE", 1000)
    monkeypatch.setattr(listing, "BLOCK", 10)
    content = bytearray(bytes(range(250)) * 8)

    def entry(changed: int | None, more: bytes = b"") -> tuple[str, str]:
        held = bytearray(content)
        if changed is not None:
            held[changed] ^= 1
        path = tmp_path / f"{changed}{len(more)}" / "train.tar"
        path.parent.mkdir()
        path.write_bytes(held + more)
        return listing.hash_entries([path], path.parent)[0]

    whole = entry(None)
    assert whole[0] == "train.tar"
    assert len({whole, entry(0), entry(1999), entry(None, b"\0")}) == 4, "the first byte, the last, and the size"
    assert entry(50) == whole, "between the blocks: a large archive is not read through"


def test_latents_are_known_by_their_manifests(tmp_path: Path) -> None:
    def latents(name: str, count: int = 6) -> Latents:
        split = Pictures(count)
        out = tmp_path / name
        Extraction(split, "pictures", PixelCodec(3), image_size=8, shard_size=4, batch=3).run(out)
        return Latents(name, ("0", "1", "2"), LatentSplit(out), LatentSplit(out))

    assert latents("a").listing.digest == latents("b").listing.digest != latents("c", 7).listing.digest


def test_latents_have_the_classes_of_their_images_by_name(tmp_path: Path) -> None:
    def extracted(part: str, classes: tuple[str, ...], place: Path, names: bool = True) -> None:
        images = tmp_path / f"images-{'-'.join(classes)}"
        if not images.exists():
            for each in ("train", "val"):
                image_folder(images, each, list(classes), 2)
        found = opened(images)
        codec = PixelCodec(3)
        of = found.classes if names else ()
        Extraction(getattr(found, part), f"x, {part}", codec, image_size=8, classes=of).run(place / part)

    same, other, old = tmp_path / "same", tmp_path / "other", tmp_path / "old"
    extracted("train", ("cat", "dog"), same)
    extracted("val", ("cat", "dog"), same)
    assert open_latents(same).classes == ("cat", "dog")
    manifest = json.loads((same / "val/manifest.json").read_text())
    (same / "val/manifest.json").write_text(json.dumps(manifest | {"classes": ["dog", "cat"]}))
    assert open_latents(same).val.targets == (1, 1, 0, 0), "the training split's order counts"
    extracted("train", ("cat", "dog"), other)
    extracted("val", ("ant", "cat"), other)
    with pytest.raises(InputError, match=r"different classes\n.*in one only: ant, dog"):
        open_latents(other)
    extracted("train", ("cat", "dog"), old, names=False)
    extracted("val", ("ant", "cat"), old, names=False)
    assert open_latents(old).classes == ("0", "1")


def test_latents_without_an_image_of_a_class_are_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", "train", ["a", "b", "c"], 1)
    image_folder(tmp_path / "images", "val", ["a", "b", "c"], 1)
    found = opened(tmp_path / "images")
    for names in ((), found.classes):
        place = tmp_path / f"latents-{len(names)}"
        for part, split in (("train", Subset(found.train, (0, 2))), ("val", found.val)):
            Extraction(split, f"x, {part}", PixelCodec(3), image_size=8, classes=names).run(place / part)
        with pytest.raises(InputError, match=r"no latents for a class\n.*none in train of [b1] \(1 of 3"):
            open_latents(place)


def test_a_listing_comes_back_from_its_text() -> None:
    written = Listing(("ä", "b"), {"train": (("x/1.png", "3 bytes"),), "val": ()})
    back = Listing.loads(written.dumps())
    assert back == written
    assert back.digest == written.digest
    assert not written.differences(back)
    with pytest.raises(ValueError):
        Listing.loads('{"classes": 3}')


# --- resume


def test_a_resume_with_an_edited_mixer_is_refused_or_noted(tmp_path: Path) -> None:
    name = write_mixer(tmp_path)
    out = half_a_run(recipe_of(mixer=name, epochs=2), tmp_path / "run")
    first = mixer_digest(name)
    write_mixer(tmp_path, "0.7")
    second = mixer_digest(name)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    said = cli("train", "--resume", "--out", out, "--device", "cpu", code=2)
    assert all(part in said.replace("\n", " ") for part in ("other code", f"mixer code {first} then, {second} now"))
    assert "--allow-changed-code" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before, "nothing was written"
    assert "other code" in cli("train", "--resume", "--dry-run", "--out", out, code=2)
    cli("train", "--resume", "--dry-run", "--allow-changed-code", "--out", out)
    said = cli("train", "--resume", "--allow-changed-code", "--out", out, "--device", "cpu")
    assert "resumed with other code" in said
    [row] = records.read(out / "records.jsonl")[0]
    assert row.code_changed == f"mixer code {first} then, {second} now"
    assert row.mixer_digest == f"{first}+{second}", "it is averaged with runs of neither"
    assert read_metadata(out / "model.safetensors").mixer_digest == row.mixer_digest


def test_code_that_was_allowed_once_is_the_runs_own(tmp_path: Path) -> None:
    name = write_mixer(tmp_path)
    out = half_a_run(recipe_of(mixer=name, epochs=3), tmp_path / "run")
    digests = [mixer_digest(name)]
    recipe = recipe_of(mixer=write_mixer(tmp_path, "0.7"), epochs=3)
    digests.append(mixer_digest(name))
    with pytest.raises(Killed):
        jobs.train(recipe, out, Killer(), device=CPU, resume=True, allow_changed_code=True)
    row = jobs.train(recipe, out, Silent(), device=CPU, resume=True)
    assert row.mixer_digest == "+".join(map(str, digests))
    assert row.code_changed == f"mixer code {digests[0]} then, {digests[1]} now"


def test_a_resume_with_other_model_code_is_refused(tmp_path: Path) -> None:
    out = half_a_run(recipe_of(epochs=2), tmp_path / "run")
    found = json.loads((out / "identity.json").read_text())
    (out / "identity.json").write_text(json.dumps(found | {"model_digest": "0" * 12}))
    assert "model code 000000000000 then" in cli("train", "--resume", "--out", out, code=2).replace("\n", " ")


def test_a_resume_from_other_initial_weights_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    recipe = recipe_of(f"model.init_weights={weights}", epochs=2)

    def write(seed: int) -> None:
        section = recipe.model
        save_file(models.create(section.name, section.mixer, 8, 10, seed=seed, **section.overrides()).state_dict(), weights)

    write(1)
    out = half_a_run(recipe, tmp_path / "run")
    write(2)
    said = cli("train", "--resume", "--out", out, "--device", "cpu", code=2).replace("\n", " ")
    assert "begun from other initial weights" in said
    write(1)
    cli("train", "--resume", "--out", out, "--device", "cpu")
    [row] = records.read(out / "records.jsonl")[0]
    assert row.pretraining == json.loads((out / "identity.json").read_text())["pretraining"]
    assert row.pretraining.startswith("w.safetensors ")


def test_how_often_a_run_is_evaluated_may_change_unless_that_decides_when_it_ends(tmp_path: Path) -> None:
    for k, (settings, is_free) in enumerate([([], True), (["stop_when_solved=2"], False)]):
        recipe = recipes.load("probe-majority", settings if settings else ["stop_when_solved=null"])
        out = tmp_path / str(k)
        out.mkdir()
        (out / "config.yaml").write_text(recipes.dump(recipe))
        changed = recipes.override(recipe, [f"eval_every={recipe.eval_every + 1}"])
        if is_free:
            check_directory(changed, out, resume=True)
        else:
            with pytest.raises(InputError, match=r"another recipe\n.*eval_every"):
                check_directory(changed, out, resume=True)


def test_untouched_code_and_moved_data_are_resumed(tmp_path: Path) -> None:
    images = folder(tmp_path / "pets")
    out = half_a_run(recipe_of(images=images, epochs=2), tmp_path / "run")
    images.rename(tmp_path / "animals")
    said = cli("train", "--resume", "--out", out, "--data", tmp_path / "animals", "--device", "cpu")
    assert "other code" not in said
    [row] = records.read(out / "records.jsonl")[0]
    assert row.code_changed is None


@pytest.mark.sampled(4)
@pytest.mark.parametrize("change", ["removed", "added"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_resume_onto_other_data_is_refused_and_names_what_differs(change: str, part: str, tmp_path: Path) -> None:
    """One image fewer than a whole number of batches: steps and classes stay, and only the order would be another."""
    images = folder(tmp_path / "pets")
    out = half_a_run(recipe_of(images=images, epochs=2), tmp_path / "run")
    image = images / part / "dog" / "001.png"
    if change == "removed":
        image.unlink()
    else:
        shutil.copy(image, image.with_name("extra.png"))
    for more in ((), ("--allow-changed-code",)):
        said = " ".join(cli("train", "--resume", "--out", out, *more, code=2).split())
        assert "other data" in said
        assert {"removed": "missing dog/001.png", "added": "new dog/extra.png"}[change] in said
        assert f"{part}: 12 entries then" in said


def test_a_run_of_an_earlier_version_goes_on_without_digests(tmp_path: Path) -> None:
    out = half_a_run(recipe_of(mixer=write_mixer(tmp_path), epochs=2), tmp_path / "run")
    for name in ("identity.json", "data.json.gz"):
        (out / name).unlink()
    row = jobs.train(recipe_of(mixer=write_mixer(tmp_path, "0.7"), epochs=2), out, Silent(), device=CPU, resume=True)
    assert (row.mixer_digest, row.model_digest, row.data_digest, row.code_changed) == (None,) * 4
    assert not (out / "identity.json").exists(), "nobody knows what it was begun with"
    [result] = evaluate_weights(EvalRequest(out), device=CPU)
    assert result.same
    assert not result.notes


def test_a_flag_for_a_resume_is_refused_without_one(tmp_path: Path) -> None:
    assert "for a resume" in cli("train", "--allow-changed-code", "--out", tmp_path / "run", code=2)


def test_a_damaged_listing_is_one_message(tmp_path: Path) -> None:
    out = half_a_run(recipe_of(epochs=2), tmp_path / "run")
    content = bytearray((out / "data.json.gz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (out / "data.json.gz").write_bytes(content)
    with pytest.raises(InputError, match="cannot read what a run was made with"):
        read_listing(out)


def test_a_damaged_identity_is_one_message(tmp_path: Path) -> None:
    out = half_a_run(recipe_of(epochs=2), tmp_path / "run")
    (out / "identity.json").write_bytes(b"\xff{")
    assert "cannot read what a run was made with" in cli("train", "--resume", "--out", out, code=2)


# --- weights and evaluation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with averaged weights on a folder, and the folder."""
    root = tmp_path_factory.mktemp("trained")
    images = folder(root / "pets")
    jobs.train(recipe_of("ema.decay=0.9", images=images), root / "run", Silent(), device=CPU)
    return root / "run", images


def test_weights_say_whose_they_are(trained: tuple[Path, Path]) -> None:
    run, images = trained
    rows = {row.weights: row for row in records.read(run / "records.jsonl")[0]}
    for weights, name in {"raw": "model.safetensors", "ema": "ema.safetensors"}.items():
        with safe_open(run / name, "pt") as file:
            plain = json.loads(file.metadata()["wfbench"])
        assert plain["classes"] == ["cat", "dog"]
        found, row = read_metadata(run / name), rows[weights]
        assert found.classes == CLASSES
        for key in ("mixer", "mixer_digest", "model_digest", "data_digest", "recipe", "recipe_digest", "seed"):
            assert getattr(found, key) == getattr(row, key) is not None, key
        assert row.data_digest == opened(images).listing.digest
    [best] = (run / "checkpoint").glob("best-*")
    assert read_metadata(best / "model.safetensors") == read_metadata(run / "model.safetensors")


def test_equal_runs_have_equal_files_of_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        jobs.train(recipe_of(), tmp_path / name, Silent(), device=CPU)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_weights_of_others_say_nothing(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors", {"format": "pt"})
    assert read_metadata(tmp_path / "w.safetensors") is None
    with pytest.raises(InputError, match="cannot read the weights"):
        read_metadata(tmp_path / "none.safetensors")


def test_an_evaluation_on_other_held_out_images_in_the_same_place_is_refused(trained, tmp_path: Path) -> None:
    run, images = (Path(shutil.copytree(path, tmp_path / path.name)) for path in trained)
    config = (run / "config.yaml").read_text().replace(str(trained[1]), str(images))
    (run / "config.yaml").write_text(config)
    [before] = evaluate_weights(EvalRequest(run), device=CPU)
    assert before.same
    assert before.row.data_digest == before.recorded.data_digest is not None
    assert before.row.mixer_digest == before.recorded.mixer_digest
    for seed in (1, 2):  # the same names and counts
        image_folder(images, "val", CLASSES, 6, seed=seed)
        said = " ".join(cli("eval", run, "--device", "cpu", code=2).split())
        assert "not those that the run was trained with" in said
        assert "val: 12 entries then, 12 now; changed cat/000.png" in said
    other = cli("eval", run, "--data", images, "--device", "cpu")
    assert "of 12 held-out samples" in other
    rows, _ = records.read(run / "eval" / "records.jsonl")
    assert rows[-1].data_digest not in (None, before.row.data_digest)


def test_other_training_images_are_a_note_of_an_evaluation(trained, tmp_path: Path) -> None:
    run, images = (Path(shutil.copytree(path, tmp_path / path.name)) for path in trained)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(trained[1]), str(images)))
    (images / "train" / "cat" / "000.png").unlink()
    [result] = evaluate_weights(EvalRequest(run), device=CPU)
    assert result.same
    assert any("training images" in note for note in result.notes)


def test_an_evaluation_by_other_code_says_so(tmp_path: Path) -> None:
    name = write_mixer(tmp_path)
    jobs.train(recipe_of(mixer=name), tmp_path / "run", Silent(), device=CPU)
    then = mixer_digest(name)
    write_mixer(tmp_path, "0.7")
    [result] = evaluate_weights(EvalRequest(tmp_path / "run"), device=CPU)
    assert result.notes == (f"evaluated with other code than the run's: mixer code {then} then, {mixer_digest(name)} now",)
    assert result.row.mixer_digest == mixer_digest(name)


def test_denoisers_have_owners_too(tmp_path: Path) -> None:
    small = ["model.embed_dim=16", "model.depth=1", "model.num_heads=2", "epochs=1", "optim.warmup_epochs=0"]
    few = ["diffusion.held_out_samples=8", "diffusion.held_out_bins=2"]
    row = jobs.train(recipes.load("dit-digits", [*small, *few]), tmp_path / "run", Silent(), device=CPU)
    assert isinstance(row, DiTRow)
    found = evaluate_denoiser(tmp_path / "run", "ema", device=CPU).row
    for key in ("mixer_digest", "model_digest", "data_digest"):
        assert getattr(row, key) == getattr(found, key) is not None
    assert read_metadata(tmp_path / "run" / "ema.safetensors").classes == tuple("0123456789")


# --- sweeps


def swept(mixer: str, out: Path, images: Path | None = None):
    settings = [*(DIGITS if images is None else IMAGES), "epochs=1"]
    data = {} if images is None else {"data": f"folder:{images}"}
    request = load_request(None, {"mixers": [mixer], "set": settings, **data})
    return sweep(request, out, Dispatch(1, 1, "cpu"), Heard())


class Heard:
    def say(self, line: str) -> None:
        pass

    def begin(self, runs, stands) -> None:
        self.stands = stands

    def changed(self, run, status) -> None:
        pass


@pytest.mark.slow
def test_a_sweep_does_not_take_runs_of_other_code_for_its_own(tmp_path: Path) -> None:
    name = write_mixer(tmp_path)
    [(run, status)] = swept(name, tmp_path / "sweep").items()
    assert status.state == "finished"
    assert swept(name, tmp_path / "sweep")[run].state == "finished", "untouched, it is left alone"
    write_mixer(tmp_path, "0.7")
    with pytest.raises(InputError, match=r"made with other code or data[\s\S]*mixer code \w{12} then, \w{12} now"):
        swept(name, tmp_path / "sweep")
    (tmp_path / "sweep" / run / "result.json").unlink()  # begun, and not finished
    with pytest.raises(InputError, match="made with other code or data"):
        swept(name, tmp_path / "sweep")


@pytest.mark.slow
def test_a_sweep_does_not_take_runs_of_other_data_for_its_own(tmp_path: Path) -> None:
    images = folder(tmp_path / "pets")
    swept("pool", tmp_path / "sweep", images)
    image_folder(images, "val", CLASSES, 6, seed=3)  # the same name and counts
    with pytest.raises(InputError, match=r"data \w{12} then, \w{12} now"):
        swept("pool", tmp_path / "sweep", images)


# --- rows


def test_rows_of_earlier_schemas_are_read_as_not_recorded() -> None:
    files = sorted((ROOT / "results" / "cifar10-strategies").rglob("records.jsonl"))
    rows = [row for file in files for row in records.read(file)[0] if isinstance(row, TrainRow)]
    assert len(rows) > 10
    old = [row for row in rows if row.schema_version < 6]
    assert old
    assert all((row.mixer_digest, row.model_digest, row.data_digest, row.code_changed) == (None,) * 4 for row in old)


@pytest.mark.parametrize("kind", [TrainRow, DiTRow, EvalRow, DenoisingRow, TrialRow, ScoreRow])
def test_every_row_about_trained_weights_can_say_whose_they_are(kind: type) -> None:
    assert {"mixer_digest", "model_digest", "data_digest"} <= set(kind.model_fields)


def test_what_was_not_recorded_is_not_compared() -> None:
    now = identify("softmax", open_dataset(recipes.load("digits").data))
    assert changes(now, now) == []
    assert changes(now.model_copy(update={"mixer_digest": None, "data_digest": None}), now) == []
    assert changes(now.model_copy(update={"data_digest": "0" * 12}), now) == [f"data {'0' * 12} then, {now.data_digest} now"]


def test_a_run_directory_says_whose_it_is_before_the_first_step(tmp_path: Path) -> None:
    class AtOnce(Silent):
        def step(self, *_: object) -> None:
            raise Killed

    with pytest.raises(Killed):
        jobs.train(recipe_of(), tmp_path / "run", AtOnce(), device=CPU)
    found = read_identity(tmp_path / "run")
    assert found == identify("softmax", open_dataset(recipe_of().data)).model_copy(update={"pretraining": "none"})
