"""Identity of code: digests that tell whether two numbers were made by the same source text.

A digest depends on what the files hold and on their names inside their package, not on where the package lies.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType

#: Hexadecimal digits of a digest in a row.
DIGITS = 12


def digest_files(files: Mapping[str, Path], versions: Mapping[str, str] | None = None) -> str:
    """A digest of source files: their names (the keys) and what they hold; line ends of all systems count alike.

    Args:
        files: by names that do not depend on where they lie.
        versions: of installed packages that belong to it.
    """
    whole = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes().replace(b"\r\n", b"\n")
        whole.update(f"{name}\0{len(content)}\0".encode())
        whole.update(content)
    for package, version in sorted((versions or {}).items()):
        whole.update(f"package {package}\0{version}\0".encode())
    return whole.hexdigest()[:DIGITS]


def digest_text(text: str) -> str:
    """A digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def package_files(package: ModuleType) -> dict[str, Path]:
    """Every Python file of a package, by its path from the package's parent.

    Args:
        package: an imported package that lies in a folder.
    """
    root = Path(str(package.__file__)).parent
    return {f"{package.__name__}/{file.relative_to(root).as_posix()}": file for file in root.rglob("*.py")}


def class_files(classes: Iterable[type], libraries: Collection[str]) -> dict[str, Path] | None:
    """The source files that classes are made of: their own modules, and what these import of their own code.

    A module's own code is the top-level package that it belongs to, the ``libraries``, and the modules beside a file that
    belongs to no package. Of a subpackage, all files count. Imports are read from the source, so one inside a function
    counts as well.

    Args:
        classes: where to begin.
        libraries: names of top-level packages that are followed too, wherever the classes are from.

    Returns:
        The files by names that do not depend on their place: the file that a class stands in is "the mixer's file" where it
        belongs to no package. None if a class has no source file.
    """
    found: dict[str, Path] = {}
    for cls in classes:
        module = sys.modules.get(cls.__module__)
        file = _source(module)
        if module is None or file is None:
            return None
        if module.__spec__ is None or "." not in cls.__module__:  # a file of its own, or one that is run
            _add_file(found, module, file, libraries)
        else:
            _add_module(found, cls.__module__, {cls.__module__.partition(".")[0], *libraries})
    return found


def imported_versions(files: Mapping[str, Path], libraries: Collection[str]) -> dict[str, str]:
    """The versions of the installed packages that source files import, by distribution.

    Args:
        files: as `class_files` gives them; those of ``libraries`` are left out, and so is PyTorch, whose version every row
            names in its environment.
        libraries: names of top-level packages whose files are followed by `class_files`.
    """
    own = {name.partition("/")[0] for name in files}
    names: set[str] = set()
    for key, file in files.items():
        if key.partition("/")[0] not in libraries:
            names |= {name.partition(".")[0] for name in _imports(file, key.removesuffix(".py").replace("/", "."))}
    names -= {*own, *libraries, "torch", "wfbench", *sys.stdlib_module_names}
    if not names:
        return {}
    distributions = importlib.metadata.packages_distributions()
    return {found: importlib.metadata.version(found) for name in names for found in distributions.get(name, ())}


def _add_file(found: dict[str, Path], module: ModuleType, file: Path, libraries: Collection[str]) -> None:
    """A file that belongs to no package, and the modules beside it that it imports."""
    found["the mixer's file"] = file
    pending = [(module.__name__, file)]
    while pending:
        name, path = pending.pop()
        for other in sorted(_imports(path, name)):
            if other.partition(".")[0] in libraries:
                _add_module(found, other, libraries)
                continue
            beside = _source(sys.modules.get(other))
            if beside is None or not beside.is_relative_to(file.parent) or "site-packages" in beside.parts:
                continue
            key = beside.relative_to(file.parent).as_posix()
            if beside != file and key not in found:
                found[key] = beside
                pending.append((other, beside))


def _add_module(found: dict[str, Path], name: str, packages: Collection[str]) -> None:
    """A module of a package, and what it imports of ``packages``; of a subpackage, all modules."""
    pending = [name]
    while pending:
        current = pending.pop()
        if current.partition(".")[0] not in packages:
            continue
        file = _find(current)
        if file is None:
            continue
        key = current.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")
        if key in found:
            continue
        found[key] = file
        pending += _imports(file, current)
        package = current if file.name == "__init__.py" else current.rpartition(".")[0]
        if "." in package:
            beside = [f"{package}.{other.stem}" for other in file.parent.glob("*.py") if other.name != "__init__.py"]
            pending += [package, *beside]


def _imports(file: Path, module: str) -> frozenset[str]:
    """Names that may be modules and that a source file imports; of ``from a import b`` both ``a`` and ``a.b``."""
    return _imports_of(file.read_bytes(), module if file.name == "__init__.py" else module.rpartition(".")[0])


@functools.lru_cache(maxsize=1024)
def _imports_of(source: bytes, package: str) -> frozenset[str]:
    """The same of a source text, in a package; parsing takes longer than all else that a digest needs."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(names - {""})


def _find(name: str) -> Path | None:
    """The source file of a module that can be imported."""
    if name in sys.modules:
        return _source(sys.modules[name])
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None  # the name of something inside a module
    return Path(spec.origin) if spec is not None and spec.origin is not None and spec.origin.endswith(".py") else None


def _source(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file is not None and file.endswith(".py") and Path(file).is_file() else None
