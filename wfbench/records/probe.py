"""Rows about probes: what a trained mixer can do, at each level of difficulty."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from wfbench.records.row import Strict, TracedRow
from wfbench.records.training import Chosen, TrainingRow

#: A level is solved from this accuracy on.
SOLVED = 0.99


class ProbeCell(Strict):
    """The held-out canvases of one level on one grid.

    The unit of sampling is the canvas, whose asked tokens are not independent: the standard error is that of the mean over
    canvases of each one's share of right answers.
    """

    level: float
    grid: tuple[int, int]
    #: None: the mixer, as it is built, takes no other grid than that of training, and this is another.
    accuracy: float | None = Field(ge=0, le=1)
    standard_error: float | None = Field(ge=0)
    #: Accuracies that need no such ability: of guessing; of knowing what stands near the asked token; of knowing which answers
    #: are on the canvas, but not which is right (None where that says nothing).
    chance: float
    local_floor: float
    set_floor: float | None
    #: Of knowing how far away the mark is in a straight line (None where nothing is marked).
    straight_floor: float | None = None
    #: Of the questions in steps, where only those at one distance are counted; their canvases are those of the level.
    distance: int | None = None

    @property
    def tokens(self) -> int:
        """Of a canvas."""
        return self.grid[0] * self.grid[1]


class ProbeLook(Strict):
    """What an evaluation during training found: the accuracies of the cells, in their order."""

    step: int
    accuracies: tuple[float | None, ...]


class LeakCheck(Strict):
    """That a model which sees only what is near cannot know the answers.

    Attributes:
        gradient: the largest absolute derivative of an asked token's logits by what its answer depends on, of a network of 3×3
            convolutions as deep as the model; exactly 0 where there is no leak.
        readout: of readouts of what stands near an asked token, the accuracy, on canvases that they were not fitted to, of the
            one that comes nearest to its bound or furthest beyond it: a linear one, and the best table of two symbols, each on
            canvases of training and on held-out ones. In rows of earlier versions the linear one, on canvases of training.
        floor: what it may reach: guessing, over the mixture of levels or at the held-out one.
        bound: the largest accuracy that a binomial of that floor has: with a probability of 99.9 % all are within theirs.
    """

    gradient: float
    readout: float
    floor: float
    bound: float

    @property
    def held(self) -> bool:
        """Whether there is no leak."""
        return self.gradient == 0 and self.readout <= self.bound


class ProbeRow(TrainingRow):
    """One finished training on a probe."""

    kind: Literal["probe"] = "probe"
    probe: Literal["majority", "recall", "needle", "shift", "hop", "flood"]
    #: The levels on the grid of training, the easiest first; then the last level on other grids; then its distances.
    cells: tuple[ProbeCell, ...] = Field(min_length=1)
    #: Held-out canvases of each cell.
    canvases: int
    #: Mean cross-entropy over the asked tokens of the levels on the grid of training.
    loss: float
    #: Every evaluation, the last one included; those of ``budgets`` steps are reported, the last of which is the planned end.
    curve: tuple[ProbeLook, ...] = Field(min_length=1)
    budgets: tuple[int, ...] = ()
    #: Whether training ended early, since every level was solved in several evaluations in a row.
    stopped: bool = False
    leak_check: LeakCheck
    #: Layers of the model, and those of them whose output at a token depends on a far one, further than a 3×3 convolution sees.
    depth: int
    global_layers: int
    #: Whether any answer of the trained model depends on what it is asked for; None in rows that did not look.
    reaches: bool | None = None
    chosen: Chosen | None = None
    #: The share that makes it a trial of tuning, evaluated on canvases of its own, which is no result.
    validation: float | None = None

    @model_validator(mode="after")
    def _cells_fit(self) -> ProbeRow:
        if any(len(look.accuracies) != len(self.cells) for look in self.curve):
            raise ValueError(f"a look of another number of accuracies than {len(self.cells)} cells")
        return self

    @property
    def trained(self) -> tuple[ProbeCell, ...]:
        """The cells of all questions on the grid of training."""
        return tuple(cell for cell in self.cells if cell.grid == self.image_size and cell.distance is None)

    @property
    def is_blind(self) -> bool:
        """Whether no answer can depend on what it is asked for, whatever the weights: as found, or as all layers are local."""
        return not self.global_layers if self.reaches is None else not self.reaches

    @property
    def is_solved(self) -> bool:
        """Whether every level of the training is solved."""
        return all(cell.accuracy is not None and cell.accuracy >= SOLVED for cell in self.trained)

    @property
    def samples(self) -> int:
        """Held-out canvases of the levels on the grid of training."""
        return self.canvases * len(self.trained)

    @property
    def result(self) -> float:
        """What claims on accuracy compare: the mean accuracy over the levels on the grid of training."""
        values = [cell.accuracy for cell in self.trained if cell.accuracy is not None]
        return sum(values) / len(values)

    @property
    def one_image(self) -> float:
        """0: one canvas is not a fixed step of the result."""
        return 0.0

    def look(self, steps: int) -> ProbeLook | None:
        """The evaluation after so many steps: of a run that ended early, since it was solved, its last one from then on."""
        found = [look for look in self.curve if look.step == steps]
        if found:
            return found[0]
        return self.curve[-1] if self.stopped and steps > self.curve[-1].step else None


class ProbeEvalRow(TracedRow):
    """One evaluation of a run on a probe by `wfbench eval`."""

    kind: Literal["probe-eval"] = "probe-eval"
    recipe: str
    recipe_digest: str
    seed: int
    weights_sha256: str
    dataset: str
    #: The grid of training.
    trained_size: tuple[int, int]
    dtype: str
    probe: str
    cells: tuple[ProbeCell, ...] = Field(min_length=1)
    canvases: int
    #: As in `ProbeRow`.
    loss: float
