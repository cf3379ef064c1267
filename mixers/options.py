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
            raise MixerError(f"not an option of a mixer: got {setting!r}, expected option=value, such as window=7")
        if key in found:
            raise MixerError(f"an option of a mixer twice: got {key} = {found[key]} and {value}; say which")
        found[key] = _value(value)
    return found


def with_options(mixer: str, options: Mapping[str, Option]) -> str:
    """The name of a mixer with options, which replace those that it has; always the same for the same options."""
    name, own = split_options(mixer)
    every = own | dict(options)
    inside = ", ".join(f"{key}={_text(every[key])}" for key in sorted(every))
    return f"{name}({inside})" if inside else name


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
