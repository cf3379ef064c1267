"""Which files are data, which are passed over, and that classes are known by their names."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_data import encoded, noise, write_folder
from typer.testing import CliRunner

from wfbench import models
from wfbench import recipe as recipes
from wfbench.cli import app
from wfbench.data import open_dataset
from wfbench.data.splits import Names
from wfbench.data.what_counts import is_hidden
from wfbench.errors import InputError
from wfbench.recipe import DataSection
from wfbench.tasks.dry_run import dry_run

#: Twelve classes whose names sort otherwise as text than as numbers.
TWELVE = [str(c) for c in range(12)]


def opened(root: Path, source: str = "folder", **settings: object) -> object:
    return open_dataset(DataSection(source=source, path=str(root), **settings))


def striped(c: int, seed: int = 0) -> np.ndarray:
    """A picture whose first column tells its class."""
    image = np.random.default_rng((c, seed)).integers(0, 40, (16, 16, 3), dtype=np.uint8)
    image[:, c] = 255
    return image


def write_stripes(root: Path, names: list[str], each: int = 4) -> None:
    for part in ("train", "val"):
        for c, name in enumerate(names):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(each):
                (folder / f"{i}.png").write_bytes(encoded(striped(c, i + 100 * (part == "val"))))


def as_tar(root: Path, to: Path) -> None:
    to.mkdir()
    for part in ("train", "val"):
        with tarfile.open(to / f"{part}.tar", "w") as archive:
            for file in sorted((root / part).rglob("*.png")):
                archive.add(file, f"{file.parent.name}/{file.name}")


def as_shards(root: Path, to: Path, names: list[str], listed: bool = True) -> None:
    """Shards whose numbers follow ``names``."""
    to.mkdir()
    for part in ("train", "val"):
        with tarfile.open(to / f"{part}-0.tar", "w") as archive:
            for i, file in enumerate(sorted((root / part).rglob("*.png"))):
                for ending, content in (("png", file.read_bytes()), ("cls", str(names.index(file.parent.name)).encode())):
                    info = tarfile.TarInfo(f"{i:04}.{ending}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    if listed:
        (to / "classes.txt").write_text("\n".join(names) + "\n")


# --- what is no data


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (".ipynb_checkpoints/a.png", True),
        ("cat/.DS_Store", True),
        ("cat/._0.png", True),
        ("__MACOSX/cat/0.png", True),
        ("@eaDir", True),
        ("cat/lost+found/x.png", True),
        ("cat/0.png", False),
        ("./cat/0.png", False),
        ("../cat/0.png", False),
        ("cat.v2/0.1.png", False),
    ],
)
def test_hidden_things_and_leftovers_are_no_data(name: str, hidden: bool) -> None:
    assert is_hidden(name) == hidden


def test_hidden_things_make_no_class_and_no_sample_in_folders(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = opened(tmp_path)
    for place in (".ipynb_checkpoints", "__MACOSX/dark", "dark/.thumbnails", "dark/@eaDir"):
        (tmp_path / "train" / place).mkdir(parents=True)
        (tmp_path / "train" / place / "x.png").write_bytes(encoded(noise(1, 6, 6)[0]))
    (tmp_path / "val" / "light" / "._000.png").write_bytes(b"no picture")
    after = opened(tmp_path)
    assert after.classes == before.classes
    assert after.listing.digest == before.listing.digest


def test_hidden_things_make_no_class_and_no_sample_in_archives(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    write_stripes(root, ["cat", "dog"])
    as_tar(root, tmp_path / "tar")
    as_shards(root, tmp_path / "shards", ["cat", "dog"])
    for archive, name in (("tar/train.tar", "__MACOSX/zebra/._0.png"), ("shards/train-0.tar", "._0000.png")):
        with tarfile.open(tmp_path / archive, "a") as tar:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    for source, place in (("tar", "tar"), ("webdataset", "shards")):
        found = opened(tmp_path / place, source)
        assert (found.classes, len(found.train), found.passed_over) == (("cat", "dog"), 8, ())


def test_a_folder_is_read_in_the_order_of_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    write_stripes(tmp_path, TWELVE)
    for name in ("b/1.png", "a/2.JPG", "a.png/0.png", "z.txt"):
        file = tmp_path / "train" / "3" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(striped(3)))
    theirs, ours = ImageFolder(str(tmp_path / "train")), opened(tmp_path)
    assert list(ours.classes) == theirs.classes
    assert [(ours.train.label(i), c) for i, c in enumerate(ours.train.targets)] == theirs.samples


# --- what is passed over


def odd_folder(root: Path) -> list[str]:
    write_folder(root)
    names = ["train/loose.png", "train/dark/a.gif", "val/light/deep/b.HEIC"]
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(encoded(noise(1, 6, 6)[0]))
    (root / "train" / "dark" / "readme.txt").write_text("no picture")
    return sorted(str(root / name) for name in names)


def odd_tar(root: Path) -> list[str]:
    write_stripes(root / "plain", ["cat", "dog"])
    as_tar(root / "plain", root / "made")
    for file in (root / "made").iterdir():
        file.rename(root / file.name)
    with tarfile.open(root / "train.tar", "a") as tar:
        for name in ("cat/x.gif", "cat/note.txt"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return ["train.tar: cat/x.gif"]


def odd_shards(root: Path) -> list[str]:
    write_stripes(root / "plain", ["cat", "dog"])
    as_shards(root / "plain", root / "made", ["cat", "dog"])
    for file in (root / "made").iterdir():
        file.rename(root / file.name)
    with tarfile.open(root / "train-0.tar", "a") as tar:
        for name in ("x.v2.png", "x.v2.cls", "0000.json", "0000.mask.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    return ["train-0.tar: 0000.mask.png", "train-0.tar: x.v2.cls", "train-0.tar: x.v2.png"]


def odd_masks(root: Path) -> list[str]:
    for part in ("train", "val"):
        for kind, ending in (("images", "jpg"), ("masks", "png")):
            (root / kind / part).mkdir(parents=True)
            content = encoded(noise(1, 8, 8, 3)[0], "JPEG") if kind == "images" else encoded(np.zeros((8, 8), np.uint8))
            (root / kind / part / f"a.{ending}").write_bytes(content)
    (root / "classes.txt").write_text("one\ntwo\n")
    (root / "images" / "train" / "b.gif").write_bytes(b"")
    (root / "masks" / "val" / "c.jpg").write_bytes(b"")
    return [str(root / "images/train/b.gif"), str(root / "masks/val/c.jpg")]


ODD = {"folder": odd_folder, "tar": odd_tar, "webdataset": odd_shards, "folder-seg": odd_masks}


@pytest.mark.parametrize("source", ODD)
def test_what_looks_like_a_sample_and_is_not_read_is_refused_or_counted(source: str, tmp_path: Path) -> None:
    from wfbench.data import open_dense

    over = ODD[source](tmp_path)
    open_it = open_dense if source == "folder-seg" else open_dataset
    data = DataSection(source=source, path=str(tmp_path))
    with pytest.raises(InputError) as refused:
        open_it(data)
    assert f"{len(over)} ({', '.join(over)})" in str(refused.value)
    assert "data.pass_over=true" in str(refused.value)
    found = open_it(data.model_copy(update={"pass_over": True}))
    assert list(found.passed_over) == over


def test_what_is_passed_over_stands_in_the_dry_run_and_in_the_record(tmp_path: Path) -> None:
    root = tmp_path / "data"
    over = odd_folder(root)
    settings = [f"data.path={root}", "data.source=folder", "data.pass_over=true", "batch_size=4", "epochs=1"]
    recipe = recipes.load("digits", [*settings, "model.image_size=16", "model.patch_size=8", "optim.warmup_epochs=0"])
    assert dry_run(recipe, tmp_path / "run").data["passed over"].startswith(f"3 ({over[0]}")
    words = [
        "train",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
        *(w for s in recipe_words(recipe) for w in ("--set", s)),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run" / "result.json").read_text())["passed_over"] == 3


def recipe_words(recipe: recipes.Recipe) -> list[str]:
    data, model = recipe.data, recipe.model
    return [
        f"data.path={data.path}",
        f"data.source={data.source}",
        f"data.pass_over={str(data.pass_over).lower()}",
        f"batch_size={recipe.batch_size}",
        f"epochs={recipe.epochs}",
        f"model.image_size={model.image_size}",
        f"model.patch_size={model.patch_size}",
        f"optim.warmup_epochs={recipe.optim.warmup_epochs}",
    ]


def test_two_pictures_of_one_key_are_refused(tmp_path: Path) -> None:
    write_stripes(tmp_path / "plain", ["cat", "dog"])
    as_shards(tmp_path / "plain", tmp_path / "shards", ["cat", "dog"])
    with tarfile.open(tmp_path / "shards" / "val-0.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("0000.jpg"), io.BytesIO())
    with pytest.raises(InputError, match=r"two images of one sample(.|\n)*0000.png and 0000.jpg"):
        opened(tmp_path / "shards", "webdataset")


# --- classes by name


def places(dataset: object) -> list[tuple[int, str]]:
    """Of the held-out images: the place of their class, and its name, which the pictures themselves tell."""
    found = []
    for i, c in enumerate(dataset.val.targets):  # type: ignore[attr-defined]
        stripe = int(np.asarray(dataset.val.load(i)).min(axis=(0, 2)).argmax())  # type: ignore[attr-defined]
        found.append((c, TWELVE[stripe]))
    return found


@pytest.mark.parametrize("kind", ["folder", "tar", "shards", "shards of another order"])
def test_every_source_is_brought_into_the_order_of_the_weights(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "folder"
    write_stripes(root, TWELVE)
    as_tar(root, tmp_path / "tar")
    as_shards(root, tmp_path / "shards", TWELVE)
    as_shards(root, tmp_path / "shards of another order", TWELVE[::-1])
    source = {"folder": "folder", "tar": "tar"}.get(kind, "webdataset")
    data = DataSection(source=source, path=str(tmp_path / kind))
    for order in (sorted(TWELVE), TWELVE, TWELVE[::-1], ["a", *TWELVE, "b"]):
        found = open_dataset(data, classes=order)
        assert found.classes == tuple(order)
        assert all(order[c] == name for c, name in places(found))


def test_classes_that_the_weights_do_not_know_are_refused_with_both_lists(tmp_path: Path) -> None:
    write_stripes(tmp_path / "folder", TWELVE)
    as_shards(tmp_path / "folder", tmp_path / "shards", TWELVE, listed=False)
    names = [f"n{c:02}" for c in range(12)]
    with pytest.raises(InputError, match=r"other classes than the weights(.|\n)*got:.*12 \(0, 1,(.|\n)*12 \(n00, n01"):
        open_dataset(DataSection(source="webdataset", path=str(tmp_path / "shards")), classes=names)


def test_splits_whose_classes_stand_in_another_order_are_brought_together(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "hf"
    (root / "data").mkdir(parents=True)
    for part, names in (("train", TWELVE[:3]), ("validation", TWELVE[:3][::-1])):
        rows = {"image": [], "label": []}
        for c, name in enumerate(names):
            for i in range(3):
                rows["image"].append({"bytes": encoded(striped(TWELVE.index(name), i)), "path": None})
                rows["label"].append(c)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(root / "data" / f"{part}-0.parquet"))
    found = opened(root, "huggingface")
    assert found.classes == tuple(TWELVE[:3])
    assert all(found.classes[c] == name for c, name in places(found))


def test_a_name_has_one_spelling_and_two_classes_never_share_it(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_stripes(tmp_path / "one", ["dog", apart])
    assert opened(tmp_path / "one").classes == (composed, "dog")
    write_stripes(tmp_path / "two", [composed, apart])
    with pytest.raises(InputError, match=r"classes with one name(.|\n)*'cafe\\u0301', 'caf\\xe9'"):
        opened(tmp_path / "two")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on twelve classes, named 0 to 11 and sorted as text, with the same files as archives beside it."""
    root = tmp_path_factory.mktemp("stripes")
    write_stripes(root / "folder", TWELVE, each=8)
    as_tar(root / "folder", root / "tar")
    as_shards(root / "folder", root / "shards", TWELVE)
    words = ["train", "--recipe", "digits", "--device", "cpu", "--out", str(root / "run")]
    settings = ["data.source=folder", f"data.path={root / 'folder'}", "batch_size=24", "epochs=20", "optim.warmup_epochs=0"]
    settings += ["model.image_size=16", "model.patch_size=8", "model.in_channels=3", "optim.lr=0.003", "eval_every=20"]
    done = CliRunner().invoke(app, [*words, *(w for s in settings for w in ("--set", s))])
    assert done.exit_code == 0, done.output
    return root


def accuracy(root: Path, *words: str) -> float:
    out = root / "eval" / "-".join(words).replace("/", "_")[-60:]
    done = CliRunner().invoke(app, ["eval", str(root / "run"), "--device", "cpu", "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    return json.loads((out / "records.jsonl").read_text().splitlines()[-1])["accuracy"]


@pytest.mark.slow
def test_the_same_files_in_an_archive_give_the_same_accuracy(trained: Path) -> None:
    own = accuracy(trained)
    assert own > 0.5
    for source, place in (("tar", "tar"), ("webdataset", "shards")):
        assert accuracy(trained, "--data", f"{source}:{trained / place}") == own


@pytest.mark.slow
def test_weights_that_begin_a_run_have_their_head_in_the_order_of_its_data(trained: Path, tmp_path: Path) -> None:
    from wfbench.tasks.jobs import prepare

    weights = load_file(trained / "run" / "model.safetensors")
    recipe = recipes.load(str(trained / "run" / "config.yaml"))
    as_numbers = recipes.override(
        recipe,
        [
            "data.source=webdataset",
            f"data.path={trained / 'shards'}",
            f"model.init_weights={trained / 'run/model.safetensors'}",
        ],
    )
    head = prepare(as_numbers).model.head.weight
    rows = [sorted(TWELVE).index(name) for name in TWELVE]
    assert torch.equal(head, weights["head.weight"][rows])
    other = tmp_path / "other"
    write_stripes(other, [f"n{c}" for c in range(12)], each=8)
    with pytest.raises(InputError, match="initial weights have other classes"):
        prepare(recipes.override(as_numbers, ["data.source=folder", f"data.path={other}"]))
    fresh = recipes.override(as_numbers, ["data.source=folder", f"data.path={other}", "model.init_head=fresh"])
    assert not torch.equal(prepare(fresh).model.head.weight, weights["head.weight"])


@pytest.mark.slow
def test_weights_without_class_names_are_evaluated_with_a_note(trained: Path, tmp_path: Path) -> None:
    save_file(load_file(trained / "run" / "model.safetensors"), tmp_path / "plain.safetensors")
    words = ["--recipe", str(trained / "run" / "config.yaml"), "--device", "cpu", "--out", str(tmp_path / "eval")]
    done = CliRunner().invoke(app, ["eval", str(tmp_path / "plain.safetensors"), *words])
    assert done.exit_code == 0, done.output
    assert "the weights do not name their classes" in " ".join(done.output.split())


@pytest.mark.slow
def test_a_mapping_by_file_name_refuses_names_that_occur_twice(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text(json.dumps({f"{i}.png": 0 for i in range(8)}))
    words = ["eval", str(trained / "run"), "--device", "cpu", "--mapping", str(tmp_path / "map.json")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "several files have one name" in done.output


# --- grids


def image_of(grid: tuple[int, int]) -> tuple[int, int]:
    return grid[0] * 8, grid[1] * 8


def small(grid: tuple[int, int], **options: object) -> models.VisionTransformer:
    options = {"embed_dim": 24, "num_heads": 3, "depth": 1, "patch_size": 8, "num_classes": 5, **options}
    mixer = str(options.pop("mixer", "softmax"))
    return models.create("vit-tiny", mixer=mixer, image_size=image_of(grid), **options)


def test_an_embedding_of_as_many_positions_on_another_grid_is_resampled() -> None:
    square, wide = small((4, 4)), small((2, 8))
    with pytest.raises(InputError, match="cannot tell the grid of the position embedding"):
        models.load_initial(wide, square.state_dict())
    models.load_initial(wide, square.state_dict(), grid=(4, 4))
    assert wide.pos_embed is not None
    assert square.pos_embed is not None
    assert not torch.equal(wide.pos_embed, square.pos_embed)
    low, high = square.pos_embed.detach().view(4, 4, -1), wide.pos_embed.detach().view(2, 8, -1)
    assert torch.allclose(low.mean(dim=(0, 1)), high.mean(dim=(0, 1)), atol=0.01), "it is the same map, resampled"
    models.load_initial(wide, wide.state_dict(), grid=(2, 8))
    models.load_initial(square, square.state_dict())


@pytest.mark.parametrize("mixer", ["mlp-mixer", "random"])
def test_a_mixer_made_for_one_grid_refuses_weights_of_another_with_as_many_tokens(mixer: str) -> None:
    options = {"mixer": mixer, "pos_embed": False}
    square, wide = small((4, 4), **options), small((2, 8), **options)
    for grid in (None, (4, 4)):
        with pytest.raises(InputError, match="made for one grid"):
            models.load_initial(wide, square.state_dict(), grid=grid)
    models.load_initial(wide, wide.state_dict(), grid=(2, 8))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_what_wrappers_put_before_every_name_is_left_out_and_named(prefix: str) -> None:
    one, two = small((4, 4)), small((4, 4))
    with pytest.warns(UserWarning, match="all begin with"):
        models.load_initial(two, {prefix + key: value for key, value in one.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


# --- many names


def test_names_in_one_array_are_the_names() -> None:
    names = ["a/1.png", "ü/é.png", "", "x" * 300, b"\xff.png".decode(errors="surrogateescape")]
    found = Names(names)
    assert list(found) == names
    assert (found[-1], list(found[1:3])) == (names[-1], names[1:3])
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            found[wrong]
