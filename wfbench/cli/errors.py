"""Exit codes: 0; 1 a run failed; 2 bad input; 130 interrupted, with the state saved."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from wfbench.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def speaks_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose expected errors are one message and an exit code; unexpected ones keep their traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (KeyboardInterrupt, *_named("wfbench.training", "Interrupted")) as e:
            typer.echo(f"interrupted: {e}" if str(e) else "interrupted", err=True)
            raise typer.Exit(130) from e
        except (InputError, *_named("mixers.base", "MixerError")) as e:
            typer.echo(f"error: {e}", err=True)
            raise typer.Exit(2) from e
        except _named("wfbench.training", "RunError") as e:
            typer.echo(f"failed: {e}", err=True)
            raise typer.Exit(1) from e

    return run


def _named(module: str, name: str) -> tuple[type[Exception], ...]:
    """An exception class of a module, if that is loaded: looking must not load torch."""
    found = getattr(sys.modules.get(module), name, None)
    return (found,) if found is not None else ()
