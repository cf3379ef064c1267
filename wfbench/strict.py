"""Strict settings: YAML read into pydantic models, and whatever is wrong with it said in one message."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wfbench.errors import InputError, did_you_mean
from wfbench.files import read_file


class Section(BaseModel):
    """Settings: frozen, without unknown keys, without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)

#: Values that a file of settings may hold.
_MOST = 100_000


def read_yaml(path: Path, what: str, remedy: str = "") -> dict[str, Any]:
    """The mapping in a YAML file; ``what`` names it in errors, and ``remedy`` says what to do, where its writer knows better.

    Raises:
        InputError: for a file that cannot be read, or holds something else.
    """
    return parse_yaml(read_text(path, what, "a YAML file of settings", remedy), what, str(path), remedy)


def read_text(path: Path, what: str, expected: str, remedy: str = "") -> str:
    """A text file; ``what`` and ``remedy`` as in `read_yaml`.

    Raises:
        InputError: for a file that cannot be read, or is no UTF-8.
    """
    try:
        return read_file(path).decode("utf-8-sig")  # some editors write a mark of the byte order first
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"cannot read the {what}",
            got=f"{path}: {one_line(e)}",
            expected=f"{expected}, in UTF-8",
            remedy=remedy or ("check the path" if isinstance(e, OSError) else "save the text as UTF-8, or check the path"),
        ) from e


def read_json(path: Path, what: str, expected: str, remedy: str = "") -> Any:
    """What a JSON file holds; ``what`` and ``remedy`` as in `read_yaml`.

    Raises:
        InputError: for a file that cannot be read, or is no JSON.
    """
    text = read_text(path, what, expected, remedy)
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"cannot read the {what}",
            got=f"{path}: {one_line(e)}",
            expected=expected,
            remedy=remedy or "correct the JSON at that place, or check the path",
        ) from e


def read_object(path: Path, what: str, expected: str, remedy: str = "") -> dict[str, Any]:
    """The object that a JSON file holds; ``what`` and ``remedy`` as in `read_yaml`.

    Raises:
        InputError: for a file that cannot be read, is no JSON, or holds something else.
    """
    found = read_json(path, what, expected, remedy)
    if not isinstance(found, dict):
        raise InputError(
            f"cannot read the {what}",
            got=f"{path}: {type(found).__name__}",
            expected=expected,
            remedy=remedy or "correct it, or check the path",
        )
    return found


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in found if keys.count(key) > 1)!r} stands twice")
    return found


def parse_yaml(text: str, what: str, where: str, remedy: str = "") -> dict[str, Any]:
    """The mapping in a YAML text; ``where`` names its origin in errors, ``what`` and ``remedy`` as in `read_yaml`.

    Raises:
        InputError: as `read_yaml`.
    """
    try:
        data = parse_value(text)
    except yaml.YAMLError as e:
        raise InputError(
            f"cannot read the {what}",
            got=f"{where}: {one_line(e)}",
            expected="a YAML file of settings",
            remedy=remedy or "correct the YAML at that place; a text with ': ' or ' #' in it stands in quotes",
        ) from e
    if not isinstance(data, dict):
        raise InputError(
            f"not a {what}",
            got=f"{where}: {type(data).__name__}",
            expected="a YAML mapping of settings",
            remedy=remedy or "write KEY: VALUE on each line, or check the path",
        )
    return data


def parse_value(text: str) -> Any:
    """A YAML value, such as stands behind ``key=`` on the command line.

    Raises:
        yaml.YAMLError: if it is none, or one that settings cannot hold: too deep, too large, or part of itself.
    """
    try:
        node = yaml.compose(text, _Loader)
        _count(node, (), [_MOST])
        return yaml.load(text, _Loader)
    except (ValueError, OverflowError) as e:  # a number of too many digits, a date that is none
        raise yaml.YAMLError(one_line(e)) from e
    except RecursionError as e:
        raise yaml.YAMLError("nested too deeply") from e


def _count(node: yaml.Node | None, inside: tuple[int, ...], left: list[int]) -> None:
    """Refuse a document that its anchors make endless or huge."""
    left[0] -= 1
    if left[0] < 0:
        raise yaml.YAMLError(f"more than {_MOST:,} values, counting what its anchors repeat")
    if isinstance(node, yaml.CollectionNode):
        if id(node) in inside:
            raise yaml.YAMLError("an anchor that stands inside of itself")
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _count(part, (*inside, id(node)), left)


def validated(
    kind: type[S], data: dict[str, Any], what: str, where: str, remedy: str, elsewhere: Mapping[str, str] | None = None
) -> S:
    """Settings from plain data; ``what`` and ``where`` name them in errors, ``remedy`` says where a value is changed.

    Args:
        elsewhere: the origins of dotted keys that come from another place than ``where``.

    Raises:
        InputError: for an unknown key, naming the nearest known one, or a value of another type or out of range.
    """
    try:
        return kind.model_validate_json(json.dumps(data), strict=True)
    except TypeError as e:
        raise InputError(
            f"not a {what}",
            got=f"{where}: {e}",
            expected="numbers, strings, lists and mappings",
            remedy='write dates, and keys that are no text, in quotes: "2026-01-31"',
        ) from e
    except ValidationError as e:
        raise _explain(e, kind, what, where, remedy, elsewhere or {}) from e


def one_line(error: Exception) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def _explain(
    error: ValidationError, kind: type[Section], what: str, where: str, remedy: str, elsewhere: Mapping[str, str]
) -> InputError:
    # A key that is misspelt is missing too: the unknown one comes first.
    first, *more = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = first["loc"]
    key = ".".join(map(str, location)) or f"the {what}"
    for changed, origin in elsewhere.items():
        if f"{key}.".startswith(f"{changed}."):
            where = origin
    others = f" (and {len(more)} more)" if more else ""
    if first["type"] == "extra_forbidden":
        known = _fields(kind, location[:-1])
        return InputError(
            f"unknown {what} key{others}",
            got=f"{key} in {where}",
            expected=", ".join(known),
            remedy=did_you_mean(str(location[-1]), known),
        )
    value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
    return InputError(
        f"bad {what} value{others}",
        got=f"{key}{value} in {where}",
        expected=first["msg"].removeprefix("Value error, "),
        remedy=remedy,
    )


def _fields(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys of the settings at a place, on whose way stand keys, list indices, and the kinds of alternatives."""
    choices = [kind]
    for part in location:
        own = {field.alias or name: field for name, field in choices[0].model_fields.items()}
        if len(choices) > 1:
            choices = [choice for choice in choices if part in get_args(choice.model_fields["kind"].annotation)] or choices
        elif part in own:
            choices = _models(own[str(part)].annotation) or choices
    return [field.alias or name for name, field in choices[0].model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number (PyYAML follows YAML 1.1, which wants 1.0e-3), and takes no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for i, key in enumerate(keys) if key in keys[:i]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
