"""A network with something taken away, for a while: its layers compute something else, and their code and weights stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from mixers.base import Grid, PredictingLayer
from wfbench.measure.strength import Place, blocks_of, predicting_layers, seen, weights_dtype
from wfbench.records import Slot, What

Forward = Callable[[Tensor, Grid], Tensor]


class Change(NamedTuple):
    """What is taken away, and where: in one block, or in all that have it (None)."""

    what: What
    slot: Slot
    layer: int | None

    @property
    def name(self) -> str:
        """As in the file of outcomes: "zero fc1 4", "branch mixer all"."""
        return f"{self.what} {self.slot} {'all' if self.layer is None else self.layer}"

    def hits(self, place: Place) -> bool:
        """Whether it takes something from this layer's prediction."""
        return self.what != "branch" and self.slot == place.slot and self.layer in (None, place.layer)


def changes_of(model: nn.Module) -> list[Change]:
    """Everything that can be taken away from a network, one at a time, and of each kind in all layers together."""
    blocks, places = range(len(blocks_of(model))), predicting_layers(model)
    found = [Change("branch", "mixer", layer) for layer in (None, *blocks)]
    for slot in get_args(Slot):
        layers = [place.layer for place in places if place.slot == slot]
        kinds = [what for what in get_args(What) if what != "branch"] if layers else []
        found += [Change(what, slot, layer) for what in kinds for layer in (None, *layers)]
    return found


class Donors:
    """What each predicting layer saw of other images: image i of a batch takes the prediction for image i of these.

    `see` hears of them; then `take` gives them back in the same order, call by call. Where the images were cut into windows, a
    window takes the prediction for the window at the same place. Where the other image has fewer, they start over.
    """

    def __init__(self) -> None:
        self._seen: dict[Place, list[tuple[Tensor, Grid]]] = {}
        self._place: dict[Place, int] = {}

    def see(self, place: Place, layer: PredictingLayer, x: Tensor, grid: Grid) -> None:
        """One call of a layer."""
        self._seen.setdefault(place, []).append((x, grid))

    def rewind(self) -> None:
        """Begin again with the first image."""
        self._place.clear()

    def take(self, place: Place, count: int) -> tuple[Tensor, Grid]:
        """The tokens of so many images, the next ones, that the layer there saw; and their grid."""
        if len(self._seen[place]) > 1:
            assert len({grid for _, grid in self._seen[place]}) == 1, "windows are of one size"
            self._seen[place] = [(torch.cat([x for x, _ in self._seen[place]]), self._seen[place][0][1])]
        [(tokens, grid)] = self._seen[place]
        start = self._place.get(place, 0)
        self._place[place] = start + count
        return tokens[torch.arange(start, start + count, device=tokens.device) % len(tokens)], grid


@contextmanager
def changed(
    model: nn.Module,
    change: Change | None = None,
    means: Mapping[Place, Tensor] | None = None,
    donors: Donors | None = None,
) -> Iterator[None]:
    """Let a network run with something taken away, or with None as it is.

    Either way each prediction is formed and then put in, in one order of evaluation, so that an image that takes the prediction
    of an equal one gives exactly what it gave.

    Args:
        model: any model of the bench.
        change: what is taken away.
        means: the mean prediction of each layer, for the change "mean".
        donors: what the layers saw of other images, for the change "other".
    """

    def put_in(place: Place, layer: PredictingLayer) -> Forward:
        def forward(x: Tensor, grid: Grid) -> Tensor:
            if change is None or not change.hits(place):
                return layer.with_prediction(x, grid, layer.predicted(x, grid))
            if change.what == "zero":
                return layer.without_prediction(x, grid)
            if change.what == "mean":
                assert means is not None
                mean = means[place].to(weights_dtype(layer, x))
                return layer.with_prediction(x, grid, mean.expand(len(x), *mean.shape))
            assert donors is not None
            return layer.with_prediction(x, grid, layer.predicted(*donors.take(place, len(x))))

        return forward

    instead: dict[nn.Module, Forward] = {
        cast(nn.Module, layer): put_in(place, layer) for place, layer in predicting_layers(model).items()
    }
    if change is not None and change.what == "branch":
        for layer, block in enumerate(blocks_of(model)):
            if change.layer in (None, layer):
                instead |= {part: _nothing for part in (block.mixer, block.local) if part is not None}
    if donors is not None:
        donors.rewind()
    with _computing(instead):
        yield


@contextmanager
def recorded(model: nn.Module) -> Iterator[Donors]:
    """What the predicting layers see while the network runs as it is."""
    donors = Donors()
    with changed(model), seen(model, donors.see):
        yield donors


def _nothing(x: Tensor, grid: Grid) -> Tensor:
    return torch.zeros_like(x)


@contextmanager
def _computing(instead: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let layers compute these instead; their parameters, hooks and the rest stay."""
    try:
        for layer, forward in instead.items():
            vars(layer)["forward"] = forward
        yield
    finally:
        for layer in instead:
            vars(layer).pop("forward", None)
