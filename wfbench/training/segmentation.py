"""Evaluation of a class for each pixel: the confusion matrix, what follows from it, and windows over large images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wfbench.errors import InputError, check_finite
from wfbench.training import distributed


@dataclass(frozen=True)
class Confusion:
    """How many labelled pixels of each class were taken for each class.

    IoU of class c = n(c, c) / (pixels of c + pixels taken for c - n(c, c)). Counts are whole numbers, so sums of matrices over
    parts of the data, in any order, give the figures of the whole to the last bit.

    Attributes:
        counts: (K, K), int64: row = true class, column = predicted class.
    """

    counts: Tensor

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def pixels(self) -> int:
        """How many had a label."""
        return int(self.counts.sum())

    @property
    def iou(self) -> list[float | None]:
        """By class, as a fraction; None for a class that is neither in the truth nor in the predictions."""
        hits, truth, taken = self.counts.diagonal().tolist(), self.counts.sum(1).tolist(), self.counts.sum(0).tolist()
        unions = [t + p - h for h, t, p in zip(hits, truth, taken, strict=True)]
        return [h / u if u else None for h, u in zip(hits, unions, strict=True)]

    @property
    def miou(self) -> float:
        """The mean of the classes' IoU, without the absent ones, as torchmetrics has it; NaN if no pixel has a label."""
        found = [value for value in self.iou if value is not None]
        return sum(found) / len(found) if found else float("nan")

    @property
    def accuracy(self) -> float:
        """The share of labelled pixels whose class was found; NaN if there are none."""
        return int(self.counts.diagonal().sum()) / self.pixels if self.pixels else float("nan")


def confusion(predicted: Tensor, target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """The confusion matrix of each image.

    Args:
        predicted: classes (B, ...).
        target: true classes of the same shape, or ``ignore_index``, which counts nowhere.
        classes: how many, K.
        ignore_index: of no class.

    Returns:
        (B, K, K), int64, on the device of the target: row = true class, column = predicted class.

    Raises:
        InputError: for a class out of range, true or predicted, or shapes that differ.
    """
    if predicted.shape != target.shape:
        raise InputError(
            "predictions and labels have different shapes",
            got=tuple(predicted.shape),
            expected=tuple(target.shape),
            remedy="resize the logits to the size of the labels first",
        )
    labelled = target != ignore_index
    image = torch.arange(len(target), device=target.device).view(-1, *[1] * (target.dim() - 1)).expand_as(target)[labelled]
    true, taken = target[labelled].long(), predicted[labelled].long()
    for noun, found in (("label", true), ("prediction", taken)):
        if len(found) and not 0 <= int(found.min()) <= int(found.max()) < classes:
            raise InputError(
                f"a {noun} is out of range",
                got=f"{int(found.min())} to {int(found.max())}",
                expected=f"0 to {classes - 1} for {classes} classes (labels: or {ignore_index})",
                remedy="check the number of classes, and the number that says 'no label': data.dense.ignore_index",
            )
    counts = torch.bincount((image * classes + true) * classes + taken, minlength=len(target) * classes**2)
    return counts.view(len(target), classes, classes)


def sliding_window(
    model: Callable[[Tensor], Tensor], images: Tensor, window: tuple[int, int], stride: tuple[int, int], batch: int = 16
) -> Tensor:
    """Logits of images larger than the model's, by windows whose logits are averaged where they overlap.

    Windows stand at multiples of the stride from the top left; the last of a row or column ends with the image. They run
    through the model in a fixed order, ``batch`` at once: image by image, row by row. Half types are summed in float32.

    Args:
        model: takes images (n, C, h, w) of the window's size, gives logits (n, K, h, w).
        images: (B, C, H, W).
        window: (h, w), at most (H, W).
        stride: of the windows, at most their size.
        batch: how many windows at once.

    Returns:
        (B, K, H, W), in the logits' type, but in float32 for half types.

    Raises:
        InputError: for a window larger than the image, or a stride that leaves places out.
    """
    size = (images.shape[2], images.shape[3])
    for side, n, step in zip(size, window, stride, strict=True):
        if not 1 <= step <= n <= side:
            raise InputError(
                "such windows do not cover the image",
                got=f"window {window}, stride {stride}, image {size}",
                expected="1 <= stride <= window <= image, on both sides",
                remedy="pad the image to the window's size, or take another window",
            )
    rows, columns = ([*range(0, n - w, s), n - w] for n, w, s in zip(size, window, stride, strict=True))
    places = [(b, top, left) for b in range(len(images)) for top in rows for left in columns]
    total: Tensor | None = None
    times = torch.zeros(size, device=images.device)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        logits = _full(model(torch.stack([images[b, :, t : t + window[0], u : u + window[1]] for b, t, u in some])))
        if total is None:
            total = logits.new_zeros(len(images), logits.shape[1], *size)
        for (b, top, left), found in zip(some, logits, strict=True):
            total[b, :, top : top + window[0], left : left + window[1]] += found
            if b == 0:
                times[top : top + window[0], left : left + window[1]] += 1
    assert total is not None, "there is an image"
    return total / times.to(total.dtype)


@dataclass(frozen=True)
class DenseEvaluation:
    """Held-out results over every labelled pixel of ``samples`` images, each counted once, in the order of the split.

    Attributes:
        confusion: of all images together.
        counts: of each image and class (samples, 3, K), int64: pixels found, true pixels, predicted pixels. IoU over any set of
            images follows from their sums.
        losses: sum of the cross-entropy over each image's labelled pixels (samples,), float64.
        is_cut: whether an image was larger than the window, so that windows slid over it.
    """

    confusion: Confusion
    counts: Tensor
    losses: Tensor
    is_cut: bool = False

    @property
    def samples(self) -> int:
        """How many images."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """Mean cross-entropy over labelled pixels; NaN if there are none."""
        return float(self.losses.sum()) / self.confusion.pixels if self.confusion.pixels else float("nan")


@torch.no_grad()
def evaluate_dense(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    *,
    classes: int,
    ignore_index: int,
    autocast: AbstractContextManager[object] | None = None,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
) -> DenseEvaluation:
    """Evaluate a model of a class for each pixel in evaluation mode; its mode is restored.

    Where several processes evaluate together, process r of W passes batches r, r + W, ... of the split, and each gets the whole
    result, which is that of a single process.

    Args:
        model: takes images (B, C, H, W), gives logits (B, K, H, W).
        batches: (images, classes (B, H', W')); every image once. Logits of another size than the classes are resized, bilinear.
        device: where the model is.
        classes: how many, K.
        ignore_index: of a pixel without a label.
        autocast: the precision of the forward pass; None: the model's.
        window: for images larger than this, (h, w), windows slide; None: whole images.
        stride: of these windows; None: the window's size, so that they do not overlap but at the end.

    Raises:
        InputError: for a window larger than an image, a stride that leaves places out, or a label out of range.
        NotFiniteError: for outputs that are NaN or infinite.
    """
    training = model.training
    model.eval()

    def own() -> tuple[list[tuple[Tensor, Tensor, Tensor]], bool]:
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        is_cut, seen = False, 0
        for x, y in batches:
            is_cut |= _is_cut(x, window)
            with autocast or nullcontext():
                logits = logits_at(model, x.to(device), (int(y.shape[1]), int(y.shape[2])), window, stride)
            check_finite(logits, "the model's outputs are", f"the {len(y)} held-out images from {seen} on, of this process")
            seen += len(y)
            y = y.to(device)
            counts = confusion(logits.argmax(1), y, classes, ignore_index)
            losses = F.cross_entropy(logits, y, ignore_index=ignore_index, reduction="none").double().sum((1, 2))
            by_class = torch.stack([counts.diagonal(dim1=1, dim2=2), counts.sum(2), counts.sum(1)], dim=1)
            found.append((counts.sum(0).cpu(), by_class.cpu(), losses.cpu()))
        return found, is_cut

    try:
        everywhere = distributed.gather_from(own)
    finally:
        model.train(training)
    by_rank, is_cut = [found for found, _ in everywhere], any(cut for _, cut in everywhere)
    ordered = [by_rank[k % len(by_rank)][k // len(by_rank)] for k in range(sum(map(len, by_rank)))]
    matrices, by_class_all, losses_all = zip(*ordered, strict=True)
    return DenseEvaluation(Confusion(torch.stack(matrices).sum(0)), torch.cat(by_class_all), torch.cat(losses_all), is_cut)


def logits_at(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    size: tuple[int, int],
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
) -> Tensor:
    """A model's logits as they are evaluated: in windows where the images are larger than these, at the masks' size.

    Args:
        model: takes images (n, C, h, w), gives logits (n, K, h, w).
        images: (B, C, H, W), where the model is.
        size: of the masks, (H', W'); logits of another size are resized, bilinear.
        window, stride: as of `evaluate_dense`.

    Returns:
        (B, K, H', W'), in float32 for half types.

    Raises:
        InputError: as `sliding_window`.
    """
    found = sliding_window(model, images, window, stride or window) if window and _is_cut(images, window) else model(images)
    found = _full(found)
    return found if found.shape[2:] == size else F.interpolate(found, size=size, mode="bilinear", align_corners=False)


def _is_cut(images: Tensor, window: tuple[int, int] | None) -> bool:
    """Whether windows slide over images (B, C, H, W)."""
    return window is not None and tuple(images.shape[2:]) != window


def _full(logits: Tensor) -> Tensor:
    """Half types as float32."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
