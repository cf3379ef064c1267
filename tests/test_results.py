"""The committed tables are what the committed records give."""

from __future__ import annotations

from pathlib import Path

import pytest

from wfbench import report

RESULTS = Path(__file__).parent.parent / "results"
#: Whose comparisons of all images by bootstrap take a while.
LARGE = {"cifar10"}

folders = [
    pytest.param(folder, id=folder.name, marks=[pytest.mark.slow] * (folder.name in LARGE))
    for folder in sorted(RESULTS.iterdir())
    if folder.is_dir() and next(folder.rglob("records.jsonl"), None) is not None
]


@pytest.mark.parametrize("folder", folders)
def test_the_records_give_the_tables(folder: Path) -> None:
    rows, torn = report.collect([folder])
    assert not torn
    made = {}
    for table in report.tables(rows, runs=report.find_runs([folder])):
        made[f"{table.name}.md"] = table.to_markdown()
        made[f"{table.name}.tex"] = table.to_latex()
        made[f"{table.name}.csv"] = table.data.to_csv(index=False)
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".md", ".tex", ".csv")}
    assert set(made) == set(there) - {"tables.md"}
    for name, text in made.items():
        assert there[name] == text, f"{folder.name}/{name} is not what its records give; run: bash results/make.sh {folder}"
    for name, text in made.items():
        if name.endswith(".md"):
            assert text.strip() in there["tables.md"]
