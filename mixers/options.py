"""Options of a mixer as part of its name: ``window(size=7)``, ``softmax(dropout=0.1, qkv_bias=false)``.

A name with options is a name like any other, so what differs in them is another line in every table.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping

from mixers.base import MixerError

Option = bool | int | float | str | None
_WORDS: Mapping[str, Option] = {"true": True, "false": False, "none": None}


def split_options(name: str) -> tuple[str, dict[str, Option]]:
    """The mixer and its options of a name; none where it has no brackets at its end.

    Raises:
        MixerError: for brackets that hold anything but ``option=value`` with commas between, or an option twice.
    """
    if not name.endswith(")") or "(" not in name:
        return name, {}
    mixer, _, inside = name[:-1].rpartition("(")
    return mixer.strip(), parse_options(re.split(r"\s*,\s*", inside.strip())) if inside.strip() else {}


def parse_options(settings: Iterable[str]) -> dict[str, Option]:
    """Options from ``option=value``: true, false, none, numbers, and words.

    Raises:
        MixerError: for anything else, or an option twice.
    """
    found: dict[str, Option] = {}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not (equals and key.isidentifier() and value):
            raise MixerError(
                "not an option of a mixer",
                got=repr(setting),
                expected="option=value, such as window=7",
                remedy="write the option, '=' and its value",
            )
        if key in found:
            raise MixerError(
                "an option of a mixer twice", got=f"{key} = {found[key]} and {value}", expected="one value", remedy="say which"
            )
        found[key] = _value(value)
    return found


def with_options(mixer: str, options: Mapping[str, Option]) -> str:
    """The name of a mixer with options, which replace those that it has; always the same for the same options."""
    name, own = split_options(mixer)
    every = own | dict(options)
    inside = ", ".join(f"{key}={_text(every[key])}" for key in sorted(every))
    return f"{name}({inside})" if inside else name


class AuthorOptions:
    """What the authors' constructor of a mixer was called with, under the authors' names.

    A layer's ``reference_options`` reads from it what it knows; what it has not read is refused in the end.
    """

    def __init__(self, mixer: str, options: Mapping[str, object]) -> None:
        self.mixer = mixer
        self._given = {key: _value(value) if isinstance(value, str) else value for key, value in options.items()}
        self._known: set[str] = set()

    def read(self, name: str, default: object = None) -> object:
        """An option's value, or the default where it is not given."""
        self._known.add(name)
        return self._given.get(name, default)

    def expect(self, **values: object) -> None:
        """Read options of which this package has one value only.

        Raises:
            MixerError: for another value.
        """
        for name, value in values.items():
            if self.read(name, value) != value:
                raise MixerError(
                    f"an option that mixer {self.mixer!r} does not have",
                    got=f"{name} = {self._given[name]!r}",
                    expected=repr(value),
                    remedy=f"leave it out, or load weights that were made with {value!r}",
                )

    def check_all_read(self) -> None:
        """Refuse what no layer has read.

        Raises:
            MixerError: for the first such option, with the known ones.
        """
        unknown = sorted(self._given.keys() - self._known)
        if unknown:
            known = ", ".join(sorted(self._known)) or "none, its weights tell everything"
            raise MixerError(
                f"unknown option of the authors of {self.mixer!r}",
                got=repr(unknown[0]),
                expected=f"one of {known}",
                remedy="leave it out",
            )


def _value(text: str) -> Option:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (int, float, str)) else text


def _text(value: Option) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
