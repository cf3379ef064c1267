"""Classes of mixers from outside this package: in a file, in an importable module, behind an installed entry point."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from torch import nn

from mixers.base import MixerError

ENTRY_POINTS = "wfbench.mixers"


@dataclass
class _Loaded:
    """A file that was imported: the text that it and the modules beside it had then."""

    module: ModuleType
    texts: dict[Path, str]


_LOADED: dict[Path, _Loaded] = {}


def entry_points() -> list[importlib.metadata.EntryPoint]:
    """The mixers that installed packages offer."""
    return list(importlib.metadata.entry_points(group=ENTRY_POINTS))


def load_entry_point(point: importlib.metadata.EntryPoint) -> type[nn.Module]:
    """The class behind an entry point.

    Raises:
        MixerError: if its package does not import, or it is no module class.
    """
    whose = f"the entry point {point.name!r} of {point.dist.name if point.dist is not None else 'a package'} ({point.value})"
    try:
        found = point.load()
    except (Exception, SystemExit) as e:
        raise MixerError(
            f"{whose} does not load: {type(e).__name__}",
            got=str(e) or "an error without a message",
            expected="a class that Python can import",
            remedy="mend or uninstall the package",
        ) from e
    if not _is_layer(found):
        raise MixerError(
            f"{whose} is no mixer",
            got=_kind(found),
            expected="a torch.nn.Module class",
            remedy="let the entry point name such a class, or uninstall the package",
        )
    return found


def load_class(name: str) -> type[nn.Module]:
    """The class that ``path/to/file.py:ClassName`` or ``package.module:ClassName`` names.

    A file is imported with its own directory in front of the search path, so modules beside it import; it is imported again
    when it, or one of those, was changed.

    Raises:
        MixerError: for a file, a module or a class that there is not, and for one that does not import.
    """
    where, _, class_name = name.rpartition(":")
    path = Path(where).expanduser()
    if where.endswith(".py") or path.is_file() or "/" in where:
        module, what = _file_module(where, path.resolve(), class_name), f"mixer file {where!r}"
    else:
        module, what = _importable(where, class_name), f"module {where!r}"
    found = getattr(module, class_name, None)
    if _is_layer(found):
        return found
    classes = [name for name, value in vars(module).items() if _is_layer(value)]
    raise MixerError(
        f"no such mixer in {what}",
        got=f"{class_name!r}{'' if found is None else f', which is {_kind(found)}'}",
        expected=f"a torch.nn.Module class, one of {classes}",
        remedy="write the name of a class after the colon",
    )


def _is_layer(value: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _kind(value: object) -> str:
    return f"the class {value.__qualname__}" if isinstance(value, type) else f"an object of {type(value).__name__}"


def _importable(where: str, class_name: str) -> ModuleType:
    """A module by its dotted name, from the search path or the current directory."""
    if not all(part.isidentifier() for part in where.split(".")):
        raise MixerError(
            "no mixer file and no module",
            got=f"{where!r} (before ':{class_name}')",
            expected="path/to/file.py or package.module",
            remedy="check the path",
        )
    try:
        with _searched(Path.cwd()):
            return importlib.import_module(where)
    except ModuleNotFoundError as e:
        if e.name is not None and (where == e.name or where.startswith(f"{e.name}.")):
            raise MixerError(
                "no such module",
                got=f"{where!r} (before ':{class_name}')",
                expected="one that Python can import here, or path/to/file.py",
                remedy="install its package, or name the file",
            ) from e
        raise _does_not_import(f"module {where!r}", e) from e
    except (Exception, SystemExit) as e:
        raise _does_not_import(f"module {where!r}", e) from e


def _file_module(where: str, path: Path, class_name: str) -> ModuleType:
    if not path.is_file():
        raise MixerError(
            "mixer file not found", got=repr(where), expected="a Python file", remedy=f"check the path (before ':{class_name}')"
        )
    if path.suffix != ".py":
        raise MixerError(
            "mixer file is not Python",
            got=repr(where),
            expected="a file that ends in .py",
            remedy="rename it, or name another file",
        )
    known = _LOADED.get(path)
    if known is None or any(_text(file) != text for file, text in known.texts.items()):
        if known is not None:
            _forget(_helpers(path))
        known = _LOADED[path] = _load(where, path)
    return known.module


def _load(where: str, path: Path) -> _Loaded:
    source = path.read_bytes()
    name = f"wfbench_user_mixer_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    helpers = _helpers(path)
    _refuse_clashes(where, helpers)
    texts = {file: _text(file) for file in [path, *(each for helper in helpers.values() for each in _files_of(helper))]}
    sys.modules[name] = module  # dataclasses, for one, look their module up
    try:
        # Not by the loader, whose cache of bytecode takes an edit within a second for the same text.
        with _searched(path.parent), _without_bytecode():
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as e:
        del sys.modules[name]
        raise _does_not_import(f"mixer file {where!r}", e) from e
    return _Loaded(module, texts)


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Modules that are imported meanwhile leave no cache behind, which would outlive an edit within the same second."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _does_not_import(what: str, error: BaseException) -> MixerError:
    hint = "run it with Python to see where"
    if isinstance(error, ImportError) and "relative import" in str(error):
        hint = "a file alone is in no package: import modules beside it by their names, or name it as package.module:ClassName"
    got = f"an import that raised {type(error).__name__}: {error}"
    return MixerError(f"{what} does not import", got=got, expected="one that Python imports without an error", remedy=hint)


@contextmanager
def _searched(directory: Path) -> Iterator[None]:
    """With a directory in front of the search path; afterwards it stays at its end, for imports inside functions."""
    before = list(sys.path)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path[:] = before if str(directory) in before else [*before, str(directory)]


def _refuse_clashes(where: str, helpers: Mapping[str, Path]) -> None:
    """Refuse modules beside the file of whose names another directory's were imported: they would be those."""
    for name, own in helpers.items():
        known = getattr(sys.modules.get(name), "__file__", None)
        if known is not None and Path(known).resolve() != own:
            raise MixerError(
                f"mixer file {where!r} imports {name!r}",
                got=f"{known}, which was imported before",
                expected=own,
                remedy="rename one of the two modules",
            )


def _helpers(path: Path) -> dict[str, Path]:
    """The modules beside a file that it imports, and those that they import, by name; of a package the file __init__.py."""
    found: dict[str, Path] = {}
    pending = [path]
    while pending:
        for name in sorted(_imported_names(pending.pop())):
            choices = (path.parent / name / "__init__.py", path.parent / f"{name}.py")
            file = next((file for file in choices if file.is_file()), None)
            if file is not None and file != path and name not in found:
                found[name] = file
                pending += _files_of(file)
    return found


def _files_of(module: Path) -> list[Path]:
    """The files of a module, or of a package."""
    return sorted(module.parent.rglob("*.py")) if module.name == "__init__.py" else [module]


def _imported_names(file: Path) -> set[str]:
    """The top-level modules that a source file imports; none of a file that does not parse, of which importing speaks."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.partition(".")[0])
    return names - {"mixers", "wfbench"}


def _forget(helpers: Iterable[str]) -> None:
    """Let modules be imported again, with their submodules."""
    for name in list(sys.modules):
        if name.partition(".")[0] in helpers:
            del sys.modules[name]


def _text(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""
