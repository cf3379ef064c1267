"""The report: tables and plots, made from typed records and from nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from wfbench import records
from wfbench.errors import InputError
from wfbench.records import AnyRow, Environment
from wfbench.report.tables import Table, tables

__all__ = ["Table", "collect", "tables", "write"]

_NAME = "records.jsonl"


def collect(paths: Iterable[Path]) -> tuple[list[AnyRow], list[str]]:
    """The rows of record files, and a message for each torn line that was skipped.

    A path is a ``.jsonl`` file, or a directory that is searched for files named ``records.jsonl``. A row that stands in
    two files, as in a run directory and a copy of it, counts once.

    Raises:
        InputError: if a path does not exist, cannot be read, or holds no records.
    """
    paths = list(paths)
    if not paths:
        raise InputError("nothing to report on", got="no path", expected=f"a run directory or a {_NAME}")
    # By the real path, so that a file that is named twice is read once, and in the same order however it is named.
    found: dict[Path, tuple[list[AnyRow], list[str]]] = {}
    for path in paths:
        files = {file.resolve(): file for file in _record_files(path)}
        for real, file in files.items():
            if real not in found:
                found[real] = records.read(file)
        if not any(found[real][0] for real in files):
            raise _no_records(path, [message for real in files for message in found[real][1]])
    unique: dict[str, AnyRow] = {}
    for real in sorted(found):
        for row in found[real][0]:
            unique.setdefault(row.model_dump_json(), row)
    return list(unique.values()), [message for real in sorted(found) for message in found[real][1]]


def write(rows: Iterable[AnyRow], out: Path, torn: Sequence[str] = ()) -> list[Path]:
    """Write every table as Markdown and CSV, the plots, and ``tables.md`` with all of it; return the files' paths.

    ``tables.md`` also names the environments and commands that the rows came from, and the torn lines.

    Raises:
        InputError: if a file cannot be written.
    """
    from wfbench.report import figures

    rows = list(rows)
    made = tables(rows)
    written: list[Path] = []
    sections = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for table in made:
            written += [out / f"{table.name}.md", out / f"{table.name}.csv"]
            written[-2].write_text(table.to_markdown(), encoding="utf-8")
            table.data.to_csv(written[-1], index=False)
            sections.append(f"{table.to_markdown()}\nRaw numbers: [{table.name}.csv]({table.name}.csv)\n")
        for path, table in figures.draw(made, out):
            written.append(path)
            sections[made.index(table)] += f"\n![{table.title}]({path.name})\n"
        written.insert(0, out / "tables.md")
        page = "\n".join(["# Tables\n", *_torn_section(torn), *sections, _sources(rows)])
        written[0].write_text(page, encoding="utf-8")
    except OSError as e:
        raise InputError(
            "cannot write the report",
            got=f"{e.filename or out}: {e.strerror}",
            expected="a writable directory",
            remedy="choose another --out",
        ) from e
    return written


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".jsonl":
            raise InputError("not a file of records", got=path, expected=f"a .jsonl file, or a directory that holds {_NAME}")
        return [path]
    if not path.exists():
        raise InputError(
            "no such file or directory",
            got=path,
            expected=f"a run directory or a {_NAME}",
            remedy="check the path, or run `wfbench train` or `wfbench profile` first",
        )

    def refuse(error: OSError) -> None:
        raise InputError(
            "cannot search a directory", got=f"{error.filename}: {error.strerror}", expected="a readable one"
        ) from error

    # os.walk, since Path.rglob passes over directories that it may not read without a word.
    return sorted(Path(place) / _NAME for place, _, names in os.walk(path, onerror=refuse) if _NAME in names)


def _no_records(path: Path, torn: Sequence[str]) -> InputError:
    return InputError(
        "no records to report on",
        got="; ".join([str(path), *torn]),
        expected=f"at least one row in a {_NAME}",
        remedy="name a directory that `wfbench train` or `wfbench profile` wrote into",
    )


def _torn_section(torn: Sequence[str]) -> list[str]:
    if not torn:
        return []
    lines = "\n".join(f"- `{message}`" for message in torn)
    return [f"**Some lines of the records were torn, by a writer that was killed, and are not in the tables:**\n\n{lines}\n"]


def _sources(rows: Sequence[AnyRow]) -> str:
    """The environments of the rows, and under each the commands that made them."""
    commands: dict[str, tuple[Environment, dict[str, int]]] = {}
    for row in rows:
        _, counts = commands.setdefault(row.environment.model_dump_json(), (row.environment, {}))
        counts[row.command] = counts.get(row.command, 0) + 1
    parts = ["## Where the rows come from\n"]
    for number, (environment, counts) in enumerate(commands.values(), 1):
        lines = "\n".join(f"{command}  # {count} row{'' if count == 1 else 's'}" for command, count in counts.items())
        parts.append(f"### Environment {number}: {environment.device}\n\n{_describe(environment)}\n\n```sh\n{lines}\n```\n")
    return "\n".join(parts)


def _describe(environment: Environment) -> str:
    changed = {True: ", with uncommitted changes", False: "", None: ", changes unknown"}[environment.git_dirty]
    revision = f"git revision {environment.git_revision}{changed}" if environment.git_revision else "git revision unknown"
    return "\n".join(
        [
            f"- {environment.device_type}, {environment.threads} thread{'' if environment.threads == 1 else 's'}, "
            f"TF32 {'on' if environment.tf32 else 'off'}",
            f"- {environment.platform}, Python {environment.python}",
            f"- {', '.join(f'{name} {version}' for name, version in environment.versions.items())}",
            f"- {revision}",
        ]
    )
