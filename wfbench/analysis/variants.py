"""Trainings that share a recipe's name but not its settings: what differs, so that no two lines are called alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from wfbench.analysis.lines import group
from wfbench.records import FACTORS, Row, option_values

R = TypeVar("R", bound=Row)

#: Settings that a line's name has, that runs of one line differ in, or that say how another setting was chosen.
_ELSEWHERE = {"seed", *(f"model.{name}" for name in ("mixer", "mixer_options", *FACTORS))}


def with_settings(rows: Iterable[R]) -> list[R]:
    """The rows, where trainings of one recipe have different settings with these behind its name: "digits (optim.lr=1e-3)".

    Settings of the model stand behind the model's name, without "model.": "vit-tiny (embed_dim=32)". They are those that the
    commands of the trainings gave (``--set``), so that two files of one name, or two versions of one, still differ by their
    digest alone. A setting in which trainings of one digest differ, such as a tuned rate, is no part of the recipe.

    Args:
        rows: the records.
    """
    rows = list(rows)
    digests = group((row for row in rows if getattr(row, "recipe_digest", None)), _name_and_digest)
    names = group(digests, lambda key: key[0])
    words = {}
    for recipe, keys in names.items():
        given = {digest: settings for _, digest in keys if (settings := _given(digests[recipe, digest])) is not None}
        differing = {key for one in given.values() for key in one if len({other.get(key) for other in given.values()}) > 1}
        for digest, settings in given.items():
            words[recipe, digest] = {key: settings[key] for key in settings if key in differing}
    return [_named(row, words.get(_name_and_digest(row), {})) for row in rows]


def _name_and_digest(row: Row) -> tuple[str | None, str | None]:
    return getattr(row, "recipe", None), getattr(row, "recipe_digest", None)


def _given(rows: Sequence[Row]) -> Mapping[str, str] | None:
    """The settings that all trainings among the rows were given alike; None where no row is of a training."""
    found = [_settings(row.command) for row in rows if row.command.split()[1:2] == ["train"]]
    if not found:
        return None
    return {key: value for key, value in found[0].items() if all(other.get(key) == value for other in found)}


def _settings(command: str) -> dict[str, str]:
    """What a command sets, by key."""
    pairs = [text.partition("=") for text in option_values(command, "--set")]
    pairs += [("optim.lr", "=", value) for value in option_values(command, "--lr")]
    return {key: value for key, _, value in pairs if key not in _ELSEWHERE and not key.startswith("chosen.")}


def _named(row: R, settings: Mapping[str, str]) -> R:
    own = {key: value for key, value in settings.items() if not key.startswith("model.")}
    model = {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")}
    changes = {name: f"{getattr(row, name)} ({_listed(one)})" for name, one in (("recipe", own), ("model", model)) if one}
    return row.model_copy(update=changes) if changes else row


def _listed(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
