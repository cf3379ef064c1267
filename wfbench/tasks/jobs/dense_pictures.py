"""Predictions beside the truth, as a picture for the page."""

from __future__ import annotations

import base64
import colorsys
import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from wfbench.records import PictureRow
from wfbench.tasks.common import precision_of

if TYPE_CHECKING:
    from wfbench.tasks.jobs.base import Finished
    from wfbench.tasks.jobs.dense import DenseJob

#: Held-out images that are shown, and the side of each in the picture, in pixels.
_SHOWN, _SIDE = 6, 160
_GAP = 6
_TITLES = ("image", "truth", "prediction")
_NO_LABEL = (255, 255, 255)


def prediction_picture(model: nn.Module, job: DenseJob, finished: Finished) -> PictureRow:
    """The first held-out images, their masks and the predictions of a run, one below the other, with a key of the colours."""
    device = next(model.parameters()).device
    images, truth = next(job.held_out(batch_size=_SHOWN))
    images, truth = images[:_SHOWN], truth[:_SHOWN]
    if job.window is not None:
        images, truth = (found[..., : job.window[0], : job.window[1]] for found in (images, truth))
    with torch.no_grad(), precision_of(job.recipe, device):
        predicted = model(images.to(device)).argmax(1).cpu()
    png = io.BytesIO()
    _sheet(_visible(images, job), truth, predicted, job.dataset.classes).save(png, "PNG", optimize=True)
    config = job.model.config
    return PictureRow(
        environment=finished.environment,
        subject="predictions",
        model=job.recipe.model.name,
        mixer=config.mixer,
        local_conv=config.local_conv,
        pos_embed=config.pos_embed,
        caption=f"held-out images, truth and predictions ({job.dataset.name}, seed {job.recipe.seed})",
        picture=base64.b64encode(png.getvalue()).decode(),
    )


def _visible(images: Tensor, job: DenseJob) -> Tensor:
    """Normalised images (B, C, H, W) as bytes (B, H, W, 3)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (job.recipe.data.mean, job.recipe.data.std))
    visible = ((images.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return visible[:, :3].expand(-1, 3, -1, -1).permute(0, 2, 3, 1) if visible.shape[1] in (1, 3) else visible[:, :1]


def _sheet(images: Tensor, truth: Tensor, predicted: Tensor, classes: tuple[str, ...]) -> Image.Image:
    """A row of images, one of their masks, one of predictions, and the key of the colours."""
    colours = _colours(len(classes))
    masks = [[Image.fromarray(colours[mask.clamp(max=len(classes)).numpy()]) for mask in found] for found in (truth, predicted)]
    rows = [[Image.fromarray(image.numpy()) for image in images], *masks]
    height, width = truth.shape[1:]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top, step = 74, _GAP, size[1] + _GAP
    key = 20 * -(-len(classes) // 8) if len(classes) <= 32 else 0
    sheet = Image.new("RGB", (left + len(images) * (size[0] + _GAP), top + len(rows) * step + key), _NO_LABEL)
    draw = ImageDraw.Draw(sheet)
    for i, (title, row) in enumerate(zip(_TITLES, rows, strict=True)):
        draw.text((4, top + i * step + size[1] // 2 - 6), title, fill=(0, 0, 0))
        for j, picture in enumerate(row):
            sheet.paste(picture.resize(size, Image.Resampling.NEAREST), (left + j * (size[0] + _GAP), top + i * step))
    if key:
        wide = (sheet.width - left) // 8
        for place, name in enumerate(classes):
            x, y = left + place % 8 * wide, top + len(rows) * step + place // 8 * 20
            draw.rectangle((x, y, x + 11, y + 11), fill=tuple(int(part) for part in colours[place]), outline=(0, 0, 0))
            draw.text((x + 15, y), name[: max(1, (wide - 16) // 6)], fill=(0, 0, 0))
    return sheet


def _colours(count: int) -> np.ndarray:
    """(count + 1, 3) bytes: black for the first class, hues as far apart as can be for the others, white for no label."""
    hues = [colorsys.hsv_to_rgb((place * 0.618034) % 1, 0.75, 1.0 if place % 2 else 0.8) for place in range(count - 1)]
    return np.round(255 * np.array([(0.0, 0.0, 0.0), *hues, (1.0, 1.0, 1.0)])).astype(np.uint8)
