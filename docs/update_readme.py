"""Put the tables of results/demo into the README: `python docs/update_readme.py`. No number is copied by hand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- begin results/demo -->", "<!-- end results/demo -->"
TABLES = ("accuracy", "profile", "crossover")


def with_tables(readme: str) -> str:
    """The README's text with the generated tables between its two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n\n".join((ROOT / "results" / "demo" / f"{name}.md").read_text().strip() for name in TABLES)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_tables(path.read_text()))
