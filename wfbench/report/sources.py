"""Where rows come from: environments, and the commands that made the rows in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wfbench.records import AnyRow, Environment
from wfbench.report.words import plural


@dataclass(frozen=True)
class Source:
    """One environment in words, and its commands, a line each with the number of rows."""

    title: str
    facts: tuple[str, ...]
    commands: str


def sources(rows: Sequence[AnyRow]) -> list[Source]:
    """The environments of the rows, in the order in which they come."""
    commands: dict[str, tuple[Environment, dict[str, int]]] = {}
    for row in rows:
        _, counts = commands.setdefault(row.environment.model_dump_json(), (row.environment, {}))
        counts[row.command] = counts.get(row.command, 0) + 1
    return [
        Source(
            f"Environment {number}: {environment.device}",
            _describe(environment),
            "\n".join(f"{command}  # {plural(count, 'row')}" for command, count in counts.items()),
        )
        for number, (environment, counts) in enumerate(commands.values(), 1)
    ]


def to_markdown(found: Sequence[Source]) -> str:
    """The sources as the last section of ``tables.md``."""
    parts = ["## Where the rows come from\n"]
    for source in found:
        facts = "\n".join(f"- {fact}" for fact in source.facts)
        parts.append(f"### {source.title}\n\n{facts}\n\n```sh\n{source.commands}\n```\n")
    return "\n".join(parts)


def _describe(environment: Environment) -> tuple[str, ...]:
    changed = {True: ", with uncommitted changes", False: "", None: ", changes unknown"}[environment.git_dirty]
    revision = f"git revision {environment.git_revision}{changed}" if environment.git_revision else "git revision unknown"
    return (
        f"{environment.device_type}, {plural(environment.threads, 'thread')}, TF32 {'on' if environment.tf32 else 'off'}",
        f"{environment.platform}, Python {environment.python}",
        ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        revision,
    )
