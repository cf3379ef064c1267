"""Exit codes: 0; 1 a run failed; 2 bad input; 130 interrupted (75: by SIGTERM, SIGUSR1 or SIGHUP), with the state saved."""

from __future__ import annotations

import errno
import functools
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from wfbench.cli.launch import note_failure
from wfbench.errors import ExportError, InputError, NotFiniteError, in_full
from wfbench.signals import Interrupted, stopping

#: What a file system says to a path, a right or a room that it does not have: no fault of the bench.
_REFUSED = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP", "ESTALE", "EIO")
}

P = ParamSpec("P")
R = TypeVar("R")


def speaks_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose expected errors are one message and an exit code; unexpected ones keep their traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with stopping("stopped before its end; what is written is whole, and the same command can be given again"):
                return command(*args, **kwargs)
        except (Exception, KeyboardInterrupt, Interrupted) as raised:
            e = _of_constructor(raised) or raised
            word, code = _verdict(e)
            if code is None:
                if note_failure(traceback.format_exc(), 1, is_expected=False):
                    raise typer.Exit(1) from e
                raise
            text = _text(e)
            tell(f"{word}: {text}" if text else word, code)
            raise typer.Exit(code) from e

    return run


def needs(option: str, other: str) -> InputError:
    """For an option that only another one uses, where that is not given."""
    return InputError(f"{option} means nothing here", got=option, expected=f"{option} beside {other}", remedy=f"add {other}")


def tell(text: str, code: int) -> None:
    """Say how this process fails; as one of several, leave it to the one that started them."""
    if not note_failure(text, code, is_expected=True):
        typer.echo(text, err=True)


def _of_constructor(error: BaseException) -> Exception | None:
    """An error of a mixer's own constructor as bad input: its place instead of the stack of calls that led there."""
    if not isinstance(error, Exception) or _verdict(error)[1] is not None:
        return None
    frames = list(traceback.walk_tb(error.__traceback__))
    for frame, _ in frames:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) == ("mixers.registry", "_build"):
            where, line = frames[-1]
            text = " ".join(str(error).split())
            return InputError(
                f"the mixer {frame.f_locals['name']} cannot be made",
                got=f"{type(error).__name__}: {text}".rstrip(": ") + f", at {where.f_code.co_filename}:{line}",
                expected="a constructor that takes a width, and what it names of num_heads, grid and layer",
                remedy=f"mend it there; then `wfbench verify {frame.f_locals['name']}` checks the rest",
            )
    return None


def _text(error: BaseException) -> str:
    """What is said of an error, after its word."""
    if isinstance(error, _named("mixers.base", "MixerError")):  # its text is one line
        got, expected, remedy = (getattr(error, part, None) for part in ("got", "expected", "remedy"))
        return in_full(getattr(error, "what", str(error)), got, expected, remedy)
    if isinstance(error, OSError):
        remedy = "check the path, the rights and the room on the disk"
        return in_full("the system refused a file", error, "a file that can be read or written", remedy)
    return str(error)


def _verdict(error: BaseException) -> tuple[str, int | None]:
    """The word and the exit code for an error; None for one that was not expected.

    Looking must not load torch: an error of a module that is not loaded cannot have been raised.
    """
    if isinstance(error, (KeyboardInterrupt, Interrupted)):
        return "interrupted", getattr(error, "exit_code", 130)
    if isinstance(error, (InputError, _named("mixers.base", "MixerError"))):
        return "error", 2
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return "error", 2
    if isinstance(error, (ExportError, NotFiniteError, _named("wfbench.training", "RunError"))):
        return "failed", 1
    return "", None


def _named(module: str, name: str) -> type[BaseException]:
    """An exception class of a module if that is loaded, else one that nothing raises."""
    return getattr(sys.modules.get(module), name, _NeverRaised)


class _NeverRaised(Exception):
    pass
