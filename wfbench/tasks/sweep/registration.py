"""Claims are recorded before the first run, with the hash of their file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from wfbench import records
from wfbench.analysis.claims import read_claims
from wfbench.analysis.claims.registration import claims_of
from wfbench.analysis.lines import label
from wfbench.errors import InputError
from wfbench.files import walk
from wfbench.records import ClaimsRow
from wfbench.tasks.common import factors_of
from wfbench.tasks.sweep.combinations import Draft
from wfbench.tasks.sweep.request import SweepRequest


def check(path: Path, request: SweepRequest, found: Sequence[Draft]) -> None:
    """Read a file of claims, and see that the sweep makes the runs that can answer them.

    Raises:
        InputError: if it is none, or asks for lines, seeds, a recipe or a budget that the sweep does not have: claims that
            runs cannot answer would be noticed when it is too late to change them.
    """
    file = read_claims(path).file
    ours = [draft for draft in found if draft.recipe.name == file.recipe and not draft.varied]
    if not ours:
        varied = f", all with {' and '.join(request.vary)} varied, of which claims say nothing" if request.vary else ""
        has = f"recipes {', '.join(dict.fromkeys(d.recipe.name for d in found))}{varied}"
        raise _unlike(path, f"recipe {file.recipe}", has)
    names = {line_name(draft) for draft in ours}
    if missing := [name for name in file.lines if name not in names]:
        raise _unlike(path, f"the lines {', '.join(missing)}", ", ".join(sorted(names)))
    if lacking := sorted(set(file.seeds) - set(request.seeds)):
        raise _unlike(path, f"the seeds {', '.join(map(str, lacking))}", ", ".join(map(str, request.seeds)))
    trials = request.tune.trials if request.tune is not None else 0
    budget = (file.budget.epochs, file.budget.match, file.budget.trials)
    for draft in ours:
        ran = (draft.recipe.epochs, request.match, trials)
        if ran != budget:
            raise _unlike(path, "epochs {}, match {}, trials {}".format(*budget), "epochs {}, match {}, trials {}".format(*ran))


class _Line(NamedTuple):
    """What a table names a line by."""

    model: str
    mixer: str
    local_conv: str
    pos_embed: str
    every: int | None
    offset: int | None
    between: str | None
    probe: str | None


def line_name(draft: Draft) -> str:
    """The name of a draft's line in the tables, which claims use."""
    probe = draft.recipe.data.probe
    return label(_Line(draft.recipe.model.name, **factors_of(draft.config), probe=None if probe is None else probe.name))


def _unlike(path: Path, wanted: str, has: str) -> InputError:
    return InputError(
        "the claims ask for what the sweep does not run",
        got=f"{path}: {wanted}",
        expected=f"what the sweep has: {has}",
        remedy="change one of them; leave the claims out of a sweep of other lines in the same --out: they stay recorded",
    )


def record(path: Path, out: Path) -> str:
    """Add the file, its hash and the time to the sweep's records, unless it stands there; what was done, in words.

    A directory may hold one file of claims for each recipe.

    Raises:
        InputError: if the records hold another version of it, about the same recipe, and runs of that recipe have begun since.
    """
    found, into = read_claims(path), out / "records.jsonl"
    begun = _begun(out, found.file.recipe)
    rows = [row for row in (records.read(into)[0] if into.is_file() else []) if isinstance(row, ClaimsRow)]
    known = [row for row in rows if claims_of(row).file.recipe == found.file.recipe]
    same = [row for row in known if row.sha256 == found.sha256]
    if same:
        return f"claims {found.sha256[:12]}, recorded {same[0].created}"
    if known and begun:
        raise InputError(
            "the claims were changed after runs began",
            got=f"{path}: SHA-256 {found.sha256[:12]}, {begun} runs begun",
            expected=f"the file that was recorded {known[-1].created}: SHA-256 {known[-1].sha256[:12]}",
            remedy="restore the file, or sweep into another --out",
        )
    records.append(into, [ClaimsRow(environment=records.stamp(), sha256=found.sha256, text=found.text, begun=begun)])
    late = f"; {begun} runs had begun, so they are not pre-registered" if begun else ", before the first run"
    return f"claims {found.sha256[:12]} recorded{late}"


def _begun(out: Path, recipe: str) -> int:
    """How many runs of the recipe have begun, and runs that cannot be read."""
    configs = [place / "config.yaml" for place, names in walk(out) if "config.yaml" in names]
    return sum(_recipe_of(config) in (recipe, None) for config in configs)


def _recipe_of(config: Path) -> str | None:
    try:
        fields = yaml.load(config.read_text("utf-8"), yaml.CSafeLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return fields.get("name") if isinstance(fields, dict) else None
