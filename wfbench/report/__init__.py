"""The report: tables, plots and a page, made from typed records and what lies beside them in run directories."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wfbench import records
from wfbench.analysis.asked import Asked
from wfbench.analysis.results import Results, analyse
from wfbench.errors import InputError
from wfbench.files import part_directory, walk
from wfbench.records import AnyRow
from wfbench.records.run_directory import Run, find_runs
from wfbench.report.columns import Table
from wfbench.report.tables import tables, tables_of
from wfbench.report.timm_csv import TimmResults, timm_tables
from wfbench.report.words import plural

if TYPE_CHECKING:
    from wfbench.report.answers import Question
    from wfbench.report.findings import Finding

__all__ = ["Asked", "Report", "Run", "Table", "collect", "find_runs", "made_by", "make", "tables", "write"]

_NAME = "records.jsonl"
#: How `tables.md` names the command behind tables that the records of its directory alone, without options, do not give.
_MADE = "Made by `{}`, with options or from records elsewhere"


def collect(paths: Iterable[Path]) -> tuple[list[AnyRow], list[str]]:
    """The rows of record files, and a message for each torn line that was skipped.

    A path is a ``.jsonl`` file, or a directory that is searched for files named ``records.jsonl``. A row that stands in
    two files, as in a run directory and a copy of it, counts once.

    Raises:
        InputError: if a path does not exist, cannot be read, or holds no records.
    """
    paths = list(paths)
    if not paths:
        raise InputError(
            "nothing to report on",
            got="no path",
            expected=f"a run directory or a {_NAME}",
            remedy="name the directory that `wfbench train` or `wfbench profile` wrote into, such as runs",
        )
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


def unfinished(rows: Sequence[AnyRow]) -> list[str]:
    """A message for each profile that has measurements and no cell, which no table shows."""
    finished = {row.session for row in rows if isinstance(row, records.ProfileRow)}
    measured = Counter(row.session for row in rows if isinstance(row, records.MeasurementRow) and row.session not in finished)
    return [
        f"{plural(count, 'measurement')} of a profile that was not finished stand in no table: the same `wfbench profile` "
        "command goes on where it stopped"
        for count in measured.values()
    ]


@dataclass(frozen=True, eq=False)
class Report:
    """What a report shows: the rows, what they say, and the tables of it, each made once."""

    rows: Sequence[AnyRow]
    runs: Sequence[Run]
    results: Results
    tables: Sequence[Table]


def make(
    rows: Iterable[AnyRow],
    *,
    asked: Asked | None = None,
    published: bool = False,
    timm: Sequence[TimmResults] = (),
    runs: Sequence[Run] = (),
) -> Report:
    """Analyse the rows and make the tables; the arguments are those of `write`, and results that timm has published.

    Raises:
        InputError: for recorded claims that were changed, and published results of other image sizes.
    """
    rows = list(rows)
    results = analyse(rows, asked, runs)
    return Report(rows, runs, results, [*tables_of(results, published=published), *timm_tables(timm, rows)])


def write(
    rows: Iterable[AnyRow],
    out: Path,
    torn: Sequence[str] = (),
    *,
    asked: Asked | None = None,
    published: bool = False,
    runs: Sequence[Run] = (),
) -> list[Path]:
    """Write every table as Markdown, CSV and LaTeX, the plots, ``tables.md`` with all of it, ``answers.md``, and ``page.html``.

    Files of the report before, as its ``tables.md`` names them, are removed where they are not written again: an old table
    beside new ones would be taken for one of them.

    ``tables.md`` and the page also name the environments and commands that the rows came from, and the torn lines.

    Args:
        rows: the records.
        out: the directory to write into.
        torn: messages about lines that were skipped.
        asked: what accuracies are held against.
        published: also published numbers, in tables of their own.
        runs: the run directories, for their curves and predictions.

    Returns:
        The files' paths.

    Raises:
        InputError: if a file cannot be written.
    """
    return write_made(make(rows, asked=asked, published=published, runs=runs), out, torn)


def write_made(made: Report, out: Path, torn: Sequence[str] = (), command: str = "") -> list[Path]:
    """`write` for a report that is made already, as for a terminal that shows its tables too.

    Args:
        made: the report.
        out: the directory to write into.
        torn: messages about lines that were skipped.
        command: that makes it, where it is other than what the records in ``out`` give without options; ``tables.md`` names it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = _linked(out / "tables.md") | {out / "answers.md"}
        # Beside its place, so that a full disk leaves the report before as it was.
        with part_directory(out, "report") as part:
            names = _write_all(made, part, torn, command)
            for name in names:
                os.replace(part / name, out / name)
        written = [out / name for name in names]
        for path in before - set(written):
            path.unlink(missing_ok=True)
    except OSError as e:
        raise InputError(
            "cannot write the report",
            got=f"{e.filename or out}: {e.strerror}",
            expected="a writable directory with room; the report before is as it was",
            remedy="make room, or choose another --out",
        ) from e
    return written


def _write_all(report: Report, out: Path, torn: Sequence[str], command: str) -> list[str]:
    """Write all files of a report into a new directory; their names."""
    from wfbench.report import figures
    from wfbench.report.answers import answers
    from wfbench.report.findings import findings
    from wfbench.report.page import page
    from wfbench.report.sources import sources, to_markdown

    results, made = report.results, report.tables
    found, said, shortly = sources(report.rows), answers(results), findings(results)
    names: list[str] = []
    sections = {}
    for table in made:
        (out / f"{table.name}.md").write_text(table.to_markdown(), encoding="utf-8")
        table.data.to_csv(out / f"{table.name}.csv", index=False)
        (out / f"{table.name}.tex").write_text(table.to_latex(), encoding="utf-8")
        names += [f"{table.name}.{kind}" for kind in ("md", "csv", "tex")]
        sections[table.name] = f"{table.to_markdown()}\nRaw numbers: [{table.name}.csv]({table.name}.csv)\n"
    for path, table in figures.draw(results, made, out):
        names.append(path.name)
        sections[table.name] += f"\n![{table.title}]({path.name})\n"
    parts = [
        "# Tables\n",
        *_made_section(command),
        *_torn_section(torn),
        *_unfinished_section(report.rows),
        *sections.values(),
        to_markdown(found),
    ]
    first = {
        "tables.md": "\n".join(parts),
        "page.html": page(report.rows, results, made, report.runs, found, torn, said, shortly),
        **({"answers.md": in_words(said, shortly)} if said else {}),
    }
    for name, text in first.items():
        (out / name).write_text(text, encoding="utf-8")
    return [*first, *names]


def in_words(answers: Sequence[Question], findings: Sequence[Finding]) -> str:
    """The text of ``answers.md``: first in short, then every line."""
    from wfbench.report import answers as every_line
    from wfbench.report import findings as short

    return f"{short.to_markdown(findings)}\n{every_line.to_markdown(answers)}"


def made_by(tables: Path) -> str | None:
    """The command that a ``tables.md`` names for its tables: None where the records beside it give them without options."""
    if not tables.is_file():
        return None
    found = re.search(f"^{_MADE.format('(.+)')}$", tables.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
    return None if found is None else found[1]


def _made_section(command: str) -> list[str]:
    return [_MADE.format(" ".join(command.split())) + "\n"] if command else []


def _linked(tables: Path) -> set[Path]:
    """The files that a report wrote beside its ``tables.md``, which links them: each table in three kinds, and the plots."""
    if not tables.is_file():
        return set()
    names = re.findall(r"\]\(([^()/]+)\.(csv|png)\)$", tables.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ends = {"csv": ("md", "csv", "tex"), "png": ("png",)}
    return {tables.parent / f"{stem}.{end}" for stem, kind in names for end in ends[kind]}


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix != ".jsonl":
            raise InputError(
                "not a file of records",
                got=path,
                expected=f"a .jsonl file, or a directory that holds {_NAME}",
                remedy=f"name its directory, {path.parent}",
            )
        return [path]
    if not path.exists():
        raise InputError(
            "no such file or directory",
            got=path,
            expected=f"a run directory or a {_NAME}",
            remedy="check the path, or run `wfbench train` or `wfbench profile` first",
        )

    return sorted(place / _NAME for place, names in walk(path) if _NAME in names)


def _no_records(path: Path, torn: Sequence[str]) -> InputError:
    return InputError(
        "no records to report on",
        got="; ".join([str(path), *torn]),
        expected=f"at least one row in a {_NAME}",
        remedy="name a directory that `wfbench train` or `wfbench profile` wrote into",
    )


def _unfinished_section(rows: Sequence[AnyRow]) -> list[str]:
    return [f"**{message[0].upper()}{message[1:]}.**\n" for message in unfinished(rows)]


def _torn_section(torn: Sequence[str]) -> list[str]:
    if not torn:
        return []
    lines = "\n".join(f"- `{message}`" for message in torn)
    return [f"**Some lines of the records were torn, by a writer that was killed, and are not in the tables:**\n\n{lines}\n"]
