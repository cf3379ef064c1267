"""The oldest version of each package that pyproject.toml allows, as constraints for pip; tools of development are left out."""

import re
import tomllib
from pathlib import Path

TOOLS = {"mypy", "ruff", "pre-commit", "pandas-stubs", "types-PyYAML", "pytest", "pytest-xdist", "playwright"}

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
for requirement in sorted({*project["dependencies"], *sum(project["optional-dependencies"].values(), [])}):
    found = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
    assert found, f"{requirement}: no oldest version"
    if found[1] not in TOOLS:
        print(f"{found[1]}=={found[2]}")
