"""Put every command with its options into docs/COMMANDS.md: `python docs/make_commands.py`. No option is written by hand."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command

from wfbench.cli import app

ROOT = Path(__file__).resolve().parent.parent
_HEAD = """# Commands

Every command and every option, as `wfbench COMMAND --help` has them; this page is made by `python docs/make_commands.py`.

- **Mixers**: a registered name (`wfbench mixers`), `path/to/file.py:Class`, or `package.module:Class`, each with options in
  brackets: `'window(window=7)'`. Where several are taken, repeat the option or write commas: `--mixer softmax,linear`.
- **Recipes and sweeps**: a name (`wfbench recipes`), or a YAML file of your own. `--set optim.weight_decay=0.1` overrides a key
  of a recipe; `wfbench show RECIPE` has them all.
- **Data**: `--data` is `digits`, a path for the recipe's source, or `SOURCE:PATH` ([DATA.md](DATA.md)). Nothing is downloaded.
- **Local convolution and position**: `--local-conv` and `--pos` are factors of the skeleton, for any mixer. What a mixer brings
  itself stays whatever they say, and goes by its options: `wfbench show MIXER` lists them (`local`, `pos`, `rope`).
- **Completion**: `wfbench --install-completion` lets the shell complete mixers, recipes, sweeps, models and runs.
- **Exit codes**: 0 done; 1 a run failed; 2 bad input, with one message; 130 interrupted by Ctrl-C, and 75 stopped by SIGTERM,
  SIGUSR1 or SIGHUP, both with the state saved.
"""
_NO_GROUP = "Options"


def document() -> str:
    """The text of docs/COMMANDS.md."""
    commands = list(_commands(get_command(app), "wfbench"))
    rows = [f"| [`{name}`](#{_anchor(name)}) | {_cell(_sentence(command))} |" for name, command in commands]
    return "\n".join([_HEAD, "| command | does |", "|---|---|", *rows, "", *(_section(*pair) for pair in commands)])


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The commands of a group, and of the groups in it, by their full names."""
    for inner, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {inner}")
        else:
            yield f"{name} {inner}", command


def _section(name: str, command: Any) -> str:
    """A command: how it is called, what it does, its arguments and its options by group."""
    shown = [p for p in command.params if not p.hidden and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    words = [_word(p) for p in arguments]
    call = " ".join([name, *words, *(["[OPTIONS]"] if len(shown) > len(arguments) else [])])
    groups: dict[str, list[Any]] = {}
    for option in [p for p in shown if p.param_type_name == "option"]:
        groups.setdefault(getattr(option, "rich_help_panel", None) or _NO_GROUP, []).append(option)
    lines = [f"## {name}", "", f"`{call}`", "", inspect.cleandoc(command.help or ""), ""]
    lines += [*_table("argument", {_word(p): p for p in arguments}), ""] if arguments else []
    for group, options in groups.items():
        lines += [*_table(group if len(groups) > 1 else "option", {_option(p): p for p in options}), ""]
    return "\n".join(lines)


def _table(head: str, rows: Mapping[str, Any]) -> list[str]:
    return [f"| {head} | |", "|---|---|", *(f"| `{_cell(key)}` | {_cell(_meaning(p))} |" for key, p in rows.items())]


def _word(argument: Any) -> str:
    """An argument as it stands in a call."""
    word = argument.metavar or argument.name.upper()
    many = "" if argument.nargs == 1 or word.endswith("...") else "..."
    return f"{word}{many}" if argument.required else f"[{word}]{many}"


def _option(option: Any) -> str:
    """The names of an option, and of one that takes a value what stands behind it."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    return f"{names} {option.metavar or max(option.opts, key=len).lstrip('-').upper()}"


def _meaning(parameter: Any) -> str:
    """What a parameter means, with its default where the text does not name one."""
    text, default = " ".join((parameter.help or "").split()), parameter.default
    plain = default is not None and not callable(default) and not isinstance(default, bool) and not parameter.required
    said = "default" in text.lower() or not plain or parameter.multiple
    return text if said else f"{text} Default: {default}."


def _sentence(command: Any) -> str:
    """The first paragraph of a command's help."""
    return " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    (ROOT / "docs" / "COMMANDS.md").write_text(document())
