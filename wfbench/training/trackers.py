"""Curves for trackers of experiments, beside the watcher of a run. Each is a package that one has or installs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfbench.errors import InputError
from wfbench.recipe import Recipe
from wfbench.training.loop import Watch


@dataclass(frozen=True)
class Trackers:
    """Which trackers follow a run.

    Attributes:
        tensorboard: write event files into ``tensorboard/`` of the run directory.
        wandb: a project of Weights & Biases; with WANDB_MODE=offline its files stay in the run directory.
    """

    tensorboard: bool = False
    wandb: str | None = None

    def check(self) -> None:
        """Fail for a tracker that is not installed.

        Raises:
            InputError: naming its package.
        """
        for asked, package in ((self.tensorboard, "tensorboard"), (self.wandb is not None, "wandb")):
            if asked and importlib.util.find_spec(package) is None:
                raise InputError(
                    f"{package} is not installed",
                    got=f"--{package} without the package {package}",
                    expected=f"the package {package}",
                    remedy="pip install 'wfbench[trackers]', or leave the flag out",
                )

    @contextmanager
    def beside(self, watch: Watch, out: Path, recipe: Recipe, *, after: int = 0) -> Iterator[Watch]:
        """A watcher that also tells the trackers, which end with it; ``after`` so many steps the run goes on.

        Raises:
            InputError: if a tracker is not installed, or cannot start.
        """
        self.check()
        with ExitStack() as stack:
            more: list[Watch] = [stack.enter_context(_tensorboard(out, after))] if self.tensorboard else []
            more += [stack.enter_context(_wandb(out, self.wandb, recipe))] if self.wandb is not None else []
            yield _Several([watch, *more]) if more else watch


class _Several:
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


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """The loss, when it was looked at."""
        if loss is not None:
            self.writer.add_scalar("loss", loss, epoch * steps + step)

    def epoch(self, row: dict[str, Any]) -> None:
        """All figures of the epoch, at its last step."""
        for name, value in _figures(row).items():
            self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()


class _WandB:
    def __init__(self, run: Any) -> None:
        self.run = run

    def step(self, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """The loss, when it was looked at."""
        if loss is not None:
            self.run.log({"loss": loss}, step=epoch * steps + step)

    def epoch(self, row: dict[str, Any]) -> None:
        """All figures of the epoch, at its last step."""
        self.run.log(_figures(row), step=row["step"])


@contextmanager
def _tensorboard(out: Path, after: int) -> Iterator[Watch]:
    from torch.utils.tensorboard import SummaryWriter

    # Of a run that was killed, what follows its checkpoint is told again.
    with SummaryWriter(str(out / "tensorboard"), purge_step=after + 1 if after else None) as writer:
        yield _TensorBoard(writer)


@contextmanager
def _wandb(out: Path, project: str, recipe: Recipe) -> Iterator[Watch]:
    import wandb

    try:
        run = wandb.init(project=project, name=out.name, dir=str(out), config=recipe.model_dump(mode="json"))
    except (wandb.Error, ValueError) as e:
        raise InputError(
            "Weights & Biases cannot start",
            got=" ".join(str(e).split())[:300],
            expected="an account that is logged in, and the network",
            remedy="wandb login, or WANDB_MODE=offline; then --resume the run",
        ) from e
    with run:  # an exception marks it as failed
        yield _WandB(run)


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {f"epoch/{name}": value for name, value in row.items() if name != "step"}
