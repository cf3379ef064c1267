"""What the shell is offered for a word that is not yet whole. Nothing here imports torch: a key press waits for it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from wfbench import shipped

#: As deep below the working directory as run directories are looked for: runs/sweep/NAME.
_DEPTH = 3
#: The presets of `wfbench.models`.
MODELS = (
    *(f"{family}-{size}" for family in ("vit", "weightformer") for size in ("tiny", "small", "base")),
    *(f"dit-{size}-{patch}" for size in ("s", "b", "l", "xl") for patch in (8, 4, 2)),
    *(f"weightformer-dit-{size}-{patch}" for size in ("s", "b") for patch in (8, 4, 2)),
)
_PROBES = ("flood", "hop", "majority", "needle", "recall", "shift")


def mixers(incomplete: str) -> list[str]:
    """Names of mixers; of several with commas between, the last one's."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in _beginning(mixer_names(), last)]


def recipes(incomplete: str) -> list[str]:
    """Names of recipes, and YAML files."""
    return [*_beginning(shipped.names("recipes"), incomplete), *_files(incomplete)]


def sweeps(incomplete: str) -> list[str]:
    """Names of sweeps, and YAML files."""
    return [*_beginning(shipped.names("sweeps"), incomplete), *_files(incomplete)]


def models(incomplete: str) -> list[str]:
    """Names of presets."""
    return _beginning(MODELS, incomplete)


def probes(incomplete: str) -> list[str]:
    """Names of probes."""
    return _beginning(_PROBES, incomplete)


def runs(incomplete: str) -> list[str]:
    """Directories of runs, a few levels below the working directory."""
    return _beginning(map(str, run_directories()), incomplete)


def weights(incomplete: str) -> list[str]:
    """Directories of runs, and files of weights."""
    return [*runs(incomplete), *_files(incomplete, ".safetensors")]


def results(incomplete: str) -> list[str]:
    """Directories in runs/, those of runs, and files of records."""
    return sorted(
        {*_beginning(map(str, Path("runs").glob("*/")), incomplete), *runs(incomplete), *_files(incomplete, ".jsonl")}
    )


def anything(incomplete: str) -> list[str]:
    """All that `wfbench show` shows."""
    names = {*mixer_names(), *shipped.names("recipes"), *shipped.names("sweeps"), *MODELS}
    return [*_beginning(names, incomplete), *runs(incomplete), *_files(incomplete)]


def mixer_names() -> list[str]:
    """The registered mixers, read from the sources of `mixers`, and those of installed packages."""
    place = Path(__file__).parents[2] / "mixers"
    found = {name for file in place.glob("*.py") for name in re.findall(r'MixerSpec\(\s*name="([^"]+)"', _text(file))}
    for part, file in (("linear", "dynamic_linear.py"), ("dwc", "dynamic_conv.py")):
        strategies = re.search(r"^Strategy = Literal\[([^]]+)\]", _text(place / "weightformer" / file), flags=re.M)
        found |= {f"wf-{part}-{name}" for name in re.findall(r'"([^"]+)"', strategies[1] if strategies else "")}
    found |= {point.name for point in importlib.metadata.entry_points(group="wfbench.mixers")}
    return sorted({*found, "weightformer"})


def run_directories(root: Path | None = None) -> list[Path]:
    """Directories with the recipe of a run in them, at most three levels below ``root``, by default the working directory."""
    return sorted(_runs_below(root or Path(), _DEPTH))


def _runs_below(place: Path, depth: int) -> Iterator[Path]:
    try:
        inside = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    except OSError:
        return
    for path in inside:
        if (path / "config.yaml").is_file():
            yield path
        elif depth > 1:
            yield from _runs_below(path, depth - 1)


def _files(incomplete: str, *endings: str) -> list[str]:
    """Files of these endings, by default YAML files, and directories on the way to them."""
    place = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    try:
        found = [path for path in place.iterdir() if not path.name.startswith(".")]
    except (OSError, ValueError):
        return []
    said = [
        f"{path}/" if path.is_dir() else str(path)
        for path in found
        if path.is_dir() or path.suffix in (endings or (".yaml", ".yml"))
    ]
    return _beginning(said, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
