"""Put generated tables into the README: `python docs/update_readme.py`. No number is copied by hand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Directory of results, and which of its tables the README shows between its marks.
SHOWN = {
    "results/cifar10": ("accuracy", "resolution"),
    "results/demo": ("accuracy",),
    "results/dit-digits": ("denoising-ema",),
    "results/profile": ("speedup", "crossover"),
}


def with_tables(readme: str) -> str:
    """The README's text with the generated tables between their marks."""
    for place, names in SHOWN.items():
        begin, end = f"<!-- begin {place} -->", f"<!-- end {place} -->"
        before, _, rest = readme.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"the README has no marks for {place}")
        tables = "\n\n".join((ROOT / place / f"{name}.md").read_text().strip() for name in names)
        readme = f"{before}{begin}\n\n{tables}\n\n{end}{after}"
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tables(path.read_text()))
