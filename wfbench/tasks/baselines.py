"""``wfbench baselines``: simple classifiers on raw pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from wfbench import records
from wfbench.data import Split, open_dataset
from wfbench.data.transforms import to_channels
from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.records import BaselineRow


def baselines(recipe: Recipe) -> list[BaselineRow]:
    """Logistic regression and nearest neighbour on raw pixels, on the recipe's split.

    Raises:
        InputError: for data that cannot be, or images of several sizes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    dataset = open_dataset(recipe.data)
    train, val = ([split.load(i) for i in range(len(split))] for split in (dataset.train, dataset.val))
    channels = 1 if all(image.mode == "L" for image in (*train, *val)) else 3
    train_x, val_x = _pixels(train, channels, dataset.train), _pixels(val, channels, dataset.val)
    train_y, val_y = np.array(dataset.train.targets), np.array(dataset.val.targets)
    classifiers = {
        "logistic regression on pixels": LogisticRegression(max_iter=5000),
        "nearest neighbour on pixels": KNeighborsClassifier(n_neighbors=1),
    }
    return [
        BaselineRow(
            environment=records.stamp(),
            name=name,
            dataset=dataset.name,
            data_digest=dataset.listing.digest,
            accuracy=float(classifier.fit(train_x, train_y).score(val_x, val_y)),
            samples=len(val_y),
        )
        for name, classifier in classifiers.items()
    ]


def _pixels(images: Sequence[Image.Image], channels: int, split: Split) -> np.ndarray:
    """The images of a split as images × pixels in 0..1."""
    rows = [np.asarray(to_channels(image, channels)).reshape(-1) for image in images]
    if len({len(row) for row in rows}) > 1:
        raise InputError(
            "no baselines for images of several sizes",
            got=split.label(0),
            expected="images that are all of one size",
            remedy="resize them to one size, or take other data: wfbench baselines --recipe digits",
        )
    return np.stack(rows) / 255
