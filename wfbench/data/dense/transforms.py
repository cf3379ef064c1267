"""One geometry for image and mask: augmentation and evaluation, by torchvision's transforms of both at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from wfbench.data.transforms import channel_statistics, to_channels
from wfbench.recipe import DataSection, DenseDataSection

#: Image and mask, as they are loaded, to the model's input (C, H, W), float32, and the class of each pixel (H, W), int64.
Pair = Callable[[Image.Image, np.ndarray], tuple[Tensor, Tensor]]
#: Crops that are drawn in search of one that is not all of one class.
_CROPS = 10


def train_pair(data: DataSection, dense: DenseDataSection, image_size: tuple[int, int], in_channels: int) -> tuple[Pair, bool]:
    """The transform of training images with their masks, and whether it draws at random.

    What is outside the image has no label, and the mean colour: 0 after normalisation, within half a grey level.

    Raises:
        InputError: for mean and std of another number of channels.
    """
    mean, _ = channel_statistics(data, in_channels)
    interpolation = InterpolationMode(data.interpolation)
    fill = {tv_tensors.Image: [round(255 * m) for m in mean], tv_tensors.Mask: dense.ignore_index}
    steps: list[torch.nn.Module] = []
    if data.augment == "scale-crop":
        low, high = (max(1, round(s * min(image_size))) for s in dense.scale)
        steps.append(v2.RandomShortestSize(list(range(low, high + 1)), interpolation=interpolation))
        crop = v2.RandomCrop(image_size, pad_if_needed=True, fill=fill)
        steps.append(crop if dense.max_class_share is None else _MixedCrop(crop, dense.max_class_share, dense.ignore_index))
    elif data.augment == "resized-crop":
        steps.append(v2.RandomResizedCrop(image_size, data.crop_scale, data.crop_ratio, interpolation))
    else:
        if data.source != "scenes":  # they are composed at this size
            steps.append(v2.Resize(image_size, interpolation))
        if data.crop_padding:
            steps.append(v2.RandomCrop(image_size, padding=data.crop_padding, fill=fill))
    if data.hflip:
        steps.append(v2.RandomHorizontalFlip(data.hflip))
    if data.color_jitter:
        steps.append(v2.ColorJitter(*[data.color_jitter] * (3 if in_channels == 3 else 2)))
    drawn = data.augment != "shift" or bool(data.crop_padding or data.hflip)
    return _Pair(steps, data, in_channels), drawn


def eval_pair(
    data: DataSection, dense: DenseDataSection, image_size: tuple[int, int], in_channels: int, multiple: tuple[int, int]
) -> Pair:
    """The transform of held-out images with their masks.

    With ``dense.eval_size: own``, both are padded at the bottom and right to whole multiples of ``multiple``, and at least
    to ``image_size``; the padding has no label, and is 0 after normalisation. With ``shorter``, the image's shorter side is
    resized to that of ``image_size`` and both sides are rounded up to such multiples, by resizing; the mask stays as it is,
    so that logits are to be resized to it.

    Raises:
        InputError: as `train_pair`.
    """
    pair = _Pair([], data, in_channels)
    if dense.eval_size == "own":
        return partial(_padded, pair, image_size, multiple, dense.ignore_index)
    return partial(_resized, pair, min(image_size), multiple, Image.Resampling[data.interpolation.upper()])


class _Pair:
    """Steps for both; then the image normalised, and both as plain tensors."""

    def __init__(self, steps: list[torch.nn.Module], data: DataSection, in_channels: int) -> None:
        mean, std = channel_statistics(data, in_channels)
        self.steps, self.in_channels = steps, in_channels
        self.mean, self.std = list(mean), list(std)

    def __call__(self, image: Image.Image, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        x = tv_tensors.Image(F.pil_to_tensor(to_channels(image, self.in_channels)))
        y = tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(mask)))
        for step in self.steps:
            x, y = step(x, y)
        plain = x.as_subclass(Tensor).float() / 255
        return F.normalize(plain, self.mean, self.std), y.as_subclass(Tensor).long()


class _MixedCrop(torch.nn.Module):
    """A random crop, drawn again while one class has more than ``share`` of its labelled pixels; the tenth is taken anyway.

    Source: ``cat_max_ratio`` of MMSegmentation's RandomCrop, which draws eleven.
    """

    def __init__(self, crop: v2.RandomCrop, share: float, ignore_index: int) -> None:
        super().__init__()
        self.crop, self.share, self.ignore_index = crop, share, ignore_index

    def forward(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Image and mask, cropped at one place."""
        for _ in range(_CROPS):
            cropped = self.crop(image, mask)
            labelled = cropped[1][cropped[1] != self.ignore_index]
            if len(labelled) and int(labelled.as_subclass(Tensor).long().bincount().max()) <= self.share * len(labelled):
                break
        return cropped


def _padded(
    pair: _Pair, least: tuple[int, int], multiple: tuple[int, int], ignore_index: int, image: Image.Image, mask: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Both, larger at the bottom and right."""
    x, y = pair(image, mask)
    down, right = (_up(max(n, m), k) - n for n, m, k in zip(y.shape, least, multiple, strict=True))
    if not down and not right:
        return x, y
    return pad(x, (0, right, 0, down)), pad(y, (0, right, 0, down), value=ignore_index)


def _resized(
    pair: _Pair, shorter: int, multiple: tuple[int, int], how: Image.Resampling, image: Image.Image, mask: np.ndarray
) -> tuple[Tensor, Tensor]:
    """The image with its shorter side of about ``shorter`` pixels; the mask as it is."""
    ratio = shorter / min(image.size)
    height, width = (_up(round(n * ratio), k) for n, k in zip((image.height, image.width), multiple, strict=True))
    return pair(to_channels(image, pair.in_channels).resize((width, height), how), mask)


def _up(n: int, multiple: int) -> int:
    """The smallest multiple that is not less than ``n``."""
    return -(-n // multiple) * multiple
