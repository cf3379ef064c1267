"""Put the answers of all results into docs/RESULTS.md: `python docs/make_results.py`. None of them is written by hand."""

from pathlib import Path

from wfbench.report.capability import ASKS

ROOT = Path(__file__).resolve().parent.parent
#: The folders of results, in the order of the questions that they answer: a heading, and the figure that shows it.
FOLDERS: dict[str, tuple[str, str]] = {
    "probes": ("Probes: what a mixer can do", "probe-recall.png"),
    "probes-rivals": ("Probes: rivals", "probe-majority.png"),
    "probes-zoo": ("Probes: the rest of the zoo", "probe-majority.png"),
    "probes-width": ("Probes: by the width of the model", "probe-recall.png"),
    "cifar10": ("CIFAR-10: accuracy, the paper's claims and the sceptic's", "accuracy.png"),
    "cifar10-strategies": ("CIFAR-10: all strategies of WeightFormer, by an earlier version", "accuracy.png"),
    "scenes": ("Scenes: dense prediction by resolution", "segmentation-sizes.png"),
    "profile": ("Profile: time by resolution", "latency.png"),
    "profile-rivals": ("Profile: rivals", "latency.png"),
    "profile-tokens": ("Profile with as many tokens in each call", "latency.png"),
    "profile-train": ("Profile of training steps", "latency.png"),
    "dit-digits": ("Denoisers of digits", "denoising-ema.png"),
    "gpu": ("One GPU", "accuracy.png"),
}
_HEAD = """# Results

What each mixer can and cannot do, at which cost, how sure that is, and what it would take to know more. Every sentence is made
from the records in [results/](../results) by `bash results/make.sh`, which also writes this page; the tables beside them have
all numbers. Brackets and ± are 95 % intervals, of claims as their table says. These are small models and small data sets on the
machine that each table names: they show what these runs are like, and no rank on ImageNet.

Not on this page: [results/zoo](../results/zoo/tables.md) (every mixer in small), [results/demo](../results/demo/tables.md)
(what `make demo` gives), [results/erf](../results/erf/tables.md) (receptive fields),
[results/profile-sizes](../results/profile-sizes/tables.md) (larger models and batches),
[results/predict](../results/predict/tables.md) (how far off predictions are) and [results/benchmarks](../results/benchmarks).

## How to read it

A line is a mixer with what was chosen beside it. `softmax / 3 + static`: softmax attention in one layer of three, and `static`
between. `static`: one 3×3 depthwise convolution with weights that are the same for every image, WeightFormer without anything
dynamic. `+ DWC`: a 3×3 depthwise convolution of the mixer's input is added to its output. `weightformer` predicts a Linear and
a convolution from each image; of names that begin with `wf-` the rest says what is predicted, and how.

What the probes ask ([PROBES.md](PROBES.md) has more):

{asks}
"""


def document() -> str:
    """The text of docs/RESULTS.md."""
    head = _HEAD.format(asks="\n".join(f"- {words}" for words in ASKS.values()))
    return "\n".join([head, *map(_section, FOLDERS)])


def _section(name: str) -> str:
    """A folder's answers under its heading; of one without answers, that it was not run, and the command."""
    folder, (title, figure) = ROOT / "results" / name, FOLDERS[name]
    if not (folder / "answers.md").is_file():
        how = f": `bash results/{name}/make.sh`" if (folder / "make.sh").is_file() else ""
        return f"## {title}\n\nNot yet run{how}.\n"
    answers = (folder / "answers.md").read_text().replace("\n## ", "\n### ").removeprefix("## ")
    shown = f"![{title}](../results/{name}/{figure})\n\n" if (folder / figure).is_file() else ""
    links = f"[All tables](../results/{name}/tables.md), [page](../results/{name}/page.html)."
    return f"## {title}\n\n{links}\n\n{shown}### {answers}"


if __name__ == "__main__":
    (ROOT / "docs" / "RESULTS.md").write_text(document())
