"""Mixers from outside: files with helper modules, importable modules, entry points that work and that do not."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import mixers
from mixers import MixerError, outside, registry
from wfbench.cli import app
from wfbench.records.identity import imported_versions
from wfbench.tasks.identity import mixer_digest

SCALE = """
from torch import nn
from helper_of_scale import FACTOR


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()

    def forward(self, x, grid):
        return FACTOR * x
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """No module and no directory of a test is left to the next one."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    sys.path[:] = path


def scale(folder: Path, factor: float = 0.5) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "helper_of_scale.py").write_text(f"FACTOR = {factor}\n")
    (folder / "scale.py").write_text(SCALE)
    return f"{folder / 'scale.py'}:Scale"


def output(name: str) -> float:
    return float(mixers.create(name, 4)(torch.ones(1, 4, 4), (2, 2)).mean())


def refused(name: str) -> str:
    with pytest.raises(MixerError) as found:
        mixers.spec(name)
    return str(found.value)


def test_modules_beside_a_file_import_and_are_imported_again_when_they_were_edited(tmp_path: Path) -> None:
    assert output(scale(tmp_path)) == 0.5
    digest = mixer_digest(scale(tmp_path))
    assert output(scale(tmp_path, 0.7)) == pytest.approx(0.7)
    assert mixer_digest(scale(tmp_path, 0.7)) != digest
    assert output(scale(tmp_path)) == 0.5
    assert mixer_digest(scale(tmp_path)) == digest


def test_a_package_beside_a_file_imports(tmp_path: Path) -> None:
    scale(tmp_path)
    (tmp_path / "helper_of_scale.py").unlink()
    (tmp_path / "helper_of_scale").mkdir()
    (tmp_path / "helper_of_scale" / "__init__.py").write_text("from helper_of_scale.inner import FACTOR\n")
    (tmp_path / "helper_of_scale" / "inner.py").write_text("FACTOR = 0.25\n")
    assert output(f"{tmp_path / 'scale.py'}:Scale") == 0.25
    (tmp_path / "helper_of_scale" / "inner.py").write_text("FACTOR = 0.75\n")
    assert output(f"{tmp_path / 'scale.py'}:Scale") == 0.75


def test_an_import_inside_a_function_finds_the_module_beside(tmp_path: Path) -> None:
    scale(tmp_path)
    line, body = "from helper_of_scale import FACTOR\n", "        return FACTOR"
    text = SCALE.replace(line, "").replace(body, f"        {line}{body}")
    (tmp_path / "scale.py").write_text(text)
    assert output(f"{tmp_path / 'scale.py'}:Scale") == 0.5


def test_two_files_with_helpers_of_one_name_are_refused_and_not_mixed_up(tmp_path: Path) -> None:
    assert output(scale(tmp_path / "a")) == 0.5
    message = refused(scale(tmp_path / "b", 0.7))
    assert "imports 'helper_of_scale'" in message
    assert "rename one of the two modules" in message
    assert output(scale(tmp_path / "a")) == 0.5


def test_a_class_of_an_importable_module_is_a_mixer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale(tmp_path / "package_of_scale")
    (tmp_path / "package_of_scale" / "__init__.py").touch()
    (tmp_path / "package_of_scale" / "scale.py").write_text(SCALE.replace("from helper_of_scale", "from .helper_of_scale"))
    monkeypatch.chdir(tmp_path)
    assert output("package_of_scale.scale:Scale") == 0.5
    assert mixer_digest("package_of_scale.scale:Scale") is not None
    done = CliRunner().invoke(app, ["train", "--mixer", "package_of_scale.scale:Scale", "--dry-run"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module_here:Scale", ["no such module", "no_such_module_here", "install its package"]),
        ("torch.nn.no_such:Scale", ["no such module", "torch.nn.no_such"]),
        ("no such file:Scale", ["no mixer file and no module", "expected path/to/file.py or package.module"]),
        ("torch.nn:functional", ["no such mixer in module 'torch.nn'", "which is an object of module"]),
        ("torch.optim:AdamW", ["'AdamW', which is the class AdamW", "expected a torch.nn.Module class"]),
        ("missing.py:Scale", ["mixer file not found", "check the path"]),
        (":Scale", ["no mixer file and no module", "got ''"]),
    ],
)
def test_a_name_that_means_nothing_says_what_would(name: str, words: list[str]) -> None:
    message = refused(name)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys\nsys.exit(0)\n", ["does not import", "SystemExit"]),
        ("def f(:\n", ["does not import", "SyntaxError"]),
        ("from .helper import x\n", ["relative import", "package.module:ClassName"]),
        ("raise RuntimeError('no GPU')\n", ["does not import", "RuntimeError: no GPU"]),
        ("x = 1\n", ["no such mixer", "one of []"]),
    ],
)
def test_a_file_that_does_not_import_is_one_message(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(text)
    message = refused(f"{tmp_path / 'bad.py'}:Scale")
    assert [word for word in words if word not in message] == [], message
    done = CliRunner().invoke(app, ["train", "--mixer", f"{tmp_path / 'bad.py'}:Scale"])
    assert done.exit_code == 2, done.output


def points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    found = [importlib.metadata.EntryPoint(name, value, outside.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(registry, "entry_points", lambda: found)


def test_an_entry_point_that_does_not_load_is_one_line_and_the_others_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, broken="no_such_package.layers:Layer", foreign="json:dumps", layer="torch.nn:Identity")
    done = CliRunner().invoke(app, ["mixers", "--json"])
    assert done.exit_code == 0, done.output
    assert '"layer"' in done.output or "Identity" in done.output
    assert '"name": "softmax"' in done.output
    assert done.stderr.count("warning: the entry point") == 2
    assert "'broken' of a package (no_such_package.layers:Layer) does not load: ModuleNotFoundError" in done.stderr
    assert "'foreign' of a package (json:dumps) is no mixer: got an object of function" in done.stderr
    assert "does not load" in refused("broken")
    assert mixers.spec("softmax").name == "softmax"


@pytest.mark.slow
def test_versions_of_the_packages_that_a_mixer_imports_are_part_of_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = scale(tmp_path)
    plain = mixer_digest(name)
    (tmp_path / "helper_of_scale.py").write_text("import timm, json, torch\n\nFACTOR = 0.5\n")
    before = mixer_digest(name)
    files = {"the mixer's file": tmp_path / "scale.py", "helper_of_scale.py": tmp_path / "helper_of_scale.py"}
    assert imported_versions(files, ("mixers",)) == {"timm": importlib.metadata.version("timm")}
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.0.1" if package == "timm" else real(package))
    assert mixer_digest(name) not in (before, plain)


def test_a_registered_mixer_has_no_versions_in_its_digest() -> None:
    from wfbench.records.identity import class_files

    for name in ("softmax", "weightformer", "fnet"):
        files = class_files(mixers.layers(name), ("mixers",))
        assert files is not None
        assert imported_versions(files, ("mixers",)) == {}
