"""Curves for trackers of experiments, beside the watcher of a run. Each is a package that one has or installs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.training.loop import Watch


class Several:
    """Watchers that all hear the same."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self.watches = watches

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """Pass it on."""
        for watch in self.watches:
            watch.step(epoch, step, steps, loss)

    def epoch(self, row: dict[str, Any]) -> None:
        """Pass it on."""
        for watch in self.watches:
            watch.epoch(row)


class TensorBoard:
    """Writes event files into ``tensorboard/`` of the run directory."""

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as e:
            raise _missing("TensorBoard", "tensorboard") from e
        self.writer = SummaryWriter(str(out / "tensorboard"))

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """The loss, when it was looked at."""
        if loss is not None:
            self.writer.add_scalar("loss", loss, epoch * steps + step)

    def epoch(self, row: dict[str, Any]) -> None:
        """All figures of the epoch, at its last step."""
        for name, value in _figures(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()


class WandB:
    """Sends curves to a project of Weights & Biases; with WANDB_MODE=offline they stay in the run directory."""

    def __init__(self, out: Path, project: str, recipe: Recipe) -> None:
        try:
            import wandb
        except ImportError as e:
            raise _missing("Weights & Biases", "wandb") from e
        out.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(project=project, name=out.name, dir=str(out), config=recipe.model_dump(mode="json"))

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """The loss, when it was looked at."""
        if loss is not None:
            self.run.log({"loss": loss}, step=epoch * steps + step)

    def epoch(self, row: dict[str, Any]) -> None:
        """All figures of the epoch, at its last step."""
        self.run.log(_figures(row), step=row["step"])


def beside(watch: Watch, out: Path, recipe: Recipe, *, tensorboard: bool, wandb: str | None) -> Watch:
    """A watcher and the trackers that were asked for.

    Raises:
        InputError: if a tracker's package is not there.
    """
    more: list[Watch] = [TensorBoard(out)] if tensorboard else []
    more += [WandB(out, wandb, recipe)] if wandb is not None else []
    return Several([watch, *more]) if more else watch


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {f"epoch/{name}": value for name, value in row.items() if name != "step"}


def _missing(what: str, package: str) -> InputError:
    return InputError(
        f"{what} is not installed", got=f"no package {package}", remedy=f"pip install {package}, or leave the flag out"
    )
