"""What comes with the package beside its code: recipes and sweeps, found by name or by path."""

from __future__ import annotations

from pathlib import Path

from wfbench.errors import InputError, did_you_mean


def directory(kind: str) -> Path:
    """Where "recipes" or "sweeps" lie: inside the package when installed from a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / kind
    return inside if inside.is_dir() else Path(__file__).parent.parent / kind


def names(kind: str) -> list[str]:
    """The recipes, or the sweeps, that come with the package; the files of claims beside sweeps are none."""
    return sorted(path.stem for path in directory(kind).glob("*.yaml") if not path.stem.endswith("-claims"))


def find(name: str, kind: str) -> Path:
    """The file of a name; a path of a YAML file is taken as it is.

    Args:
        name: such as ``digits``, or ``mine.yaml``.
        kind: "recipes" or "sweeps".

    Raises:
        InputError: for a file that is not there, or an unknown name.
    """
    path, what = Path(name), kind.removesuffix("s")
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise InputError(f"no such {what} file", got=name, expected="a YAML file", remedy="check the path")
    known = names(kind)
    if name not in known:
        raise InputError(
            f"unknown {what}",
            got=repr(name),
            expected=f"one of {', '.join(known)}, or a path that ends in .yaml",
            remedy=did_you_mean(name, known),
        )
    return directory(kind) / f"{name}.yaml"
