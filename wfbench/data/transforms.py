"""From a decoded image to the model's input: augmentation, the two ways to resize for evaluation, normalisation."""

from __future__ import annotations

import numpy as np
import PIL
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from wfbench.errors import InputError
from wfbench.recipe import DataSection


def to_channels(image: Image.Image, in_channels: int) -> Image.Image:
    """A grey or RGB image of 8 bits, as a split has it, with 1 or 3 channels."""
    mode = "L" if in_channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)  # convert copies an image of the same mode


def train_transform(data: DataSection, image_size: tuple[int, int], in_channels: int) -> tuple[transforms.Compose, bool]:
    """The transform of training images, and whether it draws at random.

    Raises:
        InputError: for mean and std of another number of channels, an unknown policy, or a Pillow on which timm's would fail.
    """
    mean, std = channel_statistics(data, in_channels)
    if data.augment == "resized-crop":
        return _resized_crop(data, image_size, mean, std), True
    steps = [transforms.Resize(image_size, InterpolationMode(data.interpolation))]
    if data.crop_padding:
        steps.append(transforms.RandomCrop(image_size, padding=data.crop_padding))
    if data.hflip:
        steps.append(transforms.RandomHorizontalFlip(data.hflip))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)]), len(steps) > 1


def eval_transform(data: DataSection, image_size: tuple[int, int], in_channels: int) -> transforms.Compose:
    """Resize to size / eval_crop, rounded down as timm and the WeightFormer release do, and cut out the centre.

    Raises:
        InputError: for mean and std of another number of channels.
    """
    mean, std = channel_statistics(data, in_channels)
    return create_transform(
        image_size,
        crop_pct=data.eval_crop,
        crop_mode={"squash": "squash", "shorter": "center"}[data.eval_resize],
        interpolation=data.interpolation,
        mean=mean,
        std=std,
    )


class ToTensor(torch.nn.Module):
    """An image of 8 bits, mode "L" or "RGB", as a tensor (channels, H, W) in [0, 1].

    The same numbers as torchvision's `ToTensor`, with fewer copies on the way.
    """

    def forward(self, image: Image.Image) -> Tensor:
        """Convert it."""
        pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def lean(transform: transforms.Compose) -> transforms.Compose:
    """The same transform of images of 8 bits, without copies of a tensor that nothing else holds."""
    steps = []
    for step in transform.transforms:
        if isinstance(step, transforms.ToTensor):
            step = ToTensor()
        elif isinstance(step, transforms.Normalize):
            step = transforms.Normalize(step.mean, step.std, inplace=True)
        steps.append(step)
    return transforms.Compose(steps)


def _resized_crop(
    data: DataSection, image_size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> transforms.Compose:
    if data.auto_augment and int(PIL.__version__.partition(".")[0]) >= 13:
        raise InputError(
            "timm's augmentation policies fail with this Pillow, about once in 1,000 images",
            got=f"Pillow {PIL.__version__} and data.auto_augment = {data.auto_augment}",
            expected="Pillow 12 or older",
            remedy="pip install 'pillow<13'",
        )
    try:
        return create_transform(
            image_size,
            is_training=True,
            scale=data.crop_scale,
            ratio=data.crop_ratio,
            hflip=data.hflip,
            color_jitter=data.color_jitter,
            auto_augment=data.auto_augment,
            interpolation=data.interpolation,
            mean=mean,
            std=std,
            re_prob=data.erase,
            re_mode=data.erase_mode,
        )
    except (AssertionError, ValueError, KeyError) as e:
        raise InputError(
            "unknown augmentation policy",
            got=f"data.auto_augment = {data.auto_augment}: {e}",
            expected="a policy as timm writes it",
            remedy="for example rand-m9-mstd0.5-inc1",
        ) from e


def channel_statistics(data: DataSection, in_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel."""
    if len(data.mean) not in (1, in_channels):
        raise InputError(
            "mean and std do not fit the images",
            got=f"{len(data.mean)} values for {in_channels} channels",
            expected=f"1 or {in_channels}",
            remedy="set data.mean and data.std",
        )
    copies = in_channels if len(data.mean) == 1 else 1
    return data.mean * copies, data.std * copies
