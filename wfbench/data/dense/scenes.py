"""Scenes composed of real crops: digits or clothes pasted on a canvas, with the class of every pixel.

A scene is no natural picture. What is real are the crops; place, size, brightness, background and clutter are drawn. Since
they are pasted, the class of every pixel is known exactly, and so are the box and the pixels of every object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from wfbench.data.listing import Entry, array_entry, json_entry
from wfbench.errors import InputError
from wfbench.recipe import DenseDataSection

BACKGROUND = 0
#: A pixel is of an object from this share of a crop's full ink, of 255.
INK = 128
#: Counts of objects and clutter are those of a canvas of so many pixels.
_AREA = 64 * 64
#: Places that are tried for an object, the one that covers the least of the objects before it is taken.
_PLACES = 6
#: Largest absolute value of the noise.
_NOISE = 12
#: Resized crops that are kept, under a kilobyte each.
_KEPT = 2**15
#: Last word of the key of a draw, so that no two kinds of draw share random numbers.
_TRAIN, _HELD_OUT = 2, 3


class Crops:
    """Images to paste: 8-bit grey (n, h, w) of classes (n,) from 0."""

    def __init__(self, images: np.ndarray, classes: np.ndarray) -> None:
        self.images = images
        self.by_class = tuple(np.flatnonzero(classes == c) for c in range(int(classes.max()) + 1))
        self._resized: dict[tuple[int, int], np.ndarray] = {}

    def pick(self, c: int, u: float, side: int) -> np.ndarray:
        """The image of class ``c`` that is at ``u`` in 0..1 among its images, resized to (side, side).

        Bilinear, by Pillow's integer arithmetic: the same on every machine.
        """
        i = int(self.by_class[c][int(u * len(self.by_class[c]))])
        found = self._resized.get((i, side))
        if found is None:
            found = np.asarray(Image.fromarray(self.images[i]).resize((side, side), Image.Resampling.BILINEAR))
            if len(self._resized) < _KEPT:
                self._resized[i, side] = found
        return found


@dataclass(frozen=True)
class Scene:
    """A composed image and all that is known of it.

    Attributes:
        image: 8-bit grey (H, W).
        instances: which object is seen at each pixel (H, W): 0 for the background, k for ``classes[k - 1]``.
        classes: of each object (n,), as in the mask. An object that others cover wholly is none.
    """

    image: np.ndarray
    instances: np.ndarray
    classes: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """The class of each pixel (H, W), 8 bits: `BACKGROUND`, or 1 + the class of the crop whose ink is on top."""
        return np.concatenate([[BACKGROUND], self.classes]).astype(np.uint8)[self.instances]

    @property
    def boxes(self) -> np.ndarray:
        """Left, top, right and bottom (n, 4) of the pixels of each object; right and bottom are the first ones outside."""
        found = ndimage.find_objects(self.instances)
        return np.array([(x.start, y.start, x.stop, y.stop) for y, x in found], dtype=np.int64).reshape(-1, 4)


def compose(rng: np.random.Generator, crops: Crops, size: tuple[int, int], dense: DenseDataSection) -> Scene:
    """Draw a scene on a canvas ``size`` (H, W).

    Clutter, pieces of crops, is pasted first and is background. Then come objects, each class as likely as the others; the
    later ones cover the earlier.

    Raises:
        InputError: if an object may be larger than the canvas.
    """
    area = size[0] * size[1] / _AREA
    number, stretch = (area, 1.0) if dense.growth == "more" else (1.0, area**0.5)
    low, high = (max(1, round(n * number)) for n in dense.objects)
    sides = tuple(max(4, round(side * stretch)) for side in dense.object_size)
    if sides[1] > min(size):
        raise InputError(
            "the canvas is smaller than an object",
            got=f"{size[0]}x{size[1]} pixels, objects of up to {sides[1]}",
            expected=f"sides of at least {sides[1]} pixels",
            remedy="set model.image_size or data.dense.object_size",
        )
    canvas = _background(rng, size)
    for u in rng.random((round(dense.clutter * number), 8)).tolist():
        piece = _piece(crops, u[:5], sides)
        top, left = (int(v * (n - m + 1)) for v, n, m in zip(u[5:7], size, piece.shape, strict=True))
        _blend(canvas[top : top + piece.shape[0], left : left + piece.shape[1]], piece, u[7])
    count = int(rng.integers(low, high, endpoint=True))
    instances = np.zeros(size, dtype=np.int32)
    classes = np.empty(count, dtype=np.int64)
    for k, u in enumerate(rng.random((count, 4 + 2 * _PLACES)).tolist()):
        classes[k] = int(u[0] * len(crops.by_class))
        crop = crops.pick(classes[k], u[1], _between(sides, u[2]))
        top, left = _freest(instances, len(crop), u[4:])
        bottom, right = top + len(crop), left + len(crop)
        _blend(canvas[top:bottom, left:right], crop, u[3])
        instances[top:bottom, left:right][crop >= INK] = k + 1
    noise = rng.integers(-_NOISE, _NOISE, size, endpoint=True, dtype=np.int8)
    image = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return Scene(image, *_seen(instances, 1 + classes))


class SceneSplit:
    """Scenes by their index; those of training are others in each epoch, the held-out ones are always the same."""

    def __init__(self, crops: Crops, entries: tuple[Entry, ...], dense: DenseDataSection, *, held_out: bool) -> None:
        self.crops, self.dense, self.held_out, self._entries = crops, dense, held_out, entries

    def __len__(self) -> int:
        return self.dense.held_out if self.held_out else self.dense.train

    def scene(self, i: int, size: tuple[int, int], *, seed: int = 0, epoch: int = 0) -> Scene:
        """The ``i``-th scene on a canvas ``size`` (H, W); held-out ones know neither ``seed`` nor ``epoch``.

        Raises:
            InputError: as `compose`.
        """
        key = (0, 0, i, _HELD_OUT) if self.held_out else (seed, epoch, i, _TRAIN)
        return compose(np.random.default_rng(key), self.crops, size, self.dense)

    def load(self, i: int, size: tuple[int, int], *, seed: int, epoch: int) -> tuple[Image.Image, np.ndarray]:
        """Image and mask (H, W) of the ``i``-th scene."""
        scene = self.scene(i, size, seed=seed, epoch=epoch)
        return Image.fromarray(scene.image), scene.mask

    def label(self, i: int) -> str:
        """What to call the ``i``-th scene."""
        return f"{'held-out' if self.held_out else 'training'} scene {i}"

    def entries(self) -> tuple[Entry, ...]:
        """The crops, the settings, and a scene, which changes with whatever else decides how it is composed."""
        keys = {"train", "held_out", "objects", "object_size", "clutter", "growth"}
        side = max(64, self.dense.object_size[1])
        scene = self.scene(0, (side, side))
        return (
            *self._entries,
            json_entry("(composition)", self.dense.model_dump(mode="json", include=keys)),
            array_entry("(a scene)", np.stack([scene.image, scene.mask])),
        )


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A gradient (H, W), float32, around a level in 10..90, with up to 50 from one side to the other in either direction."""
    u = rng.random(3)
    across, down = ((100 * v - 50) * (np.arange(n) / n - 0.5) for v, n in zip(u[:2], size[::-1], strict=True))
    return down.astype(np.float32)[:, None] + (10 + 80 * u[2] + across).astype(np.float32)


def _piece(crops: Crops, u: list[float], sides: tuple[int, ...]) -> np.ndarray:
    """A part of a resized crop, a third to a half of its side high and wide, around its centre, where ink is."""
    crop = crops.pick(int(u[0] * len(crops.by_class)), u[1], _between(sides, u[2]))
    side = len(crop)
    height, width = (max(2, round(side * (1 / 3 + v / 6))) for v in u[3:5])
    top, left = (side - height) // 2, (side - width) // 2
    return crop[top : top + height, left : left + width]


def _between(sides: tuple[int, ...], u: float) -> int:
    """A whole number from the first to the last, by ``u`` in 0..1."""
    return sides[0] + int(u * (sides[1] - sides[0] + 1))


def _blend(place: np.ndarray, crop: np.ndarray, u: float) -> None:
    """Paint ``crop`` over a part of the canvas; its ink of full strength is 153 to 255, by ``u`` in 0..1."""
    place += crop * np.float32(1 / 255) * (np.float32(153 + 102 * u) - place)


def _freest(instances: np.ndarray, side: int, u: list[float]) -> tuple[int, int]:
    """Of some places, top and left by turns in 0..1, the first one whose square covers the fewest pixels of objects."""
    height, width = (n - side + 1 for n in instances.shape)
    best, fewest = (0, 0), side * side + 1
    for v, w in zip(u[::2], u[1::2], strict=True):
        top, left = int(v * height), int(w * width)
        covered = int(np.count_nonzero(instances[top : top + side, left : left + side]))
        if covered < fewest:
            best, fewest = (top, left), covered
        if not covered:
            break
    return best


def _seen(instances: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Instances and classes without the objects that are not seen at all."""
    seen = np.bincount(instances.ravel(), minlength=len(classes) + 1)[1:] > 0
    if seen.all():
        return instances, classes
    numbers = np.concatenate([[0], np.cumsum(seen) * seen]).astype(instances.dtype)
    return numbers[instances], classes[seen]
