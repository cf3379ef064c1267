"""Images with a class for each pixel.

dataset.py      what a source of them is, and how the recipe's is opened; a new source is a split with `DenseSplit`'s methods
scenes.py       scenes composed of real crops
folder.py       images and masks in folders
transforms.py   one geometry for image and mask
loading.py      batches
"""

from wfbench.data.dense.dataset import DenseDataset, DenseSplit, DenseSubset, open_dense
from wfbench.data.dense.loading import dense_eval_batches, dense_train_batches
from wfbench.data.dense.scenes import Crops, Scene, SceneSplit, compose

__all__ = [
    "Crops",
    "DenseDataset",
    "DenseSplit",
    "DenseSubset",
    "Scene",
    "SceneSplit",
    "compose",
    "dense_eval_batches",
    "dense_train_batches",
    "open_dense",
]
