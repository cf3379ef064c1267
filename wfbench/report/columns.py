"""A table, and the columns that it is made of: each is declared once, for Markdown, CSV, LaTeX, terminal and page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pandas as pd

from wfbench.analysis.interval import Interval
from wfbench.records import SCHEDULE
from wfbench.report.words import DASH

if TYPE_CHECKING:
    from rich.console import Group

L = TypeVar("L")
#: A terminal shows a table with more columns than this without those that are ``files_only``.
_WIDE = 13


@dataclass(frozen=True)
class Column(Generic[L]):
    """One column: what it holds for a line of type ``L``, what it is called, and how it is shown.

    Attributes:
        key: its name in the CSV; "" for a column that only people read.
        value: the raw value of a line: a number in seconds, counts or fractions, a word, an `Interval`, or None where the
            line has none. A column that only people read may hold anything that ``show`` takes.
        heading: what people read above it, with the unit; "" for a column of the CSV alone.
        show: the value in words, for people; a value that is None is a dash.
        ends: the names in the CSV of the two ends of an interval; given where ``value`` is an `Interval`.
        words: whether it holds words, which stand on the left, rather than numbers.
        ranks: whether lines are ranked by it: on the page, a line of a single seed never is.
        optional: whether people do not see it where every cell is a dash.
        files_only: whether a terminal that has little room leaves it out.
        sparse: whether the CSV leaves it out where no line has a value.
        why_none: of measured numbers that have no interval, the reason; a note says so below every table that has some.
        mark: what follows a line's value, for people alone.
    """

    key: str
    value: Callable[[L], Any]
    heading: str = ""
    show: Callable[[Any], str] = str
    ends: tuple[str, str] | None = None
    words: bool = False
    ranks: bool = False
    optional: bool = False
    files_only: bool = False
    sparse: bool = False
    why_none: str = ""
    mark: Callable[[L], str] = field(default=lambda line: "")

    def cell(self, line: L) -> str:
        """What people read for a line."""
        value = self.value(line)
        return DASH if value is None else self.show(value) + self.mark(line)

    def raw(self, line: L) -> dict[str, object]:
        """What the CSV holds for a line, by the names of its columns."""
        value = self.value(line)
        if self.ends is None:
            assert not isinstance(value, Interval) or value.low is None, f"{self.key} names no ends for its interval"
            return {self.key: value.estimate if isinstance(value, Interval) else value}
        assert value is None or isinstance(value, Interval), f"{self.key} has two ends, and holds {type(value).__name__}"
        if value is None:
            return dict.fromkeys((self.key, *self.ends))
        return {self.key: value.estimate, self.ends[0]: value.low, self.ends[1]: value.high}


def constant_columns(values: Mapping[str, object]) -> list[Column[Any]]:
    """A column of the CSV for each of the values that all lines of a table share."""

    def constant(key: str, value: object) -> Column[Any]:
        return Column(key, lambda line: value)

    return [constant(key, value) for key, value in values.items()]


def schedule_columns(of: Callable[[L], Any]) -> list[Column[L]]:
    """The columns of the CSV that say which layers carry a line's mixer, and what fills the others.

    Args:
        of: from a line to what has ``every``, ``offset`` and ``between``, as rows have them.
    """

    def column(field: str) -> Column[L]:
        return Column(field, lambda line: getattr(of(line), field), sparse=True)

    return [column(field) for field in SCHEDULE]


def sureness_columns(of: Callable[[L], Any]) -> list[Column[L]]:
    """The columns of the CSV that say of a line's MACs what is less than proved.

    Args:
        of: from a line to the row that has its MACs.
    """

    def sure(line: L) -> str | None:
        return None if of(line).macs_sure == "proved" else of(line).macs_sure

    return [Column("macs_sure", sure, sparse=True), Column("macs_at_least", lambda line: of(line).macs_at_least, sparse=True)]


def interval_ends(key: str) -> tuple[str, str]:
    """The usual names of an interval's ends in the CSV: x_low and x_high."""
    return f"{key}_low", f"{key}_high"


@dataclass(frozen=True, eq=False)
class Table:
    """One table: ``frame`` holds text for people, ``data`` raw numbers (seconds, counts, fractions) for the CSV.

    Attributes:
        name: the stem of the table's files.
        title: what stands above it.
        frame: the text, a column for each heading.
        data: the raw numbers; it may have other lines than the text, such as one for each seed.
        notes: what stands below it.
        kind: what the table is about, such as "accuracy": its place on the page, and what is drawn from the same results.
        words: the headings whose column holds words.
        ranks: the headings by which lines are ranked.
        files_only: the headings that a terminal with little room leaves out.
        result: what the table shows, for the figures and charts that show the same.
        parts: the columns with their lines; where the CSV has other lines than people read, those of the CSV too.
    """

    name: str
    title: str
    frame: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()
    kind: str = ""
    words: frozenset[str] = frozenset()
    ranks: frozenset[str] = frozenset()
    files_only: tuple[str, ...] = ()
    result: object = None
    parts: tuple[tuple[Sequence[Column[Any]], Sequence[Any]], ...] = ()

    def to_markdown(self) -> str:
        """The title, the table and the notes as GitHub-flavoured Markdown."""
        columns = [str(column) for column in self.frame.columns]
        rules = [":---" if column in self.words else "---:" for column in columns]
        body = [[escape_markdown(str(cell)) for cell in line] for line in self.frame.itertuples(index=False)]
        lines = ["| " + " | ".join(cells) + " |" for cells in [columns, rules, *body]]
        notes = ["", *(f"- {escape_markdown(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([f"## {escape_markdown(self.title)}", "", *lines, *notes]) + "\n"

    def to_latex(self) -> str:
        """The table as LaTeX for the package booktabs, title and notes as its caption; characters are plain ASCII."""
        columns = [str(column) for column in self.frame.columns]
        rule = "".join("l" if column in self.words else "r" for column in columns)
        body = [" & ".join(map(_latex, cells)) + r" \\" for cells in [columns, *self.frame.astype(str).values.tolist()]]
        notes = "".join(f"\n  {_latex(note)}" for note in self.notes)
        return (
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{_latex(self.title)}.{notes}}}",
                    rf"\label{{tab:{self.name}}}",
                    rf"\begin{{tabular}}{{{rule}}}",
                    r"\toprule",
                    body[0],
                    r"\midrule",
                    *body[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                    r"\end{table}",
                ]
            )
            + "\n"
        )

    def only(self, headings: Sequence[str]) -> Table:
        """The text of some columns, without the notes."""
        return replace(self, frame=self.frame[list(headings)], notes=())

    def to_rich(self) -> Group:
        """The title, the table and the notes, to be printed by a Rich console; of a wide table without some columns."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        spared = list(self.files_only) if len(self.frame.columns) > _WIDE else []
        frame = self.frame.drop(columns=spared)
        more = [f"In the files only: {', '.join(spared)}."] if spared else []
        # Text objects, since Rich would take square brackets in a plain string for markup.
        grid = RichTable(box=box.SIMPLE_HEAD)
        for column in frame.columns:
            justify: Literal["left", "right"] = "left" if column in self.words else "right"
            whole = column in ("model", "mixer") or any(" [" in str(cell) for cell in frame[column])
            grid.add_column(Text(str(column)), justify=justify, overflow="fold", no_wrap=whole)
        for line in frame.itertuples(index=False):
            grid.add_row(*(Text(str(cell)) for cell in line))
        notes = (Text(f"• {note}", style="dim") for note in (*more, *self.notes))
        return Group(Text(self.title, style="bold"), grid, *notes)


def make_table(
    kind: str,
    name: str,
    title: str,
    columns: Sequence[Column[L]],
    lines: Sequence[L],
    notes: Iterable[str],
    *,
    order: Sequence[str] | None = None,
    raw: tuple[Sequence[Column[Any]], Sequence[Any]] | None = None,
) -> Table:
    """A table of the lines.

    Args:
        kind: what it is about.
        name: the stem of its files.
        title: what stands above it.
        columns: in the order of the CSV.
        lines: the results, one for each line of the table.
        notes: what stands below it.
        order: the headings in the order in which people read them, where that is another one; headings that no column has
            are passed over, so that one order serves tables with other optional columns.
        raw: columns and lines of the CSV, where it has other ones than people read.
    """
    headed = {column.heading: column for column in columns if column.heading}
    shown = list(headed.values()) if order is None else [headed[heading] for heading in order if heading in headed]
    cells = {column.heading: [column.cell(line) for line in lines] for column in shown}
    cells = {
        heading: found
        for heading, found in cells.items()
        if not headed[heading].optional or any(cell != DASH for cell in found)
    }
    raw_columns, raw_lines = raw or ([column for column in columns if column.key], lines)
    ours = {heading: headed[heading] for heading in cells}
    parts = ((columns, lines), *(() if raw is None else (raw,)))
    notes = [*notes, *_bare_notes(parts)]
    return Table(
        name,
        title,
        pd.DataFrame(cells),
        raw_frame(raw_columns, raw_lines),
        tuple(" ".join(note.split()) for note in notes),
        kind,
        frozenset(heading for heading, column in ours.items() if column.words),
        frozenset(heading for heading, column in ours.items() if column.ranks),
        tuple(heading for heading, column in ours.items() if column.files_only),
        parts=parts,
    )


def _bare_notes(parts: Iterable[tuple[Sequence[Column[Any]], Sequence[Any]]]) -> list[str]:
    """Why columns of measured numbers have no intervals: by what people read above them, or else by their names in the CSV."""
    reasons: dict[str, list[tuple[Column[Any], list[object]]]] = {}
    for columns, lines in parts:
        for column in columns:
            if not column.why_none or not (column.key or column.heading):
                continue
            if values := [value for line in lines if (value := column.value(line)) is not None]:
                reasons.setdefault(column.why_none, []).append((column, values))
    notes = []
    for why, found in reasons.items():
        headings = dict.fromkeys(f"“{column.heading}”" for column, _ in found if column.heading)
        names = headings or dict.fromkeys(column.key for column, _ in found)
        if any(isinstance(value, (int, float)) for _, values in found for value in values):
            notes.append(f"No interval of {', '.join(names)}: {why}.")
    return notes


def raw_frame(columns: Sequence[Column[L]], lines: Sequence[L]) -> pd.DataFrame:
    """The CSV of lines: columns of whole numbers stay whole where a line has none, sparse ones are left out where all have."""
    columns = [column for column in columns if not column.sparse or any(column.value(line) is not None for line in lines)]
    entries = [{key: value for column in columns for key, value in column.raw(line).items()} for line in lines]
    names = [name for column in columns for name in ((column.key, *column.ends) if column.ends else (column.key,))]
    data = pd.DataFrame(entries, columns=names)
    for column in data.columns:
        values = [entry[column] for entry in entries if entry.get(column) is not None]
        if values and all(type(value) is int for value in values):
            # One empty cell turns a column of whole numbers into floats, and the CSV would show 5717416.0.
            data[column] = data[column].astype("Int64")
    return data


#: What a table may hold beside ASCII, and the characters that LaTeX reads as commands.
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"},
    **{"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "–": "--", "≥": r"$\ge$", "≤": r"$\le$", "†": r"\dag{}", "·": r"$\cdot$"},
    **{"²": "$^2$", "⁹": "$^9$", "⁶": "$^6$", "₀": "$_0$", "₂": "$_2$", "∝": r"$\propto$", "√": r"$\surd$", "α": r"$\alpha$"},
    **{"“": "``", "”": "''", "’": "'", "…": r"\ldots{}", "\u00a0": "~", "→": r"$\to$", "ε": r"$\epsilon$", "≈": r"$\approx$"},
}


def _latex(text: str) -> str:
    """Text for LaTeX, in ASCII: a letter with an accent that stands for no symbol loses it."""
    known = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return unicodedata.normalize("NFKD", known).encode("ascii", "ignore").decode()


def escape_markdown(text: str) -> str:
    """Text whose characters mean nothing to Markdown; underscores inside words mean nothing already."""
    return re.sub(r"([|*])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")
