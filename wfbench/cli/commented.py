"""A recipe as YAML with every setting that it has, the comments of its file, and a word where a setting is the default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from wfbench.recipe import Recipe

_Key = tuple[str, ...]


def commented(text: str, recipe: Recipe) -> str:
    """A resolved recipe as YAML, which `recipe.load` reads back equal.

    Args:
        text: of the recipe's file.
        recipe: what it resolves to.
    """
    lines = text.splitlines()
    places = dict(_places(yaml.compose(text, yaml.SafeLoader), ()))
    head = []
    for line in lines:
        if line.startswith("#"):
            head.append(line)
        elif line.strip():
            break
    return "\n".join([*head, *_written(recipe.model_dump(mode="json"), (), places, lines)])


def _places(node: yaml.Node | None, key: _Key) -> Iterator[tuple[_Key, int]]:
    """Every key of the file, with the last line of its value, or of a section the line that names it."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        inner = (*key, str(name.value))
        yield inner, name.start_mark.line if isinstance(value, yaml.MappingNode) else value.end_mark.line
        yield from _places(value, inner)


def _written(data: Mapping[str, Any], key: _Key, places: Mapping[_Key, int], lines: list[str]) -> Iterator[str]:
    """The lines of a section."""
    for name, value in data.items():
        inner, indent = (*key, name), "  " * len(key)
        own = places.get(inner)
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:" + ("" if own is None else _comment(lines[own]))
            yield from _written(value, inner, places, lines)
            continue
        said = yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("\n").removesuffix("\n...")
        yield f"{indent}{name}: {said}" + ("  # default" if own is None else _comment(lines[own]))


def _comment(line: str) -> str:
    """What stands behind a value in its line."""
    tokens = [token for token in yaml.scan(line + "\n", yaml.SafeLoader) if isinstance(token, yaml.ScalarToken)]
    end = tokens[-1].end_mark.column if tokens else 0
    _, sign, comment = line[end:].partition("#")
    return f"  # {comment.strip()}" if sign else ""
