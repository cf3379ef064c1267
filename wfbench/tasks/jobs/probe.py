"""Training on a probe: dense prediction of symbols, evaluated at every level."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mixers
from mixers import MixerError
from wfbench.data import Batch, ProbeDataset, open_probe, probe_canvases, probe_train_batches
from wfbench.errors import InputError
from wfbench.models import DenseModel
from wfbench.models.schedule import mixers_of
from wfbench.recipe import Recipe
from wfbench.records import LeakCheck, ProbeCell, ProbeLook, ProbeRow, Row
from wfbench.records.probe import SOLVED
from wfbench.tasks.common import precision_of
from wfbench.tasks.jobs import dense
from wfbench.tasks.jobs.base import Finished, Job, load_initial, spread
from wfbench.tasks.probe_checks import check_leak, global_layers, source_gradient
from wfbench.training import DenseEvaluation, Loss, Scores, evaluate_dense


@dataclass(frozen=True)
class CellFigures:
    """A condition's held-out canvases: the mean share of right answers, its standard error over canvases, the mean loss."""

    accuracy: float
    standard_error: float
    loss: float

    @classmethod
    def all_of(cls, found: DenseEvaluation, times: int = 1) -> list[CellFigures]:
        """From the counts of canvases, each of which was looked at so many times, one after another: of each time."""
        shares = shares_of_right(found).unflatten(0, (-1, times))
        losses, asked = (x.unflatten(0, (-1, times)).sum(0) for x in (found.losses, found.counts[:, 1].sum(1)))
        return [
            cls(float(own.mean()), float(own.std() / len(own) ** 0.5), float(loss) / int(number))
            for own, loss, number in zip(shares.T, losses, asked, strict=True)
        ]


def shares_of_right(found: DenseEvaluation) -> Tensor:
    """Each canvas's share of right answers among its asked tokens: (samples,), float64."""
    return found.counts[:, 0].sum(1).double() / found.counts[:, 1].sum(1)


class _Repeated(nn.Module):
    """A model whose logits of each canvas stand so many times, for as many sets of labels."""

    def __init__(self, model: nn.Module, times: int) -> None:
        super().__init__()
        self.model, self.times = model, times

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).repeat_interleave(self.times, dim=0)


@dataclass(frozen=True)
class ProbeJob(Job):
    """A probe, trained by cross-entropy at the asked tokens."""

    default_held_out_batch: ClassVar[int] = 128

    dataset: ProbeDataset
    model: DenseModel
    #: Of the held-out canvases of the levels on the grid of training, these alone; None for all.
    chosen_canvases: tuple[int, ...] | None = None

    @property
    def loss(self) -> Loss | None:
        """Cross-entropy of the asked tokens, over as many as canvases ask in the mean, so that parts of a batch add up."""
        asked, ignore = self.dataset.asked, self.dataset.ignore_index

        def loss(model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
            return F.cross_entropy(model(inputs), labels, ignore_index=ignore, reduction="sum") / (len(labels) * asked)

        return loss

    def batches(self, start: tuple[int, int]) -> Iterator[Batch]:
        """This process's part of every training batch: inputs (B, symbols, H, W) and labels (B, H, W)."""
        return probe_train_batches(
            self.dataset,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epochs=self.recipe.epochs,
            start=start,
            workers=self.recipe.data.workers,
            rank=self.rank,
            world=self.world,
        )

    def held_out(self, image_size: tuple[int, int] | None = None, *, batch_size: int) -> Iterator[Batch]:
        """This process's batches of the held-out canvases of all levels on the grid of training."""
        indices = range(self.dataset.trained * self.dataset.section.held_out)
        return probe_canvases(
            self.dataset, self.chosen_canvases or indices, batch_size=batch_size, rank=self.rank, world=self.world
        )

    def try_samples(self, batch: Batch, held_out: Batch) -> None:
        """Take the training canvases through the loss, and one of each other grid through the model; see that nothing leaks.

        Raises:
            InputError, MixerError: for a generator that gives the answers away, or a mixer that cannot work on a grid.
        """
        assert self.loss is not None
        self.model.eval()
        with torch.no_grad():
            self.loss(self.model, *batch, torch.Generator())
            for place in self._places:
                self.model(next(probe_canvases(self.dataset, self.dataset.indices(place), batch_size=1))[0])
        self._leak_check()

    def _leak_check(self) -> LeakCheck:
        found = check_leak(self.dataset, self.model.config.depth)
        if not found.held:
            raise InputError(
                "the probe gives its answers away",
                got=f"{self.dataset.name}: gradient {found.gradient:g} of a local network, and a readout of what is near is "
                f"right on {100 * found.readout:.2f} % of canvases",
                expected=f"gradient 0, and at most {100 * found.bound:.2f} %",
                remedy="the probe's generator is at fault, or data.probe.gap is less than the model's layers",
            )
        return found

    @functools.cached_property
    def _places(self) -> list[int]:
        """The conditions with canvases of their own that this model can be evaluated under.

        All, or those of training where the mixer, as it was built with its options, takes none of the other grids.
        """
        others = range(self.dataset.trained, self.dataset.drawn)
        is_bound = bool(others) and not any(map(self._takes, others))
        return list(range(self.dataset.trained if is_bound else self.dataset.drawn))

    def _takes(self, place: int) -> bool:
        """Whether the mixer works on the grid of a condition: one built for another grid says so, or has declared it."""
        inputs = next(probe_canvases(self.dataset, self.dataset.indices(place), batch_size=1))[0]
        was_training = self.model.training
        try:
            with torch.no_grad():
                self.model.eval()(inputs.to(next(self.model.parameters()).device))
        except Exception as e:
            if isinstance(e, MixerError) or any(mixers.spec(name).needs_grid for name in mixers_of(self.model.config)):
                return False
            raise
        finally:
            self.model.train(was_training)
        return True

    def evaluation(self, model: nn.Module) -> tuple[CellFigures | None, ...]:
        """A model of this run under every condition; None where it cannot be."""
        found: list[CellFigures | None] = [None] * len(self.dataset.conditions)
        for place in self._places:
            grid = self.dataset.conditions[place].grid
            tokens, own = grid[0] * grid[1], self.dataset.grid[0] * self.dataset.grid[1]
            batch = max(1, self.held_out_batch * own // tokens)
            served = self.dataset.on_canvases_of(place)
            canvases = probe_canvases(
                self.dataset,
                self.dataset.indices(place),
                batch_size=batch,
                rank=self.rank,
                world=self.world,
                distances=[self.dataset.conditions[other].distance for other in served],
            )
            seen = model if len(served) == 1 else _Repeated(model, len(served))
            for other, figures in zip(served, CellFigures.all_of(self._evaluated(seen, canvases), len(served)), strict=True):
                found[other] = figures
        return tuple(found)

    def _evaluated(self, model: nn.Module, canvases: Iterable[Batch]) -> DenseEvaluation:
        device = next(model.parameters()).device
        return evaluate_dense(
            model,
            canvases,
            device,
            classes=len(self.dataset.classes),
            ignore_index=self.dataset.ignore_index,
            autocast=precision_of(self.recipe, device),
        )

    def outcomes(self, model: nn.Module, batches: Iterable[Batch], first: int = 0) -> Tensor:
        """Each canvas's share of right answers: (samples,), float64."""
        return shares_of_right(self._evaluated(model, batches))

    def with_few_held_out(self, count: int) -> ProbeJob:
        """The same with at most so many held-out canvases, evenly spread over the levels on the grid of training."""
        return replace(self, chosen_canvases=tuple(spread(self.dataset.trained * self.dataset.section.held_out, count)))

    def scores(self, found: Mapping[str, tuple[CellFigures | None, ...]]) -> Scores:
        """Accuracy under every condition, and over the levels on the grid of training accuracy and loss."""
        cells = found[""]
        trained = [cell for cell in cells[: self.dataset.trained] if cell is not None]
        accuracy = sum(cell.accuracy for cell in trained) / len(trained)
        metrics: dict[str, float | int] = {"accuracy": accuracy, "loss": sum(cell.loss for cell in trained) / len(trained)}
        for condition, cell in zip(self.dataset.conditions, cells, strict=True):
            if cell is not None:
                metrics[_key(condition)] = cell.accuracy
        metrics["samples"] = self.dataset.section.held_out * len(trained)
        return Scores(metrics, accuracy, found, is_solved=all(cell.accuracy >= SOLVED for cell in trained))

    def cells(self, figures: tuple[CellFigures | None, ...]) -> tuple[ProbeCell, ...]:
        """An evaluation as rows have it, with the floors."""
        return tuple(
            ProbeCell(
                level=condition.level,
                grid=condition.grid,
                accuracy=None if cell is None else cell.accuracy,
                standard_error=None if cell is None else cell.standard_error,
                chance=floors.chance,
                local_floor=floors.local,
                set_floor=floors.set,
                straight_floor=floors.straight,
                distance=condition.distance,
            )
            for condition, cell, floors in zip(self.dataset.conditions, figures, self.dataset.floors, strict=True)
        )

    def finish(self, finished: Finished, out: Path) -> Sequence[Row]:
        """The row."""
        conditions, end = self.dataset.conditions, self.recipe.epochs * self.steps_per_epoch
        looks = [row for row in finished.progress.rows if "accuracy" in row]
        return [
            ProbeRow(
                **self.row_fields(finished, ""),
                probe=self.dataset.section.name,
                cells=self.cells(finished.scores.detail[""]),
                canvases=self.dataset.section.held_out,
                loss=finished.scores.metrics["loss"],
                curve=tuple(
                    ProbeLook(step=row["step"], accuracies=tuple(row.get(_key(c)) for c in conditions)) for row in looks
                ),
                budgets=tuple(sorted({*(budget for budget in self.dataset.section.budgets if budget < end), end})),
                stopped=finished.progress.epoch < self.recipe.epochs,
                leak_check=self._leak_check(),
                depth=self.model.config.depth,
                global_layers=global_layers(self.model.cpu(), self.dataset.grid),
                reaches=source_gradient(self.model, self.dataset.val, [(0, i) for i in self.dataset.indices(0)], 0) > 0,
                chosen=self.chosen,
                validation=self.recipe.data.validation,
            )
        ]


def _key(condition: object) -> str:
    """The name of a condition's accuracy in metrics.jsonl."""
    return f"accuracy of {condition}"


def prepare(recipe: Recipe) -> ProbeJob:
    """Open the probe and build the model, whose weights follow from the recipe's seed, or its initial weights.

    Raises:
        InputError, MixerError: for a probe, a model or weights that cannot be.
    """
    dataset = open_probe(recipe.data, recipe.model.image_size)
    model = dense.build(recipe, len(dataset.classes), seed=recipe.seed)
    config = model.config
    if config.in_channels != dataset.channels:
        raise InputError(
            "the model has other channels than the probe has symbols",
            got=f"model.in_channels = {config.in_channels} for {dataset.name}",
            expected=f"{dataset.channels}: planes of {', '.join(map(str, dataset.probe.planes))}",
            remedy=f"set model.in_channels to {dataset.channels}",
        )
    if dataset.section.gap < config.depth:
        raise InputError(
            "local convolutions reach across the gap",
            got=f"data.probe.gap = {dataset.section.gap} for {config.depth} layers, each of which may see a token further",
            expected=f"a gap of at least {config.depth} columns",
            remedy=f"set data.probe.gap to {config.depth}",
        )
    if dataset.section.bind == "neighbour" and config.pos_embed == "none":
        raise InputError(
            "a value stands beside its key, and the model does not know what stands where",
            got="data.probe.bind = neighbour with model.pos_embed = none",
            expected="a position: a key and the value to its right belong together by nothing else",
            remedy="set model.pos_embed to sincos",
        )
    return ProbeJob(recipe, dataset, model, load_initial(recipe, model.backbone, fresh_head=True))
