"""What all tables are made of: the table itself, the names of lines and settings, the choice of rows, numbers in words."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import pandas as pd

from wfbench.records import Environment, Row

if TYPE_CHECKING:
    from rich.console import Group

#: The mixer that speed-ups are measured against, with the same factors.
BASELINE = "softmax"
#: What a row says of its attention backend where none was forced.
CHOSEN_BACKEND = "chosen by PyTorch"

DASH = "–"
_UNLIKE = 0.01  # p under which the spreads are said to differ: over many tables, 5% would say it too often
SMALL_SIDE = 64  # up to this image side, tables say that small images reward convolutions
REFUSED = "refused"
_LEFT_ALIGNED = frozenset(
    {
        "model",
        "mixer",
        "weights",
        "status",
        "baseline",
        "crossover",
        "backend",
        "of the bound (%)",
        "by",
        "module or operator",
        "verdict",
        "source",
        "metric",
        "extractor",
        "against",
        "claim",
        "says",
        "holds if",
        "why",
        "pre-registered",
    }
)
#: What a terminal is spared where a table has more columns than fit: the files have all.
_WIDE = 13
_FILES_ONLY = ("top-5 (%)", "backend", "GFLOPs", "elementwise (G)", "activations (M)", "bytes moved (MB)", "IQR (ms)")

R = TypeVar("R", bound=Row)
K = TypeVar("K", bound=Hashable)
N = TypeVar("N", bound="Key")
#: The cells that people read, and the raw numbers of the same line.
Line = tuple[dict[str, str], dict[str, object]]


@dataclass(frozen=True, eq=False)
class Table:
    """One table: ``frame`` holds text for people, ``data`` the same lines as raw numbers (seconds, counts, fractions).

    Where the frame is shortened, ``data`` has all lines. ``name`` is the stem of the table's files.
    """

    name: str
    title: str
    frame: pd.DataFrame
    data: pd.DataFrame
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """The title, the table and the notes as GitHub-flavoured Markdown."""
        columns = [str(column) for column in self.frame.columns]
        rules = [":---" if left_aligned(column) else "---:" for column in columns]
        body = [[_markdown(str(cell)) for cell in line] for line in self.frame.itertuples(index=False)]
        lines = ["| " + " | ".join(cells) + " |" for cells in [columns, rules, *body]]
        notes = ["", *(f"- {_markdown(note)}" for note in self.notes)] if self.notes else []
        return "\n".join([f"## {_markdown(self.title)}", "", *lines, *notes]) + "\n"

    def to_latex(self) -> str:
        """The table as LaTeX for the package booktabs, title and notes as its caption; characters are plain ASCII."""
        columns = [str(column) for column in self.frame.columns]
        rule = "".join("l" if left_aligned(column) else "r" for column in columns)
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

    def to_rich(self) -> Group:
        """The title, the table and the notes, to be printed by a Rich console; of a wide table without some columns."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        spared = [name for name in _FILES_ONLY if name in self.frame] if len(self.frame.columns) > _WIDE else []
        frame = self.frame.drop(columns=spared)
        more = [f"In the files only: {', '.join(spared)}."] if spared else []
        # Text objects, since Rich would take square brackets in a plain string for markup.
        grid = RichTable(box=box.SIMPLE_HEAD)
        for column in frame.columns:
            justify: Literal["left", "right"] = "left" if left_aligned(column) else "right"
            whole = column in ("model", "mixer") or any(" [" in str(cell) for cell in frame[column])
            grid.add_column(Text(str(column)), justify=justify, overflow="fold", no_wrap=whole)
        for line in frame.itertuples(index=False):
            grid.add_row(*(Text(str(cell)) for cell in line))
        notes = (Text(f"• {note}", style="dim") for note in (*more, *self.notes))
        return Group(Text(self.title, style="bold"), grid, *notes)


def left_aligned(column: str) -> bool:
    """Whether a column holds words rather than numbers."""
    return column in _LEFT_ALIGNED or (column.startswith("by ") and not column.endswith("(MB)"))


def make_table(
    name: str, title: str, lines: Sequence[Line], notes: Iterable[str], raw: Sequence[dict[str, object]] | None = None
) -> Table:
    """A table of the lines, whose columns stand in the order in which they come first.

    ``raw`` stands for the lines' raw numbers where these have other lines than people read.
    """
    columns = list(dict.fromkeys(column for cells, _ in lines for column in cells))
    frame = pd.DataFrame([[cells.get(column, DASH) for column in columns] for cells, _ in lines], columns=columns)
    entries = [entry for _, entry in lines] if raw is None else raw
    data = pd.DataFrame(entries)
    for column in data.columns:
        values = [entry[column] for entry in entries if entry.get(column) is not None]
        if values and all(type(value) is int for value in values):
            # One empty cell turns a column of whole numbers into floats, and the CSV would show 5717416.0.
            data[column] = data[column].astype("Int64")
    return Table(name, title, frame, data, tuple(" ".join(note.split()) for note in notes))


# --- names


class _HasFactors(Protocol):
    """What names a line: a row about a model, or the key of such rows."""

    @property
    def model(self) -> str: ...
    @property
    def mixer(self) -> str: ...
    @property
    def local_conv(self) -> str: ...
    @property
    def pos_embed(self) -> str: ...


def factors(row: _HasFactors, *, all_positions: bool = False) -> str:
    """What was chosen beside the mixer, in words: "", "DWC", "DWC, rope2d"; rows with different ones never mix.

    A position is named where it is not the model's usual one (of DiTs sincos, of weightformer-* none, of the others the
    learned one), and with ``all_positions`` wherever it is not the learned one.
    """
    usual = "sincos" if "dit-" in row.model else "none" if row.model.startswith("weightformer-") else "learned"
    named = row.pos_embed != usual or (all_positions and row.pos_embed != "learned")
    position = "no position" if row.pos_embed == "none" else row.pos_embed
    return ", ".join([*(["DWC"] if row.local_conv == "dwc" else []), *([position] if named else [])])


def label(row: _HasFactors, *, all_positions: bool = False) -> str:
    """The name of a mixer's line: "softmax", "softmax + DWC, rope2d", "softmax, patch 32", "softmax [flash]".

    Behind the factors stands the variant of the model, and in brackets the attention backend that was forced, in rows that
    have them.
    """
    chosen = ", ".join(filter(None, [factors(row, all_positions=all_positions), getattr(row, "variant", "")]))
    backend = getattr(row, "sdpa_backend", CHOSEN_BACKEND)
    forced = "" if backend == CHOSEN_BACKEND else f" [{backend}]"
    return row.mixer + (" + " if row.local_conv == "dwc" else ", " if chosen else "") + chosen + forced


class Key(Protocol):
    """What the lines of one table share: a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def sorted_keys(keys: Iterable[N]) -> list[N]:
    """The keys in order, where a field that is None comes before any value."""
    return sorted(keys, key=lambda key: [(value is not None, value) for value in key._asdict().values()])


def flat(key: Key) -> dict[str, object]:
    """The fields of a key as raw cells."""
    fields = key._asdict()
    size = fields.pop("image_size", None)
    return fields if size is None else {**fields, **height_width(size)}


def height_width(size: tuple[int, int]) -> dict[str, int]:
    """A size as raw cells."""
    return {"height": size[0], "width": size[1]}


def title_of(keys: Sequence[Key]) -> str:
    """The keys of one table in words."""
    return ", ".join(filter(None, _labels(keys)))


def suffixes(tables_keys: Sequence[Sequence[Key]]) -> list[str]:
    """One file suffix per table, made of the fields in which the tables differ; empty for a single table."""
    labels = [_labels(keys) for keys in tables_keys]
    differing = [len(set(column)) > 1 for column in zip(*labels, strict=True)]
    found: list[str] = []
    for words in labels:
        parts = [slug(word) for word, differs in zip(words, differing, strict=True) if differs]
        stem = "".join(f"-{part}" for part in parts if part)
        suffix, count = stem, 1
        while suffix in found:  # names that differ only in characters that a file name is spared
            count += 1
            suffix = f"{stem}-{count}"
        found.append(suffix)
    return found


def _labels(keys: Sequence[Key]) -> list[str]:
    """The fields of a table's key in words; where one table has several keys, all their values."""
    fields = [key._asdict() for key in keys]
    return ["/".join(dict.fromkeys(_label(name, entry[name]) for entry in fields)) for name in fields[0]]


def _label(field: str, value: object) -> str:
    """One field of a key in words; empty where the usual value needs none."""
    if value is None:
        return ""
    if field == "downsample":
        return f"latents of 1/{value} of the side" if value != 1 else ""
    if field == "compiled":
        return "compiled" if value else "not compiled"
    if field in ("tf32", "channels_last"):
        return {"tf32": "TF32", "channels_last": "channels last"}[field] if value else ""
    if field == "token_budget":
        return f"batches of {value} tokens"
    if isinstance(value, tuple):
        return f"{pixels(value)} px"
    words = {"infer": "inference", "train": "training step"} if field == "mode" else {}
    text = words.get(str(value), str(value))
    if field in ("epochs", "threads") and isinstance(value, int):
        return plural(value, field.removesuffix("s"))
    return {"recipe": f"recipe {text}", "batch": f"batch {text}", "path": f"{text} path"}.get(field, text)


def slug(text: str) -> str:
    """The text as a part of a file name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:40].rstrip("-.")


# --- rows


def group(rows: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    """The rows by key, keys and rows in the order in which they come."""
    groups: dict[K, list[R]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def latest(rows: Iterable[R], key: Callable[[R], K]) -> list[R]:
    """The newest row of each key, in the order of the keys; of rows of the same second, the last one recorded."""
    groups = group(rows, key)
    return [max(reversed(groups[name]), key=lambda row: row.created) for name in sorted(groups)]  # type: ignore[type-var]


def latest_session(sessions: Mapping[str, Sequence[Row]]) -> str:
    """The session with the newest row; of rows of the same second, the session that was recorded last."""
    return max(reversed(list(sessions)), key=lambda name: max(row.created for row in sessions[name]))


# --- notes


def refused_notes(counts: Iterable[tuple[str, float | None, str | None]]) -> list[str]:
    """Why there are no MACs, from (line, MACs, reason): one note per reason."""
    reasons: dict[str, dict[str, None]] = {}
    for mixer, count, error in counts:
        if count is None:
            reasons.setdefault(error or "no reason was recorded", {})[mixer] = None
    return [f"GMACs {REFUSED} ({', '.join(mixers)}): {reason}" for reason, mixers in reasons.items()]


def environment_notes(environments: Iterable[Environment]) -> list[str]:
    """What the environments of one table do not share, since lines that were timed differently do not compare."""
    entries = [_flat_environment(environment) for environment in environments]
    differing = {}
    for field in dict.fromkeys(field for entry in entries for field in entry):
        values = list(dict.fromkeys(entry.get(field, "none") for entry in entries))
        if len(values) > 1:
            differing[field] = values
    if not differing:
        return []
    parts = "; ".join(f"{field}: {', '.join(values)}" for field, values in differing.items())
    return [f"The lines come from different environments, so their times may not compare. {parts}."]


def _flat_environment(environment: Environment) -> dict[str, str]:
    fields = environment.model_dump(exclude={"versions"})
    return {name.replace("_", " "): str(value) for name, value in fields.items()} | environment.versions


# --- numbers in words


def pixels(size: tuple[int, int]) -> str:
    """An image size: one number for a square."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"


def gmacs(count: float | None, missing: str = REFUSED) -> str:
    """MACs (or FLOPs) in units of 10⁹."""
    return missing if count is None else number(count, 1e-9, digits=4)


def percent(fraction: float) -> str:
    """A fraction in per cent."""
    return f"{100 * fraction:.2f}"


def number(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """A number with three significant digits, and all digits before the decimal point; a dash for none."""
    if value is None:
        return DASH
    value *= scale
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def with_interval(value: float | None, low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    """A number and, in brackets, its 95% interval where there is one: "12.3 [12.1, 12.6]"; a dash for no number."""
    if value is None:
        return DASH
    return show(value) if low is None or high is None else f"{show(value)} [{show(low)}, {show(high)}]"


def spread_note(p: float | None) -> list[str]:
    """What to say where lines whose deviation is pooled do not spread alike, by Brown and Forsythe's p; else nothing."""
    if p is None or p >= _UNLIKE:
        return []
    return [
        f"The lines' spreads over seeds differ (Brown and Forsythe's p = {p:.2g}), and pooling assumes that they do not: "
        "intervals of lines that spread widely are too short, those of the others too long."
    ]


def plural(count: int, noun: str) -> str:
    """So many of a thing."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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


def _markdown(text: str) -> str:
    """Text whose characters mean nothing to Markdown; underscores inside words mean nothing already."""
    return re.sub(r"([|*])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")
