"""``--mixer``: what it takes, in every command that has it: a mixer, or several with commas between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from wfbench.cli.complete import mixers
from wfbench.errors import InputError


def several_mixers(help: str, panel: str | None = None) -> Any:
    """The option of a command that takes several mixers: repeated, or with commas between."""
    return typer.Option(help=help, callback=_several, autocompletion=mixers, rich_help_panel=panel)


def one_mixer(help: str, several: str, panel: str | None = None) -> Any:
    """The option of a command that takes one mixer; ``several`` says what to do with more of them."""

    def check(value: str | None) -> str | None:
        names = [] if value is None else split_mixers(value)
        if len(names) > 1:
            raise InputError("several mixers where one is taken", got=value, expected="one mixer", remedy=several)
        return value

    return typer.Option(help=help, callback=check, autocompletion=mixers, rich_help_panel=panel)


def split_mixers(text: str) -> list[str]:
    """The mixers of ``a,b``: commas inside of brackets are of the options of a mixer, and those of a file of its path.

    Raises:
        InputError: for a comma without a mixer on either side of it.
    """
    if "," not in text or _is_file(text):
        return [text]
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    names = [part.strip() for part in parts]
    if not all(names):
        raise InputError(
            "a comma without a mixer beside it",
            got=f"--mixer {text}",
            expected="NAME,NAME, or --mixer NAME --mixer NAME",
            remedy="take the comma out, or name the mixer that is missing",
        )
    return names


def _several(values: list[str] | None) -> list[str] | None:
    return None if values is None else [name for value in values for name in split_mixers(value)]


def _is_file(text: str) -> bool:
    """Whether it is ``path/to/file.py:Class`` of a file that is there."""
    try:
        return Path(text.rpartition(":")[0]).is_file()
    except (OSError, ValueError):
        return False
