"""Batches of images that lie in memory, made at once, with the pixels and the draws of the path image by image.

What that path draws for an image is here computed for all images of a batch: it gives torch's generator the third word of
SeedSequence (seed, epoch, index) and takes its first numbers, and torch's generator is the Mersenne twister that numpy has too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from wfbench.data.reading import Key, Whole
from wfbench.data.splits import Arrays, Files, Fitted, Split, whole_of
from wfbench.data.transforms import channel_statistics, eval_transform, to_channels
from wfbench.recipe import DataSection

#: Bytes of resized images that a split may keep; where they would be more, every image is resized each time.
LIMIT = 2**30
_WORD = 2**32 - 1
_POOL = 4  # words of a SeedSequence


@dataclass(frozen=True)
class Shift:
    """What is drawn for an image: by how much it is shifted, and whether it is flipped."""

    padding: int
    hflip: float

    def draw(self, seed: int, keys: list[Key]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each key the corner of the crop in the padded image, top and left, and whether to flip; three times (B,)."""
        top = left = np.zeros(len(keys), dtype=np.int64)
        flipped = np.zeros(len(keys), dtype=bool)
        if self.padding or self.hflip:
            words = torch_words(seed, keys, 3)
            if self.padding:
                top, left = (words[:, :2] % (2 * self.padding + 1)).T
            if self.hflip:
                last = words[:, 2 if self.padding else 0]
                flipped = (last & (2**24 - 1)) * 2.0**-24 < np.float32(self.hflip)
        return top, left, flipped

    def apply(self, images: np.ndarray, top: np.ndarray, left: np.ndarray, flipped: np.ndarray) -> np.ndarray:
        """The crops, of the images' own size, out of the images (B, C, H, W) with a black margin."""
        b, c, h, w = images.shape
        p = self.padding
        padded = np.zeros((b, c, h + 2 * p, w + 2 * p), dtype=np.uint8)
        padded[:, :, p : p + h, p : p + w] = images
        crops = sliding_window_view(padded, (h, w), axis=(2, 3))  # (B, C, 2p + 1, 2p + 1, H, W), without a copy
        shifted = crops[np.arange(b), :, top, left]  # (B, C, H, W)
        shifted[flipped] = shifted[flipped, ..., ::-1]
        return shifted


class InMemory:
    """Samples by (epoch, index), a batch at a time. Every one can be made."""

    replace = False

    def __init__(
        self,
        images: np.ndarray,
        places: np.ndarray,
        targets: tuple[int, ...],
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        seed: int,
        shift: Shift,
    ) -> None:
        self.images, self.places, self.seed, self.shift = images, places, seed, shift
        self.targets = torch.tensor(targets, dtype=torch.int64)
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in statistics)

    def __getitems__(self, keys: list[Key]) -> Whole:
        indices = [i for _, i in keys]
        images = self.images[self.places[indices]].transpose(0, 3, 1, 2)  # (B, C, H, W), a copy
        if self.shift.padding or self.shift.hflip:
            images = self.shift.apply(images, *self.shift.draw(self.seed, keys))
        pixels = torch.from_numpy(images).to(torch.float32, memory_format=torch.contiguous_format)
        return Whole(pixels.div_(255).sub_(self.mean).div_(self.std), self.targets[indices])


def train_in_memory(
    split: Split, data: DataSection, image_size: tuple[int, int], in_channels: int, seed: int
) -> InMemory | None:
    """The training samples, or None where they have to be made image by image."""
    if data.augment != "shift":
        return None
    fit = transforms.Resize(image_size, InterpolationMode(data.interpolation))
    found = _fitted(split, fit, ("train", data.interpolation), image_size, in_channels, plain=True)
    if found is None:
        return None
    return InMemory(*found, split.targets, channel_statistics(data, in_channels), seed, Shift(data.crop_padding, data.hflip))


def eval_in_memory(split: Split, data: DataSection, image_size: tuple[int, int], in_channels: int) -> InMemory | None:
    """The samples as they are evaluated, or None where they have to be made image by image."""
    *steps, _, normalise = eval_transform(data, image_size, in_channels).transforms
    assert isinstance(normalise, transforms.Normalize)
    name = ("eval", data.interpolation, data.eval_resize, data.eval_crop)
    found = _fitted(split, transforms.Compose(steps), name, image_size, in_channels, plain=data.eval_crop == 1)
    if found is None:
        return None
    return InMemory(*found, split.targets, channel_statistics(data, in_channels), 0, Shift(0, 0.0))


def _fitted(
    split: Split,
    fit: Callable[[Image.Image], Image.Image],
    name: tuple[object, ...],
    image_size: tuple[int, int],
    in_channels: int,
    *,
    plain: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images (n, H, W, C) of the model's size and channels, and where among them the split's are; None without such.

    ``fit`` makes them, by Pillow, once for each image, unless they are so already. With ``plain`` it leaves an image of the
    model's size as it is.
    """
    whole, places = whole_of(split)
    shape = *image_size, in_channels
    if isinstance(whole, Files) and len(whole) * int(np.prod(shape)) <= LIMIT:
        whole = whole.decoded(places) or whole
    if not isinstance(whole, Arrays):
        return None
    if plain and (*whole.images.shape[1:3], whole.channels) == shape:
        return whole.images.reshape(-1, *shape), places
    if len(whole) * int(np.prod(shape)) > LIMIT:
        return None
    return _kept(whole, fit, (*name, shape), places, shape), places


def _kept(
    whole: Arrays,
    fit: Callable[[Image.Image], Image.Image],
    name: tuple[object, ...],
    places: np.ndarray,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """All images as ``fit`` makes them; those at ``places`` are there, and stay for whoever asks for the same ones next."""
    if whole.fitted is None or whole.fitted.name != name:
        whole.fitted = Fitted(name, np.empty((len(whole), *shape), np.uint8), np.zeros(len(whole), dtype=bool))
    images, there = whole.fitted.images, whole.fitted.there
    for i in places[~there[places]]:
        images[i] = np.asarray(fit(to_channels(whole.load(i), shape[2]))).reshape(shape)
        there[i] = True
    return images


def torch_words(seed: int, keys: list[Key], number: int) -> np.ndarray:
    """The first words (B, ``number``) of torch's generator after `wfbench.data.reading.seed_draws` of each key, as int64."""
    bits = np.random.MT19937()
    twister = np.random.RandomState(bits)  # its seeding is torch's
    words = np.empty((len(keys), number), dtype=np.int64)
    for row, state in zip(words, _third_words(seed, keys).tolist(), strict=True):
        twister.seed(state)
        row[:] = bits.random_raw(number)
    return words


def _third_words(seed: int, keys: list[Key]) -> np.ndarray:
    """``SeedSequence((seed, epoch, index)).generate_state(3)[2]`` of each key (B,), which numpy promises not to change.

    numpy's own takes longer for each image than everything else.
    """
    epochs, indices = np.array(keys, dtype=np.uint32).reshape(-1, 2).T
    high = seed >> 32
    entropy = [np.full_like(epochs, word) for word in ([seed & _WORD, high] if high else [seed])] + [epochs, indices]
    entropy += [np.zeros_like(epochs)] * (_POOL - len(entropy))
    constant = 0x43B0D7E5

    def hashed(word: np.ndarray) -> np.ndarray:
        nonlocal constant
        word = word ^ np.uint32(constant)
        constant = constant * 0x931E8875 & _WORD
        word = word * np.uint32(constant)
        return word ^ word >> 16

    pool = [hashed(word) for word in entropy]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed: np.ndarray = np.uint32(0xCA01F9DD) * pool[target] - np.uint32(0x4973F715) * hashed(pool[source])
                pool[target] = mixed ^ mixed >> 16
    constant = 0x8B51F9DD * 0x58F38DED**2 & _WORD
    third: np.ndarray = (pool[2] ^ np.uint32(constant)) * np.uint32(constant * 0x58F38DED & _WORD)
    return third ^ third >> 16
