"""Put generated tables into the README: `python docs/update_readme.py`. No number is copied by hand."""

import re
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What the README shows between its marks: a file of results, and columns of its table without the notes; None for all.
SHOWN: dict[str, tuple[str, ...] | None] = {
    "results/cifar10-strategies/claims.md": ("says", "verdict", "estimate", "power", "pre-registered"),
    "results/cifar10-strategies/accuracy.md": (
        "mixer",
        "params (M)",
        "GMACs",
        "accuracy (%, measured)",
        "seeds",
        "difference to softmax (points)",
        "verdict",
        "power at 1.00 points",
        "found in 80% from (points)",
        "train (s)",
    ),
    "results/cifar10-strategies/resolution.md": None,
    "results/demo/accuracy.md": None,
    "results/dit-digits/denoising-ema.md": None,
    "results/profile/speedup.md": None,
    "results/profile/crossover.md": None,
}


def with_tables(readme: str) -> str:
    """The README's text with the generated tables between their marks."""
    for place, columns in SHOWN.items():
        begin, end = f"<!-- begin {place} -->", f"<!-- end {place} -->"
        before, _, rest = readme.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"the README has no marks for {place}")
        title, table = (ROOT / place).read_text().strip().removeprefix("## ").split("\n", 1)
        shown = table.strip() if columns is None else with_columns(table, columns)
        readme = f"{before}{begin}\n\n**{title}**\n\n{shown}\n\n{end}{after}"
    return readme


def with_columns(text: str, columns: Collection[str]) -> str:
    """Some columns of a Markdown table, in its own order, without what stands below it."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header = cells(lines[0])
    if missing := set(columns) - set(header):
        raise ValueError(f"no column {', '.join(sorted(missing))}; there are {', '.join(header)}")
    kept = [header.index(name) for name in header if name in columns]
    return "\n".join(f"| {' | '.join(cells(line)[i] for i in kept)} |" for line in lines)


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, in which a bar may stand as \\|."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tables(path.read_text()))
