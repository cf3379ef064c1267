"""Published numbers, from ``published.yaml``: in tables of their own, one for each resolution, and marked in every column."""

from __future__ import annotations

from importlib import resources

import yaml

from wfbench.report.parts import DASH, Line, Table, make_table

_TITLES = {
    "accuracy": "Published accuracy: ImageNet-1K top-1, pretraining none",
    "fid": "Published FID: ImageNet-1K, 400K steps, cfg 1",
}
_VALUES = {"accuracy": "top-1 (%, published)", "fid": "FID (published)"}
_DIGITS = {"accuracy": 1, "fid": 2}
_NOTES = {
    "accuracy": "Other recipes and other code than the runs of this report: no line of another table compares.",
    "fid": "Reruns of DiT miss these values by up to 14: only a rerun in the same harness compares.",
}


def published_tables() -> list[Table]:
    """One table for each quantity and resolution, so that no two resolutions stand side by side."""
    known = yaml.safe_load(resources.files("wfbench.report").joinpath("published.yaml").read_text(encoding="utf-8"))
    return [
        _table(quantity, px, [entry for entry in known[quantity] if entry["px"] == px], known["sources"])
        for quantity in _TITLES
        for px in dict.fromkeys(entry["px"] for entry in known[quantity])
    ]


def _table(quantity: str, px: int, entries: list[dict[str, object]], sources: dict[str, str]) -> Table:
    lines: list[Line] = []
    for entry in sorted(entries, key=lambda entry: str(entry["model"])):
        cells = {
            "model": str(entry["model"]),
            "px": str(px),
            "params (M, published)": str(entry.get("params", DASH)),
            "GMACs (published)": str(entry.get("gmacs", DASH)),
            _VALUES[quantity]: f"{entry['value']:.{_DIGITS[quantity]}f}",
            "source": str(entry["source"]),
        }
        lines.append((cells, {**entry, "quantity": quantity, "measured": False, "source": sources[str(entry["source"])]}))
    used = dict.fromkeys(str(entry["source"]) for entry in entries)
    notes = [
        f"Every number in this table was published by others, at {px} px; none was measured here.",
        _NOTES[quantity],
        *(f"Source {name}: {sources[name]}." for name in used),
    ]
    return make_table(f"published-{quantity}-{px}", f"{_TITLES[quantity]}, {px} px", lines, notes)
