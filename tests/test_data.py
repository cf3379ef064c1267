"""Data: every source on small files of its format, augmentation, sharing out, bad images, errors."""

import gzip
import io
import os
import pickle
import random
import re
import signal
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torchvision import transforms

from wfbench import recipe as recipes
from wfbench.data import eval_batches, loading, mixer_of, open_dataset, steps_per_epoch, train_batches
from wfbench.data.reading import seed_draws
from wfbench.data.transforms import eval_transform, lean, train_transform
from wfbench.errors import InputError
from wfbench.recipe import DataSection, MixSection
from wfbench.tasks import jobs
from wfbench.tasks.common import choose_device

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

#: All of an ImageNet recipe's augmentation, on images of any size.
AUGMENTED = {
    "augment": "resized-crop",
    "hflip": 0.5,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.4,
    "erase": 0.5,
}


class Silent:
    def step(self, epoch, step, steps, loss):
        pass

    def epoch(self, row):
        pass


# Small files of each format. A writer returns the arrays and classes that its files hold, by split.


def noise(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def two_splits(classes: int, each: tuple[int, int], *shape: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        part: (noise(n * classes, *shape, seed=n), np.repeat(np.arange(classes), n))
        for part, n in zip(("train", "val"), each, strict=True)
    }


def write_fashion(root: Path, zipped: bool = False):
    content = two_splits(10, (3, 2), 28, 28)
    for part, stem in (("train", "train"), ("val", "t10k")):
        images, classes = content[part]
        for name, data in (
            (f"{stem}-images-idx3-ubyte", struct.pack(">4I", 2051, *images.shape) + images.tobytes()),
            (f"{stem}-labels-idx1-ubyte", struct.pack(">2I", 2049, len(classes)) + classes.astype(np.uint8).tobytes()),
        ):
            (root / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return content


def write_cifar10(root: Path, each=(5, 2)):
    content = two_splits(10, each, 32, 32, 3)
    for part, names in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("val", ["test_batch"])):
        images, classes = content[part]
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        records = np.concatenate([classes.astype(np.uint8)[:, None], planes], axis=1)
        for name, some in zip(names, np.split(records, len(names)), strict=True):
            (root / f"{name}.bin").write_bytes(some.tobytes())
    (root / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    return content


def write_folder(root: Path, classes=("dark", "light"), each=(6, 6)):
    content = two_splits(len(classes), each, 12, 10, 3)
    for part, (images, targets) in content.items():
        for i, (image, c) in enumerate(zip(images, targets, strict=True)):
            file = root / part / classes[c] / f"{i:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(image))
    return content


def write_tar(root: Path, nested: bool = False):
    content = two_splits(2, (4, 2), 9, 11, 3)
    for part, (images, targets) in content.items():
        files = [(f"c{c}", f"{i}.png", encoded(image)) for i, (image, c) in enumerate(zip(images, targets, strict=True))]
        with tarfile.open(root / f"{part}.tar", "w") as archive:
            if not nested:
                for folder, name, data in files:
                    add(archive, f"{part}/{folder}/{name}", data)
            for folder in ("c0", "c1") if nested else ():
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as some:
                    for f, name, data in files:
                        if f == folder:
                            add(some, name, data)
                add(archive, f"{folder}.tar", inner.getvalue())
    return content


def write_webdataset(root: Path, labels=lambda c: str(c).encode(), names: str | None = "cat\ndog\n"):
    content = two_splits(2, (4, 2), 9, 11, 3)
    for part, (images, targets) in content.items():
        for shard in range(2):
            with tarfile.open(root / f"{part}-{shard:04}.tar", "w") as archive:
                for i in range(shard * len(images) // 2, (shard + 1) * len(images) // 2):
                    add(archive, f"a/{i:04}.cls", labels(targets[i]))
                    add(archive, f"a/{i:04}.seg.txt", b"not asked for")
                    add(archive, f"a/{i:04}.PNG", encoded(images[i]))
    if names is not None:
        (root / "classes.txt").write_text(names)
    return content


def write_huggingface(root: Path):
    datasets = pytest.importorskip("datasets")
    content = two_splits(2, (4, 2), 9, 11, 3)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    for part, (images, targets) in content.items():
        rows = {"image": [Image.fromarray(image) for image in images], "label": targets.tolist()}
        name = {"train": "train", "val": "validation"}[part]
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{name}-00000-of-00001.parquet")
    return content


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_zipped(root: Path):
    return write_fashion(root, zipped=True)


def write_nested(root: Path):
    return write_tar(root, nested=True)


def write_cifar10_folder(root: Path):
    return write_folder(root, CIFAR10, (2, 1))


SOURCES = [
    ("fashion", write_fashion, "Fashion-MNIST (30 train, 20 held out)", 10),
    ("fashion", write_zipped, "Fashion-MNIST (30 train, 20 held out)", 10),
    ("cifar10", write_cifar10, "CIFAR-10 (50 train, 20 held out)", 10),
    ("cifar10", write_cifar10_folder, "CIFAR-10 (20 train, 10 held out)", 10),
    ("folder", write_folder, "folder NAME (12 train, 12 held out)", 2),
    ("tar", write_tar, "tar NAME (8 train, 4 held out)", 2),
    ("tar", write_nested, "tar NAME (8 train, 4 held out)", 2),
    ("webdataset", write_webdataset, "webdataset NAME (8 train, 4 held out)", 2),
    ("huggingface", write_huggingface, "huggingface NAME (8 train, 4 held out)", 2),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("source", "write", "name", "classes"), SOURCES, ids=lambda v: getattr(v, "__name__", None))
def test_a_source_gives_back_what_its_files_hold(source, write, name, classes, tmp_path):
    content = write(tmp_path)
    data = DataSection(source=source, path=str(tmp_path), workers=2)
    dataset = open_dataset(data)
    assert dataset.name == name.replace("NAME", tmp_path.name)
    assert len(dataset.classes) == classes
    for part, split in (("train", dataset.train), ("val", dataset.val)):
        images, targets = content[part]
        assert split.targets == tuple(targets.tolist())
        assert len(split) == len(targets)
        again = pickle.loads(pickle.dumps(split))
        for i in (len(images) - 1, 0, 1):  # in any order
            assert (np.asarray(split.load(i)) == images[i]).all()
            assert (np.asarray(again.load(i)) == images[i]).all()
        assert len({split.label(i) for i in range(len(split))}) == len(split)
    size = images.shape[1:3]
    batches = list(eval_batches(dataset.val, data, size, 1 if images.ndim == 3 else 3, batch_size=3))
    found = torch.cat([x for x, _ in batches])
    wanted = torch.tensor(images.reshape(len(images), *size, -1)).permute(0, 3, 1, 2) / 255
    assert (found - (wanted - 0.5) / 0.5).abs().max() < 1e-6


def test_classes_have_the_names_that_the_source_gives(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    write_webdataset(tmp_path / "a")
    write_webdataset(tmp_path / "b", names=None)
    write_cifar10(tmp_path / "c")
    found = [open_dataset(DataSection(source="webdataset", path=str(tmp_path / name))).classes for name in ("a", "b")]
    assert found == [("cat", "dog"), ("0", "1")]
    assert open_dataset(DataSection(source="cifar10", path=str(tmp_path / "c"))).classes == CIFAR10


def test_digits_are_split_by_class_without_overlap_and_the_recipe_knows_their_mean():
    recipe = recipes.load("digits")
    data = open_dataset(recipe.data)
    assert data.name == "digits (20% held out by split seed 0)"
    assert (len(data.train), len(data.val)) == (1437, 360)
    shares = [sum(t == c for t in data.val.targets) for c in range(10)]
    assert max(shares) - min(shares) <= 2
    whole = {data.train.load(i).tobytes() + bytes([data.train.targets[i]]) for i in range(len(data.train))}
    held = {data.val.load(i).tobytes() + bytes([data.val.targets[i]]) for i in range(len(data.val))}
    assert not whole & held
    pixels = (
        torch.cat([torch.frombuffer(bytearray(data.train.load(i).tobytes()), dtype=torch.uint8) for i in range(1437)]) / 255
    )
    assert float(pixels.mean()) == pytest.approx(recipe.data.mean[0], abs=1e-3)
    assert float(pixels.std()) == pytest.approx(recipe.data.std[0], abs=1e-3)


def test_samples_travel_to_worker_processes_however_these_start():
    split = open_dataset(DataSection(limit=100)).train
    again = pickle.loads(pickle.dumps(split))
    assert again.targets == split.targets
    assert again.load(3).tobytes() == split.load(3).tobytes()


def test_a_limit_takes_as_many_of_each_class_from_training_alone_by_the_split_seed(tmp_path):
    whole, some, more, other = (
        open_dataset(DataSection(limit=limit, split_seed=seed)) for limit, seed in ((None, 0), (105, 0), (300, 0), (105, 1))
    )
    assert some.name == "digits (20% held out by split seed 0), 105 of 1,437 for training"
    counts = np.bincount(some.train.targets)
    assert (len(some.train), counts.min(), counts.max()) == (105, 10, 11)
    labels = [{d.train.label(i) for i in range(len(d.train))} for d in (some, more)]
    assert labels[0] < labels[1]
    assert some.val.targets == whole.val.targets
    place = int(some.train.label(7).split()[-1])
    assert some.train.load(7).tobytes() == whole.train.load(place).tobytes()
    assert some.train.targets[7] == whole.train.targets[place]
    assert other.name.endswith("split seed 1), 105 of 1,437 for training")
    write_folder(tmp_path, each=(6, 2))
    first, second = (open_dataset(DataSection(source="folder", path=str(tmp_path), limit=6, split_seed=s)) for s in (0, 1))
    assert [first.train.label(i) for i in range(6)] != [second.train.label(i) for i in range(6)]


# What is refused


def fails(match: str, **settings) -> None:
    with pytest.raises(InputError, match=match):
        open_dataset(DataSection(**settings))


@pytest.mark.parametrize("source", ["fashion", "cifar10", "folder", "tar", "webdataset", "huggingface"])
def test_a_path_that_is_missing_or_empty_is_one_message(source, tmp_path):
    pytest.importorskip("datasets")
    fails(r"not a folder[\s\S]*nowhere", source=source, path=str(tmp_path / "nowhere"))
    fails(r"missing|no images|no archive|no shards|Hugging Face data set", source=source, path=str(tmp_path))


def test_a_limit_beyond_the_data_or_below_the_classes_is_refused():
    fails(r"1,438[\s\S]*10 \(the classes\) to 1,437", limit=1438)
    fails(r"data.limit = 9", limit=9)


def test_idx_files_are_checked(tmp_path):
    def broken(name: str, change, match: str) -> None:
        write_fashion(tmp_path)
        file = tmp_path / name
        file.write_bytes(change(file.read_bytes()))
        fails(match, source="fashion", path=str(tmp_path))

    images, labels = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
    broken(images, lambda b: struct.pack(">I", 2049) + b[4:], r"idx file[\s\S]*2049[\s\S]*magic number 2051")
    broken(images, lambda b: b[:8] + struct.pack(">I", 27) + b[12:], r"sizes \[30, 27, 28\]")
    broken(images, lambda b: b[:-1], "another length")
    broken(images, lambda b: b + b"0", "another length")
    broken(images, lambda b: b[:10], "magic number None")
    broken(labels, lambda b: struct.pack(">2I", 2049, 19) + b[8:-1], "20 images and 19 labels")
    broken(labels, lambda b: b[:-1] + b"\x0a", r"label is out of range[\s\S]*10 of Fashion-MNIST val image 19")
    broken(labels, lambda b: b[:-2] + b"\x01\x01", r"no images in the val split[\s\S]*Ankle boot")
    (tmp_path / images).unlink()
    fails(r"missing[\s\S]*train-images", source="fashion", path=str(tmp_path))
    (tmp_path / f"{images}.gz").write_bytes(gzip.compress(bytes(100))[:-9])
    fails(r"cannot read[\s\S]*gz", source="fashion", path=str(tmp_path))


def test_cifar_batches_are_checked(tmp_path):
    write_cifar10(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    fails(r"not a whole file[\s\S]*data_batch_3[\s\S]*3,073", source="cifar10", path=str(tmp_path))
    file.write_bytes(b"\x63" + whole[1:])
    fails(r"label is out of range[\s\S]*99 of CIFAR-10 train image 20", source="cifar10", path=str(tmp_path))
    file.unlink()
    fails(r"without data_batch_3.bin", source="cifar10", path=str(tmp_path))
    file.write_bytes(whole)
    (tmp_path / "batches.meta.txt").write_text("\n".join(reversed(CIFAR10)))
    fails("not the classes of CIFAR-10", source="cifar10", path=str(tmp_path))
    write_folder(tmp_path / "f")
    fails(r"not the classes of CIFAR-10[\s\S]*dark, light", source="cifar10", path=str(tmp_path / "f"))


def test_folders_of_different_or_empty_classes_are_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "val" / "grey").mkdir()
    fails(r"no images for the val split[\s\S]*grey", source="folder", path=str(tmp_path))
    (tmp_path / "val" / "grey" / "1.png").write_bytes(b"")
    fails(r"different classes[\s\S]*2 in train, 3 in val[\s\S]*grey", source="folder", path=str(tmp_path))


def test_archives_are_checked(tmp_path):
    write_tar(tmp_path)
    with tarfile.open(tmp_path / "val.tar") as archive:
        last = archive.getmembers()[-1]
    whole = (tmp_path / "val.tar").read_bytes()
    for bad in (whole[: last.offset], whole[: last.offset + 100], whole[: last.offset_data + 100], b"", b"x" * 4096):
        (tmp_path / "val.tar").write_bytes(bad)
        fails(r"cut short[\s\S]*val.tar", source="tar", path=str(tmp_path))
    with tarfile.open(tmp_path / "val.tar", "w"):
        pass
    fails(r"cannot read the archive[\s\S]*val.tar", source="tar", path=str(tmp_path))
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        add(archive, "0.png", encoded(noise(1, 4, 4, 3)[0]))
    fails("images without a class", source="tar", path=str(tmp_path))
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        add(archive, "c0/0.png", encoded(noise(1, 4, 4, 3)[0]))
    fails(r"different classes[\s\S]*c1", source="tar", path=str(tmp_path))
    (tmp_path / "val.tar").unlink()
    fails("no archive for the val split", source="tar", path=str(tmp_path))


def test_shards_are_checked(tmp_path):
    settings = {"source": "webdataset", "path": str(tmp_path)}
    write_webdataset(tmp_path, labels=lambda c: b"cat")
    fails(r"label is no number[\s\S]*0000.cls: b'cat'", **settings)
    write_webdataset(tmp_path, labels=lambda c: b"%d" % (2 * c))
    fails(r"label is out of range[\s\S]*2 of [\s\S]*0004.PNG", **settings)
    write_webdataset(tmp_path, labels=lambda c: b"%d" % (2 * c), names=None)
    (tmp_path / "classes.txt").unlink()
    fails(r"no images in the train split[\s\S]*: 1 \(1 of 3", **settings)
    write_webdataset(tmp_path, names="cat\ndog\ncow")
    fails(r"no images in the train split[\s\S]*cow", **settings)
    write_webdataset(tmp_path)
    shard = tmp_path / "train-0001.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    fails(r"cut short[\s\S]*train-0001.tar", **settings)
    with tarfile.open(shard, "w") as archive:
        add(archive, "7.png", encoded(noise(1, 4, 4, 3)[0]))
    fails(r"1 images and 0 labels; unpaired: 7", **settings)
    write_webdataset(tmp_path)
    for file in tmp_path.glob("val-*"):
        file.unlink()
    fails("no shards for the val split", **settings)


def test_hugging_face_errors_and_offline_mode(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    import huggingface_hub

    seen = []
    names = datasets.get_dataset_split_names

    def spied(path):
        seen.append((huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        return names(path)

    monkeypatch.setattr(datasets, "get_dataset_split_names", spied)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    settings = {"source": "huggingface", "path": str(tmp_path)}
    write_huggingface(tmp_path)
    open_dataset(DataSection(**settings))
    assert seen == [(True, True)]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    (tmp_path / "validation-00000-of-00001.parquet").rename(tmp_path / "test-00000-of-00001.parquet")
    assert open_dataset(DataSection(**settings)).val.label(0).endswith("test row 0")
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    fails(r"no val split[\s\S]*with train", **settings)
    datasets.Dataset.from_dict({"picture": [1], "label": [0]}).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    datasets.Dataset.from_dict({"picture": [1], "label": [0]}).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    fails(r"cannot read the Hugging Face data set[\s\S]*'image'", **settings)
    image = {"bytes": encoded(noise(1, 4, 4, 3)[0]), "path": None}
    for part in ("train", "test"):
        table = datasets.Dataset.from_dict({"image": [image], "label": ["cat"]})
        table.cast_column("image", datasets.Image()).to_parquet(tmp_path / f"{part}-00000-of-00001.parquet")
    fails(r"cannot read the Hugging Face data set[\s\S]*no ClassLabel", **settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(r"datasets is not installed[\s\S]*pip install", **settings)


# Draws, sharing out, order


def split_of(write, tmp_path, source="folder", **settings):
    write(tmp_path)
    data = DataSection(source=source, path=str(tmp_path), **settings)
    return open_dataset(data).train, data


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, z) and torch.equal(y, w) for (x, y), (z, w) in zip(a, b, strict=True))


def test_batches_are_a_function_of_seed_epoch_and_index_whatever_the_workers():
    recipe = recipes.load("digits", ["data.crop_padding=2", "data.hflip=0.5"])
    split = open_dataset(recipe.data).train

    def batches(workers, start=(0, 0)):
        data = recipe.data.model_copy(update={"workers": workers})
        return list(train_batches(split, data, (8, 8), 1, batch_size=300, seed=3, epochs=2, start=start))

    plain, two, tail = batches(0), batches(2), batches(2, start=(1, 1))
    assert len(plain) == 2 * steps_per_epoch(split, 300) == 8
    assert same(plain, two)
    assert same(plain[5:], tail)
    assert not torch.equal(plain[0][0], plain[4][0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "augmix-m5", "original", None])
def test_full_augmentation_is_a_function_of_seed_epoch_and_index(in_channels, policy, tmp_path):
    split, data = split_of(write_folder, tmp_path, **{**AUGMENTED, "auto_augment": policy})

    def batches(workers, start=(0, 0), seed=5, state=0):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        section = data.model_copy(update={"workers": workers})
        return list(train_batches(split, section, (16, 20), in_channels, batch_size=4, seed=seed, epochs=3, start=start))

    plain, two, tail = batches(0), batches(2, state=1), batches(0, start=(1, 2), state=2)
    assert plain[0][0].shape == (4, in_channels, 16, 20)
    assert same(plain, two)
    assert same(plain[5:], tail)
    assert not same(plain, batches(0, seed=6))


@pytest.mark.parametrize("key", ["crop_scale", "crop_ratio", "hflip", "interpolation", "auto_augment", "color_jitter", "erase"])
def test_every_setting_of_the_augmentation_arrives(key, tmp_path):
    base = {"augment": "resized-crop", "crop_scale": (0.5, 1.0)}
    value = {"crop_scale": (0.1, 0.2), "crop_ratio": (2.0, 2.0), "hflip": 1.0, "interpolation": "bilinear"}
    value |= {"auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "erase": 1.0}
    split, data = split_of(write_folder, tmp_path, **base)

    def batches(**changes):
        return list(train_batches(split, data.model_copy(update=changes), (8, 8), 3, batch_size=12, seed=0, epochs=1))

    assert not same(batches(), batches(**{key: value[key]}))
    if key == "erase":
        assert not same(batches(erase=1.0), batches(erase=1.0, erase_mode="const"))
        assert not same(batches(erase=1.0, erase_mode="rand"), batches(erase=1.0, erase_mode="const"))


def test_loading_leaves_the_random_states_of_the_model_alone(tmp_path):
    split, data = split_of(write_folder, tmp_path, **AUGMENTED)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for x, _ in train_batches(split, data, (8, 8), 3, batch_size=4, seed=0, epochs=1):
        mixer_of(MixSection(mixup=0.8), 0.1, 2, batch_size=4)(x, torch.zeros(4, dtype=torch.long), key=(0, 0, 0))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert (np.random.get_state()[1] == before[2]).all()


def test_several_processes_see_together_what_one_sees(tmp_path):
    split, data = split_of(write_folder, tmp_path, **AUGMENTED)

    def batches(batch_size, rank=0, world=1):
        return list(train_batches(split, data, (8, 8), 3, batch_size=batch_size, seed=1, epochs=2, rank=rank, world=world))

    for world, batch_size in ((2, 8), (4, 8), (2, 6), (3, 12), (4, 12)):
        whole = batches(batch_size)
        parts = [batches(batch_size, rank, world) for rank in range(world)]
        for step, (x, y) in enumerate(whole):
            together = torch.cat([part[step][0] for part in parts]), torch.cat([part[step][1] for part in parts])
            assert all(len(part[step][1]) == batch_size // world for part in parts)
            order = sorted(range(batch_size), key=lambda i: x[i].tolist())
            found = sorted(range(batch_size), key=lambda i: together[0][i].tolist())
            assert torch.equal(x[order], together[0][found])
            assert torch.equal(y[order], together[1][found])


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0, "prob": 0.7}])
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_mix_as_one_does(settings, world):
    images, classes = torch.rand(16, 3, 9, 9), torch.arange(16) % 5
    mix = MixSection(**settings)
    one, several = (mixer_of(mix, 0.1, 5, batch_size=16, world=w) for w in (1, world))
    for step in range(6):
        x, y = one(images.clone(), classes, key=(3, 1, step))
        assert x.shape == images.shape
        assert y.sum(1) == pytest.approx(torch.ones(16))
        for rank in range(world):
            mine = loading.positions(16, rank, world)
            part_x, part_y = several(images[mine], classes[mine], key=(3, 1, step))
            assert torch.equal(part_x, x[mine])
            assert torch.equal(part_y, y[mine])


def test_mixing_follows_from_its_key_and_its_settings():
    images, classes = torch.rand(8, 1, 6, 6), torch.arange(8) % 2

    def mixed(key=(0, 0, 0), smoothing=0.0, **settings):
        return mixer_of(MixSection(**({"mixup": 0.8} | settings)), smoothing, 2, batch_size=8)(images.clone(), classes, key=key)

    again, x = mixed(), mixed()[0]
    assert torch.equal(again[0], x)
    for other in (
        mixed((1, 0, 0)),
        mixed((0, 1, 0)),
        mixed((0, 0, 1)),
        mixed(mode="elem"),
        mixed(mode="pair"),
        mixed(mixup=0.1),
    ):
        assert not torch.equal(other[0], x)
    plain, targets = mixed(prob=0.0, smoothing=0.2)
    assert torch.equal(plain, images)
    assert targets[0].tolist() == pytest.approx([0.9, 0.1])


def test_batches_that_cannot_be_shared_out_are_refused():
    split = open_dataset(DataSection()).train
    with pytest.raises(InputError, match=r"cannot be shared out[\s\S]*64 for 3 processes"):
        train_batches(split, DataSection(), (8, 8), 1, batch_size=64, seed=0, epochs=1, world=3)
    with pytest.raises(InputError, match=r"in pairs[\s\S]*6 for 2 processes[\s\S]*multiple of 4"):
        mixer_of(MixSection(mixup=1.0), 0.0, 2, batch_size=6, world=2)
    for mode in ("pair", "elem"):
        with pytest.raises(InputError, match=rf"whole batches only[\s\S]*{mode}"):
            mixer_of(MixSection(mixup=1.0, mode=mode), 0.0, 2, batch_size=8, world=2)
    with pytest.raises(InputError, match=r"larger than the data[\s\S]*2000 for 1437"):
        steps_per_epoch(split, 2000)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_sample_once_in_order_and_deals_out_whole_batches(world):
    data = DataSection(workers=0)
    split = open_dataset(data).val
    whole = list(eval_batches(split, data, (8, 8), 1, batch_size=77))
    assert tuple(torch.cat([y for _, y in whole]).tolist()) == split.targets
    dealt = [list(eval_batches(split, data, (8, 8), 1, batch_size=77, rank=r, world=world)) for r in range(world)]
    assert same(whole, [dealt[k % world][k // world] for k in range(len(whole))])
    assert sum(len(batches) for batches in dealt) == len(whole)


# Evaluation's transforms


def test_without_a_crop_evaluation_resizes_and_nothing_else():
    image = Image.fromarray(noise(1, 37, 50, 3)[0])
    steps = [transforms.Resize((16, 24), transforms.InterpolationMode.BICUBIC), transforms.ToTensor()]
    wanted = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])(image)
    assert torch.equal(eval_transform(DataSection(), (16, 24), 3)(image), wanted)


@pytest.mark.parametrize("resize", ["squash", "shorter"])
def test_both_ways_to_resize(resize):
    image = Image.fromarray(noise(1, 375, 500, 3)[0])
    data = DataSection(eval_resize=resize, eval_crop=0.875, mean=(0.0,), std=(1.0,))
    size = (256, 256) if resize == "squash" else (256, 341)  # height, width
    resized = image.resize(size[::-1], Image.Resampling.BICUBIC)
    top, left = (256 - 224) // 2, round((size[1] - 224) / 2)
    wanted = transforms.ToTensor()(resized.crop((left, top, left + 224, top + 224)))
    assert torch.equal(eval_transform(data, (224, 224), 3)(image), wanted)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_lean_transform_makes_the_same_numbers(mode: str) -> None:
    draw = np.random.default_rng(0)
    image = Image.fromarray(draw.integers(0, 256, (9, 14, 3), dtype=np.uint8)).convert(mode)
    data = DataSection(mean=[0.4], std=[0.3], augment="resized-crop", erase=1.0, auto_augment=None)
    for size in ((9, 14), (6, 7)):
        channels = len(image.getbands())
        for whole in (eval_transform(data, size, channels), train_transform(data, size, channels)[0]):
            seed_draws((0, 1, 2))
            found = lean(whole)(image)
            seed_draws((0, 1, 2))
            assert torch.equal(found, whole(image))
            assert found.is_contiguous()
            assert found.dtype == torch.float32


def test_the_resized_side_is_the_release_s_at_every_resolution():
    for side in range(8, 1025, 8):
        resize = eval_transform(DataSection(eval_crop=0.875), (side, side), 3).transforms[0]
        assert resize.size == (int(256 / 224 * side),) * 2


# Images that are damaged or unusual


def damage(root: Path) -> dict[str, str]:
    """Every kind of damage, in the training images of one class: what each file's reason says."""
    kinds = {
        "000": (encoded(noise(1, 64, 64, 3)[0], "JPEG")[:900], "truncated"),
        "001": (b"", "cannot identify"),
        "002": (b"<html>not found</html>", "cannot identify"),
        "003": (encoded(noise(1, 64, 64, 3)[0])[:500], "truncated"),
        "004": (encoded(noise(1, 40, 400, 3)[0]), "exceeds limit"),
    }
    for name, (content, _) in kinds.items():
        (root / "train" / "dark" / f"{name}.png").write_bytes(content)
    return {str(root / "train" / "dark" / f"{name}.png"): reason for name, (_, reason) in kinds.items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_by_the_next_of_their_class_and_told_once(workers, tmp_path, monkeypatch):
    write_folder(tmp_path)
    reasons = damage(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    data = DataSection(source="folder", path=str(tmp_path), on_bad_image="skip", workers=workers)
    split = open_dataset(data).train
    told = []
    batches = list(
        train_batches(
            split,
            data,
            (12, 10),
            3,
            batch_size=4,
            seed=0,
            epochs=3,
            on_replaced=lambda *image: told.append(image),
        )
    )
    assert len(told) == len(reasons)
    assert {name for name, _ in told} == reasons.keys()
    for name, reason in told:
        assert reasons[name] in reason
    intact = transforms.ToTensor()(split.load(5)) * 2 - 1
    for x, y in batches:
        for image, c in zip(x, y, strict=True):
            assert c != 0 or torch.allclose(image, intact, atol=1e-6)  # the one good image of "dark"
    (tmp_path / "train" / "dark" / "005.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image of a class can be read[\s\S]*train/dark/00"):
        list(train_batches(split, data, (8, 8), 3, batch_size=4, seed=0, epochs=1, on_replaced=lambda name, reason: None))


def test_the_next_image_of_the_class_comes_first_and_draws_are_those_of_the_place(tmp_path):
    write_folder(tmp_path)
    data = DataSection(source="folder", path=str(tmp_path), crop_padding=3, on_bad_image="skip")
    split = open_dataset(data).train

    def image_of(batches, index):
        order = np.random.default_rng((0, 0)).permutation(12)
        return next(iter(batches))[0][int(np.flatnonzero(order == index)[0])]

    def batches():
        return train_batches(split, data, (12, 10), 3, batch_size=12, seed=0, epochs=1, on_replaced=lambda name, reason: None)

    (tmp_path / "train" / "dark" / "001.png").write_bytes((tmp_path / "train" / "dark" / "002.png").read_bytes())
    (tmp_path / "train" / "light" / "011.png").write_bytes((tmp_path / "train" / "light" / "006.png").read_bytes())
    wanted = [image_of(batches(), i) for i in (1, 11)]
    (tmp_path / "train" / "dark" / "001.png").write_bytes(b"")
    (tmp_path / "train" / "light" / "011.png").write_bytes(b"")
    assert all(torch.equal(image_of(batches(), i), image) for i, image in zip((1, 11), wanted, strict=True))


def test_without_anybody_to_tell_there_is_a_warning_for_each_file(tmp_path):
    write_folder(tmp_path)
    reasons = damage(tmp_path)
    data = DataSection(source="folder", path=str(tmp_path), on_bad_image="skip")
    batches = train_batches(open_dataset(data).train, data, (8, 8), 3, batch_size=12, seed=0, epochs=2)
    with pytest.warns(UserWarning, match=r"train/dark/00.*cannot be read and is replaced") as seen:
        list(batches)
    assert len(seen) == len(reasons) - 1  # the large one is read where it is below Pillow's limit


@pytest.mark.sampled(4)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", ["folder", "tar", "webdataset", "huggingface"])
def test_a_bad_image_stops_training_and_always_evaluation_with_its_name(source, workers, tmp_path, monkeypatch):
    broken = encoded(noise(1, 9, 11, 3)[0])[:60]
    monkeypatch.setattr(sys.modules[__name__], "encoded", lambda image, kind="PNG": broken)
    if source == "huggingface":
        datasets = pytest.importorskip("datasets")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat"])})
        for part in ("train", "test"):
            rows = {"image": [{"bytes": broken, "path": None}, None], "label": [0, 0]}
            datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{part}.parquet")
    else:
        globals()[f"write_{source}"](tmp_path)
    data = DataSection(source=source, path=str(tmp_path), workers=workers)
    dataset = open_dataset(data)
    match = r"an image cannot be read\n  got: +%s[\s\S]*expected"
    name = {"huggingface": "train row"}.get(source, "train")
    with pytest.raises(InputError, match=match % rf"{tmp_path}.*{name}.* \(.*\)"):
        list(train_batches(dataset.train, data, (8, 8), 3, batch_size=2, seed=0, epochs=1))
    skip = data.model_copy(update={"on_bad_image": "skip"})
    with pytest.raises(InputError, match=match % rf"{tmp_path}.* \(.*\)"):
        list(eval_batches(dataset.val, skip, (8, 8), 3, batch_size=2))


def test_a_row_without_an_image_is_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat"])})
    for part in ("train", "test"):
        datasets.Dataset.from_dict({"image": [None], "label": [0]}, features=features).to_parquet(tmp_path / f"{part}.parquet")
    data = DataSection(source="huggingface", path=str(tmp_path))
    with pytest.raises(InputError, match=r"test row 0 \(ValueError: the row holds no image"):
        list(eval_batches(open_dataset(data).val, data, (8, 8), 3, batch_size=1))


# Settings that cannot be, and workers


def test_settings_that_do_not_fit_are_refused_before_the_first_batch(monkeypatch):
    split = open_dataset(DataSection()).train

    def fails(match, **settings):
        with pytest.raises(InputError, match=match):
            train_batches(split, DataSection(**settings), (8, 8), 1, batch_size=8, seed=0, epochs=1)

    fails(r"mean and std do not fit[\s\S]*3 values for 1 channels", mean=(0.5,) * 3, std=(0.5,) * 3)
    fails(r"unknown augmentation policy[\s\S]*rnd-m9", augment="resized-crop", auto_augment="rnd-m9")
    monkeypatch.setattr(PIL, "__version__", "13.0.0")
    fails(r"Pillow 13.0.0[\s\S]*pillow<13", **AUGMENTED)
    train_batches(split, DataSection(augment="resized-crop"), (8, 8), 1, batch_size=8, seed=0, epochs=1)  # without a policy


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_live_through_signals_that_are_for_the_training_process(number):
    import multiprocessing

    data = DataSection(workers=2)
    batches = train_batches(open_dataset(data).train, data, (8, 8), 1, batch_size=8, seed=0, epochs=1)
    seen = [next(batches)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, number)
    seen += list(batches)
    assert len(seen) == 179
    deadline = time.monotonic() + 200
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("raise KeyError('nobody catches this')", "KeyError: 'nobody catches this'"),
        (  # PyTorch names the worker, unless the kill came while a batch was being sent: then the pipe ends
            "os.kill(multiprocessing.active_children()[0].pid, 9); list(batches)",
            "exited unexpectedly|killed by signal|EOFError|ConnectionResetError",
        ),
    ],
)
def test_an_error_that_nobody_catches_ends_the_process_and_its_workers(error, message):
    code = f"""
import multiprocessing, os
from wfbench.data import open_dataset, train_batches
from wfbench.recipe import DataSection
if __name__ == "__main__":
    data = DataSection(workers=2)
    batches = train_batches(open_dataset(data).train, data, (8, 8), 1, batch_size=8, seed=0, epochs=1)
    next(batches)
    {error}
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert re.search(message, done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the parent's death is set up by a fork")
def test_a_worker_ends_though_its_parent_died_before_it_began(tmp_path):
    """The parent is killed between the fork and PyTorch's first look at who the parent is."""
    code = """
import multiprocessing, os, time
from wfbench.data import open_dataset, reading, train_batches
from wfbench.recipe import DataSection
become = reading._become_worker

def late(worker):
    if worker == 0:  # the second worker, which has the pipes of both, ends first
        os.kill(multiprocessing.parent_process().pid, 9)
    while os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.01)
    become(worker)

reading._become_worker = late
if __name__ == "__main__":
    data = DataSection(workers=2)
    next(train_batches(open_dataset(data).train, data, (8, 8), 1, batch_size=8, seed=0, epochs=1))
"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE)
    process.communicate(timeout=120)  # its end is that of all who hold the pipe: the workers too
    assert process.returncode == -9


# Whole runs

SMALL = [
    "model.depth=2",
    "model.num_heads=2",
    "optim.warmup_epochs=0",
    "data.source=folder",
    "model.in_channels=3",
    "data.mean=[0.5]",
    "data.std=[0.5]",
    "batch_size=4",
    "model.embed_dim=16",
]


def test_a_folder_of_images_trains(tmp_path):
    root = tmp_path / "images"
    for part in ("train", "val"):
        for c, shade in (("dark", 20), ("light", 230)):
            (root / part / c).mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (12, 10), (shade + i, shade, shade)).save(root / part / c / f"{i}.png")
    recipe = recipes.load("digits", [*SMALL, f"data.path={root}", "epochs=8"])
    row = jobs.train(recipe, tmp_path / "run", Silent(), device=choose_device("cpu"))
    assert row.samples == 12
    assert row.dataset == "folder images (12 train, 12 held out)"
    assert row.accuracy == 1.0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named(tmp_path, workers):
    root = tmp_path / "images"
    write_folder(root)
    bad = root / "val" / "dark" / "003.png"
    bad.write_bytes(bad.read_bytes()[:40])
    recipe = recipes.load("digits", [*SMALL, f"data.path={root}", f"data.workers={workers}", "epochs=2"])
    with pytest.raises(InputError, match=r"cannot be read[\s\S]*val/dark/003.png"):
        jobs.train(recipe, tmp_path / "run", Silent(), device=choose_device("cpu"))
