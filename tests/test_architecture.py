from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import run_python

ROOT = Path(__file__).parent.parent
LEAVES = {"errors", "files", "forkserver", "locks", "recipe", "records", "shipped", "signals", "strict"}
SIBLINGS = {"data", "training", "diffusion", "measure"}
#: Of measure, what analysis may import: pure functions of numbers.
PURE = ("wfbench.measure.scaling", "wfbench.measure.rounds")

#: What each room may import beside itself and the bare package (its version).
MAY_IMPORT: dict[str, set[str]] = {
    "mixers": set(),
    "errors": set(),
    "files": {"errors"},
    "forkserver": set(),
    "locks": {"errors"},
    "signals": set(),
    "strict": {"errors", "files"},
    "shipped": {"errors"},
    "recipe": {"errors", "shipped", "strict"},
    "records": {"errors", "files"},
    "analysis": {"errors", "records", "strict", "measure"},
    "report": {"errors", "files", "records", "analysis", "strict"},
    "models": {"mixers", *LEAVES},
    **{room: {"mixers", "models", *LEAVES} for room in SIBLINGS},
    "tasks": {"mixers", "models", "analysis", *LEAVES, *SIBLINGS},
    "cli": {"mixers", "models", "analysis", "report", "tasks", *LEAVES, *SIBLINGS},
    "__init__": {"models"},
    "__main__": {"cli"},
}


def imported(source: str, module: str, package: bool = False) -> Iterator[str]:
    """Every module of the project that a source imports, at the top or inside a function, by whichever way."""
    inside = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = inside[: len(inside) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            found = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        else:
            continue
        yield from (name for name in found if name.split(".")[0] in ("mixers", "wfbench"))


def room_of(module: str) -> str:
    """The room of a dotted name: of wfbench the second part, unless that is a name inside the package file itself."""
    top, _, rest = module.partition(".")
    if top == "mixers":
        return "mixers"
    first = rest.partition(".")[0]
    is_room = first in MAY_IMPORT or (ROOT / "wfbench" / first).is_dir() or (ROOT / "wfbench" / f"{first}.py").is_file()
    return first if first and is_room else "wfbench"


def modules() -> list[tuple[str, Path]]:
    files = [file for top in ("mixers", "wfbench") for file in sorted((ROOT / top).rglob("*.py"))]
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts), file) for file in files]


def trespasses(source: str, module: str) -> list[str]:
    """Imports that run against the arrows."""
    room = room_of(module)
    allowed = MAY_IMPORT[room] | {room} | ({"wfbench"} if room != "mixers" else set())
    name = module.removesuffix(".__init__")
    others = list(imported(source, name, name != module))
    found = [f"{module} imports {other}" for other in others if room_of(other) not in allowed]
    if room == "analysis":
        found += [f"{module} imports {other}" for other in others if room_of(other) == "measure" and not other.startswith(PURE)]
    return found


def acquaintances(source: str, module: str) -> list[str]:
    """Imports of one mixer by another."""
    own = module.split(".")[1]
    core = ("base", "options", "registry", *(("outside",) if own == "registry" else ()))
    name = module.removesuffix(".__init__")
    return [
        f"{module} imports {other}"
        for other in imported(source, name, name != module)
        if (other.split(".") + [""])[1] not in (*core, own)
    ]


@pytest.mark.parametrize(("module", "file"), modules(), ids=[name for name, _ in modules()])
def test_imports_run_one_way(module: str, file: Path) -> None:
    assert trespasses(file.read_text(), module) == []


MIXER_FILES = [(name, file) for name, file in modules() if name.startswith("mixers.") and name.split(".")[1] != "__init__"]


@pytest.mark.parametrize(("module", "file"), MIXER_FILES, ids=[name for name, _ in MIXER_FILES])
def test_mixers_do_not_import_one_another(module: str, file: Path) -> None:
    assert acquaintances(file.read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mixers.softmax", "import wfbench"),
        ("mixers.base", "def f():\n    from wfbench.errors import InputError"),
        ("wfbench.models.vit", "from wfbench.training import TrainState"),
        ("wfbench.models.vit", "from ..measure import count_flops"),
        ("wfbench.models.__init__", "from ..measure import count_flops"),
        ("wfbench.training.loop", "from wfbench import data"),
        ("wfbench.data.sources", "import wfbench.training.state as s"),
        ("wfbench.data.latents", "from wfbench.diffusion import q_sample"),
        ("wfbench.diffusion.objective", "from wfbench.training import TrainState"),
        ("wfbench.diffusion.sampling", "from wfbench.data.codecs import Codec"),
        ("wfbench.diffusion.scores", "from ..measure import count_flops"),
        ("wfbench.models.dit", "from wfbench.diffusion import STEPS"),
        ("wfbench.measure.latency", "import importlib\nimportlib.import_module('wfbench.tasks.profile')"),
        ("wfbench.tasks.jobs.classify", "from wfbench.cli import main"),
        ("wfbench.report.tables", "from wfbench.recipe import Recipe"),
        ("wfbench.tasks.erf", "from wfbench.report.erf import encode"),
        ("wfbench.analysis.lines", "from wfbench.report.words import plural"),
        ("wfbench.analysis.cells", "from wfbench.measure import count_flops"),
        ("wfbench.analysis.cells", "from wfbench.measure.latency import measure_latency"),
        ("wfbench.records.row", "from wfbench.analysis.lines import label"),
        ("wfbench.recipe", "from wfbench.records import Row"),
        ("wfbench.errors", "from mixers import MixerError"),
    ],
)
def test_an_import_against_the_arrows_is_seen_red(module: str, source: str) -> None:
    assert len(trespasses(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mixers.softmax", "from mixers.linear import LinearAttention"),
        ("mixers.softmax", "from mixers import linear"),
        ("mixers.weightformer.dynamic_conv", "from ..static import DepthwiseConv"),
        ("mixers.base", "from mixers import create"),
    ],
)
def test_a_mixer_that_imports_another_is_seen_red(module: str, source: str) -> None:
    assert len(acquaintances(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mixers.weightformer.dynamic_conv", "from mixers.weightformer.common import check_dynamic_grid"),
        ("mixers.weightformer.__init__", "from .common import check_dynamic_grid"),
        ("mixers.softmax", "from mixers import base"),
        ("wfbench.models.vit", "import torch, mixers\nfrom .skeleton import Block"),
        ("wfbench.tasks.jobs.classify", "from wfbench import __version__, data, training"),
        ("wfbench.diffusion.sampling", "from wfbench.models import DiT"),
        ("wfbench.cli.main", "from wfbench.tasks.jobs.classify import train"),
    ],
)
def test_an_import_along_the_arrows_is_left_alone(module: str, source: str) -> None:
    assert trespasses(source, module) == []
    assert not module.startswith("mixers") or acquaintances(source, module) == []


def test_mixers_import_neither_the_bench_nor_timm() -> None:
    code = "import sys, mixers; mixers.create('weightformer', 8); print(sorted({'wfbench', 'timm'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


def test_importing_the_bench_imports_neither_torch_nor_timm() -> None:
    code = "import sys, wfbench, wfbench.errors, wfbench.recipe; print(sorted({'torch', 'timm'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"
