"""The metric of dense prediction: by hand, against torchmetrics, over parts, ignored pixels, absent classes, windows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from wfbench.errors import InputError
from wfbench.training import Confusion, confusion, distributed, evaluate_dense, sliding_window

IGNORE = 255


def matrix(predicted: Tensor, target: Tensor, classes: int) -> Confusion:
    return Confusion(confusion(predicted, target, classes, IGNORE).sum(0))


def random_case(seed: int, classes: int = 7, absent: tuple[int, ...] = (2, 5)) -> tuple[Tensor, Tensor]:
    """Predictions and labels (4, 9, 11) that agree more often than not, without some classes and labels."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([c for c in range(classes) if c not in absent])
    target = present[torch.randint(len(present), (4, 9, 11), generator=generator)]
    wrong = torch.rand(target.shape, generator=generator) < 0.4
    predicted = torch.where(wrong, present[torch.randint(len(present), target.shape, generator=generator)], target)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return predicted, target


def test_figures_by_hand() -> None:
    target = torch.tensor([[[0, 0, 1], [1, 1, IGNORE]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 3]]])
    found = matrix(predicted, target, 4)
    assert found.counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # class 0: 1 of {2 true, 2 taken}; class 1: 2 of {3 true, 3 taken}; 2 and 3 are absent: the ignored pixel's 3 counts nowhere
    assert found.iou == [1 / 3, 2 / 4, None, None]
    assert found.miou == (1 / 3 + 1 / 2) / 2
    assert (found.accuracy, found.pixels) == (3 / 5, 5)


def test_a_constant_prediction_and_an_oracle() -> None:
    _, target = random_case(0, classes=4, absent=())
    labelled = target[target != IGNORE]
    share = (labelled == 1).double().mean().item()
    constant = matrix(torch.ones_like(target), target, 4)
    assert constant.iou == [0.0, pytest.approx(share, abs=1e-15), 0.0, 0.0]
    assert constant.miou == pytest.approx(share / 4, abs=1e-15)
    assert constant.accuracy == pytest.approx(share, abs=1e-15)
    oracle = matrix(torch.where(target == IGNORE, 0, target), target, 4)
    assert (oracle.miou, oracle.accuracy, oracle.iou) == (1.0, 1.0, [1.0] * 4)


def test_a_class_that_is_only_predicted_counts_as_zero_and_one_in_neither_not_at_all() -> None:
    target, predicted = torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([[[0, 0], [0, 1]]])
    assert matrix(predicted, target, 3).iou == [0.75, 0.0, None]
    assert matrix(predicted, target, 3).miou == 0.375


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("absent", [(), (2, 5), (0, 1, 2, 3, 4, 5)])
def test_miou_is_torchmetrics(seed: int, absent: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, target = random_case(seed, absent=absent)
    found = matrix(predicted, target, 7)
    theirs = MulticlassConfusionMatrix(num_classes=7, ignore_index=IGNORE)(predicted, target)
    assert torch.equal(found.counts, theirs.long())
    as_released = MulticlassJaccardIndex(num_classes=7, average="macro", ignore_index=IGNORE)(predicted, target)
    assert found.miou == pytest.approx(as_released.item(), abs=1e-6)  # it divides in float32
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    exact = MulticlassJaccardIndex(num_classes=7, average="macro", ignore_index=IGNORE)(predicted, target)
    by_class = MulticlassJaccardIndex(num_classes=7, average="none", ignore_index=IGNORE)(predicted, target)
    assert exact.dtype == torch.float64
    assert found.miou == pytest.approx(exact.item(), abs=1e-12)
    assert [0.0 if v is None else v for v in found.iou] == pytest.approx(by_class.tolist(), abs=1e-12)
    assert [c for c, v in enumerate(found.iou) if v is None] == list(absent)
    zeros_for_absent = sum(v or 0.0 for v in found.iou) / 7  # the wrong version
    assert (abs(zeros_for_absent - found.miou) > 0.05) == bool(absent)


def test_parts_add_up_to_the_whole_exactly_while_their_means_do_not() -> None:
    predicted, target = random_case(3)
    target[0, 2:] = IGNORE  # parts of unequal size
    whole = matrix(predicted, target, 7)
    parts = [matrix(predicted[i : i + 1], target[i : i + 1], 7) for i in range(4)]
    for order in ((0, 1, 2, 3), (2, 0, 3, 1)):
        total = parts[order[0]]
        for i in order[1:]:
            total = total + parts[i]
        assert torch.equal(total.counts, whole.counts)
        assert (total.miou, total.accuracy, total.iou) == (whole.miou, whole.accuracy, whole.iou)
    assert abs(sum(part.miou for part in parts) / 4 - whole.miou) > 1e-3


def test_nothing_labelled_is_no_figure() -> None:
    empty = matrix(torch.zeros(2, 3, 3, dtype=torch.int64), torch.full((2, 3, 3), IGNORE), 3)
    assert (empty.pixels, empty.iou) == (0, [None] * 3)
    assert math.isnan(empty.miou)
    assert math.isnan(empty.accuracy)


@pytest.mark.parametrize(
    ("predicted", "target", "message"),
    [
        (0, 3, "a label is out of range"),
        (0, -1, "a label is out of range"),
        (3, 0, "a prediction is out of range"),
    ],
)
def test_a_class_out_of_range_is_refused(predicted: int, target: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        confusion(torch.full((1, 2, 2), predicted), torch.full((1, 2, 2), target), 3, IGNORE)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="different shapes"):
        confusion(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3), 3, IGNORE)


# Windows.


def pointwise(x: Tensor) -> Tensor:
    return torch.cat([x, x.square(), 1 - x], dim=1)


@pytest.mark.parametrize("stride", [(4, 6), (3, 2), (1, 1)])
@pytest.mark.parametrize("size", [(4, 6), (9, 13), (8, 12)])
def test_windows_of_a_pointwise_model_are_the_whole_image(size: tuple[int, int], stride: tuple[int, int]) -> None:
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    for batch in (1, 5, 1000):
        assert torch.allclose(sliding_window(pointwise, x, (4, 6), stride, batch), pointwise(x), rtol=0, atol=1e-14)


def test_windows_overlap_by_their_mean_and_the_last_ends_with_the_image() -> None:
    calls: list[Tensor] = []

    def first_pixel(x: Tensor) -> Tensor:
        """Every place of a window answers the window's first pixel."""
        calls.append(x)
        return x[:, :, :1, :1].expand(-1, -1, *x.shape[2:])

    x = torch.arange(7.0).view(1, 1, 1, 7)
    found = sliding_window(first_pixel, x, (1, 4), (1, 2), batch=2)
    # windows from 0, 2 and 3: 0 alone, 0 alone, (0, 2), (0, 2, 3), (2, 3), (2, 3), 3 alone
    assert found.flatten().tolist() == pytest.approx([0, 0, 1, 5 / 3, 2.5, 2.5, 3])
    assert [len(call) for call in calls] == [2, 1]
    assert [call[:, 0, 0, 0].tolist() for call in calls] == [[0, 2], [3]]


def test_windows_of_half_types_are_summed_in_float32() -> None:
    x = torch.rand(1, 1, 4, 40)
    found = sliding_window(lambda w: w.bfloat16(), x, (4, 8), (4, 1))
    assert found.dtype == torch.float32
    assert torch.allclose(found, x.bfloat16().float(), atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [((5, 4), (1, 1)), ((4, 4), (5, 1)), ((4, 4), (0, 1))])
def test_windows_that_leave_places_out_are_refused(window: tuple[int, int], stride: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="do not cover"):
        sliding_window(pointwise, torch.zeros(1, 1, 4, 8), window, stride)


# The evaluator.


class Seen(nn.Module):
    """Logits from the image's channels; keeps the sizes that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.sizes.append(tuple(x.shape))
        return x


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for n in (3, 3, 2):
        x, y = torch.randn(n, 5, 8, 12, generator=generator), torch.randint(5, (n, 8, 12), generator=generator)
        y[:, 0, :4] = IGNORE
        found.append((x, y))
    return found


def test_evaluation_counts_every_image_once_with_loss_and_mode_restored() -> None:
    model, data = Seen().train(), batches()
    found = evaluate_dense(model, data, torch.device("cpu"), classes=5, ignore_index=IGNORE)
    assert model.training
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    assert torch.equal(found.confusion.counts, matrix(x.argmax(1), y, 5).counts)
    assert found.loss == pytest.approx(F.cross_entropy(x, y, ignore_index=IGNORE).item(), abs=1e-6)
    assert found.samples == 8
    hits, true, taken = found.counts.sum(0)
    assert torch.equal(hits, found.confusion.counts.diagonal())
    assert torch.equal(true, found.confusion.counts.sum(1))
    assert torch.equal(taken, found.confusion.counts.sum(0))
    third = matrix(x[3:4].argmax(1), y[3:4], 5)
    assert torch.equal(found.counts[3], torch.stack([third.counts.diagonal(), third.counts.sum(1), third.counts.sum(0)]))


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_have_the_figures_of_one(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, device = batches(), torch.device("cpu")
    alone = evaluate_dense(Seen(), data, device, classes=5, ignore_index=IGNORE)
    parts: list[object] = []
    monkeypatch.setattr(distributed, "gather", lambda value: parts.append(value) or [value])
    for rank in range(world):
        evaluate_dense(Seen(), data[rank::world], device, classes=5, ignore_index=IGNORE)
    monkeypatch.setattr(distributed, "gather", lambda value: parts)
    together = evaluate_dense(Seen(), data[::world], device, classes=5, ignore_index=IGNORE)
    assert torch.equal(together.confusion.counts, alone.confusion.counts)
    assert torch.equal(together.counts, alone.counts)
    assert torch.equal(together.losses, alone.losses)
    assert (together.loss, together.confusion.miou) == (alone.loss, alone.confusion.miou)


def test_windows_slide_over_larger_images_alone() -> None:
    data, device = batches(), torch.device("cpu")
    whole = evaluate_dense(Seen(), data, device, classes=5, ignore_index=IGNORE)
    model = Seen()
    by_windows = evaluate_dense(model, data, device, classes=5, ignore_index=IGNORE, window=(4, 8), stride=(4, 2))
    assert {size[2:] for size in model.sizes} == {(4, 8)}
    assert torch.equal(by_windows.confusion.counts, whole.confusion.counts)
    model = Seen()
    evaluate_dense(model, data, device, classes=5, ignore_index=IGNORE, window=(8, 12))
    assert [size[0] for size in model.sizes] == [3, 3, 2]


def test_logits_of_another_size_are_resized_to_the_labels() -> None:
    x, y = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 8, 8))
    found = evaluate_dense(Seen(), [(x, y)], torch.device("cpu"), classes=3, ignore_index=IGNORE)
    larger = F.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(found.confusion.counts, matrix(larger.argmax(1), y, 3).counts)
