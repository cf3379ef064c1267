"""What is said to a call that the command line cannot read: the same form as every other message about bad input."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from wfbench.cli.errors import tell
from wfbench.errors import InputError

#: Typer exports one kind of the errors of a call; this is what all of them have in common.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])
#: Wrong values, by pydantic's names of them.
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_parsing": "a number",
    "bool_parsing": "true or false",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
}


#: Options that some commands take several of: whoever repeats one where one is taken does not expect the last alone.
_SEVERAL_ELSEWHERE = ("--mixer", "--recipe", "--seed", "--resolution", "--model")


class PlainGroup(TyperGroup):
    """Commands whose calls are refused in one message of the common form, with exit code 2."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the options of the group itself."""
        with _said_plainly(lambda: typer.Context(self, info_name=info_name, parent=parent)):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read the rest of the call, and run the command."""

        def chosen() -> Any:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            return ctx if command is None else typer.Context(command, info_name=ctx.invoked_subcommand, parent=ctx)

        with _said_plainly(chosen):
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.commands)
            remedy = f"did you mean {' or '.join(near)}?" if near else _help(ctx)
            known = ", ".join(self.commands)
            _refuse(InputError("no such command", got=f"{_shown(name)} in {ctx.command_path}", expected=known, remedy=remedy))
        found = super().resolve_command(ctx, args)
        if found[1] is not None and not ctx.resilient_parsing:
            _refuse_repeated(found[1], ctx, list(found[2]))
        return found


def _refuse_repeated(command: Any, parent: Any, args: list[str]) -> None:
    """Refuse an option that is given twice and takes one value here, but several elsewhere: the first would be lost unsaid."""
    ctx = typer.Context(command, info_name=command.name, parent=parent)
    try:
        given = command.make_parser(ctx).parse_args(list(args))[2]
    except _UsageError:  # said where the command is called
        return
    for param in given:
        name = max(param.opts, key=len)
        if given.count(param) > 1 and not param.multiple and name in _SEVERAL_ELSEWHERE:
            values = [after for word, after in zip(args, args[1:], strict=False) if word in param.opts]
            values += [word.partition("=")[2] for word in args if word.partition("=")[0] in param.opts and "=" in word]
            got = f"{name} {f' and {name} '.join(values)}"
            _refuse(InputError("one option twice", got=got, expected=f"{name} once", remedy="one call for each"))


@contextmanager
def _said_plainly(context: Callable[[], Any]) -> Iterator[None]:
    """Refuse what Typer refuses; ``context`` makes that of the command, which some of its errors do not say."""
    try:
        yield
    except InputError as e:  # of what reads the value of an option; a command says its own
        _refuse(e)
    except _UsageError as e:
        if type(e).__name__ == "NoArgsIsHelpError":  # no error: the help that a call without arguments asks for
            raise
        _refuse(_explained(e, getattr(e, "ctx", None) or context()))


def _refuse(error: InputError) -> NoReturn:
    tell(f"error: {error}", 2)
    raise typer.Exit(2)


def _explained(error: Any, ctx: Any) -> InputError:
    """A usage error of Typer, in full."""
    if getattr(error, "option_name", None) is not None:
        return _of_option(error, ctx)
    if getattr(error, "param", None) is not None:
        return _of_parameter(error, ctx)
    message, usage = (
        " ".join(str(error.format_message()).split()),
        " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)]),
    )
    extra = re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", message)
    if extra is not None:
        got = f"{extra[1]} in {ctx.command_path}"
        remedy = f"leave it out, or write its option before it; {_help(ctx)}"
        return InputError("unexpected argument", got=got, expected=usage, remedy=remedy)
    what = message[:1].lower() + message[1:].rstrip(".")
    return InputError(what, got=f"{ctx.command_path} without more", expected=usage, remedy=_help(ctx))


def _of_option(error: Any, ctx: Any) -> InputError:
    """For an option that there is not, without its value, or with one that it does not take."""
    option = _shown(error.option_name)
    known = {name: param for param in ctx.command.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
    got = f"{option} in {ctx.command_path}"
    if error.option_name not in known:
        long = {name.lstrip("-"): name for name in known if name.startswith("--")}
        near = [long[name] for name in difflib.get_close_matches(error.option_name.lstrip("-"), long, cutoff=0.7)]
        remedy = f"did you mean {' or '.join(near)}?" if near else _help(ctx)
        return InputError("no such option", got=got, expected=f"the options of {ctx.command_path}", remedy=remedy)
    if getattr(known[error.option_name], "is_flag", False):
        return InputError("an option takes no value", got=f"{option}=...", expected=option, remedy="leave the value out")
    expected = f"{option} VALUE{_meaning(known[error.option_name])}"
    return InputError("an option without its value", got=got, expected=expected, remedy="give it one, or leave the option out")


def _of_parameter(error: Any, ctx: Any) -> InputError:
    """For an option or an argument that is missing, or that has a wrong value."""
    param = error.param
    is_option = param.param_type_name == "option"
    name = max(param.opts, key=len) if is_option else str(param.metavar or param.name.upper())
    if hasattr(error, "param_type"):
        expected = f"{name}{' VALUE' if is_option else ''}{_meaning(param)}"
        got = f"{ctx.command_path} without {name}"
        return InputError(f"missing {param.param_type_name}", got=got, expected=expected, remedy=f"add it; {_help(ctx)}")
    value, expected = _found(error)
    got = f"{value} in {ctx.command_path}"
    for variable in [param.envvar] if isinstance(param.envvar, str) else param.envvar or []:
        if os.environ.get(variable) is not None and repr(os.environ[variable]) == value:
            got += f", from the environment: {variable}"
    return InputError(f"wrong value of {name}", got=got, expected=expected, remedy=f"give it such a value; {_help(ctx)}")


def _found(error: Any) -> tuple[str, str]:
    """A wrong value, and what would do: as pydantic says it, on which Typer is built, else as the message does."""
    details: list[Any] = getattr(error.__cause__, "errors", list)()
    if not details:
        return _shown(error.message), "a value of its type"
    first = details[0]
    known = _EXPECTED.get(first["type"])
    limits = first.get("ctx", {})
    said = str(first["msg"]).removeprefix("Input should be ")
    return repr(first["input"]), said if known is None else known.format(**limits)


def _meaning(param: Any) -> str:
    """What an option or an argument is, in brackets."""
    text = " ".join(str(getattr(param, "help", None) or "").split())
    return f" ({text})" if text else ""


def _help(ctx: Any) -> str:
    return f"see {ctx.command_path} --help"


def _shown(text: str) -> str:
    """Text of a user, with what cannot be printed spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
