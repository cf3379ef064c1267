"""Predictions beside the truth, as a picture for the page."""

from __future__ import annotations

import base64
import colorsys
import io
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench import recipe as recipes
from wfbench.records import PictureRow
from wfbench.tasks.common import factors_of, precision_of
from wfbench.training import logits_at

if TYPE_CHECKING:
    from wfbench.tasks.jobs.base import Finished
    from wfbench.tasks.jobs.dense import DenseJob

#: Held-out images that are shown, and the longer side of each in the picture, in pixels.
_SHOWN, _SIDE = 6, 160
_GAP = 6
_TITLES = ("image", "truth", "prediction")
_NO_LABEL = (255, 255, 255)
#: An image (H, W, 3) in bytes, its classes and the predicted ones (H, W), of one region.
Shown = tuple[np.ndarray, np.ndarray, np.ndarray]


def prediction_picture(model: nn.Module, job: DenseJob, finished: Finished) -> PictureRow:
    """The first held-out images, their masks and the predictions of a run, one below the other, with a key of the colours."""
    png = io.BytesIO()
    _sheet(shown(model, job), job.dataset.classes).save(png, "PNG", optimize=True)
    recipe, config = job.recipe, job.model.config
    (height, width), decoder = job.image_size, job.section.decoder
    return PictureRow(
        environment=finished.environment,
        subject="predictions",
        model=recipe.model.name,
        **factors_of(config),
        caption=f"held-out images, truth and predictions ({job.dataset.name}, recipe {recipe.name}, {height}x{width} px, "
        f"decoder {decoder}, seed {recipe.seed})",
        picture=base64.b64encode(png.getvalue()).decode(),
        recipe=recipe.name,
        recipe_digest=recipes.digest(recipe),
        data_digest=None if finished.identity is None else finished.identity.data_digest,
        image_size=job.image_size,
        decoder=decoder,
        validation=recipe.data.validation,
    )


@torch.no_grad()
def shown(model: nn.Module, job: DenseJob) -> list[Shown]:
    """The first held-out images, at the size of their masks, with truth and prediction, as the evaluator has them."""
    device = next(model.parameters()).device
    data = job.recipe.data.model_copy(update={"workers": 0})
    alone = replace(job, recipe=job.recipe.model_copy(update={"data": data}), rank=0, world=1)  # else every world-th image
    found: list[Shown] = []
    for images, truth in itertools.islice(alone.held_out(batch_size=_SHOWN), _SHOWN):
        size = (int(truth.shape[1]), int(truth.shape[2]))
        with precision_of(job.recipe, device):
            predicted = logits_at(model, images.to(device), size, job.window, job.stride).argmax(1).cpu()
        if images.shape[2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        found += zip(_visible(images, job).numpy(), truth.numpy(), predicted.numpy(), strict=True)
        if len(found) >= _SHOWN:
            break
    return found[:_SHOWN]


def _visible(images: Tensor, job: DenseJob) -> Tensor:
    """Normalised images (B, 1 or 3, H, W) as bytes (B, H, W, 3)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (job.recipe.data.mean, job.recipe.data.std))
    visible = ((images.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return visible.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)


def _sheet(found: list[Shown], classes: tuple[str, ...]) -> Image.Image:
    """A row of images, one of their masks, one of predictions, each in its own proportions, and the key of the colours."""
    colours = _colours(len(classes))
    sizes = []
    for _, truth, _ in found:
        scale = _SIDE / max(truth.shape)
        sizes.append((max(1, round(truth.shape[1] * scale)), max(1, round(truth.shape[0] * scale))))
    left, top, step = 74, _GAP, max(height for _, height in sizes) + _GAP
    key = 20 * -(-len(classes) // 8) if len(classes) <= 32 else 0
    width = left + sum(wide + _GAP for wide, _ in sizes)
    sheet = Image.new("RGB", (width, top + len(_TITLES) * step + key), _NO_LABEL)
    draw = ImageDraw.Draw(sheet)
    for i, title in enumerate(_TITLES):
        draw.text((4, top + i * step + (step - _GAP) // 2 - 6), title, fill=(0, 0, 0))
        x = left
        for parts, size in zip(found, sizes, strict=True):
            picture = parts[i] if i == 0 else colours[np.minimum(parts[i], len(classes))]
            sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (x, top + i * step))
            x += size[0] + _GAP
    if key:
        wide = (sheet.width - left) // 8
        for place, name in enumerate(classes):
            x, y = left + place % 8 * wide, top + len(_TITLES) * step + place // 8 * 20
            draw.rectangle((x, y, x + 11, y + 11), fill=tuple(int(part) for part in colours[place]), outline=(0, 0, 0))
            draw.text((x + 15, y), name[: max(1, (wide - 16) // 6)], fill=(0, 0, 0))
    return sheet


def _colours(count: int) -> np.ndarray:
    """(count + 1, 3) bytes: black for the first class, hues as far apart as can be for the others, white for no label."""
    hues = [colorsys.hsv_to_rgb((place * 0.618034) % 1, 0.75, 1.0 if place % 2 else 0.8) for place in range(count - 1)]
    return np.round(255 * np.array([(0.0, 0.0, 0.0), *hues, (1.0, 1.0, 1.0)])).astype(np.uint8)
