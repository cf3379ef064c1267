"""Put the findings of results/ into the README: `python docs/update_readme.py`. No sentence is written by hand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The answers whose part "In short" the README shows between its marks: all of its sentences, or those that begin so.
SHOWN: dict[str, tuple[str, ...]] = {
    "results/probes/answers.md": ("Recall", "Needle", "Shift"),
    "results/profile/answers.md": ("vit-tiny",),
    "results/cifar10/answers.md": ("CIFAR-10", "Of "),
}


def with_findings(readme: str) -> str:
    """The README's text with the findings between their marks."""
    for place, begins in SHOWN.items():
        begin, end = f"<!-- begin {place} -->", f"<!-- end {place} -->"
        before, _, rest = readme.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"the README has no marks for {place}")
        readme = f"{before}{begin}\n\n{in_short(ROOT / place, begins)}\n\n{end}{after}"
    return readme


def in_short(answers: Path, begins: tuple[str, ...] = ()) -> str:
    """The sentences under "In short", as a list."""
    section = answers.read_text().partition("## In short\n\n")[2].partition("\n\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("- ") and (not begins or line[2:].startswith(begins))]
    if not lines:
        raise ValueError(f"{answers} has no such sentence in short")
    return "\n".join(lines)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_findings(path.read_text()))
