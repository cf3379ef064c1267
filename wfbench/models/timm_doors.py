"""What timm's doors of a ViT need beside the model itself: its words for pooling, which blocks are meant, its description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import mixers
from mixers.base import Grid
from wfbench.errors import InputError

#: What a head reads. "mean": the mean over the grid's tokens. "token": the class token. "none": every token of the grid,
#: row by row. "all": every token, the class token before them; without one, the same as "none".
Pool = Literal["mean", "token", "none", "all"]

#: timm's ``global_pool`` in our words.
_POOLS: dict[str, Pool] = {"": "all", "avg": "mean", "token": "token"}
_TIMM_POOLS = {"mean": "avg", "token": "token", "none": "", "all": ""}


def pool_of(global_pool: str) -> Pool:
    """Our word for timm's ``global_pool``.

    Raises:
        InputError: for a pooling that is not offered here.
    """
    if global_pool not in _POOLS:
        raise InputError(
            "unknown pooling",
            got=f"global_pool = {global_pool!r}",
            expected="'' (every token), 'avg' or 'token'",
            remedy="use one of these; the final norm stands before the pooling in each of them",
        )
    return _POOLS[global_pool]


def global_pool_of(pool: Pool) -> str:
    """timm's word for our ``pool``; "none" and "all" are both ''."""
    return _TIMM_POOLS[pool]


def taken_blocks(depth: int, indices: int | Sequence[int] | None) -> list[int]:
    """The blocks that ``indices`` means, from 0: the last n for an int, all for None; negative ones count from the end.

    Raises:
        InputError: for a number or an index that ``depth`` blocks do not have.
    """
    if isinstance(indices, int):
        if 0 < indices <= depth:
            return list(range(depth - indices, depth))
    elif indices is None:
        return list(range(depth))
    elif indices and all(-depth <= i < depth for i in indices):
        return [i % depth for i in indices]
    raise InputError(
        "the model has no such blocks",
        got=f"indices = {indices!r}",
        expected=f"how many of the last blocks, 1 to {depth}, or indices from {-depth} to {depth - 1}",
        remedy="None takes every block",
    )


def describe(names: Sequence[str], in_channels: int, image_size: Grid, num_classes: int) -> dict[str, Any]:
    """A ``pretrained_cfg`` as timm's tools read it: of a model without pretrained weights.

    ``names`` are the mixers in its layers. ``fixed_input_size`` is true where one of them owns parameters of the shape of the
    grid. Mean and deviation are ImageNet's.
    """
    return {
        "input_size": (in_channels, *image_size),
        "fixed_input_size": any(mixers.spec(name).needs_grid for name in names),
        "num_classes": num_classes,
        "pool_size": None,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
