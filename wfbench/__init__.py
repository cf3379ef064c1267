"""wfbench: which token mixer, at which resolution, on this hardware, at what accuracy, and is the difference real?

Importing it is quick: it loads neither torch nor timm. It registers its models with timm, now if timm is loaded
already, else as soon as ``timm.models`` is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence

__version__ = "0.1.0"


class _RegisterAfterTimm(importlib.abc.MetaPathFinder):
    """Lets ``import timm.models`` run as ever, then registers our models with it. Works once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "timm.models":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: types.ModuleType) -> None:
            execute(module)
            importlib.import_module("wfbench.models.timm_names")

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "timm.models" in sys.modules:
    importlib.import_module("wfbench.models.timm_names")
else:
    sys.meta_path.insert(0, _RegisterAfterTimm())
