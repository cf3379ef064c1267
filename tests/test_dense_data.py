"""Images with a class for each pixel: scenes, folders of masks, one geometry for both, batches, errors."""

from __future__ import annotations

import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from wfbench.data import (
    DenseDataset,
    dense_eval_batches,
    dense_train_batches,
    open_dataset,
    open_dense,
    steps_per_epoch,
)
from wfbench.data.dense import Crops, Scene, SceneSplit, compose, scenes
from wfbench.data.dense.transforms import eval_pair, train_pair
from wfbench.errors import InputError
from wfbench.recipe import DataSection, DenseDataSection

SCENES = DataSection(source="scenes", dense=DenseDataSection(train=24, held_out=10))


@pytest.fixture(scope="module")
def digits() -> DenseDataset:
    return open_dense(SCENES)


def section(dense: dict[str, object] | None = None, **data: object) -> DataSection:
    return DataSection.model_validate({"source": "folder-seg", "dense": dense or {}, **data})


# Scenes.


class Square:
    """Crops that are full squares, so that what a scene holds can be computed by hand."""

    crops = Crops(np.stack([np.full((8, 8), 255, np.uint8)] * 10), np.arange(10))


def drawn(seed: int, size: tuple[int, int] = (64, 64), crops: Crops = Square.crops, **settings: object) -> Scene:
    return compose(np.random.default_rng(seed), crops, size, DenseDataSection(**settings))  # type: ignore[arg-type]


def test_labels_are_the_class_of_the_ink_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every crop that is pasted, replayed by hand."""
    pasted: list[tuple[int, int, np.ndarray]] = []
    freest, pick = scenes._freest, Crops.pick
    picked: list[tuple[int, np.ndarray]] = []

    def keep_pick(self: Crops, c: int, u: float, side: int) -> np.ndarray:
        picked.append((int(c), pick(self, c, u, side)))
        return picked[-1][1]

    def keep_place(*args: object) -> tuple[int, int]:
        place = freest(*args)  # type: ignore[arg-type]
        pasted.append((*place, picked[-1][1]))
        return place

    monkeypatch.setattr(Crops, "pick", keep_pick)
    monkeypatch.setattr(scenes, "_freest", keep_place)
    split = open_dense(SCENES).train
    assert isinstance(split, SceneSplit)
    covered = 0
    for i in range(20):
        picked.clear()
        pasted.clear()
        scene = split.scene(i, (64, 64), seed=1, epoch=0)
        objects = picked[-len(pasted) :]  # the clutter comes first
        assert len(picked) - len(objects) == 6
        assert 4 <= len(objects) <= 8
        by_hand = np.zeros((64, 64), int)
        for (c, crop), (top, left, _) in zip(objects, pasted, strict=True):
            part = by_hand[top : top + len(crop), left : left + len(crop)]
            covered += int(((part > 0) & (crop >= 128)).sum())
            part[crop >= 128] = 1 + c
        assert np.array_equal(scene.mask, by_hand)
    assert covered > 0, "no object lies on another: the order was not tried"


def test_ink_is_where_the_mask_says() -> None:
    """On a canvas without clutter, the pixels of full squares are brighter than all others."""
    for seed in range(10):
        scene = drawn(seed, objects=(1, 1), clutter=0)
        inside, outside = scene.image[scene.mask > 0], scene.image[scene.mask == 0]
        assert scene.image.dtype == scene.mask.dtype == np.uint8
        assert inside.min() >= 153 - 12
        assert outside.max() <= 90 + 50 + 12
        (left, top, right, bottom), c = scene.boxes[0], scene.classes[0]
        assert (scene.mask[top:bottom, left:right] == c).all()
        assert (scene.mask > 0).sum() == (right - left) * (bottom - top)
        assert right - left == bottom - top
        assert 12 <= right - left <= 24


@pytest.mark.parametrize("size", [(64, 64), (40, 96)])
def test_boxes_and_instances_follow_from_the_pixels_that_are_seen(size: tuple[int, int]) -> None:
    for seed in range(30):
        scene = drawn(seed, size, objects=(14, 14))
        assert len(scene.boxes) == len(scene.classes) == scene.instances.max()
        assert ((scene.instances == 0) == (scene.mask == 0)).all()
        for k, (left, top, right, bottom) in enumerate(scene.boxes.tolist(), start=1):
            rows, columns = np.nonzero(scene.instances == k)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (scene.mask[rows, columns] == scene.classes[k - 1]).all()


def test_an_object_that_is_covered_wholly_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "_freest", lambda instances, side, u: (3, 5))  # all at one place
    scene = drawn(0, objects=(5, 5), object_size=(20, 20), clutter=0)
    assert scene.boxes.tolist() == [[5, 3, 25, 23]]
    assert np.unique(scene.instances).tolist() == [0, 1]
    assert np.unique(scene.mask).tolist() == [0, scene.classes[0]]


def test_a_scene_without_objects_in_sight_has_no_boxes() -> None:
    faint = Crops(np.full((10, 8, 8), 127, np.uint8), np.arange(10))
    scene = drawn(0, crops=faint)
    assert scene.boxes.shape == (0, 4)
    assert not scene.mask.any()
    assert not scene.instances.any()


def test_clutter_changes_the_image_and_no_label() -> None:
    """Pieces alone, many of them, and objects of no ink: all is background, and much of it is bright."""
    with_clutter = drawn(0, crops=Square.crops, objects=(1, 1), clutter=40)
    without = drawn(0, crops=Square.crops, objects=(1, 1), clutter=0)
    assert (with_clutter.image[with_clutter.mask == 0] > 153).mean() > 0.2
    assert (without.image[without.mask == 0] > 153).mean() == 0
    assert len(with_clutter.boxes) == len(without.boxes) == 1


def test_growth_keeps_the_objects_or_their_number() -> None:
    def found(size: int, growth: str) -> tuple[float, float, float]:
        made = [drawn(seed, (size, size), growth=growth, clutter=2) for seed in range(12)]
        boxes = np.concatenate([scene.boxes for scene in made])
        share = float(np.mean([(scene.mask > 0).mean() for scene in made]))
        return len(boxes) / len(made), float((boxes[:, 2] - boxes[:, 0]).mean()), share

    number, side, share = found(64, "more")
    assert (number, side, share) == found(64, "larger")
    more, larger = found(192, "more"), found(192, "larger")
    assert more[0] == pytest.approx(9 * number, rel=0.15)
    assert more[1] == pytest.approx(side, rel=0.1)
    assert larger[0] == pytest.approx(number, rel=0.15)
    assert larger[1] == pytest.approx(3 * side, rel=0.1)
    assert more[2] == pytest.approx(share, rel=0.15)
    assert larger[2] == pytest.approx(share, rel=0.15)


def test_an_object_larger_than_the_canvas_is_refused(digits: DenseDataset) -> None:
    with pytest.raises(InputError, match=r"canvas is smaller[\s\S]*20x64[\s\S]*at least 24"):
        digits.train.load(0, (20, 64), seed=0, epoch=0)


def test_classes_of_objects_are_balanced_and_of_pixels_nearly(digits: DenseDataset) -> None:
    assert isinstance(digits.train, SceneSplit)
    made = [digits.train.scene(i, (64, 64), seed=0, epoch=0) for i in range(400)]
    objects = np.bincount(np.concatenate([scene.classes for scene in made]), minlength=11)
    assert objects[0] == 0
    expected = objects.sum() / 10  # within 4.5 standard deviations
    assert np.abs(objects[1:] - expected).max() < 4.5 * (expected * 0.9) ** 0.5
    pixels = np.bincount(np.concatenate([scene.mask.ravel() for scene in made]), minlength=11)
    shares = pixels / pixels.sum()
    assert 0.83 < shares[0] < 0.87
    assert shares[1:].min() > 0.012
    assert shares[1:].max() < 0.019


def test_training_and_held_out_crops_are_those_of_the_digits_and_disjoint(digits: DenseDataset) -> None:
    plain = open_dataset(DataSection())
    assert isinstance(digits.train, SceneSplit)
    assert isinstance(digits.val, SceneSplit)
    for split, source in ((digits.train, plain.train), (digits.val, plain.val)):
        assert len(split.crops.images) == len(source)
        assert all(np.array_equal(split.crops.images[i], np.asarray(source.load(i))) for i in range(0, len(source), 37))
        assert [source.targets[i] for c in split.crops.by_class for i in c] == [
            c for c in range(10) for _ in split.crops.by_class[c]
        ]
    assert digits.classes == ("background", *"0123456789")
    assert digits.name == "scenes of digits (20% held out by split seed 0) (24 an epoch, 10 held out)"
    assert digits.train.label(3) == "training scene 3"
    assert digits.val.label(3) == "held-out scene 3"


def test_scenes_of_fashion_need_its_files_and_use_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not say where the crops are[\s\S]*fashion[\s\S]*--data scenes:PATH"):
        open_dense(DataSection(source="scenes", dense=DenseDataSection(crops="fashion")))

    def integers(*numbers: int) -> bytes:
        return b"".join(n.to_bytes(4, "big") for n in numbers)

    for stem in ("train", "t10k"):
        images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
        (tmp_path / f"{stem}-images-idx3-ubyte").write_bytes(integers(2051, 20, 28, 28) + images.tobytes())
        labels = (np.arange(20) % 10).astype(np.uint8)
        (tmp_path / f"{stem}-labels-idx1-ubyte").write_bytes(
            (2049).to_bytes(4, "big") + (20).to_bytes(4, "big") + labels.tobytes()
        )
    found = open_dense(DataSection(source="scenes", path=str(tmp_path), hflip=0.5, dense=DenseDataSection(crops="fashion")))
    assert found.classes[:3] == ("background", "T-shirt/top", "Trouser")
    image, mask = found.train.load(0, (64, 64), seed=0, epoch=0)
    assert image.size == mask.shape == (64, 64)


def test_limit_and_validation_choose_crops(digits: DenseDataset) -> None:
    few = open_dense(SCENES.model_copy(update={"limit": 50, "validation": 0.4}))
    assert isinstance(few.train, SceneSplit)
    assert isinstance(few.val, SceneSplit)
    assert (len(few.train.crops.images), len(few.val.crops.images)) == (30, 20)
    assert (len(few.train), len(few.val)) == (24, 10)
    assert few.listing.digest != digits.listing.digest


def batch_list(data: DataSection, dataset: DenseDataset, **settings: object) -> list[tuple[Tensor, Tensor]]:
    asked: dict[str, object] = {"batch_size": 8, "seed": 3, "epochs": 2} | settings
    return list(dense_train_batches(dataset, data, (64, 64), 1, **asked))  # type: ignore[arg-type]


def same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True))


def test_a_scene_is_a_function_of_seed_epoch_and_index(digits: DenseDataset) -> None:
    first = digits.train.load(5, (64, 64), seed=1, epoch=2)

    def differs(image: Image.Image) -> bool:
        return not np.array_equal(np.asarray(image), np.asarray(first[0]))

    digits.train.load(7, (64, 64), seed=9, epoch=9)
    again = digits.train.load(5, (64, 64), seed=1, epoch=2)
    assert not differs(again[0])
    assert np.array_equal(again[1], first[1])
    for i, seed, epoch in ((6, 1, 2), (5, 2, 2), (5, 1, 3), (5, 2, 1)):
        assert differs(digits.train.load(i, (64, 64), seed=seed, epoch=epoch)[0])


def test_held_out_scenes_are_the_same_for_every_seed_and_epoch_and_none_of_training(digits: DenseDataset) -> None:
    held = [np.asarray(digits.val.load(i, (64, 64), seed=0, epoch=0)[0]) for i in range(10)]
    for seed, epoch in ((5, 0), (0, 7)):
        again = [np.asarray(digits.val.load(i, (64, 64), seed=seed, epoch=epoch)[0]) for i in range(10)]
        assert all(map(np.array_equal, held, again))
    # Not even the draws are shared: with the crops of training, the held-out scene of an index is another one.
    assert isinstance(digits.train, SceneSplit)
    as_held_out = SceneSplit(digits.train.crops, (), DenseDataSection(), held_out=True).scene(0, (64, 64))
    assert not np.array_equal(as_held_out.instances > 0, digits.train.scene(0, (64, 64), seed=0, epoch=0).instances > 0)


def test_batches_do_not_depend_on_workers_start_or_processes(digits: DenseDataset) -> None:
    jittered = SCENES.model_copy(update={"crop_padding": 4})
    plain = batch_list(jittered, digits)
    assert [tuple(x.shape) for x, _ in plain] == [(8, 1, 64, 64)] * 6
    assert plain[0][0].dtype == torch.float32
    assert plain[0][1].dtype == torch.int64
    assert plain[0][1].shape == (8, 64, 64)
    assert same(batch_list(jittered.model_copy(update={"workers": 2}), digits), plain)
    assert same(batch_list(jittered, digits, start=(1, 1)), plain[4:])
    assert not same(batch_list(jittered, digits, seed=4), plain)
    assert not torch.equal(plain[0][1], plain[3][1])  # another epoch
    parts = [batch_list(jittered, digits, rank=rank, world=2) for rank in range(2)]
    together = [torch.cat([a[:2], b[:2], b[2:], a[2:]]) for (a, _), (b, _) in zip(*parts, strict=True)]
    assert all(torch.equal(x, y) for x, (y, _) in zip(together, plain, strict=True))
    assert steps_per_epoch(digits.train, 8) == 3
    with pytest.raises(InputError, match="cannot be shared out"):
        batch_list(jittered, digits, world=3)


def test_the_process_s_own_random_states_are_left_alone(digits: DenseDataset) -> None:
    jittered = SCENES.model_copy(update={"crop_padding": 4})
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index,union-attr]
    batch_list(jittered, digits)
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index,union-attr]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_held_out_batches_of_scenes(digits: DenseDataset) -> None:
    def held(size: tuple[int, int], channels: int = 1, **settings: int) -> list[tuple[Tensor, Tensor]]:
        return list(dense_eval_batches(digits, SCENES, size, channels, **({"batch_size": 4} | settings)))

    plain = held((64, 64))
    assert [tuple(x.shape) for x, _ in plain] == [(4, 1, 64, 64)] * 2 + [(2, 1, 64, 64)]
    for i in range(10):
        image, mask = digits.val.load(i, (64, 64), seed=0, epoch=0)
        x, y = plain[i // 4][0][i % 4], plain[i // 4][1][i % 4]
        assert torch.equal(y, torch.from_numpy(mask).long())
        assert torch.allclose(x[0] * 0.5 + 0.5, torch.from_numpy(np.asarray(image) / 255).float(), atol=1e-6)
    assert same(held((64, 64), rank=1, world=2), plain[1::2])
    colour = held((64, 64), 3)
    assert torch.equal(colour[0][0], plain[0][0].expand(-1, 3, -1, -1))
    large = held((128, 96), batch_size=10)
    assert large[0][0].shape == (10, 1, 128, 96)
    assert large[0][1].shape == (10, 128, 96)
    padded = held((64, 60), multiple=8)
    assert padded[0][0].shape == (4, 1, 64, 64)
    assert (padded[0][1][:, :, 60:] == 255).all()
    assert (padded[0][1][:, :, :60] != 255).all()
    assert (padded[0][0][..., 60:] == 0).all()


def test_the_digest_of_scenes_knows_crops_settings_and_composer(digits: DenseDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(**settings: object) -> str:
        data = {"dense": DenseDataSection(train=24, held_out=10, **settings)}  # type: ignore[arg-type]
        return open_dense(SCENES.model_copy(update=data)).listing.digest

    plain = digits.listing.digest
    assert digest() == plain
    assert set(digits.listing.parts) == {"train", "val"}
    assert len({plain, digest(objects=(2, 3)), digest(clutter=0), digest(growth="larger"), digest(object_size=(8, 9))}) == 5
    assert digest(scale=(1.0, 1.0)) == plain  # of the recipe, not of the data
    assert open_dense(SCENES.model_copy(update={"split_seed": 1})).listing.digest != plain
    monkeypatch.setattr(scenes, "_NOISE", 13)
    assert digest() != plain


# One geometry for image and mask.

GEOMETRIES: dict[str, dict[str, object]] = {
    "resize": {},
    "shift": {"crop_padding": 9},
    "shift and flip": {"crop_padding": 9, "hflip": 0.5},
    "resized-crop": {"augment": "resized-crop", "hflip": 0.5, "color_jitter": 0.0},
    "scale-crop": {"augment": "scale-crop", "hflip": 0.5},
    "scale-crop, mixed": {"augment": "scale-crop", "hflip": 0.5, "dense": {"max_class_share": 0.001}},
}
SIDES = (200, 160)  # (H, W) of the image, each pixel of which holds its row and column
OF_MODEL = (96, 128)


def coordinates() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """An image with row, column and 255 in its channels, and masks of rows and of columns."""
    rows, columns = (a.astype(np.uint8) for a in np.indices(SIDES))
    return Image.fromarray(np.stack([rows, columns, np.full(SIDES, 255, np.uint8)], axis=2)), rows, columns


def apart(x: Tensor, rows: Tensor, columns: Tensor) -> tuple[float, float]:
    """How far labels are from their pixels (in pixels of the source, away from edges), and the share of labelled places."""
    pixels = (x * 0.5 + 0.5) * 255
    inside = (rows != 255) & (columns != 255)
    assert torch.equal(rows != 255, columns != 255)
    # Interpolation mixes what is outside into the pixels beside it: look at those with all neighbours inside.
    core = -torch.nn.functional.max_pool2d(-inside[None].float(), 9, 1, 4)[0] > 0
    core &= (rows > 8) & (rows < SIDES[0] - 9) & (columns > 8) & (columns < SIDES[1] - 9)
    assert core.any()
    return max(float((pixels[c] - y)[core].abs().max()) for c, y in ((0, rows), (1, columns))), float(inside.float().mean())


def transformed(data: DataSection, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates after the training transform: image, rows and columns, all with the draws of sample ``i``."""
    image, *masks = coordinates()
    assert data.dense is not None
    pair, _ = train_pair(data, data.dense, OF_MODEL, 3)
    found = []
    for mask in masks:
        torch.manual_seed(i)
        found.append(pair(image, mask))
    assert torch.equal(found[0][0], found[1][0])
    return found[0][0], found[0][1], found[1][1]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_mask_never_parts_from_its_image(name: str) -> None:
    """Nearest takes a pixel up to one scaled pixel away: 200 / 96 at most here, or 2 where the scale is a half."""
    data = section(**GEOMETRIES[name])
    seen = set()
    for i in range(30):
        x, rows, columns = transformed(data, i)
        assert x.shape == (3, *OF_MODEL)
        assert rows.dtype == torch.int64
        distance, share = apart(x, rows, columns)
        assert distance < 2.6
        seen.add((int(rows[48, 64]), int(columns[48, 64]), round(share, 3)))
    assert (len(seen) > 5) == (name != "resize")
    if name == "scale-crop":
        assert min(share for *_, share in seen) < 0.8  # some are smaller than the crop and padded
        assert max(share for *_, share in seen) == 1
    if "flip" in name:
        steps = {int((columns[48, 70] - columns[48, 60]).sign()) for _, _, columns in (transformed(data, i) for i in range(30))}
        assert steps == {-1, 1}


def test_a_mask_that_parts_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong version: flips that are drawn for the image alone."""
    flip = v2.RandomHorizontalFlip.transform

    def of_images(self: v2.RandomHorizontalFlip, x: object, params: dict[str, object]) -> object:
        return x if isinstance(x, tv_tensors.Mask) else flip(self, x, params)

    monkeypatch.setattr(v2.RandomHorizontalFlip, "transform", of_images)
    data = section(**GEOMETRIES["scale-crop"])
    assert max(apart(*transformed(data, i))[0] for i in range(10)) > 50


def test_masks_are_resized_by_nearest() -> None:
    data = section()
    assert data.dense is not None
    pair, drawn_at_random = train_pair(data, data.dense, (30, 50), 3)
    assert not drawn_at_random
    image, _, _ = coordinates()
    mask = (np.random.default_rng(0).integers(0, 2, SIDES) * 200).astype(np.uint8)
    mask[0, 0] = 255
    assert set(pair(image, mask)[1].unique().tolist()) <= {0, 200, 255}


def test_colours_change_the_image_alone_and_neither_geometry_nor_mask() -> None:
    jitter = section(augment="scale-crop", color_jitter=0.4)
    plain = section(augment="scale-crop")
    for i in range(5):
        x, rows, columns = transformed(jitter, i)
        u, same_rows, same_columns = transformed(plain, i)
        assert torch.equal(rows, same_rows)
        assert torch.equal(columns, same_columns)
        assert not torch.equal(x, u)


def test_padding_has_no_label_and_the_mean_colour() -> None:
    data = section({"scale": [0.5, 0.5], "ignore_index": 77}, augment="scale-crop", mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3))
    assert data.dense is not None
    pair, _ = train_pair(data, data.dense, (64, 64), 3)
    x, y = pair(Image.new("RGB", (40, 40), (255, 0, 0)), np.full((40, 40), 3, np.uint8))
    assert sorted(y.unique().tolist()) == [3, 77]
    assert int((y == 3).sum()) == 32 * 32
    outside = x[:, y == 77]
    assert outside.abs().max() < 0.5 / 255 / 0.1 + 1e-6
    inside = x[:, y == 3].mean(dim=1)
    assert inside.tolist() == pytest.approx([(1 - 0.2) / 0.1, -0.4 / 0.2, -0.6 / 0.3], abs=1e-4)


def test_a_crop_of_one_class_is_drawn_again() -> None:
    """A mask that is one class but for a small corner: without the rule few crops see the corner, with it most do."""
    mask = np.zeros((200, 200), np.uint8)
    mask[:60, :60] = 1
    image = Image.new("RGB", (200, 200))

    def mixed(share: float | None) -> int:
        data = section({"scale": (3.0, 3.0), "max_class_share": share}, augment="scale-crop")
        assert data.dense is not None
        pair, _ = train_pair(data, data.dense, (64, 64), 3)
        torch.manual_seed(0)
        return sum(len(pair(image, mask)[1].unique()) == 2 for _ in range(40))

    assert mixed(None) < 15
    assert mixed(0.9) > mixed(None) + 10


def test_evaluation_sees_the_image_s_own_size_or_resizes_the_image_alone() -> None:
    image, rows, columns = coordinates()

    def held(**dense: object) -> tuple[Tensor, Tensor]:
        data = section(dense)
        assert data.dense is not None
        return eval_pair(data, data.dense, (64, 64), 3, (16, 16))(image, rows)

    x, y = held()
    assert x.shape == (3, 208, 160)
    assert torch.equal(y[:200], torch.from_numpy(rows).long())
    assert (y[200:] == 255).all()
    assert (x[:, 200:] == 0).all()
    assert torch.allclose((x[1, :200] * 0.5 + 0.5) * 255, torch.from_numpy(columns).float(), atol=1e-3)
    x, y = held(eval_size="shorter")
    assert x.shape == (3, 80, 64)
    assert torch.equal(y, torch.from_numpy(rows).long())
    assert float((x[0, 40, 32] * 0.5 + 0.5) * 255) == pytest.approx(100, abs=3)


def test_an_image_smaller_than_the_model_is_padded_to_it() -> None:
    data = section()
    assert data.dense is not None
    x, y = eval_pair(data, data.dense, (64, 96), 1, (4, 4))(Image.new("L", (30, 20)), np.zeros((20, 30), np.uint8))
    assert x.shape == (1, 64, 96)
    assert int((y == 0).sum()) == 600


# Folders of masks.


def save_index(path: Path, indices: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "P":
        image = Image.fromarray(indices)
        image.putpalette([v for k in range(256) for v in (255 - k, k, 40)])
    else:
        image = Image.fromarray(indices).convert(mode) if mode != "1" else Image.fromarray(indices > 0)
    image.save(path)


PARTS = ("train", "val")


def make_folder(
    root: Path, n: int = 4, mode: str = "L", parts: tuple[str, str] = ("train", "val"), masks: str = "masks"
) -> None:
    rng = np.random.default_rng(0)
    for part in parts:
        (root / "images" / part).mkdir(parents=True)
        for i in range(n):
            size = (20 + i, 30 + 2 * i)
            pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / part / f"im{i}.{'png' if i % 2 else 'jpg'}")
            indices = rng.integers(0, 2 if mode == "1" else 3, size, dtype=np.uint8)
            if mode != "1":
                indices[:2] = 255
            save_index(root / masks / part / f"im{i}.png", indices, mode)
    (root / "classes.txt").write_text("sky\ntree\n\nroad and path\n")


def opened(root: Path, **dense: object) -> DenseDataset:
    return open_dense(section(dense, path=str(root)))


@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_a_folder_of_index_pngs(tmp_path: Path, mode: str) -> None:
    root = tmp_path / "photos"
    make_folder(root, mode=mode)
    found = opened(root)
    assert found.name == "folder-seg photos (4 train, 4 held out)"
    assert found.classes == ("sky", "tree", "road and path")
    rng = np.random.default_rng(0)
    for i in range(4):
        rng.integers(0, 256, (20 + i, 30 + 2 * i, 3), dtype=np.uint8)
        indices = rng.integers(0, 2 if mode == "1" else 3, (20 + i, 30 + 2 * i), dtype=np.uint8)
        image, mask = found.train.load(i, (64, 64), seed=0, epoch=0)
        assert image.size == (30 + 2 * i, 20 + i)
        assert np.array_equal(mask[2:], indices[2:])
        assert mode == "1" or (mask[:2] == 255).all()


def test_ade20k_as_released(tmp_path: Path) -> None:
    make_folder(tmp_path, parts=("training", "validation"), masks="annotations")
    table = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1576\t11664\t1172\t1\twall\n2\t0.1072\t6046\t612\t1\tbuilding, edifice\n"
    (tmp_path / "objectInfo150.txt").write_text(table)
    found = opened(tmp_path, layout="ade20k")
    assert found.classes == ("wall", "building, edifice")
    raw = np.asarray(Image.open(tmp_path / "annotations" / "training" / "im1.png"))
    _, mask = found.train.load(1, (64, 64), seed=0, epoch=0)
    assert np.array_equal(mask == 255, (raw == 0) | (raw == 255))
    assert np.array_equal(mask[mask != 255], raw[mask != 255] - 1)
    kept = open_dense(section({"layout": "ade20k", "reduce_zero_label": False}, path=str(tmp_path)))
    with pytest.raises(InputError, match=r"index out of range[\s\S]*0 to 1, for 2 classes; 255 for no label"):
        kept.train.load(1, (64, 64), seed=0, epoch=0)


def test_reduced_labels_in_a_plain_layout(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save_index(tmp_path / "masks" / "train" / "im0.png", np.array([[0, 1, 2, 3, 255] * 6] * 20, np.uint8))
    _, mask = opened(tmp_path, reduce_zero_label=True).train.load(0, (64, 64), seed=0, epoch=0)
    assert mask[0, :5].tolist() == [255, 0, 1, 2, 255]


def test_another_number_for_no_label(tmp_path: Path) -> None:
    make_folder(tmp_path)
    save_index(tmp_path / "masks" / "train" / "im0.png", np.array([[0, 1, 2, 9, 9] * 6] * 20, np.uint8))
    _, mask = opened(tmp_path, ignore_index=9).train.load(0, (64, 64), seed=0, epoch=0)
    assert mask[0, :5].tolist() == [0, 1, 2, 9, 9]
    with pytest.raises(InputError, match=r"ignore_index is a class[\s\S]*3 to 255"):
        opened(tmp_path, ignore_index=2)
    # With reduced labels the files' 3 is the third class, and no label for nothing.
    with pytest.raises(InputError, match=r"ignore_index is a class in the masks[\s\S]*= 3;[\s\S]*4 to 255"):
        opened(tmp_path, ignore_index=3, reduce_zero_label=True)
    opened(tmp_path, ignore_index=4, reduce_zero_label=True)


def test_a_replaced_image_is_not_said_to_be_of_the_same_class(tmp_path: Path) -> None:
    make_folder(tmp_path)
    data = section(path=str(tmp_path), on_bad_image="skip")
    dataset = open_dense(data)
    next((tmp_path / "images" / "train").glob("im1.*")).write_bytes(b"")

    def read() -> None:
        list(dense_train_batches(dataset, data, (16, 16), 3, batch_size=4, seed=0, epochs=1))

    with pytest.warns(
        UserWarning, match=r"im1.* cannot be read and is replaced by the next image that can be read, with its mask"
    ):
        read()
    for file in (tmp_path / "images" / "train").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"no training image can be read[\s\S]*and 3 more"):
        read()


def broken(root: Path, fault: str) -> None:
    """Do one thing wrong to the mask ``im2`` of training, 22x34 pixels."""
    mask = root / "masks" / "train" / "im2.png"
    match fault:
        case "size":
            save_index(mask, np.zeros((34, 22), np.uint8))
        case "range":
            indices = np.zeros((22, 34), np.uint8)
            indices[5, 7] = 3
            save_index(mask, indices)
        case "colours":
            Image.new("RGB", (34, 22)).save(mask)
        case "sixteen bits":
            Image.fromarray(np.zeros((22, 34), np.uint16)).save(mask)
        case "jpeg":
            Image.new("L", (34, 22)).save(mask, format="JPEG")


FAULTS = {
    "size": (r"a mask has another size than its image", r"22x34 pixels", r"34x22, as .*im2\.jpg"),
    "range": (r"index out of range", r"3 at column 7, row 5", r"0 to 2, for 3 classes; 255 for no label"),
    "colours": (r"no picture of class numbers", r"PNG of mode RGB", r"palette, or grey of 8 bits"),
    "sixteen bits": (r"no picture of class numbers", r"PNG of mode I;16", r"palette, or grey of 8 bits"),
    "jpeg": (r"no picture of class numbers", r"JPEG of mode L", r"palette, or grey of 8 bits"),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_mask_is_one_message_with_its_file(tmp_path: Path, fault: str, workers: int) -> None:
    make_folder(tmp_path)
    broken(tmp_path, fault)
    # "skip" is for damaged files: wrong labels are never passed over
    data = section(path=str(tmp_path), on_bad_image="skip", workers=workers)
    what, got, expected = FAULTS[fault]
    with pytest.raises(InputError) as caught:
        list(dense_train_batches(open_dense(data), data, (16, 16), 3, batch_size=4, seed=0, epochs=1))
    message = str(caught.value)
    for part in (what, got, expected):
        assert re.search(part, message), message
    assert "im2.png" in message
    assert "Traceback" not in message


def test_a_damaged_file_stops_the_run_or_is_replaced_with_its_mask(tmp_path: Path) -> None:
    make_folder(tmp_path)
    stop = section(path=str(tmp_path))
    skip = section(path=str(tmp_path), on_bad_image="skip")

    def batch(data: DataSection, noted: dict[str, str]) -> tuple[Tensor, Tensor]:
        found = dense_train_batches(
            open_dense(data), data, (16, 16), 3, batch_size=4, seed=0, epochs=1, on_replaced=noted.__setitem__
        )
        return next(iter(found))

    whole = batch(stop, {})
    for kind in ("images", "masks"):
        file = next((tmp_path / kind / "train").glob("im1.*"))
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"an image cannot be read[\s\S]*im1"):
            batch(stop, {})
        noted: dict[str, str] = {}
        x, y = batch(skip, noted)
        assert list(noted) == [str(tmp_path / "images" / "train" / "im1.png")]
        order = np.random.default_rng((0, 0)).permutation(4).tolist()
        assert torch.equal(x[order.index(1)], whole[0][order.index(2)])
        assert torch.equal(y[order.index(1)], whole[1][order.index(2)])
        with pytest.raises(InputError, match="cannot be read"):
            damaged_val(tmp_path, skip)
        file.write_bytes(content)


def damaged_val(root: Path, data: DataSection) -> None:
    """Evaluation over a damaged image."""
    file = root / "images" / "val" / "im3.png"
    content = file.read_bytes()
    file.write_bytes(content[:100])
    try:
        list(dense_eval_batches(open_dense(data), data, (16, 16), 3, batch_size=4))
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no mask", r"do not fit together[\s\S]*4 images[\s\S]*3 masks[\s\S]*im2 \(no mask\)[\s\S]*masks.train.im2\.png"),
        ("no image", r"do not fit together[\s\S]*im0 \(no image\)"),
        ("no images", r"do not fit together[\s\S]*0 images in .*images.val, 0 masks in .*masks.val"),
        ("no folder", r"do not fit together[\s\S]*0 images in .*images.train"),
        ("two", r"two files have one name[\s\S]*im0\.bmp and im0\.jpg"),
        ("no classes", r"no list of classes[\s\S]*classes\.txt: No such file"),
        ("empty classes", r"list of classes is too short[\s\S]*classes\.txt: 0 names"),
        ("one class", r"list of classes is too short[\s\S]*classes\.txt: 1 name\n"),
        ("a class twice", r"a class is named twice[\s\S]*classes\.txt: 'a'\n"),
        ("no path", r"does not say where the images are[\s\S]*images/, masks/"),
        ("not there", r"path is not a folder"),
        ("limit", r"so many training images[\s\S]*data\.limit = 5[\s\S]*at most 4"),
        ("validation", r"so few training images[\s\S]*0\.01 of 4"),
    ],
)
def test_what_is_missing_is_one_message(tmp_path: Path, fault: str, message: str) -> None:
    make_folder(tmp_path)
    data = section(path=str(tmp_path))
    match fault:
        case "no mask":
            (tmp_path / "masks" / "train" / "im2.png").unlink()
        case "no image":
            (tmp_path / "images" / "val" / "im0.jpg").unlink()
        case "no images":
            for file in [*tmp_path.glob("*/val/*")]:
                file.unlink()
        case "no folder":
            (tmp_path / "images" / "train").rename(tmp_path / "elsewhere")
        case "two":
            Image.new("L", (3, 3)).save(tmp_path / "images" / "train" / "im0.bmp")
        case "no classes":
            (tmp_path / "classes.txt").unlink()
        case "empty classes":
            (tmp_path / "classes.txt").write_text("\n")
        case "one class":
            (tmp_path / "classes.txt").write_text("a\n")
        case "a class twice":
            (tmp_path / "classes.txt").write_text("a\nb\na\n")
        case "no path":
            data = section()
        case "not there":
            data = section(path=str(tmp_path / "nowhere"))
        case "limit":
            data = section(path=str(tmp_path), limit=5)
        case "validation":
            data = section(path=str(tmp_path), validation=0.01)
    with pytest.raises(InputError, match=message):
        open_dense(data)


def test_other_sources_have_no_class_for_each_pixel_and_these_have_no_class() -> None:
    with pytest.raises(InputError, match=r"no class for each pixel[\s\S]*digits"):
        open_dense(DataSection())
    for data in (SCENES, section(path=".")):
        with pytest.raises(InputError, match=r"none of their own[\s\S]*task: dense"):
            open_dataset(data)


def test_limit_and_validation_of_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, n=8)
    few = open_dense(section(path=str(tmp_path), limit=4))
    assert (len(few.train), len(few.val)) == (4, 8)
    assert few.name.endswith(", 4 of 8 for training")
    tuned = open_dense(section(path=str(tmp_path), limit=4, validation=0.25))
    taken, held, all_four = ({s.label(i) for i in range(len(s))} for s in (tuned.train, tuned.val, few.train))
    assert (len(taken), len(held)) == (3, 1)
    assert taken | held == all_four
    image, mask = tuned.val.load(0, (8, 8), seed=0, epoch=0)
    assert mask.shape == (image.height, image.width)
    whole = open_dense(section(path=str(tmp_path)))
    assert len({d.listing.digest for d in (whole, few, tuned)}) == 3


def test_the_digest_of_a_folder_covers_images_masks_classes_and_how_they_are_read(tmp_path: Path) -> None:
    root = tmp_path / "one"
    make_folder(root)
    plain = opened(root).listing
    assert {"images/train/im0.jpg", "masks/train/im0.png"} <= {name for name, _ in plain.parts["train"]}
    assert {"images/val/im0.jpg", "masks/val/im0.png"} <= {name for name, _ in plain.parts["val"]}
    moved = root.rename(tmp_path / "other")
    assert opened(moved).listing.digest == plain.digest
    found = {plain.digest, opened(moved, reduce_zero_label=True).listing.digest}
    mask = moved / "masks" / "train" / "im3.png"
    indices = np.asarray(Image.open(mask)).copy()
    indices[4, 4] = (indices[4, 4] + 1) % 3
    save_index(mask, indices)
    found.add(opened(moved).listing.digest)
    (moved / "classes.txt").write_text("sky\nroad and path\ntree\n")
    found.add(opened(moved).listing.digest)
    assert len(found) == 4


def test_held_out_images_of_a_folder_come_one_by_one_at_their_own_size(tmp_path: Path) -> None:
    make_folder(tmp_path)
    data = section(path=str(tmp_path))
    held = list(dense_eval_batches(open_dense(data), data, (16, 16), 3, batch_size=4, multiple=4))
    assert [tuple(x.shape) for x, _ in held] == [(1, 3, 20, 32), (1, 3, 24, 32), (1, 3, 24, 36), (1, 3, 24, 36)]
    assert all(x.shape[2:] == y.shape[1:] for x, y in held)


def test_splits_and_transforms_travel_to_workers(tmp_path: Path, digits: DenseDataset) -> None:
    make_folder(tmp_path)
    data = section(path=str(tmp_path))
    assert data.dense is not None
    for split in (open_dense(data).train, digits.train, digits.val):
        image, mask = split.load(0, (64, 64), seed=0, epoch=1)
        again = pickle.loads(pickle.dumps(split)).load(0, (64, 64), seed=0, epoch=1)
        assert np.array_equal(np.asarray(again[0]), np.asarray(image))
        assert np.array_equal(again[1], mask)
    pickle.dumps([eval_pair(data, data.dense, (8, 8), 3, (4, 4)), train_pair(data, data.dense, (8, 8), 3)])
