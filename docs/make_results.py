"""Put the answers of all results into docs/RESULTS.md: `python docs/make_results.py`. No sentence is written by hand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The folders of results, in the order of the questions that they answer: a heading, and the figure that shows it.
FOLDERS: dict[str, tuple[str, str]] = {
    "probes": ("Probes: what a mixer can do", "probe-recall.png"),
    "cifar10": ("CIFAR-10: accuracy, the paper's claims and the sceptic's", "accuracy.png"),
    "cifar10-strategies": ("CIFAR-10: all strategies of WeightFormer, by an earlier version", "accuracy.png"),
    "scenes": ("Scenes: dense prediction by resolution", "segmentation-sizes.png"),
    "profile": ("Profile: time by resolution", "latency.png"),
    "profile-train": ("Profile of training steps", "latency.png"),
    "dit-digits": ("Denoisers of digits", "denoising-ema.png"),
    "gpu": ("One GPU", "accuracy.png"),
}
_HEAD = """# Results

What each mixer can and cannot do, at which cost, how sure that is, and what it would take to know more. Every sentence is made
from the records in [results/](../results) by `bash results/make.sh`, which also writes this page; the tables beside them have
all numbers. Brackets and ± are 95 % intervals, of claims as their table says. These are small models and small data sets on the
machine that each table names: they show what these runs are like, and no rank on ImageNet.
"""


def document() -> str:
    """The text of docs/RESULTS.md."""
    return "\n".join([_HEAD, *(section for name in FOLDERS if (section := _section(name)))])


def _section(name: str) -> str:
    """A folder's answers under its heading; empty for one without answers."""
    folder, (title, figure) = ROOT / "results" / name, FOLDERS[name]
    if not (folder / "answers.md").is_file():
        return ""
    answers = (folder / "answers.md").read_text().replace("\n## ", "\n### ").removeprefix("## ")
    shown = f"![{title}](../results/{name}/{figure})\n\n" if (folder / figure).is_file() else ""
    links = f"[All tables](../results/{name}/tables.md), [page](../results/{name}/page.html)."
    return f"## {title}\n\n{links}\n\n{shown}### {answers}"


if __name__ == "__main__":
    (ROOT / "docs" / "RESULTS.md").write_text(document())
