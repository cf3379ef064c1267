"""Batches of images with the class of each pixel; every random draw is a function of (seed, epoch, sample index)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch.utils.data import Dataset as TorchDataset

from wfbench.data.dense.dataset import DenseDataset, DenseSplit
from wfbench.data.dense.transforms import Pair, eval_pair, train_pair
from wfbench.data.reading import (
    Bad,
    Batch,
    Key,
    OnReplaced,
    Sample,
    TrainKeys,
    check_shares,
    in_order,
    positions,
    random_states_kept,
    read,
    seed_draws,
    warn_replaced,
)
from wfbench.data.splits import UNREADABLE
from wfbench.errors import InputError
from wfbench.recipe import DataSection, DenseDataSection

#: What takes the place of a training image that cannot be read, in words.
REPLACEMENT = "the next image that can be read, with its mask"


class _Pairs(TorchDataset):
    """Transformed images with their masks by (epoch, index), a batch at a time."""

    def __init__(
        self, split: DenseSplit, transform: Pair, size: tuple[int, int], seed: int, *, drawn: bool, replace: bool
    ) -> None:
        self.split, self.transform, self.size, self.seed = split, transform, size, seed
        self.drawn, self.replace = drawn, replace

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[Key]) -> list[Sample]:
        with random_states_kept():
            return [self._sample(*key) for key in keys]

    def _sample(self, epoch: int, index: int) -> Sample:
        bad: list[Bad] = []
        others = range(1, len(self.split)) if self.replace else ()
        for i in (index, *((index + k) % len(self.split) for k in others)):
            try:
                image, mask = self.split.load(i, self.size, seed=self.seed, epoch=epoch)
            except InputError as e:  # a ValueError, but no damage: labels that are wrong
                return e
            except UNREADABLE as e:
                bad.append((self.split.label(i), f"{type(e).__name__}: {e}"))
                continue
            if self.drawn:
                seed_draws((self.seed, epoch, index))
            return *self.transform(image, mask), bad
        if self.replace:
            return InputError(
                "no training image can be read",
                got=f"{bad[-1][0]} ({bad[-1][1]}), and {len(bad) - 1:,} more",
                expected="an intact image file with an intact mask",
                remedy="repair or remove the files",
            )
        return None, 0, bad


def dense_train_batches(
    dataset: DenseDataset,
    data: DataSection,
    image_size: tuple[int, int],
    in_channels: int,
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start: tuple[int, int] = (0, 0),
    rank: int = 0,
    world: int = 1,
    on_replaced: OnReplaced | None = None,
) -> Iterator[Batch]:
    """Batches (images (B, C, H, W), classes (B, H, W)) from epoch and step ``start`` to the end of training.

    Args:
        dataset: as `open_dense` gives it.
        data: the recipe's section.
        image_size: of the model (H, W), and of all images.
        in_channels: of the model.
        batch_size: of all ``world`` processes together; process ``rank`` gets its part of every batch.
        seed: of the run.
        epochs: of the whole training.
        start: where to begin.
        rank: which process this is.
        world: of how many.
        on_replaced: what to call, once for each file, with a file that could not be read and was replaced, and why; without it,
            there is a warning.

    Raises:
        InputError: for settings that do not fit; and when it comes to an image or mask that cannot be read, naming it, unless
            ``data.on_bad_image`` is "skip", or to a mask that is wrong.
    """
    check_shares(batch_size, world)
    transform, drawn = train_pair(data, _dense(data), image_size, in_channels)
    pairs = _Pairs(dataset.train, transform, image_size, seed, drawn=drawn, replace=data.on_bad_image == "skip")
    keys = TrainKeys(len(dataset.train), batch_size, seed, epochs, start, positions(batch_size, rank, world))
    return read(pairs, keys, data.workers, on_replaced or partial(warn_replaced, by=REPLACEMENT))


def dense_eval_batches(
    dataset: DenseDataset,
    data: DataSection,
    image_size: tuple[int, int],
    in_channels: int,
    *,
    batch_size: int,
    multiple: int | tuple[int, int] = 1,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Every held-out image once, in order. Of ``world`` processes, ``rank`` gets every world-th batch.

    Scenes are composed at ``image_size``, ``batch_size`` at once. Images in files have sizes of their own and come one by one;
    see `transforms.eval_pair` for their padding or resizing to whole multiples of ``multiple``, such as the patch.

    Raises:
        InputError: for settings that do not fit, and when it comes to an image or mask that cannot be read or is wrong.
    """
    steps = (multiple, multiple) if isinstance(multiple, int) else multiple
    transform = eval_pair(data, _dense(data), image_size, in_channels, steps)
    pairs = _Pairs(dataset.val, transform, image_size, 0, drawn=False, replace=False)
    at_once = batch_size if data.source == "scenes" else 1
    return read(pairs, in_order(range(len(dataset.val)), at_once, rank, world), data.workers, warn_replaced)


def _dense(data: DataSection) -> DenseDataSection:
    assert data.dense is not None, "open_dense refuses such a source"
    return data.dense
