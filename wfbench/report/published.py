"""Published numbers, from ``published.yaml``: in tables of their own, one for each resolution, and marked in every column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import yaml

from wfbench.report.columns import Column, Table, make_table

_TITLES = {
    "accuracy": "Published accuracy: ImageNet-1K top-1, pretraining none",
    "fid": "Published FID: ImageNet-1K, 400K steps, cfg 1",
}
_VALUES = {"accuracy": "top-1 (%, published)", "fid": "FID (published)"}
_WHY_NONE = "published without one"
_DIGITS = {"accuracy": 1, "fid": 2}
_NOTES = {
    "accuracy": "Other recipes and other code than the runs of this report: no line of another table compares.",
    "fid": "Reruns of DiT miss these values by up to 14: only a rerun in the same harness compares.",
}


@dataclass(frozen=True)
class _Entry:
    """One published number: the short name of its source, and all that the CSV says of it."""

    source: str
    facts: dict[str, object]


def published_tables() -> list[Table]:
    """One table for each quantity and resolution, so that no two resolutions stand side by side."""
    known = yaml.safe_load(resources.files("wfbench.report").joinpath("published.yaml").read_text(encoding="utf-8"))
    return [
        _table(quantity, px, [entry for entry in known[quantity] if entry["px"] == px], known["sources"])
        for quantity in _TITLES
        for px in dict.fromkeys(entry["px"] for entry in known[quantity])
    ]


def _table(quantity: str, px: int, entries: list[dict[str, object]], sources: dict[str, str]) -> Table:
    lines: list[_Entry] = []
    for entry in sorted(entries, key=lambda entry: str(entry["model"])):
        facts = {**entry, "quantity": quantity, "measured": False, "source": sources[str(entry["source"])]}
        lines.append(_Entry(str(entry["source"]), facts))
    used = dict.fromkeys(str(entry["source"]) for entry in entries)
    notes = [
        f"Every number in this table was published by others, at {px} px; none was measured here.",
        _NOTES[quantity],
        *(f"Source {name}: {sources[name]}." for name in used),
    ]
    name, title = f"published-{quantity}-{px}", f"{_TITLES[quantity]}, {px} px"
    return make_table("published", name, title, _columns(quantity, lines), lines, notes, order=_order(quantity))


def _columns(quantity: str, lines: Sequence[_Entry]) -> list[Column[_Entry]]:
    """The facts that the entries have, as they come first."""
    headings = {"model": "model", "px": "px", "params": "params (M, published)", "gmacs": "GMACs (published)"}
    keys = dict.fromkeys(key for line in lines for key in line.facts)
    columns = [_fact(key, headings.get(key, "")) for key in keys]
    for key, heading in headings.items():
        if key not in keys:
            columns.append(Column("", lambda line: None, heading))
    digits = _DIGITS[quantity]
    value = Column[_Entry](
        "",
        lambda line: line.facts["value"],
        _VALUES[quantity],
        lambda value: f"{value:.{digits}f}",
        ranks=quantity == "fid",
        why_none=_WHY_NONE,
    )
    return [*columns, value, Column("", lambda line: line.source, "source", words=True)]


def _fact(key: str, heading: str) -> Column[_Entry]:
    return Column(
        key, lambda line: line.facts.get(key), heading, words=key == "model", why_none=_WHY_NONE if key == "value" else ""
    )


def _order(quantity: str) -> tuple[str, ...]:
    return "model", "px", "params (M, published)", "GMACs (published)", _VALUES[quantity], "source"
