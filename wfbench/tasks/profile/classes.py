"""How many classes the model of a recipe has, where no data are opened for it but those that come with the bench."""

from __future__ import annotations

from wfbench.data import open_dataset, open_dense, open_probe
from wfbench.errors import InputError
from wfbench.recipe import DataSection, Recipe


def classes_of(recipe: Recipe, asked: int | None) -> int:
    """The number of classes of a recipe's data: by the data where they come with the bench, else as asked for.

    Args:
        recipe: of a classifier or of dense prediction.
        asked: by the user; None if they said nothing.

    Raises:
        InputError: for data in files and nothing asked for, or another number than the data have.
    """
    known = _known(recipe.data, recipe.model.image_size)
    if known is None and asked is None:
        raise InputError(
            "the recipe alone does not say how many classes its model has",
            got=f"--recipe {recipe.name}, whose data.source is {recipe.data.source}, in files that are not opened",
            expected="the number of classes of its data",
            remedy="add --classes N",
        )
    if known is not None and asked is not None and known != asked:
        raise InputError(
            "the recipe's data have another number of classes",
            got=f"--classes {asked} for --recipe {recipe.name}",
            expected=known,
            remedy="leave --classes out",
        )
    found = asked if known is None else known
    assert found is not None
    return found


def _known(data: DataSection, image_size: int | tuple[int, int]) -> int | None:
    """Of data that need no files."""
    if data.source == "digits":
        return len(open_dataset(data).classes)
    if data.source == "scenes" and data.dense is not None and data.dense.crops == "digits":
        return len(open_dense(data).classes)
    if data.probe is not None:
        return len(open_probe(data, image_size).classes)
    return None
