"""Images in memory, a batch at once: the pixels, draws and order of the path image by image; how draws are spread."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from wfbench import recipe as recipes
from wfbench.data import Subset, eval_batches, in_memory, loading, open_dataset, splits, train_batches
from wfbench.data.in_memory import Shift, eval_in_memory, torch_words, train_in_memory
from wfbench.data.reading import positions, seed_draws
from wfbench.data.splits import Arrays, Files
from wfbench.errors import InputError
from wfbench.recipe import DataSection

SHAPES = [(11, 8, 8), (11, 7, 9), (11, 9, 12, 3), (11, 12, 12, 3)]


def arrays(*shape: int) -> Arrays:
    draw = np.random.default_rng(0)
    return Arrays("noise", draw.integers(0, 256, shape, dtype=np.uint8), draw.integers(0, 5, shape[0]))


def same(a, b) -> bool:
    return len(a) == len(b) and all(torch.equal(x, z) and torch.equal(y, w) for (x, y), (z, w) in zip(a, b, strict=True))


@pytest.fixture
def one_by_one(monkeypatch):
    """Calls a function with images made one by one, as files are."""

    def call(make):
        with monkeypatch.context() as patch:
            patch.setattr(loading, "train_in_memory", lambda *_: None)
            patch.setattr(loading, "eval_in_memory", lambda *_: None)
            return list(make())

    return call


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (5, 21)])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize(("crop_padding", "hflip"), [(0, 0.0), (0, 0.4), (3, 0.0), (1, 0.5), (13, 1.0)])
def test_training_has_the_bits_of_the_path_image_by_image(shape, size, in_channels, crop_padding, hflip, one_by_one):
    split = arrays(*shape)
    data = DataSection(crop_padding=crop_padding, hflip=hflip, mean=(0.3,), std=(0.7,), interpolation="bilinear")
    assert train_in_memory(split, data, size, in_channels, 0) is not None
    for some, seed in ((split, 0), (Subset(Subset(split, range(2, 11)), (8, 1, 0, 3, 5)), 2**62 + 5)):

        def batches(some=some, seed=seed):
            return train_batches(some, data, size, in_channels, batch_size=5, seed=seed, epochs=3)

        found = list(batches())
        assert found[0][0].shape == (5, in_channels, *size)
        assert found[0][0].is_contiguous()
        assert same(found, one_by_one(batches))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (24, 24), (5, 21)])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("resize", ["squash", "shorter"])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.4])
def test_evaluation_has_the_bits_of_the_path_image_by_image(shape, size, in_channels, resize, crop, one_by_one):
    split = arrays(*shape)
    data = DataSection(eval_resize=resize, eval_crop=crop, mean=(0.1,) * in_channels, std=(0.9,) * in_channels)
    assert eval_in_memory(split, data, size, in_channels) is not None

    def batches():
        return eval_batches(split, data, size, in_channels, batch_size=4)

    assert same(list(batches()), one_by_one(batches))
    assert same(list(batches()), one_by_one(batches))  # resized before


def test_the_recipes_of_sources_in_memory_have_batches_at_once(one_by_one, monkeypatch):
    for name, shape in (("cifar10", (300, 32, 32, 3)), ("fashion", (300, 28, 28)), ("digits", (300, 8, 8))):
        for recipe in (recipes.load(name), recipes.load(f"dit-{name}")):
            data, side, channels = recipe.data, shape[1], 3 if len(shape) == 4 else 1
            split = arrays(*shape)
            assert recipe.model.image_size == side
            made = train_in_memory(split, data, (side, side), channels, 0)
            assert made is not None
            assert np.shares_memory(made.images, split.images)  # nothing is resized, nothing kept twice
            data = data.model_copy(update={"workers": 0})

            def batches(split=split, data=data, size=(side, side), channels=channels):
                return train_batches(split, data, size, channels, batch_size=100, seed=1, epochs=2)

            found = list(batches())
            assert same(found, one_by_one(batches))
            if recipe.task == "dit":
                assert (float(found[0][0].min()), float(found[0][0].max())) == (-1.0, 1.0)


@pytest.mark.parametrize("shape", [(6, 5, 7, 1), (6, 8, 8, 3), (1, 3, 3, 3)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crops_and_flips_are_those_of_an_obvious_loop(shape, padding):
    draw = np.random.default_rng(1)
    images = draw.integers(1, 256, shape, dtype=np.uint8)
    top, left = draw.integers(0, 2 * padding + 1, (2, len(images)))
    flipped = draw.random(len(images)) < 0.5
    found = Shift(padding, 0.5).apply(images.transpose(0, 3, 1, 2).copy(), top, left, flipped)
    _, h, w, _ = shape
    for b, image in enumerate(images):
        for y in range(h):
            for x in range(w):
                i, j = y + top[b] - padding, (w - 1 - x if flipped[b] else x) + left[b] - padding
                assert (found[b, :, y, x] == (image[i, j] if 0 <= i < h and 0 <= j < w else 0)).all()


# Draws


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**63 - 1])
def test_words_are_those_of_torch_s_generator(seed):
    draw = np.random.default_rng(0)
    keys = [(int(draw.integers(500)), int(draw.integers(2**31))) for _ in range(50)]
    state = torch.get_rng_state()
    for (epoch, index), words in zip(keys, torch_words(seed, keys, 3), strict=True):
        seed_draws((seed, epoch, index))
        wanted = [int(torch.randint(0, n, (1,))) for n in (9, 2**20 - 3)]
        assert [int(words[0] % 9), int(words[1] % (2**20 - 3))] == wanted
        assert float(torch.rand(1)) == float((words[2] % 2**24) / 2**24)
    torch.set_rng_state(state)


def test_draws_follow_from_seed_epoch_and_index_alone():
    shift, keys = Shift(4, 0.5), [(epoch, index) for epoch in range(3) for index in range(40)]
    whole = np.stack(shift.draw(3, keys))
    turned = np.random.default_rng(0).permutation(len(keys))
    np.random.seed(0)
    torch.manual_seed(1)
    assert (np.stack(shift.draw(3, [keys[i] for i in turned])) == whole[:, turned]).all()
    assert all((np.stack(shift.draw(3, [key]))[:, 0] == whole[:, i]).all() for i, key in enumerate(keys))
    for changed, seed in ((keys, 4), ([(e + 1, i) for e, i in keys], 3), ([(e, i + 1) for e, i in keys], 3)):
        other = shift.draw(seed, changed)
        assert all((a == b).mean() < 0.7 for a, b in zip(other, whole, strict=True))


def test_shifts_are_uniform_and_flips_have_their_rate():
    n, padding = 20_000, 4
    for hflip in (0.0, 0.3, 1.0):
        top, left, flipped = Shift(padding, hflip).draw(0, [(k % 7, k) for k in range(n)])
        cells = np.bincount(top * 9 + left, minlength=81)
        assert ((cells - n / 81) ** 2 / (n / 81)).sum() < 133  # 80 degrees of freedom: exceeded with probability 0.0002
        assert abs(flipped.mean() - hflip) < 4 * (hflip * (1 - hflip) / n) ** 0.5 + 1e-12
        if hflip == 0.3:  # independent of the shift
            assert abs(np.corrcoef(flipped, top)[0, 1]) < 4 / n**0.5
            assert abs(np.corrcoef(flipped, left)[0, 1]) < 4 / n**0.5
    assert not any(drawn.any() for drawn in Shift(0, 0.0).draw(0, [(0, 0), (0, 1)]))


@pytest.mark.parametrize("size", [(12, 12), (7, 10)])
def test_batches_know_neither_workers_nor_start_nor_processes(size):
    split, data = arrays(60, 12, 12, 3), DataSection(crop_padding=2, hflip=0.5)

    def batches(workers=0, **settings):
        section = data.model_copy(update={"workers": workers})
        return list(train_batches(split, section, size, 3, **{"batch_size": 12, "seed": 3, "epochs": 2} | settings))

    plain = batches()
    assert len(plain) == 10
    assert same(plain, batches(workers=2))
    assert same(plain[7:], batches(start=(1, 2)))
    assert not same(plain[:5], plain[5:])
    for world in (2, 3, 4):
        for rank in range(world):
            mine = positions(12, rank, world)
            assert same([(x[mine], y[mine]) for x, y in plain], batches(rank=rank, world=world))


# Which images are made so, and what is kept


def test_every_image_is_resized_once_while_the_same_is_asked(monkeypatch):
    split, data = arrays(10, 8, 8), DataSection()
    loaded = []
    monkeypatch.setattr(Arrays, "load", lambda self, i: loaded.append(int(i)) or Image.fromarray(self.images[i]))

    def evaluate(some, size):
        return list(eval_batches(some, data, size, 1, batch_size=4))

    evaluate(Subset(split, (2, 5)), (16, 16))
    assert loaded == [2, 5]
    first = evaluate(split, (16, 16))
    assert sorted(loaded) == list(range(10))
    assert same(first, evaluate(split, (16, 16)))
    assert len(loaded) == 10
    evaluate(split, (8, 8))
    assert len(loaded) == 10, "images of the model's size are taken as they are"
    evaluate(split, (4, 4))
    assert len(loaded) == 20
    assert split.fitted.images.shape == (10, 4, 4, 1)


def test_what_is_kept_serves_no_other_setting(one_by_one):
    split, size = arrays(10, 9, 12, 3), (8, 8)
    changes = [{}, {"interpolation": "bilinear"}, {"eval_resize": "shorter"}, {"eval_crop": 0.5}]
    settings = [{key: v for some in changes[: k + 1] for key, v in some.items()} for k in range(4)]  # one more each
    found = {}
    for name in ("train", "eval", "train"):  # by turns, of one split
        for k, some in enumerate(settings):
            data = DataSection(**some)

            def batches(name=name, data=data):
                if name == "train":
                    return train_batches(split, data, size, 3, batch_size=10, seed=0, epochs=1)
                return eval_batches(split, data, size, 3, batch_size=10)

            found[name, k] = list(batches())
            assert same(found[name, k], one_by_one(batches))
    assert not any(same(found["eval", k], found["eval", k + 1]) for k in range(3))


def test_what_would_take_too_much_memory_or_has_other_augmentation_is_made_one_by_one(monkeypatch):
    split, data = arrays(10, 8, 8), DataSection()
    assert train_in_memory(split, data.model_copy(update={"augment": "resized-crop"}), (8, 8), 1, 0) is None
    monkeypatch.setattr(in_memory, "LIMIT", 10 * 16 * 16)
    assert eval_in_memory(split, data, (16, 16), 1) is not None
    for size, in_channels in (((16, 17), 1), ((16, 16), 3)):
        assert eval_in_memory(split, data, size, in_channels) is None
        assert train_in_memory(split, data, size, in_channels, 0) is None
    (x, y), *_ = eval_batches(split, data, (17, 17), 1, batch_size=10)
    assert (x.shape, y.tolist()) == ((10, 1, 17, 17), list(split.targets))


# Folders of small images


def folder_of(root: Path, split: Arrays):
    """The same images as files, in the same order: the classes of `arrays` are the folders."""
    order = np.argsort(split.targets, kind="stable")
    for k, i in enumerate(order):
        for part in ("train", "val"):
            file = root / part / f"class {split.targets[i]}" / f"{k:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.images[i]).save(file)
    sorted_split = Arrays("noise", split.images[order], np.unique(np.array(split.targets)[order], return_inverse=True)[1])
    return open_dataset(DataSection(source="folder", path=str(root))), sorted_split


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [(8, 8), (9, 12)])
@pytest.mark.parametrize("in_channels", [1, 3])
def test_a_folder_of_small_images_has_the_bits_of_its_files_and_of_the_same_images_in_memory(
    shape, size, in_channels, one_by_one, tmp_path
):
    folder, split = folder_of(tmp_path, arrays(*shape))
    data = DataSection(crop_padding=2, hflip=0.5, mean=(0.3,), std=(0.7,))
    entries = folder.train.entries()
    for some, other in ((folder.train, split), (Subset(folder.train, (7, 2, 3)), Subset(split, (7, 2, 3)))):

        def batches(some=some):
            return train_batches(some, data, size, in_channels, batch_size=3, seed=5, epochs=2)

        assert train_in_memory(some, data, size, in_channels, 5) is not None
        found = list(batches())
        assert same(found, one_by_one(batches))
        assert same(found, list(batches(other)))

    def evaluated(some=folder.val):
        return eval_batches(some, data, size, in_channels, batch_size=4)

    assert eval_in_memory(folder.val, data, size, in_channels) is not None
    assert same(list(evaluated()), one_by_one(evaluated))
    assert same(list(evaluated()), list(evaluated(split)))
    assert folder.train.entries() == entries, "the data are what they were"


def test_a_file_is_decoded_once_and_only_if_it_is_asked_for(monkeypatch, tmp_path):
    folder, _ = folder_of(tmp_path, arrays(11, 8, 8))
    loaded = []
    load = Files.load
    monkeypatch.setattr(Files, "load", lambda self, i: loaded.append(int(i)) or load(self, i))
    data = DataSection()
    for some in (Subset(folder.train, (5, 2)), folder.train, folder.train):
        list(train_batches(some, data, (8, 8), 1, batch_size=2, seed=0, epochs=2))
        assert loaded[:2] == [5, 2]
    assert sorted(loaded) == list(range(11))


def change_size(file):
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(file)


def change_mode(file):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)


def make_palette(file):
    Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P").save(file)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-30])


@pytest.mark.parametrize("spoil", [change_size, change_mode, make_palette, cut_short, None])
def test_a_folder_that_is_not_of_small_readable_images_alike_is_read_file_by_file(spoil, monkeypatch, tmp_path, one_by_one):
    folder, _ = folder_of(tmp_path, arrays(11, 8, 8))
    if spoil:
        spoil(Path(folder.train.label(4)))
    else:
        monkeypatch.setattr(splits, "DECODED", 11 * 64 - 1)
    data = DataSection(crop_padding=1, on_bad_image="skip")
    assert train_in_memory(folder.train, data, (8, 8), 1, 0) is None
    assert train_in_memory(folder.train, data, (8, 8), 1, 0) is None, "nor when asked again"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def batches():
            return train_batches(folder.train, data, (8, 8), 1, batch_size=11, seed=0, epochs=1)

        assert same(list(batches()), one_by_one(batches))
    if spoil is cut_short:
        with pytest.raises(InputError, match="004.png"):
            list(train_batches(folder.train, DataSection(), (8, 8), 1, batch_size=11, seed=0, epochs=1))


def test_a_folder_whose_images_would_be_too_large_when_resized_is_not_decoded(monkeypatch, tmp_path):
    folder, _ = folder_of(tmp_path, arrays(11, 8, 8))
    monkeypatch.setattr(in_memory, "LIMIT", 11 * 16 * 16)
    monkeypatch.setattr(Files, "load", lambda *_: pytest.fail("it was decoded"))
    assert train_in_memory(folder.train, DataSection(), (16, 17), 1, 0) is None


def test_the_images_themselves_and_all_random_states_stay_as_they_were():
    split, data = arrays(12, 8, 8), DataSection(crop_padding=2, hflip=1.0)
    before = split.images.copy()
    split.images.flags.writeable = False  # as those of a file are
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(train_batches(split, data, (8, 8), 1, batch_size=4, seed=0, epochs=2))
    assert (split.images == before).all()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    (x, _), *_ = eval_batches(split, DataSection(mean=(0.0,), std=(1.0,)), (8, 8), 1, batch_size=12)
    assert torch.equal(x[3], transforms.ToTensor()(split.load(3)))
