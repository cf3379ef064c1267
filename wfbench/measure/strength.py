"""How strong the predicted part of a layer is beside the rest of it, and how much of that is the image's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mixers.base import Grid, PredictingLayer, has_prediction, without_autocast
from wfbench.errors import check_finite
from wfbench.models.skeleton import Block
from wfbench.records.training import Slot, Strength


class Place(NamedTuple):
    """Where in a network a layer stands: in which block, from 0, and in which of its slots."""

    layer: int
    slot: Slot


#: Is told of a call of a layer: where the layer stands, the layer, and its tokens and grid.
See = Callable[[Place, PredictingLayer, Tensor, Grid], None]


def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of any model of the bench, in their order."""
    return [module for module in model.modules() if isinstance(module, Block)]


def predicting_layers(model: nn.Module) -> dict[Place, PredictingLayer]:
    """The layers part of whose weights is predicted from their input; none for most mixers."""
    slots = [(i, slot, getattr(block, slot)) for i, block in enumerate(blocks_of(model)) for slot in ("mixer", "fc1")]
    return {Place(i, cast(Slot, slot)): layer for i, slot, layer in slots if has_prediction(layer)}


@contextmanager
def seen(model: nn.Module, see: See) -> Iterator[None]:
    """Tell ``see`` of every call of a predicting layer, just before it, for a while; what is computed stays as it is."""

    def hook(place: Place) -> Callable[[nn.Module, tuple[Tensor, Grid]], None]:
        return lambda layer, inputs: see(place, cast(PredictingLayer, layer), *inputs)

    layers = predicting_layers(model).items()
    handles = [cast(nn.Module, layer).register_forward_pre_hook(hook(place)) for place, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class MeanPredictions:
    """The mean prediction of each layer over all samples that it saw; a sample counts once for each call."""

    def __init__(self) -> None:
        self._sums: dict[Place, Tensor] = {}
        self._counts: dict[Place, int] = {}

    @torch.no_grad()
    def see(self, place: Place, layer: PredictingLayer, x: Tensor, grid: Grid) -> None:
        """One call of a layer."""
        with without_autocast(x):
            total = layer.predicted(x.to(weights_dtype(layer, x)), grid).double().sum(dim=0)
        self._sums[place] = total + self._sums[place] if place in self._sums else total
        self._counts[place] = self._counts.get(place, 0) + len(x)

    def result(self) -> dict[Place, Tensor]:
        """Of each layer, (...) in float64, on its device."""
        return {place: total / self._counts[place] for place, total in self._sums.items()}


class Strengths:
    """|X Ŵ| / |X W₀| of each layer, by the Frobenius norm over the tokens of all samples that it saw.

    X Ŵ is what the prediction changes in the output, and X W₀ the output without a prediction, less what that is for X = 0
    (the bias). Of a convolution both are convolved outputs. The part that all images have in common is X times the mean
    prediction, the image's own is the rest of X Ŵ. Both are norms: their squares need not add up to the whole's.

    All is computed in the dtype of the layer's weights, whatever autocast says: a small prediction would drown in the rounding
    of half types.

    Args:
        means: each layer's mean prediction.
    """

    def __init__(self, means: Mapping[Place, Tensor]) -> None:
        self.means = means
        self._squares: dict[Place, Tensor] = {}

    @torch.no_grad()
    def see(self, place: Place, layer: PredictingLayer, x: Tensor, grid: Grid) -> None:
        """One call of a layer."""
        with without_autocast(x):
            x = x.to(weights_dtype(layer, x))
            own, without = layer.predicted(x, grid), layer.without_prediction(x, grid)
            whole = layer.with_prediction(x, grid, own)
            common = layer.with_prediction(x, grid, self.means[place].to(own).expand_as(own))
            static = without - layer.without_prediction(torch.zeros_like(x[:1]), grid)
            parts = torch.stack([_squared(part) for part in (static, whole - without, common - without, whole - common)])
        self._squares[place] = parts + self._squares[place] if place in self._squares else parts

    def result(self) -> tuple[Strength, ...]:
        """Of each layer, by block and slot; without a number where without the prediction the output is nothing but the bias.

        Raises:
            NotFiniteError: for weights or tokens that are not finite.
        """
        found = []
        for place in sorted(self._squares):
            check_finite(self._squares[place], "the output of a predicting layer is", f"{place.slot} of block {place.layer}")
            static, *parts = self._squares[place].sqrt().tolist()
            total, common, own = (None if any(parts) and not static else part / static if part else 0.0 for part in parts)
            found.append(Strength(slot=place.slot, layer=place.layer, total=total, common=common, own=own))
        return tuple(found)


def strengths(model: nn.Module, run: Callable[[], object]) -> tuple[Strength, ...]:
    """The strength of each predicted part on the samples that ``run`` takes through the model, each time the same."""
    means = MeanPredictions()
    with seen(model, means.see):
        run()
    measured = Strengths(means.result())
    with seen(model, measured.see):
        run()
    return measured.result()


def weights_dtype(layer: PredictingLayer, x: Tensor) -> torch.dtype:
    """The dtype of the layer's weights; of a layer without any, that of its tokens."""
    return next((p.dtype for p in cast(nn.Module, layer).parameters()), x.dtype)


def _squared(x: Tensor) -> Tensor:
    return x.double().square().sum()
