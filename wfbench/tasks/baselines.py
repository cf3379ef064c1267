"""``wfbench baselines``: simple classifiers on raw pixels."""

from __future__ import annotations

import numpy as np

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
    channels = max(_channels(split) for split in (dataset.train, dataset.val))
    (train_x, train_y), (val_x, val_y) = _pixels(dataset.train, channels), _pixels(dataset.val, channels)
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


def _channels(split: Split) -> int:
    """1 if all images are grey, else 3."""
    return 1 if all(split.load(i).mode == "L" for i in range(len(split))) else 3


def _pixels(split: Split, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """A split as (images × pixels in 0..1, classes)."""
    images = [np.asarray(to_channels(split.load(i), channels)).reshape(-1) for i in range(len(split))]
    if len({len(image) for image in images}) > 1:
        raise InputError(
            "no baselines for images of several sizes", got=split.label(0), expected="images that are all of one size"
        )
    return np.stack(images) / 255, np.array(split.targets)
