"""The committed tables are what the committed records give."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from wfbench import report
from wfbench.analysis.results import analyse
from wfbench.report.answers import answers
from wfbench.report.findings import findings
from wfbench.report.tables import tables_of

RESULTS = Path(__file__).parent.parent / "results"
#: Whose comparisons of all images by bootstrap take a while.
LARGE = {"cifar10", "cifar10-strategies"}

folders = [
    pytest.param(folder, id=folder.name, marks=[pytest.mark.slow] * (folder.name in LARGE))
    for folder in sorted(RESULTS.iterdir())
    if folder.is_dir() and next(folder.rglob("records.jsonl"), None) is not None
]


@pytest.mark.sampled(12)
@pytest.mark.parametrize("folder", folders)
def test_the_records_give_the_tables(folder: Path) -> None:
    rows, torn = report.collect([folder])
    assert not torn
    results = analyse(rows, runs=report.find_runs([folder]))
    said = answers(results)
    made = {"answers.md": report.in_words(said, findings(results))} if said else {}
    for table in tables_of(results):
        made[f"{table.name}.md"] = table.to_markdown()
        made[f"{table.name}.tex"] = table.to_latex()
        made[f"{table.name}.csv"] = table.data.to_csv(index=False)
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".md", ".tex", ".csv")}
    assert set(made) == set(there) - {"tables.md"}
    for name, text in made.items():
        same = _is_same_csv(there[name], text) if name.endswith(".csv") else there[name] == text
        assert same, f"{folder.name}/{name} is not what its records give; run: bash results/make.sh {folder}"
    for name, text in made.items():
        if name.endswith(".md") and name != "answers.md":
            assert text.strip() in there["tables.md"]


def test_csv_files_may_differ_in_the_last_digits_alone() -> None:
    assert _is_same_csv("name,value\nsoftmax,0.12345678901234\n", "name,value\nsoftmax,0.12345678901235\n")
    assert not _is_same_csv("name,value\nsoftmax,0.1234567\n", "name,value\nsoftmax,0.1234568\n")
    assert not _is_same_csv("name,value\nsoftmax,0.5\n", "name,value\nlinear,0.5\n")
    assert not _is_same_csv("name,value\nsoftmax,0.5\n", "name,value\nsoftmax,0.5\nlinear,0.5\n")


def _is_same_csv(a: str, b: str) -> bool:
    """Whether two CSV files hold the same; numbers may differ by what sums in another order do to their last digits."""
    left, right = (list(csv.reader(io.StringIO(text))) for text in (a, b))
    return [len(row) for row in left] == [len(row) for row in right] and all(
        x == y or _is_same_number(x, y) for p, q in zip(left, right, strict=True) for x, y in zip(p, q, strict=True)
    )


def _is_same_number(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False
